//! `keygen`, `verify`, `show`, and what `audit` and `certify` say about keys and certificates before they look at a guest.

use crate::run::{Ran, run};
use crate::signed::{Signer, text};
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn verify(file: &str, key: &str) -> Ran {
    run(["verify", file, "--trusted-key", key])
}

#[test]
fn keygen_writes_a_secret_and_a_public_file_and_never_replaces_them() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("k");
    let ran = run(["keygen", "--json", "-o", &text(&key)]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(ran.json()["key_id"].as_str().unwrap().len(), 64);
    let public = dir.path().join("k.pub");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&public).unwrap().contains("BEGIN PUBLIC KEY"));
    let secret = fs::read(&key).unwrap();
    assert!(!ran.stdout.contains(std::str::from_utf8(&secret).unwrap()));

    assert!(run(["keygen", "-o", &text(&key)]).error().contains("exists already"));
    assert_eq!(fs::read(&key).unwrap(), secret);
    // A public key alone is in the way as well: it may belong to a key that is kept elsewhere.
    fs::remove_file(&key).unwrap();
    assert!(run(["keygen", "-o", &text(&key)]).error().contains("k.pub exists already"));
    assert!(!key.exists());
}

#[test]
fn keygen_into_a_directory_that_does_not_exist_is_an_error() {
    assert!(run(["keygen", "-o", "/no/such/dir/k"]).error().contains("/no/such/dir/k"));
}

#[test]
fn a_good_certificate_is_trusted() {
    let signer = Signer::new();
    let file = signer.valid_certificate();
    let ran = verify(&file, &signer.public());
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.stdout.contains("trusted") && ran.stdout.contains("web, serial 7"), "{ran:?}");
    let json = run(["verify", "--json", &file, "--trusted-key", &signer.public()]).json();
    assert_eq!(json["trusted"], true);
    assert_eq!(json["serial"], 7);
}

#[test]
fn the_keys_of_the_configuration_directory_are_trusted() {
    let signer = Signer::new();
    let file = signer.valid_certificate();
    let keys = signer.path("trusted-keys");
    fs::create_dir(&keys).unwrap();
    fs::copy(signer.public(), keys.join("a.pub")).unwrap();
    fs::write(keys.join("README"), "no key").unwrap();
    assert_eq!(run(["verify", &file, "--config-dir", &text(signer.dir.path())]).status, Some(0));
    fs::remove_file(keys.join("a.pub")).unwrap();
    assert!(
        run(["verify", &file, "--config-dir", &text(signer.dir.path())]).error().contains("--trusted-key")
    );
}

#[test]
fn an_altered_certificate_is_refused_by_verify_and_by_audit() {
    let signer = Signer::new();
    let file = signer.valid_certificate();
    let mut envelope: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let payload = envelope["payload"].as_str().unwrap().to_owned();
    // The first bytes are the `{` of the statement and what follows; white space is still JSON.
    envelope["payload"] = payload.replacen("ewog", "ewoK", 1).into();
    assert_ne!(envelope["payload"], payload.as_str());
    fs::write(&file, envelope.to_string()).unwrap();
    assert!(verify(&file, &signer.public()).error().contains("altered"));
    let ran = run(["audit", "no-such-vm", "--certificate", &file, "--trusted-key", &signer.public()]);
    assert!(ran.error().contains("altered"), "the certificate is checked first: {ran:?}");
}

#[test]
fn a_certificate_of_another_signer_is_refused() {
    let (signer, other) = (Signer::new(), Signer::new());
    assert!(
        verify(&signer.valid_certificate(), &other.public()).error().contains("none of the 1 trusted keys")
    );
}

#[test]
fn an_unsigned_certificate_is_refused() {
    let signer = Signer::new();
    let file = signer.valid_certificate();
    let mut envelope: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    envelope["signatures"] = serde_json::json!([]);
    fs::write(&file, envelope.to_string()).unwrap();
    assert!(verify(&file, &signer.public()).error().contains("not signed"));
}

#[test]
fn a_certificate_whose_time_is_over_or_has_not_come_is_refused() {
    let signer = Signer::new();
    let over = signer.certificate("over", "2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z");
    assert!(verify(&over, &signer.public()).error().contains("expired at 2021-01-01"));
    let early = signer.certificate("early", "8000-01-01T00:00:00Z", "9000-01-01T00:00:00Z");
    assert!(verify(&early, &signer.public()).error().contains("not valid before"));
}

#[test]
fn what_is_no_certificate_is_refused_by_verify_and_show() {
    let signer = Signer::new();
    let file = signer.path("f");
    for bytes in [&b""[..], b"hello", b"{}", b"{\"payload\":\"!\"}", &[0xff; 64], b"[[[[[[[["] {
        fs::write(&file, bytes).unwrap();
        verify(&text(&file), &signer.public()).error();
        let ran = run(["show", &text(&file)]);
        ran.error();
        assert_eq!(ran.stdout, "");
    }
    assert!(verify("/no/such/file", &signer.public()).error().contains("/no/such/file"));
}

#[test]
fn keys_that_are_missing_or_in_the_wrong_place_are_errors() {
    let signer = Signer::new();
    let file = signer.valid_certificate();
    assert!(verify(&file, "/no/such/key").error().contains("/no/such/key"));
    assert!(verify(&file, &text(&signer.path("key"))).error().contains("private key"));
    let certify = |key: &str| {
        run(["certify", "no-such-vm", "--service", "w", "--key", key, "-o", "/tmp/never-written"])
    };
    let missing = certify("/no/such/key");
    assert!(
        missing.error().contains("/no/such/key") && missing.error().contains("birthmark keygen"),
        "{missing:?}"
    );
    assert!(certify(&signer.public()).error().contains("private key"));
    assert!(certify(&file).error().contains("PEM"));
}

#[test]
fn certify_does_not_replace_a_file_and_says_so_before_it_looks_for_the_vm() {
    let signer = Signer::new();
    let file = signer.valid_certificate();
    let before = fs::read(&file).unwrap();
    let ran =
        run(["certify", "no-such-vm", "--service", "w", "--key", &text(&signer.path("key")), "-o", &file]);
    assert!(ran.error().contains("exists already") && ran.error().contains("--force"), "{ran:?}");
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn show_says_what_is_allowed_and_whether_it_is_trusted() {
    let signer = Signer::new();
    let file = signer.valid_certificate();
    let trusted = run(["show", &file, "--trusted-key", &signer.public()]);
    assert_eq!(trusted.status, Some(0), "{trusted:?}");
    for word in ["yes, signed by", "web, serial 7", "6.1.0-1-amd64", "required", "process.unknown", "web-1"] {
        assert!(trusted.stdout.contains(word), "{word} is missing in\n{}", trusted.stdout);
    }
    let untrusted = run(["show", &file]);
    assert_eq!(untrusted.status, Some(0));
    assert!(untrusted.stdout.contains("NO: No trusted public key"), "{untrusted:?}");
    assert!(untrusted.stdout.contains("web, serial 7"));
    let json = run(["show", "--json", &file]).json();
    assert_eq!(json["trusted"], false);
    assert_eq!(json["statement"]["predicate"]["serial"], 7);
}

#[test]
fn what_a_certificate_says_cannot_reach_the_terminal_as_a_command() {
    let signer = Signer::new();
    let file = signer.valid_certificate();
    for args in [vec!["show", &file], vec!["show", "--json", &file]] {
        let ran = run(args);
        assert!(!ran.stdout.contains(['\x1b', '\u{202e}']), "{}", ran.stdout);
    }
    assert!(run(["show", &file]).stdout.contains("/sbin/\\u{202e}init"));
}
