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
fn strip(types: &BTreeMap<u32, TypeVariant>, mut id: u32) -> &TypeVariant {
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

/// What the oracle says that a member is.
fn what(types: &BTreeMap<u32, TypeVariant>, id: u32) -> FieldKind {
    // The innermost typedef names a record or an enum that has no tag.
    let mut typedef = None;
    let mut at = id;
    while let Some(inner) = types.get(&at) {
        at = match inner {
            TypeVariant::Typedef(inner) => {
                typedef.clone_from(inner.name());
                *inner.tid()
            }
            TypeVariant::Const(inner) => *inner.tid(),
            TypeVariant::Volatile(inner) => *inner.tid(),
            TypeVariant::Restrict(inner) => *inner.tid(),
            TypeVariant::TypeTag(inner) => *inner.tid(),
            _ => break,
        };
    }
    match types.get(&at) {
        Some(TypeVariant::Int(inner)) => FieldKind::Integer { signed: *inner.signed() },
        Some(TypeVariant::Array(array)) => FieldKind::Array {
            count: u64::from(*array.element_count()),
            stride: size(types, *array.element_tid()),
            element: Box::new(what(types, *array.element_tid())),
        },
        Some(TypeVariant::Struct(inner)) => FieldKind::Record { name: inner.name().clone().or(typedef) },
        Some(TypeVariant::Union(inner)) => FieldKind::Record { name: inner.name().clone().or(typedef) },
        Some(TypeVariant::Enum(inner)) => {
            FieldKind::Enum { name: inner.name().clone().or(typedef), signed: *inner.signed() }
        }
        Some(TypeVariant::Enum64(inner)) => {
            FieldKind::Enum { name: inner.name().clone().or(typedef), signed: *inner.signed() }
        }
        Some(TypeVariant::Ptr(inner)) => {
            let (target, target_size) = pointee(types, *inner.tid());
            FieldKind::Pointer { target, target_size }
        }
        _ => FieldKind::Other,
    }
}

/// Name and size of what a pointer points at.
fn pointee(types: &BTreeMap<u32, TypeVariant>, id: u32) -> (Option<String>, Option<u64>) {
    let mut at = id;
    let mut typedef = None;
    let name = loop {
        let (next, name) = match types.get(&at) {
            Some(TypeVariant::Typedef(inner)) => (Some((inner.tid(), Some(inner.name()))), None),
            Some(TypeVariant::Const(inner)) => (Some((inner.tid(), None)), None),
            Some(TypeVariant::Volatile(inner)) => (Some((inner.tid(), None)), None),
            Some(TypeVariant::Restrict(inner)) => (Some((inner.tid(), None)), None),
            Some(TypeVariant::TypeTag(inner)) => (Some((inner.tid(), None)), None),
            Some(TypeVariant::Int(inner)) => (None, inner.name().clone()),
            Some(TypeVariant::Struct(inner)) => (None, inner.name().clone()),
            Some(TypeVariant::Union(inner)) => (None, inner.name().clone()),
            Some(TypeVariant::Enum(inner)) => (None, inner.name().clone()),
            Some(TypeVariant::Enum64(inner)) => (None, inner.name().clone()),
            Some(TypeVariant::Fwd(inner)) => (None, inner.name().clone()),
            Some(TypeVariant::Float(inner)) => (None, inner.name().clone()),
            _ => (None, None),
        };
        let Some((next, named)) = next else { break name };
        if let Some(named) = named {
            typedef.clone_from(named);
        }
        at = *next;
    };
    let sized = !matches!(types.get(&at), None | Some(TypeVariant::Fwd(_) | TypeVariant::FuncProto(_)));
    (name.or(typedef), sized.then(|| size(types, at)))
}

/// (first bit, bits, what) of each member by path, flattened out of the oracle's types the way that `Layout` promises.
fn flatten(
    types: &BTreeMap<u32, TypeVariant>,
    id: u32,
    base: u64,
    prefix: &str,
    out: &mut BTreeMap<String, (u64, u64, FieldKind)>,
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
                out.entry(path.clone()).or_insert_with(|| (bits, width, what(types, member.tid())));
                if untagged == Some(true) {
                    flatten(types, member.tid(), bits, &format!("{path}."), out);
                }
            }
            None if untagged.is_some() => flatten(types, member.tid(), bits, prefix, out),
            None => {}
        }
    }
}

fn span(field: &Field) -> (u64, u64, FieldKind) {
    let kind = field.kind.clone();
    match field.bits {
        Some(bits) => (field.offset * 8 + u64::from(bits.shift), u64::from(bits.width), kind),
        None => (field.offset * 8, field.size * 8, kind),
    }
}

#[test]
fn every_member_of_every_record_is_where_btfparse_puts_it_and_what_it_says_it_is() {
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

fn layout(bytes: &[u8], name: &str) -> Layout {
    let btf = Btf::parse(bytes).unwrap();
    let id = btf.find(Kind::Struct, name).unwrap().expect("the struct is there");
    btf.layout(id, &|_| true).unwrap()
}

fn integer(offset: u64, size: u64, signed: bool) -> Field {
    Field { offset, size, bits: None, kind: FieldKind::Integer { signed } }
}

#[test]
fn anonymous_records_are_transparent_also_behind_modifiers() {
    let mut btf = BtfBuilder::new();
    let int = btf.int("int", 4, true);
    let inner = btf.union("", 4, &[("a", int, 0), ("b", int, 0)]);
    let constant = btf.constant(inner);
    let tagged = btf.type_tag("rcu", constant);
    let middle = btf.structure("", 12, &[("x", int, 0), ("", tagged, 32), ("y", int, 64)]);
    btf.structure("outer", 20, &[("head", int, 0), ("", middle, 64)]);
    let layout = layout(&btf.build(), "outer");
    let offsets: Vec<_> = layout.members.iter().map(|(path, field)| (path.as_str(), field.offset)).collect();
    assert_eq!(offsets, [("a", 12), ("b", 12), ("head", 0), ("x", 8), ("y", 16)]);
    assert_eq!(layout.size, 20);
}

#[test]
fn members_of_an_untagged_record_with_a_name_have_a_dotted_path() {
    let mut btf = BtfBuilder::new();
    let int = btf.int("int", 4, true);
    let counter = btf.structure("", 4, &[("counter", int, 0)]);
    let atomic = btf.typedef("atomic_t", counter);
    let volatile = btf.volatile(atomic);
    let backlog = btf.structure("", 8, &[("len", int, 0), ("users", volatile, 32)]);
    btf.structure("sock", 12, &[("flags", int, 0), ("backlog", backlog, 32)]);
    let layout = layout(&btf.build(), "sock");
    assert_eq!(layout.members["backlog.len"], integer(4, 4, true));
    assert_eq!(layout.members["backlog.users.counter"], integer(8, 4, true));
    assert_eq!(layout.members["backlog.users"].kind, FieldKind::Record { name: Some("atomic_t".to_owned()) });
    assert_eq!(layout.members["backlog"].kind, FieldKind::Record { name: None });
}

#[test]
fn a_struct_is_found_although_a_function_a_declaration_and_an_empty_struct_have_its_name() {
    let mut btf = BtfBuilder::new();
    let int = btf.int("int", 4, false);
    btf.forward("kstat");
    let prototype = btf.raw("", 13, false, 1, 0, &[0, int]);
    btf.raw("kstat", 12, false, 0, prototype, &[]);
    btf.raw("kstat", 14, false, 0, int, &[1]);
    btf.typedef("kstat", int);
    btf.structure("kstat", 0, &[]);
    let wanted = btf.structure("kstat", 4, &[("mode", int, 0)]);
    btf.structure("kstat", 8, &[("private", int, 32)]);
    let bytes = btf.build();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.find(Kind::Struct, "kstat").unwrap().unwrap().number(), wanted);
    assert_eq!(btf.find(Kind::Union, "kstat").unwrap(), None);
    assert_eq!(btf.find(Kind::Struct, "ksta").unwrap(), None);
}

#[test]
fn records_of_every_other_kind_are_stepped_over() {
    let mut btf = BtfBuilder::new();
    let int = btf.int("int", 4, false);
    btf.raw("double", 16, false, 0, 8, &[]);
    let variable = btf.raw("jiffies", 14, false, 0, int, &[1]);
    btf.raw(".data", 15, false, 2, 8, &[variable, 0, 4, variable, 4, 4]);
    btf.raw("preserve", 17, false, 0, variable, &[u32::MAX]);
    btf.raw("rcu", 18, true, 0, int, &[]);
    btf.raw("", 11, false, 0, int, &[]);
    btf.enumeration64("wide", false, &[("ALL", u64::MAX)]);
    btf.structure("after", 4, &[("x", int, 0)]);
    assert_eq!(layout(&btf.build(), "after").members["x"], integer(0, 4, false));
}

#[test]
fn a_bitfield_is_read_from_the_storage_unit_of_its_type() {
    let mut btf = BtfBuilder::new();
    let unsigned = btf.int("unsigned int", 4, false);
    let byte = btf.int("unsigned char", 1, false);
    btf.bitfields(
        "flags",
        16,
        &[
            ("plain", unsigned, 0, 0),
            ("one", unsigned, 32, 1),
            ("three", unsigned, 33, 3),
            ("byte", byte, 69, 2),
            ("straddles", unsigned, 90, 12),
        ],
    );
    let layout = layout(&btf.build(), "flags");
    let place = |name: &str| {
        let field = &layout.members[name];
        (field.offset, field.size, field.bits)
    };
    assert_eq!(place("plain"), (0, 4, None));
    assert_eq!(place("one"), (4, 4, Some(Bits { shift: 0, width: 1 })));
    assert_eq!(place("three"), (4, 4, Some(Bits { shift: 1, width: 3 })));
    assert_eq!(place("byte"), (8, 1, Some(Bits { shift: 5, width: 2 })));
    // Bits 90 to 101 lie in two ints of a packed struct: the bytes 11 and 12 hold them.
    assert_eq!(place("straddles"), (11, 2, Some(Bits { shift: 2, width: 12 })));
}

#[test]
fn a_bitfield_of_the_old_form_is_an_int_with_fewer_bits() {
    let mut btf = BtfBuilder::new();
    let three = btf.raw("unsigned int", 1, false, 0, 4, &[(2 << 16) | 3]);
    btf.structure("old", 8, &[("bits", three, 32)]);
    let layout = layout(&btf.build(), "old");
    assert_eq!(layout.members["bits"].bits, Some(Bits { shift: 2, width: 3 }));
    assert_eq!((layout.members["bits"].offset, layout.members["bits"].size), (4, 4));
}

#[test]
fn arrays_pointers_and_enums_say_what_they_hold() {
    let mut btf = BtfBuilder::new();
    let char_type = btf.int("char", 1, true);
    let comm = btf.array(char_type, 16);
    let task = btf.forward("task_struct");
    let task_pointer = btf.pointer(task);
    let file = btf.structure("file", 184, &[("pad", comm, 0)]);
    let tagged = btf.type_tag("rcu", file);
    let constant = btf.constant(tagged);
    let file_pointer = btf.pointer(constant);
    let grid_row = btf.array(file, 3);
    let grid = btf.array(grid_row, 2);
    let flexible = btf.array(file_pointer, 0);
    let void_pointer = btf.pointer(0);
    let state = btf.enumeration("state", true, &[("GONE", -1)]);
    btf.structure(
        "all",
        1200,
        &[
            ("comm", comm, 0),
            ("task", task_pointer, 128),
            ("file", file_pointer, 192),
            ("grid", grid, 256),
            ("void", void_pointer, 9088),
            ("state", state, 9152),
            ("fds", flexible, 9600),
        ],
    );
    let layout = layout(&btf.build(), "all");
    let kind = |name: &str| layout.members[name].kind.clone();
    let array = |count, stride, element| FieldKind::Array { count, stride, element: Box::new(element) };
    let pointer = |target: Option<&str>, target_size| FieldKind::Pointer {
        target: target.map(str::to_owned),
        target_size,
    };
    let file = || FieldKind::Record { name: Some("file".to_owned()) };
    assert_eq!(kind("comm"), array(16, 1, FieldKind::Integer { signed: true }));
    assert_eq!(kind("task"), pointer(Some("task_struct"), None));
    assert_eq!(kind("file"), pointer(Some("file"), Some(184)));
    assert_eq!(kind("grid"), array(2, 552, array(3, 184, file())));
    assert_eq!(layout.members["grid"].size, 1104);
    assert_eq!(kind("void"), pointer(None, None));
    assert_eq!(kind("state"), FieldKind::Enum { name: Some("state".to_owned()), signed: true });
    assert_eq!(kind("fds"), array(0, 8, pointer(Some("file"), Some(184))));
    assert_eq!((layout.members["fds"].offset, layout.members["fds"].size), (1200, 0));
}

#[test]
fn enum_values_keep_their_sign_and_width() {
    let mut btf = BtfBuilder::new();
    let signed = btf.enumeration("signed", true, &[("MINUS", -2), ("ZERO", 0)]);
    let unsigned = btf.enumeration("unsigned", false, &[("TOP", -1)]);
    let wide = btf.enumeration64("wide", false, &[("TOP", u64::MAX)]);
    let wide_signed = btf.enumeration64("wide_signed", true, &[("MINUS", u64::MAX)]);
    let bytes = btf.build();
    let btf = Btf::parse(&bytes).unwrap();
    let ids: Vec<_> = btf.ids().collect();
    let values =
        |number: u32| btf.enum_values(*ids.iter().find(|id| id.number() == number).unwrap()).unwrap();
    assert_eq!(values(signed), [("MINUS", -2), ("ZERO", 0)]);
    assert_eq!(values(unsigned), [("TOP", 0xffff_ffff)]);
    assert_eq!(values(wide), [("TOP", i128::from(u64::MAX))]);
    assert_eq!(values(wide_signed), [("MINUS", -1)]);
}

#[test]
fn a_type_that_is_no_enum_has_no_values_and_one_that_is_no_record_has_no_layout() {
    let bytes = small();
    let btf = Btf::parse(&bytes).unwrap();
    let list = btf.find(Kind::Struct, "list_head").unwrap().unwrap();
    let int = btf.find(Kind::Int, "int").unwrap().unwrap();
    assert_eq!(
        btf.enum_values(list).unwrap_err().to_string(),
        "BTF type 2 is of kind Struct where enum was expected"
    );
    assert!(matches!(btf.enum_values(int), Err(Error::BtfKind { kind: Kind::Int, .. })));
    assert_eq!(
        btf.layout(int, &|_| true).unwrap_err().to_string(),
        "BTF type 1 is of kind Int where struct or union was expected"
    );
}

fn small() -> Vec<u8> {
    let mut btf = BtfBuilder::new();
    let int = btf.int("int", 4, true);
    btf.structure("list_head", 8, &[("next", int, 0), ("prev", int, 32)]);
    btf.build()
}

#[test]
fn a_truncated_btf_is_refused_at_every_length() {
    let bytes = small();
    for len in 0..bytes.len() {
        assert!(Btf::parse(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn bytes_after_the_btf_do_not_belong_to_it() {
    let mut bytes = small();
    let len = bytes.len();
    bytes.extend_from_slice(&[0xaa; 100]);
    assert_eq!(Btf::parse(&bytes).unwrap().as_bytes(), &bytes[..len]);
}

#[test]
fn a_header_of_another_kind_is_refused_by_field() {
    let changed = |at: usize, value: u8| {
        let mut bytes = small();
        bytes[at] = value;
        Btf::parse(&bytes).unwrap_err().to_string()
    };
    assert_eq!(changed(0, 0), "BTF header field magic is 0xeb00 where 0xeb9f, little-endian was expected");
    assert_eq!(changed(2, 9), "BTF header field version is 0x9 where 1 was expected");
    assert_eq!(changed(3, 1), "BTF header field flags is 0x1 where 0 was expected");
    assert_eq!(changed(4, 8), "BTF header field hdr_len is 0x8 where at least 24 was expected");
}

#[test]
fn an_unknown_kind_and_reserved_bits_are_refused() {
    let mut btf = BtfBuilder::new();
    btf.raw("new", 20, false, 0, 0, &[]);
    assert!(matches!(Btf::parse(&btf.build()), Err(Error::BtfUnknownKind { id: 1, kind: 20 })));
    let mut bytes = small();
    bytes[24 + 4 + 2] = 1;
    assert!(matches!(Btf::parse(&bytes), Err(Error::BtfUnknownKind { id: 1, kind: 1 })));
}

#[test]
fn a_name_outside_the_strings_is_refused() {
    let mut bytes = small();
    bytes[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Btf::parse(&bytes), Err(Error::BtfStringOffset { offset: u32::MAX, .. })));
}

#[test]
fn a_typedef_of_itself_does_not_hang() {
    let mut btf = BtfBuilder::new();
    btf.typedef("loop", 1);
    btf.structure("s", 8, &[("x", 1, 0)]);
    let bytes = btf.build();
    let btf = Btf::parse(&bytes).unwrap();
    let id = btf.find(Kind::Struct, "s").unwrap().unwrap();
    assert!(matches!(btf.layout(id, &|_| true), Err(Error::BtfTooDeep { .. })));
}

#[test]
fn an_array_of_itself_and_an_anonymous_struct_in_itself_do_not_hang() {
    let mut btf = BtfBuilder::new();
    let array = btf.array(1, 2);
    btf.structure("a", 8, &[("x", array, 0)]);
    btf.structure("", 8, &[("", 3, 0)]);
    btf.structure("b", 8, &[("", 3, 0)]);
    let bytes = btf.build();
    let btf = Btf::parse(&bytes).unwrap();
    for name in ["a", "b"] {
        let id = btf.find(Kind::Struct, name).unwrap().unwrap();
        assert!(matches!(btf.layout(id, &|_| true), Err(Error::BtfTooDeep { .. })), "{name}");
    }
}

#[test]
fn anonymous_structs_that_double_at_every_level_are_cut_off() {
    let mut btf = BtfBuilder::new();
    let int = btf.int("int", 4, false);
    let mut inner = btf.structure("", 4, &[("x", int, 0)]);
    for _ in 0..30 {
        inner = btf.structure("", 4, &[("", inner, 0), ("", inner, 0)]);
    }
    btf.structure("bomb", 4, &[("", inner, 0)]);
    let bytes = btf.build();
    let btf = Btf::parse(&bytes).unwrap();
    let id = btf.find(Kind::Struct, "bomb").unwrap().unwrap();
    assert!(matches!(btf.layout(id, &|_| true), Err(Error::BtfTooManyMembers { .. })));
}

#[test]
fn a_member_outside_of_its_record_is_refused() {
    let mut btf = BtfBuilder::new();
    let int = btf.int("int", 4, false);
    btf.structure("short", 4, &[("x", int, 8)]);
    let bytes = btf.build();
    let btf = Btf::parse(&bytes).unwrap();
    let id = btf.find(Kind::Struct, "short").unwrap().unwrap();
    let error = btf.layout(id, &|_| true).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("BTF type {} of 4 bytes has member x at bit 8, outside of it", id.number())
    );
}

#[test]
fn a_reference_to_a_type_that_is_not_there_is_refused() {
    let mut btf = BtfBuilder::new();
    btf.structure("s", 4, &[("x", 77, 0)]);
    let bytes = btf.build();
    let btf = Btf::parse(&bytes).unwrap();
    let id = btf.find(Kind::Struct, "s").unwrap().unwrap();
    assert!(matches!(btf.layout(id, &|_| true), Err(Error::BtfTypeId { id: 77, count: 2 })));
}

/// A kernel's types and those of a module of it.
fn kernel_and_module() -> (Vec<u8>, Vec<u8>) {
    let mut kernel = BtfBuilder::new();
    let int = kernel.int("int", 4, true);
    let sock = kernel.structure("sock", 8, &[("family", int, 0), ("state", int, 32)]);
    kernel.structure("shared", 4, &[("of_kernel", int, 0)]);
    let mut module = BtfBuilder::on(&kernel);
    let port = module.typedef("port", int);
    let names = module.array(port, 3);
    module.structure("vsock_sock", 24, &[("sk", sock, 0), ("family", port, 64), ("ports", names, 96)]);
    module.structure("shared", 8, &[("of_module", sock, 0)]);
    (kernel.build(), module.build())
}

#[test]
fn a_modules_types_go_on_where_the_kernels_end() {
    let (kernel, module) = kernel_and_module();
    let base = Btf::parse(&kernel).unwrap();
    let btf = Btf::parse_split(&base, &module).unwrap();
    assert_eq!((base.type_count(), btf.type_count()), (4, 8));
    let ids: Vec<_> = btf.ids().map(|id| id.number()).collect();
    assert_eq!(ids, [4, 5, 6, 7], "its own");
    let find = |name| btf.find(Kind::Struct, name).unwrap();
    let members = |name| btf.layout(find(name).unwrap(), &|_| true).unwrap().members;
    let vsock = members("vsock_sock");
    assert_eq!(vsock["sk"], Field { offset: 0, size: 8, bits: None, kind: record("sock") });
    assert_eq!(vsock["family"], integer(8, 4, true));
    let ports =
        FieldKind::Array { count: 3, stride: 4, element: Box::new(FieldKind::Integer { signed: true }) };
    assert_eq!(vsock["ports"], Field { offset: 12, size: 12, bits: None, kind: ports });
    // The kernel's types can be asked for, and the module's own go before them.
    assert_eq!(find("sock").unwrap().number(), 2);
    assert!(members("shared").contains_key("of_module"));
    assert_eq!(find("nobody"), None);
    // A module is no base.
    assert!(matches!(Btf::parse_split(&btf, &module), Err(Error::BtfBaseIsSplit)));
}

fn record(name: &str) -> FieldKind {
    FieldKind::Record { name: Some(name.to_owned()) }
}

#[test]
fn a_modules_types_that_are_cut_altered_or_on_another_base_are_refused_or_answered_but_never_a_panic() {
    let (kernel, module) = kernel_and_module();
    let base = Btf::parse(&kernel).unwrap();
    let ask = |bytes: &[u8], base: &Btf<'_>| {
        let Ok(btf) = Btf::parse_split(base, bytes) else { return };
        for id in btf.ids() {
            let _ = (btf.name(id), btf.size_of(id), btf.resolve(id), btf.enum_values(id));
            let _ = btf.layout(id, &|_| true);
        }
        let _ = btf.find_all([(Kind::Struct, "vsock_sock"), (Kind::Struct, "sock")]);
    };
    for len in 0..module.len() {
        assert!(Btf::parse_split(&base, &module[..len]).is_err(), "{len} bytes");
    }
    for at in 0..module.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut altered = module.clone();
            altered[at] = value;
            ask(&altered, &base);
        }
    }
    // Alone it refers to types and names that are not there.
    assert!(Btf::parse(&module).is_err());
    let mut small = BtfBuilder::new();
    small.int("int", 4, true);
    let small = small.build();
    ask(&module, &Btf::parse(&small).unwrap());
}
