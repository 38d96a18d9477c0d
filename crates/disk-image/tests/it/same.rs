//! One tree in images of every kind gives the same facts.

use crate::make::{Lab, TOOLS};
use disk_image::{Image, ImageKind, Inventory, Listen, Package, ProgramKind, inventory};
use std::path::{Path, PathBuf};
use testkit::require;

fn look(path: &Path) -> (ImageKind, Inventory) {
    let image = Image::open(path, None).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
    (image.kind, inventory(&image.tree).unwrap())
}

#[test]
fn a_directory_an_archive_a_disk_and_a_qcow2_of_one_tree_give_the_same_facts() {
    if !require(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let (kind, mut expected) = look(&lab.path("root"));
    assert_eq!(kind, ImageKind::Directory);
    expected.newest = 0;
    let raw = lab.disk(true);
    let images: Vec<(ImageKind, PathBuf)> = vec![
        (ImageKind::Archive, lab.archive("")),
        (ImageKind::Archive, lab.archive("gzip")),
        (ImageKind::Archive, lab.archive("xz")),
        (ImageKind::Archive, lab.archive("zstd")),
        (ImageKind::Raw, lab.ext4()),
        (ImageKind::Raw, raw.clone()),
        (ImageKind::Raw, lab.disk(false)),
        (ImageKind::Qcow2, lab.qcow2(&raw, "plain", &[])),
        (ImageKind::Qcow2, lab.qcow2(&raw, "old", &["-o", "compat=0.10"])),
        (ImageKind::Qcow2, lab.qcow2(&raw, "deflate", &["-c"])),
        (ImageKind::Qcow2, lab.qcow2(&raw, "zstd", &["-c", "-o", "compression_type=zstd"])),
        (ImageKind::Qcow2, lab.qcow2(&raw, "small", &["-c", "-o", "cluster_size=4096"])),
        (ImageKind::Qcow2, lab.qcow2(&raw, "large", &["-o", "cluster_size=2M"])),
    ];
    for (kind, path) in images {
        let (found, mut facts) = look(&path);
        assert_eq!(found, kind, "{}", path.display());
        assert!(facts.newest > 0, "{}", path.display());
        facts.newest = 0;
        assert_eq!(facts, expected, "{}", path.display());
    }
}

#[test]
fn what_can_run_is_found_with_its_package_and_what_systemd_does_with_it() {
    let lab = Lab::new();
    let (_, facts) = look(&lab.path("root"));
    let paths: Vec<&str> = facts.programs.iter().map(|program| program.path.as_str()).collect();
    assert_eq!(paths, ["/init", "/usr/bin/script", "/usr/bin/web", "/usr/sbin/admin"]);
    let program = |path: &str| facts.programs.iter().find(|program| program.path == path).unwrap();
    let web = program("/usr/bin/web");
    let package = Package { name: "web".to_owned(), version: "1.2-3".to_owned() };
    // dpkg says /bin/web, and /bin is a link.
    assert_eq!(web.package, Some(package));
    assert_eq!((web.size, web.pages.len()), (10_004, 3));
    assert_eq!(program("/init").pages.len(), 1, "a program of exactly one page");
    assert_eq!(program("/init").pages[0].len(), 32);
    assert_eq!(program("/usr/sbin/admin").mode, 0o4755);
    assert_eq!(program("/usr/bin/script").kind, ProgramKind::Script { interpreter: "/bin/sh".to_owned() });
    let service = &facts.services[0];
    let command = |path: &str, full| (path.to_owned(), full);
    assert_eq!(service.commands, [command("/usr/bin/script", true), command("/usr/bin/web", false)]);
    assert_eq!(service.user, Some((33, 55)), "a drop-in changes the group");
    assert_eq!(service.ambient, ["cap_net_bind_service"]);
    let socket = &facts.sockets[0];
    assert_eq!(socket.service, "web.service");
    assert_eq!(socket.listens, [Listen::Stream("80".to_owned()), Listen::Stream("/run/web".to_owned())]);
    assert_eq!(facts.kernels[0].release, "6.1.0-x");
    assert_eq!(facts.kernels[0].image.as_deref(), Some("/boot/vmlinuz-6.1.0-x"));
    assert_eq!(facts.kernels[0].modules, ["virtio_net"]);
    assert_eq!(facts.packages, 1);
}

#[test]
fn the_digest_of_a_file_is_that_of_sha256sum_and_that_of_a_directory_changes_with_any_content() {
    if !require(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let archive = lab.archive("gzip");
    let digest = Image::open(&archive, None).unwrap().digest().unwrap();
    let output = std::process::Command::new("sha256sum").arg(&archive).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().starts_with(&digest.hex));
    assert_eq!(digest.algorithm, "sha256");

    let of_root = || Image::open(&lab.path("root"), None).unwrap().digest().unwrap();
    let before = of_root();
    assert_eq!((before.algorithm, before.clone()), ("dirHash", of_root()));
    lab.file("etc/group", 0o644, b"root:x:0:\n");
    assert_ne!(before, of_root());
}
