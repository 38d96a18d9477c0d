//! What each fuzz target does with its bytes: everything that can be asked of the parser, and what must hold of every
//! answer. The parsers' errors are answers too; only a panic, a broken bound or a hang is a find.
//!
//! `crates/guest-profiles/tests/it/hostile.rs` includes this file and runs it on a stable compiler over the corpus and
//! over altered copies of it, so that a find stays found.

use std::collections::BTreeMap;

use guest_profiles::btf::{Btf, Kind};
use guest_profiles::kallsyms::{Kallsyms, Tables, Values};
use guest_profiles::{
    FieldKind, Profile, ProfileIdentity, VmcoreInfo, Wanted, WantedEnum, WantedType, build_id, kernel_file,
    linux,
};

/// Layouts asked of one input: a hostile BTF may have a hundred thousand records that each cost the most allowed.
const RECORDS: usize = 16;

/// A kernel's types, for a module to refer to: an int, and a struct that has one.
const BASE: &[u8] =
    b"\x9f\xeb\x01\x00\x18\x00\x00\x00\x00\x00\x00\x00\x28\x00\x00\x00\x28\x00\x00\x00\x0c\x00\x00\x00\
    \x01\x00\x00\x00\x00\x00\x00\x01\x04\x00\x00\x00\x20\x00\x00\x01\
    \x05\x00\x00\x00\x01\x00\x00\x04\x04\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\
    \x00int\x00sock\x00f\x00";

/// Any bytes as a BTF, of a kernel and of a module.
pub fn btf(bytes: &[u8]) {
    if let Ok(btf) = Btf::parse(bytes) {
        ask(&btf, bytes);
    }
    let base = Btf::parse(BASE).expect("it was made to be read");
    if let Ok(btf) = Btf::parse_split(&base, bytes) {
        ask(&btf, bytes);
    }
}

fn ask(btf: &Btf<'_>, bytes: &[u8]) {
    assert!(btf.as_bytes().len() <= bytes.len());
    assert!(btf.ids().count() <= bytes.len() / 12 + 1);
    let mut records = 0;
    for id in btf.ids() {
        let kind = btf.kind(id).expect("parse has seen each type");
        let _ = btf.name(id);
        let _ = btf.size_of(id);
        let _ = btf.resolve(id);
        if let Ok(values) = btf.enum_values(id) {
            assert!(matches!(kind, Kind::Enum | Kind::Enum64) && values.len() * 8 <= bytes.len());
        }
        if !matches!(kind, Kind::Struct | Kind::Union) || records >= RECORDS {
            continue;
        }
        records += 1;
        let Ok(layout) = btf.layout(id, &|_| true) else { continue };
        assert!(layout.members.len() <= 4096);
        for (path, field) in &layout.members {
            assert!(!path.is_empty() && path.len() < 2048);
            assert!(field.offset + field.size <= layout.size, "{path} lies outside");
            if let Some(bits) = field.bits {
                assert!(field.size <= 8 && u64::from(bits.shift + bits.width) <= field.size * 8);
            }
            let mut kind = &field.kind;
            while let FieldKind::Array { element, .. } = kind {
                kind = element;
            }
        }
    }
    let identity = ProfileIdentity { release: "fuzz".to_owned(), build_id: None };
    if let Ok(profile) = Profile::from_btf(btf, &linux::WANTED, BTreeMap::new(), identity) {
        let json = profile.to_json();
        if let Ok(again) = Profile::from_json(&json) {
            assert_eq!(again, profile);
        }
        for wanted in linux::WANTED.types {
            for member in wanted.members {
                let _ = profile.field(wanted.name, member);
            }
        }
    }
}

/// Bytes as symbol tables: a head that says where to cut, and the tables one after the other.
///
/// ```text
/// 0 num_syms u32 · 4 names bytes u16 · 6 token table bytes u16 · 8 flags u8 (1 addresses, 2 has a relative base)
/// 9 relative_base u64 · 17 address u64 · 25 stext u64 · 33 names, token table, token index (512), values
/// ```
pub fn kallsyms(bytes: &[u8]) {
    let Some((tables, stext)) = kallsyms_tables(bytes) else { return };
    let Ok(kallsyms) = Kallsyms::new(tables, stext) else { return };
    let _ = kallsyms.resolve(&["_stext", "init_task", "modules", ""]);
    let mut stexts = Vec::new();
    let symbols = kallsyms.iter().inspect(|symbol| {
        if let Ok(symbol) = symbol {
            assert!(!symbol.name.is_empty() && symbol.name.len() <= 3 * 512);
            if symbol.name == "_stext" {
                stexts.push(symbol.address);
            }
        }
    });
    assert!(symbols.count() <= tables.names.len() + 1);
    // There may be more of that name in a hostile table; the encoding goes by the first.
    assert_eq!(stexts.first(), Some(&stext));
}

fn kallsyms_tables(bytes: &[u8]) -> Option<(Tables<'_>, u64)> {
    let (head, rest) = bytes.split_at_checked(33)?;
    let word = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let len = |at: usize| Some(usize::from(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?)));
    let (names, rest) = rest.split_at_checked(len(4)?)?;
    let (token_table, rest) = rest.split_at_checked(len(6)?)?;
    let (token_index, values) = rest.split_at_checked(512)?;
    let flags = head.get(8)?;
    let relative_base = if flags & 2 != 0 { Some(word(9)?) } else { None };
    let values = match flags & 1 {
        1 => Values::Addresses(values),
        _ => Values::Offsets { bytes: values, address: word(17)?, relative_base },
    };
    let num_syms = u32::from_le_bytes(head.get(..4)?.try_into().ok()?);
    Some((Tables { num_syms, names, token_table, token_index, values }, word(25)?))
}

/// Any bytes as VMCOREINFO.
pub fn vmcoreinfo(bytes: &[u8]) {
    let Ok(info) = VmcoreInfo::parse(bytes) else { return };
    let lines = info.symbols.len()
        + info.offsets.len()
        + info.sizes.len()
        + info.lengths.len()
        + info.numbers.len()
        + info.others.len();
    assert!(lines <= 8192 / 4);
    assert!(!info.osrelease.is_empty() && info.osrelease.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
}

/// Any bytes as ELF notes.
pub fn elf_notes(bytes: &[u8]) {
    if let Ok(id) = build_id(bytes) {
        assert!((2..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

/// Any bytes as Volatility's symbol file.
pub fn isf(bytes: &[u8]) {
    let Ok(profile) = guest_profiles::isf::read(bytes, &linux::WANTED) else { return };
    assert!(!profile.release.is_empty() && profile.release.len() <= 64);
    for (name, layout) in &profile.types {
        assert!(layout.members.len() <= 4096);
        for (path, field) in &layout.members {
            assert!(field.offset + field.size <= layout.size, "{path} lies outside of {name}");
            if let Some(bits) = field.bits {
                assert!(field.size <= 8 && u64::from(bits.shift + bits.width) <= field.size * 8);
            }
        }
    }
    same_after_storing(&profile);
}

/// Any bytes as a file of the profile store.
pub fn stored(bytes: &[u8]) {
    let Ok(profile) = guest_profiles::store::unpack(bytes) else { return };
    for wanted in linux::WANTED.types {
        for member in wanted.members {
            let _ = profile.field(wanted.name, member);
        }
    }
    assert!(profile.disagreements("one", &profile, "the same").is_empty());
    same_after_storing(&profile);
}

fn same_after_storing(profile: &Profile) {
    let packed = guest_profiles::store::pack(profile).expect("a profile can be packed");
    assert_eq!(guest_profiles::store::unpack(&packed).expect("what was packed can be unpacked"), *profile);
}

const fn all(name: &'static str) -> WantedType {
    WantedType { name, members: &[] }
}

/// The types of `crates/guest-profiles/tests/kernel/types.c`, of which the corpus has debug information.
const COMPILED: Wanted = Wanted {
    types: &[all("everything"), all("packed"), all("onion"), all("list"), all("possible_t"), all("tagged_t")],
    enums: &[
        WantedEnum { name: "state", values: &[] },
        WantedEnum { name: "", values: &["UNTAGGED_SECOND", "OTHER_UNTAGGED"] },
    ],
    symbols: linux::WANTED.symbols,
};

/// Any bytes as a kernel file: a bzImage, a vmlinux or a package.
pub fn kernel_file(bytes: &[u8]) {
    let _ = kernel_file::parse(bytes, &COMPILED);
    let Ok(kernel) = kernel_file::parse(bytes, &linux::WANTED) else { return };
    assert!(kernel.banner.starts_with("Linux version ") && kernel.banner.len() <= 3 * 512);
    assert!(kernel.banner.contains(&kernel.profile.release));
    let json = kernel.profile.to_json();
    if let Ok(again) = Profile::from_json(&json) {
        assert_eq!(again, kernel.profile);
    }
    for symbol in kernel.profile.symbols.keys() {
        assert!(linux::WANTED.symbols.contains(&symbol.as_str()));
    }
}
