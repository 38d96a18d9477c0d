//! The two doors of the crate: which VMs are there, and the memory of one.

use crate::kvm::pause::VmmOf;
use crate::pause::{Pause, Stoppable};
use crate::xen::pause::DomainOf;
use crate::{Error, RawLayout, Target, dump, kvm, xen};
use facts::{Hypervisor, Nic, Vm, VmState};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use vmi_core::{GuestMemory, Registers};

/// The VMs of this host.
#[derive(Debug)]
pub struct Listing {
    /// What was found: VMMs by process id, then Xen domains by number.
    pub vms: Vec<Vm>,
    /// What could not be seen.
    pub problems: Vec<ListProblem>,
}

/// What could not be looked at as it should be.
#[derive(Debug)]
pub struct ListProblem {
    /// Host process id, where it is about one process.
    pub pid: Option<u32>,
    /// What happened, in a sentence.
    pub detail: String,
}

/// Where the guest-physical layout of a VMM's guest is to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LayoutSource {
    /// The best that can be had: [`Self::Slots`], else the rules; a QEMU's monitor where something is seen that the rules cannot place,
    /// such as a DIMM that was plugged in. Where the monitor then cannot be asked, the rules stand, with a note.
    #[default]
    Best,
    /// The memory slots that the host's kernel has of the VM, those of QEMU's RAM held against the rules. Exact, of any VMM; takes
    /// CAP_BPF and CAP_PERFMON, and this crate's feature `memslots`.
    Slots,
    /// The rules of the machine type, or of the VMM, alone. Needs nothing of either.
    Rules,
    /// QEMU's own flat view through a QMP socket on its command line, held against the rules. Uses a monitor that another
    /// client may want.
    Monitor,
}

/// Where the layout of a guest's memory came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutOrigin {
    /// The kernel's memory slots.
    Slots,
    /// QEMU's monitor.
    Monitor,
    /// The rules of the machine, or of the VMM.
    Rules,
    /// The hypervisor itself (Xen).
    Hypervisor,
    /// The headers of an image.
    Image,
}

/// How a target is to be opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// For guests of KVM and QEMU.
    pub layout_source: LayoutSource,
    /// For raw images.
    pub raw_layout: RawLayout,
    /// For domains of Xen.
    pub xen_interface: xen::Interface,
}

/// A guest, ready to be looked at.
#[derive(Debug)]
pub struct OpenedVm {
    /// What the host knows of it.
    pub vm: Vm,
    /// Its memory.
    pub memory: Arc<dyn GuestMemory>,
    /// Who said what is where in it.
    pub layout: LayoutOrigin,
    /// What of its memory is known to be left out, or what looked odd, in sentences.
    pub notes: Vec<String>,
    source: Source,
}

/// What stands behind the memory.
#[derive(Debug)]
enum Source {
    Vmm { process: Arc<kvm::Process>, monitor: Option<kvm::cmdline::Options> },
    Image { registers: Vec<Registers> },
    Xen(Box<xen::Domain>),
}

impl OpenedVm {
    /// Whether the VM that was opened still runs (not another one with its pid). An image always does.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match &self.source {
            Source::Vmm { process, .. } => process.is_alive(),
            Source::Image { .. } => true,
            Source::Xen(_) => self.memory.begin_look().is_ok(),
        }
    }

    /// Registers of the vCPUs. An image has them if its tool wrote them down, else the list is empty. Of a running guest they
    /// are asked for through QEMU's monitor, which interrupts each vCPU for a moment and fails where another client holds
    /// the monitor; of a Xen domain the hypervisor is asked. For when memory alone did not answer.
    pub fn registers(&self) -> Result<Vec<Registers>, Error> {
        match &self.source {
            Source::Image { registers } => Ok(registers.clone()),
            Source::Xen(domain) => xen::registers(domain),
            Source::Vmm { process, monitor: Some(options) } => {
                kvm::monitor::registers(process.pid(), options)
            }
            Source::Vmm { process, monitor: None } => Err(Error::NoRegisters { pid: process.pid() }),
        }
    }

    /// Registers of the vCPUs of a KVM guest, out of the pages that KVM shares with its VMM. **Intrusive**: a flag in those pages, which
    /// are the VMM's and not the guest's, is raised and lowered again; no vCPU is stopped. One of QEMU that does not come out by itself is
    /// called out as QEMU itself does, for a moment; one that does not come out to its VMM within a second is left out. For a guest whose memory alone did not answer and that has no monitor to ask.
    pub fn registers_by_run_page(&self) -> Result<Vec<Registers>, Error> {
        match &self.source {
            Source::Vmm { process, monitor } if process.is_alive() => {
                kvm::run_page::registers(process, monitor.is_some())
            }
            Source::Vmm { process, .. } => Err(Error::ProcessGone { pid: process.pid() }),
            Source::Image { .. } | Source::Xen(_) => self.registers(),
        }
    }
}

impl OpenedVm {
    /// Stops the guest for `limit` at most, in the care of `guard`: a program that calls [`crate::pause::guard`]. `Ok(None)`: it
    /// stood already (an image always does), and stays so. A guest of KVM or QEMU stands because its VMM does.
    pub fn pause(&self, limit: Duration, guard: Command) -> Result<Option<Pause>, Error> {
        let what = match &self.source {
            Source::Image { .. } => return Ok(None),
            Source::Xen(domain) => Stoppable::Domain(DomainOf::new(domain)),
            Source::Vmm { process, .. } => Stoppable::Vmm(VmmOf::new(process)?),
        };
        Pause::begin(what, limit, guard)
    }
}

/// Finds the VMs of this host. `Err` only when `/proc` itself cannot be read; processes that may not be looked at, and a Xen
/// that does not answer, are problems of the listing.
pub fn list() -> Result<Listing, Error> {
    let kvm::Found { vmms, failed } = kvm::all()?;
    let mut problems: Vec<ListProblem> = failed
        .into_iter()
        .map(|(pid, error)| ListProblem { pid: Some(pid), detail: error.to_string() })
        .collect();
    let mut vms = Vec::with_capacity(vmms.len());
    for vmm in vmms {
        if let Some(detail) = vmm.problem {
            problems.push(ListProblem { pid: vmm.vm.pid, detail });
        }
        vms.push(vmm.vm);
    }
    match xen::all(xen::Interface::default()) {
        Ok(domains) => vms.extend(domains.into_iter().map(|domain| domain.vm)),
        Err(error) => problems.push(ListProblem { pid: None, detail: error.to_string() }),
    }
    Ok(Listing { vms, problems })
}

/// Opens a target's memory, read-only.
pub fn open(target: &Target) -> Result<OpenedVm, Error> {
    open_with(target, &OpenOptions::default())
}

/// Opens a target's memory, read-only, with choices.
pub fn open_with(target: &Target, options: &OpenOptions) -> Result<OpenedVm, Error> {
    match target {
        Target::Image(path) => open_image(path, options),
        Target::Pid(pid) => match kvm::inspect(*pid) {
            Ok(Some(vmm)) => open_vmm(vmm, options),
            Ok(None) => {
                let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                Err(Error::NotAVmm { pid: *pid, comm: comm.trim_end().to_owned() })
            }
            Err(error) => Err(error),
        },
        Target::Xen(_) | Target::Name(_) | Target::Uuid(_) | Target::Metadata { .. } => {
            open_only(target, options)
        }
    }
}

/// The VM of this host that a target names, whether or not its memory can be opened. `None`: there is none, or more than one, or the
/// target is an image.
#[must_use]
pub fn find(target: &Target) -> Option<Vm> {
    let mut fitting = list().ok()?.vms.into_iter().filter(|vm| names(target, vm));
    fitting.next().filter(|_| fitting.next().is_none())
}

/// Whether a target names a VM.
fn names(target: &Target, vm: &Vm) -> bool {
    match target {
        Target::Image(_) => false,
        Target::Xen(domid) => vm.domid == Some(*domid) && vm.hypervisor == Hypervisor::Xen,
        Target::Pid(pid) => vm.pid == Some(*pid),
        Target::Name(name) => vm.name == *name,
        Target::Uuid(uuid) => vm.id.strip_prefix("uuid:") == Some(uuid),
        Target::Metadata { key, value } => {
            let mut said = vm.libvirt.iter().flat_map(facts::Libvirt::labels);
            said.any(|(its, text)| its == key && text == value)
        }
    }
}

/// The host-side network devices of a VM. Empty when it has none (user-mode networking, or no network).
pub fn nics(vm: &Vm) -> Result<Vec<Nic>, Error> {
    match (vm.pid, vm.domid) {
        (Some(pid), _) => kvm::nics(pid),
        (None, Some(domid)) => xen::nics(domid),
        (None, None) => Ok(Vec::new()),
    }
}

/// A VM that was found and not opened yet.
enum Found {
    Vmm(kvm::Vmm),
    Domain(xen::Domain),
}

impl Found {
    fn vm(&self) -> &Vm {
        match self {
            Self::Vmm(vmm) => &vmm.vm,
            Self::Domain(domain) => &domain.vm,
        }
    }
}

/// Opens the one VM that fits.
fn open_only(target: &Target, options: &OpenOptions) -> Result<OpenedVm, Error> {
    let mut found: Vec<Found> = kvm::all()?.vmms.into_iter().map(Found::Vmm).collect();
    // A Xen that does not answer is no reason not to find a KVM guest, but one not to say that there is no such VM.
    let domains = xen::all(options.xen_interface);
    let unanswered = match domains {
        Ok(domains) => {
            found.extend(domains.into_iter().map(Found::Domain));
            None
        }
        Err(error) => Some(error),
    };
    let seen: Vec<String> = found.iter().map(|found| found.vm().name.clone()).collect();
    let mut fitting: Vec<Found> = found.into_iter().filter(|found| names(target, found.vm())).collect();
    if fitting.len() > 1 {
        let choice = |vm: &Vm| {
            let pid = vm.pid.map(|pid| format!("pid:{pid}"));
            pid.or_else(|| vm.domid.map(|domid| format!("xen:{domid}")))
        };
        let choices: Vec<String> = fitting.iter().filter_map(|found| choice(found.vm())).collect();
        return Err(Error::AmbiguousName {
            name: target.to_string(),
            count: fitting.len(),
            choices: choices.join(", "),
        });
    }
    match (fitting.pop(), unanswered) {
        (Some(Found::Vmm(vmm)), _) => open_vmm(vmm, options),
        (Some(Found::Domain(domain)), _) => open_domain(domain),
        (None, Some(error)) => Err(error),
        (None, None) => {
            let seen = match seen.as_slice() {
                [] => "no VM runs here".to_owned(),
                several => format!("there is {}", several.join(", ")),
            };
            Err(Error::NoSuchVm { target: target.to_string(), seen })
        }
    }
}

fn open_domain(domain: xen::Domain) -> Result<OpenedVm, Error> {
    let memory = xen::open(&domain)?;
    Ok(OpenedVm {
        vm: domain.vm.clone(),
        memory: Arc::new(memory),
        layout: LayoutOrigin::Hypervisor,
        notes: Vec::new(),
        source: Source::Xen(Box::new(domain)),
    })
}

fn open_vmm(vmm: kvm::Vmm, options: &OpenOptions) -> Result<OpenedVm, Error> {
    let opened = kvm::open(&vmm, options.layout_source)?;
    Ok(OpenedVm {
        vm: vmm.vm,
        memory: Arc::new(opened.memory),
        layout: opened.layout,
        notes: opened.notes,
        source: Source::Vmm { process: opened.process, monitor: vmm.qemu },
    })
}

fn open_image(path: &Path, options: &OpenOptions) -> Result<OpenedVm, Error> {
    let memory = dump::open(path, options.raw_layout)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let vm = Vm {
        name,
        id: format!("image:{}", absolute.display()),
        hypervisor: Hypervisor::Image,
        pid: None,
        domid: None,
        memory_bytes: Some(memory.size()),
        vcpus: None,
        state: VmState::Image,
        libvirt: None,
    };
    let source = Source::Image { registers: memory.registers().to_vec() };
    Ok(OpenedVm { vm, memory: Arc::new(memory), layout: LayoutOrigin::Image, notes: Vec::new(), source })
}
