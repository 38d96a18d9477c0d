//! Real BTF to test against: this host's own, and what the directory in `BIRTHMARK_BTF_DIR` holds.

use std::path::PathBuf;

/// (where from, bytes) of each real BTF that can be read here; says what was skipped.
pub fn real_btfs() -> Vec<(String, Vec<u8>)> {
    let mut paths = vec![PathBuf::from("/sys/kernel/btf/vmlinux")];
    if let Some(directory) = std::env::var_os("BIRTHMARK_BTF_DIR") {
        let entries = std::fs::read_dir(directory).expect("BIRTHMARK_BTF_DIR is a directory");
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let mut found = Vec::new();
    for path in paths {
        match std::fs::read(&path) {
            Ok(bytes) => found.push((path.display().to_string(), bytes)),
            Err(error) => eprintln!("skipped: {} cannot be read: {error}", path.display()),
        }
    }
    found
}
