//! The objects of a slab cache, found through the kernel's description of each page of memory (``struct page``, and since 5.17
//! ``struct slab`` in its place).
//!
//! An object that is on no list is still in the memory that its kind is allocated from, and a page that belongs to a cache says
//! so. That costs one read for each page of memory, so it is done on request only. Free objects are among those found:
//! whoever asks must tell them apart.

use super::layout::Resolver;
use crate::session::{Session, member};
use facts::ProblemKind;
use guest_profiles::Bits;
use std::collections::BTreeMap;
use vmi_core::{Gva, PAGE_SIZE, ReadError};

/// Descriptions that are read at once.
const CHUNK: u64 = 512;
/// Objects that are given back at most.
const OBJECTS_MAX: u64 = 16 << 20;
/// Where the descriptions start without `CONFIG_RANDOMIZE_MEMORY` (``__VMEMMAP_BASE_L4``, arch/x86/include/asm/pgtable_64_types.h).
const VMEMMAP: Gva = Gva(0xffff_ea00_0000_0000);
/// Where all of memory is mapped then (``__PAGE_OFFSET_BASE_L4``, arch/x86/include/asm/page_64_types.h).
const DIRECT_MAP: Gva = Gva(0xffff_8880_0000_0000);

/// Offsets in bytes. `None`: the profile does not tell.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Bytes of ``struct page``.
    page_size: u64,
    /// The cache that a page's objects are of.
    cache: u64,
    /// Number of objects in a slab, a bitfield of four bytes.
    objects: (u64, Bits),
    /// In ``struct kmem_cache``: bytes from one object to the next.
    object_size: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let profile = resolver.profile();
        // The slab's description was part of the page's before 5.17.
        let of = if profile.has("slab", "slab_cache") { "slab" } else { "page" };
        let objects = profile.field(of, "objects").ok()?;
        Some(Self {
            page_size: profile.size("page").ok().filter(|size| (16..=512).contains(size))?,
            cache: profile.field(of, "slab_cache").ok()?.offset,
            objects: (objects.offset, objects.bits.filter(|_| objects.size == 4)?),
            object_size: profile.field("kmem_cache", "size").ok()?.offset,
        })
    }
}

/// Addresses, in the direct map, of all objects of the cache that the pointer ``symbol`` leads to, free ones included. Some that
/// are known say where in a slab the first object is: not every kernel begins at its start. `None`: this kernel's caches cannot
/// be walked so.
pub(crate) fn objects(
    session: &Session<'_>,
    symbol: &str,
    known: &[Gva],
) -> Result<Option<Vec<Gva>>, ReadError> {
    let Some(layout) = &session.kernel.layouts().slab else { return Ok(None) };
    let Some(pointer) = session.kernel.symbol(symbol) else { return Ok(None) };
    let space = &session.space;
    let base = |name: &str, usual: Gva| match session.kernel.symbol(name) {
        Some(at) => space.pointer(at),
        None => Ok(usual),
    };
    let read = || -> Result<_, ReadError> {
        let cache = space.pointer(pointer)?;
        let size = space.u32(member(cache, layout.object_size)?)?;
        Ok((cache, size, base("vmemmap_base", VMEMMAP)?, base("page_offset_base", DIRECT_MAP)?))
    };
    let Some((cache, size, pages, direct_map)) = session.known("kmem_cache", pointer, read())? else {
        return Ok(None);
    };
    if cache.is_null() || size == 0 {
        session.problem(
            ProblemKind::Implausible,
            format_args!("kmem_cache {cache}"),
            format_args!("Its objects have {size} bytes."),
        );
        return Ok(None);
    }
    let mut slabs = Vec::new();
    let mut total: u64 = 0;
    let memory = space.look().memory();
    for region in memory.regions() {
        for extent in memory.populated(*region).map_err(ReadError::Memory)? {
            let (first, end) = (extent.start.0 / PAGE_SIZE, extent.end().0.div_ceil(PAGE_SIZE));
            for start in (first..end).step_by(usize::try_from(CHUNK).unwrap_or(1)) {
                let count = CHUNK.min(end - start);
                let Some(at) = pages.element(start, layout.page_size) else { break };
                let len = usize::try_from(count.saturating_mul(layout.page_size)).unwrap_or(0);
                let bytes = match space.bytes(at, len) {
                    Ok(bytes) => bytes,
                    Err(error) if error.ends_the_look() => return Err(error),
                    Err(error @ ReadError::PagedOut { .. }) => {
                        session.problem(ProblemKind::Unmapped, format_args!("kmem_cache {cache}"), error);
                        continue;
                    }
                    // Memory that the guest's kernel does not manage (firmware, devices) has no description.
                    Err(_) => continue,
                };
                let step = usize::try_from(layout.page_size).unwrap_or(usize::MAX);
                for (number, page) in (start..).zip(bytes.chunks_exact(step)) {
                    let Some(held) = layout.objects_of(page, cache) else { continue };
                    let Some(slab) = direct_map.element(number, PAGE_SIZE) else { continue };
                    total = total.saturating_add(held);
                    if total > OBJECTS_MAX {
                        session.problem(
                            ProblemKind::Budget,
                            format_args!("kmem_cache {cache}"),
                            format_args!("More than {OBJECTS_MAX} objects."),
                        );
                        return Ok(Some(all_of(&slabs, u64::from(size), known)));
                    }
                    slabs.push((slab, held));
                }
            }
        }
    }
    Ok(Some(all_of(&slabs, u64::from(size), known)))
}

/// The objects of `size` bytes of slabs, each with where it starts and how many it has.
fn all_of(slabs: &[(Gva, u64)], size: u64, known: &[Gva]) -> Vec<Gva> {
    let place = |object: &Gva| {
        let (slab, held) = slabs.get(slabs.partition_point(|(slab, _)| slab <= object).checked_sub(1)?)?;
        let into = object.0.checked_sub(slab.0)?;
        // One more than it has: the first need not be at the start.
        (into < held.saturating_add(1).saturating_mul(size)).then(|| into.checked_rem(size)).flatten()
    };
    // What most say: one that was forged to mislead is one.
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for first in known.iter().filter_map(place) {
        *votes.entry(first).or_default() += 1;
    }
    let first = votes.into_iter().max_by_key(|(_, count)| *count).map_or(0, |(first, _)| first);
    let of_slab = |(slab, held): &(Gva, u64)| {
        let start = slab.checked_add(first);
        (0..*held).filter_map(move |index| start?.element(index, size)).collect::<Vec<_>>()
    };
    slabs.iter().flat_map(of_slab).collect()
}

impl Layout {
    /// How many objects there are in the slab that this description is the first page's of. `None`: not a slab of the cache.
    fn objects_of(&self, page: &[u8], cache: Gva) -> Option<u64> {
        let word = |offset: u64, len: usize| {
            let start = usize::try_from(offset).ok()?;
            page.get(start..start.checked_add(len)?)
        };
        let owner = word(self.cache, 8)?.try_into().map(u64::from_le_bytes).ok()?;
        if owner != cache.0 {
            return None;
        }
        let (offset, bits) = self.objects;
        let value = word(offset, 4)?.try_into().map(u32::from_le_bytes).ok()?;
        let mask = 1_u64.checked_shl(bits.width)?.wrapping_sub(1);
        Some(u64::from(value.checked_shr(bits.shift)?) & mask)
    }
}
