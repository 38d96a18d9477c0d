//! The kernel's image in guest memory: where it is mapped, and its bytes in windows.
//!
//! Only for what a kernel does not tell by itself: where its symbol table is (VMCOREINFO of before 6.0, or none), and what no
//! symbol names (see [`super::anchor`]). It is looked for in the image, which is some ten MiB, and never in all of memory.
//! The image is never copied as a whole: what one window holds is all that is kept. What is not mapped (sections that were
//! freed after boot) reads as zeros.

use guest_profiles::kallsyms_search;
use guest_profiles::{Kallsyms, search_kallsyms};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use vmi_core::{AddressSpace, Gva, PAGE_SIZE, ReadError};

/// Where the kernel image is mapped (``__START_KERNEL_map``, arch/x86/include/asm/page_64_types.h).
pub(super) const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// ``LOAD_PHYSICAL_ADDR``, ``CONFIG_PHYSICAL_START`` rounded up: where in that window the image is linked. Every distribution has
/// 16 MiB.
pub(super) const LINKED_AT: u64 = START_KERNEL_MAP + (16 << 20);
/// Bytes of the window that KASLR places the image in (``KERNEL_IMAGE_SIZE``, the same file); modules are behind it.
const WINDOW: u64 = 1 << 30;
/// The image starts at a multiple of this (``CONFIG_PHYSICAL_ALIGN``), and its text is mapped in pages of this size.
pub(super) const STEP: u64 = 2 << 20;
/// Steps without a mapped page that end the image. Freed sections in its middle are shorter.
const GAP: usize = 16;
/// Most bytes of an image.
const BYTES_MAX: u64 = 192 << 20;
/// Bytes that are read at once in a search.
const CHUNK: u64 = 1 << 20;
/// Bytes around a candidate for the token table in which it and its index lie.
const TOKENS_NEAR: u64 = (kallsyms_search::TOKENS_MAX + 4096) as u64;
/// Bytes before the token table in which the other symbol tables are looked for at first, and at most. Debian's kernels have
/// 3 to 5 MiB there.
const TABLES_BEFORE: u64 = 4 << 20;
const TABLES_BEFORE_MAX: u64 = 64 << 20;
/// Token tables that are followed. A kernel has one.
const TOKEN_TABLES_MAX: usize = 4;

/// Takes symbols out of a table: those that are wanted, or all.
pub(super) type TakeSymbols<'t> =
    dyn Fn(&Kallsyms<'_>) -> Result<BTreeMap<String, u64>, guest_profiles::Error> + 't;

/// Where the image is mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelImage {
    /// Virtual address of the first byte.
    pub(super) start: Gva,
    /// Behind the last step that has a mapped page.
    end: Gva,
}

impl KernelImage {
    /// The image that the page tables of `space` map. `Ok(None)`: they map none.
    pub(super) fn find(space: &AddressSpace<'_, '_>) -> Result<Option<Self>, ReadError> {
        let window_end = START_KERNEL_MAP.saturating_add(WINDOW);
        let mut start = None;
        let mut end = Gva(START_KERNEL_MAP);
        let mut gap = 0;
        let mut at = Gva(START_KERNEL_MAP);
        while at.0 < window_end {
            let Some(next) = at.checked_add(STEP) else { break };
            let mapped = match start {
                // The image starts with a page that is mapped.
                None => is_mapped(space, at)?,
                Some(_) => any_is_mapped(space, at, next)?,
            };
            if mapped {
                start = start.or(Some(at));
                end = next;
                gap = 0;
            } else {
                gap += 1;
            }
            at = next;
            if start.is_some_and(|start| gap >= GAP || at.0.saturating_sub(start.0) >= BYTES_MAX) {
                break;
            }
        }
        Ok(start.map(|start| Self { start, end }))
    }

    /// Whether `at` is in the image.
    pub(super) fn contains(&self, at: Gva) -> bool {
        (self.start..self.end).contains(&at)
    }

    /// Behind the image's last byte.
    pub(super) fn end(&self) -> Gva {
        self.end
    }

    /// Shows the image to `visit` in pieces, in order, each with the address of its first byte and `overlap` bytes of the
    /// next one, until it breaks.
    pub(super) fn visit<T>(
        &self,
        space: &AddressSpace<'_, '_>,
        overlap: u64,
        mut visit: impl FnMut(Gva, &[u8]) -> Result<ControlFlow<T>, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        let mut bytes = Vec::new();
        let mut at = self.start;
        while at < self.end {
            self.copy(space, at, CHUNK.saturating_add(overlap), &mut bytes)?;
            if let ControlFlow::Break(found) = visit(at, &bytes)? {
                return Ok(Some(found));
            }
            let Some(next) = at.checked_add(CHUNK) else { break };
            at = next;
        }
        Ok(None)
    }

    /// Copies `len` bytes from `at`, or what the image has of them. `at` is at a page of the image.
    fn copy(
        &self,
        space: &AddressSpace<'_, '_>,
        at: Gva,
        len: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let len = len.min(self.end.0.saturating_sub(at.0));
        bytes.clear();
        bytes.resize(usize::try_from(len).unwrap_or(0), 0);
        match space.read(at, bytes) {
            Ok(()) => return Ok(()),
            Err(error) if error.ends_the_look() => return Err(error),
            Err(_) => {}
        }
        let mut page_at = at;
        for page in bytes.chunks_mut(usize::try_from(PAGE_SIZE).unwrap_or(1)) {
            match space.read(page_at, page) {
                Ok(()) => {}
                Err(error) if error.ends_the_look() => return Err(error),
                Err(_) => page.fill(0),
            }
            let Some(next) = page_at.checked_add(PAGE_SIZE) else { break };
            page_at = next;
        }
        Ok(())
    }

    /// The bytes from `before` before `at` to `behind` behind it, or what the image has of them, from a page's start on; and
    /// where they start.
    fn around(
        &self,
        space: &AddressSpace<'_, '_>,
        at: Gva,
        before: u64,
        behind: u64,
    ) -> Result<(Gva, Vec<u8>), ReadError> {
        let start = Gva(at.0.saturating_sub(before).max(self.start.0) & !(PAGE_SIZE - 1));
        let mut bytes = Vec::new();
        self.copy(space, start, at.0.saturating_sub(start.0).saturating_add(behind), &mut bytes)?;
        Ok((start, bytes))
    }

    /// What `take` takes out of the symbol table that the image holds. `stext` is where ``_stext`` is in the running kernel.
    /// Inner `Err`: there is no table that can be read.
    pub(super) fn symbols(
        &self,
        space: &AddressSpace<'_, '_>,
        stext: u64,
        take: &TakeSymbols<'_>,
    ) -> Result<Result<BTreeMap<String, u64>, guest_profiles::Error>, ReadError> {
        let len = usize::try_from(self.end.0.saturating_sub(self.start.0)).unwrap_or(0);
        let mut failed = guest_profiles::Error::KallsymsNotFound { len };
        let (mut candidates, mut tables) = (0, 0);
        let found = self.visit(space, kallsyms_search::DIGITS_LEN, |at, bytes| {
            for digits in kallsyms_search::digits(bytes) {
                let Some(digits) = at.checked_add(digits as u64) else { continue };
                if candidates >= kallsyms_search::CANDIDATES_MAX || tables >= TOKEN_TABLES_MAX {
                    return Ok(ControlFlow::Break(None));
                }
                candidates += 1;
                let (start, near) = self.around(space, digits, TOKENS_NEAR, TOKENS_NEAR)?;
                let offset = usize::try_from(digits.0.saturating_sub(start.0)).unwrap_or(0);
                if kallsyms_search::is_token_table(&near, offset) {
                    tables += 1;
                    match self.symbols_around(space, digits, stext, take)? {
                        Ok(symbols) => return Ok(ControlFlow::Break(Some(symbols))),
                        Err(error) => failed = error,
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found.flatten().ok_or(failed))
    }

    /// The same from the tables around `tokens`, an address in a token table. The piece of the image that is read is no larger
    /// than it must be: what is kept of an image while it is searched is what a look costs in memory.
    fn symbols_around(
        &self,
        space: &AddressSpace<'_, '_>,
        tokens: Gva,
        stext: u64,
        take: &TakeSymbols<'_>,
    ) -> Result<Result<BTreeMap<String, u64>, guest_profiles::Error>, ReadError> {
        let mut failed = guest_profiles::Error::KallsymsNotFound { len: 0 };
        let mut before = TABLES_BEFORE;
        while before <= TABLES_BEFORE_MAX {
            // Since 6.4 the addresses are behind the token table: four bytes for each symbol, whose name has more.
            let (start, bytes) = self.around(space, tokens, before, before / 2)?;
            match search_kallsyms(&bytes, start.0) {
                Ok(found) => {
                    for tables in found.tables(&bytes) {
                        match Kallsyms::new(tables, stext).and_then(|kallsyms| take(&kallsyms)) {
                            Ok(symbols) => return Ok(Ok(symbols)),
                            Err(error) => failed = error,
                        }
                    }
                }
                Err(error) => failed = error,
            }
            before = before.saturating_add(before / 2);
        }
        Ok(Err(failed))
    }
}

fn is_mapped(space: &AddressSpace<'_, '_>, at: Gva) -> Result<bool, ReadError> {
    match space.translate(at) {
        Ok(_) => Ok(true),
        Err(error) if error.ends_the_look() => Err(error),
        Err(_) => Ok(false),
    }
}

fn any_is_mapped(space: &AddressSpace<'_, '_>, from: Gva, to: Gva) -> Result<bool, ReadError> {
    let mut at = from;
    while at < to {
        if is_mapped(space, at)? {
            return Ok(true);
        }
        let Some(next) = at.checked_add(PAGE_SIZE) else { break };
        at = next;
    }
    Ok(false)
}
