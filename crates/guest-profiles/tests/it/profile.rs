//! What a profile keeps of a kernel and what it answers.

use std::collections::BTreeMap;

use guest_profiles::{
    Btf, Error, FieldKind, Profile, ProfileIdentity, Wanted, WantedEnum, WantedType, linux,
};

use crate::btf_builder::BtfBuilder;
use crate::kernels::real_btfs;

const WANTED: Wanted = Wanted {
    types: &[
        WantedType { name: "sock", members: &["__sk_common", "sk_backlog.head", "sk_missing"] },
        WantedType { name: "sock_common", members: &["skc_daddr", "skc_refcnt"] },
        WantedType { name: "list_head", members: &[] },
        WantedType { name: "atomic_t", members: &[] },
        WantedType { name: "no_such_type", members: &[] },
    ],
    enums: &[
        WantedEnum { name: "pid_type", values: &["PIDTYPE_TGID"] },
        WantedEnum { name: "", values: &["TCP_LISTEN"] },
        WantedEnum { name: "sock_type", values: &[] },
    ],
    symbols: &["init_task", "fixed_percpu_data", "no_such_symbol"],
};

fn kernel() -> Vec<u8> {
    let mut btf = BtfBuilder::new();
    let int = btf.int("int", 4, false);
    let counter = btf.structure("", 4, &[("counter", int, 0)]);
    let atomic = btf.typedef("atomic_t", counter);
    let pointer = btf.pointer(int);
    let list = btf.structure("list_head", 16, &[("next", pointer, 0), ("prev", pointer, 64)]);
    let addresses = btf.structure("", 8, &[("skc_daddr", int, 0), ("skc_rcv_saddr", int, 32)]);
    let either = btf.union("", 8, &[("skc_addrpair", pointer, 0), ("", addresses, 0)]);
    let common = btf.structure(
        "sock_common",
        16,
        &[("", either, 0), ("skc_refcnt", atomic, 64), ("skc_state", int, 96)],
    );
    let backlog = btf.structure("", 16, &[("head", pointer, 0), ("len", int, 64)]);
    btf.structure(
        "sock",
        64,
        &[("sk_node", list, 0), ("__sk_common", common, 128), ("sk_backlog", backlog, 256)],
    );
    btf.enumeration("pid_type", false, &[("PIDTYPE_PID", 0), ("PIDTYPE_TGID", 1)]);
    btf.enumeration("sock_type", false, &[("SOCK_STREAM", 1), ("SOCK_DGRAM", 2)]);
    btf.enumeration("", false, &[("TCP_ESTABLISHED", 1), ("TCP_LISTEN", 10)]);
    btf.build()
}

fn identity() -> ProfileIdentity {
    ProfileIdentity { release: "6.1.0-test".to_owned(), build_id: Some("abcd".to_owned()) }
}

fn profile() -> Profile {
    let bytes = kernel();
    let symbols = [("init_task", 0xffff_ffff_82a1_aa40), ("fixed_percpu_data", 0), ("unwanted", 1)];
    let symbols: BTreeMap<_, _> = symbols.into_iter().map(|(name, at)| (name.to_owned(), at)).collect();
    Profile::from_btf(&Btf::parse(&bytes).unwrap(), &WANTED, symbols, identity()).unwrap()
}

#[test]
fn only_what_is_wanted_is_kept() {
    let profile = profile();
    let names = |name: &str| profile.types[name].members.keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(profile.types.keys().collect::<Vec<_>>(), ["atomic_t", "list_head", "sock", "sock_common"]);
    assert_eq!(names("sock"), ["__sk_common", "sk_backlog", "sk_backlog.head"]);
    assert_eq!(names("sock_common"), ["skc_daddr", "skc_refcnt", "skc_refcnt.counter"]);
    assert_eq!(names("list_head"), ["next", "prev"]);
    assert_eq!(profile.symbols.keys().collect::<Vec<_>>(), ["fixed_percpu_data", "init_task"]);
    assert_eq!(profile.enums["pid_type"].len(), 1);
}

#[test]
fn a_dotted_path_goes_through_named_untagged_and_typedefed_records() {
    let profile = profile();
    let offset = |name: &str, member: &str| profile.field(name, member).unwrap().offset;
    assert_eq!(offset("sock", "__sk_common"), 16);
    assert_eq!(offset("sock", "__sk_common.skc_daddr"), 16);
    assert_eq!(offset("sock", "__sk_common.skc_refcnt.counter"), 24);
    assert_eq!(offset("sock", "sk_backlog.head"), 32);
    assert_eq!(offset("atomic_t", "counter"), 0);
    assert_eq!(profile.size("sock").unwrap(), 64);
    assert!(profile.has("sock", "sk_backlog.head"));
    assert!(!profile.has("sock", "sk_backlog.len"));
}

#[test]
fn what_a_kernel_does_not_have_is_an_error_that_names_it() {
    let profile = profile();
    let field = |name: &str, member: &str| profile.field(name, member).unwrap_err().to_string();
    assert_eq!(field("sock", "sk_missing"), "Profile of 6.1.0-test has no member sk_missing in struct sock");
    assert_eq!(
        field("sock", "__sk_common.skc_state"),
        "Profile of 6.1.0-test has no member __sk_common.skc_state in struct sock"
    );
    assert_eq!(field("inode", "i_ino"), "Profile of 6.1.0-test has no type inode");
    assert_eq!(
        field("list_head", "next.prev"),
        "Profile of 6.1.0-test has next in struct list_head, but it is not an embedded record"
    );
    for path in ["", ".", "sk_backlog.", ".head", "__sk_common..skc_daddr"] {
        assert!(matches!(profile.field("sock", path), Err(Error::NoMember { .. })), "{path:?}");
    }
    assert_eq!(
        profile.symbol("init_net").unwrap_err().to_string(),
        "Profile of 6.1.0-test has no symbol init_net"
    );
    assert_eq!(
        profile.enum_value("pid_type", "PIDTYPE_PID").unwrap_err().to_string(),
        "Profile of 6.1.0-test has no value PIDTYPE_PID in enum pid_type"
    );
}

#[test]
fn symbols_and_enum_values_are_answered() {
    let profile = profile();
    assert_eq!(profile.symbol("init_task").unwrap(), 0xffff_ffff_82a1_aa40);
    assert_eq!(profile.optional_symbol("fixed_percpu_data"), Some(0));
    assert_eq!(profile.optional_symbol("unwanted"), None);
    assert_eq!(profile.enum_value("pid_type", "PIDTYPE_TGID").unwrap(), 1);
    assert_eq!(profile.enum_value("", "TCP_LISTEN").unwrap(), 10);
    assert_eq!(profile.enum_value("sock_type", "SOCK_DGRAM").unwrap(), 2);
}

#[test]
fn a_stored_profile_comes_back_with_the_same_digest() {
    let profile = profile();
    let json = profile.to_json();
    let again = Profile::from_json(&json).unwrap();
    assert_eq!(again, profile);
    assert_eq!(again.to_json(), json);
    assert_eq!(again.digest(), profile.digest());
    assert!(profile.digest().starts_with("sha256:") && profile.digest().len() == 71);
    assert!(str::from_utf8(&json).unwrap().contains(r#""init_task":"0xffffffff82a1aa40""#));
}

#[test]
fn the_digest_is_that_of_the_canonical_json_of_every_version_to_come() {
    // A change here makes every stored profile and certificate another one: it takes a new schema version.
    let mut profile = profile();
    profile.types.clear();
    profile.enums.clear();
    let json = String::from_utf8(profile.to_json()).unwrap();
    let btf = profile.btf_digest.clone().unwrap();
    let wanted = WANTED.digest();
    assert_eq!(
        json,
        format!(
            r#"{{"schema":"birthmark.profile/v1","release":"6.1.0-test","build_id":"abcd","btf_digest":"{btf}","wanted":"{wanted}","#
        ) + r#""types":{},"enums":{},"symbols":{"fixed_percpu_data":"0x0","init_task":"0xffffffff82a1aa40"}}"#
    );
    let field =
        serde_json::to_string(&self::profile().field("sock", "__sk_common.skc_refcnt").unwrap()).unwrap();
    assert_eq!(field, r#"{"offset":24,"size":4,"kind":{"record":{"name":"atomic_t"}}}"#);
}

#[test]
fn another_btf_gives_another_digest() {
    let mut bytes = kernel();
    // The last string is a name that nobody wants.
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    let other =
        Profile::from_btf(&Btf::parse(&bytes).unwrap(), &WANTED, BTreeMap::new(), identity()).unwrap();
    assert_ne!(other.btf_digest, profile().btf_digest);
}

#[test]
fn a_damaged_profile_is_refused() {
    let json = String::from_utf8(profile().to_json()).unwrap();
    let refused = |json: &str| Profile::from_json(json.as_bytes()).unwrap_err();
    assert!(matches!(refused(&json[..json.len() - 1]), Error::ProfileJson { .. }));
    assert!(matches!(refused(&json.replace("profile/v1", "profile/v2")), Error::ProfileSchema { .. }));
    assert!(matches!(refused(&json.replace("0xffffffff82a1aa40", "-1")), Error::ProfileJson { .. }));
    assert!(matches!(
        refused(&json.replace("\"release\"", "\"extra\":1,\"release\"")),
        Error::ProfileJson { .. }
    ));
    assert!(matches!(refused(&" ".repeat(9 << 20)), Error::ProfileTooLarge { .. }));
    let deep = format!("{{\"types\":{}", "[".repeat(100_000));
    assert!(matches!(refused(&deep), Error::ProfileJson { .. }));
}

#[test]
fn offsets_of_an_altered_profile_that_overflow_are_an_error() {
    let mut profile = profile();
    let types = &mut profile.types;
    types.get_mut("sock").unwrap().members.get_mut("__sk_common").unwrap().offset = u64::MAX;
    types.get_mut("sock_common").unwrap().members.get_mut("skc_refcnt").unwrap().offset = 1;
    assert!(matches!(profile.field("sock", "__sk_common.skc_refcnt"), Err(Error::OffsetOverflow { .. })));
}

#[test]
fn a_record_that_embeds_itself_in_an_altered_profile_does_not_hang() {
    let mut profile = profile();
    let common = profile.types.get_mut("sock").unwrap().members.get_mut("__sk_common").unwrap();
    common.kind = FieldKind::Record { name: Some("sock".to_owned()) };
    common.offset = 0;
    let path = ["__sk_common"; 1000].join(".");
    assert!(matches!(profile.field("sock", &path), Err(Error::NoMember { .. })));
}

#[test]
fn the_engines_table_is_answered_by_real_kernels() {
    for (from, bytes) in real_btfs() {
        let btf = Btf::parse(&bytes).unwrap();
        let profile = Profile::from_btf(&btf, &linux::WANTED, BTreeMap::new(), identity()).unwrap();
        eprintln!("{from}: {} types, {} bytes of JSON", profile.types.len(), profile.to_json().len());
        for (name, member) in [
            ("task_struct", "comm"),
            ("task_struct", "tasks.next"),
            ("file", "f_path.dentry"),
            ("dentry", "d_name.name"),
            ("sock", "__sk_common.skc_rcv_saddr"),
            ("sock", "__sk_common.skc_v6_rcv_saddr"),
        ] {
            assert!(profile.has(name, member), "{from}: {name}.{member}");
        }
        let comm = profile.field("task_struct", "comm").unwrap();
        assert!(matches!(comm.kind, FieldKind::Array { count: 16, stride: 1, .. }), "{from}: {comm:?}");
    }
}
