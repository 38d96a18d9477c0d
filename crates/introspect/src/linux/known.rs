//! The kernels of the host's stored profiles, looked for where a kernel can start.
//!
//! A profile says how far the notes with the build id are from the kernel's first byte, and that byte is at a multiple of 2 MiB.
//! So a few hundred places of a gigabyte answer whether one of the known builds is in memory, and the search of every page is
//! for those that are not. A match is a candidate and no more: it says where that kernel keeps its description of itself, which
//! then has to prove itself as any other ([`super::locate`]). Must never take a kernel that has handed over to another one:
//! what a kexec leaves behind holds together in every other way ([`has_handed_over`]).

use super::image::{LINKED_AT, STEP};
use super::kernel::Kernel;
use guest_profiles::{Outline, build_id};
use std::ops::Range;
use vmi_core::{Access, AddressSpace, Gpa, GuestMemory, Gva, Levels, Look, MemoryError, PAGE_SIZE, Region};

/// Bytes of notes that are read; a kernel has a few hundred.
const NOTES_MAX: u64 = 4096;
/// ``PANIC_CPU_INVALID`` (kernel/panic.c): no CPU has panicked.
const NO_CPU: u32 = u32::MAX;

/// The places where a kernel can start: memory that is a multiple of 2 MiB and has something there.
pub(super) fn starts(memory: &dyn GuestMemory) -> Result<Vec<Gpa>, MemoryError> {
    let mut starts = Vec::new();
    for extent in extents(memory)? {
        let mut place = Gpa(extent.start.0.next_multiple_of(STEP));
        while extent.contains(place, PAGE_SIZE) {
            let mut first = [0; 8];
            if copy(memory, Some(place), &mut first)? && first != [0; 8] {
                starts.push(place);
            }
            let Some(next) = place.checked_add(STEP) else { break };
            place = next;
        }
    }
    Ok(starts)
}

/// What is worth asking. Where memory is mapped, asking whether a page is there costs more than skipping what was never written;
/// where each read is a call, it is the other way round.
fn extents(memory: &dyn GuestMemory) -> Result<Vec<Region>, MemoryError> {
    match memory.access() {
        Access::PerCall => Ok(memory.regions().to_vec()),
        Access::Mapped => {
            let extents: Result<Vec<_>, _> =
                memory.regions().iter().map(|region| memory.populated(*region)).collect();
            Ok(extents?.into_iter().flatten().collect())
        }
    }
}

/// What a profile says of its kernel's bytes. Distances are in bytes from the kernel's first one.
struct Shape<'p> {
    build_id: &'p str,
    /// From ``__start_notes`` to ``__stop_notes``.
    notes: Range<u64>,
    /// ``init_top_pgt``
    root: u64,
    /// ``vmcoreinfo_data``, a pointer.
    description: u64,
}

impl<'p> Shape<'p> {
    /// `None`: the profile lacks some of it (a kernel without ``CONFIG_KALLSYMS_ALL``, an imported file).
    fn of(known: &'p Outline) -> Option<Self> {
        let distance = |name: &str| known.symbols.get(name)?.checked_sub(LINKED_AT);
        Some(Self {
            build_id: known.build_id.as_deref()?,
            notes: distance("__start_notes")?..distance("__stop_notes")?,
            root: distance("init_top_pgt")?,
            description: distance("vmcoreinfo_data")?,
        })
    }
}

/// Where kernels of this profile that start at one of `starts` keep their VMCOREINFO.
pub(super) fn descriptions(
    look: &Look<'_>,
    starts: &[Gpa],
    known: &Outline,
) -> Result<Vec<Gpa>, MemoryError> {
    let mut found = Vec::new();
    let Some(shape) = Shape::of(known) else { return Ok(found) };
    let len = shape.notes.end.saturating_sub(shape.notes.start).min(NOTES_MAX);
    let mut notes = vec![0; usize::try_from(len).unwrap_or(0)];
    for start in starts {
        if copy(look.memory(), start.checked_add(shape.notes.start), &mut notes)?
            && build_id(&notes).is_ok_and(|found| found == shape.build_id)
        {
            found.extend(description(look, *start, &shape)?);
        }
    }
    Ok(found)
}

/// The page with the description of the kernel that starts at `start`. `Ok(None)`: it leads nowhere.
fn description(look: &Look<'_>, start: Gpa, shape: &Shape<'_>) -> Result<Option<Gpa>, MemoryError> {
    let mut pointer = [0; 8];
    if !copy(look.memory(), start.checked_add(shape.description), &mut pointer)? {
        return Ok(None);
    }
    let Some(root) = start.checked_add(shape.root) else { return Ok(None) };
    let pointer = Gva(u64::from_le_bytes(pointer));
    // With the wrong depth the pointer leads nowhere, or to a page that is no description.
    let leads_to = |levels| AddressSpace::brief(look, root, levels).translate(pointer).ok();
    let page = [Levels::Four, Levels::Five].into_iter().find_map(leads_to);
    Ok(page.map(|page| page.at).filter(|at| at.page_offset() == 0))
}

/// Copies what is looked at once. `Ok(false)`: there is no memory, or none that can be seen.
fn copy(memory: &dyn GuestMemory, at: Option<Gpa>, bytes: &mut [u8]) -> Result<bool, MemoryError> {
    match at.map(|at| memory.read_once(at, bytes)) {
        Some(Ok(())) => Ok(true),
        None | Some(Err(MemoryError::Outside { .. } | MemoryError::PagedOut { .. })) => Ok(false),
        Some(Err(error)) => Err(error),
    }
}

/// Whether a kernel says that it runs no more: it has started another one (``kexec_in_progress``, kernel/kexec_core.c), or has
/// panicked (``panic_cpu``, kernel/panic.c) and may have left the machine to the one that dumps it.
pub(super) fn has_handed_over(look: &Look<'_>, kernel: &Kernel) -> bool {
    let space = AddressSpace::new(look, kernel.root(), kernel.levels());
    let mut kexec = [0];
    let kexec = kernel.symbol("kexec_in_progress").map(|at| space.read(at, &mut kexec).map(|()| kexec[0]));
    let panic = kernel.symbol("panic_cpu").map(|at| space.u32(at));
    // What cannot be read proves nothing. A kernel without kexec has no such symbol.
    !matches!(kexec, None | Some(Ok(0))) || !matches!(panic, Some(Ok(NO_CPU)))
}
