//! Where the kernel of a running VM was found, kept between two runs so that the second needs no search.
//!
//! `/run/birthmark/hints` for root, the user's own runtime directory otherwise: gone at the host's next boot, as the VMs
//! are. A hint is checked against the guest's memory before it is used, so a stale one costs a few reads. That none can be
//! read or written is never an error: the search is still there.

use introspect::Hint;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Names another directory; empty: hints are neither read nor written.
const DIRECTORY: &str = "BIRTHMARK_HINTS";
/// Largest file read; a hint has some ten kilobytes.
const BYTES_MAX: u64 = 8 << 20;

/// The hint of the VM of this process, if there is one.
pub(crate) fn read(pid: u32) -> Option<Hint> {
    let path = path(pid)?;
    if fs::symlink_metadata(&path).ok().filter(|file| file.is_file())?.len() > BYTES_MAX {
        return None;
    }
    Hint::from_json(&fs::read(path).ok()?)
}

/// Writes it down.
pub(crate) fn write(pid: u32, hint: &Hint) {
    let Some(path) = path(pid) else { return };
    let Some(directory) = path.parent() else { return };
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    // Whole or not at all. Whether it worked shows at the next run.
    let _ = crate::files::write(&path, &hint.to_json(), 0o600, true);
    forget_the_ended(directory);
}

/// Removes the hints of processes that are no more.
fn forget_the_ended(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("pid-")?.strip_suffix(".json"));
        if pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn path(pid: u32) -> Option<PathBuf> {
    let directory = match std::env::var_os(DIRECTORY) {
        Some(directory) => Some(PathBuf::from(directory)).filter(|path| !path.as_os_str().is_empty()),
        None if nix::unistd::geteuid().is_root() => Some(PathBuf::from("/run/birthmark/hints")),
        None => std::env::var_os("XDG_RUNTIME_DIR").map(|own| PathBuf::from(own).join("birthmark/hints")),
    };
    Some(directory?.join(format!("pid-{pid}.json")))
}
