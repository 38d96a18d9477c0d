//! The whole support matrix, for `cargo xtask matrix`: every pair of values occurs in one guest at least.
//!
//! Every combination of all values would be thousands of guests and tens of hours; nearly all that can go wrong does so with
//! one value or two together. The rows are found by a greedy search, the same at every run.

use crate::cell::{Blocks, Cell, Memory, Outcome};
use crate::tables::SAMPLE;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;
use testkit::{Kernel, Machine, PagingLevels, kernels};

const MACHINES: [Machine; 3] = [Machine::Q35, Machine::I440fx, Machine::Microvm];
const LEVELS: [PagingLevels; 2] = [PagingLevels::Four, PagingLevels::Five];
const KASLR: [bool; 2] = [true, false];
const PTI: [bool; 2] = [false, true];
const VCPUS: [u32; 3] = [1, 2, 4];
const MIB: [u64; 4] = [512, 96, 4096, 16384];
const MEMORY: [Memory; 4] = [Memory::Memfd, Memory::Anonymous, Memory::File, Memory::HugePages];
const BLOCKS: [Blocks; 4] = [Blocks::One, Blocks::Numa, Blocks::Dimm, Blocks::Device];

/// How many values each dimension has, in the order of [`Row`].
const SIZES: [usize; 9] = [
    Kernel::ALL.len(),
    MACHINES.len(),
    LEVELS.len(),
    KASLR.len(),
    PTI.len(),
    VCPUS.len(),
    MIB.len(),
    MEMORY.len(),
    BLOCKS.len(),
];

/// An index into the values of each dimension.
type Row = [usize; SIZES.len()];
/// Two dimensions, the lower one first, and a value of each.
type Pair = [(usize, usize); 2];

fn cell(row: &Row) -> Cell {
    let [kernel, machine, levels, kaslr, pti, vcpus, mib, memory, blocks] = *row;
    Cell {
        kernel: Kernel::ALL[kernel],
        machine: MACHINES[machine],
        levels: LEVELS[levels],
        kaslr: KASLR[kaslr],
        pti: PTI[pti],
        vcpus: VCPUS[vcpus],
        mib: MIB[mib],
        memory: MEMORY[memory],
        blocks: BLOCKS[blocks],
    }
}

/// The same for a cell of the sample.
fn row(cell: &Cell) -> Row {
    fn at<T: PartialEq>(values: &[T], value: &T) -> usize {
        values.iter().position(|one| one == value).expect("a value that the matrix lacks")
    }
    [
        at(&Kernel::ALL, &cell.kernel),
        at(&MACHINES, &cell.machine),
        at(&LEVELS, &cell.levels),
        at(&KASLR, &cell.kaslr),
        at(&PTI, &cell.pti),
        at(&VCPUS, &cell.vcpus),
        at(&MIB, &cell.mib),
        at(&MEMORY, &cell.memory),
        at(&BLOCKS, &cell.blocks),
    ]
}

/// Whether there are guests with both values; why not is said at each case.
fn go_together(pair: Pair) -> bool {
    // All else is as it is in a guest that goes with everything.
    let mut values = row(&Cell::of(Kernel::V6_1));
    for (dimension, value) in pair {
        values[dimension] = value;
    }
    let cell = cell(&values);
    // The machine has neither PCI nor ACPI here, and so tells of no second CPU.
    let microvm = cell.machine != Machine::Microvm || (cell.blocks == Blocks::One && cell.vcpus == 1);
    // The host would have to set all of it aside.
    let huge = cell.memory != Memory::HugePages || cell.mib <= 512;
    // Of those for real machines, and of Linux 6.12 and 7, too little is left to unpack what the lab boots from.
    let kernel = cell.kernel.name;
    let newer = ["6.12-", "7-"].iter().any(|version| kernel.starts_with(version));
    let small = cell.mib != 96 || kernel.ends_with("-cloud") && !newer;
    // A device of 32 GiB finds no place in the address space of the emulated CPU.
    let device = cell.blocks != Blocks::Device || cell.mib <= 4096;
    // Debian 11 built its kernels without it.
    let five = cell.levels != PagingLevels::Five || !cell.kernel.name.starts_with("5.10-");
    microvm && huge && small && device && five
}

fn pairs(row: &Row) -> impl Iterator<Item = Pair> + use<'_> {
    (0..row.len()).flat_map(move |b| (0..b).map(move |a| [(a, row[a]), (b, row[b])]))
}

fn all_pairs() -> BTreeSet<Pair> {
    let mut all = BTreeSet::new();
    for (b, &size_b) in SIZES.iter().enumerate() {
        for (a, &size_a) in SIZES.iter().enumerate().take(b) {
            for value_a in 0..size_a {
                all.extend((0..size_b).map(|value_b| [(a, value_a), (b, value_b)]));
            }
        }
    }
    all.retain(|&pair| go_together(pair));
    all
}

/// Rows in which every pair of [`all_pairs`] occurs: each begins with a pair that is missing and takes, dimension by
/// dimension, the value that brings the most others. In an order in which every kernel comes once before one comes twice, so
/// that a run that is stopped early has seen them all.
fn rows() -> Vec<Row> {
    let mut missing = all_pairs();
    let mut rows: Vec<Row> = Vec::new();
    while let Some(&first) = missing.first() {
        let mut chosen: Vec<(usize, usize)> = first.to_vec();
        for dimension in
            (0..SIZES.len()).filter(|dimension| first.iter().all(|(taken, _)| taken != dimension))
        {
            let value = (0..SIZES[dimension])
                .filter_map(|value| {
                    let new = chosen.iter().map(|&one| {
                        let mut pair = [one, (dimension, value)];
                        pair.sort_unstable();
                        pair
                    });
                    let new: Vec<Pair> = new.collect();
                    let possible = new.iter().all(|&pair| go_together(pair));
                    possible.then(|| (new.iter().filter(|pair| missing.contains(*pair)).count(), value))
                })
                // Of equals the one that was used the least.
                .max_by_key(|&(count, value)| {
                    let used = rows.iter().filter(|row| row[dimension] == value).count();
                    (count, Reverse((used, value)))
                })
                .map(|(_, value)| value)
                .expect("every two values go together with some third");
            chosen.push((dimension, value));
        }
        let mut row: Row = [0; SIZES.len()];
        for (dimension, value) in chosen {
            row[dimension] = value;
        }
        for pair in pairs(&row) {
            missing.remove(&pair);
        }
        rows.push(row);
    }
    let turn = |index: usize| rows[..index].iter().filter(|row| row[0] == rows[index][0]).count();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&index| turn(index));
    order.into_iter().map(|index| rows[index]).collect()
}

#[test]
fn the_sample_has_every_value_but_kernels_that_ci_does_not_fetch() {
    for (dimension, size) in SIZES.into_iter().enumerate() {
        for value in 0..size {
            if dimension == 0 && !Kernel::SAMPLE.contains(&Kernel::ALL[value]) {
                continue;
            }
            let found = SAMPLE.iter().any(|cell| row(cell)[dimension] == value);
            assert!(found, "no guest of the sample has value {value} of dimension {dimension}");
        }
    }
}

#[test]
fn the_matrix_has_every_pair_of_values_that_go_together() {
    let rows = rows();
    let seen: BTreeSet<Pair> = rows.iter().flat_map(|row| pairs(row).collect::<Vec<_>>()).collect();
    assert_eq!(seen, all_pairs(), "no pair is missing, and none is in it that cannot be");
    assert!(rows.len() < 120, "{} guests are more than an hour", rows.len());
}

/// What identifies a cell, and how it is shown.
fn described(cell: &Cell) -> Value {
    json!({
        "kernel": cell.kernel.name,
        "release": cell.kernel.release,
        "machine": match cell.machine {
            Machine::Q35 => "q35",
            Machine::I440fx => "i440fx",
            Machine::Microvm => "microvm",
        },
        "levels": if cell.levels == PagingLevels::Five { 5 } else { 4 },
        "kaslr": cell.kaslr,
        "pti": cell.pti,
        "vcpus": cell.vcpus,
        "mib": cell.mib,
        "memory": match cell.memory {
            Memory::Memfd => "memfd",
            Memory::Anonymous => "anonymous",
            Memory::File => "file",
            Memory::HugePages => "huge pages",
        },
        "blocks": match cell.blocks {
            Blocks::One => "one",
            Blocks::Numa => "two NUMA nodes",
            Blocks::Dimm => "DIMM plugged in",
            Blocks::Device => "beside a larger device",
        },
    })
}

/// Boots the guest of the cell and says how it went.
fn result(cell: &Cell) -> Value {
    let started = Instant::now();
    let mut line = described(cell);
    line["date"] = json!(jiff::Timestamp::now().strftime("%Y-%m-%d").to_string());
    let files = match kernels::cached_or_fetch(cell.kernel) {
        Ok(files) => files,
        Err(error) => {
            line["result"] = json!("no package");
            line["detail"] = json!(format!("{error:#}"));
            return line;
        }
    };
    line["package"] = json!(files.package);
    let outcome = catch_unwind(AssertUnwindSafe(|| cell.compare()));
    line["seconds"] = json!(started.elapsed().as_secs());
    let (word, detail) = match outcome {
        Ok(Ok(Outcome::Equal(compared))) => {
            line["processes"] = json!(compared.processes);
            line["sockets"] = json!(compared.sockets);
            line["modules"] = json!(compared.modules);
            ("equal", None)
        }
        Ok(Ok(Outcome::Skipped(why))) => ("skipped", Some(why)),
        Ok(Err(error)) => ("failed", Some(format!("{error:#}"))),
        Err(_) => ("failed", Some("the comparison panicked".to_owned())),
    };
    line["result"] = json!(word);
    line["detail"] = json!(detail);
    line
}

/// The cells that a file of results has already, by what identifies them.
fn done(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
#[ignore = "an hour of guests: `cargo xtask matrix` runs it"]
fn every_cell_of_the_matrix_is_compared() {
    let directory = PathBuf::from(std::env::var_os("BIRTHMARK_MATRIX").expect("set by `cargo xtask matrix`"));
    let rows = rows();
    let cells: Vec<Cell> = rows.iter().map(cell).collect();
    let plan = json!({
        "cells": cells.iter().map(described).collect::<Vec<_>>(),
        "pairs": all_pairs().len(),
        "product": SIZES.iter().product::<usize>(),
    });
    fs::write(directory.join("plan.json"), plan.to_string()).unwrap();
    let results = directory.join("results.jsonl");
    let done = done(&results);
    let is_done = |cell: &Cell| {
        let cell = described(cell);
        let same = |line: &&Value| {
            let keys = cell.as_object().unwrap();
            keys.iter().all(|(key, value)| line.get(key) == Some(value))
        };
        done.iter().filter(same).any(|line| line["result"] == "equal")
    };
    let left = Mutex::new(cells.into_iter().filter(|cell| !is_done(cell)));
    let file = Mutex::new(OpenOptions::new().create(true).append(true).open(&results).unwrap());
    // Guests are emulated, one core each.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(cell) = left.lock().unwrap().next() else { return };
                    let line = result(&cell);
                    println!("{line}");
                    writeln!(file.lock().unwrap(), "{line}").unwrap();
                }
            });
        }
    });
}
