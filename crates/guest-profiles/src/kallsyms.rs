//! Decodes the kernel's compressed symbol table.
//!
//! The caller copies the five tables out of the guest; where they are is told by VMCOREINFO (6.0 and later) or found by
//! looking for the token table. Names are sequences of tokens; addresses have had four encodings over the years, none
//! of which is announced, so the one is taken that puts `_stext` where it is known to be (the idea is drgn's).
//! Formats: `kernel/kallsyms.c` and `scripts/kallsyms.c` of Linux 5.10, 6.1, 6.12 and 7.0.
//!
//! The tables come from a guest: the number of symbols is bounded by the tables' sizes, names by the kernel's own limit,
//! and every offset is checked. Nothing here may panic.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::{Error, le};

/// `KSYM_NAME_LEN` of 6.1 and later (128 before), with the type character in place of the NUL.
const MAX_NAME: usize = 512;
const TOKENS: usize = 256;
const STEXT: &str = "_stext";

/// How the table of addresses is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// `unsigned long kallsyms_addresses[]`: the address itself. Before 6.11.
    Absolute,
    /// `int kallsyms_offsets[]` from `kallsyms_relative_base`, unsigned. 4.6 to 6.19.
    BaseRelative,
    /// As above, but a value of 0 or more is the address itself (per-CPU symbols), and a negative one is
    /// `base - 1 - value`. x86-64 with `CONFIG_KALLSYMS_ABSOLUTE_PERCPU`, 4.6 to 6.14.
    AbsolutePercpu,
    /// `int kallsyms_offsets[]`, each relative to its own place, signed. 7.0 and later.
    PlaceRelative,
}

impl fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Absolute => "absolute",
            Self::BaseRelative => "base-relative",
            Self::AbsolutePercpu => "absolute-percpu",
            Self::PlaceRelative => "place-relative",
        })
    }
}

/// The tables as copied out of the guest. Each slice may be longer than the table.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// `kallsyms_num_syms`.
    pub num_syms: u32,
    /// `kallsyms_names`.
    pub names: &'a [u8],
    /// `kallsyms_token_table`.
    pub token_table: &'a [u8],
    /// `kallsyms_token_index`, 512 bytes.
    pub token_index: &'a [u8],
    /// The addresses.
    pub values: Values<'a>,
}

/// The table of addresses, by what its symbol is called.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// `kallsyms_addresses`, 8 bytes per symbol.
    Addresses(&'a [u8]),
    /// `kallsyms_offsets`, 4 bytes per symbol.
    Offsets {
        /// The table.
        bytes: &'a [u8],
        /// Guest-virtual address of the table.
        address: u64,
        /// `kallsyms_relative_base`, if the kernel has one (before 7.0).
        relative_base: Option<u64>,
    },
}

/// One symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Address in the running kernel; of a per-CPU symbol before 6.15 its offset in the per-CPU area.
    pub address: u64,
    /// Type as `nm` prints it; upper case for global symbols.
    pub kind: char,
    /// Name.
    pub name: String,
}

/// A symbol table whose encoding is known.
#[derive(Debug)]
pub struct Kallsyms<'a> {
    tables: Tables<'a>,
    tokens: Vec<&'a [u8]>,
    encoding: Encoding,
}

impl<'a> Kallsyms<'a> {
    /// Checks the tokens and finds the encoding under which `_stext` is at `stext`, its address in the running kernel.
    /// No such encoding, or more than one, is an error.
    pub fn new(tables: Tables<'a>, stext: u64) -> Result<Self, Error> {
        let tokens = tokens(tables.token_table, tables.token_index)?;
        let index = Names::new(tables.names, tables.num_syms, &tokens)
            .find_map(|name| match name {
                Ok(name) => match name.is(STEXT) {
                    Ok(is) => is.then_some(Ok(name.index)),
                    Err(error) => Some(Err(error)),
                },
                Err(error) => Some(Err(error)),
            })
            .transpose()?
            .ok_or(Error::KallsymsNoStext { count: tables.num_syms })?;
        let mut found = Vec::new();
        for encoding in
            [Encoding::Absolute, Encoding::BaseRelative, Encoding::AbsolutePercpu, Encoding::PlaceRelative]
        {
            if let Some(address) = tables.address(encoding, index)? {
                found.push((encoding, address));
            }
        }
        let fitting: Vec<_> = found.iter().copied().filter(|&(_, address)| address == stext).collect();
        match fitting.as_slice() {
            [(encoding, _)] => Ok(Self { tables, tokens, encoding: *encoding }),
            [] => Err(Error::KallsymsEncoding { expected: stext, found }),
            _ => Err(Error::KallsymsAmbiguous { expected: stext, found: fitting }),
        }
    }

    /// The encoding found.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Number of symbols announced.
    pub fn len(&self) -> u32 {
        self.tables.num_syms
    }

    /// Whether there are no symbols; never true of a table that has `_stext`.
    pub fn is_empty(&self) -> bool {
        self.tables.num_syms == 0
    }

    /// The addresses of the wanted names in one pass. A name that the kernel does not have is absent. Of several
    /// symbols with one name (static ones of different files) the only global one is taken; where that does not decide
    /// and the addresses differ, the name is absent too, because any choice would be a guess: [`Kallsyms::iter`] lists
    /// them.
    pub fn resolve(&self, wanted: &[&str]) -> Result<BTreeMap<String, u64>, Error> {
        let mut hits = Hits::new(wanted);
        let filter = EndFilter::new(wanted, &self.tokens);
        let mut buffer = Vec::with_capacity(MAX_NAME);
        for name in Names::new(self.tables.names, self.tables.num_syms, &self.tokens) {
            let name = name?;
            if !filter.may_match(&name)? {
                continue;
            }
            name.expand(&mut buffer)?;
            let Some((&kind, text)) = buffer.split_first() else { continue };
            if hits.has(text) {
                hits.add(text, kind.is_ascii_uppercase(), self.address(name.index)?);
            }
        }
        Ok(hits.addresses())
    }

    /// All symbols in table order. A name that cannot be read is the last item.
    pub fn iter(&self) -> impl Iterator<Item = Result<Symbol, Error>> {
        let mut buffer = Vec::with_capacity(MAX_NAME);
        let mut symbol = move |name: Result<Name<'_, '_>, Error>| {
            let name = name?;
            name.expand(&mut buffer)?;
            let (&kind, text) = buffer.split_first().unwrap_or((&b'?', &[]));
            Ok(Symbol {
                address: self.address(name.index)?,
                kind: char::from(kind),
                name: String::from_utf8_lossy(text).into_owned(),
            })
        };
        let mut failed = false;
        Names::new(self.tables.names, self.tables.num_syms, &self.tokens).map_while(move |name| {
            if failed {
                return None;
            }
            let symbol = symbol(name);
            failed = symbol.is_err();
            Some(symbol)
        })
    }

    fn address(&self, index: u32) -> Result<u64, Error> {
        // The encoding was chosen because it applies, so there is an address.
        Ok(self.tables.address(self.encoding, index)?.unwrap_or_default())
    }
}

impl Tables<'_> {
    /// The address of a symbol under one encoding; `None` when the tables do not have what the encoding needs.
    fn address(&self, encoding: Encoding, index: u32) -> Result<Option<u64>, Error> {
        let truncated =
            |table, len| Error::KallsymsTruncated { table, len, symbol: index, count: self.num_syms };
        let (bytes, address, base) = match (self.values, encoding) {
            (Values::Addresses(bytes), Encoding::Absolute) => {
                let value = le::u64(bytes, index as usize * 8);
                return value.map(Some).ok_or_else(|| truncated("addresses", bytes.len()));
            }
            (Values::Addresses(_), _) | (Values::Offsets { .. }, Encoding::Absolute) => return Ok(None),
            (Values::Offsets { bytes, address, relative_base }, _) => (bytes, address, relative_base),
        };
        let at = index as usize * 4;
        let value = le::u32(bytes, at).ok_or_else(|| truncated("offsets", bytes.len()))?;
        let signed = i64::from(value.cast_signed());
        Ok(match (encoding, base) {
            (Encoding::PlaceRelative, _) => {
                Some(address.wrapping_add(u64::from(index) * 4).wrapping_add_signed(signed))
            }
            (Encoding::BaseRelative, Some(base)) => Some(base.wrapping_add(u64::from(value))),
            (Encoding::AbsolutePercpu, Some(_)) if signed >= 0 => Some(u64::from(value)),
            (Encoding::AbsolutePercpu, Some(base)) => Some(base.wrapping_sub(1).wrapping_add_signed(-signed)),
            _ => None,
        })
    }
}

/// Says cheaply that a name is not wanted, by its length and its last token: few names need to be expanded.
struct EndFilter {
    /// For each token the lengths, type character included, of the wanted names that can end with it: a bit for each. `None`:
    /// there are no such names.
    ends: Vec<Option<[u64; LENGTH_WORDS]>>,
}

/// Words with a bit for each length of a name.
const LENGTH_WORDS: usize = MAX_NAME / 64 + 1;

impl EndFilter {
    fn new(wanted: &[&str], tokens: &[&[u8]]) -> Self {
        let lengths = |token: &&[u8]| {
            let mut lengths = [0; LENGTH_WORDS];
            for name in wanted {
                // An empty token leaves the last byte to an earlier one. One may be all of a name, type character included.
                let text = name.as_bytes();
                let whole = token.len() > text.len() && token.get(1..) == Some(text);
                if let Some(word) = lengths.get_mut((text.len() + 1) / 64)
                    && (whole || text.ends_with(token))
                {
                    *word |= 1 << ((text.len() + 1) % 64);
                }
            }
            (lengths != [0; LENGTH_WORDS]).then_some(lengths)
        };
        Self { ends: tokens.iter().map(lengths).collect() }
    }

    /// `Err` when the name is as long as no name is; names whose end already says that they are not wanted are not measured.
    fn may_match(&self, name: &Name<'_, '_>) -> Result<bool, Error> {
        let ends = match name.codes.last().and_then(|&code| self.ends.get(usize::from(code))) {
            Some(None) => return Ok(false),
            Some(Some(lengths)) => lengths,
            None => return name.len().map(|_| false),
        };
        let len = name.len()?;
        Ok(ends.get(len / 64).is_some_and(|word| word >> (len % 64) & 1 == 1))
    }
}

/// What was seen of the wanted names in a symbol table: which symbol is meant where several have one name is decided here, for
/// every kind of table.
#[derive(Debug)]
pub(crate) struct Hits<'w>(HashMap<&'w [u8], Hit>);

impl<'w> Hits<'w> {
    pub(crate) fn new(wanted: &[&'w str]) -> Self {
        Self(wanted.iter().map(|name| (name.as_bytes(), Hit::default())).collect())
    }

    pub(crate) fn has(&self, name: &[u8]) -> bool {
        self.0.contains_key(name)
    }

    /// Takes note of a symbol; one that is not wanted is left out.
    pub(crate) fn add(&mut self, name: &[u8], global: bool, address: u64) {
        if let Some(hit) = self.0.get_mut(name) {
            hit.add(global, address);
        }
    }

    /// The address of each name for which there is one.
    pub(crate) fn addresses(&self) -> BTreeMap<String, u64> {
        let found = self
            .0
            .iter()
            .filter_map(|(name, hit)| Some((String::from_utf8_lossy(name).into_owned(), hit.address()?)));
        found.collect()
    }
}

/// What was seen of one wanted name.
#[derive(Debug, Default)]
struct Hit {
    global: Candidate,
    local: Candidate,
}

#[derive(Debug, Default, Clone, Copy)]
enum Candidate {
    #[default]
    None,
    One(u64),
    Many,
}

impl Hit {
    fn add(&mut self, global: bool, address: u64) {
        let candidate = if global { &mut self.global } else { &mut self.local };
        *candidate = match *candidate {
            Candidate::None => Candidate::One(address),
            Candidate::One(known) if known == address => Candidate::One(address),
            _ => Candidate::Many,
        };
    }

    fn address(&self) -> Option<u64> {
        match (self.global, self.local) {
            (Candidate::One(address), _) | (Candidate::None, Candidate::One(address)) => Some(address),
            _ => None,
        }
    }
}

/// The 256 strings that names are made of.
fn tokens<'a>(table: &'a [u8], index: &[u8]) -> Result<Vec<&'a [u8]>, Error> {
    if index.len() != 2 * TOKENS {
        return Err(Error::KallsymsTokenIndex { len: index.len() });
    }
    (0..TOKENS)
        .map(|token| {
            let offset = le::u16(index, 2 * token).map_or(usize::MAX, usize::from);
            let error = || Error::KallsymsToken { token, offset, len: table.len() };
            let start = table.get(offset..).ok_or_else(error)?;
            let end = start.iter().take(MAX_NAME + 1).position(|&byte| byte == 0).ok_or_else(error)?;
            start.get(..end).ok_or_else(error)
        })
        .collect()
}

/// Walks the names without expanding them.
struct Names<'a, 't> {
    names: &'a [u8],
    at: usize,
    index: u32,
    count: u32,
    tokens: &'t [&'a [u8]],
}

/// One name, still compressed.
struct Name<'a, 't> {
    index: u32,
    codes: &'a [u8],
    tokens: &'t [&'a [u8]],
}

impl<'a, 't> Names<'a, 't> {
    fn new(names: &'a [u8], count: u32, tokens: &'t [&'a [u8]]) -> Self {
        Self { names, at: 0, index: 0, count, tokens }
    }

    /// The length is an unsigned LEB128 of at most two bytes since 6.1 (73bbb94466fd). Before, it was one byte, but a
    /// name then had at most 127 characters, which compress to far fewer than 128 tokens: one rule reads both.
    fn next_codes(&mut self) -> Option<&'a [u8]> {
        let first = *self.names.get(self.at)?;
        let (len, start) = if first & 0x80 == 0 {
            (usize::from(first), self.at + 1)
        } else {
            let second = *self.names.get(self.at + 1)?;
            (usize::from(first & 0x7f) | usize::from(second) << 7, self.at + 2)
        };
        let codes = self.names.get(start..start + len)?;
        self.at = start + len;
        Some(codes)
    }
}

impl<'a, 't> Iterator for Names<'a, 't> {
    type Item = Result<Name<'a, 't>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.count {
            return None;
        }
        let index = self.index;
        let Some(codes) = self.next_codes() else {
            let count = std::mem::replace(&mut self.count, 0);
            return Some(Err(Error::KallsymsTruncated {
                table: "names",
                len: self.names.len(),
                symbol: index,
                count,
            }));
        };
        self.index += 1;
        Some(Ok(Name { index, codes, tokens: self.tokens }))
    }
}

impl Name<'_, '_> {
    fn token(&self, code: u8) -> &[u8] {
        self.tokens.get(usize::from(code)).copied().unwrap_or_default()
    }

    /// Bytes when expanded, type character included: 2 to [`MAX_NAME`].
    fn len(&self) -> Result<usize, Error> {
        // At most 2^15 tokens of at most 512 bytes.
        let len = self.codes.iter().map(|&code| self.token(code).len()).sum();
        if (2..=MAX_NAME).contains(&len) {
            Ok(len)
        } else {
            Err(Error::KallsymsName { symbol: self.index, len, limit: MAX_NAME })
        }
    }

    fn expand(&self, buffer: &mut Vec<u8>) -> Result<(), Error> {
        buffer.clear();
        buffer.reserve(self.len()?);
        self.codes.iter().for_each(|&code| buffer.extend_from_slice(self.token(code)));
        Ok(())
    }

    fn is(&self, name: &str) -> Result<bool, Error> {
        if self.len()? != name.len() + 1 {
            return Ok(false);
        }
        let mut buffer = Vec::new();
        self.expand(&mut buffer)?;
        Ok(buffer.get(1..) == Some(name.as_bytes()))
    }
}
