//! Writes symbol tables in every encoding that a kernel has had, the way `scripts/kallsyms.c` lays them out.

use guest_profiles::KallsymsTables;
use guest_profiles::kallsyms::{Encoding, Values};

/// Tokens longer than one character, on codes that no symbol's own characters use.
const TOKENS: [(u8, &str); 6] =
    [(1, "Tinit"), (2, "task"), (3, "_ste"), (128, "swapper"), (200, "pid_ns"), (255, "_init_")];

/// Owned tables.
#[derive(Debug, Clone)]
pub struct Built {
    pub num_syms: u32,
    pub names: Vec<u8>,
    pub token_table: Vec<u8>,
    pub token_index: Vec<u8>,
    pub values: Vec<u8>,
    pub absolute: bool,
    pub address: u64,
    pub relative_base: Option<u64>,
}

impl Built {
    pub fn tables(&self) -> KallsymsTables<'_> {
        KallsymsTables {
            num_syms: self.num_syms,
            names: &self.names,
            token_table: &self.token_table,
            token_index: &self.token_index,
            values: if self.absolute {
                Values::Addresses(&self.values)
            } else {
                Values::Offsets {
                    bytes: &self.values,
                    address: self.address,
                    relative_base: self.relative_base,
                }
            },
        }
    }
}

/// Symbols: address, type and name in one string, as `nm` would print them without the space.
pub fn build(encoding: Encoding, base: u64, symbols: &[(u64, &str)]) -> Built {
    let mut names = Vec::new();
    for (_, name) in symbols {
        let codes = compress(name);
        match u8::try_from(codes.len()) {
            Ok(len) if len < 0x80 => names.push(len),
            // Unsigned LEB128, as since 6.1.
            _ => names.extend([
                ((codes.len() & 0x7f) | 0x80).try_into().unwrap(),
                u8::try_from(codes.len() >> 7).unwrap(),
            ]),
        }
        names.extend(codes);
    }
    let mut token_table = Vec::new();
    let mut token_index = Vec::new();
    for code in 0..=255_u8 {
        token_index.extend_from_slice(&u16::try_from(token_table.len()).unwrap().to_le_bytes());
        match TOKENS.iter().find(|(token, _)| *token == code) {
            Some((_, text)) => token_table.extend_from_slice(text.as_bytes()),
            None if code.is_ascii_graphic() => token_table.push(code),
            None => {}
        }
        token_table.push(0);
    }
    let address = 0xffff_ffff_8260_0000;
    let mut values = Vec::new();
    for (index, (symbol, _)) in symbols.iter().enumerate() {
        let offset = match encoding {
            Encoding::Absolute => {
                values.extend_from_slice(&symbol.to_le_bytes());
                continue;
            }
            Encoding::BaseRelative => symbol.wrapping_sub(base),
            Encoding::AbsolutePercpu if *symbol < 1 << 31 => *symbol,
            Encoding::AbsolutePercpu => base.wrapping_sub(1).wrapping_sub(*symbol),
            Encoding::PlaceRelative => symbol.wrapping_sub(address + 4 * index as u64),
        };
        values.extend_from_slice(&offset.to_le_bytes()[..4]);
    }
    let has_base = matches!(encoding, Encoding::BaseRelative | Encoding::AbsolutePercpu);
    Built {
        num_syms: u32::try_from(symbols.len()).unwrap(),
        names,
        token_table,
        token_index,
        values,
        absolute: encoding == Encoding::Absolute,
        address,
        relative_base: has_base.then_some(base),
    }
}

fn compress(mut name: &str) -> Vec<u8> {
    let mut codes = Vec::new();
    while let Some(first) = name.bytes().next() {
        match TOKENS.iter().find(|(_, text)| name.starts_with(text)) {
            Some((code, text)) => {
                codes.push(*code);
                name = &name[text.len()..];
            }
            None => {
                codes.push(first);
                name = &name[1..];
            }
        }
    }
    codes
}
