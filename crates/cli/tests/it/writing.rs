//! Where the output goes: pipes that end, disks that are full, JSON.

use crate::run::{birthmark, run};
use std::fs::OpenOptions;
use std::process::Stdio;

#[test]
fn a_reader_that_goes_away_ends_it_in_silence() {
    let mut child =
        birthmark(["doctor", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    // The status is that of the checks, not of the pipe.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
}

#[test]
fn a_full_disk_is_an_error() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = birthmark(["doctor"]).stdout(full).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("No space left on device") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn list_prints_an_array_with_a_final_newline() {
    let ran = run(["list", "--json"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.json().is_array());
    assert!(ran.stdout.ends_with("]\n"));
}

#[test]
fn doctor_says_of_each_thing_whether_it_is_as_it_should_be() {
    let checks = run(["doctor", "--json"]).json();
    let checks = checks.as_array().unwrap();
    let named = |name: &str| {
        checks
            .iter()
            .find(|check| check["name"] == name)
            .unwrap_or_else(|| panic!("{name} is missing in {checks:#?}"))
    };
    for name in ["KVM", "privileges", "ptrace", "virtual machines", "nftables"] {
        assert!(named(name)["ok"].is_boolean(), "{name}");
    }
    // Neither exists in the environment of these tests.
    for name in ["birthmarkd", "certificates", "trusted-keys"] {
        assert_eq!(named(name)["ok"], false, "{name}");
    }
    let table = run(["doctor"]);
    assert_eq!(table.status, Some(1));
    assert!(table.stdout.lines().any(|line| line.starts_with("no  birthmarkd: ")), "{table:?}");
}

#[test]
fn nothing_is_coloured_in_a_pipe() {
    assert!(!run(["doctor"]).stdout.contains('\x1b'));
}
