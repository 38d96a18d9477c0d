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
use testkit::{Backing, Need};

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
    let subject = Subject::boot_crowd(Backing::Memfd)?;
    let memory = subject.memory();
    let traced = Traced::new(memory);
    let snapshot = subject.look(&traced)?;
    let footprint = traced.footprint();
    anyhow::ensure!(snapshot.problems.is_empty(), "A look with problems: {:?}", snapshot.problems);
    report.note(format!(
        "{} processes, {} sockets, {} modules; {footprint}",
        snapshot.processes.len(),
        snapshot.sockets.len(),
        snapshot.modules.len(),
    ));
    let mut group = criterion.benchmark_group("crowd-mapped");
    group.bench_function("look", |b| b.iter(|| subject.snapshot().expect("a look")));
    footprint.copies(&mut group, memory);
    group.finish();
    let id = |function: &str| format!("crowd-mapped/{function}");
    report.row("snapshot of the crowd, mapped : its pages", &id("look"), Some(&id("pages")), Some(LOOK));
    let lines = format!("snapshot of the crowd, mapped : its {} cache lines", footprint.line_count());
    report.row(&lines, &id("look"), Some(&id("lines")), None);
    criterion.final_summary();
    println!("\n{report}");
    Ok(())
}
