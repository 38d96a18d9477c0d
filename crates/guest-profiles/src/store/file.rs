//! One file of the store: a profile's canonical JSON, compressed by xz, under a name that says which it is.
//!
//! `RELEASE_DIGEST.json.xz`, where DIGEST is the first 16 hexadecimal digits of the profile's own. What does not have that
//! digest is damaged or in the wrong place, and is refused; so is what others than root and we could have written. `xzcat`
//! shows a file as text. Reading never takes more than a few MiB, whatever the file claims.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use lzma_rust2::{XzOptions, XzReader, XzWriter};

use crate::error::Error;
use crate::profile::sha256;
use crate::{Outline, Profile};

/// How the name of a profile ends.
pub(super) const ENDING: &str = ".json.xz";
/// Hexadecimal digits of the digest in a name.
const DIGEST_DIGITS: usize = 16;
/// Largest file read. Those of real kernels have about 10 KB.
const PACKED_MAX: u64 = 1 << 20;
/// Largest profile unpacked. Those of real kernels have about 100 KB.
const JSON_MAX: usize = 8 << 20;
/// Most memory for unpacking, in KiB. Ours take less than 1 MiB.
const UNPACK_KIB_MAX: u32 = 16 << 10;
/// The same for files of other tools: `xz -9` needs 65 MiB.
const ANY_UNPACK_KIB_MAX: u32 = 72 << 10;
/// How a file that xz made begins.
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
/// Window of the compressor, in bytes: more than a profile has.
const WINDOW: u32 = 1 << 18;
/// Longest release in a name: `uname` has at most 64 bytes.
const RELEASE_MAX: usize = 64;
/// Bits of a mode that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// The name of a profile's file.
pub(super) fn name(profile: &Profile) -> Result<String, Error> {
    name_of(&profile.release, &profile.digest())
}

fn name_of(release: &str, digest: &str) -> Result<String, Error> {
    let part = release_part(release)
        .ok_or_else(|| Error::StoreRelease { release: release.to_owned(), limit: RELEASE_MAX })?;
    Ok(format!("{part}_{}{ENDING}", short(digest)))
}

/// A release as it stands in names: everything but letters, digits, `+`, `-`, `~` and dots after the first byte as `%XX`. `None`: it is no release.
pub(super) fn release_part(release: &str) -> Option<String> {
    if release.is_empty() || release.len() > RELEASE_MAX {
        return None;
    }
    let mut part = String::with_capacity(release.len());
    for byte in release.bytes() {
        // A name that begins with a dot is a hidden one, which is not ours.
        let plain = b"+-~".contains(&byte) || (byte == b'.' && !part.is_empty());
        if plain || byte.is_ascii_alphanumeric() {
            part.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(part, "%{byte:02X}");
        }
    }
    Some(part)
}

/// The two parts of a name. `None`: it is not one of ours, and nobody's business.
pub(super) fn parts(name: &str) -> Option<(&str, &str)> {
    let (release, digest) = name.strip_suffix(ENDING)?.rsplit_once('_')?;
    let is_digest = digest.len() == DIGEST_DIGITS && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_digest && !release.is_empty() && !name.starts_with('.')).then_some((release, digest))
}

/// The start of a digest, as it stands in names.
fn short(digest: &str) -> &str {
    digest.strip_prefix("sha256:").and_then(|digits| digits.get(..DIGEST_DIGITS)).unwrap_or_default()
}

/// A profile as the bytes of a file. Equal profiles give equal bytes.
pub fn pack(profile: &Profile) -> Result<Vec<u8>, Error> {
    let mut options = XzOptions::with_preset(9);
    options.lzma_options.dict_size = WINDOW;
    let failed = |source| Error::StorePack { release: profile.release.clone(), source };
    let mut writer = XzWriter::new(Vec::new(), options).map_err(failed)?;
    writer.write_all(&profile.to_json()).map_err(failed)?;
    writer.finish().map_err(failed)
}

/// Reads what [`pack`] wrote.
pub fn unpack(bytes: &[u8]) -> Result<Profile, Error> {
    Profile::from_json(&unpack_json(bytes)?)
}

fn unpack_json(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut json = Vec::new();
    let most = u64::try_from(JSON_MAX).unwrap_or(u64::MAX);
    let mut reader = XzReader::new_mem_limit(bytes, false, UNPACK_KIB_MAX).take(most.saturating_add(1));
    if let Err(source) = reader.read_to_end(&mut json) {
        return Err(Error::StoreUnpack { unpacked: json.len(), source });
    }
    if json.len() > JSON_MAX {
        return Err(Error::ProfileTooLarge { len: json.len(), limit: JSON_MAX });
    }
    Ok(json)
}

/// The JSON of a file, unpacked if it is compressed by xz, for looking at how it begins.
pub fn json<'r>(file: impl Read + 'r) -> Box<dyn Read + 'r> {
    let mut file = BufReader::new(file);
    let packed = file.fill_buf().is_ok_and(|start| start.starts_with(&XZ));
    // A larger window is that of another tool: `xz -9` has 64 MiB.
    if packed { Box::new(XzReader::new_mem_limit(file, false, ANY_UNPACK_KIB_MAX)) } else { Box::new(file) }
}

/// Reads a file of the store and holds its content against its name.
pub(super) fn read(path: &Path) -> Result<Profile, Error> {
    let (profile, digest) = of_content(path, |json| Ok((Profile::from_json(json)?, sha256(json))))?;
    let expected = name_of(&profile.release, &digest)?;
    if path.file_name().is_none_or(|found| found != expected.as_str()) {
        return Err(Error::StoreDigest { path: path.to_owned(), release: profile.release, digest });
    }
    Ok(profile)
}

/// Reads what tells a kernel in memory out of a file of the store. Whether the rest is what its name says is not asked.
pub(super) fn outline(path: &Path) -> Result<Outline, Error> {
    of_content(path, Outline::from_json)
}

/// What `read` makes of a file's JSON. Of what [`pack`] wrote, the digest of that is the profile's own.
fn of_content<T>(path: &Path, read: impl FnOnce(&[u8]) -> Result<T, Error>) -> Result<T, Error> {
    unpack_json(&bytes(path, PACKED_MAX)?)
        .and_then(|json| read(&json))
        .map_err(|source| Error::StoreContent { path: path.to_owned(), source: Box::new(source) })
}

/// The bytes of a file of the store that only root and we can have written, `limit` at most.
pub(super) fn bytes(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let named = |source| Error::StoreRead { path: path.to_owned(), source };
    // Without O_NONBLOCK the opening of a named pipe would wait for ever.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(named)?;
    let metadata = file.metadata().map_err(named)?;
    if !metadata.is_file() {
        return Err(Error::StoreNotAFile { path: path.to_owned() });
    }
    trusted(path, &metadata)?;
    let expected = usize::try_from(metadata.len().min(limit)).unwrap_or_default();
    let mut bytes = Vec::with_capacity(expected.saturating_add(1));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(named)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > limit) {
        return Err(Error::StoreTooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// Only root and we may be able to change what looks are judged by.
pub(super) fn trusted(path: &Path, metadata: &std::fs::Metadata) -> Result<(), Error> {
    let owner = metadata.uid();
    let ours = owner == 0 || owner == nix::unistd::geteuid().as_raw();
    if ours && metadata.mode() & OTHERS_WRITE == 0 {
        return Ok(());
    }
    Err(Error::StoreOpenToOthers { path: path.to_owned(), owner, mode: metadata.mode() & 0o7777 })
}
