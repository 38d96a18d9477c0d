//! The first look at a guest whose kernel's profile the host has: taken while that kernel is being proved.
//!
//! Most of what a first look costs is the proof: that the guest's symbols and types are those of the profile. The look itself needs
//! none of it but the answer, so it is begun beside the proof with the kernel that the proof will find if everything agrees, and
//! counts only if it found that very kernel: the same page tables, the same place, the same profile, nothing that contradicts it. Must
//! never show anything of a look whose kernel was not proved.

use crate::linux::kernel::Kernel;
use crate::linux::locate;
use crate::session;
use crate::{Error, Options, Sources};
use facts::{Snapshot, Vm};
use std::cell::OnceCell;
use std::thread;
use vmi_core::{Access, Budget, GuestMemory};

pub(crate) fn first_look(
    memory: &dyn GuestMemory,
    sources: &Sources<'_>,
    budget: Budget,
    vm: &Vm,
    options: &Options,
) -> Result<(Kernel, Snapshot), Error> {
    let look = |kernel: &Kernel| session::snapshot(memory, kernel, vm, options);
    let (proved, begun) = thread::scope(|scope| {
        // The first guess: a guest that has more than one of them is not worth more than one look.
        let begun = OnceCell::new();
        let begin = |guess: Kernel| {
            // Where each read is a call a look keeps the pages that it reads, and the proof holds the symbols' names meanwhile: both
            // at once are more of the host's memory than a first look may take.
            if memory.access() == Access::PerCall {
                return;
            }
            begun.get_or_init(|| {
                let take = move || (look(&guess), guess);
                // Without a thread to be had the look waits for the proof.
                thread::Builder::new().name("look".to_owned()).spawn_scoped(scope, take).ok()
            });
        };
        let proved = locate::locate_telling(memory, sources, budget, &begin);
        // A thread that panicked has no answer.
        (proved, begun.into_inner().flatten().and_then(|begun| begun.join().ok()))
    });
    let proved = proved?;
    match begun {
        Some((Ok(snapshot), guess)) if guess.is_the_same(&proved) => Ok((guess, snapshot)),
        _ => {
            let snapshot = look(&proved)?;
            Ok((proved, snapshot))
        }
    }
}
