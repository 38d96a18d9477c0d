//! What we sign is verified by somebody else's DSSE, what they sign by ours, and our documents by somebody else's JSON Schema.
//!
//! The others are securesystemslib (of TUF and in-toto) and jsonschema, from Python's package index.

use crate::fixture::*;
use attest::dsse::{Envelope, PAYLOAD_TYPE};
use attest::{PrivateKey, PublicKey, Refusal, Statement, VerifyOptions, verify};
use std::path::Path;
use std::process::{Command, Output};
use testkit::{Need, python, require};

/// Signs with a new key, or verifies with some: `sign PAYLOAD OUT PUB`, `verify ENVELOPE THRESHOLD PUB…`.
const DSSE: &str = r#"
import json, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

what, *rest = sys.argv[1:]
if what == "sign":
    payload, out, pub = rest
    private = Ed25519PrivateKey.generate()
    signer = CryptoSigner(private)
    envelope = Envelope(open(payload, "rb").read(), "application/vnd.in-toto+json", {})
    envelope.sign(signer)
    json.dump(envelope.to_dict(), open(out, "w"))
    open(pub, "wb").write(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
else:
    path, threshold, *pubs = rest
    data = json.load(open(path))
    ids = [s["keyid"] for s in data["signatures"]]
    envelope = Envelope.from_dict(data)
    # It takes a signature's key id for more than a hint, so each key is given the id that the envelope has.
    keys = [SSlibKey.from_crypto(load_pem_public_key(open(p, "rb").read()), keyid=i) for p, i in zip(pubs, ids)]
    accepted = envelope.verify(keys, int(threshold))
    sys.stdout.buffer.write(envelope.payload)
    assert len(accepted) >= int(threshold)
"#;

/// Validates documents: `SCHEMA DOCUMENT…`; prints what is wrong.
const SCHEMA: &str = r#"
import json, sys
from jsonschema import Draft202012Validator
schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
wrong = 0
for path in sys.argv[2:]:
    for error in validator.iter_errors(json.load(open(path))):
        print(path.rsplit("/", 1)[-1], error.json_path, error.message[:200])
        wrong = 1
sys.exit(wrong)
"#;

fn run(script: &str, args: &[&Path]) -> Output {
    Command::new(python::prepare().unwrap()).args(["-c", script]).args(args).output().unwrap()
}

#[test]
fn another_implementation_verifies_our_envelope_and_refuses_an_altered_one() {
    if !require(&[Need::Python]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
    let mut envelope = statement().to_envelope().unwrap();
    for (key, name) in keys.iter().zip(["a.pub", "b.pub"]) {
        envelope.sign(key).unwrap();
        std::fs::write(path(name), key.public().to_pem().unwrap()).unwrap();
    }
    std::fs::write(path("envelope"), envelope.to_json().unwrap()).unwrap();
    let verify = |file: &str| {
        run(DSSE, &[Path::new("verify"), &path(file), Path::new("2"), &path("a.pub"), &path("b.pub")])
    };
    let output = verify("envelope");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, statement().to_json().unwrap());

    let mut other = statement();
    other.predicate.serial = 8;
    let mut altered: serde_json::Value = serde_json::from_slice(&envelope.to_json().unwrap()).unwrap();
    let unsigned = Envelope::new(PAYLOAD_TYPE, other.to_json().unwrap()).to_json().unwrap();
    altered["payload"] = serde_json::from_slice::<serde_json::Value>(&unsigned).unwrap()["payload"].clone();
    std::fs::write(path("altered"), altered.to_string()).unwrap();
    let output = verify("altered");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("VerificationError"), "{output:?}");
}

#[test]
fn we_verify_the_envelope_of_another_implementation_and_refuse_an_altered_one() {
    if !require(&[Need::Python]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("payload"), statement().to_json().unwrap()).unwrap();
    let output = run(DSSE, &[Path::new("sign"), &path("payload"), &path("envelope"), &path("key.pub")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let key = PublicKey::from_pem(&std::fs::read_to_string(path("key.pub")).unwrap()).unwrap();
    let envelope = std::fs::read_to_string(path("envelope")).unwrap();
    let now = time("2026-12-01T00:00:00Z");
    let check = |envelope: &str| {
        verify(envelope.as_bytes(), std::slice::from_ref(&key), now, &VerifyOptions::default())
    };
    assert_eq!(check(&envelope).unwrap().statement, statement());
    // Its key ids are made in another way than ours, and are only a hint: it is our key id that counts.
    assert_eq!(check(&envelope).unwrap().signers, [key.id()]);
    let altered =
        envelope.replacen("payloadType\": \"application/vnd.in-toto+json", "payloadType\": \"text/plain", 1);
    assert_ne!(altered, envelope);
    assert!(matches!(check(&altered), Err(Refusal::PayloadType { .. })));
    let at = envelope.find("\"payload\": \"").unwrap() + 20;
    let mut bytes = envelope.into_bytes();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    assert!(check(&String::from_utf8(bytes).unwrap()).is_err());
}

#[test]
fn our_documents_have_the_form_of_the_schema_and_wrong_ones_have_not() {
    if !require(&[Need::Python]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/birth-certificate.schema.json");
    let write = |name: &str, value: &serde_json::Value| {
        let path = dir.path().join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path
    };
    let full =
        serde_json::to_value(Statement::new(certificate_with_everything(), Some(&"ab".repeat(32)))).unwrap();
    let mut newer = full.clone();
    newer["predicate"]["schema"] = "1.9".into();
    newer["predicate"]["processes"][0]["weather"] = "fine".into();
    let good = [
        write("learned", &serde_json::to_value(statement()).unwrap()),
        write("full", &full),
        write("newer", &newer),
    ];
    let output = run(
        SCHEMA,
        &[std::slice::from_ref(&schema), good.as_slice()]
            .concat()
            .iter()
            .map(|p| p.as_path())
            .collect::<Vec<_>>(),
    );
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );

    // What verification refuses for its form, the schema refuses too.
    let wrong = [
        ("/predicate/serial", serde_json::json!(0)),
        ("/predicate/service", serde_json::json!(" ")),
        ("/predicate/schema", serde_json::json!("2.0")),
        ("/predicate/supersedes", serde_json::json!("sha256:00")),
        ("/predicate/guest/kernels", serde_json::json!([])),
        ("/predicate/processes/0/presence", serde_json::json!("optional")),
        ("/predicate/processes/0/identities", serde_json::json!([])),
        ("/predicate/processes/0/identities/0/capabilities", serde_json::json!(["CAP_SYS_ADMIN"])),
        ("/predicate/listeners/0/port", serde_json::json!(65536)),
        ("/predicate/listeners/0/address", serde_json::json!("localhost")),
        ("/predicate/flows/egress/0/cidr", serde_json::json!("any")),
        ("/predicate/policy/confirmations", serde_json::json!(1)),
        ("/predicate/policy/mode", serde_json::json!("off")),
        ("/subject", serde_json::json!([])),
        ("/_type", serde_json::json!("https://in-toto.io/Statement/v0.1")),
    ];
    let mut paths = vec![schema];
    for (index, (pointer, value)) in wrong.iter().enumerate() {
        let mut document = full.clone();
        *document.pointer_mut(pointer).unwrap() = value.clone();
        let refused = attest::parse(document.to_string().as_bytes()).is_err();
        assert!(refused, "we accept {pointer} {value}");
        paths.push(write(&format!("wrong{index}"), &document));
    }
    let output = run(SCHEMA, &paths.iter().map(|path| path.as_path()).collect::<Vec<_>>());
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    for (index, (pointer, value)) in wrong.iter().enumerate() {
        assert!(
            found.lines().any(|line| line.starts_with(&format!("wrong{index} "))),
            "{pointer} {value} passes: {found}"
        );
    }
}
