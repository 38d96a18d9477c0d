//! How often and on how many VMs something was seen: what a reviewer wants to know first.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// In which looks and on which VMs something was seen. Looks come in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sightings {
    /// Number of looks.
    pub(crate) looks: usize,
    last: Option<usize>,
    /// Numbers of the VMs.
    pub(crate) vms: BTreeSet<usize>,
}

/// One look: its number, and the number of its VM.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    pub(crate) number: usize,
    pub(crate) vm: usize,
}

impl Sightings {
    pub(crate) fn add(&mut self, look: Look) {
        if self.last != Some(look.number) {
            self.looks = self.looks.saturating_add(1);
            self.last = Some(look.number);
        }
        self.vms.insert(look.vm);
    }

    /// Takes over what was seen under another description. A look that saw both counts once.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.looks = self.looks.max(other.looks);
        self.vms.extend(&other.vms);
    }
}
