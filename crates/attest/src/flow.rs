//! With whom a VM may speak: the flows of a certificate.
//!
//! A flow is told by its direction, its protocol, the peer's network, and the port at the end that serves: the peer's port
//! of what the guest opened, its own port of what others opened. The port at the other end is chosen by a kernel and means
//! nothing. Must never name an address of the guest itself.

use crate::certificate::PortRule;
use crate::pattern::Pattern;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a VM may connect to, and who may connect to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Opened by the guest.
    pub egress: Vec<FlowEntry>,
    /// Opened by others.
    pub ingress: Vec<FlowEntry>,
}

/// Flows of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FlowEntry {
    /// `tcp`, `udp`, … as in a snapshot.
    pub protocol: String,
    /// Network of the peer.
    pub cidr: Cidr,
    /// Port of the peer (egress) or of the guest (ingress).
    pub port: PortRule,
    /// Templates for the executables that may hold the socket; everyone who holds it must be among them. Empty: held by no
    /// process, that is, by the kernel itself.
    pub processes: Vec<Pattern>,
}

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// Every IPv4 address.
    pub const ANY_V4: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };
    /// Every IPv6 address.
    pub const ANY_V6: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };

    /// The network of one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Every address of the same family.
    #[must_use]
    pub fn any_like(address: IpAddr) -> Self {
        if address.to_canonical().is_ipv4() { Self::ANY_V4 } else { Self::ANY_V6 }
    }

    /// Parses `10.0.0.0/8`; a single address is a network of one. `None` for anything else, bits beyond the length included.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let Some((address, length)) = text.split_once('/') else { return text.parse().ok().map(Self::host) };
        let address: IpAddr = address.parse().ok()?;
        if length.is_empty() || !length.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let network = Self { address, length: length.parse().ok()? };
        let most = if address.is_ipv4() { 32 } else { 128 };
        (network.length <= most && network.bits(address) == Some(whole(address))).then_some(network)
    }

    /// Whether the address is in it. An IPv4 address that an IPv6 socket shows as `::ffff:a.b.c.d` is the IPv4 address.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let wanted = self.bits(self.address);
        wanted.is_some() && wanted == self.bits(address.to_canonical())
    }

    /// Whether every address of the other is in it.
    pub(crate) fn holds(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether it holds every address of its family.
    #[must_use]
    pub fn is_everything(self) -> bool {
        self.length == 0
    }

    /// The bits of the address that count; `None` for one of another family.
    fn bits(self, address: IpAddr) -> Option<u128> {
        if address.is_ipv4() != self.address.is_ipv4() {
            return None;
        }
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let ignored = width.saturating_sub(u32::from(self.length));
        Some(u128::MAX.checked_shl(ignored).unwrap_or(0) & whole(address))
    }
}

/// The address as a number.
fn whole(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom(format_args!("{text:?} is no network like \"10.0.0.0/8\" or \"2001:db8::/32\""))
        })
    }
}
