//! Users and groups of an image, out of `/etc/passwd` and `/etc/group`.

use super::TEXT_MAX;
use crate::{Error, Tree};
use std::collections::BTreeMap;

/// Names and numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    users: BTreeMap<String, (u32, u32)>,
    groups: BTreeMap<String, u32>,
}

impl Accounts {
    pub(super) fn read(tree: &Tree) -> Result<Self, Error> {
        let mut accounts = Self::default();
        for line in tree.text("/etc/passwd", TEXT_MAX)?.unwrap_or_default().lines() {
            let mut fields = line.split(':');
            let name = fields.next().unwrap_or_default();
            let numbers = (
                fields.nth(1).and_then(|uid| uid.parse().ok()),
                fields.next().and_then(|gid| gid.parse().ok()),
            );
            if let (Some(uid), Some(gid)) = numbers {
                accounts.users.entry(name.to_owned()).or_insert((uid, gid));
            }
        }
        for line in tree.text("/etc/group", TEXT_MAX)?.unwrap_or_default().lines() {
            let mut fields = line.split(':');
            let name = fields.next().unwrap_or_default();
            if let Some(gid) = fields.nth(1).and_then(|gid| gid.parse().ok()) {
                accounts.groups.entry(name.to_owned()).or_insert(gid);
            }
        }
        Ok(accounts)
    }

    /// User and group of a user, given by name or number.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<(u32, u32)> {
        let by_number = |uid: u32| self.users.values().find(|(known, _)| *known == uid).copied();
        self.users.get(name).copied().or_else(|| name.parse().ok().and_then(by_number))
    }

    /// A group, given by name or number.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups.get(name).copied().or_else(|| name.parse().ok())
    }
}
