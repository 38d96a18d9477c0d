//! Finds the running Linux kernel in physical memory, with nothing known but that memory.
//!
//! Every kernel keeps a page of text about itself for crash dumps, VMCOREINFO (kernel/vmcore_info.c, 6.12;
//! kernel/crash_core.c before 6.9): release, page-table root, KASLR offset, and since 6.0 where its symbol table is. The
//! page starts with `OSRELEASE=`, so only the first bytes of each populated page are looked at.
//!
//! That text is a claim, and anybody in the guest can write one. It is believed when the kernel that it describes agrees:
//! its page tables map the page-table root to itself, its `utsname` has the release, and its own pointer to VMCOREINFO
//! leads back to this very page (see [`super::symbols`]), which a copy in somebody's buffer cannot do. If two claims hold
//! together, neither is believed.

use super::kernel::Kernel;
use super::{iomem, symbols};
use crate::Error;
use guest_profiles::VmcoreInfo;
use vmi_core::{Access, AddressSpace, Budget, Gpa, GuestMemory, Gva, Levels, Look, PAGE_SIZE, Region};

/// First line of VMCOREINFO.
const MAGIC: &[u8] = b"OSRELEASE=";
/// Where the kernel image is mapped at link time (``__START_KERNEL_map``, arch/x86/include/asm/page_64_types.h).
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Bytes that a copying backend is asked for at once while searching.
const CHUNK: u64 = 1 << 20;
/// [`PAGE_SIZE`] as the length of an array.
const PAGE_BYTES: usize = 4096;
/// Candidates that are looked into. A guest that plants more is not searched further.
const CANDIDATES_MAX: usize = 64;
/// ``struct new_utsname`` (include/uapi/linux/utsname.h): fields of 65 bytes, the release is the third.
const UTS_FIELD: u64 = 65;

/// A kernel that was found and not yet asked for its symbols.
#[derive(Debug)]
pub(super) struct Found {
    /// Where its VMCOREINFO page is.
    pub(super) vmcoreinfo_at: Gpa,
    /// What the page says.
    pub(super) vmcoreinfo: VmcoreInfo,
    /// Top-level page table.
    pub(super) root: Gpa,
    /// Its depth.
    pub(super) levels: Levels,
}

pub(crate) fn locate(memory: &dyn GuestMemory, budget: Budget) -> Result<Kernel, Error> {
    let look = Look::begin(memory, budget)?;
    let search = candidates(memory)?;
    let mut kernels: Vec<Kernel> = Vec::new();
    let mut refused = None;
    for at in search.candidates {
        match examine(&look, at) {
            Ok(kernel) => {
                if let Some(first) = kernels.iter().find(|first| first.root() != kernel.root()) {
                    return Err(Error::Ambiguous { first: first.root(), second: kernel.root() });
                }
                kernels.push(kernel);
            }
            Err(Error::Memory(error)) => return Err(Error::Memory(error)),
            Err(error) => refused = Some(worse(refused, error)),
        }
    }
    match (kernels.into_iter().next(), refused) {
        (Some(kernel), _) => Ok(kernel),
        (None, Some(error)) => Err(error),
        (None, None) if search.only_zeros => Err(Error::Empty { bytes: memory.size() }),
        (None, None) => Err(Error::NoKernel { searched: search.searched }),
    }
}

/// Of two reasons, the one that says more: a copy of VMCOREINFO in a log fails early, the real one late.
fn worse(before: Option<Error>, now: Error) -> Error {
    match before {
        Some(before) if !matches!(before, Error::Contradicted { .. }) => before,
        _ => now,
    }
}

#[derive(Debug)]
struct Search {
    candidates: Vec<Gpa>,
    searched: u64,
    only_zeros: bool,
}

/// Pages that start like VMCOREINFO.
fn candidates(memory: &dyn GuestMemory) -> Result<Search, Error> {
    let mut search = Search { candidates: Vec::new(), searched: 0, only_zeros: true };
    for region in memory.regions() {
        for extent in memory.populated(*region)? {
            search.searched = search.searched.saturating_add(extent.len);
            match memory.access() {
                Access::Mapped => search_pages(memory, extent, &mut search)?,
                Access::PerCall => search_chunks(memory, extent, &mut search)?,
            }
        }
    }
    Ok(search)
}

fn search_pages(memory: &dyn GuestMemory, extent: Region, search: &mut Search) -> Result<(), Error> {
    let mut start = [0; 16];
    let mut at = first_page(extent.start);
    while extent.contains(at, PAGE_SIZE) {
        memory.read(at, &mut start)?;
        consider(at, &start, search);
        let Some(next) = at.checked_add(PAGE_SIZE) else { break };
        at = next;
    }
    Ok(())
}

fn search_chunks(memory: &dyn GuestMemory, extent: Region, search: &mut Search) -> Result<(), Error> {
    let mut chunk = Vec::new();
    let mut at = first_page(extent.start);
    while extent.contains(at, PAGE_SIZE) {
        let len = (extent.end().0 - at.0).min(CHUNK) & !(PAGE_SIZE - 1);
        chunk.resize(usize::try_from(len).unwrap_or(0), 0);
        memory.read(at, &mut chunk)?;
        for (index, page) in chunk.chunks(PAGE_BYTES).enumerate() {
            if let Some(page_at) = at.element(index as u64, PAGE_SIZE) {
                consider(page_at, page, search);
            }
        }
        let Some(next) = at.checked_add(len) else { break };
        at = next;
    }
    Ok(())
}

fn first_page(at: Gpa) -> Gpa {
    if at.page_offset() == 0 { at } else { at.page_base().checked_add(PAGE_SIZE).unwrap_or(at) }
}

fn consider(at: Gpa, start: &[u8], search: &mut Search) {
    if search.only_zeros && start.iter().any(|byte| *byte != 0) {
        search.only_zeros = false;
    }
    if start.starts_with(MAGIC) && search.candidates.len() < CANDIDATES_MAX {
        search.candidates.push(at);
    }
}

/// Follows one claim to the end: page tables, release, symbols, layouts, and the host's memory layout.
fn examine(look: &Look<'_>, at: Gpa) -> Result<Kernel, Error> {
    let found = believe(look, at)?;
    let space = AddressSpace::new(look, found.root, found.levels);
    let kernel = symbols::kernel(&space, found)?;
    iomem::check(&space, &kernel)?;
    Ok(kernel)
}

fn believe(look: &Look<'_>, at: Gpa) -> Result<Found, Error> {
    let mut page = [0; PAGE_BYTES];
    look.read(at, &mut page).map_err(|_| refuse(at, "", "the page could not be read".to_owned()))?;
    let text = page.split(|byte| *byte == 0).next().unwrap_or_default();
    let info = VmcoreInfo::parse(text).map_err(|error| refuse(at, "", error.to_string()))?;
    let release = info.osrelease.clone();
    let fail = |reason: String| refuse(at, &release, reason);

    let (Some(pgd), Some(phys_base)) = (info.symbols.get("swapper_pg_dir").copied(), info.phys_base) else {
        return Err(fail("it does not name swapper_pg_dir and phys_base".to_owned()));
    };
    // Virtual to physical in the kernel image: arch/x86/mm/physaddr.c, __phys_addr_symbol().
    let root = pgd
        .checked_sub(START_KERNEL_MAP)
        .and_then(|offset| offset.checked_add_signed(phys_base))
        .map(Gpa)
        .filter(|root| root.page_offset() == 0 && look.memory().has_page(*root))
        .ok_or_else(|| fail(format!("its page-table root {pgd:#x} is not in memory")))?;
    let levels = if info.pgtable_l5_enabled == Some(true) { Levels::Five } else { Levels::Four };
    let space = AddressSpace::new(look, root, levels);

    match space.translate(Gva(pgd)) {
        Ok(mapped) if mapped.at == root => {}
        Ok(mapped) => {
            return Err(fail(format!("its page tables map their own root {root} to {}", mapped.at)));
        }
        Err(error) => return Err(fail(format!("its page tables do not map their own root {root}: {error}"))),
    }
    let names_itself = info
        .symbols
        .get("init_uts_ns")
        .zip(info.offsets.get("uts_namespace.name"))
        .and_then(|(namespace, name)| Gva(*namespace).checked_add(*name)?.checked_add(2 * UTS_FIELD))
        .and_then(|release_at| space.c_string(release_at, 65).ok());
    if names_itself.as_deref() != Some(release.as_bytes()) {
        return Err(fail("the kernel it points to has another release".to_owned()));
    }
    Ok(Found { vmcoreinfo_at: at, vmcoreinfo: info, root, levels })
}

fn refuse(at: Gpa, release: &str, reason: String) -> Error {
    Error::Contradicted { at, release: release.to_owned(), reason }
}
