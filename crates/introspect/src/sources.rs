//! What a search for a kernel may go by beside the guest's memory.
//!
//! These are questions that are asked only when their answer is needed, and each may be answered with nothing.

use guest_profiles::{Outline, Stored};
use std::{fmt, iter};
use vmi_core::Registers;

/// Where to ask.
#[derive(Clone, Copy)]
pub struct Sources<'s> {
    /// Registers of the vCPUs. Asked when memory alone does not answer: a kernel that does not describe itself, or two
    /// descriptions that both hold together.
    pub registers: &'s dyn Fn() -> Vec<Registers>,
    /// The host's stored profiles of a release (`uname -r`). One of the same build as the guest's kernel is used in place of
    /// what the guest's memory says of itself, and held against that (invariant 9).
    pub profiles: &'s dyn Fn(&str) -> Vec<Stored>,
    /// What tells the kernels of all of the host's stored profiles: they are looked for first, where a kernel can start. Each
    /// is asked for only when those before it were not found.
    pub known: &'s dyn Fn() -> Box<dyn Iterator<Item = Outline> + 's>,
}

impl Default for Sources<'_> {
    /// Nothing but memory.
    fn default() -> Self {
        Self { registers: &Vec::new, profiles: &|_| Vec::new(), known: &|| Box::new(iter::empty()) }
    }
}

impl fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}
