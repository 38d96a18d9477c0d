//! The guest's own word about itself: what its `/proc` says, as data shared by the agent (which fills it inside the guest)
//! and the tests (which compare it with what was read from outside).
//!
//! It stays as close to `/proc` as typed data can: no field is guessed, and what `/proc` does not show is `None` or absent.
//! Nothing of the engine is used here on purpose: a shared decoder would share its mistakes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything the guest says about itself at about one moment. The reads are not atomic: see [`Truth::same_objects`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// The kernel and its memory.
    pub kernel: KernelTruth,
    /// Thread groups, ascending by pid. The agent itself is one of them (pid 1).
    pub processes: Vec<Process>,
    /// Sockets of every network namespace that some process is in, in the order of `/proc`.
    pub sockets: Vec<Socket>,
    /// Socket tables that the guest could show. Those without a file need a module of `sock_diag` to be loaded.
    pub tables: Vec<Table>,
    /// Loaded modules in the order of `/proc/modules` (the newest first).
    pub modules: Vec<Module>,
    /// eBPF programs, ascending by id.
    pub programs: Vec<Program>,
}

/// What the kernel says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelTruth {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// `/proc/version` without its final newline.
    pub banner: String,
    /// `/proc/sys/kernel/random/boot_id`. The kernel makes it up when it is first read, so reading it puts it in memory.
    pub boot_id: String,
    /// GNU build id of the kernel image in lower-case hex, from `/sys/kernel/notes`.
    pub build_id: Option<String>,
    /// `/proc/cmdline` without its final newline.
    pub command_line: String,
    /// `MemTotal` of `/proc/meminfo`, KiB.
    pub memory_total_kib: u64,
    /// `System RAM` of `/proc/iomem`, ascending.
    pub system_ram: Vec<PhysicalRange>,
    /// 5 when `/proc/cpuinfo` has the flag `la57` (the kernel removes it when it runs with 4 levels), else 4.
    pub page_table_levels: u8,
    /// Nanoseconds since boot, suspend included (`CLOCK_BOOTTIME`), when the truth was taken.
    pub boot_clock_ns: u64,
    /// `btime` of `/proc/stat`: whole seconds since 1970 at boot.
    pub boot_time: u64,
    /// `processes` of `/proc/stat`: tasks made since boot.
    pub forks: u64,
    /// Behind the `/` in `/proc/loadavg`: threads that there are.
    pub threads: u64,
    /// The last number of `/proc/loadavg`: the pid given last.
    pub last_pid: u32,
    /// Run-time addresses of some symbols of the kernel image, from `/proc/kallsyms`.
    pub symbols: BTreeMap<String, u64>,
}

/// A range of guest physical addresses, both ends inclusive as in `/proc/iomem`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhysicalRange {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
}

/// One thread group, from `/proc/PID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Pid in the initial pid namespace.
    pub pid: u32,
    /// Parent's pid.
    pub ppid: u32,
    /// `task_struct::comm`. For a kernel thread `/proc/PID/comm` says more than that member holds; see
    /// [`Process::proc_comm`]; here the addition is taken off again.
    pub comm: String,
    /// `/proc/PID/comm` as printed: since 5.17 the whole name of a kernel thread, and for a worker also what it works on
    /// (`kworker/0:1-events`; `proc_task_name` in fs/proc/array.c, `wq_worker_comm` in kernel/workqueue.c, 6.1).
    pub proc_comm: String,
    /// `/proc/PID/exe` as the link reads, with ` (deleted)` if so. `None`: no link (kernel thread, zombie).
    pub exe: Option<String>,
    /// `/proc/PID/cmdline` split at NUL after removal of one final NUL. Bytes that are not UTF-8 are replaced.
    pub args: Vec<String>,
    /// Letter of `State:` in `/proc/PID/status` (`R S D T t X Z P I`).
    pub state: char,
    /// Real, effective, saved and file system user id, initial user namespace.
    pub uids: [u32; 4],
    /// The same for groups.
    pub gids: [u32; 4],
    /// `Threads:`.
    pub threads: u32,
    /// `CapEff:`, bit n is capability n.
    pub capabilities_effective: u64,
    /// `PF_KTHREAD` (0x00200000) of the flags in `/proc/PID/stat`.
    pub kernel_thread: bool,
    /// Flags of `/proc/PID/stat` (field 9), `task_struct::flags`.
    pub flags: u32,
    /// Start after boot in clock ticks (field 22 of `/proc/PID/stat`): 10 ms each.
    pub start_ticks: u64,
    /// `NSpid:` the pid in every pid namespace from the initial one inwards.
    pub namespace_pids: Vec<u32>,
    /// Links of `/proc/PID/ns`.
    pub namespaces: Namespaces,
    /// Path in the unified control group hierarchy, from `/proc/PID/cgroup`.
    pub cgroup: Option<String>,
    /// The other lines of that file: hierarchy and path.
    pub cgroups_v1: Vec<(String, String)>,
    /// `CapInh:`, `CapPrm:`, `CapBnd:`, `CapAmb:`.
    pub capabilities: [u64; 4],
    /// `Groups:`, ascending.
    pub groups: Vec<u32>,
    /// `NoNewPrivs:`
    pub no_new_privs: bool,
    /// `Seccomp:` 0, 1 or 2.
    pub seccomp: u32,
    /// Process group and session (fields 5 and 6 of `/proc/PID/stat`).
    pub process_group: u32,
    /// See above.
    pub session: u32,
    /// Controlling terminal (field 7, taken apart by proc(5)): major and minor number. `None`: there is none.
    pub terminal: Option<(u32, u32)>,
    /// What `/sys/dev/char` calls that device; devpts has no entry there.
    pub terminal_name: Option<String>,
    /// User and system time in clock ticks (fields 14 and 15).
    pub cpu_ticks: u64,
    /// Resident pages (second number of `/proc/PID/statm`).
    pub resident_pages: u64,
    /// `/proc/PID/environ` split as the arguments are.
    pub environment: Vec<String>,
    /// `/proc/PID/task`, ascending.
    pub tasks: Vec<Task>,
}

/// One thread, from `/proc/PID/task/TID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its number in the initial pid namespace.
    pub tid: u32,
    /// Its name, as [`Process::comm`].
    pub comm: String,
    /// Letter of its state.
    pub state: char,
    /// Its flags.
    pub flags: u32,
    /// Start after boot in clock ticks.
    pub start_ticks: u64,
}

/// Inode numbers of `/proc/PID/ns/*`; `None` where the link does not read (a zombie has left most of them).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// `ns/pid`
    pub pid: Option<u32>,
    /// `ns/net`
    pub net: Option<u32>,
    /// `ns/mnt`
    pub mnt: Option<u32>,
    /// `ns/user`
    pub user: Option<u32>,
    /// `ns/uts`
    pub uts: Option<u32>,
    /// `ns/ipc`
    pub ipc: Option<u32>,
    /// `ns/cgroup`
    pub cgroup: Option<u32>,
}

/// The file of `/proc/PID/net` that lists a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// `tcp`
    Tcp,
    /// `tcp6`
    Tcp6,
    /// `udp`
    Udp,
    /// `udp6`
    Udp6,
    /// `udplite`
    Udplite,
    /// `udplite6`
    Udplite6,
    /// `raw`
    Raw,
    /// `raw6`
    Raw6,
    /// `unix`
    Unix,
    /// `packet`
    Packet,
    /// `netlink`
    Netlink,
    /// `icmp`
    Icmp,
    /// `icmp6`
    Icmp6,
    /// `sctp/eps` and `sctp/assocs`
    Sctp,
    /// No file; from `sock_diag`.
    Mptcp,
    /// No file; from `sock_diag`.
    Vsock,
    /// No file; from `sock_diag`.
    Xdp,
}

/// One line of one of the tables, with the pids that hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Where it is listed.
    pub table: Table,
    /// Inode number of its network namespace.
    pub net_namespace: u32,
    /// `SOCK_*`: from the line of unix and packet sockets, known from the table for IP; netlink's table does not tell.
    pub socket_type: Option<u16>,
    /// Raw: IP protocol. Packet: EtherType, host order. Netlink: `NETLINK_*`. Others: `None`.
    pub protocol: Option<u16>,
    /// State as the line prints it: `TCP_*` of include/net/tcp_states.h, or `SS_*` for unix. `None`: no such column.
    pub state_code: Option<u8>,
    /// The same in the words of Birthmark's JSON contract (`listen`, `established`, `time-wait`, `close`, `unconnected`, …).
    pub state: Option<String>,
    /// IP: local address.
    pub local_address: Option<IpAddr>,
    /// IP: local port (0 for raw).
    pub local_port: Option<u16>,
    /// IP: remote address, the unspecified one without a peer.
    pub remote_address: Option<IpAddr>,
    /// IP: remote port.
    pub remote_port: Option<u16>,
    /// Unix: path; an abstract name begins with `@`, and NULs in it are printed as `@`.
    pub path: Option<String>,
    /// Netlink: port id (the column is called Pid).
    pub netlink_port: Option<u32>,
    /// Netlink: the first 32 groups joined.
    pub netlink_groups: Option<u32>,
    /// Packet: interface index, 0 for any.
    pub interface: Option<u32>,
    /// Inode in sockfs. `None`: printed as 0 (time-wait, requests, orphans, kernel sockets).
    pub inode: Option<u64>,
    /// Owner, where the table has the column.
    pub uid: Option<u32>,
    /// Receive queue as `ss` prints it.
    pub receive_queue: Option<u32>,
    /// Send queue as `ss` prints it.
    pub send_queue: Option<u32>,
    /// Unix, from `sock_diag`: inode of the peer.
    pub peer_inode: Option<u64>,
    /// Packet, from `sock_diag`: instructions of its classic filter. `None`: it has none, or nobody was asked.
    pub filter_instructions: Option<u32>,
    /// Netlink, from `sock_diag`: numbers of all groups joined.
    pub netlink_group_numbers: Option<Vec<u32>>,
    /// Vsock: local context id and port, remote context id and port.
    pub vsock: Option<[u32; 4]>,
    /// Its cookie, from `sock_diag`, which makes one when it is asked. `None`: nobody was asked, or it has no inode.
    pub cookie: Option<u64>,
    /// IP and unix, from `sock_diag`: what is shut down (1: it receives nothing, 2: it sends nothing). `None`: nobody was asked.
    pub shutdown: Option<u8>,
    /// IP, from `sock_diag`: its mark, perhaps 0. `None`: nobody was asked.
    pub mark: Option<u32>,
    /// IP, from `sock_diag` and `ip_local_port_range`: whether `ss autobound` would choose it. `None`: nobody was asked.
    pub autobound: Option<bool>,
    /// Pids whose `/proc/PID/fd`, or that of one of their threads, holds the inode, ascending.
    pub processes: Vec<u32>,
    /// The same with the number of each descriptor.
    pub descriptors: Vec<(u32, u32)>,
}

/// One line of `/proc/modules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Reference count as printed; `None`: `-` (unloading is not supported).
    pub references: Option<u32>,
    /// `Live`, `Loading` or `Unloading`.
    pub state: String,
    /// Load address.
    pub address: u64,
}

/// One eBPF program, as the system call `bpf` tells. Numbers are those of include/uapi/linux/bpf.h.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its id.
    pub id: u32,
    /// ``enum bpf_prog_type``.
    pub kind: u32,
    /// Its name, perhaps empty.
    pub name: String,
    /// Its tag in lower-case hex.
    pub tag: String,
    /// When it was loaded, in nanoseconds since boot.
    pub load_time_ns: u64,
    /// Who loaded it.
    pub uid: u32,
    /// Bytes of its instructions, of eight bytes each.
    pub instruction_bytes: u32,
    /// Bytes of its machine code.
    pub jited_bytes: u32,
    /// Ids of its maps, ascending.
    pub maps: Vec<u32>,
    /// Where it is attached: what links tell, and what control groups, interfaces, the agent's network namespace and the
    /// perf events of processes say when they are asked. Sockets do not tell.
    pub places: Vec<Place>,
    /// Pids with a descriptor of it, of a link to it, or of a perf event with it, ascending.
    pub processes: Vec<u32>,
    /// Whether it or a link to it is pinned in `/sys/fs/bpf`.
    pub pinned: bool,
}

/// Where a program is attached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// ``enum bpf_link_type``, also of what is no link.
    pub kind: u32,
    /// Path of a control group, name of an interface, tracepoint, function or iterator's target, `net:[inode]`; of a perf event the
    /// function or tracepoint; of netfilter the numbers of family and hook; path of a file that is probed; the struct that a map
    /// stands for and the map's name. `None`: the kernel does not say.
    pub target: Option<String>,
    /// ``enum bpf_attach_type``, if the place has more than one; of XDP the bit of its mode in ``XDP_FLAGS_MODES``.
    pub attach_type: Option<u32>,
    /// Id of the link.
    pub link: Option<u32>,
    /// Of a link to several functions or places in a file: how many, and the first eight.
    pub sites: Option<(u32, Vec<String>)>,
    /// Of a hook of netfilter.
    pub priority: Option<i32>,
}

impl Truth {
    /// The process with this pid.
    #[must_use]
    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.iter().find(|process| process.pid == pid)
    }

    /// Processes that are not kernel threads.
    pub fn user_processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| !process.kernel_thread)
    }

    /// Sockets that this process holds.
    pub fn sockets_of(&self, pid: u32) -> impl Iterator<Item = &Socket> {
        self.sockets.iter().filter(move |socket| socket.processes.contains(&pid))
    }

    /// Whether the other truth shows the same objects: everything but what changes by itself in an idle guest (the clock,
    /// running or sleeping, time and memory used, what a kernel worker works on, timers of TCP). If the truths before and after a look agree,
    /// the look had one state of the tables to see.
    #[must_use]
    pub fn same_objects(&self, other: &Self) -> bool {
        let process = |process: &Process| {
            let mut process = process.clone();
            process.proc_comm.clear();
            if matches!(process.state, 'R' | 'S' | 'I' | 'D') {
                process.state = 'S';
            }
            process.flags = 0;
            process.cpu_ticks = 0;
            process.resident_pages = 0;
            for task in &mut process.tasks {
                if matches!(task.state, 'R' | 'S' | 'I' | 'D') {
                    task.state = 'S';
                }
                task.flags = 0;
            }
            process
        };
        // What comes and goes between two truths is in neither, but it was counted.
        let counted = |truth: &Self| (truth.kernel.forks, truth.kernel.last_pid);
        self.kernel.boot_id == other.kernel.boot_id
            && counted(self) == counted(other)
            && self.modules == other.modules
            && self.programs == other.programs
            && self.sockets == other.sockets
            && self.processes.iter().map(process).eq(other.processes.iter().map(process))
    }
}

impl Socket {
    /// Whether it accepts connections or is bound to receive datagrams from anyone.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.state.as_deref() == Some("listen")
    }
}
