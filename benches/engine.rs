//! Every number of the engine, on two real guests (a memfd that is mapped, and anonymous memory read through
//! `/proc/PID/mem`), each beside a raw copy of the bytes that it reads. Ends with a table of ratios.

#![allow(
    missing_docs,
    clippy::expect_used,
    reason = "a bench that cannot measure has nothing else to do than to stop"
)]
#![expect(clippy::print_stdout, reason = "the table is what a run is for")]

use anyhow::{Context, Result};
use benches::guests::{BUDGET, KERNEL, Subject};
use benches::kernel_tables::KernelTables;
use benches::peak_memory;
use benches::report::{Goal, Report, size};
use benches::traced::{Footprint, Traced};
use criterion::{BatchSize, Criterion};
use guest_profiles::linux::WANTED;
use guest_profiles::{Btf, Kallsyms, Profile, ProfileIdentity};
use hypervisor::Target;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::{Backing, Need};
use vmi_core::{AddressSpace, Gpa, GuestMemory, Gva, Look, PAGE_SIZE, Region};

const fn goal(reach: Duration, aim: Duration) -> Option<Goal> {
    Some(Goal { reach, aim })
}

const SNAPSHOT_MAPPED: Option<Goal> = goal(Duration::from_millis(2), Duration::from_micros(300));
const SNAPSHOT_PER_CALL: Option<Goal> = goal(Duration::from_millis(10), Duration::from_millis(3));
const FIRST_LOOK: Option<Goal> = goal(Duration::from_millis(300), Duration::from_millis(60));
const STORED_LOOK: Option<Goal> = goal(Duration::from_millis(20), Duration::from_millis(5));
const RESUME: Option<Goal> = goal(Duration::from_millis(1), Duration::from_millis(1));
/// Most memory that a process may have while it reads the profile of a guest.
const PEAK_MEMORY: u64 = 10 << 20;

fn main() -> Result<()> {
    if let Some(code) = peak_memory::as_child() {
        return code;
    }
    if !testkit::require(&[Need::Root, Need::Guest(KERNEL)]) {
        return Ok(());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("The workspace has no root")?;
    let home = target.join("target/criterion");
    let mut criterion = Criterion::default()
        .output_directory(&home)
        .sample_size(40)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    let mut report = Report::new(home);
    let birthmark = build_birthmark(target)?;

    for (name, shown, backing, snapshot) in [
        ("mapped", "mapped memfd", Backing::Memfd, SNAPSHOT_MAPPED),
        ("mem", "/proc/PID/mem", Backing::Anonymous, SNAPSHOT_PER_CALL),
    ] {
        let subject = Subject::boot(backing)?;
        looks(&mut criterion, &mut report, &subject, name, shown, snapshot)?;
        first_looks(&mut criterion, &mut report, &subject, name, shown, &birthmark)?;
        reads(&mut criterion, &mut report, &subject, name, shown)?;
        if name == "mapped" {
            profiles(&mut criterion, &mut report, &subject)?;
        }
    }
    criterion.final_summary();
    println!("\n{report}");
    Ok(())
}

/// Looks at a guest whose kernel is known.
fn looks(
    criterion: &mut Criterion,
    report: &mut Report,
    subject: &Subject,
    name: &str,
    shown: &str,
    goal: Option<Goal>,
) -> Result<()> {
    let memory = subject.memory();
    let traced = Traced::new(memory);
    let snapshot = subject.look(&traced)?;
    let footprint = traced.footprint();
    anyhow::ensure!(snapshot.problems.is_empty(), "A look with problems: {:?}", snapshot.problems);
    report.note(format!(
        "{shown}: {} processes, {} sockets, {} modules; {}",
        snapshot.processes.len(),
        snapshot.sockets.len(),
        snapshot.modules.len(),
        footprint
    ));

    let mut group = criterion.benchmark_group(format!("snapshot-{name}"));
    group.bench_function("look", |b| b.iter(|| subject.snapshot().expect("a look")));
    footprint.copies(&mut group, memory);
    group.bench_function("is_current", |b| {
        b.iter(|| assert!(subject.kernel.is_current(memory).expect("a look"), "the guest runs this kernel"));
    });
    group.finish();
    let id = |function: &str| format!("snapshot-{name}/{function}");
    report.row(&format!("snapshot, {shown} : its pages"), &id("look"), Some(&id("pages")), goal);
    let lines = format!("snapshot, {shown} : its {} cache lines", footprint.line_count());
    report.row(&lines, &id("look"), Some(&id("lines")), None);
    report.row(&format!("is_current, {shown}"), &id("is_current"), None, None);
    Ok(())
}

/// Looks at a guest of which nothing is known.
fn first_looks(
    criterion: &mut Criterion,
    report: &mut Report,
    subject: &Subject,
    name: &str,
    shown: &str,
    birthmark: &Path,
) -> Result<()> {
    let memory = subject.memory();
    let traced = Traced::new(memory);
    introspect::locate(&traced, BUDGET)?;
    let footprint = traced.footprint();
    report.note(format!("{shown}: finding the kernel: {}", footprint));
    let pid = subject.guest.pid();

    let mut group = criterion.benchmark_group(format!("first-{name}"));
    group.sample_size(10);
    group.bench_function("open", |b| b.iter(|| hypervisor::open(&Target::Pid(pid)).expect("the guest")));
    group.bench_function("locate", |b| b.iter(|| introspect::locate(memory, BUDGET).expect("the kernel")));
    footprint.copies(&mut group, memory);
    group.bench_function("look", |b| {
        b.iter(|| {
            let opened = hypervisor::open(&Target::Pid(pid)).expect("the guest");
            let kernel = introspect::locate(&*opened.memory, BUDGET).expect("the kernel");
            let options = introspect::Options { budget: BUDGET, ..introspect::Options::default() };
            introspect::snapshot(&*opened.memory, &kernel, &opened.vm, &options).expect("a look")
        });
    });
    let json = subject.kernel.hint(memory).expect("a guest").to_json();
    group.bench_function("resume", |b| {
        b.iter(|| {
            let hint = introspect::Hint::from_json(&json).expect("a hint");
            introspect::Kernel::resume(memory, hint).expect("a guest").expect("the same boot")
        });
    });
    // What an earlier run left behind is nothing, a stored profile, or a hint of this boot.
    let left = TempDirectory::new(name)?;
    let store = guest_profiles::Store::new(vec![left.path.join("profiles")]);
    store.add(subject.kernel.profile())?;
    let stored = stored_look(subject, &store)?;
    report.note(format!("{shown}: `birthmark ps` with a stored profile: {stored}"));
    let (hints, profiles) = (left.path.join("hints"), left.path.join("profiles"));
    let target = format!("pid:{pid}");
    let ps = ["ps", target.as_str(), "--json"];
    let nothing = Path::new("");
    group.bench_function("start", |b| b.iter(|| run(birthmark, &["--version"], nothing, nothing)));
    group.bench_function("process", |b| b.iter(|| run(birthmark, &ps, nothing, nothing)));
    group.bench_function("process-stored", |b| b.iter(|| run(birthmark, &ps, nothing, &profiles)));
    group.bench_function("process-hint", |b| b.iter(|| run(birthmark, &ps, &hints, nothing)));
    group.finish();
    let mut group = criterion.benchmark_group(format!("stored-{name}"));
    stored.copies(&mut group, memory);
    group.finish();
    let start = peak_memory::of(birthmark, &["--version"])?;
    let first = peak_memory::of(birthmark, &ps)?;
    report.note(format!(
        "{shown}: a first look has at most {} of memory, {} of which any start of the program has{}",
        size(first),
        size(start),
        // What is resident of a mapping is the guest's memory, not ours.
        match name {
            "mem" if first <= PEAK_MEMORY => " (at most 10 MiB: reached)",
            "mem" => " (at most 10 MiB: NOT reached)",
            _ => ", the guest's own pages as they are mapped included",
        }
    ));
    let id = |function: &str| format!("first-{name}/{function}");
    report.row(&format!("open a VM, {shown}"), &id("open"), None, None);
    report.row(
        &format!("find the kernel, {shown} : its {} cache lines", footprint.line_count()),
        &id("locate"),
        Some(&id("lines")),
        None,
    );
    report.row(&format!("first look in process, {shown}"), &id("look"), Some(&id("lines")), None);
    report.row(
        &format!("first look, `birthmark ps`, {shown} : `--version`"),
        &id("process"),
        Some(&id("start")),
        FIRST_LOOK,
    );
    report.row(
        &format!("the same with a stored profile, {shown} : `--version`"),
        &id("process-stored"),
        Some(&id("start")),
        STORED_LOOK,
    );
    report.row(
        &format!("the same, {shown} : its {} cache lines", stored.line_count()),
        &id("process-stored"),
        Some(&format!("stored-{name}/lines")),
        None,
    );
    report.row(
        &format!("the same with a hint of this boot, {shown} : `--version`"),
        &id("process-hint"),
        Some(&id("start")),
        None,
    );
    report.row(&format!("the kernel by a hint, {shown}"), &id("resume"), None, RESUME);
    Ok(())
}

/// What `birthmark ps` reads of a guest whose kernel's profile is in the store, done in this process.
fn stored_look(subject: &Subject, store: &guest_profiles::Store) -> Result<Footprint> {
    let traced = Traced::new(subject.memory());
    let profiles = |release: &str| store.of_release(release).profiles;
    let known = || -> Box<dyn Iterator<Item = _>> { Box::new(store.outlines()) };
    let sources =
        introspect::Sources { profiles: &profiles, known: &known, ..introspect::Sources::default() };
    let kernel = introspect::locate_with(&traced, &sources, BUDGET)?;
    let tables = introspect::Tables { processes: true, sockets: false, modules: false, ebpf: false };
    let options = introspect::Options { tables, budget: BUDGET, ..introspect::Options::default() };
    let snapshot = introspect::snapshot(&traced, &kernel, &subject.vm.vm, &options)?;
    anyhow::ensure!(kernel.profile_origin().stored.is_some(), "The stored profile was not used");
    anyhow::ensure!(snapshot.problems.is_empty(), "A look with problems: {:?}", snapshot.problems);
    Ok(traced.footprint())
}

/// Single reads and translations.
fn reads(
    criterion: &mut Criterion,
    report: &mut Report,
    subject: &Subject,
    name: &str,
    shown: &str,
) -> Result<()> {
    let memory = subject.memory();
    memory.begin_look()?;
    // A different page each time, out of all that the guest has touched; the order is a fixed shuffle.
    let pages = shuffled_pages(memory)?;
    let mut at = pages.iter().cycle().copied();
    let mut next = move || at.next().unwrap_or(Gpa(0));
    let mut page = vec![0; 4096];
    let heap: Vec<Box<[u8]>> = (0..pages.len()).map(|n| vec![n.to_le_bytes()[0]; 4096].into()).collect();
    let mut turn = 0;
    let mut step = move |len: usize| {
        turn = (turn + 7919) % len;
        turn
    };

    let mut group = criterion.benchmark_group(format!("read-{name}"));
    group.bench_function("8", |b| {
        let mut word = [0; 8];
        b.iter(|| memory.read(black_box(next()), &mut word).expect("memory"));
    });
    group.bench_function("8-heap", |b| {
        let mut word = [0; 8];
        b.iter(|| word.copy_from_slice(black_box(&heap[step(heap.len())][..8])));
    });
    group.bench_function("4096", |b| b.iter(|| memory.read(black_box(next()), &mut page).expect("memory")));
    group.bench_function("4096-heap", |b| {
        b.iter(|| page.copy_from_slice(black_box(&heap[step(heap.len())])));
    });

    let look = Look::begin(memory, BUDGET)?;
    let space = || AddressSpace::new(&look, subject.kernel.root(), subject.kernel.levels());
    let task = subject.kernel.symbol("init_task").context("No init_task")?;
    let module = Gva(subject.snapshot()?.modules.first().context("No module")?.module.0);
    let warm = space();
    warm.translate(task)?;
    group.bench_function("translate-cached", |b| b.iter(|| warm.translate(black_box(task)).expect("mapped")));
    for (kind, at) in [("translate-large", task), ("translate-small", module)] {
        group.bench_function(kind, |b| {
            b.iter_batched_ref(
                space,
                |fresh| fresh.translate(black_box(at)).expect("mapped"),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    let id = |function: &str| format!("read-{name}/{function}");
    report.row(&format!("8 bytes, {shown} : of the heap"), &id("8"), Some(&id("8-heap")), None);
    report.row(&format!("4 KiB, {shown} : of the heap"), &id("4096"), Some(&id("4096-heap")), None);
    report.row(&format!("translation, cached, {shown}"), &id("translate-cached"), None, None);
    report.row(&format!("translation, 2 MiB page, {shown}"), &id("translate-large"), Some(&id("8")), None);
    report.row(&format!("translation, 4 KiB page, {shown}"), &id("translate-small"), Some(&id("8")), None);
    Ok(())
}

/// What is read of a kernel once: type information and symbols.
fn profiles(criterion: &mut Criterion, report: &mut Report, subject: &Subject) -> Result<()> {
    let tables = KernelTables::read(subject)?;
    let symbols = Kallsyms::new(tables.kallsyms(), tables.stext)?.resolve(WANTED.symbols)?;
    let btf = Btf::parse(&tables.btf)?;
    let names = tables.kallsyms_bytes();
    report.note(format!(
        "type information: {} types in {}; symbol table: {} symbols in {}",
        btf.type_count(),
        size(tables.btf.len() as u64),
        tables.kallsyms().num_syms,
        size(names.len() as u64)
    ));
    let mut group = criterion.benchmark_group("profile");
    let mut buffer = vec![0; tables.btf.len().max(names.len())];
    group.bench_function("btf-copy", |b| {
        b.iter(|| buffer[..tables.btf.len()].copy_from_slice(black_box(&tables.btf)));
    });
    group.bench_function("btf-parse", |b| {
        b.iter(|| Btf::parse(black_box(&tables.btf)).expect("BTF").type_count())
    });
    group.bench_function("build", |b| {
        let identity = ProfileIdentity { release: subject.kernel.release().to_owned(), build_id: None };
        b.iter_batched(
            || (symbols.clone(), identity.clone()),
            |(symbols, identity)| Profile::from_btf(&btf, &WANTED, symbols, identity).expect("a profile"),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("kallsyms-copy", |b| {
        b.iter(|| buffer[..names.len()].copy_from_slice(black_box(&names)))
    });
    group.bench_function("kallsyms", |b| {
        b.iter(|| {
            let kallsyms = Kallsyms::new(tables.kallsyms(), tables.stext).expect("a symbol table");
            kallsyms.resolve(WANTED.symbols).expect("symbols")
        });
    });
    group.finish();
    report.row("type information: parse", "profile/btf-parse", Some("profile/btf-copy"), None);
    report.row("type information: profile", "profile/build", Some("profile/btf-copy"), None);
    report.row("symbol table: resolve", "profile/kallsyms", Some("profile/kallsyms-copy"), None);
    Ok(())
}

fn shuffled_pages(memory: &dyn GuestMemory) -> Result<Vec<Gpa>> {
    let mut pages = Vec::new();
    for region in memory.regions() {
        for Region { start, len } in memory.populated(*region)? {
            pages.extend((0..len / PAGE_SIZE).filter_map(|number| start.element(number, PAGE_SIZE)));
        }
    }
    let count = pages.len();
    // Steps by a prime visit every page once when it does not divide their number.
    Ok((0..count).map(|number| pages[number * 15_485_863 % count]).collect())
}

/// The command as users have it. Made here, so that what is timed is never an old one.
fn build_birthmark(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "cli", "--bin", "birthmark"])
        .current_dir(root)
        .status()?;
    anyhow::ensure!(status.success(), "`birthmark` could not be built");
    Ok(root.join("target/release/birthmark"))
}

/// Runs the command with these directories for hints and stored profiles; empty: none.
fn run(program: &Path, arguments: &[&str], hints: &Path, profiles: &Path) {
    let status = Command::new(program)
        .args(arguments)
        .env("BIRTHMARK_HINTS", hints)
        .env("BIRTHMARK_PROFILES", profiles)
        .stdout(Stdio::null())
        .status()
        .expect("a program");
    assert!(status.success(), "{} {arguments:?} ended with {status}", program.display());
}

/// A directory of this run, removed with it.
struct TempDirectory {
    path: PathBuf,
}

impl TempDirectory {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("birthmark-bench-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }
}

impl Drop for TempDirectory {
    fn drop(&mut self) {
        // Nothing depends on its being gone.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
