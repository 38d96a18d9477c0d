//! A guest address as the outside world sees it: a `"0x…"` string.
//!
//! JSON numbers lose precision above 2^53 and kernel addresses are above it, so an address is never a JSON number.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// An address or address-like 64-bit value (guest-virtual unless the field says otherwise), shown as `0x…` in hex.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").ok_or_else(|| de::Error::custom("an address starts with 0x"))?;
        u64::from_str_radix(digits, 16).map(Address).map_err(de::Error::custom)
    }
}
