//! Findings about listeners and raw sockets.

use crate::fixture::*;
use attest::{AddressRule, PortRule, compare};
use facts::*;

#[test]
fn a_listener_that_is_not_certified_is_one_finding_over_both_families() {
    let finding = only(drift(|s| {
        s.sockets.list().push(tcp("0.0.0.0", 4444, &[900]));
        s.sockets.list().push(tcp("::", 4444, &[900]));
    }));
    assert_eq!(finding.rule, rule::LISTENER_UNKNOWN);
    assert_eq!(finding.subject, "listener tcp 4444 of /usr/bin/bash");
    assert_eq!(finding.evidence["endpoints"], "0.0.0.0:4444, [::]:4444");
    assert_eq!(finding.evidence["pids"], "900");
    assert_eq!(finding.evidence["socks"], "0xffff88810115c000, 0xffff88810115c000");
    assert_eq!(finding.views_seen, ["hash_table"]);
}

#[test]
fn another_port_or_another_program_is_another_finding_and_another_pid_is_not() {
    let id = |port, pid| only(drift(|s| s.sockets.list().push(tcp("0.0.0.0", port, &[pid])))).id;
    assert_eq!(id(4444, 401), id(4444, 402));
    assert_ne!(id(4444, 401), id(4445, 401));
    assert_ne!(id(4444, 401), id(4444, 900));
}

#[test]
fn a_certified_port_of_another_program_is_found_with_who_should_hold_it() {
    let finding = only(drift(|s| s.sockets.list()[0].processes = vec![900].into()));
    assert_eq!(finding.rule, rule::LISTENER_UNKNOWN);
    assert_eq!(finding.evidence["expected"], "held by /usr/sbin/nginx");
    // Also when the right program holds it too.
    assert_eq!(only(drift(|s| s.sockets.list()[0].processes.push(900))).rule, rule::LISTENER_UNKNOWN);
    // And when nobody does: a socket whose holder hides.
    assert_eq!(only(drift(|s| s.sockets.list()[0].processes.clear())).rule, rule::LISTENER_UNKNOWN);
    // One of several holders left is fine: systemd handed the socket over.
    assert_eq!(drift(|s| s.sockets.list()[2].processes = vec![470].into()), []);
}

#[test]
fn another_address_or_family_or_protocol_is_not_certified() {
    let mut certificate = certificate();
    let https = certificate.listeners.iter_mut().find(|l| l.port == Some(PortRule::exactly(22))).unwrap();
    https.address = Some(AddressRule::Exactly("127.0.0.1".parse().unwrap()));
    assert_eq!(rules(&compare(&certificate, &web())), [rule::LISTENER_UNKNOWN]);
    assert_eq!(rules(&drift(|s| s.sockets.list().push(tcp("::", 22, &[470])))), [rule::LISTENER_UNKNOWN]);
    assert_eq!(
        rules(&drift(|s| s.sockets.list().push(udp("0.0.0.0", 443, &[400])))),
        [rule::LISTENER_UNKNOWN]
    );
}

#[test]
fn an_interface_address_may_differ_and_the_wildcard_is_no_interface_address() {
    let at = |address: &str| drift(|s| s.sockets.list()[3] = udp(address, 68, &[450]));
    assert_eq!(at("10.0.2.99"), []);
    assert_eq!(rules(&at("0.0.0.0")), [rule::LISTENER_UNKNOWN]);
    assert_eq!(rules(&at("127.0.0.1")), [rule::LISTENER_UNKNOWN]);
}

#[test]
fn connections_and_unbound_sockets_are_no_listeners() {
    let findings = drift(|s| {
        s.sockets
            .list()
            .push(Socket { state: Some(SocketState::Established), ..tcp("10.0.2.15", 5555, &[900]) });
        s.sockets.list().push(Socket { state: Some(SocketState::TimeWait), ..tcp("10.0.2.15", 5555, &[]) });
        s.sockets
            .list()
            .push(Socket { state: Some(SocketState::Established), ..udp("10.0.2.15", 5555, &[900]) });
        s.sockets.list().push(udp("0.0.0.0", 0, &[900]));
        s.sockets.list().push(Socket { state: Some(SocketState::Established), ..unix("/run/x", &[900]) });
        s.sockets.list().push(socket(Family::Netlink, "raw", "route", SocketState::Unconnected, &[900]));
        s.sockets.list().push(socket(Family::Inet, "dgram", "icmp", SocketState::Unconnected, &[900]));
    });
    assert_eq!(findings, []);
}

#[test]
fn udp_ports_that_the_kernel_chose_are_one_cause() {
    let finding = only(drift(|s| {
        for port in [33001, 40123, 60001] {
            s.sockets.list().push(udp("0.0.0.0", port, &[900]));
        }
    }));
    assert_eq!(finding.rule, rule::LISTENER_UNKNOWN);
    assert_eq!(finding.subject, "listener udp 32768-60999 of /usr/bin/bash");
}

#[test]
fn a_unix_listener_is_told_by_its_path() {
    let finding = only(drift(|s| s.sockets.list().push(unix("/tmp/.x", &[900]))));
    assert_eq!(finding.rule, rule::LISTENER_UNKNOWN);
    assert_eq!(finding.evidence["endpoints"], "/tmp/.x");
    let pathless = Socket { path: None, ..unix("", &[900]) };
    assert_eq!(rules(&drift(|s| s.sockets.list().push(pathless))), [rule::GUEST_BLIND]);
}

#[test]
fn a_raw_or_packet_socket_that_is_not_certified_is_found() {
    let raw = socket(Family::Inet, "raw", "icmp", SocketState::Unconnected, &[900]);
    assert_eq!(only(drift(|s| s.sockets.list().push(raw))).rule, rule::SOCKET_RAW);
    let packet =
        |protocol: &str, pid| socket(Family::Packet, "raw", protocol, SocketState::Unconnected, &[pid]);
    assert_eq!(drift(|s| s.sockets.list().push(packet("0x0800", 450))), []);
    assert_eq!(only(drift(|s| s.sockets.list().push(packet("0x0800", 900)))).rule, rule::SOCKET_RAW);
    assert_eq!(only(drift(|s| s.sockets.list().push(packet("0x0003", 450)))).rule, rule::SOCKET_RAW);
    let xdp = socket(Family::Xdp, "raw", "0", SocketState::Unconnected, &[450]);
    assert_eq!(only(drift(|s| s.sockets.list().push(xdp))).rule, rule::SOCKET_RAW);
}

#[test]
fn what_is_unknown_of_a_socket_is_blindness() {
    for change in [
        (|s: &mut Socket| s.state = None) as fn(&mut Socket),
        |s| s.protocol = None,
        |s| s.local_address = None,
        |s| s.local_port = None,
        |s| s.processes = vec![31337].into(),
    ] {
        let finding = only(drift(|s| change(&mut s.sockets.list()[0])));
        assert_eq!(finding.rule, rule::GUEST_BLIND);
        assert!(finding.evidence["socks"].starts_with("0x"), "{finding:#?}");
    }
}
