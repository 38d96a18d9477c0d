//! A small VMM on the machine's own KVM, which lays its guest's memory out as one of the VMMs that the lab cannot run does: under that
//! one's name, with its hole, its kind of mappings and the memory map that it gives its guest (`bin/birthmark-test-vmm`).

use crate::{agent, lab};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const NAME: &str = "birthmark-test-vmm";

/// How the two parts of RAM are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// Each an anonymous mapping.
    Anonymous,
    /// Anonymous and next to each other, the upper part first: the kernel makes one mapping of them.
    Adjacent,
    /// One memfd, one behind the other.
    OneFile,
    /// A memfd each.
    FilePerPart,
    /// One anonymous mapping in which the hole is left out.
    WithHole,
}

/// Where the guest finds its memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapForm {
    /// The e820 table of Linux's zero page.
    ZeroPage,
    /// `struct hvm_start_info`.
    Pvh,
    /// The table of kvmtool's BIOS.
    Kvmtool,
    /// Nowhere.
    None,
}

/// A VM to be made.
#[derive(Clone, Copy, Debug)]
pub struct VmmSpec {
    /// What the program is called.
    pub exe: &'static str,
    /// RAM below and from 4 GiB on, bytes.
    pub ram: (u64, u64),
    /// How it is mapped.
    pub mapped: Mapped,
    /// How the guest is told of it.
    pub form: MapForm,
    /// What the guest is told, where that is not the truth.
    pub told: Option<(u64, u64)>,
    /// A second mapping is made that begins with the same map.
    pub twice: bool,
    /// The memory is the guest's alone (guest_memfd).
    pub private: bool,
    /// The guest goes on after its first byte, and comes out to the VMM about once a millisecond.
    pub runs_on: bool,
}

impl VmmSpec {
    /// A VMM of this name that does all as it should.
    #[must_use]
    pub fn new(exe: &'static str, ram: (u64, u64), mapped: Mapped, form: MapForm) -> Self {
        Self { exe, ram, mapped, form, told: None, twice: false, private: false, runs_on: false }
    }
}

/// A running VMM. Its guest has run and halted; it ends when this is dropped, or this process ends.
#[derive(Debug)]
pub struct Vmm {
    child: Child,
    _directory: TempDir,
}

/// Builds the program. For set-up.
pub(crate) fn prepare() -> Result<()> {
    agent::program(NAME).map(drop)
}

impl Vmm {
    /// Whether this machine has a KVM of its own to run it on. One without is no fault.
    #[must_use]
    pub fn can_start() -> bool {
        let can = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
        if !can {
            crate::skipped("/dev/kvm cannot be opened");
        }
        can
    }

    /// Starts it and waits until its guest has run.
    pub fn start(spec: &VmmSpec) -> Result<Self> {
        let program = agent::program(NAME)?;
        let directory = tempfile::tempdir_in(lab::directory())?;
        let exe = directory.path().join(spec.exe);
        fs::copy(program, &exe)?;
        let told = spec.told.unwrap_or(spec.ram);
        let mut child = Command::new(&exe)
            .args([spec.ram.0, spec.ram.1, told.0, told.1].map(|size| size.to_string()))
            .args([format!("{:?}", spec.mapped), format!("{:?}", spec.form)])
            .args([spec.twice, spec.private, spec.runs_on].map(|on| on.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("Cannot start {}", exe.display()))?;
        let mut line = String::new();
        let output = child.stdout.take().context("It has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let vmm = Self { child, _directory: directory };
        if line.trim() != "ready" {
            bail!("The VMM said `{line}`, not that it is ready");
        }
        Ok(vmm)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Guest-physical addresses of the numbers that it wrote into RAM of these sizes, each its own address with every bit turned.
    #[must_use]
    pub fn written((low, high): (u64, u64)) -> Vec<u64> {
        const STEP: usize = 16 << 20;
        let parts = [(1 << 20, low), (1 << 32, (1 << 32) + high)];
        let pages =
            |(start, end): (u64, u64)| (start..end).step_by(STEP).chain((end > start).then(|| end - 4096));
        parts.into_iter().flat_map(pages).map(|page| page + 8).collect()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the guest's vCPU has in CR3, and as the base of its interrupt descriptors.
pub const CR3_AND_IDT: (u64, u64) = (0x7000, 0x5678);

/// Where the guest itself writes [`WRITTEN_BY_GUEST`].
pub const GUEST_WRITES_AT: u64 = 0x5000;
/// What it writes.
pub const WRITTEN_BY_GUEST: u8 = 0x42;
