//! Hostile documents: the stable twin of `fuzz/`. What the fuzz targets do runs here over their corpus and over altered copies
//! of it. The corpus is what the program makes now; `BIRTHMARK_BLESS=1` writes it anew.

use crate::fixture::*;
use attest::{Draft, PrivateKey, Statement};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::path::Path;

#[path = "../../../../fuzz/src/certificate.rs"]
mod exercise;

/// A fuzz target with its corpus.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    corpus: Vec<(&'static str, Vec<u8>)>,
}

fn targets() -> Vec<Target> {
    let key = PrivateKey::from_pem(crate::keys::PRIVATE).unwrap();
    let everything = Statement::new(certificate_with_everything(), Some(&"ab".repeat(32)));
    let draft = Draft::new(statement(), vec!["By hand.".to_owned()], Vec::new());
    vec![
        Target {
            name: "envelope",
            run: exercise::envelope,
            corpus: vec![
                ("signed", statement().sign(&key).unwrap()),
                ("everything", everything.sign(&key).unwrap()),
            ],
        },
        Target {
            name: "statement",
            run: exercise::statement,
            corpus: vec![
                ("learned", statement().to_json().unwrap()),
                ("everything", everything.to_json().unwrap()),
            ],
        },
        Target { name: "draft", run: exercise::draft, corpus: vec![("learned", draft.to_json().unwrap())] },
    ]
}

#[test]
fn the_corpus_is_what_the_program_makes_and_passes() {
    for target in targets() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target.name);
        for (name, bytes) in target.corpus {
            let path = directory.join(name);
            if std::env::var_os("BIRTHMARK_BLESS").is_some() {
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::write(&path, &bytes).unwrap();
            }
            let kept = std::fs::read(&path).unwrap();
            assert!(kept == bytes, "{}: run the test again with BIRTHMARK_BLESS=1", path.display());
            (target.run)(&bytes);
        }
    }
}

/// One alteration: a flipped bit, a doubled or removed run, a piece of JSON put in, an end.
#[derive(Clone, Debug)]
enum Change {
    Flip(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Insert(prop::sample::Index, &'static str),
    Truncate(prop::sample::Index),
}

const PIECES: [&str; 12] = [
    "null",
    "-1",
    "18446744073709551616",
    "1e999",
    "\"\"",
    "\"\\u0000\"",
    "\"**\"",
    "[]",
    "{}",
    "\"1.99\"",
    ",",
    "\\",
];

fn change() -> impl Strategy<Value = Change> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        4 => (place(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        1 => (place(), 1..64_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        1 => (place(), 1..64_usize).prop_map(|(at, length)| Change::Repeat(at, length)),
        3 => (place(), prop::sample::select(PIECES.as_slice())).prop_map(|(at, piece)| Change::Insert(at, piece)),
        1 => place().prop_map(Change::Truncate),
    ]
}

fn altered(mut bytes: Vec<u8>, changes: Vec<Change>) -> Vec<u8> {
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match change {
            Change::Flip(at, mask) => bytes[at.index(length)] ^= mask,
            Change::Remove(at, run) => {
                let at = at.index(length);
                bytes.drain(at..(at + run).min(length));
            }
            Change::Repeat(at, run) => {
                let at = at.index(length);
                let copy = bytes[at..(at + run).min(length)].to_vec();
                bytes.splice(at..at, copy);
            }
            Change::Insert(at, piece) => {
                let at = at.index(length);
                bytes.splice(at..at, piece.bytes());
            }
            Change::Truncate(at) => bytes.truncate(at.index(length)),
        }
    }
    bytes
}

#[test]
fn altered_documents_are_refused_or_mean_what_they_say() {
    for target in targets() {
        for (name, bytes) in target.corpus {
            let config = Config { failure_persistence: None, ..Config::with_cases(200) };
            let changes = prop::collection::vec(change(), 1..4);
            let outcome = TestRunner::new(config).run(&changes, |changes| {
                (target.run)(&altered(bytes.clone(), changes));
                Ok(())
            });
            outcome.unwrap_or_else(|error| panic!("{} {name}: {error}", target.name));
        }
    }
}
