//! What is not read is refused with its name and what to do.

use crate::make::{Lab, TOOLS, run};
use disk_image::{Error, Image};
use std::error::Error as _;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use testkit::require;

/// What is said of an image.
fn refusal(path: &Path, partition: Option<u32>) -> String {
    let error: Error = Image::open(path, partition).err().unwrap_or_else(|| panic!("{}", path.display()));
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    error.source().unwrap().to_string()
}

#[test]
fn a_qcow2_that_needs_another_file_or_a_secret_is_refused() {
    if !require(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let raw = lab.ext4();
    let whole = lab.qcow2(&raw, "whole", &[]);
    let overlay = lab.path("overlay");
    let create = || {
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]);
        command
    };
    run(create().args(["-F", "qcow2", "-b"]).arg(&whole).arg(&overlay));
    assert!(refusal(&overlay, None).contains("backing file"));
    let data = format!("data_file={}", lab.path("data").display());
    run(create().args(["-o", &data]).arg(lab.path("external")).arg("1M"));
    assert!(refusal(&lab.path("external"), None).contains("external data file"));
    run(create().args(["-o", "extended_l2=on"]).arg(lab.path("extended")).arg("1M"));
    assert!(refusal(&lab.path("extended"), None).contains("extended L2"));
    // As LUKS says it; qemu-img would measure the speed of a machine that is busy with other tests.
    let mut encrypted = fs::read(&whole).unwrap();
    encrypted[35] = 2;
    fs::write(lab.path("encrypted"), encrypted).unwrap();
    assert!(refusal(&lab.path("encrypted"), None).contains("encryption"));
}

#[test]
fn another_file_system_is_named() {
    let lab = Lab::new();
    let path = lab.path("xfs");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    assert!(refusal(&path, None).contains("something unknown"));
    file.write_all_at(b"XFSB", 0).unwrap();
    let said = refusal(&path, None);
    assert!(said.contains("XFS") && said.contains("tar archive"), "{said}");
    file.write_all_at(b"LUKS\xba\xbe", 0).unwrap();
    assert!(refusal(&path, None).contains("LUKS"));
    file.write_all_at(b"KDMV", 0).unwrap();
    assert!(refusal(&path, None).contains("qemu-img convert"));
}

#[test]
fn a_partition_that_is_not_there_or_holds_no_root_is_refused_with_what_there_is() {
    if !require(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let disk = lab.disk(true);
    assert_eq!(Image::open(&disk, Some(2)).unwrap().partition, Some(2));
    assert!(refusal(&disk, Some(9)).contains("ext2/3/4 in partition 2"));
    assert!(refusal(&disk, Some(1)).contains("something unknown in partition 1"));
    assert!(refusal(&lab.archive(""), Some(1)).contains("no disk"));
}

#[test]
fn two_roots_on_one_disk_are_not_chosen_from() {
    if !require(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let path = lab.disk(true);
    // Both entries of the table tell of the same one.
    let disk = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut entry = [0; 128];
    disk.read_exact_at(&mut entry, 1024 + 128).unwrap();
    disk.write_all_at(&entry, 1024).unwrap();
    let said = refusal(&path, None);
    assert!(said.contains("1, 2") && said.contains("--partition"), "{said}");
}

#[test]
fn an_archive_that_would_write_outside_is_refused_and_a_compressed_disk_is_named() {
    if !require(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let outside = lab.path("outside.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(lab.path("root/usr"))
        .arg("-Pcf")
        .arg(&outside)
        .arg("../etc/passwd"));
    assert!(refusal(&outside, None).contains("outside of the tree"));
    let disk = lab.ext4();
    run(Command::new("gzip").arg(&disk));
    assert!(refusal(&lab.path("ext4.raw.gz"), None).contains("decompress it first"));
}

#[test]
fn a_link_of_a_directory_is_followed_inside_it_and_a_missing_file_is_an_error() {
    let lab = Lab::new();
    let host = lab.path("secret-of-the-host");
    fs::write(&host, "secret").unwrap();
    lab.link("etc/leak", host.to_str().unwrap());
    let tree = Image::open(&lab.path("root"), None).unwrap().tree;
    assert!(tree.read("/etc/leak", 100).is_err());
    assert!(tree.read("/etc/escape", 100).is_err(), "there is no /etc/hostname in it");
    // Replaced by a link after it was listed.
    fs::remove_file(lab.path("root/etc/group")).unwrap();
    lab.link("etc/group", host.to_str().unwrap());
    assert!(tree.read("/etc/group", 100).is_err());
}
