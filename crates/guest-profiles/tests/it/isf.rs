//! Volatility's symbol files: what is written can be read, and says of a kernel what its BTF says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use guest_profiles::{
    Btf, Error, Field, Profile, ProfileIdentity, Wanted, WantedEnum, WantedType, isf, linux,
};
use serde_json::{Value, json};

use crate::btf_builder::BtfBuilder;

const BANNER: &str = "Linux version 6.1.0-test (builder@host) (gcc 12) #1 SMP Debian 6.1.1-1 (2026-11-16)";
const WANTED: Wanted = Wanted {
    types: &[
        WantedType {
            name: "sock",
            members: &["common", "refs", "flags", "backlog.head", "addresses", "late"],
        },
        WantedType { name: "list_head", members: &[] },
        WantedType { name: "net_t", members: &[] },
    ],
    enums: &[WantedEnum { name: "state", values: &[] }, WantedEnum { name: "", values: &["TCP_LISTEN"] }],
    symbols: &["init_task", "modules", "no_such_symbol"],
};

/// A made-up kernel with all that the two formats say differently.
fn kernel() -> Vec<u8> {
    let mut btf = BtfBuilder::new();
    let int = btf.int("unsigned int", 4, false);
    let long = btf.int("long int", 8, true);
    let character = btf.int("char", 1, true);
    let pointer = btf.pointer(0);
    let list = btf.structure("list_head", 16, &[("next", pointer, 0), ("prev", pointer, 64)]);
    let counter = btf.structure("", 4, &[("counter", int, 0)]);
    let atomic = btf.typedef("atomic_t", counter);
    let net = btf.structure("", 8, &[("net", pointer, 0)]);
    let net = btf.typedef("net_t", net);
    let tagged = btf.structure("common", 24, &[("refs", atomic, 0), ("net", net, 64), ("long", long, 128)]);
    let head = btf.structure("", 16, &[("head", pointer, 0), ("len", int, 64)]);
    let both = btf.structure("", 8, &[("low", int, 0), ("high", int, 32)]);
    let either = btf.union("", 8, &[("pair", long, 0), ("", both, 0)]);
    let name = btf.array(character, 16);
    let constant = btf.constant(name);
    let missing = btf.forward("nowhere");
    let nowhere = btf.pointer(missing);
    let bits = btf.bitfields("flags", 4, &[("low", int, 0, 3), ("high", int, 5, 9)]);
    let state = btf.enumeration("state", true, &[("GOOD", 0), ("BAD", -1)]);
    btf.enumeration("", false, &[("TCP_LISTEN", 10), ("OTHER", 11)]);
    btf.structure(
        "sock",
        128,
        &[
            ("common", tagged, 0),
            ("refs", atomic, 192),
            ("flags", bits, 224),
            ("backlog", head, 256),
            ("", either, 384),
            ("addresses", constant, 448),
            ("late", nowhere, 576),
            ("state", state, 640),
        ],
    );
    // Twice, as drivers do.
    btf.structure("common", 4, &[("other", int, 0)]);
    btf.structure("task_struct", 32, &[("tasks", list, 0), ("comm", name, 128)]);
    btf.build()
}

fn symbols() -> BTreeMap<String, u64> {
    let all = [
        ("init_task", 0xffff_ffff_82a1_aa40),
        ("linux_banner", 0xffff_ffff_8200_0000),
        ("modules", 0xffff_ffff_82b0_0000),
        ("unwanted", 0x1f0),
    ];
    all.into_iter().map(|(name, at)| (name.to_owned(), at)).collect()
}

fn written() -> Vec<u8> {
    let bytes = kernel();
    let btf = Btf::parse(&bytes).unwrap();
    let banner = format!("{BANNER}\n\0");
    let mut out = Vec::new();
    isf::write(&mut out, &isf::Kernel { btf: &btf, symbols: &symbols(), banner: banner.as_bytes() }).unwrap();
    out
}

fn document() -> Value {
    serde_json::from_slice(&written()).unwrap()
}

fn read(document: &Value) -> Result<Profile, Error> {
    isf::read(serde_json::to_vec(document).unwrap().as_slice(), &WANTED)
}

/// An error and its causes.
fn refusal(document: &Value) -> String {
    let error = read(document).unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[test]
fn what_is_written_is_read_as_the_btf_says_it() {
    let profile = isf::read(written().as_slice(), &WANTED).unwrap();
    assert_eq!(profile.release, "6.1.0-test");
    assert_eq!((&profile.build_id, &profile.btf_digest), (&None, &None));
    assert_eq!(profile.banner.as_deref(), Some(BANNER));
    assert_eq!(profile.wanted, WANTED.digest());
    let bytes = kernel();
    let identity = ProfileIdentity { release: "6.1.0-test".to_owned(), build_id: None };
    let own = Profile::from_btf(&Btf::parse(&bytes).unwrap(), &WANTED, symbols(), identity).unwrap();
    assert_eq!(own.disagreements("one", &profile, "other"), [""; 0]);
    assert_eq!(profile.symbols, own.symbols);
    assert_eq!(profile.enums, own.enums);
    for (name, layout) in &own.types {
        assert_eq!(profile.types[name].size, layout.size, "{name}");
        for (member, field) in &layout.members {
            // What `late` points to is only declared, so it is not in the file.
            if member != "late" {
                assert_eq!(&profile.field(name, member).unwrap(), field, "{member} of {name}");
            }
        }
    }
    // Through records that only have a typedef, or a tag that is not asked for.
    for path in ["common.refs.counter", "common.net.net", "refs.counter", "backlog.head", "flags.high"] {
        assert!(profile.has("sock", path), "{path}");
    }
    assert_eq!(profile.field("sock", "common.long").unwrap().offset, 16);
    assert!(!profile.has("sock", "low"), "it was not asked for");
    let bits = profile.field("sock", "flags.high").unwrap();
    assert_eq!((bits.offset, bits.bits.unwrap().shift, bits.bits.unwrap().width), (28, 5, 9));
}

#[test]
fn the_file_is_what_volatility_reads() {
    let document = document();
    assert_eq!(document["metadata"]["format"], "6.2.0");
    let task = &document["user_types"]["task_struct"];
    assert_eq!(task["kind"], "struct");
    assert_eq!(
        task["fields"]["comm"],
        json!({
            "type": {"kind": "array", "count": 16, "subtype": {"kind": "base", "name": "char"}},
            "offset": 16,
        })
    );
    let sock = &document["user_types"]["sock"]["fields"];
    assert_eq!(sock["refs"]["type"], json!({"kind": "struct", "name": "atomic_t"}));
    assert_eq!(
        document["user_types"]["flags"]["fields"]["high"]["type"],
        json!({
            "kind": "bitfield", "bit_length": 9, "bit_position": 5, "type": {"kind": "base", "name": "unsigned int"},
        })
    );
    let anonymous: Vec<_> =
        sock.as_object().unwrap().values().filter(|field| field["anonymous"] == true).collect();
    assert_eq!(anonymous.len(), 1);
    // What is only declared is `void`: a name that is not in the file would make the file useless.
    assert_eq!(sock["late"]["type"], json!({"kind": "pointer", "subtype": {"kind": "base", "name": "void"}}));
    assert_eq!(document["enums"]["state"]["constants"], json!({"GOOD": 0, "BAD": -1}));
    assert_eq!(document["symbols"]["init_task"]["type"], json!({"kind": "struct", "name": "task_struct"}));
    assert_eq!(document["symbols"]["modules"]["address"], 0xffff_ffff_82b0_0000_u64);
    assert_eq!(document["symbols"]["unwanted"], json!({"address": 0x1f0}));
    assert_eq!(document["base_types"]["char"]["kind"], "char");
    assert_eq!(missing(&document), BTreeSet::new());
}

/// Every name of a type that is referred to and not defined.
fn missing(document: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, document: &Value, missing: &mut BTreeSet<String>) {
        if let (Some(kind), Some(name)) = (value["kind"].as_str(), value["name"].as_str()) {
            let section = match kind {
                "base" => "base_types",
                "enum" => "enums",
                _ => "user_types",
            };
            if document[section][name].is_null() {
                missing.insert(format!("{kind} {name}"));
            }
        }
        match value {
            Value::Object(map) => map.values().for_each(|value| walk(value, document, missing)),
            Value::Array(list) => list.iter().for_each(|value| walk(value, document, missing)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    for section in ["user_types", "symbols"] {
        walk(&document[section], document, &mut found);
    }
    found
}

#[test]
fn a_real_kernel_refers_to_no_type_that_is_not_in_the_file_and_comes_back_the_same() {
    for (from, bytes) in crate::kernels::real_btfs().into_iter().take(2) {
        let btf = Btf::parse(&bytes).unwrap();
        let mut out = Vec::new();
        let banner = format!("{BANNER}\n\0");
        isf::write(&mut out, &isf::Kernel { btf: &btf, symbols: &symbols(), banner: banner.as_bytes() })
            .unwrap();
        let document: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(missing(&document), BTreeSet::new(), "{from}");
        let profile = isf::read(out.as_slice(), &linux::WANTED).unwrap();
        let identity = ProfileIdentity { release: "6.1.0-test".to_owned(), build_id: None };
        let own = Profile::from_btf(&btf, &linux::WANTED, symbols(), identity).unwrap();
        assert_eq!(profile.types.keys().collect::<Vec<_>>(), own.types.keys().collect::<Vec<_>>(), "{from}");
        for (name, layout) in &own.types {
            for (member, field) in &layout.members {
                let read = profile.field(name, member);
                let place = |field: &Field| (field.offset, field.size, field.bits);
                assert_eq!(read.as_ref().map(place).ok(), Some(place(field)), "{from}: {member} of {name}");
            }
        }
        assert_eq!(own.disagreements("one", &profile, "other"), [""; 0]);
    }
}

#[test]
fn a_file_of_dwarf2json_is_read() {
    // As dwarf2json 0.9 writes it: typedefs are gone, untagged records have made-up names.
    let integer = json!({"size": 4, "signed": false, "kind": "int", "endian": "little"});
    let common = json!({
        "size": 16, "kind": "struct", "fields": {
            "refs": {"type": {"kind": "struct", "name": "unnamed_1a2b"}, "offset": 0},
            "net": {"type": {"kind": "struct", "name": "unnamed_3c4d"}, "offset": 8},
        },
    });
    let document = json!({
        "metadata": {"linux": {"symbols": [{"kind": "dwarf", "name": "vmlinux"}]}, "producer": {}, "format": "6.2.0"},
        "base_types": {"unsigned int": integer, "pointer": {"size": 8, "signed": false, "kind": "int", "endian": "little"}},
        "user_types": {
            "sock": {"size": 32, "kind": "struct", "fields": {
                "unnamed_field_0": {"type": {"kind": "union", "name": "unnamed_5e6f"}, "offset": 0, "anonymous": true},
                "late": {"type": {"kind": "struct", "name": "not_defined"}, "offset": 24},
            }},
            "unnamed_5e6f": {"size": 16, "kind": "union", "fields": {
                "common": {"type": {"kind": "struct", "name": "common"}, "offset": 0},
            }},
            "common": common,
            "unnamed_1a2b": {"size": 4, "kind": "struct", "fields": {
                "counter": {"type": {"kind": "base", "name": "unsigned int"}, "offset": 0},
            }},
            "unnamed_3c4d": {"size": 8, "kind": "struct", "fields": {
                "net": {"type": {"kind": "pointer", "subtype": {"kind": "struct", "name": "net"}}, "offset": 0},
            }},
        },
        "enums": {},
        "symbols": {
            "init_task": {"type": {"kind": "struct", "name": "task_struct"}, "address": 0xffff_ffff_82a1_aa40_u64},
            "modules": {"type": {"kind": "base", "name": "void"}, "address": 0},
            "linux_banner": {"address": 1, "constant_data": "TGludXggdmVyc2lvbiA2LjEuMC10ZXN0ICh4KQoA"},
        },
    });
    let profile = read(&document).unwrap();
    assert_eq!(profile.banner.as_deref(), Some("Linux version 6.1.0-test (x)"));
    assert_eq!(profile.field("sock", "common.net.net").unwrap().offset, 8);
    assert_eq!(profile.field("sock", "common.refs.counter").unwrap().size, 4);
    assert!(!profile.has("sock", "late"));
    // An address that dwarf2json did not know is no address.
    assert_eq!(profile.symbols.keys().collect::<Vec<_>>(), ["init_task"]);
}

#[test]
fn what_cannot_be_is_an_error_that_says_where() {
    let change = |path: &[&str], value: Value| {
        let mut document = document();
        let mut place = &mut document;
        for step in path {
            place = &mut place[*step];
        }
        *place = value;
        document
    };
    let text = refusal(&change(&["user_types", "sock", "fields", "refs", "offset"], json!(126)));
    assert_eq!(text, "The symbol file has refs of 4 bytes at 126 in sock, which has 128 bytes");
    let text = refusal(&change(&["user_types", "sock", "fields", "refs", "offset"], json!("x")));
    assert!(text.contains(r#"invalid type: string "x", expected u64 at line 1 column"#), "{text}");
    let text = refusal(&change(&["user_types", "flags", "fields", "high", "type", "bit_length"], json!(65)));
    assert!(text.contains("high"), "{text}");
    let text = refusal(&change(&["metadata", "format"], json!("7.0.0")));
    assert_eq!(text, "The symbol file has format 7.0.0; 4 to 6 can be read");
    let banner = ["symbols", "linux_banner", "constant_data"];
    let cases = [(json!(null), "missing"), (json!("!"), "not base64"), (json!("V2luZG93cw=="), "Windows")];
    for (value, found) in cases {
        let text = refusal(&change(&banner, value));
        assert!(text.contains("does not say which Linux") && text.contains(found), "{text}");
    }
    // A record in itself.
    let own = json!({"type": {"kind": "struct", "name": "backlog_t"}, "offset": 0});
    let mut document = change(&["user_types", "sock", "fields", "backlog"], own.clone());
    document["user_types"]["backlog_t"] = json!({"size": 8, "kind": "struct", "fields": {"head": own}});
    assert!(matches!(read(&document), Err(Error::IsfTooDeep { .. })));
    let whole = written();
    let cut = isf::read(&whole[..whole.len() - 1], &WANTED).unwrap_err();
    assert!(std::error::Error::source(&cut).unwrap().to_string().contains("EOF while parsing"), "{cut:?}");
    let twice = [whole.as_slice(), b"{}"].concat();
    assert!(matches!(isf::read(twice.as_slice(), &WANTED), Err(Error::IsfJson { .. })));
}

#[test]
fn a_hostile_file_takes_neither_memory_nor_for_ever() {
    let refused = |json: &mut dyn std::io::Read| {
        let error = isf::read(json, &WANTED).unwrap_err();
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
    };
    // A string without an end, escapes and all.
    let mut endless = std::io::Read::chain(&b"{\"metadata\": \""[..], std::io::repeat(b'\\'));
    assert!(refused(&mut endless).contains("a string of more than 65536 bytes"));
    // Nesting without an end.
    let deep = "{\"user_types\": {\"a\": {\"size\": 1, \"fields\": {\"b\": {\"offset\": 0, \"type\": "
        .to_owned()
        + &"{\"kind\": \"pointer\", \"subtype\": ".repeat(1000);
    assert!(refused(&mut deep.as_bytes()).contains("128 open brackets"));
    let mut skipped = std::io::Read::chain(&b"{\"x\": "[..], std::io::repeat(b'['));
    assert!(refused(&mut skipped).contains("128 open brackets"));
    // Types without an end: each is within its bounds, and the sum is bounded.
    let mut number = 0_u64;
    let mut rest: Vec<u8> = b"{\"user_types\": {".to_vec();
    let mut endless = Endless(move |buffer: &mut [u8]| {
        while rest.len() < buffer.len() {
            number += 1;
            rest.extend(format!("\"{number:060000}\": {{\"size\": 1, \"fields\": {{}}}}, ").bytes());
        }
        let next = rest.split_off(buffer.len());
        buffer.copy_from_slice(&rest);
        rest = next;
    });
    assert!(refused(&mut endless).contains("types that take more than"));
}

struct Endless<F>(F);

impl<F: FnMut(&mut [u8])> std::io::Read for Endless<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        (self.0)(buffer);
        Ok(buffer.len())
    }
}

#[test]
fn compressed_files_are_read_and_a_broken_one_names_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernel.json.xz");
    let packed = isf::pack(|writer| {
        writer.write_all(&written()).unwrap();
        Ok(())
    })
    .unwrap();
    fs::write(&path, &packed).unwrap();
    let profile = isf::read_file(&path, &WANTED).unwrap();
    assert_eq!(profile, isf::read(written().as_slice(), &WANTED).unwrap());
    let plain = directory.path().join("kernel.json");
    fs::write(&plain, written()).unwrap();
    assert_eq!(isf::read_file(&plain, &WANTED).unwrap(), profile);
    fs::write(&path, &packed[..packed.len() / 2]).unwrap();
    let error = isf::read_file(&path, &WANTED).unwrap_err();
    assert!(error.to_string().contains("kernel.json.xz cannot be read"), "{error}");
}
