//! Findings about flows: new peer, new port, new direction, new program are told apart.

use crate::fixture::*;
use attest::{Certificate, Cidr, Flows, compare};
use facts::*;

/// nginx may call the database and be called; dhclient may only call.
fn with_flows() -> Certificate {
    let flows: Flows = serde_json::from_str(
        r#"{
            "egress": [
                {"protocol": "tcp", "cidr": "10.0.5.0/24", "port": 5432, "processes": ["/usr/sbin/nginx"]},
                {"protocol": "udp", "cidr": "10.0.2.2/32", "port": 67, "processes": ["/usr/sbin/dhclient"]},
                {"protocol": "tcp", "cidr": "10.9.0.0/16", "port": 2049, "processes": []}
            ],
            "ingress": [
                {"protocol": "tcp", "cidr": "0.0.0.0/0", "port": 443, "processes": ["/usr/sbin/nginx"]},
                {"protocol": "tcp", "cidr": "10.1.0.0/16", "port": 22, "processes": ["/usr/sbin/sshd"]}
            ]
        }"#,
    )
    .unwrap();
    Certificate { flows: Some(flows), ..certificate() }
}

fn findings(socket: Socket) -> Vec<Finding> {
    compare(&with_flows(), &web_with(|s| s.sockets.list().push(socket)))
}

#[track_caller]
fn change(socket: Socket) -> String {
    let finding = only(findings(socket));
    assert_eq!(finding.rule, rule::FLOW_UNKNOWN);
    finding.evidence["change"].clone()
}

#[test]
fn certified_flows_conform_in_both_directions() {
    assert_eq!(findings(flow(40001, "10.0.5.9", 5432, &[401])), []);
    assert_eq!(findings(flow(443, "203.0.113.7", 55555, &[401])), []);
    assert_eq!(findings(flow(22, "10.1.2.3", 55555, &[470])), []);
}

#[test]
fn peer_port_direction_and_program_are_told_apart() {
    assert_eq!(change(flow(40001, "10.0.6.9", 5432, &[401])), "new peer");
    assert_eq!(change(flow(40001, "10.0.5.9", 5433, &[401])), "new port");
    assert_eq!(change(flow(40001, "10.0.5.9", 5432, &[900])), "new program");
    assert_eq!(change(flow(40001, "198.51.100.1", 4444, &[470])), "new direction");
    assert_eq!(change(flow(40001, "198.51.100.1", 4444, &[900])), "new flow");
    assert_eq!(change(flow(22, "192.0.2.1", 55555, &[470])), "new peer");
    // What listens without a certificate is a listener, whoever comes.
    assert_eq!(only(findings(tcp("0.0.0.0", 8443, &[401]))).rule, rule::LISTENER_UNKNOWN);
}

#[test]
fn flows_are_not_judged_by_a_certificate_without_them() {
    assert_eq!(drift(|s| s.sockets.list().push(flow(40001, "198.51.100.1", 4444, &[900]))), []);
}

#[test]
fn each_new_peer_of_a_known_flow_is_told_and_a_scan_of_one_port_is_one_finding() {
    let scan = |peers: std::ops::Range<u8>, port| {
        let sockets =
            peers.map(move |n| flow(40000 + u16::from(n), &format!("198.51.100.{n}"), port, &[900]));
        compare(&with_flows(), &web_with(|s| s.sockets.list().extend(sockets)))
    };
    let one = only(scan(1..2, 6379));
    let many = only(scan(1..200, 6379));
    assert_eq!(one.id, many.id);
    assert!(many.evidence["peers"].ends_with("more"), "{:?}", many.evidence);
    assert!(one.evidence.contains_key("allow_with") && !many.evidence.contains_key("allow_with"));
    let peer = |peer: &str| only(findings(flow(40001, peer, 5432, &[401]))).id;
    assert_ne!(peer("10.0.6.1"), peer("10.0.6.2"));
}

#[test]
fn what_stays_in_the_guest_is_no_flow() {
    for peer in ["127.0.0.1", "10.0.2.15", "::1"] {
        assert_eq!(findings(flow(40001, peer, 6379, &[900])), [], "{peer}");
    }
    let mapped = Socket {
        family: Family::Inet6,
        local_address: Some("::ffff:10.0.2.15".parse().unwrap()),
        ..flow(443, "::ffff:203.0.113.7", 55555, &[401])
    };
    assert_eq!(findings(mapped), [], "an IPv4 client of an IPv6 socket is an IPv4 client");
}

#[test]
fn a_connection_that_nobody_holds_yet_or_any_more_is_judged_by_peer_and_port() {
    let in_state = |state, socket| Socket { state: Some(state), ..socket };
    let ssh = |peer: &str| flow(22, peer, 55555, &[]);
    assert_eq!(findings(in_state(SocketState::SynRecv, ssh("10.1.2.3"))), []);
    assert_eq!(findings(ssh("10.1.2.3")), [], "in the queue of the listener");
    assert_eq!(change(in_state(SocketState::SynRecv, ssh("192.0.2.1"))), "new peer");
    let database = flow(40001, "10.0.5.9", 5432, &[]);
    assert_eq!(findings(in_state(SocketState::TimeWait, database.clone())), []);
    // Open and held by nobody: that is the kernel, which may only speak NFS.
    assert_eq!(change(database), "new port");
    assert_eq!(findings(flow(700, "10.9.1.1", 2049, &[])), []);
}

#[test]
fn what_is_unknown_of_a_connection_is_blindness() {
    for change in [
        (|s: &mut Socket| s.local_port = None) as fn(&mut Socket),
        |s| s.local_address = None,
        |s| s.remote_address = None,
        |s| s.protocol = None,
        |s| s.processes = vec![31337].into(),
    ] {
        let mut socket = flow(40001, "10.0.5.9", 5432, &[401]);
        change(&mut socket);
        assert_eq!(only(findings(socket)).rule, rule::GUEST_BLIND);
    }
}

#[test]
fn a_network_is_an_address_and_the_bits_that_count() {
    let contains = |cidr: &str, address: &str| Cidr::parse(cidr).unwrap().contains(address.parse().unwrap());
    assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.0"));
    assert!(contains("0.0.0.0/0", "255.255.255.255") && !contains("0.0.0.0/0", "::1"));
    assert!(contains("::/0", "ffff::") && !contains("::/0", "1.2.3.4"));
    assert!(contains("2001:db8::/32", "2001:db8:ffff::1") && !contains("2001:db8::/32", "2001:db9::"));
    assert!(contains("192.0.2.1", "192.0.2.1") && !contains("192.0.2.1", "192.0.2.2"));
    assert!(contains("192.0.2.1/32", "::ffff:192.0.2.1"));
    for bad in ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "any", "10.0.0.0/8/8"]
    {
        assert!(Cidr::parse(bad).is_none(), "{bad}");
    }
}
