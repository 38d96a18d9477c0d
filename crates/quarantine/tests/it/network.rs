//! Real rules on real devices, in namespaces of the test's own.

use crate::kernel::vm;
use crate::lab::{Lab, Namespace, available, send_frames, wait_until};
use quarantine::{
    Cut, Dropped, Enforce, Error, Journal, Nftables, Outcome, Place, Policy, Quarantine, Status,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use tempfile::TempDir;

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(10);

fn policy(networks: &[&str]) -> Policy {
    let networks: Vec<_> = networks.iter().map(|text| text.parse().unwrap()).collect();
    Policy::with_management(&networks).unwrap()
}

fn management() -> Policy {
    policy(&["10.77.0.8/29", "fd77::8/125"])
}

fn backend() -> Nftables {
    Nftables::find().unwrap()
}

fn new_quarantine(dir: &TempDir) -> Quarantine {
    Quarantine::new(Journal::open(dir.path()).unwrap(), Box::new(backend())).unwrap()
}

fn cut(place: &Place) -> Vec<Cut> {
    vec![Cut { place: place.clone(), counted: Dropped::default() }]
}

fn dropped(place: &Place) -> Dropped {
    match backend().status(place).unwrap() {
        Status::Cut { dropped } => dropped,
        other => panic!("{other:?}"),
    }
}

fn listen(machine: &Namespace, address: &str) -> TcpListener {
    machine.inside(|| TcpListener::bind(address).unwrap())
}

fn try_connect(machine: &Namespace, address: &str, limit: Duration) -> std::io::Result<TcpStream> {
    let address: SocketAddr = address.parse().unwrap();
    machine.inside(|| TcpStream::connect_timeout(&address, limit))
}

/// A connection, both ends, proved to carry bytes both ways.
fn connection(from: &Namespace, to: &Namespace, address: &str) -> (TcpStream, TcpStream) {
    let listener = listen(to, address);
    let mut near = try_connect(from, &listener.local_addr().unwrap().to_string(), LONG).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    talk(&mut near, &mut far);
    talk(&mut far, &mut near);
    (near, far)
}

/// Sends a few bytes and sees them arrive.
fn talk(from: &mut TcpStream, to: &mut TcpStream) {
    to.set_read_timeout(Some(LONG)).unwrap();
    from.write_all(b"ping").unwrap();
    let mut buffer = [0; 4];
    to.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"ping");
}

fn has_nothing_to_read(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let nothing = stream.read(&mut [0; 16]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    nothing
}

#[test]
fn an_established_connection_dies_both_ways_and_lives_again_after_release() {
    if !available() {
        return;
    }
    let (lab, dir) = (Lab::new(), TempDir::new().unwrap());
    let (mut guest_end, mut peer_end) = connection(&lab.guest, &lab.peer, "10.77.0.3:0");
    let mut quarantine = new_quarantine(&dir);
    let done = quarantine.cut_off(&vm("web"), &[lab.nic("tap0")], &management()).unwrap();
    let place = done.places[0].clone();

    guest_end.write_all(b"from").unwrap();
    wait_until("a dropped frame of the guest", || dropped(&place).from_packets > 0);
    assert!(has_nothing_to_read(&mut peer_end));
    peer_end.write_all(b"back").unwrap();
    wait_until("a dropped frame for the guest", || dropped(&place).to_packets > 0);
    assert!(has_nothing_to_read(&mut guest_end));

    quarantine.release(&vm("web").id).unwrap();
    assert_eq!(backend().status(&place).unwrap(), Status::Open);
    assert!(lab.host.run("nft list ruleset").trim().is_empty());
    let mut buffer = [0; 4];
    guest_end.set_read_timeout(Some(LONG)).unwrap();
    peer_end.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"from");
    guest_end.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"back");
}

#[test]
fn the_management_network_stays_open_in_both_directions_and_nothing_else() {
    if !available() {
        return;
    }
    let lab = Lab::new();
    let (mut guest_end, mut manager_end) = connection(&lab.guest, &lab.manager, "10.77.0.9:0");
    let place = backend().locate(&lab.nic("tap0")).unwrap();
    backend().apply(&cut(&place), &management()).unwrap();
    lab.forget_neighbours();

    talk(&mut guest_end, &mut manager_end);
    talk(&mut manager_end, &mut guest_end);
    for (address, family) in [("10.77.0.9:0", "IPv4"), ("[fd77::9]:0", "IPv6")] {
        lab.forget_neighbours();
        let (mut near, mut far) = connection(&lab.guest, &lab.manager, address);
        talk(&mut far, &mut near);
        eprintln!("guest to manager: {family}");
    }
    for address in ["10.77.0.2:0", "[fd77::2]:0"] {
        lab.forget_neighbours();
        connection(&lab.manager, &lab.guest, address);
    }

    lab.forget_neighbours();
    for (listener, from) in [
        (listen(&lab.guest, "10.77.0.2:0"), &lab.peer),
        (listen(&lab.guest, "[fd77::2]:0"), &lab.peer),
        (listen(&lab.guest, "10.77.0.2:0"), &lab.host),
        (listen(&lab.peer, "10.77.0.3:0"), &lab.guest),
        (listen(&lab.peer, "[fd77::3]:0"), &lab.guest),
        (listen(&lab.host, "10.77.0.1:0"), &lab.guest),
    ] {
        let address = listener.local_addr().unwrap().to_string();
        assert!(try_connect(from, &address, SHORT).is_err(), "{address} answers");
    }
    // The rest of the bridge is not touched.
    connection(&lab.peer, &lab.manager, "10.77.0.9:0");
}

#[test]
fn without_management_networks_nothing_passes() {
    if !available() {
        return;
    }
    let lab = Lab::new();
    let place = backend().locate(&lab.nic("tap0")).unwrap();
    backend().apply(&cut(&place), &Policy::strict()).unwrap();
    for address in ["10.77.0.9:0", "[fd77::9]:0"] {
        let listener = listen(&lab.manager, address);
        let address = listener.local_addr().unwrap().to_string();
        assert!(try_connect(&lab.guest, &address, SHORT).is_err(), "{address} answers");
    }
    assert!(dropped(&place).from_packets > 0);
}

#[test]
fn a_frame_with_a_vlan_tag_is_not_management_traffic() {
    if !available() {
        return;
    }
    const FRAMES: u64 = 200;
    let lab = Lab::new();
    let place = backend().locate(&lab.nic("tap0")).unwrap();
    backend().apply(&cut(&place), &management()).unwrap();
    // A few frames of the guest's own (router solicitations, …) may be dropped meanwhile; far fewer than these.
    for (tagged, expected) in [(false, 0), (true, FRAMES)] {
        let before = dropped(&place);
        send_frames(&lab.guest, &lab.manager, [10, 77, 0, 2], [10, 77, 0, 9], tagged, FRAMES);
        send_frames(&lab.manager, &lab.guest, [10, 77, 0, 9], [10, 77, 0, 2], tagged, FRAMES);
        wait_until("the frames to pass", || dropped(&place).to_packets - before.to_packets >= expected);
        let after = dropped(&place);
        for count in [after.from_packets - before.from_packets, after.to_packets - before.to_packets] {
            assert!((expected..expected + FRAMES / 2).contains(&count), "tagged {tagged}: {count}");
        }
    }
}

#[test]
fn applying_again_changes_the_policy_and_keeps_the_counters() {
    if !available() {
        return;
    }
    let (lab, dir) = (Lab::new(), TempDir::new().unwrap());
    let mut quarantine = new_quarantine(&dir);
    let listener = listen(&lab.manager, "10.77.0.9:0");
    let address = listener.local_addr().unwrap().to_string();
    let done = quarantine.cut_off(&vm("web"), &[lab.nic("tap0")], &Policy::strict()).unwrap();
    assert!(try_connect(&lab.guest, &address, SHORT).is_err());
    let before = dropped(&done.places[0]);
    assert!(before.from_packets > 0 && before.from_bytes > 0);

    for _ in 0..3 {
        quarantine.cut_off(&vm("web"), &[lab.nic("tap0")], &management()).unwrap();
    }
    let after = dropped(&done.places[0]);
    assert!(after.from_packets >= before.from_packets, "{before:?} {after:?}");
    assert_eq!(lab.host.run("nft list tables").lines().count(), 1);
    try_connect(&lab.guest, &address, LONG).unwrap();
    drop(quarantine);

    let mut next = new_quarantine(&dir);
    assert!(matches!(next.reconcile().unwrap()[0].result, Ok(Outcome::Applied)));
    assert!(dropped(&done.places[0]).from_packets >= after.from_packets);
    try_connect(&lab.guest, &address, LONG).unwrap();
}

#[test]
fn all_devices_of_a_vm_are_cut_off_and_others_are_not() {
    if !available() {
        return;
    }
    let (lab, dir) = (Lab::new(), TempDir::new().unwrap());
    let mut quarantine = new_quarantine(&dir);
    let nics = [lab.nic("tap0"), lab.nic("peer0")];
    let done = quarantine.cut_off(&vm("web"), &nics, &Policy::strict()).unwrap();
    assert_eq!(done.places.len(), 2);
    for place in &done.places {
        assert!(matches!(quarantine.status(place).unwrap(), Status::Cut { .. }));
    }
    let other = quarantine.locate(&lab.nic("mgmt0")).unwrap();
    assert_eq!(quarantine.status(&other).unwrap(), Status::Open);
    connection(&lab.manager, &lab.host, "10.77.0.1:0");

    // The VM loses one device: that one is restored.
    quarantine.cut_off(&vm("web"), &nics[..1], &Policy::strict()).unwrap();
    connection(&lab.peer, &lab.manager, "10.77.0.9:0");
    assert_eq!(lab.host.run("nft list tables").trim(), "table netdev birthmark_tap0");
}

#[test]
fn an_absent_device_is_an_error_that_names_it() {
    if !available() {
        return;
    }
    let lab = Lab::new();
    let failure = backend().locate(&lab.nic("tap9")).unwrap_err();
    assert!(matches!(&failure, Error::DeviceAbsent { interface, .. } if interface == "tap9"), "{failure}");
    let mut place = backend().locate(&lab.nic("tap0")).unwrap();
    lab.host.run("ip link del tap0");
    assert!(matches!(backend().apply(&cut(&place), &Policy::strict()), Err(Error::DeviceAbsent { .. })));
    assert_eq!(backend().status(&place).unwrap(), Status::Absent);
    place.namespace = "/proc/self/ns/net".into();
    assert_eq!(
        backend().status(&place).unwrap(),
        Status::Absent,
        "the inode names the namespace, not the path"
    );
}

#[test]
fn a_flushed_rule_set_is_found_and_mended_by_a_check() {
    if !available() {
        return;
    }
    let (lab, dir) = (Lab::new(), TempDir::new().unwrap());
    let mut quarantine = new_quarantine(&dir);
    let done = quarantine.cut_off(&vm("web"), &[lab.nic("tap0")], &management()).unwrap();
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Held)));
    lab.host.run("nft flush ruleset");
    assert_eq!(quarantine.status(&done.places[0]).unwrap(), Status::Open);
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Applied)));
    lab.host.run("nft delete chain netdev birthmark_tap0 to_guest");
    assert!(matches!(quarantine.status(&done.places[0]).unwrap(), Status::Broken { .. }));
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Applied)));
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Held)));
}

#[test]
fn the_next_owner_of_a_device_name_is_not_cut_off() {
    if !available() {
        return;
    }
    let (lab, dir) = (Lab::new(), TempDir::new().unwrap());
    let mut quarantine = new_quarantine(&dir);
    quarantine.cut_off(&vm("web"), &[lab.nic("tap0")], &Policy::strict()).unwrap();
    lab.host.run("ip link del tap0");
    let next = Namespace::new();
    lab.host.run(&format!("ip link add tap0 type veth peer name eth0 netns {}", next.pid()));
    lab.host.run("ip link set tap0 master br0 up");
    next.run("ip addr add 10.77.0.4/24 dev eth0");
    next.run("ip link set eth0 up");
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Waiting)));
    connection(&next, &lab.peer, "10.77.0.3:0");
    // The VM comes back with that device: then it is its own.
    quarantine.cut_off(&vm("web"), &[lab.nic("tap0")], &Policy::strict()).unwrap();
    let listener = listen(&lab.peer, "10.77.0.3:0");
    assert!(try_connect(&next, &listener.local_addr().unwrap().to_string(), SHORT).is_err());
}

#[test]
fn a_namespace_is_found_again_when_its_first_process_is_gone() {
    if !available() {
        return;
    }
    let (lab, dir) = (Lab::new(), TempDir::new().unwrap());
    let vmm = lab.host.another_holder();
    let nic = facts::Nic { interface: "tap0".into(), namespace: vmm.path() };
    let mut quarantine = new_quarantine(&dir);
    let done = quarantine.cut_off(&vm("web"), &[nic], &Policy::strict()).unwrap();
    assert_eq!(done.places[0].inode, lab.host.inode());
    drop(vmm);
    assert!(matches!(quarantine.status(&done.places[0]).unwrap(), Status::Cut { .. }));
    quarantine.release(&vm("web").id).unwrap();
    assert!(lab.host.run("nft list ruleset").trim().is_empty());
}

#[test]
fn a_quarantine_ends_with_its_namespace() {
    if !available() {
        return;
    }
    let (lab, dir) = (Lab::new(), TempDir::new().unwrap());
    let mut quarantine = new_quarantine(&dir);
    let done = quarantine.cut_off(&vm("web"), &[lab.nic("tap0")], &Policy::strict()).unwrap();
    drop(lab);
    assert!(matches!(quarantine.status(&done.places[0]), Err(Error::NamespaceGone { .. })));
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Waiting)));
    quarantine.release(&vm("web").id).unwrap();
    assert!(quarantine.entries().unwrap().is_empty());
}
