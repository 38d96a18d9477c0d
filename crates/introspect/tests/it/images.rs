//! Memory images give the same tables as the guest they were taken of.

use crate::equal::differences;
use crate::opened::{Opened, PATIENT};
use hypervisor::Target;
use introspect::Options;
use std::path::Path;
use testkit::{GuestSpec, Kernel, Need, PagingLevels, SocketSpec, Spawn};

fn image(kernel: Kernel, levels: PagingLevels, take: impl Fn(&Opened, &Path)) {
    if !testkit::require(&[Need::Guest(kernel)]) {
        return;
    }
    let opened = Opened::boot(GuestSpec::new(kernel).memory_mib(256).levels(levels)).unwrap();
    let address = "0.0.0.0:8080".parse().unwrap();
    let server = Spawn {
        exe: "/usr/sbin/server".into(),
        uid: Some(33),
        sockets: vec![SocketSpec::TcpListen { address }],
        ..Spawn::default()
    };
    opened.guest.spawn(server).unwrap();
    let path = opened.guest.directory().join("image");
    let (truth, snapshot) = opened
        .guest
        .steady(|| {
            let _ = std::fs::remove_file(&path);
            take(&opened, &path);
            let image = hypervisor::open(&Target::Image(path.clone()))?;
            let kernel = introspect::locate(&*image.memory, PATIENT)?;
            Ok(introspect::snapshot(&*image.memory, &kernel, &image.vm, &Options::default())?)
        })
        .unwrap();
    let found = differences(&truth, &snapshot);
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    assert!(snapshot.sockets.iter().any(|socket| socket.local_port == Some(8080)));
}

#[test]
fn an_elf_core_of_qemu_gives_the_tables_of_its_guest() {
    image(Kernel::V6_12, PagingLevels::Five, |opened, path| opened.guest.dump_elf(path).unwrap());
}

#[test]
fn a_lime_image_gives_the_tables_of_its_guest() {
    image(Kernel::V6_1, PagingLevels::Four, |opened, path| opened.guest.dump_lime(path).unwrap());
}

#[test]
fn a_raw_image_gives_the_tables_of_its_guest() {
    image(Kernel::V6_12, PagingLevels::Four, |opened, path| opened.guest.dump_raw(path).unwrap());
}
