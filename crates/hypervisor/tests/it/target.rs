//! How a user names a guest.

use hypervisor::{Error, Target, open};
use std::path::PathBuf;

fn parse(text: &str) -> Result<Target, Error> {
    text.parse()
}

#[test]
fn every_form_of_a_target_is_understood_and_prints_back() {
    let uuid = "0a1b2c3d-0000-1111-2222-333344445555";
    for (text, expected) in [
        ("web-01", Target::Name("web-01".to_owned())),
        ("pid:42", Target::Pid(42)),
        (&format!("uuid:{uuid}"), Target::Uuid(uuid.to_owned())),
        ("xen:3", Target::Xen(3)),
        (
            "metadata:instance/name=a=b",
            Target::Metadata { key: "instance/name".to_owned(), value: "a=b".to_owned() },
        ),
        ("/tmp/x.img", Target::Image(PathBuf::from("/tmp/x.img"))),
        ("./x", Target::Image(PathBuf::from("./x"))),
        // A file of this folder, as tests run in the crate's.
        ("Cargo.toml", Target::Image(PathBuf::from("Cargo.toml"))),
    ] {
        assert_eq!(parse(text).unwrap(), expected, "{text}");
        assert_eq!(expected.to_string(), text);
    }
    assert_eq!(parse("uuid:0A1B2C3D000011112222333344445555").unwrap(), Target::Uuid(uuid.to_owned()));
}

#[test]
fn what_names_no_target_is_refused_with_a_reason() {
    for text in [
        "",
        "pid:",
        "pid:x",
        "pid:0",
        "pid:-1",
        "pid:99999999999",
        "uuid:",
        "uuid:12",
        "xen:",
        "xen:x",
        "metadata:",
        "metadata:a",
        "metadata:=b",
        "metadata:a=",
    ] {
        let error = parse(text).unwrap_err();
        assert!(matches!(error, Error::TargetSyntax { .. }), "{text}: {error}");
    }
}

#[test]
fn targets_that_are_not_there_say_so() {
    let message = |target| open(&target).unwrap_err().to_string();
    assert!(message(Target::Xen(3)).contains("xen:3"));
    assert!(
        message(Target::Name("no-such-vm".to_owned())).starts_with("No VM `no-such-vm` is on this host (")
    );
    assert!(
        message(Target::Uuid("0a1b2c3d-0000-1111-2222-333344445555".to_owned()))
            .contains("No VM `uuid:0a1b2c3d")
    );
    assert_eq!(message(Target::Pid(u32::MAX)), format!("Process {} has ended", u32::MAX));
    assert!(message(Target::Pid(std::process::id())).contains("is no VMM"));
}
