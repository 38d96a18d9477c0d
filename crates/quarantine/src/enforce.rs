//! What cuts a device off: the seam between [`crate::Quarantine`], which keeps the journal, and a backend, which acts.
//!
//! One backend exists, [`crate::Nftables`]. Others (OVS, QMP `set_link`) fit behind the same four calls.

use crate::{Error, Place, Policy};
use facts::Nic;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Frames that a quarantine stopped, since the device was first cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Frames that the guest sent.
    pub from_packets: u64,
    /// Bytes of them.
    pub from_bytes: u64,
    /// Frames for the guest.
    pub to_packets: u64,
    /// Bytes of them.
    pub to_bytes: u64,
}

/// One device to cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Which.
    pub place: Place,
    /// Where the counters start: zero, or what was counted before the rules are written again.
    pub counted: Dropped,
}

/// How one device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Status {
    /// Cut off in both directions; read back from the kernel.
    Cut {
        /// What was stopped.
        #[serde(flatten)]
        dropped: Dropped,
    },
    /// Some of the rules are there: something else removed the rest.
    Broken {
        /// What is missing.
        missing: &'static str,
    },
    /// Not cut off: no rule of ours.
    Open,
    /// The device does not exist any more (or another of its name does). Rules of ours may be left behind.
    Absent,
}

/// A way to cut devices off.
pub trait Enforce: Send + std::fmt::Debug {
    /// Records where a device is, so that it is found again after its VMM ended and its pid went to somebody else.
    fn locate(&self, nic: &Nic) -> Result<Place, Error>;

    /// Cuts all of them off, atomically as far as they share a network namespace, and reads back that they are. Returns
    /// when the kernel had taken the last rule. Doing it again changes nothing but the policy and the counters. A device
    /// that does not exist is an error that comes after the others were cut off.
    fn apply(&self, cuts: &[Cut], policy: &Policy) -> Result<Instant, Error>;

    /// Restores all of them and reads back that they are. What is not cut off stays so.
    fn remove(&self, places: &[Place]) -> Result<(), Error>;

    /// How one device stands. [`Error::NamespaceGone`] when its namespace ended: then nothing is left to ask about.
    fn status(&self, place: &Place) -> Result<Status, Error>;
}
