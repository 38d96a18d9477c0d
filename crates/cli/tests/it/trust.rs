//! What keys may sign, what is revoked, and which serials were seen.

use crate::run::{Ran, birthmark, run};
use crate::signed::{Signer, text};
use std::fs;

fn verify_with(signer: &Signer, limits: &str) -> Ran {
    let file = signer.valid_certificate();
    let keys = signer.path("trusted-keys");
    fs::create_dir_all(&keys).unwrap();
    fs::copy(signer.public(), keys.join("a.pub")).unwrap();
    fs::write(keys.join("trust.toml"), limits).unwrap();
    run(["verify", &file, "--config-dir", &text(signer.dir.path())])
}

fn key_id(signer: &Signer) -> String {
    attest::PublicKey::from_pem(&fs::read_to_string(signer.public()).unwrap()).unwrap().id().to_owned()
}

#[test]
fn keys_sign_within_their_limits_only() {
    let signer = Signer::new();
    let id = key_id(&signer);
    assert_eq!(verify_with(&signer, "").status, Some(0));
    assert_eq!(verify_with(&signer, &format!("[keys.{id}]\nservices = [\"web\"]\n")).status, Some(0));
    let scope = verify_with(&signer, &format!("[keys.{id}]\nservices = [\"db\"]\n"));
    assert!(scope.error().contains("may not sign for service \"web\""), "{scope:?}");
    let ended = verify_with(&signer, &format!("[keys.{id}]\nnot_after = \"2024-01-01T00:00:00Z\"\n"));
    assert!(ended.error().contains("counts no longer since 2024-01-01"), "{ended:?}");
    let revoked = verify_with(&signer, &format!("[revoked]\nkeys = [\"{id}\"]\n"));
    assert!(revoked.error().contains("which is revoked"), "{revoked:?}");
    let misspelt = verify_with(&signer, "treshold = 2\n");
    assert!(misspelt.error().contains("treshold"), "{misspelt:?}");
}

#[test]
fn a_revoked_certificate_is_refused() {
    let signer = Signer::new();
    let json =
        run(["verify", "--json", &signer.valid_certificate(), "--trusted-key", &signer.public()]).json();
    let digest = json["digest"].as_str().unwrap();
    let ran = verify_with(&signer, &format!("[revoked]\ncertificates = [\"{digest}\"]\n"));
    assert!(ran.error().contains("is revoked"), "{ran:?}");
}

#[test]
fn a_serial_lower_than_one_that_the_daemon_or_an_audit_has_seen_is_refused() {
    let signer = Signer::new();
    let file = signer.valid_certificate();
    let state = signer.path("state");
    fs::create_dir(&state).unwrap();
    let verify = || -> Ran {
        let args = ["verify", &file, "--trusted-key", &signer.public()];
        birthmark(args).env("BIRTHMARK_STATE_DIR", &state).output().unwrap().into()
    };
    for name in ["serials.json", "audit-serials.json"] {
        fs::write(state.join(name), r#"{"web": 7, "db": 100}"#).unwrap();
        assert_eq!(verify().status, Some(0), "{:?}", verify());
        fs::write(state.join(name), r#"{"web": 8}"#).unwrap();
        assert!(verify().error().contains("serial 8 of service \"web\" was seen before"), "{:?}", verify());
        fs::remove_file(state.join(name)).unwrap();
    }
}

#[test]
fn a_clock_that_may_be_wrong_is_named_when_a_certificate_has_not_begun() {
    let signer = Signer::new();
    let early = signer.certificate("early.json", "2999-01-01T00:00:00Z", "9000-01-01T00:00:00Z");
    let ran = run(["verify", &early, "--trusted-key", &signer.public()]);
    assert!(ran.error().contains("clock is behind"), "{ran:?}");
}
