//! Reads the slots out of the running kernel: by its types, with its leave.

use super::program::{Places, Program};
use super::types::{Named, Types};
use super::walk::{self, Offsets};
use super::{Slot, SlotsUnusable};
use crate::kvm::process::{descriptors, proc_path};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

/// What is known of the running kernel; it stays the same as long as that runs.
#[derive(Debug)]
struct HostKernel {
    places: Places,
    offsets: Offsets,
}

const TYPES: &str = "/sys/kernel/btf";
/// The pid namespace that the kernel starts with (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The slots of the VM that a process has.
pub(super) fn read(pid: u32) -> Result<Vec<Slot>, SlotsUnusable> {
    let vms = vms(pid)?;
    let kernel = host_kernel()?;
    let mut found: Vec<(u64, Program)> = Vec::new();
    for &descriptor in &vms {
        let program = Program::load(&kernel.places, pid, descriptor)?;
        let kvm = program.object()?;
        // A descriptor and its copy are one VM.
        if found.iter().all(|(known, _)| *known != kvm) {
            found.push((kvm, program));
        }
    }
    let (kvm, program) = match (found.pop(), found.len()) {
        (Some(one), 0) => one,
        (Some(_), others) => return Err(SlotsUnusable::SeveralVms { count: others.saturating_add(1) }),
        (None, _) => return Err(SlotsUnusable::NoVm),
    };
    let slots = walk::slots(&kernel.offsets, kvm, &|address, out| program.read(address, out))?;
    // The number was a VM's before, and its file the same one all the time, if both are so still.
    if program.object()? != kvm || self::vms(pid)? != vms {
        return Err(SlotsUnusable::Gone);
    }
    Ok(slots)
}

/// Whether slots could be read of a VM here: all but reading them is tried.
pub(super) fn check() -> Result<(), SlotsUnusable> {
    let kernel = host_kernel()?;
    Program::load(&kernel.places, std::process::id(), 0).map(drop)
}

/// The descriptors of a process that are VMs of KVM.
fn vms(pid: u32) -> Result<Vec<u32>, SlotsUnusable> {
    let all = descriptors(pid).map_err(|_| SlotsUnusable::NoVm)?;
    let vms: Vec<u32> = all
        .into_iter()
        .filter(|descriptor| descriptor.link == Path::new("anon_inode:kvm-vm"))
        .map(|descriptor| descriptor.number)
        .collect();
    if vms.is_empty() { Err(SlotsUnusable::NoVm) } else { Ok(vms) }
}

/// Asked once: reading all types takes some milliseconds.
fn host_kernel() -> Result<&'static HostKernel, SlotsUnusable> {
    static KERNEL: OnceLock<HostKernel> = OnceLock::new();
    if let Some(kernel) = KERNEL.get() {
        return Ok(kernel);
    }
    let namespace = proc_path(std::process::id(), "ns/pid");
    if fs::read_link(namespace).is_ok_and(|namespace| namespace != Path::new(FIRST_PID_NAMESPACE)) {
        return Err(SlotsUnusable::Namespace);
    }
    let file = |name: &str| {
        let path = Path::new(TYPES).join(name);
        fs::read(&path).map_err(|source| SlotsUnusable::NoTypes { path, source })
    };
    let kernel = file("vmlinux")?;
    // There is none where KVM is not a module.
    let module = match file("kvm") {
        Err(SlotsUnusable::NoTypes { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        module => Some(module?),
    };
    let wanted: Vec<Named> = Places::TYPES.into_iter().chain(Offsets::TYPES).collect();
    let types = Types::parse(&kernel, module.as_deref(), &wanted).ok_or(SlotsUnusable::Types)?;
    let kernel = HostKernel {
        places: Places::of(&types).ok_or(SlotsUnusable::Types)?,
        offsets: Offsets::of(&types).ok_or(SlotsUnusable::Types)?,
    };
    Ok(KERNEL.get_or_init(|| kernel))
}
