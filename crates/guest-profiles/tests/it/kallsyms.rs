//! The symbol table decoder, on tables in every encoding. Real kernels are in `debian.rs`.

use std::collections::BTreeMap;

use guest_profiles::kallsyms::{Encoding, Symbol};
use guest_profiles::{Error, Kallsyms};

use crate::kallsyms_builder::{Built, build};

const BASE: u64 = 0xffff_ffff_9a00_0000;
const STEXT: u64 = BASE + 0x1000;
const ENCODINGS: [Encoding; 4] =
    [Encoding::Absolute, Encoding::BaseRelative, Encoding::AbsolutePercpu, Encoding::PlaceRelative];

fn symbols() -> Vec<(u64, &'static str)> {
    vec![
        (BASE, "T_text"),
        (STEXT, "T_stext"),
        (BASE + 0x2000, "tswapper_pid_ns"),
        (BASE + 0x90_0000, "Dinit_task"),
        (BASE + 0x90_1000, "Tinit_task_work"),
        (BASE + 0xa0_0000, "Binit_pid_ns"),
    ]
}

fn resolved(built: &Built, names: &[&str]) -> BTreeMap<String, u64> {
    Kallsyms::new(built.tables(), STEXT).unwrap().resolve(names).unwrap()
}

fn map(symbols: &[(&str, u64)]) -> BTreeMap<String, u64> {
    symbols.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect()
}

#[test]
fn every_encoding_is_recognised_and_decoded() {
    for encoding in ENCODINGS {
        let built = build(encoding, BASE, &symbols());
        let kallsyms = Kallsyms::new(built.tables(), STEXT).unwrap();
        assert_eq!(kallsyms.encoding(), encoding);
        let found = kallsyms.resolve(&["init_task", "init_pid_ns", "init", "swapper_pid_n"]).unwrap();
        assert_eq!(
            found,
            map(&[("init_task", BASE + 0x90_0000), ("init_pid_ns", BASE + 0xa0_0000)]),
            "{encoding}"
        );
        let all: Vec<Symbol> = kallsyms.iter().map(Result::unwrap).collect();
        let expected: Vec<Symbol> = symbols()
            .into_iter()
            .map(|(address, text)| Symbol {
                address,
                kind: text.chars().next().unwrap(),
                name: text[1..].to_owned(),
            })
            .collect();
        assert_eq!(all, expected, "{encoding}");
    }
}

#[test]
fn per_cpu_symbols_keep_their_small_addresses() {
    let mut all = symbols();
    all.insert(0, (0x1f_b40, "Druntime_info"));
    let built = build(Encoding::AbsolutePercpu, BASE, &all);
    assert_eq!(
        resolved(&built, &["runtime_info", "_text"]),
        map(&[("runtime_info", 0x1f_b40), ("_text", BASE)])
    );
}

#[test]
fn a_name_of_more_than_127_tokens_has_a_length_of_two_bytes() {
    let long = format!("t{}", "q".repeat(300));
    let mut all = symbols();
    all.insert(0, (BASE, &long));
    for encoding in ENCODINGS {
        let built = build(encoding, BASE, &all);
        assert!(built.names[0] & 0x80 != 0);
        assert_eq!(resolved(&built, &[&long[1..], "init_task"]).len(), 2);
    }
}

#[test]
fn a_place_below_the_table_is_reached_by_a_negative_offset() {
    // The table is at 0xffffffff82600000: all symbols of this kernel are below it.
    let low = [(0xffff_ffff_8100_0000, "T_stext"), (0xffff_ffff_8100_0040, "Tstart")];
    let built = build(Encoding::PlaceRelative, 0, &low);
    let kallsyms = Kallsyms::new(built.tables(), low[0].0).unwrap();
    assert_eq!(kallsyms.resolve(&["start"]).unwrap(), map(&[("start", low[1].0)]));
}

#[test]
fn a_base_relative_offset_is_unsigned() {
    let base = 0xffff_ffff_0000_0000;
    let all = [(base, "T_stext"), (base + 0x9000_0000, "Dfar")];
    let built = build(Encoding::BaseRelative, base, &all);
    let kallsyms = Kallsyms::new(built.tables(), base).unwrap();
    assert_eq!(kallsyms.resolve(&["far"]).unwrap(), map(&[("far", base + 0x9000_0000)]));
}

#[test]
fn of_two_symbols_with_one_name_the_global_one_is_taken_and_two_locals_are_none() {
    let mut all = symbols();
    all.push((BASE + 0xb0_0000, "dmodules"));
    all.push((BASE + 0xb0_1000, "Dmodules"));
    all.push((BASE + 0xb0_2000, "dcache"));
    all.push((BASE + 0xb0_3000, "dcache"));
    all.push((BASE + 0xb0_4000, "dsame"));
    all.push((BASE + 0xb0_4000, "tsame"));
    let built = build(Encoding::BaseRelative, BASE, &all);
    let found = resolved(&built, &["modules", "cache", "same"]);
    assert_eq!(found, map(&[("modules", BASE + 0xb0_1000), ("same", BASE + 0xb0_4000)]));
}

#[test]
fn no_encoding_that_gives_stext_is_an_error_with_what_each_gives() {
    let built = build(Encoding::BaseRelative, BASE, &symbols());
    let error = Kallsyms::new(built.tables(), STEXT + 8).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Kallsyms gives no _stext at 0xffffffff9a001008: base-relative puts it at 0xffffffff9a001000, \
         absolute-percpu puts it at 0x1000, place-relative puts it at 0xffffffff82601004"
    );
}

#[test]
fn two_encodings_that_give_stext_are_an_error() {
    let mut built = build(Encoding::BaseRelative, 0, &[(0x1000, "T_stext")]);
    built.relative_base = Some(0);
    let error = Kallsyms::new(built.tables(), 0x1000).unwrap_err();
    assert!(matches!(error, Error::KallsymsAmbiguous { ref found, .. } if found.len() == 2), "{error}");
}

#[test]
fn a_table_without_stext_is_an_error() {
    let built = build(Encoding::Absolute, BASE, &[(BASE, "Tother")]);
    assert!(matches!(Kallsyms::new(built.tables(), STEXT), Err(Error::KallsymsNoStext { count: 1 })));
}

#[test]
fn more_symbols_announced_than_there_are_names_is_an_error() {
    let mut built = build(Encoding::Absolute, BASE, &symbols());
    built.num_syms = u32::MAX;
    let kallsyms = Kallsyms::new(built.tables(), STEXT).unwrap();
    let error = kallsyms.resolve(&["nothing"]).unwrap_err();
    assert!(
        matches!(error, Error::KallsymsTruncated { table: "names", symbol: 6, count: u32::MAX, .. }),
        "{error}"
    );
    assert_eq!(kallsyms.iter().filter(Result::is_err).count(), 1);
}

#[test]
fn an_address_table_that_is_too_short_is_an_error() {
    for encoding in ENCODINGS {
        let mut built = build(encoding, BASE, &symbols());
        built.values.truncate(built.values.len() / 2);
        let kallsyms = Kallsyms::new(built.tables(), STEXT).unwrap();
        let error = kallsyms.resolve(&["init_pid_ns"]).unwrap_err();
        assert!(matches!(error, Error::KallsymsTruncated { symbol: 5, .. }), "{error}");
    }
}

#[test]
fn a_token_outside_of_its_table_is_an_error() {
    let mut built = build(Encoding::Absolute, BASE, &symbols());
    built.token_index[510..].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(matches!(Kallsyms::new(built.tables(), STEXT), Err(Error::KallsymsToken { token: 255, .. })));
    let mut built = build(Encoding::Absolute, BASE, &symbols());
    built.token_table.pop();
    assert!(matches!(Kallsyms::new(built.tables(), STEXT), Err(Error::KallsymsToken { token: 255, .. })));
    built.token_index.pop();
    assert!(matches!(Kallsyms::new(built.tables(), STEXT), Err(Error::KallsymsTokenIndex { len: 511 })));
}

#[test]
fn a_name_longer_than_the_kernel_allows_is_an_error() {
    let long = format!("t{}", "q".repeat(512));
    let built = build(Encoding::Absolute, BASE, &[(BASE, &long), (STEXT, "T_stext")]);
    let error = Kallsyms::new(built.tables(), STEXT).unwrap_err();
    assert!(matches!(error, Error::KallsymsName { symbol: 0, len: 513, limit: 512 }), "{error}");
}

#[test]
fn a_name_that_cannot_be_read_is_the_last_symbol_that_is_listed() {
    let long = format!("t{}", "q".repeat(512));
    let built =
        build(Encoding::Absolute, BASE, &[(STEXT, "T_stext"), (STEXT + 8, &long), (STEXT + 16, "Tafter")]);
    let kallsyms = Kallsyms::new(built.tables(), STEXT).unwrap();
    let listed: Vec<_> = kallsyms.iter().collect();
    let [Ok(stext), Err(error)] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!(stext.name, "_stext");
    assert!(matches!(error, Error::KallsymsName { symbol: 1, len: 513, limit: 512 }), "{error}");
}

#[test]
fn an_empty_name_is_an_error() {
    let mut built = build(Encoding::Absolute, BASE, &symbols());
    built.names.insert(0, 0);
    assert!(matches!(
        Kallsyms::new(built.tables(), STEXT),
        Err(Error::KallsymsName { symbol: 0, len: 0, .. })
    ));
}
