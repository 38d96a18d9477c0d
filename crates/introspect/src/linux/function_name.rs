//! Names of the kernel's own functions by their addresses, out of the symbol table (kallsyms) in its memory.
//!
//! A profile has only what the engine asks for. Where the table is, VMCOREINFO says since 6.0; a name is found as the kernel finds it:
//! the addresses ascend, and each 256th name has a marker (kallsyms_lookup_names(), kernel/kallsyms.c 6.12). So a name costs a
//! few dozen reads and the table is never copied. Must never be used for what a finding depends on: what is not found has no name.

use crate::session::{Session, member};
use guest_profiles::VmcoreInfo;
use vmi_core::{Gva, ReadError};

/// Most symbols a kernel may claim, and most bytes of their compressed names.
const SYMBOLS_MAX: u32 = 4 << 20;
const NAMES_MAX: u64 = 64 << 20;
/// Names from one marker to the next.
const MARKED: u32 = 256;
/// Longest name (``KSYM_NAME_LEN``), and longest token.
const NAME_MAX: usize = 512;
/// Most symbols of one address.
const ALIASES_MAX: u32 = 64;

/// The tables of one kernel.
#[derive(Debug)]
pub(super) struct Functions {
    count: u32,
    names: Gva,
    /// Bytes of names, of markers and of what is between.
    names_len: u64,
    markers: Gva,
    tokens: Gva,
    token_index: Gva,
    offsets: Gva,
    base: Base,
}

/// What the addresses are relative to.
#[derive(Clone, Copy, Debug)]
enum Base {
    /// Each to its own place, since 7.0.
    Place,
    /// All to one address.
    One(u64),
    /// The same, counted backwards, so that per-CPU variables can be told from functions.
    Backwards(u64),
}

impl Functions {
    /// `None`: this kernel does not say where its table is.
    pub(super) fn of(session: &Session<'_>) -> Result<Option<Self>, ReadError> {
        let Some(page) = session.kernel.boot.vmcoreinfo_at else { return Ok(None) };
        let mut text = [0; 4096];
        if session.space.look().read(page, &mut text).is_err() {
            return Ok(None);
        }
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let Ok(info) = VmcoreInfo::parse(text) else { return Ok(None) };
        let table = |name: &str| info.symbols.get(name).copied().map(Gva);
        let tables = [
            "kallsyms_num_syms",
            "kallsyms_names",
            "kallsyms_token_table",
            "kallsyms_token_index",
            "kallsyms_offsets",
        ]
        .map(table);
        let [Some(count), Some(names), Some(tokens), Some(token_index), Some(offsets)] = tables else {
            return Ok(None);
        };
        let space = &session.space;
        let count = space.u32(count)?;
        // The markers stand between the names and the tokens, each table at a multiple of eight (scripts/kallsyms.c).
        let markers_len = u64::from(count.div_ceil(MARKED)).saturating_mul(4).next_multiple_of(8);
        let names_len = tokens.0.checked_sub(names.0).filter(|len| *len <= NAMES_MAX);
        let (Some(names_len), Some(markers)) = (names_len, tokens.checked_sub(markers_len)) else {
            return Ok(None);
        };
        if count == 0 || count > SYMBOLS_MAX || markers.0 < names.0 {
            return Ok(None);
        }
        let base = match table("kallsyms_relative_base") {
            None => Base::Place,
            Some(base) => {
                let base = space.u64(base)?;
                // The last symbol is no per-CPU variable.
                match space.u32(at(offsets, count.saturating_sub(1))?)?.cast_signed() {
                    ..0 => Base::Backwards(base),
                    _ => Base::One(base),
                }
            }
        };
        Ok(Some(Self { count, names, names_len, markers, tokens, token_index, offsets, base }))
    }

    fn address(&self, session: &Session<'_>, index: u32) -> Result<u64, ReadError> {
        let at = at(self.offsets, index)?;
        let value = session.space.u32(at)?;
        let signed = i64::from(value.cast_signed());
        Ok(match self.base {
            Base::Place => at.0.wrapping_add_signed(signed),
            Base::One(base) => base.wrapping_add(u64::from(value)),
            Base::Backwards(_) if signed >= 0 => u64::from(value),
            Base::Backwards(base) => base.wrapping_sub(1).wrapping_sub(signed.cast_unsigned()),
        })
    }

    /// The name of the function that `address` is in. `None`: it is behind all that the table has.
    pub(super) fn name(&self, session: &Session<'_>, address: Gva) -> Result<Option<String>, ReadError> {
        let (mut low, mut high) = (0, self.count);
        // The first of all that are behind it.
        while low < high {
            let middle = low.midpoint(high);
            if self.address(session, middle)? <= address.0 {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        // Behind the last one there is no saying where it ends: modules and programs are there.
        let Some(mut index) = low.checked_sub(1).filter(|_| low < self.count) else { return Ok(None) };
        let own = self.address(session, index)?;
        for _ in 0..ALIASES_MAX {
            match index.checked_sub(1) {
                Some(before) if self.address(session, before)? == own => index = before,
                _ => break,
            }
        }
        self.text(session, index)
    }

    fn text(&self, session: &Session<'_>, index: u32) -> Result<Option<String>, ReadError> {
        let space = &session.space;
        let mut offset = u64::from(space.u32(at(self.markers, index / MARKED)?)?);
        let mut skip = index % MARKED;
        loop {
            if offset > self.names_len {
                return Ok(None);
            }
            let name = member(self.names, offset)?;
            // One byte, or two since 6.1.
            let first = u64::from(space.u8(name)?);
            let (len, head) = match first {
                ..0x80 => (first, 1),
                _ => (first & 0x7f | u64::from(space.u8(member(name, 1)?)?) << 7, 2),
            };
            if skip == 0 {
                let codes = space.bytes(member(name, head)?, usize::try_from(len).unwrap_or(0))?;
                return self.expanded(session, &codes).map(Some);
            }
            skip -= 1;
            offset = offset.saturating_add(head).saturating_add(len);
        }
    }

    fn expanded(&self, session: &Session<'_>, codes: &[u8]) -> Result<String, ReadError> {
        let mut text = Vec::new();
        for code in codes {
            let index = self.token_index.element(u64::from(*code), 2);
            let index = index.ok_or(ReadError::NotAnAddress { at: self.token_index, len: 2 })?;
            let token = member(self.tokens, u64::from(session.space.u16(index)?))?;
            text.extend(session.space.c_string(token, NAME_MAX)?);
            if text.len() > NAME_MAX {
                break;
            }
        }
        // The first character is the symbol's type.
        Ok(String::from_utf8_lossy(text.get(1..).unwrap_or_default()).into_owned())
    }
}

/// The word `index` of a table.
fn at(table: Gva, index: u32) -> Result<Gva, ReadError> {
    table.element(u64::from(index), 4).ok_or(ReadError::NotAnAddress { at: table, len: u64::from(index) })
}
