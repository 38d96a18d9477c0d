//! Finds and enters the network namespace that a device lives in.
//!
//! `/proc/PID/ns/net` names a namespace only as long as that process lives, and afterwards may name another one. So a
//! [`Place`] also holds the namespace's inode, which is checked on the opened descriptor, never on the path; when the
//! path has come to mean something else, the namespace is looked for among the mounted ones and those of the running
//! processes. The device's index is held as well: a device of the same name that was made later may belong to another VM.
//! A namespace is entered by a thread of its own (`setns` acts on one thread), which then ends.

use crate::{Error, InterfaceName};
use facts::Nic;
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most processes looked at to find a namespace again.
const MAX_PROCESSES: usize = 65_536;

/// Where a device is: its name and its network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Name of the device.
    pub interface: InterfaceName,
    /// Index of the device in its namespace (`ip link`): another device of the same name has another one.
    pub index: u32,
    /// Path by which the namespace was found.
    pub namespace: String,
    /// Inode number of the namespace (`stat -L`), unique among the namespaces that exist.
    pub inode: u64,
}

impl Place {
    /// Checks the device's name, and records which namespace and which device `nic` names now.
    pub fn of(nic: &Nic) -> Result<Self, Error> {
        let interface = InterfaceName::new(&nic.interface)?;
        let (_, inode) = open(Path::new(&nic.namespace))
            .map_err(|source| Error::Namespace { namespace: nic.namespace.clone(), source })?;
        let mut place = Self { interface, index: 0, namespace: nic.namespace.clone(), inode };
        place.index = inside(&place, || index_of(&place.interface).ok_or_else(|| place.absent()))?;
        Ok(place)
    }

    /// The error that says that the device is not there.
    pub(crate) fn absent(&self) -> Error {
        Error::DeviceAbsent { interface: self.interface.to_string(), namespace: self.namespace.clone() }
    }

    /// Whether the current thread's namespace still has the device, not one made later under the same name.
    pub(crate) fn is_present(&self) -> bool {
        index_of(&self.interface) == Some(self.index)
    }
}

/// Index of a device of the current thread's namespace; `None` when there is none of that name.
fn index_of(interface: &InterfaceName) -> Option<u32> {
    nix::net::if_::if_nametoindex(interface.as_str()).ok()
}

/// Opens a namespace and tells its inode.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let inode = file.metadata()?.ino();
    Ok((file, inode))
}

/// Opens the namespace with the given inode: by `path` if that still leads there, else by any other way.
fn find(path: &str, inode: u64) -> Result<File, Error> {
    match open(Path::new(path)) {
        Ok((file, found)) if found == inode => return Ok(file),
        Ok(_) => {}
        Err(source) if source.kind() == io::ErrorKind::NotFound => {}
        Err(source) if source.raw_os_error() == Some(nix::libc::ESRCH) => {}
        Err(source) => return Err(Error::Namespace { namespace: path.to_owned(), source }),
    }
    let elsewhere = [PathBuf::from("/proc/self/ns/net"), PathBuf::from("/proc/1/ns/net")].into_iter();
    let mounted = entries("/run/netns").chain(entries("/var/run/netns"));
    let processes = entries("/proc").take(MAX_PROCESSES).map(|process| process.join("ns/net"));
    elsewhere
        .chain(mounted)
        .chain(processes)
        .filter_map(|candidate| open(&candidate).ok())
        .find_map(|(file, found)| (found == inode).then_some(file))
        .ok_or_else(|| Error::NamespaceGone { namespace: path.to_owned(), inode })
}

/// Paths in a directory; none when it cannot be read.
fn entries(directory: &str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Runs `work` inside the namespace of `place`. Processes that it starts are inside too.
pub(crate) fn inside<T: Send>(
    place: &Place,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let namespace = find(&place.namespace, place.inode)?;
    let own = open(Path::new("/proc/thread-self/ns/net")).is_ok_and(|(_, inode)| inode == place.inode);
    if own {
        return work();
    }
    let done = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Namespace {
                    namespace: place.namespace.clone(),
                    source: errno.into(),
                })?;
                work()
            })
            .join()
    });
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
