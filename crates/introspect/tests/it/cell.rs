//! One cell of the support matrix: a kind of guest, booted, made to be what the cell says, and compared with its own `/proc`.

use crate::ebpf_views;
use crate::equal::differences;
use crate::menagerie::{MARK, menagerie};
use crate::opened::{Opened, PATIENT};
use crate::socket_views;
use anyhow::{Context, Result, ensure};
use facts::{
    Address, ContainerRuntime, EnvironmentVariable, Family, Process, Seccomp, Shutdown, Snapshot, Socket,
    SocketState, TaskKind,
};
use testkit::{Activity, Backing, Guest, GuestSpec, HugePages, Kernel, Machine, PagingLevels, Spawn};

/// MiB of a DIMM that is plugged in.
const DIMM_MIB: u64 = 256;

/// How guest memory is put together, beside the machine's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// One block of RAM.
    One,
    /// Two NUMA nodes, each with a block of its own.
    Numa,
    /// A DIMM plugged in while the guest runs.
    Dimm,
    /// A device with memory of its own, twice as much as the guest's RAM.
    Device,
}

/// [`Backing`] without the file's path, which differs from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Memfd,
    Anonymous,
    File,
    HugePages,
}

/// What its guest is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub kernel: Kernel,
    pub machine: Machine,
    pub levels: PagingLevels,
    pub kaslr: bool,
    /// Page table isolation forced on; QEMU's own CPU would do without.
    pub pti: bool,
    pub vcpus: u32,
    pub mib: u64,
    pub memory: Memory,
    pub blocks: Blocks,
}

/// How it went, where nothing went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All tables were equal.
    Equal(Compared),
    /// This host cannot have such a guest, for this reason. It depends on what else the host's memory is used for, so it is
    /// no failure even where everything must run.
    Skipped(String),
}

/// What was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    pub processes: usize,
    pub sockets: usize,
    pub modules: usize,
}

impl Cell {
    /// The default guest of this kernel.
    pub const fn of(kernel: Kernel) -> Self {
        Self {
            kernel,
            machine: Machine::Q35,
            levels: PagingLevels::Four,
            kaslr: true,
            pti: false,
            vcpus: 1,
            mib: 512,
            memory: Memory::Memfd,
            blocks: Blocks::One,
        }
    }

    /// Boots the guest, fills it, compares every table, and checks that looking allocated no memory for the guest.
    pub fn compare(&self) -> Result<Outcome> {
        let files = tempfile::tempdir()?;
        let _pages = match self.memory {
            Memory::HugePages => match HugePages::reserve(self.huge_mib()) {
                Ok(pages) => Some(pages),
                Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
            },
            _ => None,
        };
        let guest = Guest::boot(self.spec(&files))?;
        if self.blocks == Blocks::Dimm {
            guest.plug_dimm("dimm0", DIMM_MIB)?;
        }
        let opened = Opened::open(guest).context("The guest runs and cannot be looked into")?;
        self.is_what_it_says(&opened)?;
        the_kernels_file_gives_the_same_profile(&opened)?;
        let small = self.mib <= 96;
        let overlays = menagerie(&opened, small)?;
        // With every vCPU in user mode and page tables isolated, the registers show no kernel. One spins already.
        let spin = Spawn { activity: Activity::Spin, exe: "/usr/bin/spin".into(), ..Spawn::default() };
        opened.guest.spawn_many(self.vcpus - 1, spin)?;
        let least = if small { 40 } else { 60 };
        let compared = settled(&opened, least, |snapshot| {
            if !small {
                one_of_everything(snapshot, overlays);
            }
        })?;
        nothing_is_allocated(&opened)?;
        // Anonymous memory and huge pages cannot be changed from outside, and the testkit does not know where a DIMM is
        // plugged in.
        let changeable = self.memory != Memory::HugePages && self.blocks != Blocks::Dimm;
        if changeable && opened.guest.peek_physical(0x10_0000, 8).is_ok() {
            socket_views::check(&opened);
            ebpf_views::check(&opened);
        }
        Ok(Outcome::Equal(compared))
    }

    /// MiB of huge pages that the guest may touch.
    fn huge_mib(&self) -> u64 {
        self.mib + if self.blocks == Blocks::Dimm { DIMM_MIB } else { 0 }
    }

    fn spec(&self, files: &tempfile::TempDir) -> GuestSpec {
        let mut spec = GuestSpec::new(self.kernel)
            .machine(self.machine)
            .levels(self.levels)
            .vcpus(self.vcpus)
            .memory_mib(self.mib)
            .backing(match self.memory {
                Memory::Memfd => Backing::Memfd,
                Memory::Anonymous => Backing::Anonymous,
                Memory::File => Backing::File(files.path().join("ram")),
                Memory::HugePages => Backing::HugePages,
            });
        if !self.kaslr {
            spec = spec.kernel_parameter("nokaslr");
        }
        if self.pti {
            spec = spec.kernel_parameter("pti=on");
        }
        match self.blocks {
            Blocks::One => spec,
            Blocks::Numa => spec.numa_nodes(2),
            // Memory that can be plugged in above 4 GiB makes Linux set 64 MiB aside for devices that reach no further (swiotlb),
            // which is more than the smallest guest has to give. None of its devices is such a one.
            Blocks::Dimm if self.mib <= 96 => spec.dimm_slots().kernel_parameter("swiotlb=1024"),
            Blocks::Dimm => spec.dimm_slots(),
            Blocks::Device => spec.second_block_mib((self.mib * 2).next_power_of_two()),
        }
    }

    /// A cell proves nothing of a value that its guest does not have.
    fn is_what_it_says(&self, opened: &Opened) -> Result<()> {
        let shown = |path: &str| -> Result<String> { Ok(opened.guest.run(&["cat", path])?.stdout) };
        let vcpus = shown("/proc/cpuinfo")?.lines().filter(|line| line.starts_with("processor")).count();
        ensure!(vcpus == self.vcpus as usize, "The guest has {vcpus} vCPUs");
        let log = opened.guest.run(&["dmesg"])?.stdout;
        let isolated = log.contains("page tables isolation: enabled");
        ensure!(self.pti == isolated, "The guest's page tables are isolated: {isolated}");
        let nodes = opened.guest.run(&["ls", "/sys/devices/system/node"])?.stdout;
        let nodes = nodes.lines().filter(|name| name.starts_with("node")).count();
        ensure!((self.blocks == Blocks::Numa) == (nodes == 2), "The guest has {nodes} NUMA nodes");
        let kernel = opened.snapshot()?.kernel;
        let levels = if self.levels == PagingLevels::Five { 5 } else { 4 };
        ensure!(kernel.page_table_levels == levels, "The guest has {} levels", kernel.page_table_levels);
        ensure!((kernel.kaslr_offset.0 != 0) == self.kaslr, "The kernel's offset is {}", kernel.kaslr_offset);
        Ok(())
    }
}

/// Guests of this kernel need not be trusted for their profile: a provisioning pipeline makes the same one of the kernel's file.
fn the_kernels_file_gives_the_same_profile(opened: &Opened) -> Result<()> {
    let file = &opened.guest.kernel().vmlinuz;
    let kernel = guest_profiles::kernel_file::read(file, &guest_profiles::linux::WANTED)?;
    let same = kernel.profile.to_json() == opened.kernel.profile().to_json();
    ensure!(same, "{} gives another profile than the guest: {:#?}", file.display(), {
        kernel.profile.disagreements("the file's", opened.kernel.profile(), "the guest's")
    });
    Ok(())
}

/// Compares until truth and look agree: they are two moments, and timers of TCP move on between them. Three tries settle
/// that.
fn settled(opened: &Opened, least: usize, check: impl Fn(&Snapshot)) -> Result<Compared> {
    let mut last = Vec::new();
    for _ in 0..3 {
        let (truth, (snapshot, plain)) =
            opened.guest.steady(|| Ok((opened.everything()?, opened.snapshot()?)))?;
        last = differences(&truth, &snapshot);
        last.extend(differences(&truth, &plain));
        if last.is_empty() {
            let compared = Compared {
                processes: snapshot.processes.len(),
                sockets: snapshot.sockets.len(),
                modules: snapshot.modules.len(),
            };
            ensure!(
                compared.processes > least && compared.sockets > least,
                "Too little was compared: {compared:?}"
            );
            ensure!(snapshot.modules.iter().any(|module| module.name == "dummy"), "The module is missing");
            only_on_request(&snapshot, &plain);
            check(&snapshot);
            return Ok(compared);
        }
    }
    anyhow::bail!("{} differences:\n{}", last.len(), last.join("\n"))
}

/// Threads and environments are there when they were asked for, and only then.
fn only_on_request(everything: &Snapshot, plain: &Snapshot) {
    let asked = |process: &Process| (process.thread_list.is_some(), process.environment.is_some());
    assert!(everything.processes.iter().all(|process| asked(process) == (true, true)));
    assert!(plain.processes.iter().all(|process| asked(process) == (false, false)));
}

/// What the comparison could not have missed because the guest had nothing of the kind.
fn one_of_everything(snapshot: &Snapshot, overlays: bool) {
    let find = |exe: &str| {
        let found = snapshot.processes.iter().find(|process| process.exe.as_deref() == Some(exe));
        found.unwrap_or_else(|| panic!("no {exe}"))
    };
    let confined = find("/usr/bin/confined");
    assert_eq!((confined.seccomp, confined.no_new_privs), (Some(Seccomp::Filter), Some(true)));
    assert_eq!(confined.groups.as_deref(), Some([4, 24, 1000].as_slice()));
    assert_eq!(confined.capabilities_bounding, Some(Address(0x401)));
    assert_eq!(confined.capabilities_ambient, Some(Address(0x400)));
    let secret = EnvironmentVariable { name: "TOKEN".to_owned(), value: Some("a=b".to_owned()) };
    assert!(confined.environment.as_ref().unwrap().contains(&secret));
    let terminal = find("/usr/bin/interactive").terminal.as_ref().unwrap();
    assert_eq!((terminal.name.as_str(), terminal.major), ("pts/0", 136));
    if overlays {
        find("/srv/overlay/layered");
    }
    find("/srv/bind/bound");
    let grouped = find("/usr/bin/grouped");
    assert_eq!(grouped.cgroups_v1.as_ref().unwrap()[0].hierarchy, "name=lab");
    assert_eq!(grouped.container_runtime, Some(ContainerRuntime::Lxc));
    assert_eq!(find("/usr/bin/worker").thread_list.as_ref().unwrap().len(), 6);
    let docker =
        snapshot.processes.iter().find(|process| process.container_runtime == Some(ContainerRuntime::Docker));
    assert_eq!(docker.unwrap().container.as_ref().unwrap().len(), 64);
    let programs = snapshot.ebpf_programs.as_ref().unwrap();
    for place in ["socket", "cgroup", "raw_tracepoint", "perf_event", "xdp", "netns"] {
        let attached = |program: &facts::EbpfProgram| program.attached_to.iter().any(|to| to.kind == place);
        assert!(programs.iter().any(attached), "no program is attached to a {place}: {programs:#?}");
    }
    let tracer = find("/usr/sbin/tracer").pid;
    assert!(programs.iter().filter(|program| program.processes.contains(&tracer)).count() >= 6);
    // A cookie is made when the kernel is asked for it, so the guest has told what these are.
    for family in [Family::Inet, Family::Inet6, Family::Unix, Family::Packet, Family::Netlink] {
        let told = |socket: &Socket| socket.family == family && socket.cookie.is_some();
        assert!(snapshot.sockets.iter().any(told), "no socket of {family:?} has a cookie");
    }
    for (family, state) in [(Family::Inet, None), (Family::Unix, Some(SocketState::Established))] {
        for shutdown in [Shutdown::Receive, Shutdown::Send, Shutdown::Both] {
            let is = |socket: &Socket| {
                socket.family == family
                    && socket.shutdown == Some(shutdown)
                    && state.is_none_or(|state| socket.state == Some(state))
            };
            assert!(snapshot.sockets.iter().any(is), "no socket of {family:?} is shut down for {shutdown:?}");
        }
    }
    // A listener at a port that somebody asked for, a connection from one that nobody asked for, and its server, of which `ss` cannot tell.
    let at = |remote: bool| {
        let is = move |socket: &&Socket| match remote {
            true => socket.remote_port == Some(25000),
            false => socket.local_port == Some(25000),
        };
        let sockets = snapshot.sockets.iter().filter(is);
        sockets.map(|socket| (socket.state, socket.mark, socket.autobound)).collect::<Vec<_>>()
    };
    let (listen, established) = (Some(SocketState::Listen), Some(SocketState::Established));
    assert_eq!(at(true), [(established, None, Some(true))]);
    let mut marked = at(false);
    marked.sort_by_key(|(state, ..)| *state == established);
    let mark = Some(MARK);
    assert_eq!(marked, [(listen, mark, Some(false)), (established, mark, Some(true))]);
    let ring = find("/usr/bin/ring").thread_list.as_ref().unwrap();
    assert!(ring.iter().any(|thread| thread.kind == TaskKind::IoWorker), "{ring:?}");
}

/// With the guest stopped, every page the VMM gains would be ours.
fn nothing_is_allocated(opened: &Opened) -> Result<()> {
    opened.guest.paused(|_| {
        let before = opened.resident();
        introspect::locate(&*opened.vm.memory, PATIENT)?;
        for _ in 0..10 {
            opened.snapshot()?;
        }
        let after = opened.resident();
        ensure!(
            before == after,
            "{before} KiB of guest memory were resident before looking, {after} KiB after"
        );
        Ok(())
    })
}
