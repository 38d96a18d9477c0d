//! Where a domain with its own numbering of frames (HVM, PVH) has memory.
//!
//! Nobody outside the guest keeps that map, so it is found by asking the hypervisor what frames are: a few of each 2 MiB, and all of
//! those 2 MiB in which the answers differ. What the guest gave back (ballooned out) inside its RAM is a hole that reads as zeros; the
//! bounds of its RAM are those that libxl gives every such domain (tools/libs/light/libxl_dom.c: from 0 to 3.75 GiB, the rest from
//! 4 GiB on), wherever a frame within is at the moment.
//!
//! Where a pager has taken frames out, each frame is asked about: one that is not there may have been given back or be in the pager's
//! file. The answer is the same for both, and mapping it to find out would bring it back, so what it holds is unknown.

use super::control::{Control, Info};
use crate::kvm::joined;
use std::io;
use vmi_core::{Gpa, PAGE_SIZE, Region};

/// Frames of 2 MiB.
const CHUNK: u64 = 512;
/// Frames of a chunk that are tried first: its ends and two inside.
const TRIED: [u64; 4] = [0, 170, 341, CHUNK - 1];
/// Frames asked about at once.
const BATCH: usize = 512;
/// End of RAM below 4 GiB (`LIBXL_HVM_BELOW_4G_RAM_END`, 0xf0000000) and the beginning of what is above.
const LOW_END: u64 = 0xf000_0000;
const HIGH_START: u64 = 1 << 32;
/// The VGA window, which is no RAM unless frames are found in it.
const VGA_START: u64 = 0xa_0000;
const VGA_END: u64 = 0xc_0000;

/// A domain's memory.
#[derive(Debug)]
pub(super) struct Layout {
    /// All of it, holes for ballooned-out frames included.
    pub(super) regions: Vec<Region>,
    /// The parts with frames in them.
    pub(super) present: Vec<Region>,
    /// The parts of RAM whose frames a pager may have, not to be touched.
    pub(super) paged_out: Vec<Region>,
}

/// Finds it out. `highest` is the domain's highest frame, `static_max` the most memory that it can have, in bytes.
pub(super) fn find(
    control: &Control,
    info: &Info,
    highest: u64,
    static_max: Option<u64>,
) -> io::Result<Layout> {
    let asked = |frames: &[u64]| control.present(info.domid, frames);
    by_asking(highest, static_max, info.paged_pages > 0, asked)
}

/// `each`: whether every frame is asked about.
fn by_asking(
    highest: u64,
    static_max: Option<u64>,
    each: bool,
    mut exist: impl FnMut(&[u64]) -> io::Result<Vec<bool>>,
) -> io::Result<Layout> {
    let mut present = Vec::new();
    let mut first = 0;
    while first <= highest {
        let chunks: Vec<u64> = (0..BATCH / TRIED.len())
            .map(|index| first.saturating_add((index as u64).saturating_mul(CHUNK)))
            .filter(|&start| start <= highest)
            .collect();
        let tried: Vec<u64> =
            chunks.iter().flat_map(|start| TRIED.map(|offset| start.saturating_add(offset))).collect();
        let answers = exist(&tried)?;
        for (start, answers) in chunks.iter().zip(answers.chunks(TRIED.len())) {
            // The first chunk has the window of the VGA in it.
            if answers.iter().all(|&exists| exists) && *start > 0 && !each {
                present.push(region(*start, CHUNK));
            } else if answers.iter().any(|&exists| exists) || *start == 0 || each {
                let all: Vec<u64> = (*start..start.saturating_add(CHUNK)).collect();
                let found = all.iter().zip(exist(&all)?).filter(|(_, exists)| *exists);
                present.extend(found.map(|(frame, _)| region(*frame, 1)));
            }
        }
        let Some(last) = chunks.last() else { break };
        first = last.saturating_add(CHUNK);
    }
    let present = joined(present.into_iter());
    let size = static_max.unwrap_or(0);
    let low = size.min(LOW_END);
    let ram = [
        bytes(0, low.min(VGA_START)),
        bytes(VGA_END, low),
        bytes(HIGH_START, HIGH_START.saturating_add(size.saturating_sub(low))),
    ];
    let paged_out =
        if each { ram.iter().flat_map(|&ram| without(ram, &present)).collect() } else { Vec::new() };
    let mut all: Vec<Region> = ram.iter().chain(&present).copied().collect();
    all.sort_by_key(|region| region.start);
    Ok(Layout { regions: joined(all.into_iter()), present, paged_out })
}

/// What is left of `whole` without `parts`, which are ascending.
fn without(whole: Region, parts: &[Region]) -> Vec<Region> {
    let mut left = Vec::new();
    let mut from = whole.start.0;
    let ends = parts.iter().map(|part| (part.start.0, part.end().0));
    for (start, end) in ends.chain([(whole.end().0, whole.end().0)]) {
        let until = start.min(whole.end().0);
        if let Some(len) = until.checked_sub(from).filter(|&len| len > 0) {
            left.push(Region { start: Gpa(from), len });
        }
        from = from.max(end);
    }
    left
}

fn region(frame: u64, frames: u64) -> Region {
    Region { start: Gpa(frame.saturating_mul(PAGE_SIZE)), len: frames.saturating_mul(PAGE_SIZE) }
}

/// The whole pages between two addresses.
fn bytes(start: u64, end: u64) -> Region {
    Region { start: Gpa(start), len: (end & !(PAGE_SIZE - 1)).saturating_sub(start) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(highest: u64, static_max: Option<u64>, exists: impl Fn(u64) -> bool) -> Layout {
        found_of(highest, static_max, false, exists)
    }

    fn found_of(highest: u64, static_max: Option<u64>, each: bool, exists: impl Fn(u64) -> bool) -> Layout {
        let answers = |frames: &[u64]| Ok(frames.iter().map(|&frame| exists(frame)).collect());
        by_asking(highest, static_max, each, answers).unwrap()
    }

    fn ranges(regions: &[Region]) -> Vec<(u64, u64)> {
        regions.iter().map(|region| (region.start.0, region.end().0)).collect()
    }

    #[test]
    fn ram_special_pages_and_the_window_of_the_vga_are_told_apart() {
        let ram = 192 << 20 >> 12;
        let layout = found(0xf_efff, Some(192 << 20), |frame| {
            (frame < ram && !(0xa0..0xc0).contains(&frame)) || (0xf_eff8..0xf_f000).contains(&frame)
        });
        let expected = [(0, 0xa_0000), (0xc_0000, 192 << 20), (0xfeff_8000, 0xff00_0000)];
        assert_eq!(ranges(&layout.regions), expected);
        assert_eq!(ranges(&layout.present), expected);
    }

    #[test]
    fn what_was_ballooned_out_is_a_hole_of_the_present_but_memory_of_the_guest() {
        let out = 64 << 20 >> 12..96 << 20 >> 12;
        let layout = found(0x7fff, Some(128 << 20), |frame| !out.contains(&frame) && frame != 0x1234);
        assert_eq!(ranges(&layout.regions), [(0, 128 << 20)]);
        assert_eq!(ranges(&layout.present)[0].0, 0);
        assert!(!ranges(&layout.present).iter().any(|&(start, end)| start < 80 << 20 && 80 << 20 < end));
    }

    #[test]
    fn where_a_pager_is_at_work_every_frame_that_is_not_there_may_be_with_it() {
        // Two frames that no sample would show, and one where the guest's memory ends.
        let out = [0x1234, 0x1235, 0x7fff];
        let exists = |frame| !out.contains(&frame) && !(0xa0..0xc0).contains(&frame);
        let layout = found_of(0x7fff, Some(128 << 20), true, exists);
        assert_eq!(ranges(&layout.regions), [(0, 0xa_0000), (0xc_0000, 128 << 20)]);
        assert_eq!(ranges(&layout.paged_out), [(0x123_4000, 0x123_6000), (0x7ff_f000, 0x800_0000)]);
        let present = [(0, 0xa_0000), (0xc_0000, 0x123_4000), (0x123_6000, 0x7ff_f000)];
        assert_eq!(ranges(&layout.present), present);
        let without = found_of(0x7fff, Some(128 << 20), false, exists);
        assert_eq!(ranges(&without.paged_out), []);
    }

    #[test]
    fn memory_beyond_three_and_three_quarter_gib_goes_on_at_four() {
        let layout = found(0x11_ffff, Some((4 << 30) + (256 << 20)), |frame| {
            frame < 0xf_0000 || (0x10_0000..0x12_0000).contains(&frame)
        });
        assert_eq!(ranges(&layout.regions), [(0, 0xf000_0000), (4 << 30, (4 << 30) + (512 << 20))]);
    }
}
