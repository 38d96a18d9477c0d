//! Every kind and state of socket the workload can hold shows in the guest's own tables.

use crate::guest;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use testkit::truth::{Socket, Table};
use testkit::{Guest, Kernel, Namespace, SocketSpec, Spawn, Spawned, Transport, UnixType};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn hold(guest: &Guest, sockets: Vec<SocketSpec>) -> (Spawned, Vec<Socket>) {
    let spawned = guest.spawn(Spawn { sockets, ..Spawn::default() }).unwrap();
    let sockets = guest.truth().unwrap().sockets_of(spawned.pid).cloned().collect();
    (spawned, sockets)
}

fn ends(socket: &Socket) -> (SocketAddr, SocketAddr) {
    (
        SocketAddr::new(socket.local_address.unwrap(), socket.local_port.unwrap()),
        SocketAddr::new(socket.remote_address.unwrap(), socket.remote_port.unwrap()),
    )
}

/// States of the sockets in a TCP table that have this port at either end, sorted; with whether someone holds them.
fn states(guest: &Guest, port: u16) -> Vec<(String, bool)> {
    let truth = guest.truth().unwrap();
    let mut states: Vec<_> = truth
        .sockets
        .iter()
        .filter(|socket| matches!(socket.table, Table::Tcp | Table::Tcp6))
        .filter(|socket| socket.local_port == Some(port) || socket.remote_port == Some(port))
        .map(|socket| (socket.state.clone().unwrap(), !socket.processes.is_empty()))
        .collect();
    states.sort();
    states
}

#[test]
fn listeners_and_clients_of_tcp_and_udp_are_seen_with_their_owners() {
    let Some(guest) = guest(Kernel::V6_1, |spec| spec) else { return };
    for (transport, address, table) in [
        (Transport::Tcp, "0.0.0.0:4444", Table::Tcp),
        (Transport::Tcp, "[::]:4445", Table::Tcp6),
        (Transport::Udp, "127.0.0.1:4446", Table::Udp),
        (Transport::Udp, "[::1]:4447", Table::Udp6),
    ] {
        let address: SocketAddr = address.parse().unwrap();
        let server = guest.listen("/tmp/rogue", transport, address).unwrap();
        assert_eq!(server.addresses, [address]);
        let to = SocketAddr::new(if address.is_ipv4() { V4 } else { V6 }, address.port());
        let client = guest.connect("/bin/client", transport, to).unwrap();
        let truth = guest.truth().unwrap();
        let server: Vec<_> = truth.sockets_of(server.pid).collect();
        assert_eq!(server.len(), 1);
        assert_eq!((server[0].table, ends(server[0]).0), (table, address));
        assert_eq!(server[0].is_listening(), transport == Transport::Tcp);
        let client: Vec<_> = truth.sockets_of(client.pid).collect();
        assert_eq!((ends(client[0]).1, client[0].state.as_deref()), (to, Some("established")));
    }
    assert!(
        guest.connect("/bin/client", Transport::Tcp, "127.0.0.1:1".parse().unwrap()).is_err(),
        "nobody listens"
    );
}

#[test]
fn every_state_of_tcp_that_lasts_is_made() {
    for kernel in Kernel::OLDEST_AND_NEWEST {
        let Some(guest) = guest(kernel, |spec| spec) else { return };
        for ip in [V4, V6] {
            let make = |spec| hold(&guest, vec![spec]).0.addresses[0].port();
            let listen = ("listen".to_owned(), true);
            let held = |state: &str| (state.to_owned(), true);
            let alone = |state: &str| (state.to_owned(), false);
            let port = make(SocketSpec::TcpPair { ip });
            assert_eq!(states(&guest, port), [held("established"), held("established"), listen.clone()]);
            let port = make(SocketSpec::TcpTimeWait { ip });
            assert_eq!(states(&guest, port), [listen.clone(), alone("time-wait")]);
            let port = make(SocketSpec::TcpHalfClosed { ip });
            assert_eq!(states(&guest, port), [held("close-wait"), alone("fin-wait-2"), listen.clone()]);
            let port = make(SocketSpec::TcpSynReceived { ip });
            assert_eq!(states(&guest, port), [held("established"), listen.clone(), alone("syn-recv")]);
            let port = make(SocketSpec::TcpSynSent { ip });
            let expected = [
                // Not accepted yet: no file, so nobody holds them.
                alone("established"),
                alone("established"),
                held("established"),
                held("established"),
                listen.clone(),
                held("syn-sent"),
            ];
            assert_eq!(states(&guest, port), expected);
        }
        let unused = guest.spawn(Spawn { sockets: vec![SocketSpec::TcpUnused], ..Spawn::default() }).unwrap();
        assert_eq!(guest.truth().unwrap().sockets_of(unused.pid).count(), 0);
        let link = guest.run(&["ls", "-l", &format!("/proc/{}/fd", unused.pid)]).unwrap();
        assert!(link.stdout.contains("socket:["), "held all the same: {}", link.stdout);
    }
}

#[test]
fn unix_sockets_of_every_type_and_name_are_seen() {
    let Some(guest) = guest(Kernel::V6_1, |spec| spec) else { return };
    for (number, unix_type) in [(1, UnixType::Stream), (2, UnixType::Dgram), (5, UnixType::Seqpacket)] {
        for path in ["/run/a socket", "@abstract"] {
            let path = format!("{path} {number}");
            let listener = SocketSpec::UnixListen { path: path.clone(), unix_type };
            let (_, sockets) = hold(&guest, vec![listener]);
            let socket = &sockets[0];
            assert_eq!((socket.path.as_ref(), socket.socket_type), (Some(&path), Some(number)));
            assert_eq!(socket.is_listening(), unix_type != UnixType::Dgram);
            let (_, sockets) = hold(&guest, vec![SocketSpec::UnixConnect { path, unix_type }]);
            assert_eq!((sockets[0].table, sockets[0].state.as_deref()), (Table::Unix, Some("established")));
        }
        let (_, sockets) = hold(&guest, vec![SocketSpec::UnixPair { unix_type }]);
        assert_eq!(sockets.len(), 2);
        assert!(
            sockets
                .iter()
                .all(|socket| socket.state.as_deref() == Some("established") && socket.path.is_none())
        );
    }
}

#[test]
fn raw_packet_netlink_and_udp_lite_sockets_are_seen() {
    let Some(guest) = guest(Kernel::V6_1, |spec| spec) else { return };
    let (spawned, sockets) = hold(
        &guest,
        vec![
            SocketSpec::Raw { v6: false, protocol: 1 },
            SocketSpec::Raw { v6: true, protocol: 58 },
            SocketSpec::Packet { ethertype: 3, cooked: false },
            SocketSpec::Packet { ethertype: 0x0806, cooked: true },
            SocketSpec::Netlink { protocol: 0, groups: 1 },
            SocketSpec::UdpLiteBind { address: SocketAddr::new(V4, 0) },
            SocketSpec::UdpConnect { address: SocketAddr::new(V4, 9) },
            SocketSpec::UdpBind { address: SocketAddr::new(V6, 0) },
        ],
    );
    let seen = |table, protocol, socket_type| {
        let found = sockets.iter().filter(|socket| {
            socket.table == table && socket.protocol == protocol && socket.socket_type == socket_type
        });
        assert_eq!(found.count(), 1, "{table:?} {protocol:?}: {sockets:#?}");
    };
    seen(Table::Raw, Some(1), Some(3));
    seen(Table::Raw6, Some(58), Some(3));
    seen(Table::Packet, Some(3), Some(3));
    seen(Table::Packet, Some(0x0806), Some(2));
    seen(Table::Netlink, Some(0), None);
    seen(Table::Udplite, None, Some(2));
    seen(Table::Udp, None, Some(2));
    seen(Table::Udp6, None, Some(2));
    assert_eq!((sockets.len(), spawned.addresses.len()), (8, 3));
    let netlink = sockets.iter().find(|socket| socket.table == Table::Netlink).unwrap();
    assert_eq!(netlink.netlink_groups, Some(1));
    assert!(netlink.netlink_port.unwrap() > 0);
}

#[test]
fn sockets_of_another_network_namespace_are_seen_as_such() {
    let Some(guest) = guest(Kernel::V6_12, |spec| spec) else { return };
    let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
    let outer = guest.listen("/bin/workload", Transport::Tcp, address).unwrap();
    let inner = guest
        .spawn(Spawn {
            namespaces: vec![Namespace::Net, Namespace::Pid],
            uid: Some(33),
            sockets: vec![
                SocketSpec::TcpListen { address: SocketAddr::new(V4, 8080) },
                SocketSpec::TcpPair { ip: V4 },
                SocketSpec::UnixListen { path: "@inner".into(), unix_type: UnixType::Stream },
            ],
            ..Spawn::default()
        })
        .unwrap();
    let truth = guest.truth().unwrap();
    let namespace = |pid| truth.process(pid).unwrap().namespaces.net.unwrap();
    assert_ne!(namespace(outer.pid), namespace(inner.pid));
    assert!(truth.sockets_of(outer.pid).all(|socket| socket.net_namespace == namespace(outer.pid)));
    let sockets: Vec<_> = truth.sockets_of(inner.pid).collect();
    assert_eq!(sockets.len(), 5);
    assert!(sockets.iter().all(|socket| socket.net_namespace == namespace(inner.pid)));
    assert!(sockets.iter().all(|socket| socket.uid.is_none_or(|uid| uid == 33)));
}

#[test]
fn two_hundred_sockets_of_fifty_processes_are_all_told() {
    let Some(guest) = guest(Kernel::V6_1, |spec| spec) else { return };
    let sockets =
        vec![SocketSpec::TcpPair { ip: V4 }, SocketSpec::UdpBind { address: SocketAddr::new(V6, 0) }];
    let many = guest.spawn_many(50, Spawn { sockets, uid: Some(7), ..Spawn::default() }).unwrap();
    let truth = guest.truth().unwrap();
    for spawned in &many {
        assert_eq!(truth.sockets_of(spawned.pid).count(), 4);
    }
    assert!(
        many.iter().flat_map(|spawned| truth.sockets_of(spawned.pid)).all(|socket| socket.uid == Some(7))
    );
}
