//! The guest of DESIGN section 5: 150 processes and 200 sockets in 1 GiB, a kernel that nobody has described.
//!
//! It is a made-up server: twenty services with a user, a control group, threads and sockets each, and idle workers up to
//! the number of processes. It runs while it is measured, as any guest would.

use anyhow::Result;
use facts::Snapshot;
use hypervisor::{OpenedVm, Target};
use introspect::{Kernel, Options};
use testkit::{Backing, Guest, GuestSpec, SocketSpec, Spawn, UnixType, crowd};
use vmi_core::{Budget, GuestMemory};

/// Processes of the guest, kernel threads included.
const PROCESSES: usize = 150;
/// Services; each has ten sockets.
const SERVICES: u16 = 20;
/// Kernel it runs.
pub const KERNEL: testkit::Kernel = testkit::Kernel::V6_12;
/// Finding a kernel may take longer than a look on a machine that is busy.
pub const BUDGET: Budget = Budget { time: std::time::Duration::from_secs(60), bytes: 1 << 40 };

/// A guest that runs, its memory opened and its kernel found.
#[derive(Debug)]
pub struct Subject {
    /// The guest, which ends with this.
    pub guest: Guest,
    /// Its memory.
    pub vm: OpenedVm,
    /// Its kernel.
    pub kernel: Kernel,
}

impl Subject {
    /// Boots and fills a guest.
    pub fn boot(backing: Backing) -> Result<Self> {
        let guest = Guest::boot(GuestSpec::new(KERNEL).memory_mib(1024).backing(backing))?;
        guest.load_module("dummy")?;
        for number in 0..SERVICES {
            guest.spawn(service(number)?)?;
        }
        let subject = Self::open(guest)?;
        let missing = PROCESSES.saturating_sub(subject.snapshot()?.processes.len());
        let worker = Spawn {
            exe: "/usr/lib/server/worker".into(),
            args: ["worker", "--pool", "www", "--requests", "500"].map(str::to_owned).to_vec(),
            uid: Some(33),
            gid: Some(33),
            cgroup: Some("/system.slice/server.service".into()),
            ..Spawn::default()
        };
        subject.guest.spawn_many(u32::try_from(missing)?, worker)?;
        Ok(subject)
    }

    /// Boots the guest with thousands of processes and sockets (`testkit::crowd`).
    pub fn boot_crowd(backing: Backing) -> Result<Self> {
        let guest = Guest::boot(crowd::spec(KERNEL).backing(backing))?;
        crowd::fill(&guest)?;
        Self::open(guest)
    }

    fn open(guest: Guest) -> Result<Self> {
        let vm = hypervisor::open(&Target::Pid(guest.pid()))?;
        let kernel = introspect::locate(&*vm.memory, BUDGET)?;
        Ok(Self { guest, vm, kernel })
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &dyn GuestMemory {
        &*self.vm.memory
    }

    /// Looks through `memory`, which is [`Self::memory`] or something in front of it.
    pub fn look(&self, memory: &dyn GuestMemory) -> Result<Snapshot> {
        let options = Options { budget: BUDGET, ..Options::default() };
        Ok(introspect::snapshot(memory, &self.kernel, &self.vm.vm, &options)?)
    }

    /// Every table.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.look(self.memory())
    }
}

fn service(number: u16) -> Result<Spawn> {
    let name = format!("service-{number}");
    let unix = UnixType::Stream;
    let path = format!("/run/{name}.sock");
    Ok(Spawn {
        exe: format!("/usr/sbin/{name}"),
        args: vec![name.clone(), "--config".into(), format!("/etc/{name}/{name}.conf")],
        uid: Some(100 + u32::from(number)),
        gid: Some(100 + u32::from(number)),
        threads: 2,
        cgroup: Some(format!("/system.slice/{name}.service")),
        sockets: vec![
            SocketSpec::TcpPair { ip: "127.0.0.1".parse()? },
            SocketSpec::TcpListen { address: format!("[::]:{}", 8000 + number).parse()? },
            SocketSpec::UdpBind { address: format!("127.0.0.1:{}", 9000 + number).parse()? },
            SocketSpec::UnixListen { path: path.clone(), unix_type: unix },
            SocketSpec::UnixConnect { path, unix_type: unix },
            SocketSpec::UnixPair { unix_type: unix },
        ],
        ..Spawn::default()
    })
}
