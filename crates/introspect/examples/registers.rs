//! Where the registers of a guest's vCPUs lead, by each way to them. For the hosts of the lab (`crates/cli/tests/it/real_kvm.rs`):
//! `registers TARGET` prints, for `monitor`, `dump` (the notes of a small core dump) and `page` (the page that KVM shares with the
//! VMM), how many vCPUs lead to the kernel that the guest's memory shows, asked twice; or why not.
#![allow(clippy::print_stdout)]

use anyhow::{Context, Result, anyhow, ensure};
use hypervisor::kvm::cmdline::Options;
use hypervisor::kvm::monitor;
use hypervisor::{Error, OpenedVm, Target};
use introspect::Kernel;
use serde_json::{Value, json};
use std::time::Duration;
use vmi_core::{AddressSpace, Budget, Look, Registers};

const PATIENT: Budget = Budget { time: Duration::from_secs(60), bytes: 64 << 30 };

type Ask<'a> = &'a dyn Fn() -> Result<Vec<Registers>, Error>;

fn main() -> Result<()> {
    let target: Target = std::env::args().nth(1).context("Which guest?")?.parse()?;
    let opened = hypervisor::open(&target)?;
    let kernel = introspect::locate(&*opened.memory, PATIENT)?;
    let pid = opened.vm.pid.context("It has no VMM")?;
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let arguments: Vec<String> = arguments
        .split(|&byte| byte == 0)
        .skip(1)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    let options = Options::parse(&arguments);
    let ways: [(&str, Ask<'_>); 3] = [
        ("monitor", &|| opened.registers()),
        ("dump", &|| monitor::registers_by_dump(pid, &options)),
        ("page", &|| opened.registers_by_run_page()),
    ];
    let told = ways.map(|(way, ask)| {
        let count = || -> Result<[usize; 2]> {
            let asked = [patiently(ask)?, patiently(ask)?];
            asked.iter().flatten().try_for_each(|vcpu| leads_to(&opened, &kernel, vcpu))?;
            Ok(asked.map(|registers| registers.len()))
        };
        (way.to_owned(), count().map_or_else(|error| json!(format!("{error:#}")), |counts| json!(counts)))
    });
    println!("{}", Value::Object(told.into_iter().collect()));
    Ok(())
}

/// Asks until the monitor answers in time: on an emulated CPU it may not.
fn patiently(ask: Ask<'_>) -> Result<Vec<Registers>, Error> {
    let mut answers = (0..20).map(|_| ask());
    answers.find(|answer| !matches!(answer, Err(Error::MonitorSilent { .. }))).unwrap_or_else(ask)
}

/// Whether the page tables of a vCPU have the kernel where the guest's memory says that it is.
fn leads_to(opened: &OpenedVm, kernel: &Kernel, vcpu: &Registers) -> Result<()> {
    let look = Look::begin(&*opened.memory, PATIENT)?;
    let banner = kernel.symbol("linux_banner").context("It has no banner")?;
    let expected = AddressSpace::new(&look, kernel.root(), kernel.levels()).translate(banner)?.at;
    let root =
        *vcpu.roots().first().with_context(|| format!("{vcpu:x?} has no page tables of the 64-bit kind"))?;
    let at = AddressSpace::new(&look, root, vcpu.levels()).translate(banner)?.at;
    ensure!(at == expected, "{vcpu:x?} has {banner} at {at}, which is at {expected}");
    let mut text = [0; 14];
    look.read(at, &mut text).map_err(|error| anyhow!("{error:?}"))?;
    ensure!(&text == b"Linux version ", "at {at} is {text:x?}");
    Ok(())
}
