//! The rules that cut one device off, as an `nft` script. Pure: text in, text out.
//!
//! Why this form (facts/semantics.md 4, tested): the `netdev` family hooks the device itself, before any bridge, router
//! or Open vSwitch sees a frame, and it is stateless, so connections that already stand die with the next packet. `add`,
//! `delete`, `add` of one table in one transaction replaces it atomically whether it was there or not. One table per
//! device keeps devices independent of each other.
//!
//! A guest's output is the host's *ingress* on a tap, and its input the host's *egress*.
//!
//! What it must never do: take text from outside. Device names and networks come in as checked types only.

use crate::{Dropped, InterfaceName, Policy, Prefix};
use std::fmt::Write;
use std::net::IpAddr;

/// Chain of what the guest sends.
pub(crate) const FROM_GUEST: &str = "from_guest";
/// Chain of what is sent to the guest.
pub(crate) const TO_GUEST: &str = "to_guest";
/// Counter of [`FROM_GUEST`].
pub(crate) const DROPPED_FROM: &str = "dropped_from";
/// Counter of [`TO_GUEST`].
pub(crate) const DROPPED_TO: &str = "dropped_to";

/// Name of the table of one device.
pub(crate) fn table(interface: &InterfaceName) -> String {
    format!("birthmark_{interface}")
}

/// Start of a script for a table that does not exist. If it does, nothing of the script happens.
pub(crate) fn fresh(interface: &InterfaceName) -> String {
    format!("create table netdev {}\n", table(interface))
}

/// Script that restores `interface`, whether it was cut off or not; start of one that replaces its table.
pub(crate) fn gone(interface: &InterfaceName) -> String {
    let table = table(interface);
    format!("add table netdev {table}\ndelete table netdev {table}\n")
}

/// Rest of a script that cuts `interface` off, with counters that start at `counted`.
pub(crate) fn cut(interface: &InterfaceName, policy: &Policy, counted: Dropped) -> String {
    let table = table(interface);
    let (v4, v6): (Vec<Prefix>, Vec<Prefix>) =
        policy.management().iter().partition(|prefix| prefix.address().is_ipv4());
    let Dropped { from_packets, from_bytes, to_packets, to_bytes } = counted;
    // A frame with a VLAN tag is never management traffic, but its inner addresses may look so: the kernel takes the
    // tag off before it matches `ip`. The raw comparison sees the tag, and unlike `ether type` works at egress too.
    let plain = "@ll,96,16 != { 0x0800, 0x0806, 0x86dd }";
    let sets = set("mgmt4", "ipv4_addr", &v4) + &set("mgmt6", "ipv6_addr", &v6);
    let solicitations: String = v6.iter().map(solicitation).collect();
    format!(
        "table netdev {table} {{
{sets}  counter {DROPPED_FROM} {{ packets {from_packets} bytes {from_bytes} }}
  counter {DROPPED_TO} {{ packets {to_packets} bytes {to_bytes} }}
  chain {FROM_GUEST} {{
    type filter hook ingress device \"{interface}\" priority -500; policy drop;
    {plain} counter name {DROPPED_FROM} drop
    arp daddr ip @mgmt4 accept
    ip daddr @mgmt4 accept
    ip6 daddr @mgmt6 accept
{solicitations}    counter name {DROPPED_FROM} drop
  }}
  chain {TO_GUEST} {{
    type filter hook egress device \"{interface}\" priority -500; policy drop;
    {plain} counter name {DROPPED_TO} drop
    arp saddr ip @mgmt4 accept
    ip saddr @mgmt4 accept
    ip6 saddr @mgmt6 accept
    counter name {DROPPED_TO} drop
  }}
}}
"
    )
}

fn set(name: &str, kind: &str, prefixes: &[Prefix]) -> String {
    let mut text = format!("  set {name} {{ type {kind}; flags interval;");
    if !prefixes.is_empty() {
        let elements: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        let _ = write!(text, " elements = {{ {} }}", elements.join(", "));
    }
    text + " }\n"
}

/// Lets the guest ask for the link address of a management address (RFC 4861 4.3). Such a question goes to a multicast
/// address, so the asked-for address has to be compared: bytes 8 to 24 of the message. Answers, and questions that
/// come from a management address, are covered by its own address.
fn solicitation(prefix: &Prefix) -> String {
    let IpAddr::V6(address) = prefix.address() else { return String::new() };
    let length = prefix.length();
    let value = address.to_bits().checked_shr(128_u32.saturating_sub(length.into())).unwrap_or(0);
    format!(
        "    ip6 daddr ff02::1:ff00:0/104 ip6 hoplimit 255 icmpv6 type nd-neighbor-solicit \
         @th,64,{length} {value:#x} accept\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap() -> InterfaceName {
        InterfaceName::new("tap0").unwrap()
    }

    fn policy(networks: &[&str]) -> Policy {
        let networks: Vec<Prefix> = networks.iter().map(|text| text.parse().unwrap()).collect();
        Policy::with_management(&networks).unwrap()
    }

    #[test]
    fn a_cut_hooks_both_directions_and_names_what_stays_open() {
        let script = cut(&tap(), &policy(&["10.0.0.0/29", "fd00::/64"]), Dropped::default());
        assert!(script.starts_with("table netdev birthmark_tap0 {"));
        assert!(script.contains("set mgmt4 { type ipv4_addr; flags interval; elements = { 10.0.0.0/29 } }"));
        assert!(script.contains("set mgmt6 { type ipv6_addr; flags interval; elements = { fd00::/64 } }"));
        assert!(script.contains("hook ingress device \"tap0\" priority -500; policy drop;"));
        assert!(script.contains("hook egress device \"tap0\" priority -500; policy drop;"));
        assert!(script.contains("@th,64,64 0xfd00000000000000 accept"));
    }

    #[test]
    fn strict_has_empty_sets_and_no_neighbour_discovery() {
        let script = cut(&tap(), &Policy::strict(), Dropped::default());
        assert!(script.contains("set mgmt4 { type ipv4_addr; flags interval; }"));
        assert!(script.contains("set mgmt6 { type ipv6_addr; flags interval; }"));
        assert!(!script.contains("nd-neighbor"));
    }

    #[test]
    fn counters_start_where_they_stood() {
        let counted = Dropped { from_packets: 1, from_bytes: 2, to_packets: 3, to_bytes: 4 };
        let script = cut(&tap(), &Policy::strict(), counted);
        assert!(script.contains("counter dropped_from { packets 1 bytes 2 }"));
        assert!(script.contains("counter dropped_to { packets 3 bytes 4 }"));
    }

    #[test]
    fn one_table_is_created_or_removed_and_no_other_is_touched() {
        assert_eq!(fresh(&tap()), "create table netdev birthmark_tap0\n");
        assert_eq!(gone(&tap()), "add table netdev birthmark_tap0\ndelete table netdev birthmark_tap0\n");
    }
}
