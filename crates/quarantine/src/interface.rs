//! Names of network devices, checked before they come near a rule.
//!
//! Linux allows almost any byte in a device name (`dev_valid_name` in net/core/dev.c refuses only `/`, `:` and white
//! space). A rule file has quoting and a table has an identifier grammar, so this type allows only what needs neither:
//! anything else is refused, never escaped.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name: `IFNAMSIZ` (16) less the closing zero byte.
const MAX_LEN: usize = 15;

/// Name of a host-side network device: 1 to 15 of `A-Z a-z 0-9 . _ -`, not `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, Error> {
        let refuse = |why| Err(Error::InterfaceName { name: name.chars().take(64).collect(), why });
        if name.is_empty() {
            return refuse("it is empty");
        }
        if name.len() > MAX_LEN {
            return refuse("it is longer than 15 bytes");
        }
        if name == "." || name == ".." {
            return refuse("it names a directory");
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
            return refuse("it has characters other than A-Z a-z 0-9 . _ -");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(&name)
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hypervisors_give_are_allowed() {
        for name in ["tap0", "vnet12", "vif1.0", "tap1f2e3d4c-5b", "a", "fifteen_bytes_x"] {
            assert_eq!(InterfaceName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_could_change_a_rule_are_refused() {
        let refused = [
            "",
            ".",
            "..",
            "sixteen_bytes_xx",
            "tap 0",
            "tap0\"",
            "tap0;",
            "tap0}",
            "tap\n0",
            "tap/0",
            "tap:0",
            "tap*",
            "tap$",
            "täp",
            "tap\\0",
            "tap\0",
        ];
        for name in refused {
            assert!(InterfaceName::new(name).is_err(), "{name:?}");
        }
    }
}
