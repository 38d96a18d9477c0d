//! A look at a guest with 5,000 processes and 20,000 sockets, beside a raw copy of the bytes that it reads.

#![allow(
    missing_docs,
    clippy::expect_used,
    reason = "a bench that cannot measure has nothing else to do than to stop"
)]
#![expect(clippy::print_stdout, reason = "the table is what a run is for")]

use anyhow::{Context, Result};
use benches::guests::{KERNEL, Subject};
use benches::report::{Goal, Report};
use benches::traced::Traced;
use criterion::Criterion;
use std::path::Path;
use std::time::Duration;
use testkit::{Backing, HugePages, Need, crowd};

/// What issue 4 asks for.
const LOOK: Goal = Goal { reach: Duration::from_millis(30), aim: Duration::from_millis(30) };

fn main() -> Result<()> {
    if !testkit::require(&[Need::Root, Need::Guest(KERNEL)]) {
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("The workspace has no root")?;
    let home = root.join("target/criterion");
    let mut criterion = Criterion::default()
        .output_directory(&home)
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    let mut report = Report::new(home);
    for (name, backing) in [("crowd-mapped", Backing::Memfd), ("crowd-huge-pages", Backing::HugePages)] {
        // Two guests would take each other's processor time.
        look(name, backing, &mut criterion, &mut report)?;
    }
    criterion.final_summary();
    println!("\n{report}");
    Ok(())
}

/// The rows of the crowd in memory of one kind.
fn look(name: &str, backing: Backing, criterion: &mut Criterion, report: &mut Report) -> Result<()> {
    let pages = if backing == Backing::HugePages { Some(HugePages::reserve(crowd::MIB)?) } else { None };
    let subject = Subject::boot_crowd(backing)?;
    let memory = subject.memory();
    let traced = Traced::new(memory);
    let snapshot = subject.look(&traced)?;
    let footprint = traced.footprint();
    anyhow::ensure!(snapshot.problems.is_empty(), "A look with problems: {:?}", snapshot.problems);
    report.note(format!(
        "{name}: {} processes, {} sockets, {} modules; {footprint}",
        snapshot.processes.len(),
        snapshot.sockets.len(),
        snapshot.modules.len(),
    ));
    let mut group = criterion.benchmark_group(name);
    group.bench_function("look", |b| b.iter(|| subject.snapshot().expect("a look")));
    footprint.copies(&mut group, memory);
    group.finish();
    let id = |function: &str| format!("{name}/{function}");
    report.row(&format!("snapshot, {name} : its pages"), &id("look"), Some(&id("pages")), Some(LOOK));
    let lines = format!("snapshot, {name} : its {} cache lines", footprint.line_count());
    report.row(&lines, &id("look"), Some(&id("lines")), None);
    drop(subject);
    drop(pages);
    Ok(())
}
