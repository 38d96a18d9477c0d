//! What tells the kernels of one directory's profiles in memory, in one small file beside them (`outlines.json`), so that a look
//! need not unpack each profile to see whose kernel it is.
//!
//! It is only for speed. An entry counts for the file of its name, which has the digest of what it holds, and what has no entry is
//! read itself; so a list that is old, damaged or missing costs time and nothing else. It proves nothing either: what it leads to
//! has to prove itself. Must never be trusted more than the profiles: it is refused where they would be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::{file, name_of, write};
use crate::Outline;

/// Its name.
const NAME: &str = "outlines.json";
/// Largest one read. An entry has some 300 bytes.
const BYTES_MAX: u64 = 8 << 20;

/// Outlines by the name of the profile's file.
pub(super) type Outlines = BTreeMap<String, Outline>;

/// The list of a directory; empty if there is none that can be used.
pub(super) fn read(directory: &Path) -> Outlines {
    let bytes = file::bytes(&directory.join(NAME), BYTES_MAX);
    bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Makes the list one of just these files of the directory.
pub(super) fn update(directory: &Path, paths: &[PathBuf]) -> io::Result<()> {
    let before = read(directory);
    let names: BTreeSet<&str> = paths.iter().filter_map(|path| name_of(path)).collect();
    let mut now = before.clone();
    now.retain(|name, _| names.contains(name.as_str()));
    for path in paths {
        let Some(name) = name_of(path).filter(|name| !now.contains_key(*name)) else { continue };
        if let Ok(outline) = file::outline(path) {
            now.insert(name.to_owned(), outline);
        }
    }
    if now == before {
        return Ok(());
    }
    let mut text = serde_json::to_vec_pretty(&now)?;
    text.push(b'\n');
    write(directory, &directory.join(NAME), &text)
}
