//! What stays open for a VM in quarantine: nothing ([`Policy::strict`]), or a few management networks.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Most management networks of one policy: what a person writes down, and a bound for the size of a rule set.
const MAX_PREFIXES: usize = 256;

/// A network, `10.0.0.0/29` or `fd00::/64`; a plain address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// First address of the network.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Number of leading bits that are fixed: 1 to 32, or 1 to 128.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether every address of `other` is in this network.
    #[must_use]
    pub fn contains(&self, other: &Prefix) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.length <= other.length
            && masked(other.address, self.length) == self.address
    }
}

/// `address` with all but its first `length` bits cleared.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| Error::Prefix { text: text.chars().take(64).collect(), why };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr =
            address.parse().map_err(|_| refuse("it does not start with an IPv4 or IPv6 address".into()))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => longest,
            Some(length) => length
                .parse()
                .ok()
                .filter(|length| (1..=longest).contains(length))
                .ok_or_else(|| refuse(format!("its length is not a number from 1 to {longest}")))?,
        };
        let first = masked(address, length);
        if first != address {
            return Err(refuse(format!("it has bits behind its length; the network is {first}/{length}")));
        }
        Ok(Self { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl TryFrom<String> for Prefix {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

/// What a VM in quarantine may still reach, and be reached from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Policy {
    management: Vec<Prefix>,
}

impl Policy {
    /// Nothing stays open.
    #[must_use]
    pub fn strict() -> Self {
        Self::default()
    }

    /// The given networks stay open. Networks inside others are dropped, so that no two overlap (an nftables interval
    /// set refuses overlaps). At most 256.
    pub fn with_management(networks: &[Prefix]) -> Result<Self, Error> {
        if networks.len() > MAX_PREFIXES {
            return Err(Error::Prefix {
                text: format!("{} networks", networks.len()),
                why: format!("a policy holds at most {MAX_PREFIXES}"),
            });
        }
        let mut management: Vec<Prefix> = Vec::new();
        let mut sorted = networks.to_vec();
        sorted.sort_by_key(|prefix| (prefix.length, prefix.address));
        for prefix in sorted {
            if !management.iter().any(|kept| kept.contains(&prefix)) {
                management.push(prefix);
            }
        }
        management.sort();
        Ok(Self { management })
    }

    /// The networks that stay open: sorted, no two overlap.
    #[must_use]
    pub fn management(&self) -> &[Prefix] {
        &self.management
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn networks_and_addresses_are_read() {
        assert_eq!(prefix("10.0.0.8/29").to_string(), "10.0.0.8/29");
        assert_eq!(prefix("10.0.0.1").to_string(), "10.0.0.1/32");
        assert_eq!(prefix("fd00::/64").to_string(), "fd00::/64");
        assert_eq!(prefix("fd00::1").length(), 128);
    }

    #[test]
    fn what_is_no_network_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "does not start"),
            ("host/24", "does not start"),
            ("10.0.0.0/0", "from 1 to 32"),
            ("10.0.0.0/33", "from 1 to 32"),
            ("10.0.0.0/", "from 1 to 32"),
            ("fd00::/129", "from 1 to 128"),
            ("10.0.0.5/29", "the network is 10.0.0.0/29"),
            ("fd00::1/64", "the network is fd00::/64"),
        ] {
            let message = text.parse::<Prefix>().unwrap_err().to_string();
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn networks_inside_others_are_dropped() {
        let policy = Policy::with_management(&[
            prefix("10.0.0.1"),
            prefix("10.0.0.0/29"),
            prefix("fd00::1"),
            prefix("10.0.0.0/29"),
            prefix("10.0.0.8/29"),
        ])
        .unwrap();
        let kept: Vec<String> = policy.management().iter().map(ToString::to_string).collect();
        assert_eq!(kept, ["10.0.0.0/29", "10.0.0.8/29", "fd00::1/128"]);
    }

    #[test]
    fn a_policy_survives_json() {
        let policy = Policy::with_management(&[prefix("10.0.0.0/29")]).unwrap();
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(json, r#"["10.0.0.0/29"]"#);
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
        assert!(serde_json::from_str::<Policy>(r#"["10.0.0.1/8"]"#).is_err());
    }
}
