//! One end of a socket as `ss` has it (HOST SYNTAX of its manual): `:443`, `10.0.0.0/8`, `127.0.0.1:ssh`, `[::1]:443`, `*:443`, and of
//! other families `unix:/run/*`, `netlink:rtnl:kernel`, `link:ip:eth0`, `vsock:3:22`.
//!
//! A family that is named, by an option or in an address, is that of all further addresses, and only sockets of families that are
//! named so are chosen at all. That is how `ss` does it, but for one thing: of two families it takes the last.

use super::ether_type;
use super::services;
use super::socket_expression::{Comparison, Expression};
use super::socket_filter::Test;
use facts::Family;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Families that addresses are of.
#[derive(Clone, Debug, Default)]
pub(super) struct Families {
    current: Option<Family>,
    named: Vec<Family>,
}

impl Families {
    pub(super) fn starting_with(family: Option<Family>) -> Self {
        Self { current: family, named: Vec::new() }
    }

    /// What a socket must be because families are named. `None`: anything.
    pub(super) fn restriction(&self) -> Option<Expression> {
        let of = |family: &Family| Expression::Test(Test::Family(*family));
        (!self.named.is_empty()).then(|| Expression::Any(self.named.iter().map(of).collect()))
    }

    /// The family of an address, and the rest of it.
    fn of<'v>(&mut self, value: &'v str) -> (Option<Family>, &'v str) {
        let named = value.split_once(':').and_then(|(family, rest)| {
            let family = match family {
                "inet" => Family::Inet,
                "inet6" => Family::Inet6,
                "unix" => Family::Unix,
                "link" => Family::Packet,
                "netlink" => Family::Netlink,
                "vsock" => Family::Vsock,
                _ => return None,
            };
            Some((family, rest))
        });
        if let Some((family, _)) = named {
            self.current = Some(family);
        }
        self.named.extend(self.current.filter(|family| !self.named.contains(family)));
        (self.current, named.map_or(value, |(_, rest)| rest))
    }
}

/// `key` is `src`, `dst`, or for a port alone `sport` or `dport`.
pub(super) fn host(
    key: &str,
    operator: Comparison,
    value: &str,
    families: &mut Families,
) -> Result<Expression, String> {
    let (family, rest) = families.of(value);
    let port_only = matches!(key, "sport" | "dport");
    let local = matches!(key, "sport" | "src");
    let is = match family {
        Some(Family::Unix) if local => Expression::Test(Test::unix(rest)?),
        Some(Family::Packet) if local => link(rest, port_only)?,
        Some(Family::Netlink) if local => netlink(rest, port_only)?,
        Some(Family::Vsock) => vsock(rest, port_only, local)?,
        Some(Family::Unix | Family::Packet | Family::Netlink) => {
            return Err(format!("of unix, netlink and packet sockets `src` is known, `{key}` is not"));
        }
        family => {
            let (address, port) = if port_only { ("", Some(rest)) } else { address_and_port(rest)? };
            let port = port.map(|port| port.strip_prefix(':').unwrap_or(port)).filter(|port| !is_any(port));
            let mut parts = Vec::new();
            if !is_any(address) {
                parts.extend(
                    network(address, family)?
                        .map(|(network, bits)| Expression::Test(Test::Address { local, network, bits })),
                );
            }
            if let (true, Some(port)) = (port_only, port) {
                return ports(key, operator, port);
            }
            if let Some(port) = port {
                parts.push(ports(if local { "sport" } else { "dport" }, Comparison::Equal, port)?);
            }
            Expression::All(parts)
        }
    };
    match operator {
        Comparison::Equal => Ok(is),
        Comparison::Unequal => Ok(Expression::Not(Box::new(is))),
        _ => Err(format!("`{value}` is equal or not, and never more or less")),
    }
}

fn is_any(text: &str) -> bool {
    matches!(text, "" | "*")
}

/// `ADDRESS:PORT` of any other family than that of IP.
fn parts(value: &str, port_only: bool) -> (Option<&str>, Option<&str>) {
    let (address, port) = match port_only {
        true => ("", value.strip_prefix(':').unwrap_or(value)),
        false => value.split_once(':').unwrap_or((value, "")),
    };
    (Some(address).filter(|text| !is_any(text)), Some(port).filter(|text| !is_any(text)))
}

/// EtherType and device.
fn link(value: &str, port_only: bool) -> Result<Expression, String> {
    let (protocol, device) = parts(value, port_only);
    let mut all = Vec::new();
    if let Some(name) = protocol {
        let number = ether_type::number(name).or_else(|| integer(name)?.try_into().ok());
        let number = number.ok_or_else(|| format!("`{name}` is no protocol of Ethernet"))?;
        all.push(Expression::Test(Test::EtherType(number)));
    }
    if let Some(device) = device {
        all.push(Expression::Test(Test::Interface(device.to_owned())));
    }
    Ok(Expression::All(all))
}

/// Protocol and port id.
fn netlink(value: &str, port_only: bool) -> Result<Expression, String> {
    let (protocol, port) = parts(value, port_only);
    let protocol = protocol.map(|name| {
        let known = NETLINK.iter().find(|(number, of_ss, ours)| {
            [*of_ss, *ours].contains(&name) || integer(name) == Some(u64::from(*number))
        });
        match known {
            Some((_, _, ours)) => Ok((*ours).to_owned()),
            None => integer(name)
                .map(|number| number.to_string())
                .ok_or_else(|| format!("`{name}` is no protocol of netlink")),
        }
    });
    let port = port.map(|port| match port {
        "kernel" => Ok(0),
        // `ss` prints those of the kernel's choice as they are with a sign.
        number => number
            .parse::<i32>()
            .map(i32::cast_unsigned)
            .ok()
            .or_else(|| integer(number)?.try_into().ok())
            .ok_or_else(|| format!("`{number}` is no port of netlink")),
    });
    Ok(Expression::Test(Test::Netlink { protocol: protocol.transpose()?, port: port.transpose()? }))
}

/// Numbers of netlink protocols (include/uapi/linux/netlink.h), their names of iproute2 (`nl_protos`) and ours.
pub(super) const NETLINK: [(u8, &str, &str); 14] = [
    (0, "rtnl", "route"),
    (2, "usersock", "usersock"),
    (4, "tcpdiag", "sock_diag"),
    (6, "xfrm", "xfrm"),
    (7, "selinux", "selinux"),
    (9, "audit", "audit"),
    (10, "fiblookup", "fib_lookup"),
    (11, "connector", "connector"),
    (12, "nft", "netfilter"),
    (15, "uevent", "kobject_uevent"),
    (16, "genl", "generic"),
    (18, "scsi-trans", "scsitransport"),
    (20, "rdma", "rdma"),
    (21, "crypto", "crypto"),
];

/// `CID:PORT`.
fn vsock(value: &str, port_only: bool, local: bool) -> Result<Expression, String> {
    let (cid, port) = parts(value, port_only);
    let number = |text: &str| {
        integer(text)
            .and_then(|number| number.try_into().ok())
            .ok_or_else(|| format!("`{text}` is no number of vsock"))
    };
    let (cid, port) = (cid.map(number).transpose()?, port.map(number).transpose()?);
    Ok(Expression::Test(Test::Vsock { local, cid, port }))
}

/// `[ADDRESS]:PORT`, `[ADDRESS/BITS]:PORT`, `ADDRESS/BITS:PORT`, `*:PORT`; one of both may be missing.
fn address_and_port(value: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(inner) = value.strip_prefix('[') {
        let (address, rest) =
            inner.split_once(']').ok_or_else(|| format!("the `[` of `{value}` is not closed"))?;
        return Ok(match rest.strip_prefix(':') {
            Some(port) => (address, Some(port)),
            None if rest.is_empty() => (address, None),
            // `[fe80::]/10`, which the address itself is told without.
            None => (value, None),
        });
    }
    if let Some(rest) = value.strip_prefix('*') {
        return Ok(("", Some(rest)));
    }
    // The last `:`, but none in what is before a `/`.
    let (head, tail) = value.split_at(value.find('/').unwrap_or(0));
    let Some((left, port)) = tail.rsplit_once(':') else { return Ok((value, None)) };
    let address = value.get(..head.len() + left.len()).unwrap_or(value);
    let is_v6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    match (head.is_empty() && is_v6(value), is_v6(address)) {
        (true, true) => Err(format!(
            "`{value}` is an address, or one with a port: it is `[{value}]` or `[{address}]:{port}`"
        )),
        (true, false) => Ok((value, None)),
        _ => Ok((address, Some(port))),
    }
}

/// An address with the number of bits that count: `10.0.0.1`, `193.233.7/24`, `10.0.0.0/255.0.0.0`, `[fe80::]/10`. `None`: any.
pub(super) fn network(text: &str, family: Option<Family>) -> Result<Option<(IpAddr, u32)>, String> {
    if matches!(text, "any" | "all" | "default") {
        return Ok(None);
    }
    let wrong = || format!("`{text}` is neither an address nor a network such as 10.0.0.0/8 or fe80::/10");
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text, None),
    };
    let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    let network = if address.contains(':') {
        IpAddr::V6(address.parse().map_err(|_| wrong())?)
    } else {
        // A number alone is more likely a port whose `:` is missing.
        let is_alone = mask.is_none() && !address.contains('.');
        IpAddr::V4(Some(address).filter(|_| !is_alone).and_then(v4).ok_or_else(wrong)?)
    };
    let width = if network.is_ipv4() { 32 } else { 128 };
    let bits = match mask {
        None => width,
        Some(mask) => bits(mask).filter(|bits| *bits <= width).ok_or_else(wrong)?,
    };
    match (family, network) {
        (Some(Family::Inet6), IpAddr::V4(_)) => Err(format!("`{text}` is no address of IPv6")),
        (Some(Family::Inet), IpAddr::V6(_)) => Err(format!("`{text}` is no address of IPv4")),
        _ => Ok(Some((network, bits))),
    }
}

/// As iproute2 has it: what is missing at the end is 0 (`10.1` is `10.1.0.0`).
fn v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut given = text.split('.');
    for octet in &mut octets {
        let Some(text) = given.next() else { break };
        *octet = integer(text)?.try_into().ok()?;
    }
    given.next().is_none().then(|| octets.into())
}

/// A number, or a mask such as `255.0.0.0`.
fn bits(mask: &str) -> Option<u32> {
    if let Some(number) = integer(mask) {
        return number.try_into().ok();
    }
    let mask = v4(mask)?.to_bits();
    (mask.leading_ones() + mask.trailing_zeros() == 32).then(|| mask.leading_ones())
}

/// A number as C has it: `22`, `0x16`, `026`.
pub(super) fn integer(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // No sign.
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, radix).ok())?
}

/// The ports for which the comparison holds.
fn ports(key: &str, operator: Comparison, port: &str) -> Result<Expression, String> {
    let (first, last) = match operator {
        Comparison::Equal => services::ports(key, port)?,
        Comparison::Unequal => {
            return Ok(Expression::Not(Box::new(ports(key, Comparison::Equal, port)?)));
        }
        comparison => {
            let number = services::port(key, port)?;
            let range = match comparison {
                Comparison::Less => number.checked_sub(1).map(|last| (0, last)),
                Comparison::LessOrEqual => Some((0, number)),
                Comparison::Greater => number.checked_add(1).map(|first| (first, u16::MAX)),
                _ => Some((number, u16::MAX)),
            };
            // No port is below 0.
            let Some(range) = range else { return Ok(Expression::Any(Vec::new())) };
            range
        }
    };
    let local = key == "sport";
    Ok(Expression::Test(Test::Port { local, remote: !local, first, last }))
}
