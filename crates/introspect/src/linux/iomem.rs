//! The memory that the guest's kernel believes it has: ``iomem_resource`` (kernel/resource.c).
//!
//! The host's guess at the layout of guest memory (where the PCI hole is, what lies above 4 GiB) is the ground everything
//! else stands on. The kernel got the truth from its firmware, so a layout that lacks memory which the kernel uses is
//! refused.

use super::kernel::Kernel;
use super::layout::Resolver;
use crate::Error;
use vmi_core::{AddressSpace, Gpa, Gva, ReadError};

/// Top-level resources looked at; a PC has a few dozen.
const RESOURCES_MAX: usize = 4096;

/// ``struct resource``, offsets in bytes.
struct Layout {
    start: u64,
    end: u64,
    name: u64,
    sibling: u64,
    child: u64,
}

/// `Err(Layout)` when the kernel uses memory outside the layout. A kernel without the symbol is not checked.
pub(super) fn check(space: &AddressSpace<'_, '_>, kernel: &Kernel) -> Result<(), Error> {
    let Some(root) = kernel.symbol("iomem_resource") else { return Ok(()) };
    let mut resolver = Resolver::new(kernel.profile());
    let layout = Layout {
        start: resolver.offset("resource", "start"),
        end: resolver.offset("resource", "end"),
        name: resolver.offset("resource", "name"),
        sibling: resolver.offset("resource", "sibling"),
        child: resolver.offset("resource", "child"),
    };
    if !resolver.into_missing().is_empty() {
        return Ok(());
    }
    let ranges = system_ram(space, root, &layout).map_err(|source| Error::Read {
        what: "memory map (iomem_resource)",
        release: kernel.release().to_owned(),
        source,
    })?;
    let memory = space.look().memory();
    for (start, last) in ranges {
        let end = last.saturating_add(1);
        // Page by page where regions change; whole regions at once inside them.
        let mut at = start;
        while at < end {
            let region = memory.region_of(Gpa(at), 1).and_then(|index| memory.regions().get(index));
            let Some(region) = region else { return Err(Error::Layout { start: at, end }) };
            at = region.end().0;
        }
    }
    Ok(())
}

/// ``System RAM`` ranges, first and last byte.
fn system_ram(
    space: &AddressSpace<'_, '_>,
    root: Gva,
    layout: &Layout,
) -> Result<Vec<(u64, u64)>, ReadError> {
    let field = |at: Gva, offset: u64| {
        at.checked_add(offset).ok_or(ReadError::NotAnAddress { at, len: offset }).and_then(|at| space.u64(at))
    };
    let mut ranges = Vec::new();
    let mut at = Gva(field(root, layout.child)?);
    for _ in 0..RESOURCES_MAX {
        if at.is_null() {
            break;
        }
        let name = space.c_string(Gva(field(at, layout.name)?), 32)?;
        if name == b"System RAM" {
            ranges.push((field(at, layout.start)?, field(at, layout.end)?));
        }
        at = Gva(field(at, layout.sibling)?);
    }
    Ok(ranges)
}
