//! What is worth keeping of a kernel between two runs of a program: with it, the next look needs no search.
//!
//! A hint is of one boot of one guest. Whoever resumes from it is told whether that boot still runs, by a few reads of the
//! guest's memory ([`Kernel::is_current`], and a clock that has gone on); a hint that does not fit costs nothing but them. It holds the profile that was
//! used, so that what was judged at the first look is what later looks are judged with. Its file is the host's: who can
//! write it can already choose what the host sees.

use super::clock;
use super::kernel::{Boot, Kernel, KernelProfile};
use crate::Error;
use facts::ProfileOrigin;
use serde::{Deserialize, Serialize};
use vmi_core::GuestMemory;

const SCHEMA: &str = "birthmark.hint/v2";
/// Largest hint read. One has some ten kilobytes.
const BYTES_MAX: usize = 8 << 20;

/// A located kernel, to be written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    schema: String,
    boot: Boot,
    profile: KernelProfile,
    /// How far the guest's wall clock was ahead of the host's, in seconds. `None`: it could not be read.
    clock_ahead: Option<i64>,
}

impl Hint {
    /// Reads what [`Hint::to_json`] wrote. `None`: it is damaged, or of another version of this program.
    #[must_use]
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let hint: Self = serde_json::from_slice(json.get(..json.len().min(BYTES_MAX))?).ok()?;
        (hint.schema == SCHEMA).then_some(hint)
    }

    /// Release of the kernel, as `uname -r` prints it.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.boot.release
    }

    /// Where its profile came from.
    #[must_use]
    pub fn profile_origin(&self) -> &ProfileOrigin {
        self.profile.origin()
    }

    /// JSON, one line.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and maps with string keys always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Kernel {
    /// What [`Kernel::resume`] needs. `Err` when the VM is gone.
    pub fn hint(&self, memory: &dyn GuestMemory) -> Result<Hint, Error> {
        let (boot, profile) = (self.boot.clone(), self.profile.clone());
        let clock_ahead = clock::ahead(self, memory)?;
        Ok(Hint { schema: SCHEMA.to_owned(), boot, profile, clock_ahead })
    }

    /// The kernel that a hint tells of. `Ok(None)`: that boot is over, or never was this guest's, or its clock stands, so that
    /// this may be what it left behind. `Err` when the VM is gone.
    pub fn resume(memory: &dyn GuestMemory, hint: Hint) -> Result<Option<Self>, Error> {
        let Ok(kernel) = Self::new(hint.boot, hint.profile) else { return Ok(None) };
        let runs = kernel.is_current(memory)? && clock::is_still_ahead(&kernel, memory, hint.clock_ahead)?;
        Ok(runs.then_some(kernel))
    }
}

/// A guest-physical address as a number.
pub(super) mod gpa {
    use serde::{Deserialize, Deserializer, Serializer};
    use vmi_core::Gpa;

    pub(in super::super) fn serialize<S: Serializer>(at: &Gpa, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(at.0)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Gpa, D::Error> {
        u64::deserialize(deserializer).map(Gpa)
    }
}

/// The same where there may be none.
pub(super) mod optional_gpa {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use vmi_core::Gpa;

    pub(in super::super) fn serialize<S: Serializer>(
        at: &Option<Gpa>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        at.map(|at| at.0).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Gpa>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Gpa))
    }
}

/// The depth of page tables as 4 or 5.
pub(super) mod levels {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use vmi_core::Levels;

    pub(in super::super) fn serialize<S: Serializer>(
        levels: &Levels,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(levels.count())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Levels, D::Error> {
        match u8::deserialize(deserializer)? {
            4 => Ok(Levels::Four),
            5 => Ok(Levels::Five),
            other => Err(D::Error::custom(format_args!("page tables of {other} levels"))),
        }
    }
}
