//! The host's stored profiles, held against what a guest's memory says of its kernel (invariant 9).
//!
//! A profile is of the guest's build when release and build id are the same, or, where it came without a build id
//! (Volatility's format has none), the whole banner, which names compiler and time of the build. Whether it then agrees
//! with the guest is another question: who alters a kernel's memory leaves its build id alone. Of several, the one that agrees
//! best is taken, because two builds may share a garbage build id.

use super::kernel::{Boot, Held};
use super::symbols::Symbols;
use crate::Error;
use guest_profiles::linux::WANTED;
use guest_profiles::{Profile, Stored};
use std::cell::OnceCell;
use std::sync::LazyLock;

/// Most disagreements that are told of one guest.
const TOLD_MAX: usize = 16;

/// Of the stored profiles of a release those of this very build.
pub(super) fn of_build(mut stored: Vec<Stored>, boot: &Boot) -> Vec<Stored> {
    stored.retain(|stored| is_of_build(&stored.profile, boot));
    stored
}

/// Of stored profiles of this build the one that agrees best with the guest's memory, and where it does not. `own` reads
/// the profile that the guest's memory has; it is asked at most once, and only when a stored profile has no BTF digest.
/// `partial`: the guest's symbol table never had all symbols, so a missing one says nothing.
pub(super) fn best(
    stored: Vec<Stored>,
    boot: &Boot,
    linked: &Symbols,
    partial: bool,
    own: &dyn Fn() -> Result<Profile, Error>,
) -> Option<Held> {
    let of_guest = OnceCell::new();
    stored
        .into_iter()
        .map(|stored| {
            let contradictions = contradictions(&stored, boot, linked, partial, || of_guest.get_or_init(own));
            Held { stored, contradictions }
        })
        .min_by_key(|held| (held.contradictions.len(), !is_current(&held.stored.profile)))
}

/// Whether a profile answers what this version of the walkers asks. One that does not may lack a member only because nobody
/// asked for it, and a walker would take that for a kernel without it.
pub(super) fn is_current(profile: &Profile) -> bool {
    static DIGEST: LazyLock<String> = LazyLock::new(|| WANTED.digest());
    profile.wanted == *DIGEST
}

fn is_of_build(profile: &Profile, boot: &Boot) -> bool {
    if profile.release != boot.release {
        return false;
    }
    match &profile.build_id {
        Some(id) => boot.build_id.as_ref() == Some(id),
        None => profile.banner.is_some() && profile.banner == boot.banner,
    }
}

fn contradictions<'o>(
    stored: &Stored,
    boot: &Boot,
    linked: &Symbols,
    partial: bool,
    own: impl FnOnce() -> &'o Result<Profile, Error>,
) -> Vec<String> {
    let profile = &stored.profile;
    let mut found = Vec::new();
    match (&profile.btf_digest, &boot.btf_digest) {
        (Some(digest), Some(guest)) if digest == guest => {}
        (Some(digest), guest) => found.push(format!(
            "the guest's type information has digest {}, the stored profile of this build {digest}",
            guest.as_deref().unwrap_or("unknown")
        )),
        // A kernel without BTF: its layouts cannot be held against anything.
        (None, None) => {}
        (None, Some(_)) => match own() {
            Ok(own) => {
                let mut types = own.clone();
                types.symbols.clear();
                found.extend(types.disagreements("the guest's memory", profile, "the stored profile"));
            }
            Err(error) => found.push(format!("the guest's type information is damaged: {error}")),
        },
    }
    for (name, stored) in &profile.symbols {
        match linked.get(name) {
            Some(guest) if guest == stored => {}
            Some(guest) => found.push(format!(
                "the guest's symbol table has {name} at {guest:#x}, the stored profile of this build at {stored:#x}"
            )),
            None if partial => {}
            None => found.push(format!(
                "the guest's symbol table has no {name}, the stored profile of this build has it at {stored:#x}"
            )),
        }
    }
    let more = found.len().saturating_sub(TOLD_MAX);
    if more > 0 {
        found.truncate(TOLD_MAX);
        found.push(format!("and {more} more"));
    }
    found
}
