//! Finds the blocks of guest RAM among the mappings of the QEMU process.
//!
//! By exact size, and by what kind of mapping the backend makes; never "the largest one". Blocks that look the same (NUMA
//! nodes of one size) are told apart by what QEMU does in a fixed order: it creates backends as the command line lists
//! them, so the later one has the higher descriptor number, and, because Linux places mappings from the top of the
//! address space down into the first gap that fits, the lower address. Where the two disagree, or where there are more
//! mappings than blocks, the answer is an error that lists them.

use super::machine::{Backend, Block};
use super::maps::Mapping;
use crate::Error;

/// A block and the addresses it has in the VMM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// First address in the VMM.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// The mapping that holds the first address. Longer blocks go on in the adjacent ones, with the same file.
    pub mapping: Mapping,
}

impl Located {
    /// Offset in the mapping's file of the first address.
    pub(super) fn file_offset(&self) -> u64 {
        self.mapping.offset.saturating_add(self.start.saturating_sub(self.mapping.start))
    }
}

/// Finds every block that can be found. `descriptor` gives the number of a descriptor of the file that a mapping maps,
/// where there is one. The result is parallel to `blocks`; `None` is only for blocks that are not in `needed` (backends of
/// devices that may have been unplugged).
pub fn locate(
    pid: u32,
    blocks: &[Block],
    needed: &[usize],
    mappings: &[Mapping],
    descriptor: impl Fn(&Mapping) -> Option<u32>,
) -> Result<Vec<Option<Located>>, Error> {
    let mut found: Vec<Option<Located>> = vec![None; blocks.len()];
    for (index, block) in blocks.iter().enumerate() {
        if found.get(index).is_some_and(Option::is_some) {
            continue;
        }
        let candidates = candidates(block, mappings);
        // Blocks that could be any of the same mappings are told apart together.
        let alike: Vec<usize> = (index..blocks.len())
            .filter(|&other| {
                blocks.get(other).is_some_and(|other| {
                    other.size == block.size && self::candidates(other, mappings) == candidates
                })
            })
            .collect();
        if !alike.iter().any(|other| needed.contains(other)) {
            continue;
        }
        if candidates.len() < alike.len() {
            return Err(not_found(pid, block, &candidates, mappings));
        }
        // The order of creation is known of blocks of the command line only.
        let told = |&index: &usize| blocks.get(index).is_some_and(|block| block.backend == Backend::Told);
        let ordered = if candidates.len() == alike.len() && (alike.len() == 1 || !alike.iter().any(told)) {
            in_order_of_creation(&candidates, &descriptor)
        } else {
            None
        };
        let Some(ordered) = ordered else {
            return Err(ambiguous(pid, blocks, &alike, &candidates, &descriptor));
        };
        for (slot, located) in alike.into_iter().zip(ordered) {
            if let Some(slot) = found.get_mut(slot) {
                *slot = Some(located);
            }
        }
    }
    // Two kinds of backend may have claimed one mapping: then neither is certain.
    for (index, one) in found.iter().enumerate() {
        for (other_index, other) in found.iter().enumerate().skip(index.saturating_add(1)) {
            let (Some(one), Some(other)) = (one, other) else { continue };
            if one.start < other.start.saturating_add(other.size)
                && other.start < one.start.saturating_add(one.size)
            {
                let both = [one.clone(), other.clone()];
                return Err(ambiguous(pid, blocks, &[index, other_index], &both, &descriptor));
            }
        }
    }
    Ok(found)
}

/// The mappings, or runs of adjacent mappings of one backing, that have the block's size and could be it.
fn candidates(block: &Block, mappings: &[Mapping]) -> Vec<Located> {
    let mut candidates = Vec::new();
    let mut run: Vec<&Mapping> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| may_be(&block.backend, &block.name, mapping)) {
        if run.last().is_some_and(|last| !continues(last, mapping)) {
            runs_of_size(&run, block.size, &mut candidates);
            run.clear();
        }
        run.push(mapping);
    }
    runs_of_size(&run, block.size, &mut candidates);
    candidates
}

/// The parts of a run of adjacent mappings that add up to `size` exactly.
fn runs_of_size(run: &[&Mapping], size: u64, candidates: &mut Vec<Located>) {
    let mut first = 0;
    let mut sum = 0_u64;
    for (last, mapping) in run.iter().enumerate() {
        sum = sum.saturating_add(mapping.len());
        while sum > size && first <= last {
            sum = sum.saturating_sub(run.get(first).map_or(0, |mapping| mapping.len()));
            first += 1;
        }
        if sum == size
            && let Some(mapping) = run.get(first)
        {
            candidates.push(Located { start: mapping.start, size, mapping: (*mapping).clone() });
        }
    }
}

/// Whether a mapping goes on where another ends, with the same backing.
pub(super) fn continues(before: &Mapping, after: &Mapping) -> bool {
    before.end == after.start
        && before.shared == after.shared
        && before.device == after.device
        && before.inode == after.inode
        && (before.is_anonymous() || before.offset.checked_add(before.len()) == Some(after.offset))
}

fn may_be(backend: &Backend, id: &str, mapping: &Mapping) -> bool {
    if !mapping.readable || !mapping.writable || mapping.executable {
        return false;
    }
    let anonymous = mapping.is_anonymous() && (mapping.name.is_empty() || mapping.name.starts_with("[anon:"));
    let shared_anonymous = mapping.shared && mapping.name == "/dev/zero";
    let memfd = mapping.name.starts_with("/memfd:");
    let huge = mapping.name == "/anon_hugepage";
    match backend {
        // Shared RAM is /dev/zero up to QEMU 9.2 and a memfd from 10.0.
        Backend::Ram => anonymous || shared_anonymous || huge || (memfd && mapping.shared),
        Backend::Memfd => memfd,
        Backend::File { path } => {
            !mapping.is_anonymous() && path.as_deref().is_none_or(|path| is_file_of(path, id, mapping))
        }
        Backend::Told => !mapping.is_anonymous() || anonymous || shared_anonymous || huge,
        Backend::Default => {
            anonymous
                || shared_anonymous
                || memfd
                || huge
                || base_name(&mapping.name).starts_with("qemu_back_mem.")
        }
    }
}

/// Whether the mapping is of the file `path`, or of a file that QEMU made for object `id` in the folder `path`
/// (`qemu_back_mem.NAME.XXXXXX`, softmmu/physmem.c). The path is the VMM's, perhaps of another mount namespace, so only
/// the last component is compared.
fn is_file_of(path: &str, id: &str, mapping: &Mapping) -> bool {
    let name = base_name(&mapping.name);
    if let Some(rest) = name.strip_prefix("qemu_back_mem.") {
        let made_for = rest.rsplit_once('.').map_or(rest, |(made_for, _)| made_for);
        if made_for == id || made_for.strip_prefix("_objects_") == Some(id) {
            return true;
        }
    }
    name == base_name(path)
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// Candidates in the order QEMU created them, or `None` when the two signs of it disagree.
fn in_order_of_creation(
    candidates: &[Located],
    descriptor: &impl Fn(&Mapping) -> Option<u32>,
) -> Option<Vec<Located>> {
    // Mappings come ascending, later ones are lower.
    let by_address: Vec<&Located> = candidates.iter().rev().collect();
    let numbers: Option<Vec<u32>> = by_address.iter().map(|located| descriptor(&located.mapping)).collect();
    if numbers.is_some_and(|numbers| !numbers.is_sorted()) {
        return None;
    }
    Some(by_address.into_iter().cloned().collect())
}

fn not_found(pid: u32, block: &Block, candidates: &[Located], mappings: &[Mapping]) -> Error {
    let mut seen: Vec<&Mapping> = if candidates.is_empty() {
        mappings
            .iter()
            .filter(|mapping| mapping.readable && mapping.writable && !mapping.executable)
            .collect()
    } else {
        candidates.iter().map(|located| &located.mapping).collect()
    };
    seen.sort_by_key(|mapping| mapping.len().abs_diff(block.size));
    let seen: Vec<String> = seen.into_iter().take(4).map(describe).collect();
    let expected = match &block.backend {
        Backend::Ram => "anonymous memory".to_owned(),
        Backend::Memfd => "a memfd".to_owned(),
        Backend::File { path: Some(path) } => format!("file {path}"),
        Backend::File { path: None } => "a shared file".to_owned(),
        Backend::Default => "the machine's own RAM".to_owned(),
        Backend::Told => "memory that was plugged in".to_owned(),
    };
    Error::RamNotFound { pid, block: block.name.clone(), size: block.size, expected, seen: seen.join("; ") }
}

fn ambiguous(
    pid: u32,
    blocks: &[Block],
    alike: &[usize],
    candidates: &[Located],
    descriptor: &impl Fn(&Mapping) -> Option<u32>,
) -> Error {
    let names: Vec<&str> =
        alike.iter().filter_map(|&index| blocks.get(index)).map(|block| block.name.as_str()).collect();
    let size = alike.first().and_then(|&index| blocks.get(index)).map_or(0, |block| block.size);
    let seen: Vec<String> = candidates
        .iter()
        .take(8)
        .map(|located| match descriptor(&located.mapping) {
            Some(number) => format!("{} (descriptor {number})", describe(&located.mapping)),
            None => describe(&located.mapping),
        })
        .collect();
    Error::RamAmbiguous { pid, blocks: names.join(", "), size, seen: seen.join("; ") }
}

fn describe(mapping: &Mapping) -> String {
    let name = if mapping.name.is_empty() { "anonymous" } else { &mapping.name };
    let shared = if mapping.shared { "shared" } else { "private" };
    format!("{:#x}-{:#x} {shared} {name}", mapping.start, mapping.end)
}
