//! From a VMM process to its guest's memory.

use super::Vmm;
use super::cmdline::Options;
use super::layout::{Placement, by_rules};
use super::locate::{Located, locate};
use super::machine::{self, Machine};
use super::maps::{self, Mapping};
use super::memory::{Block, DescriptorsByFile, KvmMemory};
use super::monitor;
use super::plugged;
use super::process::{Process, descriptors, proc_error, proc_path};
use super::slots::{self, Slot};
use super::vmm;
use crate::{Error, LayoutOrigin, LayoutSource};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// Memory of a VMM, and what is to be said about it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) process: Arc<Process>,
    pub(crate) memory: KvmMemory,
    pub(crate) layout: LayoutOrigin,
    pub(crate) notes: Vec<String>,
}

/// Opens the guest of a VMM that was just looked at.
pub(crate) fn open(vmm: &Vmm, source: LayoutSource) -> Result<Opened, Error> {
    let pid = vmm.vm.pid.unwrap_or_default();
    let process = Arc::new(Process::open(pid)?);
    may_be_read(pid)?;
    is_not_protected(pid)?;
    let machine = match &vmm.qemu {
        Some(options) => Some((machine::parse(pid, &vmm.exe, options)?, options)),
        None => None,
    };
    if let Some((Machine { protected: Some(how), .. }, _)) = &machine {
        return Err(Error::Protected { pid, how: how.clone() });
    }
    let mut notes = Vec::new();
    let slots = match source {
        LayoutSource::Best => slots::read(pid).ok(),
        LayoutSource::Slots => Some(slots::read(pid).map_err(|source| Error::SlotsUnusable { pid, source })?),
        LayoutSource::Rules | LayoutSource::Monitor => None,
    };
    let found = match (slots, machine) {
        (Some(slots), machine) => by_slots(pid, machine.map(|(machine, _)| machine).as_ref(), &slots)?,
        (None, None) => by_vmm(pid, &vmm.exe)?,
        (None, Some((machine, options))) => match source {
            LayoutSource::Monitor => by_monitor(pid, machine, options)?,
            LayoutSource::Rules => {
                notes = machine.notes.clone();
                find(pid, &machine, by_rules(pid, &machine)?)?
            }
            LayoutSource::Best | LayoutSource::Slots => {
                notes = machine.notes.clone();
                by_rules_first(pid, machine, options, &mut notes)?
            }
        },
    };
    let Found { placements, located, by_file, layout, .. } = found;
    let memory = KvmMemory::open(Arc::clone(&process), placements, &located, &by_file)?;
    Ok(Opened { process, memory, layout, notes })
}

/// The layout by the kernel's memory slots. They place what was plugged in too, so nothing is left out.
fn by_slots(pid: u32, machine: Option<&Machine>, slots: &[Slot]) -> Result<Found, Error> {
    let mappings = maps::read(pid)?;
    let (placements, located) = match machine {
        Some(machine) => slots::layout::of_machine(pid, machine, slots, &mappings)?,
        None => slots::layout::alone(pid, slots, &mappings)?,
    };
    let by_file = descriptors_by_file(pid, &mappings)?;
    Ok(Found { placements, located, by_file, mappings, layout: LayoutOrigin::Slots })
}

/// The layout by the rules of the machine, unless something is seen that they cannot place and the monitor can.
fn by_rules_first(
    pid: u32,
    machine: Machine,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<Found, Error> {
    let by_rules = match by_rules(pid, &machine) {
        Ok(placements) => find(pid, &machine, placements)?,
        // The rules know that they do not know. Without a monitor that is the answer.
        Err(error @ Error::LayoutUncertain { .. }) => {
            return by_monitor(pid, machine, options).map_err(|_| error);
        }
        Err(error) => return Err(error),
    };
    if !machine.memory_devices && !plugged::is_suspected(&machine, &by_rules.located, &by_rules.mappings) {
        return Ok(by_rules);
    }
    match by_monitor(pid, machine, options) {
        Ok(found) => {
            notes.clear();
            Ok(found)
        }
        Err(error @ Error::LayoutContradiction { .. }) => Err(error),
        // What the guest does with memory that is not in the layout shows later, when its kernel's own map is read.
        Err(error) => {
            notes.push(format!("Memory may have been plugged in, and the monitor did not place it: {error}"));
            Ok(by_rules)
        }
    }
}

/// The layout by the monitor's word. DIMMs are placed by it too, so nothing is left out.
fn by_monitor(pid: u32, mut machine: Machine, options: &Options) -> Result<Found, Error> {
    let ranges = monitor::flat_view(pid, options)?;
    plugged::add_told(&mut machine, &ranges);
    let placements = monitor::placements(pid, &machine, &ranges)?;
    Ok(Found { layout: LayoutOrigin::Monitor, ..find(pid, &machine, placements)? })
}

/// Whether the VMM may be looked into at all. Asked first: without permission its command line is still readable, and what
/// is concluded from that alone would be told as an error of the guest's.
fn may_be_read(pid: u32) -> Result<(), Error> {
    let exe = proc_path(pid, "exe");
    fs::read_link(&exe).map(drop).map_err(|source| proc_error(pid, &exe, source))
}

/// Whether what the VMM has mapped is what the guest sees.
fn is_not_protected(pid: u32) -> Result<(), Error> {
    for descriptor in descriptors(pid)? {
        if let Some(how) = protects(&descriptor.link.to_string_lossy()) {
            return Err(Error::Protected { pid, how: format!("{how}, descriptor {}", descriptor.number) });
        }
    }
    Ok(())
}

/// What a descriptor protects its guest's memory by. Private memory is in a file that nobody can map (guest_memfd, which TDX and SEV-SNP
/// need), and a page of it that the VMM has mapped beside is something else, or zeros; a VMM that holds `/dev/sev` encrypts.
fn protects(link: &str) -> Option<&'static str> {
    match link {
        "anon_inode:[kvm-gmem]" | "anon_inode:[guest_memfd]" => Some("guest_memfd"),
        "/dev/sev" => Some("SEV"),
        _ => None,
    }
}

/// The layout of a VMM other than QEMU.
fn by_vmm(pid: u32, exe: &str) -> Result<Found, Error> {
    let kind = vmm::Kind::of(exe).ok_or_else(|| Error::UnknownVmm { pid, exe: exe.to_owned() })?;
    let mappings = maps::read(pid)?;
    let by_file = descriptors_by_file(pid, &mappings)?;
    let mem = RefCell::new(None);
    let (placements, located) = vmm::find(pid, exe, kind, &mappings, |mapping, offset, out| {
        let whole = Located { start: mapping.start, size: mapping.len(), mapping: mapping.clone() };
        let block = Block::open(pid, &whole, &by_file, &mut mem.borrow_mut())?;
        block.read(offset, out).map_err(|source| Error::Map { pid, len: out.len() as u64, source })
    })?;
    Ok(Found { placements, located, by_file, mappings, layout: LayoutOrigin::Rules })
}

/// Placements, and where their blocks are in the VMM. The placements' numbers of blocks are those of `located`.
struct Found {
    placements: Vec<Placement>,
    located: Vec<Located>,
    by_file: DescriptorsByFile,
    /// All that the VMM had mapped.
    mappings: Vec<Mapping>,
    /// Who said it.
    layout: LayoutOrigin,
}

/// Finds every block that a placement uses.
fn find(pid: u32, machine: &Machine, mut placements: Vec<Placement>) -> Result<Found, Error> {
    let mappings = maps::read(pid)?;
    let by_file = descriptors_by_file(pid, &mappings)?;
    let mut used: Vec<usize> = placements.iter().map(|placement| placement.block).collect();
    used.sort_unstable();
    used.dedup();
    // Blocks that no placement uses are told as well: they help to tell equal ones apart.
    let all = locate(pid, &machine.blocks, &used, &mappings, |mapping| {
        if mapping.is_anonymous() { None } else { by_file.get(&(mapping.device, mapping.inode)).copied() }
    })?;
    for placement in &mut placements {
        placement.block = used.partition_point(|&block| block < placement.block);
    }
    let located = used.into_iter().filter_map(|block| all.get(block).cloned().flatten()).collect();
    Ok(Found { placements, located, by_file, mappings, layout: LayoutOrigin::Rules })
}

/// The descriptors of files that are mapped for writing. Others, disk images on a network for one, are not even asked
/// about: that could take for ever.
fn descriptors_by_file(pid: u32, mappings: &[Mapping]) -> Result<DescriptorsByFile, Error> {
    let mapped: HashSet<&str> = mappings
        .iter()
        .filter(|mapping| mapping.writable && !mapping.is_anonymous())
        .map(|mapping| mapping.name.as_str())
        .collect();
    let mut by_file = DescriptorsByFile::new();
    for descriptor in descriptors(pid)? {
        let link = descriptor.link.to_string_lossy();
        if !mapped.contains(link.strip_suffix(" (deleted)").unwrap_or(&link)) {
            continue;
        }
        let path = proc_path(pid, &format!("fd/{}", descriptor.number));
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if !metadata.is_file() {
            continue;
        }
        let device = metadata.dev();
        let parts = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let (Ok(major), Ok(minor)) = (u32::try_from(parts.0), u32::try_from(parts.1)) else { continue };
        by_file.entry(((major, minor), metadata.ino())).or_insert(descriptor.number);
    }
    Ok(by_file)
}

#[cfg(test)]
mod tests {
    use super::protects;

    #[test]
    fn private_memory_and_the_device_that_encrypts_are_told_from_every_other_descriptor() {
        assert_eq!(protects("/dev/sev"), Some("SEV"));
        for link in ["anon_inode:[kvm-gmem]", "anon_inode:[guest_memfd]"] {
            assert_eq!(protects(link), Some("guest_memfd"), "{link}");
        }
        for link in
            ["/dev/kvm", "anon_inode:kvm-vm", "/memfd:guest_memfd (deleted)", "/dev/sev-guest", "/dev/sevctl"]
        {
            assert_eq!(protects(link), None, "{link}");
        }
    }
}
