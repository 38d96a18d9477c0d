//! What the fuzz targets of images do with their bytes: what anybody may hand to a host as an image.
//!
//! `crates/disk-image/tests/it/hostile.rs` includes this file and runs it on a stable compiler. It is no module of `lib.rs`, whose
//! other includer does not know images.

use disk_image::{Image, inventory, rpm};
use std::fs;
use std::io::Write;
use std::path::Path;

/// Bytes that one file of a tree may give at most, whatever the image says of its size.
const READ: u64 = 1 << 20;

/// Any bytes as the file of an image: an archive, a qcow2, a disk, a file system.
pub fn image(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("there is room");
    file.write_all(bytes).expect("there is room");
    let Ok(image) = Image::open(file.path(), None) else { return };
    for (path, node) in image.tree.iter() {
        assert!(path.starts_with('/') && !path.split('/').any(|part| part == ".."), "{path}");
        if let Ok(content) = image.tree.read(path, READ) {
            // Through a link it is another file's content.
            let found = image.tree.get(path).unwrap_or(node);
            assert!(content.len() as u64 <= found.size, "{path}");
        }
    }
    let programs = inventory(&image.tree).map(|found| found.programs).unwrap_or_default();
    assert!(programs.iter().all(|program| image.tree.get(&program.path).is_some()));
}

/// Any bytes as the texts of a tree: packages, units, accounts.
pub fn texts(bytes: &[u8]) {
    let root = tempfile::tempdir().expect("there is room");
    let file = |path: &str, content: &[u8]| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("there is room");
        fs::write(&path, content).expect("there is room");
        path
    };
    let program = file("usr/bin/web", b"\x7fELF");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(program, executable).expect("it is ours");
    for path in [
        "var/lib/dpkg/status",
        "var/lib/dpkg/info/web.list",
        "usr/lib/systemd/system/web.service",
        "usr/lib/systemd/system/web.socket",
        "etc/passwd",
        "etc/group",
    ] {
        file(path, bytes);
    }
    let image = Image::open(root.path(), None).expect("it is a directory");
    let found = inventory(&image.tree).expect("it has a program");
    assert_eq!(found.programs.len(), 1);
}

/// Any bytes as RPM's database: two with the length of the database, the database, and what is left as its log.
pub fn rpm(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
    let (database, log) = rest.split_at(length);
    let mut total = 0;
    let _ = rpm::read(database, log, |package| {
        assert!(package.files.iter().all(|(directory, _)| *directory < package.directories.len()));
        total += package.name.len() + package.version.len();
        total += package.files.iter().map(|(_, name)| name.len()).sum::<usize>();
    });
    // A byte that is no UTF-8 becomes three, and the tags of one header may share their data.
    assert!(total <= bytes.len() * 3 * 16 + 64, "{total} bytes of names out of {}", bytes.len());
}
