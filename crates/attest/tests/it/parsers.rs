//! Whatever the bytes are, the answer is a refusal, not a panic.

use crate::fixture::*;
use attest::dsse::{self, PAYLOAD_TYPE};
use attest::{PrivateKey, PublicKey, VerifyOptions, compare, parse, verify};
use facts::*;
use proptest::prelude::*;

fn key() -> PrivateKey {
    PrivateKey::from_pem(crate::keys::PRIVATE).unwrap()
}

/// A document with some bytes changed, cut out or doubled.
fn damaged(document: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = document.len();
    let edits = prop::collection::vec((0..length, any::<u8>(), 0..3_u8), 1..8);
    (Just(document), edits).prop_map(|(mut bytes, edits)| {
        for (at, byte, how) in edits {
            let at = at.min(bytes.len() - 1);
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at + 1),
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let trusted = [key().public()];
        let now = time("2026-12-01T00:00:00Z");
        prop_assert!(verify(&bytes, &trusted, now, &VerifyOptions::default()).is_err());
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn a_damaged_envelope_is_refused_or_unchanged_in_content(
        bytes in damaged(statement().sign(&key()).unwrap())
    ) {
        let now = time("2026-12-01T00:00:00Z");
        if let Ok(verified) = verify(&bytes, &[key().public()], now, &VerifyOptions::default()) {
            prop_assert_eq!(verified.statement, statement());
        }
    }

    #[test]
    fn a_damaged_statement_with_a_good_signature_never_panics(
        bytes in damaged(statement().to_json().unwrap())
    ) {
        let envelope = dsse::seal(PAYLOAD_TYPE, &bytes, &key()).unwrap();
        let now = time("2026-12-01T00:00:00Z");
        if let Ok(verified) = verify(&envelope, &[key().public()], now, &VerifyOptions::default()) {
            let _ = compare(verified.certificate(), &web());
        }
    }

    #[test]
    fn random_text_is_no_key(text in "(-----BEGIN [A-Z ]{0,20}-----\n)?[A-Za-z0-9+/=\n]{0,120}(-----END PRIVATE KEY-----)?") {
        prop_assert!(PrivateKey::from_pem(&text).is_err());
        prop_assert!(PublicKey::from_pem(&text).is_err());
    }

    #[test]
    fn a_hostile_snapshot_is_learned_from_and_compared_without_a_panic(
        names in prop::collection::vec((".{0,20}", ".{0,40}", any::<u32>(), any::<bool>(), 0..5_u8), 0..20),
        ports in prop::collection::vec((any::<u16>(), any::<u32>(), ".{0,20}"), 0..20),
    ) {
        let snapshot = web_with(|s| {
            for (name, exe, pid, kernel_thread, state) in names {
                let exe_state = [ExeState::Present, ExeState::Deleted, ExeState::Memfd, ExeState::None];
                s.processes.push(Process {
                    kernel_thread,
                    exe_state: exe_state.get(usize::from(state)).copied(),
                    exe: (state != 3).then_some(exe.into()),
                    ..process(pid % 4_000_000, &name, "")
                });
            }
            for (port, pid, path) in ports {
                s.sockets.list().push(tcp("::1", port, &[pid]));
                s.sockets.list().push(unix(&path, &[pid % 500]));
            }
        });
        let _ = compare(&certificate(), &snapshot);
        let told = attest::LearnOptions { accept_unknown: true, ..options() };
        let learned = attest::certify(std::slice::from_ref(&snapshot), &told).unwrap();
        // What could be learned conforms; what could not is named as unknown or impossible.
        for finding in compare(&learned.predicate, &snapshot) {
            prop_assert!(
                [rule::GUEST_BLIND, rule::PROCESS_IDENTITY].contains(&finding.rule.as_str()),
                "{:#?}", finding
            );
        }
        // And it can be signed and read back.
        let envelope = learned.sign(&key()).unwrap();
        let now = time("2026-12-01T00:00:00Z");
        let read = verify(&envelope, &[key().public()], now, &VerifyOptions::default()).unwrap();
        prop_assert_eq!(read.statement, learned);
    }
}
