//! Where the memory of VMMs other than QEMU is: the rules of each, held against its mappings and against the memory map that it
//! gave its guest.
//!
//! RAM starts at guest-physical 0; what does not fit below the hole for devices goes on at 4 GiB. Where the hole begins, and how the
//! two parts are mapped, is the VMM's (sources: Firecracker src/vmm/src/arch/x86_64/layout.rs, Cloud Hypervisor
//! arch/src/x86_64/layout.rs and vmm/src/memory_manager.rs, crosvm x86_64/src/lib.rs, kvmtool x86/kvm.c). None of them says on its
//! command line for certain how much RAM there is, so the size is that of the map in the guest's memory, and a mapping counts as RAM
//! only when that map stands in it and the sizes agree to the byte. Must never take a mapping for its size alone.

use super::boot_map;
use super::layout::{FOUR_GIB, Placement};
use super::locate::Located;
use super::maps::Mapping;
use crate::Error;
use vmi_core::{Gpa, Region};

/// Less is no RAM: the map stands in the first MiB.
const SMALLEST: u64 = 1 << 20;

/// A VMM whose rules are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hole from 3 GiB (from 1.13 on) or 3.25 GiB; each part a mapping, or both a memfd one after the other.
    Firecracker,
    /// Hole from 3 GiB; each part a mapping, anonymous or a memfd of its own.
    CloudHypervisor,
    /// Hole from 3.25 GiB; one memfd, mapped in two parts.
    Crosvm,
    /// Hole from 3.25 GiB; one mapping with the hole in it, which nobody may read.
    Kvmtool,
}

impl Kind {
    /// By the base name of the executable; releases have their version and machine behind it.
    #[must_use]
    pub fn of(exe: &str) -> Option<Self> {
        let is =
            |name: &str| exe.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        match () {
            () if is("firecracker") => Some(Self::Firecracker),
            () if is("cloud-hypervisor") => Some(Self::CloudHypervisor),
            () if is("crosvm") => Some(Self::Crosvm),
            () if is("lkvm") || is("kvmtool") => Some(Self::Kvmtool),
            () => None,
        }
    }

    /// Where the hole may begin.
    fn holes(self) -> &'static [u64] {
        match self {
            Self::Firecracker => &[0xc000_0000, 0xd000_0000],
            Self::CloudHypervisor => &[0xc000_0000],
            Self::Crosvm | Self::Kvmtool => &[0xd000_0000],
        }
    }

    /// Whether a mapping can be RAM at all.
    fn may_be_ram(self, mapping: &Mapping) -> bool {
        let anonymous =
            mapping.is_anonymous() && (mapping.name.is_empty() || mapping.name.starts_with("[anon:"));
        let memfd = mapping.shared && mapping.name.starts_with("/memfd:");
        let kind = match self {
            Self::Crosvm => memfd,
            Self::Kvmtool => anonymous,
            Self::Firecracker | Self::CloudHypervisor => anonymous || memfd,
        };
        kind && mapping.readable && mapping.writable && !mapping.executable && mapping.len() >= SMALLEST
    }
}

/// One part of the RAM in the VMM.
#[derive(Clone, Copy)]
struct Part<'m> {
    mapping: &'m Mapping,
    /// Offset in the mapping.
    offset: u64,
    len: u64,
}

/// Finds the guest's RAM: placements, and the mappings whose numbers they have. `read` copies out of a mapping of the VMM, from an
/// offset in it.
pub fn find(
    pid: u32,
    exe: &str,
    kind: Kind,
    mappings: &[Mapping],
    read: impl Fn(&Mapping, u64, &mut [u8]) -> Result<(), Error>,
) -> Result<(Vec<Placement>, Vec<Located>), Error> {
    let mut found: Vec<(Part<'_>, u64)> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| kind.may_be_ram(mapping)) {
        // The kernel makes one mapping of two anonymous ones that touch, and places the later one below.
        let ends = kind.holes().iter().filter_map(|&hole| mapping.len().checked_sub(hole));
        let starts = std::iter::once(0).chain(ends.filter(|&start| start > 0));
        for offset in starts {
            let Some(ram) = map_at(mapping, offset, &read)? else { continue };
            let (low, high) =
                sizes(&ram).ok_or_else(|| contradiction(pid, exe, &ram, "RAM is at 0 and 4 GiB only"))?;
            if high > 0 && !kind.holes().contains(&low)
                || high == 0 && kind.holes().iter().all(|&hole| low > hole)
            {
                return Err(contradiction(pid, exe, &ram, "the hole for devices begins elsewhere"));
            }
            if mapping.len().saturating_sub(offset) < low {
                return Err(contradiction(pid, exe, &ram, "the mapping that it stands in is smaller"));
            }
            found.push((Part { mapping, offset, len: low }, high));
        }
    }
    let (low, high) = match found.as_slice() {
        [one] => *one,
        [] => return Err(Error::NoBootMap { pid, exe: exe.to_owned() }),
        several => {
            let parts: Vec<Part<'_>> = several.iter().map(|(part, _)| *part).collect();
            return Err(ambiguous(pid, &parts));
        }
    };
    let mut parts = vec![low];
    if high > 0 {
        parts.push(high_part(pid, kind, low, high, mappings)?);
    }
    // Not one byte of the mappings may be left over: it could be RAM that the guest's map no longer tells of.
    let used: u64 = parts.iter().filter(|part| part.mapping == low.mapping).map(|part| part.len).sum();
    if used != low.mapping.len() {
        return Err(Error::RamLeftOver { pid, mapped: low.mapping.len(), told: used });
    }
    let located = |part: &Part<'_>| Located {
        start: part.mapping.start.saturating_add(part.offset),
        size: part.len,
        mapping: Mapping {
            start: part.mapping.start.saturating_add(part.offset),
            offset: part.mapping.offset.saturating_add(part.offset),
            ..part.mapping.clone()
        },
    };
    let placement = |(block, part): (usize, &Part<'_>)| Placement {
        guest: Region { start: Gpa(if block == 0 { 0 } else { FOUR_GIB }), len: part.len },
        block,
        offset: 0,
    };
    Ok((parts.iter().enumerate().map(placement).collect(), parts.iter().map(located).collect()))
}

/// The RAM of the map that stands in a mapping, if the guest's address 0 is at this offset.
fn map_at(
    mapping: &Mapping,
    offset: u64,
    read: &impl Fn(&Mapping, u64, &mut [u8]) -> Result<(), Error>,
) -> Result<Option<Vec<Region>>, Error> {
    if mapping.len().saturating_sub(offset) < SMALLEST {
        return Ok(None);
    }
    boot_map::read(|at, out: &mut [u8]| read(mapping, offset.saturating_add(at), out))
}

/// Bytes of RAM below and from 4 GiB on. `None` when it is laid out otherwise.
fn sizes(ram: &[Region]) -> Option<(u64, u64)> {
    let mut sorted = ram.to_vec();
    sorted.sort_by_key(|region| region.start);
    let (below, above): (Vec<Region>, Vec<Region>) =
        sorted.into_iter().partition(|region| region.start.0 < FOUR_GIB);
    let low = below.last()?.end().0;
    let mut end = FOUR_GIB;
    for region in &above {
        if region.start.0 != end {
            return None;
        }
        end = region.start.0.checked_add(region.len)?;
    }
    // What is reserved below 1 MiB is RAM that something lies in; above, nothing may be missing.
    let whole = below
        .iter()
        .all(|region| region.start.0 <= 1 << 20 || below.iter().any(|other| other.end() == region.start));
    (whole
        && below.first()?.start.0 == 0
        && low <= FOUR_GIB
        && low.is_multiple_of(4096)
        && end.is_multiple_of(4096))
    .then_some((low, end - FOUR_GIB))
}

/// The part from 4 GiB on.
fn high_part<'m>(
    pid: u32,
    kind: Kind,
    low: Part<'m>,
    len: u64,
    mappings: &'m [Mapping],
) -> Result<Part<'m>, Error> {
    // In the same mapping, before or behind.
    if !low.mapping.is_anonymous() || kind != Kind::Kvmtool {
        let both = low.len.saturating_add(len);
        if low.mapping.len() == both {
            return Ok(Part { mapping: low.mapping, offset: if low.offset == 0 { low.len } else { 0 }, len });
        }
    }
    let fits = |mapping: &&Mapping| {
        let place = match kind {
            // As far from the beginning as in the guest.
            Kind::Kvmtool => mapping.start == low.mapping.start.saturating_add(FOUR_GIB),
            // Behind the first part in its file, or the beginning of a file of its own.
            _ if !low.mapping.is_anonymous() => {
                let same = (mapping.device, mapping.inode) == (low.mapping.device, low.mapping.inode);
                let behind = low.mapping.offset.saturating_add(low.mapping.len());
                if same {
                    mapping.offset == behind
                } else {
                    kind == Kind::CloudHypervisor && mapping.offset == 0
                }
            }
            _ => mapping.is_anonymous() && mapping.start != low.mapping.start,
        };
        place && mapping.len() == len && kind.may_be_ram(mapping) && mapping.shared == low.mapping.shared
    };
    let found: Vec<Part<'_>> =
        mappings.iter().filter(fits).map(|mapping| Part { mapping, offset: 0, len }).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Error::RamNotFound {
            pid,
            block: "from 4 GiB on".to_owned(),
            size: len,
            expected: "a mapping like that of the RAM below".to_owned(),
            seen: "none of that size".to_owned(),
        }),
        several => Err(ambiguous(pid, several)),
    }
}

fn ambiguous(pid: u32, parts: &[Part<'_>]) -> Error {
    let seen: Vec<String> = parts
        .iter()
        .take(8)
        .map(|part| format!("{:#x}", part.mapping.start.saturating_add(part.offset)))
        .collect();
    let size = parts.first().map_or(0, |part| part.len);
    Error::RamAmbiguous {
        pid,
        blocks: "of the guest".to_owned(),
        size,
        seen: format!("it may be at {}", seen.join(", ")),
    }
}

fn contradiction(pid: u32, exe: &str, ram: &[Region], rules: &'static str) -> Error {
    let map: Vec<String> = ram.iter().take(8).map(ToString::to_string).collect();
    Error::BootMapContradiction { pid, exe: exe.to_owned(), map: map.join(", "), rules }
}
