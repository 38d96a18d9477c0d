//! VMCOREINFO: the page of text that every kernel keeps about itself for crash dumps (kernel/vmcore_info.c, 6.12;
//! kernel/crash_core.c before 6.9): release, page-table root, KASLR offset, and since 6.0 where its symbol table is.
//!
//! The page starts with `OSRELEASE=`, so only the first bytes of each populated page are looked at. The text is a claim, and
//! anybody in the guest can write one. It is believed here when the kernel that it describes agrees: its page tables map the
//! page-table root to itself, and its `utsname` has the release. [`super::symbols`] then asks for the last proof: the
//! kernel's own pointer to VMCOREINFO leads back to this very page, which a copy in somebody's buffer cannot do.

use super::image::START_KERNEL_MAP;
use crate::Error;
use guest_profiles::VmcoreInfo;
use vmi_core::{Access, AddressSpace, Gpa, GuestMemory, Gva, Levels, Look, MemoryError, PAGE_SIZE, Region};

/// First line of VMCOREINFO.
const MAGIC: &[u8] = b"OSRELEASE=";
/// Bytes that a copying backend is asked for at once while searching.
const CHUNK: u64 = 1 << 20;
/// [`PAGE_SIZE`] as the length of an array.
const PAGE_BYTES: usize = 4096;
/// Candidates that are looked into. A guest that plants more is not searched further.
const CANDIDATES_MAX: usize = 64;
/// ``struct new_utsname`` (include/uapi/linux/utsname.h): fields of 65 bytes, the release is the third.
const UTS_FIELD: u64 = 65;
/// Bytes of ``struct uts_namespace`` in which its name is looked for where VMCOREINFO does not tell its place (before 5.11).
const UTS_SEARCH: usize = 1024;
/// ``UTS_SYSNAME``: the first field of the name.
const SYSNAME: &[u8] = b"Linux\0";

/// A claim that the kernel it describes agrees with.
#[derive(Debug)]
pub(super) struct Claim {
    /// Where the page is.
    pub(super) at: Gpa,
    /// What it says.
    pub(super) info: VmcoreInfo,
    /// Top-level page table.
    pub(super) root: Gpa,
    /// Its depth.
    pub(super) levels: Levels,
}

/// What a search of memory gave.
#[derive(Debug)]
pub(super) struct Search {
    /// Pages that start like VMCOREINFO.
    pub(super) candidates: Vec<Gpa>,
    /// Bytes that were searched.
    pub(super) searched: u64,
    /// Nothing was ever written to the guest's memory.
    pub(super) only_zeros: bool,
}

/// Pages that start like VMCOREINFO.
pub(super) fn search(memory: &dyn GuestMemory) -> Result<Search, MemoryError> {
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

fn search_pages(memory: &dyn GuestMemory, extent: Region, search: &mut Search) -> Result<(), MemoryError> {
    let mut start = [0; 16];
    let mut at = first_page(extent.start);
    while extent.contains(at, PAGE_SIZE) {
        match memory.read(at, &mut start) {
            Ok(()) => consider(at, &start, search),
            Err(MemoryError::PagedOut { .. }) => {}
            Err(error) => return Err(error),
        }
        let Some(next) = at.checked_add(PAGE_SIZE) else { break };
        at = next;
    }
    Ok(())
}

fn search_chunks(memory: &dyn GuestMemory, extent: Region, search: &mut Search) -> Result<(), MemoryError> {
    let mut chunk = Vec::new();
    let mut at = first_page(extent.start);
    while extent.contains(at, PAGE_SIZE) {
        let len = (extent.end().0 - at.0).min(CHUNK) & !(PAGE_SIZE - 1);
        chunk.resize(usize::try_from(len).unwrap_or(0), 0);
        match memory.read(at, &mut chunk) {
            Ok(()) => {}
            Err(MemoryError::PagedOut { .. }) => {
                search_pages(memory, Region { start: at, len }, search)?;
                chunk.clear();
            }
            Err(error) => return Err(error),
        }
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

/// Reads the claim at `at` and holds it against the kernel that it describes.
pub(super) fn believe(look: &Look<'_>, at: Gpa) -> Result<Claim, Error> {
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
    if uts_release(&space, &info).as_deref() != Some(release.as_bytes()) {
        return Err(fail("the kernel it points to has another release".to_owned()));
    }
    Ok(Claim { at, info, root, levels })
}

/// The release in ``init_uts_ns``.
fn uts_release(space: &AddressSpace<'_, '_>, info: &VmcoreInfo) -> Option<Vec<u8>> {
    let namespace = Gva(info.symbols.get("init_uts_ns").copied()?);
    let name = match info.offsets.get("uts_namespace.name") {
        Some(offset) => *offset,
        None => {
            let bytes = space.bytes(namespace, UTS_SEARCH).ok()?;
            bytes.windows(SYSNAME.len()).position(|window| window == SYSNAME)? as u64
        }
    };
    space.c_string(namespace.checked_add(name)?.checked_add(2 * UTS_FIELD)?, 65).ok()
}

fn refuse(at: Gpa, release: &str, reason: String) -> Error {
    Error::Contradicted { at, release: release.to_owned(), reason }
}
