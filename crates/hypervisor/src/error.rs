//! What can go wrong between a target's name and its memory, as one enum.
//!
//! Messages are for an operator: what, on which process or file, with the values seen. They do not repeat their source.

use crate::SlotsUnusable;
use std::io;
use std::path::PathBuf;

/// Why a VM could not be found or its memory could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text of a target is of no known form.
    #[error("`{text}` names no target: {why}")]
    TargetSyntax {
        /// The text given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No VM of that name, pid or UUID is on this host.
    #[error("No VM `{target}` is on this host ({seen})")]
    NoSuchVm {
        /// The target asked for.
        target: String,
        /// What is there instead, in words.
        seen: String,
    },
    /// More than one VM has that name.
    #[error("{count} VMs are named `{name}`: use one of {choices}")]
    AmbiguousName {
        /// The name asked for.
        name: String,
        /// How many VMs have it.
        count: usize,
        /// `pid:N` of each.
        choices: String,
    },
    /// The process exists and is no VMM.
    #[error("Process {pid} (`{comm}`) is no VMM: it holds no KVM virtual machine and is not QEMU")]
    NotAVmm {
        /// The process.
        pid: u32,
        /// Its command name.
        comm: String,
    },
    /// The VMM is none whose memory layout is known.
    #[error(
        "The VMM of process {pid} is `{exe}`, whose guest memory layout is not known to this version (those of QEMU, Firecracker, \
         Cloud Hypervisor, crosvm and kvmtool are)"
    )]
    UnknownVmm {
        /// The process.
        pid: u32,
        /// Base name of its executable.
        exe: String,
    },
    /// No mapping of the VMM begins as its guest's memory must.
    #[error(
        "In no mapping of process {pid} (`{exe}`) stands the memory map that this VMM gives its guest, so which of them is RAM cannot \
         be told"
    )]
    NoBootMap {
        /// The process.
        pid: u32,
        /// Base name of its executable.
        exe: String,
    },
    /// The map in the guest's memory, the VMM's rules and its mappings do not agree.
    #[error("The guest of process {pid} (`{exe}`) has the memory map {map}, which cannot be true: {rules}")]
    BootMapContradiction {
        /// The process.
        pid: u32,
        /// Base name of its executable.
        exe: String,
        /// The RAM of the map.
        map: String,
        /// What it contradicts.
        rules: &'static str,
    },
    /// The guest's map tells of less RAM than the VMM has mapped for it.
    #[error(
        "Process {pid} has {mapped:#x} bytes where its guest's memory is, and the memory map in there tells of {told:#x}: what the rest is \
         cannot be told"
    )]
    RamLeftOver {
        /// The process.
        pid: u32,
        /// Bytes of the mapping.
        mapped: u64,
        /// Bytes that the map accounts for.
        told: u64,
    },
    /// The VMM has nothing that could be asked for registers.
    #[error("The registers of the vCPUs of process {pid} cannot be had: its VMM is not QEMU")]
    NoRegisters {
        /// The process.
        pid: u32,
    },
    /// There is no `/dev/xen/privcmd`.
    #[error("This system is no Xen host: it has no /dev/xen/privcmd (on one, load the module xen-privcmd)")]
    NotAXenHost,
    /// xenstore did not answer.
    #[error("xenstore cannot be asked for the names of domains: is xenstored running?")]
    Xenstore {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The hypervisor refused.
    #[error("Xen did not answer about domain {domid}")]
    XenRefused {
        /// The domain, or the first of those asked for.
        domid: u16,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// The hypervisor refuses our commands, and the kernel does not tell which one it is.
    #[error(
        "This Xen refuses the versions of domain commands that Birthmark knows, and its libxenctrl cannot be found: the kernel does \
         not tell Xen's version in /sys/hypervisor/version"
    )]
    XenVersion {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The hypervisor refuses our commands, and its library is not there or is none.
    #[error(
        "Xen {version} refuses the versions of domain commands that Birthmark knows, so it is asked through its own {name}, which \
         cannot be loaded (Debian has it in the package libxenmisc{version})"
    )]
    XenLibrary {
        /// The file.
        name: String,
        /// Xen's version.
        version: String,
        /// Why.
        #[source]
        source: libloading::Error,
    },
    /// The hypervisor and xenstore say different things of a domain.
    #[error("Xen says that domain {domid} is {hypervisor}, xenstore says {xenstore}")]
    XenContradiction {
        /// The domain.
        domid: u16,
        /// The hypervisor's word.
        hypervisor: String,
        /// xenstore's word.
        xenstore: String,
    },
    /// Memory of the domain would come into being by being looked at.
    #[error(
        "{frames} frames of Xen domain {domid} are populated on demand: reading them would allocate them (its balloon driver \
         ends that when it starts)"
    )]
    XenOnDemand {
        /// The domain.
        domid: u16,
        /// How many frames.
        frames: u64,
    },
    /// A paravirtual guest has not said where its frame table is, or never will.
    #[error(
        "The kernel of paravirtual Xen domain {domid} has not said where its frame table is (Linux from 4.4 on does)"
    )]
    XenNoP2m {
        /// The domain.
        domid: u16,
    },
    /// A paravirtual guest's frame table is larger than the domain can be.
    #[error("Xen domain {domid} claims {frames} frames and may own {max}")]
    XenP2mSize {
        /// The domain.
        domid: u16,
        /// What the guest says.
        frames: u64,
        /// What the hypervisor says.
        max: u64,
    },
    /// A paravirtual guest's frame table could not be read.
    #[error("The frame table of paravirtual Xen domain {domid} could not be read")]
    XenP2m {
        /// The domain.
        domid: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process ended meanwhile.
    #[error("Process {pid} has ended")]
    ProcessGone {
        /// The process.
        pid: u32,
    },
    /// The operating system did not let us look at a process.
    #[error("No permission to read {path}: run as root or with CAP_SYS_PTRACE")]
    Permission {
        /// What was to be opened.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// A file under `/proc` could not be read.
    #[error("Reading {path} failed")]
    Proc {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file under `/proc` holds what the kernel does not write there.
    #[error("{path} holds a line of unknown form: `{line}`")]
    ProcSyntax {
        /// The file.
        path: PathBuf,
        /// The line.
        line: String,
    },
    /// A QEMU option has a value that cannot be understood.
    #[error("QEMU's option `-{option} {value}` of process {pid} is not understood: {why}")]
    QemuOption {
        /// The process.
        pid: u32,
        /// Option name without its dash.
        option: &'static str,
        /// The value given.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The machine type has no known layout.
    #[error(
        "Process {pid} runs machine `{machine}`, whose memory layout is not known (x86 pc, q35, isapc, microvm are)"
    )]
    UnknownMachine {
        /// The process.
        pid: u32,
        /// Machine type as given to QEMU.
        machine: String,
    },
    /// So much memory that the machine may move it, depending on facts that only the monitor knows.
    #[error(
        "The guest of process {pid} has {ram_size:#x} bytes of RAM: where QEMU puts its upper part depends on the guest's \
         CPU, so only the monitor can tell"
    )]
    LayoutUncertain {
        /// The process.
        pid: u32,
        /// Its RAM in bytes.
        ram_size: u64,
    },
    /// Guest memory is encrypted or not mapped by the VMM.
    #[error(
        "The memory of the guest of process {pid} is protected from this host ({how}) and cannot be read"
    )]
    Protected {
        /// The process.
        pid: u32,
        /// The option that protects it.
        how: String,
    },
    /// No mapping of the VMM has the size of a block of guest RAM.
    #[error(
        "No mapping of process {pid} can be RAM block `{block}` of {size:#x} bytes ({expected}); nearest: {seen}"
    )]
    RamNotFound {
        /// The process.
        pid: u32,
        /// The block's name.
        block: String,
        /// Its size in bytes.
        size: u64,
        /// What kind of mapping it must be.
        expected: String,
        /// The mappings that come nearest.
        seen: String,
    },
    /// Several mappings could be a block of guest RAM and nothing tells which one is.
    #[error("Which mapping of process {pid} is RAM block {blocks} of {size:#x} bytes cannot be told: {seen}")]
    RamAmbiguous {
        /// The process.
        pid: u32,
        /// The blocks of that size.
        blocks: String,
        /// Their size in bytes.
        size: u64,
        /// The candidates and what they contradict each other in.
        seen: String,
    },
    /// The file that guest memory is mapped from cannot be opened, and reading it otherwise would allocate guest memory.
    #[error(
        "The shared memory that process {pid} maps at {start:#x} ({name}) cannot be opened: run as root or with \
         CAP_CHECKPOINT_RESTORE"
    )]
    SharedUnopenable {
        /// The process.
        pid: u32,
        /// Where the process maps it.
        start: u64,
        /// The file's name in the process's maps.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Mapping guest memory or asking about it failed.
    #[error("Mapping {len:#x} bytes of guest memory of process {pid} failed")]
    Map {
        /// The process.
        pid: u32,
        /// Bytes to be mapped.
        len: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A mapped file is shorter than the memory that should be in it.
    #[error("The memory file of process {pid} is {actual:#x} bytes long and must hold {expected:#x}")]
    SharedTooShort {
        /// The process.
        pid: u32,
        /// Bytes that must be there.
        expected: u64,
        /// Bytes that are.
        actual: u64,
    },
    /// The monitor was asked for and the command line has none that can be reached.
    #[error("The QEMU of process {pid} has no QMP unix socket on its command line")]
    NoMonitor {
        /// The process.
        pid: u32,
    },
    /// The monitor did not answer, mostly because another client holds it.
    #[error(
        "The monitor {path} of process {pid} did not answer in time (libvirt or another client may hold it)"
    )]
    MonitorSilent {
        /// The process.
        pid: u32,
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process that guards a pause could not be started, or does not speak.
    #[error("The guard of the pause of {what} failed")]
    PauseGuard {
        /// The process or domain.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The monitor answered something else than asked for.
    #[error("The monitor of process {pid} answered `{answer}`, which is not understood")]
    MonitorAnswer {
        /// The process.
        pid: u32,
        /// The beginning of the answer.
        answer: String,
    },
    /// The monitor's flat view and the machine's rules say different things.
    #[error("The monitor of process {pid} says `{monitor}`, the rules of machine `{machine}` say `{rules}`")]
    LayoutContradiction {
        /// The process.
        pid: u32,
        /// Machine type.
        machine: String,
        /// The monitor's word.
        monitor: String,
        /// The rules' word.
        rules: String,
    },
    /// No vCPU came out to its VMM within the deadline.
    #[error("No vCPU of process {pid} came out to its VMM within a second, so KVM has told no registers")]
    VcpusStayInside {
        /// The process.
        pid: u32,
    },
    /// The pages that KVM shares with a VMM could not be used.
    #[error("The vCPU pages of process {pid} cannot be used")]
    RunPage {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's own memory slots were asked for and cannot be had.
    #[error("The kernel's memory slots of process {pid} cannot be read")]
    SlotsUnusable {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: SlotsUnusable,
    },
    /// The kernel's memory slots and the machine's rules say different things.
    #[error(
        "The kernel's memory slots of process {pid} say `{slots}`, the rules of machine `{machine}` say `{rules}`"
    )]
    SlotsContradiction {
        /// The process.
        pid: u32,
        /// Machine type.
        machine: String,
        /// The slots' word.
        slots: String,
        /// The rules' word.
        rules: String,
    },
    /// A memory slot is where the VMM has no memory, or several.
    #[error(
        "A memory slot of process {pid} has {size:#x} bytes at {start:#x}, which are no memory of the process"
    )]
    SlotNotMapped {
        /// The process.
        pid: u32,
        /// The address that the slot has.
        start: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// A VM that has not been given memory.
    #[error("None of the {slots} memory slots of process {pid} is RAM")]
    NoRamSlots {
        /// The process.
        pid: u32,
        /// How many slots it has.
        slots: usize,
    },
    /// A memory image could not be opened.
    #[error("Opening the memory image {path} failed")]
    ImageOpen {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was named is no regular file.
    #[error("{path} is no regular file, so no memory image")]
    ImageNotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file that is no memory image of a form known here.
    #[error("{path} is no memory image that can be read: {what}")]
    ImageFormat {
        /// The file.
        path: PathBuf,
        /// What it is instead, or what is wrong.
        what: String,
    },
    /// The image ends before what its headers promise.
    #[error(
        "{path} is truncated: what starts at offset {offset:#x} needs a file of {expected} bytes, it has {actual}"
    )]
    ImageTruncated {
        /// The file.
        path: PathBuf,
        /// Offset of the part that is cut off.
        offset: u64,
        /// Bytes that the file must have.
        expected: u64,
        /// Bytes it has.
        actual: u64,
    },
}
