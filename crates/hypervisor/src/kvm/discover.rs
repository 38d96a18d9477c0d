//! Finds VMM processes: whoever holds a KVM virtual machine, and QEMU without KVM.
//!
//! A KVM VMM is known by its `anon_inode:kvm-vm` descriptor, whatever it is called. QEMU under software emulation holds
//! none; it is known by its executable. Where descriptors and executable of another user's process may not be read, the
//! command name has to do, and the VM is listed with what is missing.

use super::cmdline::Options;
use super::process::{Descriptor, comm, descriptors, proc_error, proc_path, read_proc, stat};
use super::{libvirt, machine};
use crate::Error;
use facts::{Hypervisor, Vm, VmState};
use std::fs;
use std::path::Path;

/// A VMM process.
#[derive(Debug)]
pub(crate) struct Vmm {
    /// As `birthmark list` shows it.
    pub(crate) vm: Vm,
    /// Base name of its executable, or its command name.
    pub(crate) exe: String,
    /// Its options, if it is QEMU.
    pub(crate) qemu: Option<Options>,
    /// The process that started it.
    parent: u32,
    /// Its command line.
    arguments: Vec<String>,
    /// What could not be told, in a sentence.
    pub(crate) problem: Option<String>,
}

/// Looks at one process: `None` when it is no VMM.
pub(crate) fn inspect(pid: u32) -> Result<Option<Vmm>, Error> {
    let comm = comm(pid)?;
    let exe = exe_name(pid).unwrap_or_else(|| comm.clone());
    let is_qemu = is_qemu_name(&exe) || is_qemu_name(&comm);
    let (descriptors, problem) = match descriptors(pid) {
        Ok(descriptors) => (descriptors, None),
        Err(Error::Permission { .. }) if is_qemu => (
            Vec::new(),
            Some(format!("The descriptors of process {pid} (`{comm}`) may not be read: run as root")),
        ),
        // Somebody else's process that does not look like a VMM.
        Err(Error::Permission { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let holds_kvm = descriptors.iter().any(is_kvm_vm);
    if !holds_kvm && !is_qemu {
        return Ok(None);
    }
    let arguments = arguments(pid)?;
    if arguments.is_empty() {
        // A zombie has no command line and no memory.
        return Ok(None);
    }
    let qemu = is_qemu.then(|| Options::parse(arguments.get(1..).unwrap_or_default()));
    if qemu.as_ref().is_some_and(|options| is_xen(options) || options.has(&["version", "h", "help"])) {
        return Ok(None);
    }
    let (name, uuid) = qemu.as_ref().map(machine::identity).unwrap_or_default();
    let kvm_asked = qemu.as_ref().is_some_and(|options| {
        options.has(&["enable-kvm"]) || accelerators(options).first().is_some_and(|first| first == "kvm")
    });
    let kvm = holds_kvm || (problem.is_some() && kvm_asked);
    let memory_bytes = match &qemu {
        Some(options) => machine::parse(pid, &exe, options).ok().map(|machine| machine.ram_size),
        None => None,
    };
    let counted = u32::try_from(descriptors.iter().filter(|descriptor| is_kvm_vcpu(descriptor)).count()).ok();
    let vcpus = match &qemu {
        Some(options) => machine::vcpus(options),
        None => counted.filter(|&count| count > 0),
    };
    let stat = stat(pid)?;
    let said = match (&name, &uuid) {
        (Some(name), Some(uuid)) => libvirt::describe(Path::new(libvirt::DIRECTORY), name, pid, uuid),
        _ => Ok(None),
    };
    let not_taken = |why| format!("What libvirt says of process {pid} (`{comm}`) is left out: {why}");
    let (libvirt, problem) = match said {
        Ok(libvirt) => (libvirt, problem),
        Err(why) => (None, problem.or_else(|| Some(not_taken(why)))),
    };
    let vm = Vm {
        name: name.unwrap_or_else(|| format!("pid-{pid}")),
        id: match uuid {
            Some(uuid) => format!("uuid:{uuid}"),
            None => derived_id(pid, stat.start_time)?,
        },
        hypervisor: if kvm { Hypervisor::Kvm } else { Hypervisor::QemuTcg },
        pid: Some(pid),
        domid: None,
        memory_bytes,
        vcpus,
        state: VmState::Running,
        libvirt,
    };
    Ok(Some(Vmm { vm, exe, qemu, parent: stat.parent, arguments, problem }))
}

/// The VMMs of this host.
#[derive(Debug)]
pub(crate) struct Found {
    /// By pid.
    pub(crate) vmms: Vec<Vmm>,
    /// What kept others from being seen.
    pub(crate) failed: Vec<(u32, Error)>,
}

/// Looks at every process.
pub(crate) fn all() -> Result<Found, Error> {
    let folder = Path::new("/proc");
    let entries = fs::read_dir(folder).map_err(|source| Error::Proc { path: folder.to_owned(), source })?;
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let mut found = Found { vmms: Vec::new(), failed: Vec::new() };
    for pid in pids {
        match inspect(pid) {
            Ok(Some(vmm)) => found.vmms.push(vmm),
            // Ended meanwhile: nothing to see.
            Ok(None) | Err(Error::ProcessGone { .. }) => {}
            Err(error) => found.failed.push((pid, error)),
        }
    }
    drop_forks(&mut found.vmms);
    Ok(found)
}

/// A VMM that forks to run a helper is two processes with one command line for a moment, and only the first is the VM.
fn drop_forks(vmms: &mut Vec<Vmm>) {
    let is_fork = |vmm: &Vmm, all: &[Vmm]| {
        all.iter().any(|other| other.vm.pid == Some(vmm.parent) && other.arguments == vmm.arguments)
    };
    let forks: Vec<Option<u32>> =
        vmms.iter().filter(|vmm| is_fork(vmm, vmms)).map(|vmm| vmm.vm.pid).collect();
    vmms.retain(|vmm| !forks.contains(&vmm.vm.pid));
}

/// Base name of the executable, also when its file was replaced by an upgrade.
fn exe_name(pid: u32) -> Option<String> {
    let link = fs::read_link(proc_path(pid, "exe")).ok()?;
    let name = link.file_name()?.to_string_lossy();
    Some(name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned())
}

/// `qemu-system-x86_64` (of which a command name shows 15 bytes), and Red Hat's `qemu-kvm`.
fn is_qemu_name(name: &str) -> bool {
    name.starts_with("qemu-system-") || name == "qemu-kvm" || name == "kvm"
}

fn accelerators(options: &Options) -> Vec<String> {
    let given = options.values(&["accel"]).filter_map(|value| value.split(',').next()).map(ToOwned::to_owned);
    let machine = options.merged(&["machine", "M"], "type");
    let in_machine = machine.get("accel").into_iter().flat_map(|list| list.split(':')).map(ToOwned::to_owned);
    given.chain(in_machine).collect()
}

/// QEMU as Xen's device model: the guest is Xen's, not this process's.
fn is_xen(options: &Options) -> bool {
    options.has(&["xen-domid"]) || accelerators(options).iter().any(|accelerator| accelerator == "xen")
}

fn is_kvm_vm(descriptor: &Descriptor) -> bool {
    descriptor.link.to_str() == Some("anon_inode:kvm-vm")
}

fn is_kvm_vcpu(descriptor: &Descriptor) -> bool {
    descriptor.link.to_str().is_some_and(|link| link.starts_with("anon_inode:kvm-vcpu"))
}

fn arguments(pid: u32) -> Result<Vec<String>, Error> {
    let bytes = read_proc(pid, "cmdline")?;
    let text = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    Ok(text.split(|&byte| byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect())
}

/// An identity for a VM without a UUID: the same for as long as its process lives, and of no other process of any boot.
fn derived_id(pid: u32, start_time: u64) -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let boot_id = fs::read_to_string(path).map_err(|source| proc_error(pid, path, source))?;
    let boot = boot_id.split('-').next().unwrap_or_default();
    Ok(format!("process:{boot}-{pid}-{start_time}"))
}
