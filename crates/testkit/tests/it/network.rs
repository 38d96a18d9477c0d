//! A guest behind a tap on a bridge in a network namespace: it is reached from the host, and its traffic is counted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use testkit::net::NetNs;
use testkit::{Activity, Guest, GuestSpec, Kernel, Machine, Need, Nic, SocketSpec, Spawn};

#[test]
fn a_namespace_is_gone_when_it_is_dropped() {
    if !testkit::require(&[Need::Network]) {
        return;
    }
    let namespace = NetNs::new().unwrap();
    let path = Path::new("/run/netns").join(namespace.name());
    namespace.bridge("br0", "10.77.0.1/24").unwrap();
    namespace.tap("tap0", Some("br0")).unwrap();
    namespace.veth("veth0", "veth1", None).unwrap();
    let links = namespace.ip(&["-brief", "link"]).unwrap();
    assert!(["br0", "tap0", "veth0@veth1"].iter().all(|name| links.contains(name)), "{links}");
    let listener = namespace.enter(|| std::net::TcpListener::bind("10.77.0.1:0")).unwrap();
    assert!(listener.is_ok() && std::net::TcpListener::bind("10.77.0.1:0").is_err());
    assert!(path.exists());
    drop(namespace);
    assert!(!path.exists());
}

#[test]
fn a_guest_on_a_bridge_talks_to_the_host_over_one_connection() {
    for (kernel, machine) in [(Kernel::V6_1, Machine::Q35), (Kernel::V6_12, Machine::I440fx)] {
        if !testkit::require(&[Need::Network, Need::Guest(kernel)]) {
            return;
        }
        talk(kernel, machine);
    }
}

fn talk(kernel: Kernel, machine: Machine) {
    let namespace = NetNs::new().unwrap();
    namespace.bridge("br0", "10.77.0.1/24").unwrap();
    namespace.tap("tap0", Some("br0")).unwrap();
    let nic =
        Nic { tap: "tap0".into(), namespace: Some(namespace.name().into()), mac: "52:54:00:12:34:56".into() };
    let guest = Guest::boot(GuestSpec::new(kernel).machine(machine).nic(nic)).unwrap();
    guest.net_up("eth0", "10.77.0.2/24", Some("10.77.0.1".parse().unwrap())).unwrap();

    // The host is the client of the guest's echo server.
    let echo: SocketAddr = "10.77.0.2:7".parse().unwrap();
    let server = guest
        .spawn(Spawn {
            sockets: vec![SocketSpec::TcpListen { address: echo }],
            activity: Activity::Echo,
            ..Spawn::default()
        })
        .unwrap();
    let answer = namespace
        .enter(|| {
            let mut stream = TcpStream::connect_timeout(&echo, Duration::from_secs(10))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"hello")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            std::io::Result::Ok(answer)
        })
        .unwrap();
    assert_eq!(&answer.unwrap(), b"hello");
    // The counts are written after the answer.
    let deadline = Instant::now() + Duration::from_secs(20);
    while guest.traffic(server.pid).unwrap().sent < 5 {
        assert!(Instant::now() < deadline, "no counts: {:?}", guest.traffic(server.pid));
    }
    let traffic = guest.traffic(server.pid).unwrap();
    assert_eq!((traffic.sent, traffic.received), (5, 5));
    assert!(traffic.silent_ms.is_some());

    // The guest is a client of a server on the host, which answers nothing once its interface is down.
    let listener = namespace.enter(|| std::net::TcpListener::bind("10.77.0.1:0")).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let host = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The guest is ended without a word to its peers.
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    });
    let client = guest
        .spawn(Spawn {
            sockets: vec![SocketSpec::TcpConnect { address }],
            activity: Activity::PingPong { interval_ms: 20 },
            ..Spawn::default()
        })
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !guest.traffic(client.pid).is_ok_and(|traffic| traffic.received > 20) {
        assert!(Instant::now() < deadline, "no traffic: {:?}", guest.traffic(client.pid));
    }
    namespace.ip(&["link", "set", "tap0", "down"]).unwrap();
    while guest.traffic(client.pid).unwrap().silent_ms.unwrap() < 500 {
        assert!(Instant::now() < deadline, "traffic goes on through a dead tap");
    }
    namespace.ip(&["link", "set", "tap0", "up"]).unwrap();
    guest.kill(client.pid).unwrap();
    drop(guest);
    drop(namespace);
    host.join().unwrap();
}
