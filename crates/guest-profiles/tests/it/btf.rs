//! The BTF reader: against btfparse on real kernels, and on small BTFs made to be awkward.

use std::collections::BTreeMap;

use btfparse::{Offset, TypeInformation, TypeVariant};
use guest_profiles::btf::{Btf, Kind};
use guest_profiles::{Bits, Error, Field, FieldKind, Layout};

use crate::btf_builder::BtfBuilder;
use crate::kernels::real_btfs;

struct Slice<'a>(&'a [u8]);

impl btfparse::Readable for Slice<'_> {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let start = usize::try_from(offset).unwrap();
        match self.0.get(start..start + buffer.len()) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(btfparse::Error::new(btfparse::ErrorKind::IOError, "out of bounds")),
        }
    }
}

/// Looks through modifiers in the oracle's types.
fn strip<'t>(types: &'t BTreeMap<u32, TypeVariant>, mut id: u32) -> &'t TypeVariant {
    loop {
        let next = match &types[&id] {
            TypeVariant::Typedef(inner) => *inner.tid(),
            TypeVariant::Const(inner) => *inner.tid(),
            TypeVariant::Volatile(inner) => *inner.tid(),
            TypeVariant::Restrict(inner) => *inner.tid(),
            TypeVariant::TypeTag(inner) => *inner.tid(),
            other => return other,
        };
        id = next;
    }
}

/// The oracle's size of a type; btfparse's own finds the size of a pointer anew each time.
fn size(types: &BTreeMap<u32, TypeVariant>, id: u32) -> u64 {
    match strip(types, id) {
        TypeVariant::Ptr(_) => 8,
        TypeVariant::Array(array) => size(types, *array.element_tid()) * u64::from(*array.element_count()),
        TypeVariant::Int(inner) => *inner.size() as u64,
        TypeVariant::Enum(inner) => *inner.size() as u64,
        TypeVariant::Enum64(inner) => *inner.size() as u64,
        TypeVariant::Float(inner) => *inner.size() as u64,
        TypeVariant::Struct(inner) => *inner.size() as u64,
        TypeVariant::Union(inner) => *inner.size() as u64,
        other => panic!("{other:?} has no size"),
    }
}

/// (first bit, bits) of each member by path, flattened out of the oracle's types the way that `Layout` promises.
fn flatten(
    types: &BTreeMap<u32, TypeVariant>,
    id: u32,
    base: u64,
    prefix: &str,
    out: &mut BTreeMap<String, (u64, u64)>,
) {
    let members = match strip(types, id) {
        TypeVariant::Struct(record) => record.member_list(),
        TypeVariant::Union(record) => record.member_list(),
        other => panic!("{other:?} is not a record"),
    };
    for member in members {
        let (bits, width) = match member.offset() {
            Offset::ByteOffset(bytes) => (base + u64::from(bytes) * 8, size(types, member.tid()) * 8),
            Offset::BitOffsetAndSize(bits, width) => (base + u64::from(bits), u64::from(width)),
        };
        let untagged = match strip(types, member.tid()) {
            TypeVariant::Struct(record) => Some(record.name().is_none()),
            TypeVariant::Union(record) => Some(record.name().is_none()),
            _ => None,
        };
        match member.name() {
            Some(name) => {
                let path = format!("{prefix}{name}");
                out.entry(path.clone()).or_insert((bits, width));
                if untagged == Some(true) {
                    flatten(types, member.tid(), bits, &format!("{path}."), out);
                }
            }
            None if untagged.is_some() => flatten(types, member.tid(), bits, prefix, out),
            None => {}
        }
    }
}

fn span(field: &Field) -> (u64, u64) {
    match field.bits {
        Some(bits) => (field.offset * 8 + u64::from(bits.shift), u64::from(bits.width)),
        None => (field.offset * 8, field.size * 8),
    }
}

#[test]
fn every_member_of_every_record_is_where_btfparse_puts_it() {
    for (from, bytes) in real_btfs() {
        let oracle = TypeInformation::new(&Slice(&bytes)).unwrap();
        let types = oracle.get();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.type_count(), types.len() + 1, "{from}: ours counts void");
        let (mut records, mut fields, mut widest) = (0, 0, 0);
        for id in btf.ids() {
            let (name, bytes) = match &types[&id.number()] {
                TypeVariant::Struct(record) => (record.name().clone(), *record.size()),
                TypeVariant::Union(record) => (record.name().clone(), *record.size()),
                _ => continue,
            };
            assert_eq!(btf.name(id).unwrap(), name.as_deref().unwrap_or(""), "{from}: type {}", id.number());
            let layout = btf.layout(id, &|_| true).unwrap();
            assert_eq!(layout.size, bytes as u64, "{from}: {name:?}");
            let mut expected = BTreeMap::new();
            flatten(types, id.number(), 0, "", &mut expected);
            let ours: BTreeMap<_, _> =
                layout.members.iter().map(|(path, field)| (path.clone(), span(field))).collect();
            assert_eq!(ours, expected, "{from}: {name:?}");
            records += 1;
            fields += ours.len();
            widest = widest.max(ours.len());
        }
        eprintln!("{from}: {records} records with {fields} members agree, the largest has {widest}");
        assert!(records > 5_000, "{from} has only {records} records");
    }
}

#[test]
fn every_value_of_every_enum_is_what_btfparse_says() {
    for (from, bytes) in real_btfs() {
        let oracle = TypeInformation::new(&Slice(&bytes)).unwrap();
        let btf = Btf::parse(&bytes).unwrap();
        let mut enums = 0;
        for id in btf.ids() {
            let expected: Vec<(String, i128)> = match &oracle.get()[&id.number()] {
                TypeVariant::Enum(inner) => inner
                    .named_value_list()
                    .iter()
                    .map(|named| {
                        let value = match named.value {
                            btfparse::Integer32Value::Signed(value) => i128::from(value),
                            btfparse::Integer32Value::Unsigned(value) => i128::from(value),
                        };
                        (named.name.clone(), value)
                    })
                    .collect(),
                TypeVariant::Enum64(inner) => inner
                    .named_value_list()
                    .iter()
                    .map(|named| {
                        let value = match named.value {
                            btfparse::Integer64Value::Signed(value) => i128::from(value),
                            btfparse::Integer64Value::Unsigned(value) => i128::from(value),
                        };
                        (named.name.clone(), value)
                    })
                    .collect(),
                _ => continue,
            };
            let ours: Vec<_> = btf
                .enum_values(id)
                .unwrap()
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            assert_eq!(ours, expected, "{from}: enum {}", id.number());
            enums += 1;
        }
        assert!(enums > 1_000, "{from} has only {enums} enums");
    }
}
