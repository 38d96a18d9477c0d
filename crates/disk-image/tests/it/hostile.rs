//! Images with wrong bytes in the places that matter end in an error or in a tree, never in a crash and never in much time. Also the
//! stable twin of `fuzz/`: what its targets of images do runs here over their corpus and over altered copies of it.

use crate::make::{Lab, TOOLS, run};
use disk_image::{Image, Kind, inventory};
use proptest::prelude::*;
use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use testkit::require;

#[path = "../../../../fuzz/src/image.rs"]
mod exercise;

/// Opens and reads all that can be read.
fn look(path: &Path) {
    if let Ok(image) = Image::open(path, None) {
        let _ = inventory(&image.tree);
    }
}

/// Writes what is left of an image after each change, and looks at it.
fn with_changes(original: &[u8], path: &Path, places: usize, cases: u32) {
    let strategy = proptest::collection::vec((0..places, any::<u8>()), 1..12);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&strategy, |changes| {
            let mut bytes = original.to_vec();
            for (at, value) in changes {
                bytes[at] = value;
            }
            fs::write(path, bytes).unwrap();
            look(path);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_qcow2_with_any_bytes_in_its_header_and_tables_does_no_harm() {
    if !require(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    for (name, arguments) in
        [("plain", &["-o", "cluster_size=512"][..]), ("packed", &["-c", "-o", "cluster_size=4096"])]
    {
        let original = fs::read(lab.qcow2(&lab.ext4(), name, arguments)).unwrap();
        with_changes(&original, &lab.path("changed"), 112, 60);
        with_changes(&original, &lab.path("changed"), original.len().min(64 << 10), 60);
        for end in [0, 3, 4, 71, 72, 111, 512, 4096, original.len() - 1] {
            fs::write(lab.path("cut"), &original[..end]).unwrap();
            look(&lab.path("cut"));
        }
    }
}

#[test]
fn a_partition_table_with_any_bytes_does_no_harm() {
    if !require(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    for gpt in [true, false] {
        let original = fs::read(lab.disk(gpt)).unwrap();
        with_changes(&original, &lab.path("changed"), 4096, 40);
        fs::write(lab.path("cut"), &original[..600]).unwrap();
        look(&lab.path("cut"));
    }
    // An extended partition that is the next link of itself.
    let mut disk = vec![0; 1 << 20];
    for at in [0, 512] {
        disk[at + 446 + 16 + 4] = 5;
        disk[at + 446 + 16 + 8] = 1;
        disk[at + 446 + 16 + 12] = 9;
        disk[at + 510..at + 512].copy_from_slice(&[0x55, 0xaa]);
    }
    fs::write(lab.path("circle"), disk).unwrap();
    assert!(Image::open(&lab.path("circle"), None).is_err());
}

#[test]
fn an_archive_and_a_file_system_with_any_bytes_do_no_harm() {
    if !require(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let archive = fs::read(lab.archive("")).unwrap();
    with_changes(&archive, &lab.path("changed"), archive.len(), 60);
    let ext4 = fs::read(lab.ext4()).unwrap();
    with_changes(&ext4, &lab.path("changed"), 16 << 10, 60);
}

#[test]
fn a_file_system_whose_numbers_would_take_memory_without_end_is_refused() {
    if !require(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    lab.link("etc/long", &"x/".repeat(100));
    let image = lab.ext4();
    let original = fs::read(&image).unwrap();
    let said = |at: usize, value: u32| {
        let mut bytes = original.clone();
        bytes[1024 + at..1024 + at + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(lab.path("changed"), bytes).unwrap();
        Image::open(&lab.path("changed"), None).unwrap_err().source().unwrap().to_string()
    };
    assert!(said(24, 20).contains("blocks have 2^30 bytes"), "{}", said(24, 20));
    assert!(said(4, u32::MAX).contains("at /: "), "more blocks than there are");
    let many = {
        let mut bytes = original.clone();
        bytes[1024 + 4..1024 + 8].fill(0xff);
        bytes[1024 + 32..1024 + 36].copy_from_slice(&8_u32.to_le_bytes());
        fs::write(lab.path("changed"), bytes).unwrap();
        Image::open(&lab.path("changed"), None).unwrap_err().source().unwrap().to_string()
    };
    assert!(many.contains("536870912 block groups"), "{many}");
    // A link of a tebibyte is none, and the rest of the tree is there.
    run(Command::new("debugfs")
        .args(["-w", "-R", "set_inode_field /etc/long size 1099511627776"])
        .arg(&image));
    let tree = Image::open(&image, None).unwrap().tree;
    let kind = |wanted: &str| tree.iter().find(|(path, _)| *path == wanted).unwrap().1.kind.clone();
    assert_eq!((kind("/etc/long"), kind("/etc/passwd")), (Kind::Other, Kind::File));
}

#[test]
fn what_the_fuzzer_starts_from_and_what_it_found_does_no_harm() {
    type Run = fn(&[u8]);
    let targets: [(&str, Run); 5] = [
        ("ext4", exercise::image),
        ("qcow2", exercise::image),
        ("tar", exercise::image),
        ("texts", exercise::texts),
        ("rpm", exercise::rpm),
    ];
    for (name, exercise) in targets {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        for entry in fs::read_dir(&corpus).unwrap() {
            let path = entry.unwrap().path();
            let original = fs::read(&path).unwrap();
            let started = Instant::now();
            exercise(&original);
            let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
                cases: 200,
                failure_persistence: None,
                ..ProptestConfig::default()
            });
            // Half of the changes are where the headers are.
            let place = prop_oneof![0..original.len(), 0..original.len().min(2048)];
            let changes = proptest::collection::vec((place, any::<u8>()), 1..8);
            runner
                .run(&changes, |changes| {
                    let mut bytes = original.clone();
                    changes.iter().for_each(|(at, value)| bytes[*at] = *value);
                    exercise(&bytes);
                    Ok(())
                })
                .unwrap();
            assert!(started.elapsed().as_secs() < 60, "{}: {:?}", path.display(), started.elapsed());
        }
    }
}
