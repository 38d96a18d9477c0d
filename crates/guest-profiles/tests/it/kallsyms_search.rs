//! The search for a symbol table in an image that tells nothing, over every form that a kernel has had: four encodings of
//! addresses, both orders of the tables, markers of 4 and 8 bytes, the order by name between or behind them, and names with
//! lengths of two bytes. No kernel of the lab has more than a few of them.

use guest_profiles::kallsyms::Encoding;
use guest_profiles::kallsyms_search::{digits, is_token_table, search};
use guest_profiles::{Error, Kallsyms};

use crate::kallsyms_builder::{Built, build};

const BASE: u64 = 0xffff_ffff_8100_0000;
/// Where the image's first byte is.
const IMAGE: u64 = BASE;

/// How the tables lie.
#[derive(Debug, Clone, Copy)]
struct Form {
    encoding: Encoding,
    /// 6.4 and later: addresses behind the token index.
    addresses_last: bool,
    marker_bytes: usize,
    /// ``kallsyms_seqs_of_names`` between markers and tokens (6.2 and 6.3).
    seqs: bool,
    /// What tables are aligned to: eight bytes, since 7.0 four.
    alignment: usize,
}

/// A thousand symbols, one of them with more tokens than one byte of length can count.
fn symbols() -> Vec<(u64, String)> {
    let mut symbols = vec![(BASE, "T_stext".to_owned())];
    for number in 1..1000_u64 {
        let long = if number == 700 { "x".repeat(300) } else { String::new() };
        symbols.push((BASE + number * 16, format!("tfunction_{number}{long}")));
    }
    symbols
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

/// The tables of one form as they lie in an image, `before` bytes into it.
fn image(form: Form, symbols: &[(u64, String)]) -> Vec<u8> {
    let pairs: Vec<_> = symbols.iter().map(|(at, name)| (*at, name.as_str())).collect();
    // Built twice: place-relative addresses depend on where their table is.
    let laid = |address| lay(form, build_at(form.encoding, address, &pairs));
    let (_, values_at) = laid(0);
    laid(IMAGE + values_at as u64).0
}

fn build_at(encoding: Encoding, address: u64, symbols: &[(u64, &str)]) -> Built {
    let mut built = build(encoding, BASE, symbols);
    if encoding == Encoding::PlaceRelative {
        built.values.clear();
        for (index, (at, _)) in symbols.iter().enumerate() {
            let offset = at.wrapping_sub(address + 4 * index as u64);
            built.values.extend_from_slice(&offset.to_le_bytes()[..4]);
        }
    }
    built
}

fn lay(form: Form, built: Built) -> (Vec<u8>, usize) {
    // Code, with a digit string in it that is in no token table.
    let mut image = vec![0x90; 0x1_0000 + form.alignment % 8];
    image[0x800..0x814].copy_from_slice(b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00");
    let mut values_at = 0;
    let values = |image: &mut Vec<u8>, values_at: &mut usize| {
        align(image, form.alignment);
        *values_at = image.len();
        image.extend_from_slice(&built.values);
        align(image, form.alignment);
        if let Some(base) = built.relative_base {
            image.extend_from_slice(&base.to_le_bytes());
        }
    };
    if !form.addresses_last {
        values(&mut image, &mut values_at);
    }
    image.extend_from_slice(&u64::from(built.num_syms).to_le_bytes());
    let names_at = image.len();
    image.extend_from_slice(&built.names);
    align(&mut image, form.alignment);
    let mut at = 0;
    for index in 0..built.num_syms {
        if index % 256 == 0 {
            image.extend_from_slice(&(at as u64).to_le_bytes()[..form.marker_bytes]);
        }
        let name = &image[names_at + at..];
        let long = name[0] & 0x80 != 0;
        at += if long {
            (usize::from(name[0] & 0x7f) | usize::from(name[1]) << 7) + 2
        } else {
            usize::from(name[0]) + 1
        };
    }
    align(&mut image, form.alignment);
    if form.seqs {
        image.extend(
            (0..built.num_syms).flat_map(|number| [0, number.to_le_bytes()[1], number.to_le_bytes()[0]]),
        );
        align(&mut image, form.alignment);
    }
    image.extend_from_slice(&built.token_table);
    align(&mut image, form.alignment);
    image.extend_from_slice(&built.token_index);
    if form.addresses_last {
        values(&mut image, &mut values_at);
    }
    image.extend_from_slice(&[0xcc; 4096]);
    (image, values_at)
}

fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    for encoding in
        [Encoding::Absolute, Encoding::BaseRelative, Encoding::AbsolutePercpu, Encoding::PlaceRelative]
    {
        for addresses_last in [false, true] {
            for marker_bytes in [4, 8] {
                for seqs in [false, true] {
                    for alignment in [8, 4] {
                        forms.push(Form { encoding, addresses_last, marker_bytes, seqs, alignment });
                    }
                }
            }
        }
    }
    // Place-relative addresses came long after the tables had changed their order, and tables aligned to four bytes with them.
    forms.retain(|form| match form.encoding {
        Encoding::PlaceRelative => form.addresses_last && form.marker_bytes == 4,
        _ => form.alignment == 8,
    });
    forms
}

#[test]
fn a_symbol_table_of_every_form_is_found_and_read_whole() {
    let symbols = symbols();
    for form in forms() {
        let image = image(form, &symbols);
        let found = search(&image, IMAGE).unwrap_or_else(|error| panic!("{form:?}: {error}"));
        let kallsyms =
            found.tables(&image).into_iter().find_map(|tables| Kallsyms::new(tables, BASE).ok()).map(
                |kallsyms| {
                    let read: Vec<_> = kallsyms
                        .iter()
                        .map(|symbol| {
                            symbol.map(|symbol| (symbol.address, format!("{}{}", symbol.kind, symbol.name)))
                        })
                        .collect::<Result<_, _>>()
                        .unwrap();
                    (kallsyms.encoding(), read)
                },
            );
        let (encoding, read) = kallsyms.unwrap_or_else(|| panic!("{form:?}: no place of the addresses fits"));
        assert_eq!(encoding, form.encoding, "{form:?}");
        assert_eq!(read, symbols, "{form:?}");
    }
}

#[test]
fn only_digits_in_a_table_with_its_index_are_a_token_table() {
    let symbols = symbols();
    let form = Form {
        encoding: Encoding::BaseRelative,
        addresses_last: true,
        marker_bytes: 4,
        seqs: false,
        alignment: 8,
    };
    let image = image(form, &symbols);
    let places: Vec<_> = digits(&image).collect();
    assert_eq!(places.len(), 2);
    assert!(!is_token_table(&image, places[0]));
    assert!(is_token_table(&image, places[1]));
    // Cut off in the middle of the index.
    let end = places[1] + 700;
    assert!(!is_token_table(&image[..end], places[1]));
    assert!(!is_token_table(&image, image.len()));
}

#[test]
fn an_image_without_a_symbol_table_says_so() {
    let error = search(&[0x90; 4096], IMAGE).unwrap_err();
    assert!(matches!(error, Error::KallsymsNotFound { len: 4096 }), "{error}");
}
