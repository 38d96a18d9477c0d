//! Reads per second and a whole snapshot on each way to guest memory, beside a raw copy in the same run: mapped shared memory and
//! `/proc/PID/mem` on this machine, and all of them on the lab's hosts with a real KVM and a real Xen.
//!
//! Those hosts are emulated, so the program runs itself inside them (`--measure TARGET`), and only ratios of one run mean anything there.

#![expect(clippy::print_stdout, reason = "the table is what a run is for")]

use anyhow::{Context, Result};
use benches::guests::{BUDGET, KERNEL};
use benches::traced::{Traced, bytes, copy};
use hypervisor::{OpenedVm, Target};
use introspect::{Kernel, Options};
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::host::{DomainKind, Host, InnerBacking, KvmHost, XenHost};
use testkit::{Backing, Guest, GuestSpec};
use vmi_core::{AddressSpace, Gpa, Gva, Look, PAGE_SIZE};

/// Where it is put in the lab's hosts.
const INSIDE: &str = "lab/backends";
/// Addresses that are read in turn, in as many pages.
const SPOTS: usize = 512;
/// Each number is the median of at least so many, taken for at least so long.
const LEAST: usize = 7;
const LONG: Duration = Duration::from_millis(1500);

/// What was measured of one guest, in nanoseconds where nothing else is said.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    processes: usize,
    sockets: usize,
    small: f64,
    page: f64,
    heap_small: f64,
    heap_page: f64,
    snapshot: f64,
    /// The cache lines that a snapshot reads, read through the same memory, and bytes of them.
    lines: f64,
    line_bytes: u64,
    /// As many bytes copied from memory of our own.
    heap_lines: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    if let [flag, target] = arguments.as_slice()
        && flag == "--measure"
    {
        println!("{}", serde_json::to_string(&measure(target)?)?);
        return Ok(());
    }
    let mut rows = Vec::new();
    for (shown, backing) in [("mapped", Backing::Memfd), ("`/proc/PID/mem`", Backing::Anonymous)] {
        let guest = Guest::boot(GuestSpec::new(KERNEL).memory_mib(512).backing(backing))?;
        let target = format!("pid:{}", guest.pid());
        let output = Command::new(std::env::current_exe()?).args(["--measure", &target]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let measured = serde_json::from_str(&text);
        let said = String::from_utf8_lossy(&output.stderr);
        rows.push(("this machine", shown, measured.with_context(|| format!("{text}{said}"))?));
    }
    let own = [(INSIDE, std::env::current_exe()?)];
    kvm(&own, &mut rows)?;
    xen(&own, &mut rows)?;
    print(&rows);
    Ok(())
}

type Row = (&'static str, &'static str, Measured);

fn kvm(own: &[(&str, PathBuf)], rows: &mut Vec<Row>) -> Result<()> {
    let host = KvmHost::boot_with(0, own)?;
    let guests = [
        (
            "mapped",
            host.start_qemu("memfd", "7b0e7b5e-0000-4000-8000-000000000001", InnerBacking::Memfd, None)?,
        ),
        (
            "`/proc/PID/mem`",
            host.start_qemu("anon", "7b0e7b5e-0000-4000-8000-000000000002", InnerBacking::Anonymous, None)?,
        ),
    ];
    for (shown, guest) in &guests {
        guest.wait()?;
        rows.push(("real KVM, emulated", shown, inside(&host, guest.name())?));
    }
    Ok(())
}

fn xen(own: &[(&str, PathBuf)], rows: &mut Vec<Row>) -> Result<()> {
    let host = XenHost::boot_with(own)?;
    let guests = [("foreign map, PVH", "pvh", DomainKind::Pvh), ("foreign map, PV", "pv", DomainKind::Pv)];
    for (number, (shown, name, kind)) in (0..).zip(guests) {
        let uuid = format!("7b0e7b5e-0000-4000-8000-{number:012}");
        let guest = host.start_domain(name, &uuid, kind, None)?;
        host.wait([&guest])?;
        rows.push(("real Xen, emulated", shown, inside(&host, name)?));
    }
    Ok(())
}

fn inside(host: &Host, target: &str) -> Result<Measured> {
    host.json(&format!("/{INSIDE} --measure {target}"))
}

fn measure(target: &str) -> Result<Measured> {
    let target: Target = target.parse()?;
    let vm = hypervisor::open(&target)?;
    let memory = &*vm.memory;
    let kernel = introspect::locate_with(
        memory,
        &introspect::Sources {
            registers: &|| vm.registers().unwrap_or_default(),
            ..introspect::Sources::default()
        },
        BUDGET,
    )?;
    if vm.vm.domid.is_some() {
        registers_hold(&vm)?;
    }
    let traced = Traced::new(memory);
    let snapshot = look(&traced, &kernel, &vm)?;
    anyhow::ensure!(snapshot.problems.is_empty(), "A look with problems: {:?}", snapshot.problems);
    let footprint = traced.footprint();

    // Pages that a look reads exist, and are all over the guest.
    let pages: Vec<Gpa> = footprint
        .pages
        .iter()
        .flat_map(|run| {
            (run.start.0..run.end().0).step_by(usize::try_from(PAGE_SIZE).unwrap_or(4096)).map(Gpa)
        })
        .collect();
    let spots: Vec<Gpa> = pages.iter().step_by(pages.len().div_ceil(SPOTS).max(1)).copied().collect();
    memory.begin_look()?;
    let mut page = vec![0; usize::try_from(PAGE_SIZE)?];
    let each = |total: f64| total / spots.len() as f64;
    let small = each(median(|| {
        let mut word = [0; 8];
        spots.iter().try_for_each(|spot| memory.read(Gpa(spot.0 + 64), &mut word))?;
        black_box(word);
        Ok(())
    })?);
    let whole = each(median(|| Ok(spots.iter().try_for_each(|spot| memory.read(*spot, &mut page))?))?);
    let own = vec![1_u8; spots.len() * page.len()];
    let heap_small = each(median(|| {
        for spot in own.chunks_exact(page.len()) {
            let mut word = [0; 8];
            word.copy_from_slice(black_box(&spot[64..72]));
            black_box(word);
        }
        Ok(())
    })?);
    let heap_page = each(median(|| {
        for spot in own.chunks_exact(page.len()) {
            page.copy_from_slice(black_box(spot));
            black_box(&page);
        }
        Ok(())
    })?);
    let mut buffer = Vec::new();
    let lines = median(|| {
        memory.begin_look()?;
        Ok(copy(memory, &footprint.lines, &mut buffer)?)
    })?;
    let line_bytes = bytes(&footprint.lines);
    let own = vec![1_u8; usize::try_from(line_bytes)?];
    let mut out = vec![0; own.len()];
    let heap_lines = median(|| {
        out.copy_from_slice(black_box(&own));
        black_box(&out);
        Ok(())
    })?;
    Ok(Measured {
        processes: snapshot.processes.len(),
        sockets: snapshot.sockets.len(),
        small,
        page: whole,
        heap_small,
        heap_page,
        snapshot: median(|| look(memory, &kernel, &vm).map(drop))?,
        lines,
        line_bytes,
        heap_lines,
    })
}

/// Whether the registers that the hypervisor tells are those of this guest: through their page tables, its interrupt table is there (a
/// paravirtual guest has none of its own, and its kernel was found by its page tables already).
fn registers_hold(vm: &OpenedVm) -> Result<()> {
    let lookup = Look::begin(&*vm.memory, BUDGET)?;
    let registers = vm.registers()?;
    anyhow::ensure!(!registers.is_empty(), "{} has no vCPU", vm.vm.name);
    for one in registers.iter().filter(|one| one.idt != Gva(0)) {
        let translated = one
            .roots()
            .iter()
            .any(|root| AddressSpace::new(&lookup, *root, one.levels()).translate(one.idt).is_ok());
        anyhow::ensure!(one.has_paging() && translated, "{}: {one:?}", vm.vm.name);
    }
    Ok(())
}

fn look(memory: &dyn vmi_core::GuestMemory, kernel: &Kernel, vm: &OpenedVm) -> Result<facts::Snapshot> {
    let options = Options { budget: BUDGET, ..Options::default() };
    Ok(introspect::snapshot(memory, kernel, &vm.vm, &options)?)
}

/// Nanoseconds that `act` takes.
fn median(mut act: impl FnMut() -> Result<()>) -> Result<f64> {
    act()?;
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < LEAST || began.elapsed() < LONG {
        let started = Instant::now();
        act()?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2].as_nanos() as f64)
}

fn print(rows: &[Row]) {
    println!(
        "| host | memory | 8-byte reads a second | to a copy | 4 KiB reads a second | to a copy | snapshot | its cache lines, read | \
         ratio | processes, sockets |\n|{}",
        " --- |".repeat(10)
    );
    for (host, shown, one) in rows {
        println!(
            "| {host} | {shown} | {:.0} | {:.1} | {:.0} | {:.1} | {:.2} ms | {:.2} ms ({} KiB; heap {:.3} ms) | {:.1} | {}, {} |",
            1e9 / one.small,
            one.small / one.heap_small,
            1e9 / one.page,
            one.page / one.heap_page,
            one.snapshot / 1e6,
            one.lines / 1e6,
            one.line_bytes >> 10,
            one.heap_lines / 1e6,
            one.snapshot / one.lines,
            one.processes,
            one.sockets,
        );
    }
}
