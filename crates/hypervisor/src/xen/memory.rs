//! The memory of one domain: foreign mappings, made when they are first read and dropped when a new look begins.
//!
//! A mapping holds the page that a frame was when it was mapped. If the guest gives the frame back meanwhile, the mapping
//! would go on showing the old page, and would keep a domain that has ended from being freed. So none lives longer than a
//! look. Frames are mapped in runs of 64, because a call costs much more than a frame.
//!
//! Mapping a frame that a pager has taken out asks the pager to bring it back (``do_mmu_update``, xen/arch/x86/mm.c), so those that were out
//! when the domain was opened are never mapped, and one that turns out to be is not asked for again in the same look. What they hold
//! is unknown: reading them is an error of its own, and not zeros.

use super::control::Info;
use super::layout::Layout;
use super::privcmd::{FRAME, Frames, Privcmd};
use super::pv::{self, P2m};
use crate::kvm::{joined, page_aligned};
use nix::errno::Errno;
use std::collections::HashMap;
use std::io;
use std::sync::{PoisonError, RwLock};
use vmi_core::{Access, Gpa, GuestMemory, MemoryError, PAGE_SIZE, Region};

/// Frames of a run.
const RUN: u64 = 64;
/// Most runs mapped at once, 1 GiB of memory: each is a mapping of this process, of which Linux allows 65530.
const RUNS_MAX: usize = 4096;
/// Frames asked whether the domain still is there.
const PROBES: usize = 8;

/// How guest-physical addresses are frames.
#[derive(Debug)]
enum Numbering {
    /// The domain's own, which the hypervisor translates (HVM, PVH).
    Own,
    /// Machine frames, as the page tables of a paravirtual domain have them; and, where no machine frame of the domain has
    /// that number, its pseudo-physical ones. Page tables are read by the first, so they win where both could be meant.
    Machine { info: Info, state: RwLock<Machine> },
}

#[derive(Debug, Default)]
struct Machine {
    p2m: P2m,
    /// Machine frames of the domain: ascending, first and one behind the last.
    owned: Vec<(u64, u64)>,
}

/// Memory of a Xen domain. Made by [`crate::open`].
#[derive(Debug)]
pub struct XenMemory {
    privcmd: Privcmd,
    domid: u16,
    numbering: Numbering,
    regions: Vec<Region>,
    present: Vec<Region>,
    /// Not to be mapped.
    paged_out: Vec<Region>,
    /// Mapped runs by their first frame divided by [`RUN`].
    runs: RwLock<HashMap<u64, Frames>>,
}

impl XenMemory {
    /// Memory that the hypervisor translates.
    pub(super) fn translated(privcmd: Privcmd, domid: u16, layout: Layout) -> Self {
        Self {
            privcmd,
            domid,
            numbering: Numbering::Own,
            regions: layout.regions,
            present: layout.present,
            paged_out: layout.paged_out,
            runs: RwLock::default(),
        }
    }

    /// Memory of a paravirtual domain.
    pub(super) fn paravirtual(privcmd: Privcmd, info: Info, p2m: P2m) -> Self {
        let machine = Machine::new(p2m);
        let present: Vec<Region> = machine.owned.iter().map(|&(first, end)| region(first, end)).collect();
        let own = region(0, machine.p2m.machine.len() as u64);
        let mut regions = present.clone();
        regions.push(own);
        regions.sort_by_key(|region| region.start);
        Self {
            privcmd,
            domid: info.domid,
            numbering: Numbering::Machine { info, state: RwLock::new(machine) },
            regions: joined(regions.into_iter()),
            present,
            paged_out: Vec::new(),
            runs: RwLock::default(),
        }
    }

    /// The frame behind an address. `None`: a hole.
    fn frame(&self, at: Gpa) -> Option<u64> {
        let number = at.0 / PAGE_SIZE;
        match &self.numbering {
            Numbering::Own => Some(number),
            Numbering::Machine { state, .. } => {
                state.read().unwrap_or_else(PoisonError::into_inner).frame(number)
            }
        }
    }

    /// Copies from a page.
    fn read_page(&self, frame: u64, offset: usize, out: &mut [u8]) -> io::Result<Page> {
        if is_in(&self.paged_out, frame) {
            return Ok(Page::PagedOut);
        }
        let (run, index) = (frame / RUN, usize::try_from(frame % RUN).unwrap_or(usize::MAX));
        {
            let runs = self.runs.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(frames) = runs.get(&run) {
                return copied(frames, index, offset, out);
            }
        }
        let frames = self.privcmd.map(self.domid, &to_map(run, frame, &self.paged_out))?;
        let result = copied(&frames, index, offset, out);
        let mut runs = self.runs.write().unwrap_or_else(PoisonError::into_inner);
        if runs.len() >= RUNS_MAX {
            runs.clear();
        }
        runs.insert(run, frames);
        result
    }

    /// Whether the domain is still there: some of its frames can be mapped.
    fn is_there(&self) -> bool {
        let step = self.present.len().div_ceil(PROBES).max(1);
        let probes: Vec<u64> =
            self.present.iter().step_by(step).map(|region| region.start.0 / PAGE_SIZE).collect();
        let mapped = self.privcmd.map(self.domid, &probes);
        mapped.is_ok_and(|frames| (0..probes.len()).any(|index| frames.error(index).is_none()))
    }

    fn gone(&self) -> MemoryError {
        MemoryError::Gone { what: format!("Xen domain {} has ended", self.domid) }
    }

    fn failed(&self, at: Gpa, len: u64, source: io::Error) -> MemoryError {
        if source.raw_os_error() == Some(Errno::ESRCH as i32) || !self.is_there() {
            return self.gone();
        }
        MemoryError::Io { at, len, source }
    }
}

/// What came of reading a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Read,
    /// The guest has no page there.
    Hole,
    /// It has one, which a pager keeps.
    PagedOut,
}

/// The frames of a run that holds `frame`, which stands in for those of the run that are not to be touched.
fn to_map(run: u64, frame: u64, paged_out: &[Region]) -> Vec<u64> {
    let first = run.saturating_mul(RUN);
    let numbers = first..first.saturating_add(RUN);
    numbers.map(|number| if is_in(paged_out, number) { frame } else { number }).collect()
}

/// Whether a frame lies in one of these regions, which are ascending.
fn is_in(regions: &[Region], frame: u64) -> bool {
    let Some(at) = frame.checked_mul(PAGE_SIZE).map(Gpa) else { return false };
    let after = regions.partition_point(|region| region.start <= at);
    let before = after.checked_sub(1).and_then(|index| regions.get(index));
    before.is_some_and(|region| region.contains(at, PAGE_SIZE))
}

/// Copies from a mapped frame.
fn copied(frames: &Frames, index: usize, offset: usize, out: &mut [u8]) -> io::Result<Page> {
    if frames.copy(index, offset, out) {
        return Ok(Page::Read);
    }
    not_there(frames.error(index))
}

/// What the error of a frame means that is not mapped.
fn not_there(error: Option<Errno>) -> io::Result<Page> {
    match error {
        Some(Errno::ENOENT) => Ok(Page::PagedOut),
        Some(errno @ Errno::ESRCH) => Err(errno.into()),
        _ => Ok(Page::Hole),
    }
}

fn region(first: u64, end: u64) -> Region {
    let len = end.saturating_sub(first).saturating_mul(PAGE_SIZE);
    Region { start: Gpa(first.saturating_mul(PAGE_SIZE)), len }
}

impl Machine {
    fn new(p2m: P2m) -> Self {
        let mut frames: Vec<u64> = p2m.machine.iter().copied().flatten().collect();
        frames.sort_unstable();
        frames.dedup();
        let mut owned: Vec<(u64, u64)> = Vec::new();
        for frame in frames {
            match owned.last_mut() {
                Some((_, end)) if *end == frame => *end = frame.saturating_add(1),
                _ => owned.push((frame, frame.saturating_add(1))),
            }
        }
        Self { p2m, owned }
    }

    fn frame(&self, number: u64) -> Option<u64> {
        let after = self.owned.partition_point(|&(first, _)| first <= number);
        let owned = after.checked_sub(1).and_then(|index| self.owned.get(index));
        if owned.is_some_and(|&(_, end)| number < end) {
            return Some(number);
        }
        *self.p2m.machine.get(usize::try_from(number).ok()?)?
    }
}

impl GuestMemory for XenMemory {
    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        let len = buf.len() as u64;
        if self.region_of(at, len).is_none() {
            return Err(MemoryError::Outside { at, len });
        }
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let offset = usize::try_from(at.page_offset()).unwrap_or(0);
            let size = FRAME.saturating_sub(offset).min(rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut(size);
            let found = match self.frame(at) {
                Some(frame) => self.read_page(frame, offset, now),
                None => Ok(Page::Hole),
            };
            match found.map_err(|source| self.failed(at, size as u64, source))? {
                Page::Read => {}
                Page::Hole => now.fill(0),
                Page::PagedOut => return Err(MemoryError::PagedOut { at: at.page_base() }),
            }
            at = Gpa(at.0.saturating_add(size as u64));
            rest = later;
        }
        Ok(())
    }

    fn populated(&self, within: Region) -> Result<Vec<Region>, MemoryError> {
        // What is paged out may hold anything too.
        let mut held: Vec<&Region> = self.present.iter().chain(&self.paged_out).collect();
        held.sort_unstable();
        let cut = held.into_iter().filter_map(|region| {
            let start = region.start.max(within.start);
            let len = region.end().0.min(within.end().0).checked_sub(start.0).filter(|&len| len > 0)?;
            Some(Region { start, len })
        });
        Ok(page_aligned(cut.collect(), &self.regions))
    }

    fn access(&self) -> Access {
        Access::Mapped
    }

    fn begin_look(&self) -> Result<(), MemoryError> {
        self.runs.write().unwrap_or_else(PoisonError::into_inner).clear();
        if !self.is_there() {
            return Err(self.gone());
        }
        if let Numbering::Machine { info, state } = &self.numbering {
            let lost = |source| MemoryError::Io { at: Gpa(0), len: 0, source };
            let known = state.read().unwrap_or_else(PoisonError::into_inner).p2m.generation;
            if pv::generation(&self.privcmd, info).map_err(lost)? != known {
                let p2m = pv::read(&self.privcmd, info).map_err(|error| lost(io::Error::other(error)))?;
                *state.write().unwrap_or_else(PoisonError::into_inner) = Machine::new(p2m);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_word_for_a_frame_that_is_paged_out_is_no_hole_and_no_failure() {
        // What privcmd writes for each frame (drivers/xen/privcmd.c, mmap_return_error): the hypervisor's error.
        let [mapped, hole, of_nobody, paged_out, gone] =
            [0, Errno::EINVAL as i32, Errno::EFAULT as i32, Errno::ENOENT as i32, Errno::ESRCH as i32];
        let frames = Frames::of_errors(&[mapped, -hole, -of_nobody, -paged_out, -gone]).unwrap();
        let page = |index| copied(&frames, index, 0, &mut [0; 8]);
        assert_eq!(page(0).unwrap(), Page::Read);
        assert_eq!(page(1).unwrap(), Page::Hole);
        assert_eq!(page(2).unwrap(), Page::Hole);
        assert_eq!(page(3).unwrap(), Page::PagedOut);
        assert_eq!(page(4).unwrap_err().raw_os_error(), Some(Errno::ESRCH as i32));
        assert_eq!(page(5).unwrap(), Page::Hole);
    }

    #[test]
    fn a_frame_that_is_paged_out_is_never_among_those_that_are_mapped() {
        let paged_out = [region(66, 68), region(127, 129), region(1000, 1001)];
        let frames = to_map(1, 70, &paged_out);
        assert_eq!(frames.len(), 64);
        assert_eq!(frames[..6], [64, 65, 70, 70, 68, 69]);
        assert_eq!(frames[62..], [126, 70]);
        assert!(!frames.iter().any(|&frame| is_in(&paged_out, frame)));
        assert!(is_in(&paged_out, 128) && !is_in(&paged_out, 129) && !is_in(&paged_out, u64::MAX));
    }

    #[test]
    fn a_number_that_is_a_machine_frame_means_that_one() {
        let machine = vec![Some(0x4000), Some(2), None, Some(0x4001), Some(0x4002)];
        let machine = Machine::new(P2m { machine, generation: 0 });
        assert_eq!(machine.owned, [(2, 3), (0x4000, 0x4003)]);
        assert_eq!(machine.frame(0), Some(0x4000));
        assert_eq!(machine.frame(1), Some(2));
        // Its own frame 2 is a hole, but machine frame 2 is its frame 1.
        assert_eq!(machine.frame(2), Some(2));
        assert_eq!(machine.frame(3), Some(0x4001));
        assert_eq!(machine.frame(0x4002), Some(0x4002));
        assert_eq!(machine.frame(0x4003), None);
    }
}
