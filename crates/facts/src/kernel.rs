//! The kernel a guest runs.

use crate::Address;
use serde::{Deserialize, Serialize};

/// Where the layouts and symbols of a look came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileSource {
    /// Read out of the guest's own memory: right for a clean guest, and only trusted at its birth (invariant 9).
    Guest,
    /// The host's profile store.
    Store,
}

/// The profile of a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileOrigin {
    /// Where it came from.
    pub source: ProfileSource,
    /// `sha256:…` of the profile's content.
    pub digest: String,
    /// File of the host's stored profile of the same build: the one that was used, or (source `guest`) one that could only be
    /// held against the guest's memory, because another version of Birthmark made it. `None`: there is none of this build.
    #[serde(default)]
    pub stored: Option<String>,
    /// Where the guest's own memory disagrees with the host's stored profile of the same build, one sentence each: somebody
    /// altered the guest's symbol table or type information.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contradictions: Vec<String>,
}

/// The kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: Option<String>,
    /// The `Linux version …` line, without the newline.
    pub banner: Option<String>,
    /// GNU build id, lower-case hex.
    pub build_id: Option<String>,
    /// `sha256:…` of the kernel's type information in guest memory.
    pub btf_digest: Option<String>,
    /// `x86_64`.
    pub arch: String,
    /// 4 or 5.
    pub page_table_levels: u8,
    /// How far KASLR moved the kernel from where it was linked, in bytes.
    pub kaslr_offset: Address,
    /// Guest-physical address of the kernel's own page-table root.
    pub page_table_root: Address,
    /// The guest's `/proc/sys/kernel/random/boot_id`; `None` while nobody in the guest has asked for it.
    pub boot_id: Option<String>,
    /// When it booted, by the guest's wall clock as it is set now, RFC 3339.
    #[serde(default)]
    pub booted_at: Option<String>,
    /// The profile that was used.
    pub profile: ProfileOrigin,
}
