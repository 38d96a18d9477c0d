//! A set of Linux capabilities, written as names so that a person can approve it.
//!
//! Numbers and names are those of `include/uapi/linux/capability.h` of Linux 6.12 (the last one is 40,
//! `CAP_CHECKPOINT_RESTORE`, since 5.9). A bit without a name is written `cap_N`. Must never drop a bit.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeSeq};

const NAMES: [&str; 41] = [
    "cap_chown",
    "cap_dac_override",
    "cap_dac_read_search",
    "cap_fowner",
    "cap_fsetid",
    "cap_kill",
    "cap_setgid",
    "cap_setuid",
    "cap_setpcap",
    "cap_linux_immutable",
    "cap_net_bind_service",
    "cap_net_broadcast",
    "cap_net_admin",
    "cap_net_raw",
    "cap_ipc_lock",
    "cap_ipc_owner",
    "cap_sys_module",
    "cap_sys_rawio",
    "cap_sys_chroot",
    "cap_sys_ptrace",
    "cap_sys_pacct",
    "cap_sys_admin",
    "cap_sys_boot",
    "cap_sys_nice",
    "cap_sys_resource",
    "cap_sys_time",
    "cap_sys_tty_config",
    "cap_mknod",
    "cap_lease",
    "cap_audit_write",
    "cap_audit_control",
    "cap_setfcap",
    "cap_mac_override",
    "cap_mac_admin",
    "cap_syslog",
    "cap_wake_alarm",
    "cap_block_suspend",
    "cap_audit_read",
    "cap_perfmon",
    "cap_bpf",
    "cap_checkpoint_restore",
];
/// Every bit that has a name.
const NAMED: u64 = (1 << NAMES.len()) - 1;
const ALL: &str = "all";

/// Capabilities a process may have at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capabilities(u64);

impl Capabilities {
    /// From the kernel's mask. All capabilities that have a name are `all`, so that an unconfined process of one kernel
    /// conforms on a kernel with one capability more.
    #[must_use]
    pub fn from_mask(mask: u64) -> Self {
        if mask & NAMED == NAMED { Self(u64::MAX) } else { Self(mask) }
    }

    /// The mask; all bits for `all`.
    #[must_use]
    pub fn mask(self) -> u64 {
        self.0
    }

    /// What `self` has and `allowed` has not.
    #[must_use]
    pub fn beyond(self, allowed: Self) -> Self {
        let seen = if self.0 == u64::MAX { NAMED } else { self.0 };
        Self(seen & !allowed.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names, in the kernel's order; `all` alone for all.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        if self.0 == u64::MAX {
            return vec![ALL.to_owned()];
        }
        (0..u64::BITS as usize)
            .filter(|bit| self.0 & (1 << bit) != 0)
            .map(|bit| NAMES.get(bit).map_or_else(|| format!("cap_{bit}"), |name| (*name).to_owned()))
            .collect()
    }

    fn from_name(name: &str) -> Option<Self> {
        if name == ALL {
            return Some(Self(u64::MAX));
        }
        let bit = match NAMES.iter().position(|known| *known == name) {
            Some(bit) => u32::try_from(bit).ok()?,
            None => name.strip_prefix("cap_")?.parse().ok()?,
        };
        1_u64.checked_shl(bit).map(Self)
    }
}

impl std::fmt::Display for Capabilities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_empty() { f.write_str("none") } else { f.write_str(&self.names().join(",")) }
    }
}

impl Serialize for Capabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let names = self.names();
        let mut list = serializer.serialize_seq(Some(names.len()))?;
        for name in &names {
            list.serialize_element(name)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut mask = 0;
        for name in Vec::<String>::deserialize(deserializer)? {
            let one = Self::from_name(&name)
                .ok_or_else(|| de::Error::custom(format_args!("no capability is called {name:?}")))?;
            mask |= one.0;
        }
        Ok(Self::from_mask(mask))
    }
}
