//! A virtual address space of the guest: page tables plus a translation cache, for one look.

use crate::look::{BULK, PhysicalReadError};
use crate::page::lines;
use crate::{Gpa, Gva, LINE, Levels, Look, PAGE_SIZE, Page, ReadError, Translation, paging};
use std::cell::Cell;

/// Entries of each translation cache, a power of two. 512 cover 2 MiB of small pages or 1 GiB of large ones.
const TLB_ENTRIES: usize = 512;
/// Entries of the cache of pages that are loaded from, a power of two.
const PAGES: usize = 1024;
const LARGE_PAGE: u64 = 2 << 20;

const _: () = assert!(Tlb::<12>::PAGE == PAGE_SIZE && Tlb::<21>::PAGE == LARGE_PAGE);

/// Translations of pages of `1 << SHIFT` bytes, each in the one place that its number leads to.
#[derive(Debug)]
struct Tlb<const SHIFT: u32> {
    /// Page number (0 is never cached) and physical page. A power of two of them, or none.
    entries: Box<[Cell<(u64, u64)>]>,
}

impl<const SHIFT: u32> Tlb<SHIFT> {
    const PAGE: u64 = 1 << SHIFT;

    fn new(entries: usize) -> Self {
        Self { entries: vec![Cell::default(); entries].into_boxed_slice() }
    }

    #[inline]
    fn entry(&self, number: u64) -> Option<&Cell<(u64, u64)>> {
        // Kernel text, direct map and vmalloc differ in high bits only, so some of them are folded in.
        let slot = usize::try_from(number ^ (number >> 9) ^ (number >> 18)).unwrap_or(0);
        self.entries.get(slot & self.entries.len().wrapping_sub(1))
    }

    #[inline]
    fn lookup(&self, at: Gva) -> Option<Translation> {
        let number = at.0 >> SHIFT;
        let (cached, base) = self.entry(number)?.get();
        let found = Translation { at: Gpa(base | (at.0 & (Self::PAGE - 1))), page_size: Self::PAGE };
        (cached == number && number != 0).then_some(found)
    }

    fn insert(&self, at: Gva, physical: Gpa) {
        let number = at.0 >> SHIFT;
        if let Some(entry) = self.entry(number) {
            entry.set((number, physical.0 & !(Self::PAGE - 1)));
        }
    }

    fn forget(&self) {
        self.entries.iter().for_each(|entry| entry.set((0, 0)));
    }
}

/// Page number (0 is never cached) and page.
type Slot<'m> = Cell<(u64, Option<&'m Page>)>;

/// Pages that the backend has lent, by where they are in the address space: most reads are a look here and one load.
#[derive(Debug)]
struct Pages<'m> {
    /// A power of two of them, or none.
    entries: Box<[Slot<'m>]>,
}

impl<'m> Pages<'m> {
    fn new(entries: usize) -> Self {
        Self { entries: vec![Cell::default(); entries].into_boxed_slice() }
    }

    #[inline]
    fn entry(&self, number: u64) -> Option<&Slot<'m>> {
        let slot = usize::try_from(number ^ (number >> 10)).unwrap_or(0);
        self.entries.get(slot & self.entries.len().wrapping_sub(1))
    }

    fn forget(&self) {
        self.entries.iter().for_each(|entry| entry.set((0, None)));
    }
}

/// One address space. Reads copy; nothing is ever borrowed from the guest.
#[derive(Debug)]
pub struct AddressSpace<'l, 'm> {
    look: &'l Look<'m>,
    root: Gpa,
    levels: Levels,
    pages: Pages<'m>,
    small: Tlb<12>,
    large: Tlb<21>,
}

impl<'l, 'm> AddressSpace<'l, 'm> {
    /// The address space whose top-level page table is at `root` (bits that are no address are ignored, as in CR3).
    #[must_use]
    pub fn new(look: &'l Look<'m>, root: Gpa, levels: Levels) -> Self {
        Self::with_entries(look, root, levels, (TLB_ENTRIES, PAGES))
    }

    /// The same for a space that is made to read a few pages once, like one process's arguments: it keeps nothing, as that would cost more
    /// than it saves.
    #[must_use]
    pub fn brief(look: &'l Look<'m>, root: Gpa, levels: Levels) -> Self {
        Self::with_entries(look, root, levels, (0, 0))
    }

    fn with_entries(look: &'l Look<'m>, root: Gpa, levels: Levels, (entries, pages): (usize, usize)) -> Self {
        let pages = Pages::new(pages);
        Self { look, root, levels, pages, small: Tlb::new(entries), large: Tlb::new(entries) }
    }

    /// The look it belongs to.
    #[must_use]
    pub fn look(&self) -> &'l Look<'m> {
        self.look
    }

    /// Physical address of the top-level table.
    #[must_use]
    pub fn root(&self) -> Gpa {
        self.root
    }

    /// Depth of its tables.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.levels
    }

    /// Forgets cached translations and pages, so that what is read next is fresh.
    pub fn forget(&self) {
        self.pages.forget();
        self.small.forget();
        self.large.forget();
        self.look.forget_pages();
    }

    /// Where `at` is in physical memory, in pages of 4 KiB or 2 MiB: a page of 1 GiB counts as its 2 MiB pieces.
    /// `Err(NotMapped)` where no entry maps it.
    pub fn translate(&self, at: Gva) -> Result<Translation, ReadError> {
        match self.known(at) {
            Some(found) => Ok(found),
            None => self.walk(at),
        }
    }

    /// Where `at` is, if that was found out before.
    #[inline]
    fn known(&self, at: Gva) -> Option<Translation> {
        self.large.lookup(at).or_else(|| self.small.lookup(at))
    }

    #[cold]
    fn walk(&self, at: Gva) -> Result<Translation, ReadError> {
        let found = paging::translate(self.look, self.root, self.levels, at)
            .map_err(|error| error.at(at))?
            .ok_or(ReadError::NotMapped { at })?;
        let page_size = found.page_size.min(LARGE_PAGE);
        if page_size == LARGE_PAGE {
            self.large.insert(at, found.at);
        } else {
            self.small.insert(at, found.at);
        }
        Ok(Translation { page_size, ..found })
    }

    /// The page that `at` is in, to be loaded from: one whose place is known, and which is known to exist.
    #[inline]
    fn page(&self, at: Gva) -> Option<&'m Page> {
        let number = at.0 / PAGE_SIZE;
        let (cached, page) = self.pages.entry(number)?.get();
        // Of page 0 there is never one.
        if cached == number { page } else { self.lend(at) }
    }

    /// The same of one that is not at hand yet, and is from then on. Apart, so that the usual way stays short.
    #[inline(never)]
    fn lend(&self, at: Gva) -> Option<&'m Page> {
        let page = self.look.page(self.known(at)?.at)?;
        let number = at.0 / PAGE_SIZE;
        self.pages.entry(number).filter(|_| number != 0)?.set((number, Some(page)));
        Some(page)
    }

    /// Copies `buf.len()` bytes from `at`, across pages. All or nothing.
    #[inline]
    pub fn read(&self, at: Gva, buf: &mut [u8]) -> Result<(), ReadError> {
        // Nearly every read lies in one page that is at hand.
        let offset = usize::try_from(at.page_offset()).unwrap_or(usize::MAX);
        match self.page(at) {
            Some(page)
                if page.copy(offset, buf).is_some()
                    && self.look.charge_unasked(buf.len() as u64).is_some() =>
            {
                Ok(())
            }
            _ => self.read_elsewhere(at, buf),
        }
    }

    /// The same where the page is not lent, or there is more than one.
    #[inline(never)]
    fn read_elsewhere(&self, at: Gva, buf: &mut [u8]) -> Result<(), ReadError> {
        if let Some(found) = self.known(at)
            && buf.len() as u64 <= found.left()
        {
            return self.look.read(found.at, buf).map_err(|error| error.at(at));
        }
        self.read_by(at, buf, Look::read)
    }

    /// The same, as they are now, also where pages are kept that were read before.
    pub fn read_again(&self, at: Gva, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read_by(at, buf, Look::read_again)
    }

    fn read_by(
        &self,
        at: Gva,
        buf: &mut [u8],
        read: impl Fn(&Look<'m>, Gpa, &mut [u8]) -> Result<(), PhysicalReadError>,
    ) -> Result<(), ReadError> {
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let found = self.translate(at)?;
            let mut step = usize::try_from(found.left()).unwrap_or(usize::MAX).min(rest.len());
            // What is long is asked for in as few pieces as it has in physical memory, where each may be a call. If that fails, its
            // pages say one by one why.
            let whole = if rest.len() < BULK { step } else { self.together(at, found, step, rest.len()) };
            if whole > step && rest.get_mut(..whole).is_some_and(|now| read(self.look, found.at, now).is_ok())
            {
                step = whole;
            } else if let Some(now) = rest.get_mut(..step) {
                read(self.look, found.at, now).map_err(|error| error.at(at))?;
            }
            rest = rest.split_at_mut(step).1;
            if !rest.is_empty() {
                at = at
                    .checked_add(step as u64)
                    .ok_or(ReadError::NotAnAddress { at, len: rest.len() as u64 })?;
            }
        }
        Ok(())
    }

    /// How many of the `wanted` bytes from `at`, which is at `found`, lie in one piece in physical memory. The first `step` do.
    fn together(&self, at: Gva, found: Translation, mut step: usize, wanted: usize) -> usize {
        while step < wanted {
            let (next, behind) = (at.checked_add(step as u64), found.at.checked_add(step as u64));
            // What cannot be translated is told when it is its turn.
            let Some(Ok(next)) = next.map(|next| self.translate(next)) else { break };
            if Some(next.at) != behind {
                break;
            }
            let more = usize::try_from(next.left()).unwrap_or(usize::MAX).min(wanted.saturating_sub(step));
            step = step.saturating_add(more);
        }
        step
    }

    /// Says that `len` bytes from `at`, as far as they are in its page, will be read soon. Only where it is known already which
    /// page that is: a walk through the tables would wait for memory itself.
    #[inline]
    pub fn expect(&self, at: Gva, len: u64) {
        self.expect_lines_of_page(at, lines(at.0, len));
    }

    /// The same of lines from `at` on, which is a multiple of [`LINE`]: bit `n` is for the bytes from byte `n * LINE` on.
    #[inline]
    pub fn expect_lines(&self, at: Gva, lines: u64) {
        let first = at.page_offset() / LINE;
        let now = lines << first;
        if now != 0 {
            self.expect_lines_of_page(at, now);
        }
        // Those of the next page.
        let later = if first == 0 { 0 } else { lines >> (u64::from(u64::BITS) - first) };
        if later != 0
            && let Some(next) = at.page_base().checked_add(PAGE_SIZE)
        {
            self.expect_lines_of_page(next, later);
        }
    }

    /// The same of lines of the page that `at` is in.
    #[inline]
    fn expect_lines_of_page(&self, at: Gva, lines: u64) {
        if let Some(page) = self.page(at) {
            self.look.memory().expect_of(page, lines);
        } else if let Some(found) = self.known(at.page_base()) {
            let first = u64::from(lines.trailing_zeros());
            let count = (u64::from(u64::BITS) - u64::from(lines.leading_zeros())).saturating_sub(first);
            if let Some(first) = found.at.checked_add(first * LINE) {
                self.look.memory().expect(first, count * LINE);
            }
        }
    }

    /// The pointer at `at`, for whoever wants to [`Self::expect`] what it points at: one that waits for nothing, as it was expected itself.
    /// What it says is no fact. `None`: there is none, or nothing there.
    #[inline]
    #[must_use]
    pub fn glimpse(&self, at: Gva) -> Option<Gva> {
        self.pointer(at).ok().filter(|pointer| !pointer.is_null())
    }

    /// Loads the words at `at` and these distances from it, each of one moment, into `out`. `None`, and some of `out` written: [`Self::read`] them. Not
    /// all of their pages are lent, or `at` is no multiple of eight, or the look has to be asked whether it costs too much.
    #[inline]
    #[must_use]
    pub fn words(&self, at: Gva, distances: &[u64], out: &mut [u64]) -> Option<()> {
        if !at.0.is_multiple_of(8) {
            return None;
        }
        let (mut number, mut page) = (0, None);
        for (distance, out) in distances.iter().zip(out) {
            let at = at.checked_add(*distance)?;
            if page.is_none() || number != at.0 / PAGE_SIZE {
                (number, page) = (at.0 / PAGE_SIZE, self.page(at));
            }
            *out = page?.word(at.page_offset());
        }
        self.look.charge_unasked((distances.len() as u64).saturating_mul(8))
    }

    /// A number that does not straddle a multiple of eight. Most reads are of one.
    #[inline]
    fn number<const N: usize>(&self, at: Gva) -> Option<[u8; N]> {
        let within = at.0 % 8;
        if within.checked_add(N as u64)? > 8 {
            return None;
        }
        let word = self.page(at)?.word(at.page_offset());
        self.look.charge_unasked(N as u64)?;
        (word >> (within * 8)).to_le_bytes().first_chunk().copied()
    }

    #[inline]
    fn array<const N: usize>(&self, at: Gva) -> Result<[u8; N], ReadError> {
        match self.number(at) {
            Some(bytes) => Ok(bytes),
            None => self.array_of_bytes(at),
        }
    }

    /// The same of any bytes, and of all memory that gives no words. Apart, so that the usual way stays short.
    #[inline(never)]
    fn array_of_bytes<const N: usize>(&self, at: Gva) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// One byte.
    #[inline]
    pub fn u8(&self, at: Gva) -> Result<u8, ReadError> {
        Ok(self.array::<1>(at)?[0])
    }

    /// Two bytes, little-endian.
    #[inline]
    pub fn u16(&self, at: Gva) -> Result<u16, ReadError> {
        Ok(u16::from_le_bytes(self.array(at)?))
    }

    /// Four bytes, little-endian.
    #[inline]
    pub fn u32(&self, at: Gva) -> Result<u32, ReadError> {
        Ok(u32::from_le_bytes(self.array(at)?))
    }

    /// Eight bytes, little-endian.
    #[inline]
    pub fn u64(&self, at: Gva) -> Result<u64, ReadError> {
        Ok(u64::from_le_bytes(self.array(at)?))
    }

    /// A pointer.
    #[inline]
    pub fn pointer(&self, at: Gva) -> Result<Gva, ReadError> {
        Ok(Gva(self.u64(at)?))
    }

    /// `len` bytes as a vector. The caller bounds `len`: it is allocated before anything is read.
    pub fn bytes(&self, at: Gva, len: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; len];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// The bytes of a NUL-terminated string, without the NUL. At most `max` bytes are looked at; a string that is
    /// longer comes back cut at `max`. The string may end right before a page that is not mapped.
    pub fn c_string(&self, at: Gva, max: usize) -> Result<Vec<u8>, ReadError> {
        let mut text = Vec::new();
        let mut at = at;
        while text.len() < max {
            let in_page = usize::try_from(PAGE_SIZE - at.page_offset()).unwrap_or(1);
            // Most strings are short: a first step of 64 bytes touches one or two cache lines.
            let step = in_page.min(max - text.len()).min(if text.is_empty() { 64 } else { 1024 });
            let chunk = self.bytes(at, step)?;
            if let Some(end) = chunk.iter().position(|byte| *byte == 0) {
                text.extend(chunk.iter().take(end));
                return Ok(text);
            }
            text.extend_from_slice(&chunk);
            at = at.checked_add(step as u64).ok_or(ReadError::NotAnAddress { at, len: step as u64 })?;
        }
        Ok(text)
    }
}
