//! What a profile command is about: a file, a stored profile by its release or digest, or a VM.
//!
//! A file goes before a stored profile before a VM; `./name`, `sha256:…` and `pid:N` say which is meant.

use crate::files;
use crate::guest::Guest;
use crate::profiles;
use anyhow::{Context, bail};
use guest_profiles::linux::WANTED;
use guest_profiles::{Profile, Stored, isf, store};
use hypervisor::Target;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// Largest profile read from a file.
const FILE_MAX: usize = 8 << 20;
/// How a file that xz made begins.
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// How our own profiles begin.
const OWN: &[u8] = br#"{"schema":"birthmark.profile/"#;

/// A profile and where it is from.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) profile: Arc<Profile>,
    /// For a person: a path, or the VM.
    pub(super) from: String,
}

/// Finds what `what` names.
pub(super) fn find(what: &str) -> anyhow::Result<Subject> {
    let path = Path::new(what);
    if path.is_file() && is_profile(path)? {
        let profile = Arc::new(read(path)?);
        return Ok(Subject { profile, from: what.to_owned() });
    }
    if let Some(stored) = stored(what)? {
        return Ok(Subject { profile: stored.profile, from: stored.path.display().to_string() });
    }
    let target: Target = what.parse().with_context(|| format!("{what} is no file, stored profile or VM"))?;
    let mut guest = Guest::open(&target)
        .with_context(|| format!("{what} is no profile's file, no stored profile and no VM to look at"))?;
    let kernel = guest.kernel()?;
    Ok(Subject { profile: Arc::new(kernel.profile().clone()), from: guest.vm().name.clone() })
}

/// The stored profile of a release or of the start of a digest. Several are an error: which is meant must be said.
pub(super) fn stored(what: &str) -> anyhow::Result<Option<Stored>> {
    let host = profiles::store();
    let mut found = host.of_release(what).profiles;
    let digest = what.strip_prefix("sha256:").filter(|digits| digits.len() >= 4);
    if let Some(digits) = digest {
        let all = host.all().profiles;
        found.extend(all.into_iter().filter(|stored| {
            stored.profile.digest().strip_prefix("sha256:").is_some_and(|own| own.starts_with(digits))
        }));
    }
    match found.len() {
        0 if digest.is_some() => bail!("No stored profile has a digest that begins with {what}"),
        0 | 1 => Ok(found.pop()),
        _ => {
            let digests: Vec<String> = found.iter().map(|stored| stored.profile.digest()).collect();
            bail!("Several stored profiles are of {what}: name one by its digest ({})", digests.join(", "))
        }
    }
}

/// Whether a file can be a profile rather than a memory image: JSON, or something that xz made.
fn is_profile(path: &Path) -> anyhow::Result<bool> {
    let mut start = [0; 6];
    let mut file = File::open(path).with_context(|| format!("Cannot read {}", path.display()))?;
    let read = file.read(&mut start).with_context(|| format!("Cannot read {}", path.display()))?;
    let start = start.get(..read).unwrap_or_default();
    Ok(start == XZ || start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{'))
}

/// Reads a file: one of our own profiles or Volatility's symbol file, compressed or not.
pub(super) fn read(path: &Path) -> anyhow::Result<Profile> {
    let cannot = || format!("Cannot read the profile {}", path.display());
    if !is_own(path).with_context(cannot)? {
        return Ok(isf::read_file(path, &WANTED)?);
    }
    let bytes = files::read(path, "profile", FILE_MAX)?;
    let profile = if bytes.starts_with(&XZ) { store::unpack(&bytes) } else { Profile::from_json(&bytes) };
    profile.with_context(cannot)
}

/// Whether a file holds one of our own profiles, as the first bytes of its JSON say; else it may be Volatility's.
fn is_own(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    let most = u64::try_from(OWN.len()).unwrap_or(u64::MAX);
    store::json(File::open(path)?).take(most).read_to_end(&mut start)?;
    Ok(start == OWN)
}
