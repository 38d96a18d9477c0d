//! The memory slots of a VM as the host's kernel has them: which guest-physical addresses are at which addresses of the VMM. Exact,
//! of every VMM alike, and nothing of the guest's own word in it.
//!
//! A small eBPF program copies them out of kernel memory (`program`); where they are is told by the kernel's own types (`types`,
//! `walk`). It takes CAP_BPF and CAP_PERFMON (root has both), a kernel from 5.8 on with BTF, and no lockdown. Without any of these
//! there are no slots, and a reason.

mod program;
mod types;
mod walk;

use super::process::{descriptors, proc_path};
use program::{Places, Program};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use types::Types;
use vmi_core::Region;
use walk::Offsets;

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Guest-physical addresses.
    pub(crate) guest: Region,
    /// The first one's address in the VMM.
    pub(crate) address: u64,
    /// The guest cannot write to it: firmware.
    pub(crate) read_only: bool,
    /// What the guest sees may be in a guest_memfd instead.
    pub(crate) private: bool,
}

/// Why the kernel's slots cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// Not on this kernel, or not for this user.
    #[error("{path} cannot be read")]
    NoTypes {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Other types than those that are known.
    #[error("the kernel's types do not say where slots are")]
    Types,
    /// The numbers of processes are other ones in the kernel.
    #[error("this program runs in a pid namespace of its own")]
    Namespace,
    /// No capability, a lockdown, or a verifier that thinks otherwise.
    #[error("the kernel refused {step}")]
    Refused {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    /// Emulated, or gone.
    #[error("the process has no VM of KVM")]
    NoVm,
    /// Not one VM but several.
    #[error("the process has {count} VMs")]
    SeveralVms { count: usize },
    /// The process, its descriptor, or the memory is no more.
    #[error("what was read is gone")]
    Gone,
    /// Numbers that cannot be.
    #[error("what was read are no slots")]
    Nonsense,
    /// Never the same twice.
    #[error("the slots did not stop changing")]
    Changing,
}

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
pub(crate) fn read(pid: u32) -> Result<Vec<Slot>, Unusable> {
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
        (Some(_), others) => return Err(Unusable::SeveralVms { count: others.saturating_add(1) }),
        (None, _) => return Err(Unusable::NoVm),
    };
    let slots = walk::slots(&kernel.offsets, kvm, &|address, out| program.read(address, out))?;
    // The number was a VM's before, and its file the same one all the time, if both are so still.
    if program.object()? != kvm || self::vms(pid)? != vms {
        return Err(Unusable::Gone);
    }
    Ok(slots)
}

/// Whether slots could be read of a VM here: all but reading them is tried.
pub(crate) fn check() -> Result<(), Unusable> {
    let kernel = host_kernel()?;
    Program::load(&kernel.places, std::process::id(), 0).map(drop)
}

/// The descriptors of a process that are VMs of KVM.
fn vms(pid: u32) -> Result<Vec<u32>, Unusable> {
    let all = descriptors(pid).map_err(|_| Unusable::NoVm)?;
    let vms: Vec<u32> = all
        .into_iter()
        .filter(|descriptor| descriptor.link == Path::new("anon_inode:kvm-vm"))
        .map(|descriptor| descriptor.number)
        .collect();
    if vms.is_empty() { Err(Unusable::NoVm) } else { Ok(vms) }
}

/// Asked once: reading all types takes some milliseconds.
fn host_kernel() -> Result<&'static HostKernel, Unusable> {
    static KERNEL: OnceLock<HostKernel> = OnceLock::new();
    if let Some(kernel) = KERNEL.get() {
        return Ok(kernel);
    }
    let namespace = proc_path(std::process::id(), "ns/pid");
    if fs::read_link(namespace).is_ok_and(|namespace| namespace != Path::new(FIRST_PID_NAMESPACE)) {
        return Err(Unusable::Namespace);
    }
    let file = |name: &str| {
        let path = Path::new(TYPES).join(name);
        fs::read(&path).map_err(|source| Unusable::NoTypes { path, source })
    };
    let kernel = file("vmlinux")?;
    // There is none where KVM is not a module.
    let module = match file("kvm") {
        Err(Unusable::NoTypes { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        module => Some(module?),
    };
    let types = Types::parse(&kernel, module.as_deref()).ok_or(Unusable::Types)?;
    let kernel = HostKernel {
        places: places(&types).ok_or(Unusable::Types)?,
        offsets: Offsets::of(&types).ok_or(Unusable::Types)?,
    };
    Ok(KERNEL.get_or_init(|| kernel))
}

/// What the program must know.
fn places(types: &Types<'_>) -> Option<Places> {
    let offset = |record: &str, member: &str| Some(types.member(types.record(record)?, member)?.offset);
    let context = "bpf_iter__task_file";
    Some(Places {
        iterator: types.function("bpf_iter_task_file")?.number(),
        meta: offset(context, "meta")?,
        task: offset(context, "task")?,
        fd: offset(context, "fd")?,
        file: offset(context, "file")?,
        seq: offset("bpf_iter_meta", "seq")?,
        tgid: offset("task_struct", "tgid")?,
        private_data: offset("file", "private_data")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe() {
        let t = std::time::Instant::now();
        println!("{:?} {:?}", check(), t.elapsed());
        let pid: u32 = std::env::var("PID").unwrap().parse().unwrap();
        for _ in 0..2 {
            let t = std::time::Instant::now();
            println!("{:#x?} {:?}", read(pid), t.elapsed());
        }
    }
}
