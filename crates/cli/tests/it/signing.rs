//! `sign`: by a key in a file or in the environment, or by a program; several signatures one after the other.

use crate::run::{Ran, birthmark, run};
use crate::signed::{Signer, statement, text};
use attest::{Draft, PrivateKey};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const ALWAYS: [&str; 2] = ["2020-01-01T00:00:00Z", "9000-01-01T00:00:00Z"];

/// A directory with keys, a draft, and a place for the certificate.
struct Desk {
    signer: Signer,
    draft: String,
    certificate: String,
}

impl Desk {
    fn new() -> Self {
        let signer = Signer::new();
        let (draft, certificate) = (text(&signer.path("web.draft")), text(&signer.path("web.json")));
        let [from, to] = ALWAYS;
        let made = Draft::new(statement(from, to), Vec::new(), Vec::new());
        fs::write(&draft, made.to_json().unwrap()).unwrap();
        Self { signer, draft, certificate }
    }

    fn key(&self) -> String {
        text(&self.signer.path("key"))
    }

    fn is_trusted(&self, key: &str) -> bool {
        run(["verify", &self.certificate, "--trusted-key", key]).status == Some(0)
    }
}

#[test]
fn a_draft_is_signed_and_the_certificate_is_trusted() {
    let desk = Desk::new();
    let ran = run(["sign", "--json", &desk.draft, "--key", &desk.key(), "-o", &desk.certificate]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!(ran.json()["serial"], 7);
    assert!(desk.is_trusted(&desk.signer.public()));
    let verified =
        run(["verify", "--json", &desk.certificate, "--trusted-key", &desk.signer.public()]).json();
    assert_eq!(verified["digest"], ran.json()["digest"]);
    // Neither a draft nor a certificate is ever taken for the other.
    assert!(run(["verify", &desk.draft, "--trusted-key", &desk.signer.public()]).status == Some(2));
    let again = run(["sign", &desk.draft, "--key", &desk.key(), "-o", &desk.certificate]);
    assert!(again.error().contains("--force"), "{again:?}");
    let twice = run(["sign", &desk.certificate, "--key", &desk.key(), "-o", &desk.certificate, "--force"]);
    assert!(twice.error().contains("already signed"), "{twice:?}");
}

#[test]
fn a_second_person_adds_a_signature_and_trust_can_ask_for_both() {
    let desk = Desk::new();
    run(["sign", &desk.draft, "--key", &desk.key(), "-o", &desk.certificate]);
    let keys = desk.signer.path("trusted-keys");
    fs::create_dir(&keys).unwrap();
    fs::copy(desk.signer.public(), keys.join("one.pub")).unwrap();
    let second = PrivateKey::generate().unwrap();
    fs::write(keys.join("two.pub"), second.public().to_pem().unwrap()).unwrap();
    fs::write(keys.join("trust.toml"), "[services.web]\nthreshold = 2\n").unwrap();
    let verify = || run(["verify", &desk.certificate, "--config-dir", &text(desk.signer.dir.path())]);
    assert!(verify().error().contains("needs the signatures of 2 trusted keys, and 1 count"));
    let key = desk.signer.path("second");
    fs::write(&key, second.to_pem().unwrap()).unwrap();
    let ran = run(["sign", &desk.certificate, "--key", &text(&key), "-o", &desk.certificate, "--force"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(verify().status, Some(0), "{:?}", verify());
}

#[test]
fn a_key_may_come_from_the_environment() {
    let desk = Desk::new();
    let pem = fs::read_to_string(desk.key()).unwrap();
    let args = ["sign", &desk.draft, "--key", "env:SIGNING_KEY", "-o", &desk.certificate];
    assert!(run(args).error().contains("SIGNING_KEY"));
    let ran: Ran = birthmark(args).env("SIGNING_KEY", pem).output().unwrap().into();
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(desk.is_trusted(&desk.signer.public()));
}

/// A program that stands for a KMS: it signs with OpenSSL's Ed25519, which needs a file and not a pipe.
const KMS: &str = "#!/bin/sh\nset -e\ncat > \"$0.bytes\"\n\
    openssl pkeyutl -sign -rawin -inkey \"$(dirname \"$0\")/key\" -in \"$0.bytes\" | base64 -w0\n";

#[test]
fn a_program_may_sign_in_place_of_a_key() {
    if !testkit::require(&[testkit::Need::Program("openssl")]) {
        return;
    }
    let desk = Desk::new();
    let program = |name: &str, script: &str| {
        let path = desk.signer.path(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        text(&path)
    };
    let sign = |program: &str| {
        let public = desk.signer.public();
        run(["sign", &desk.draft, "--signer", program, "--signer-key", &public, "-o", &desk.certificate])
    };
    assert!(sign(&program("fails", "#!/bin/sh\nexit 3\n")).error().contains("exit status: 3"));
    assert!(sign(&program("babbles", "#!/bin/sh\necho hello\n")).error().contains("base64"));
    assert!(sign(&program("lies", "#!/bin/sh\nhead -c 64 /dev/zero\n")).error().contains("of no use"));
    assert!(sign("/no/such/program").error().contains("/no/such/program"));
    assert!(!std::path::Path::new(&desk.certificate).exists());
    let ran = sign(&program("kms", KMS));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(desk.is_trusted(&desk.signer.public()));
}

#[test]
fn nobody_signs_for_nobody_and_a_contradiction_is_not_signed() {
    let desk = Desk::new();
    assert!(run(["sign", &desk.draft, "-o", &desk.certificate]).error().contains("--signer"));
    let contradiction = fs::read_to_string(&desk.draft).unwrap().replace("\"serial\": 7", "\"serial\": 0");
    fs::write(&desk.draft, contradiction).unwrap();
    let ran = run(["sign", &desk.draft, "--key", &desk.key(), "-o", &desk.certificate]);
    assert!(ran.status == Some(2) && !std::path::Path::new(&desk.certificate).exists(), "{ran:?}");
}
