//! What judging costs once a snapshot is there: the comparison of a big guest with a big certificate, and the verification of
//! certificates. Needs no guest. Ends with the same table as the engine's.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a bench that cannot measure has nothing else to do than to stop"
)]
#![expect(clippy::print_stdout, reason = "the table is what a run is for")]

use anyhow::{Context, Result};
use attest::{Draft, LearnOptions, Learner, PrivateKey, Validity, VerifyOptions, compare, verify};
use benches::report::{Goal, Report};
use criterion::{BatchSize, Criterion};
use facts::{Process, Snapshot, Socket};
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

/// The small web server of attest's own tests.
const WEB: &str = include_str!("../crates/attest/tests/it/data/web.json");
/// Processes of the big guest, and the programs and listeners among them: each is an entry of the certificate.
const PROCESSES: u32 = 5_000;
const PROGRAMS: u32 = 350;
const LISTENERS: u16 = 150;

/// Views of processes of a kernel of today.
const VIEWS: [&str; 3] = ["task_list", "pid_table", "cgroup"];

const COMPARE: Option<Goal> = Some(Goal { reach: Duration::from_millis(1), aim: Duration::from_micros(500) });
const VERIFY: Option<Goal> =
    Some(Goal { reach: Duration::from_micros(200), aim: Duration::from_micros(100) });

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("The workspace has no root")?;
    let home = root.join("target/criterion");
    let mut criterion = Criterion::default().output_directory(&home).configure_from_args();
    let mut report = Report::new(home);
    let small: Snapshot = serde_json::from_str(WEB)?;
    let big = big(&small);
    comparison(&mut criterion, &mut report, "small", &small)?;
    comparison(&mut criterion, &mut report, "big", &big)?;
    criterion.final_summary();
    println!("{report}");
    Ok(())
}

/// The same host with many programs, each running many times, and many listeners.
fn big(small: &Snapshot) -> Snapshot {
    let mut big = small.clone();
    let of = |name: &str| small.processes.iter().find(|process| process.name == name).unwrap().clone();
    let (daemon, worker) = (of("sshd"), of("nginx"));
    for pid in 1_000..1_000 + PROCESSES - u32::try_from(small.processes.len()).unwrap() {
        let program = pid % PROGRAMS;
        let model = if program.is_multiple_of(3) { &daemon } else { &worker };
        let exe = format!("/opt/services/program-{program}/bin/program-{program}");
        big.processes.push(Process {
            pid,
            name: format!("program-{program}").into(),
            args: Some(vec![exe.clone(), "--config".to_owned(), format!("/etc/program-{program}.conf")]),
            exe: Some(exe.into()),
            ..model.clone()
        });
    }
    let listener = small.sockets.iter().find(|socket| socket.local_port == Some(443)).unwrap();
    for port in 0..LISTENERS {
        let (local_port, processes) = (Some(10_000 + port), vec![1_000 + u32::from(port)].into());
        big.sockets.list().push(Socket { local_port, processes, ..listener.clone() });
    }
    // As the tables work leaves them: nearly every process is in every view, and that is looked at too.
    big.views.processes = VIEWS.map(facts::Text::from).to_vec();
    for process in &mut big.processes {
        process.views = big.views.processes.clone().into();
    }
    big
}

fn learned(good: &Snapshot) -> Result<Draft> {
    let validity =
        Validity { not_before: "2026-11-01T00:00:00Z".parse()?, not_after: "2027-11-01T00:00:00Z".parse()? };
    let options = LearnOptions {
        service: "bench".to_owned(),
        serial: 1,
        validity,
        selector: None,
        image_sha256: None,
        accept_unknown: false,
        flows: false,
    };
    let mut learner = Learner::new(&options);
    learner.look(good)?;
    Ok(learner.draft(&options)?)
}

fn comparison(criterion: &mut Criterion, report: &mut Report, name: &str, good: &Snapshot) -> Result<()> {
    let draft = learned(good)?;
    let certificate = &draft.statement.predicate;
    let entries = certificate.processes.len() + certificate.listeners.len() + certificate.modules.len();
    let mut drifted = good.clone();
    for process in drifted.processes.iter_mut().rev().take(10) {
        process.exe = Some("/tmp/rogue".into());
        process.name = "rogue".into();
    }
    assert!(compare(certificate, good).is_empty() && !compare(certificate, &drifted).is_empty());
    let key = PrivateKey::generate()?;
    let envelope = draft.statement.sign(&key)?;
    let (trusted, options) = ([key.public()], VerifyOptions::default());
    let now = "2026-12-01T00:00:00Z".parse()?;

    let mut group = criterion.benchmark_group(format!("certificate-{name}"));
    group.bench_function("compare", |b| b.iter(|| compare(black_box(certificate), black_box(good))));
    group.bench_function("compare-drifted", |b| b.iter(|| compare(certificate, black_box(&drifted))));
    group.bench_function("copy", |b| {
        b.iter_batched(|| (), |()| black_box(good).clone(), BatchSize::PerIteration)
    });
    group.bench_function("verify", |b| {
        b.iter(|| verify(black_box(&envelope), &trusted, now, &options).expect("it is good"));
    });
    group.bench_function("parse", |b| {
        let body = draft.statement.to_json().expect("it is JSON");
        b.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(&body)));
    });
    group.finish();

    let (processes, sockets) = (good.processes.len(), good.sockets.len());
    let what = format!("{processes} processes, {sockets} sockets, {entries} entries");
    let id = |bench: &str| format!("certificate-{name}/{bench}");
    let (compare_goal, verify_goal) = if name == "big" { (COMPARE, None) } else { (None, VERIFY) };
    report.row(&format!("compare: {what}"), &id("compare"), Some(&id("copy")), compare_goal);
    report.row(
        &format!("the same, drifted: {what}"),
        &id("compare-drifted"),
        Some(&id("copy")),
        compare_goal,
    );
    let size = format!("verify: {entries} entries, {} KiB", envelope.len() / 1024);
    report.row(&size, &id("verify"), Some(&id("parse")), verify_goal);
    Ok(())
}
