//! How a user names what is to be looked at (DESIGN 4.1).

use crate::Error;
use crate::kvm::machine::normal_uuid;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A VM of this host, or a memory image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The VM's name.
    Name(String),
    /// The VMM's host process id: `pid:N`.
    Pid(u32),
    /// The VM's UUID, lower case with hyphens: `uuid:U`.
    Uuid(String),
    /// A Xen domain id: `xen:DOMID`.
    Xen(u32),
    /// A text or attribute of the metadata that libvirt has of the VM, or its `title`: `metadata:instance/name=web-1`.
    Metadata {
        /// As in [`facts::Metadata`].
        key: String,
        /// The whole of its text.
        value: String,
    },
    /// A memory image: a text with a `/` in it, or the name of a file.
    Image(PathBuf),
}

impl FromStr for Target {
    type Err = Error;

    /// Parses a target. Asks the file system whether a bare word is a file.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why| Error::TargetSyntax { text: text.chars().take(200).collect(), why };
        if let Some(pid) = text.strip_prefix("pid:") {
            return pid
                .parse()
                .ok()
                .filter(|&pid| pid > 0)
                .map(Self::Pid)
                .ok_or_else(|| bad("a process id is a number above 0"));
        }
        if let Some(uuid) = text.strip_prefix("uuid:") {
            return normal_uuid(uuid).map(Self::Uuid).ok_or_else(|| bad("a UUID has 32 hexadecimal digits"));
        }
        if let Some(domid) = text.strip_prefix("xen:") {
            return domid.parse().map(Self::Xen).map_err(|_| bad("a domain id is a number"));
        }
        if let Some(metadata) = text.strip_prefix("metadata:") {
            let parts = metadata.split_once('=').filter(|(key, value)| !key.is_empty() && !value.is_empty());
            let (key, value) = parts.ok_or_else(|| bad("metadata is KEY=VALUE"))?;
            return Ok(Self::Metadata { key: key.to_owned(), value: value.to_owned() });
        }
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if text.contains('/') || Path::new(text).is_file() {
            return Ok(Self::Image(PathBuf::from(text)));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
            Self::Uuid(uuid) => write!(f, "uuid:{uuid}"),
            Self::Xen(domid) => write!(f, "xen:{domid}"),
            Self::Metadata { key, value } => write!(f, "metadata:{key}={value}"),
            Self::Image(path) => path.display().fmt(f),
        }
    }
}
