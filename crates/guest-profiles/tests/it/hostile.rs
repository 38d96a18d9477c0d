//! Hostile bytes: the stable twin of `fuzz/`. What the fuzz targets do runs here over their corpus, over altered copies
//! of it, and over bytes that no kernel made. No input may panic a parser, break a bound, or take long.

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;

#[path = "../../../../fuzz/src/lib.rs"]
mod exercise;

/// Far more than any input needs on a busy machine, far less than a loop without a bound takes.
const LONGEST: Duration = Duration::from_secs(10);

/// One fuzz target.
#[derive(Debug, Clone, Copy)]
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    /// Altered copies that are tried: fewer of what takes a millisecond each.
    cases: u32,
}

const MANY: u32 = 10_000;
const FEW: u32 = 2_000;

const TARGETS: [Target; 9] = [
    Target { name: "btf", run: exercise::btf, cases: MANY },
    Target { name: "kallsyms", run: exercise::kallsyms, cases: MANY },
    Target { name: "vmcoreinfo", run: exercise::vmcoreinfo, cases: MANY },
    Target { name: "elf_notes", run: exercise::elf_notes, cases: MANY },
    Target { name: "isf", run: exercise::isf, cases: MANY },
    Target { name: "stored", run: exercise::stored, cases: MANY },
    Target { name: "bzimage", run: exercise::kernel_file, cases: FEW },
    Target { name: "vmlinux", run: exercise::kernel_file, cases: FEW },
    Target { name: "deb", run: exercise::kernel_file, cases: FEW },
];

impl Target {
    fn exercise(self, bytes: &[u8]) {
        let start = Instant::now();
        (self.run)(bytes);
        let took = start.elapsed();
        assert!(took < LONGEST, "{} took {took:?} for {} bytes", self.name, bytes.len());
    }

    fn corpus(self) -> Vec<(String, Vec<u8>)> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(self.name);
        let mut inputs: Vec<_> = std::fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} has no corpus", self.name);
        inputs
    }
}

/// One alteration: where (as a fraction of the length) and what.
#[derive(Debug, Clone)]
enum Change {
    Flip(prop::sample::Index, u8),
    Word(prop::sample::Index, u32),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Truncate(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        8 => (place(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        4 => (place(), interesting()).prop_map(|(at, word)| Change::Word(at, word)),
        1 => (place(), 1..64_usize).prop_map(|(at, len)| Change::Remove(at, len)),
        1 => (place(), 1..64_usize).prop_map(|(at, len)| Change::Repeat(at, len)),
        1 => place().prop_map(Change::Truncate),
    ]
}

fn interesting() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(u32::MAX), Just(1 << 31), Just(0x00ff_ffff), 0..64_u32, any::<u32>()]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    match change {
        Change::Flip(at, mask) => {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        Change::Word(at, word) => {
            // Aligned, where a table has its words.
            let at = at.index(bytes.len()) & !3;
            for (byte, new) in bytes[at..].iter_mut().zip(word.to_le_bytes()) {
                *byte = new;
            }
        }
        Change::Remove(at, len) => {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + len).min(bytes.len()));
        }
        Change::Repeat(at, len) => {
            let at = at.index(bytes.len());
            let piece = bytes[at..(at + len).min(bytes.len())].to_vec();
            bytes.splice(at..at, piece);
        }
        Change::Truncate(at) => bytes.truncate(at.index(bytes.len())),
    }
}

fn altered_copies_are_survived(target: Target) {
    let corpus: Vec<Vec<u8>> = target.corpus().into_iter().map(|(_, bytes)| bytes).collect();
    let config =
        ProptestConfig { cases: target.cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(seed in prop::sample::select(corpus), changes in prop::collection::vec(change(), 1..12))| {
        let mut bytes = seed;
        for change in &changes {
            apply(&mut bytes, change);
        }
        target.exercise(&bytes);
    });
}

#[test]
fn the_corpus_of_every_target_is_survived() {
    for target in TARGETS {
        for (from, bytes) in target.corpus() {
            eprintln!("{from}");
            target.exercise(&bytes);
        }
    }
}

#[test]
fn truncations_of_the_corpus_are_survived() {
    for target in TARGETS {
        for (_, bytes) in target.corpus() {
            for len in (0..bytes.len()).step_by(bytes.len() / 1000 + 1) {
                target.exercise(&bytes[..len]);
            }
        }
    }
}

#[test]
fn altered_btf_is_survived() {
    altered_copies_are_survived(TARGETS[0]);
}

#[test]
fn altered_symbol_tables_are_survived() {
    altered_copies_are_survived(TARGETS[1]);
}

#[test]
fn altered_vmcoreinfo_is_survived() {
    altered_copies_are_survived(TARGETS[2]);
}

#[test]
fn altered_notes_are_survived() {
    altered_copies_are_survived(TARGETS[3]);
}

#[test]
fn altered_symbol_files_are_survived() {
    altered_copies_are_survived(TARGETS[4]);
}

#[test]
fn altered_stored_profiles_are_survived() {
    altered_copies_are_survived(TARGETS[5]);
}

#[test]
fn altered_boot_images_are_survived() {
    altered_copies_are_survived(TARGETS[6]);
}

#[test]
fn altered_kernels_with_and_without_debug_information_are_survived() {
    altered_copies_are_survived(TARGETS[7]);
}

#[test]
fn altered_packages_are_survived() {
    altered_copies_are_survived(TARGETS[8]);
}

#[test]
fn random_bytes_are_survived_by_every_parser() {
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(bytes in prop::collection::vec(any::<u8>(), 0..4096))| {
        for target in TARGETS {
            target.exercise(&bytes);
        }
    });
}

#[test]
fn a_real_kernels_btf_with_flipped_bits_is_survived() {
    for (_, real) in crate::kernels::real_btfs().into_iter().take(1) {
        let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(changes in prop::collection::vec(change(), 1..200))| {
            let mut bytes = real.clone();
            // The header stays: it is altered in the small ones.
            let mut body = bytes.split_off(24);
            for change in changes.iter().filter(|change| matches!(change, Change::Flip(..) | Change::Word(..))) {
                apply(&mut body, change);
            }
            bytes.extend(body);
            TARGETS[0].exercise(&bytes);
        });
    }
}

#[test]
fn a_real_kernel_with_flipped_bits_is_survived() {
    // The headers, the sections' headers at the end, and anywhere: tables, notes, type information.
    let near = |len: usize| prop_oneof![0..512_usize, len - 4096..len, 0..len];
    for kernel in crate::kernels::vmlinuxes().into_iter().take(1) {
        let config = ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() };
        let places = prop::collection::vec((near(kernel.image.len()), 0..8_u8), 1..40);
        proptest!(config, |(flips in places)| {
            let mut bytes = kernel.image.clone();
            for (at, bit) in flips {
                bytes[at] ^= 1 << bit;
            }
            TARGETS[7].exercise(&bytes);
        });
    }
}

#[test]
fn a_string_section_without_ends_does_not_make_each_type_cost_its_length() {
    // 40,000 types, and names that all start within 8 MiB without a NUL.
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    let (types, strings) = (40_000_u32, 8 << 20);
    for word in [24, 0, types * 12, types * 12, strings] {
        bytes.extend_from_slice(&u32::to_le_bytes(word));
    }
    for index in 0..types {
        for word in [1 + index, 4 << 24, 0] {
            bytes.extend_from_slice(&u32::to_le_bytes(word));
        }
    }
    let mut section = vec![b't'; strings as usize];
    section[0] = 0;
    section[strings as usize - 1] = 0;
    bytes.extend(section);
    TARGETS[0].exercise(&bytes);
}
