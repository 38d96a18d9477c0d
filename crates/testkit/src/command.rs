//! What the guest's workload can be told to do: the protocol of the command port, shared by the agent and the tests.
//!
//! One JSON object per line each way. A request is a [`Request`], a reply a [`Reply`] with the request's `id`. After boot,
//! before any request, the agent sends one reply with id 0 and the value `"ready"`.
//!
//! Nearly everything a guest can hold is one [`Spawn`]: a process, with what is odd about it, and the sockets it has. The
//! programs are copies of the agent under any path, so that a "rogue" binary is a file of its own.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// A command with a number that its reply repeats.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the caller; 0 if left out.
    #[serde(default)]
    pub id: u64,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// Answer to the request with the same id: exactly one of `ok` and `error`.
#[derive(Clone, Debug, Serialize, Deserialize)]
// A terminal that nobody has set up yet echoes the request, whose `id` is the same.
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// Of the request; 0 for the greeting and for a line that was no request.
    pub id: u64,
    /// Result, its type told by the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<serde_json::Value>,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A command. The comment of each says what `ok` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Nothing → `"pong"`.
    Ping,
    /// → [`Truth`](crate::truth::Truth).
    Truth,
    /// Starts a process → [`Spawned`], once its sockets are there.
    Spawn(Spawn),
    /// Starts `count` copies of one process → list of [`Spawned`].
    SpawnMany {
        /// How many.
        count: u32,
        /// Each of them.
        #[serde(default)]
        spawn: Spawn,
    },
    /// A process with one TCP listener or UDP socket → [`Spawned`].
    Listen {
        /// Transport.
        #[serde(default)]
        protocol: Transport,
        /// `0.0.0.0:4444`, `[::]:53`, …; port 0 lets the kernel choose.
        address: SocketAddr,
        /// Path of the program; made if missing.
        #[serde(default = "default_exe")]
        exe: String,
    },
    /// A process with one connected socket → [`Spawned`].
    Connect {
        /// Transport.
        #[serde(default)]
        protocol: Transport,
        /// Peer.
        address: SocketAddr,
        /// Path of the program; made if missing.
        #[serde(default = "default_exe")]
        exe: String,
    },
    /// Sends a signal. `SIGKILL` (the default) to a child of the agent returns only when it is reaped → `null`.
    Kill {
        /// Whom.
        pid: u32,
        /// Signal number, 9 if left out.
        #[serde(default)]
        signal: Option<i32>,
    },
    /// `parallel` processes that fork and reap as fast as they can → [`Spawned`] (kill its pid to stop it early).
    ForkStorm {
        /// How many at once.
        parallel: u32,
        /// Then it ends by itself.
        seconds: u32,
    },
    /// What an echo server or ping-pong process has done so far → [`Traffic`].
    Traffic {
        /// Its pid.
        pid: u32,
    },
    /// Loads a module of the initramfs after the modules it needs → `null`.
    LoadModule {
        /// With underscores, as `/proc/modules` prints it.
        name: String,
    },
    /// Removes a module (not those it needed) → `null`.
    UnloadModule {
        /// As above.
        name: String,
    },
    /// Brings an interface up → `null`.
    NetUp {
        /// `eth0`, `lo`, …
        interface: String,
        /// `10.0.0.2/24`
        #[serde(default)]
        address: Option<String>,
        /// Default route.
        #[serde(default)]
        gateway: Option<IpAddr>,
    },
    /// Runs a program of the guest to its end → [`Output`].
    Run {
        /// Program and arguments: `["ip", "address"]` is busybox's.
        args: Vec<String>,
    },
    /// Passes a command on to the agent of a guest that runs inside this one → what that answers.
    Relay {
        /// Terminal or Unix socket that is the command port of that guest.
        port: String,
        /// The command.
        inner: Box<Command>,
        /// How long its answer is waited for, s.
        seconds: u64,
    },
    /// Powers the guest off; no reply.
    Poweroff,
}

/// Where the agent's own copies live if a command names no path.
fn default_exe() -> String {
    "/bin/workload".to_owned()
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// A stream.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

/// A process to start. Everything is optional; the default is an idle `/bin/workload` run by root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spawn {
    /// Path of the program. If there is no such file, a copy of the agent is put there.
    pub exe: String,
    /// Run `exe` as it is: it is no copy of the agent, so nothing below `args` that the program itself must do applies
    /// (`comm`, `threads`, `zombies`, `workers`, `rewrite_args`, `sockets`, `activity`).
    pub foreign: bool,
    /// The whole argument vector, `argv[0]` included; just `exe` if empty.
    pub args: Vec<String>,
    /// Real, effective and saved user id.
    pub uid: Option<u32>,
    /// Real, effective and saved group id.
    pub gid: Option<u32>,
    /// New namespaces to live in. `Pid` with `Mnt` gets a `/proc` of its own, `Net` has its loopback up.
    pub namespaces: Vec<Namespace>,
    /// Control group to be in, made if missing: `/docker-….scope`.
    pub cgroup: Option<String>,
    /// Control group of a version 1 hierarchy to be in as well, both made if missing: `name=lab:/a`, `freezer:/b`.
    pub cgroup_v1: Option<String>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities to keep, bit n is capability n: what it is not is taken from its bounding set, and then from the others.
    pub capabilities: Option<u64>,
    /// Capabilities of those that it also has as inheritable and ambient ones.
    pub ambient: u64,
    /// Executing a program is to give it no privileges.
    pub no_new_privs: bool,
    /// Put it under a filter of system calls that lets all pass.
    pub seccomp: bool,
    /// Give its session a terminal of its own to be controlled by (`/dev/pts/N`).
    pub terminal: bool,
    /// More of its environment: `NAME=VALUE`.
    pub environment: Vec<String>,
    /// Where `exe` is reached by another way than its own directory.
    pub mount: Option<MountSpec>,
    /// Root directory, made if missing; `exe` is inside of it.
    pub chroot: Option<String>,
    /// Start it from an anonymous memory file of this name (`/memfd:NAME (deleted)`) rather than from `exe`.
    pub memfd: Option<String>,
    /// Unlink `exe` once it runs.
    pub unlink_exe: bool,
    /// Stop it (`SIGSTOP`) once it is ready.
    pub stopped: bool,
    /// Kernel name of the process, 15 bytes at most.
    pub comm: Option<String>,
    /// Threads besides the first.
    pub threads: u32,
    /// Children that ended and are never waited for.
    pub zombies: u32,
    /// Children that live as long as it does, each with sockets of its own as listed below.
    pub workers: u32,
    /// Overwrite the argument vector in memory with this text, as servers do to show their state.
    pub rewrite_args: Option<String>,
    /// Sockets, opened in this order.
    pub sockets: Vec<SocketSpec>,
    /// eBPF programs, loaded in this order.
    pub programs: Vec<ProgramSpec>,
    /// What it does then.
    pub activity: Activity,
}

impl Default for Spawn {
    fn default() -> Self {
        Self {
            exe: default_exe(),
            foreign: false,
            args: Vec::new(),
            uid: None,
            gid: None,
            namespaces: Vec::new(),
            cgroup: None,
            cgroup_v1: None,
            groups: Vec::new(),
            capabilities: None,
            ambient: 0,
            no_new_privs: false,
            seccomp: false,
            terminal: false,
            environment: Vec::new(),
            mount: None,
            chroot: None,
            memfd: None,
            unlink_exe: false,
            stopped: false,
            comm: None,
            threads: 0,
            zombies: 0,
            workers: 0,
            rewrite_args: None,
            sockets: Vec::new(),
            programs: Vec::new(),
            activity: Activity::Idle,
        }
    }
}

/// A mount to run a program from; it stays when the process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSpec {
    /// The directory of `exe` is the upper view of an overlay file system, and the program is in its lower layer. The module
    /// must be loaded.
    Overlay,
    /// The directory of `exe` is another directory, mounted there a second time.
    Bind,
}

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// Pids.
    Pid,
    /// Network.
    Net,
    /// Mounts.
    Mnt,
    /// Users; 0 to 65535 inside are 100000 to 165535 outside.
    User,
    /// Host name.
    Uts,
    /// System V IPC.
    Ipc,
    /// Control groups.
    Cgroup,
}

/// What a process does once its sockets are there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Activity {
    /// Sleeps for ever.
    #[default]
    Idle,
    /// Accepts on its TCP listeners and sends back what it gets.
    Echo,
    /// Sends a line over its first connected TCP socket at this interval and reads the echo.
    PingPong {
        /// Milliseconds between two lines.
        interval_ms: u32,
    },
    /// Forks and reaps as fast as it can, then exits.
    ForkStorm {
        /// Processes that do so at once.
        parallel: u32,
        /// For how long.
        seconds: u32,
    },
    /// Opens and closes sockets of many kinds as fast as it can.
    SocketStorm {
        /// User id that these sockets say they are of; the process itself stays root.
        mark: u32,
    },
    /// Uses all the CPU it can get.
    Spin,
    /// Loads an eBPF program, attaches it by a link and lets it go again, for ever.
    ProgramStorm,
    /// Waits in an io_uring request that a worker of the kernel has to carry out.
    IoWorker,
}

/// Type of a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnixType {
    /// `SOCK_STREAM`
    Stream,
    /// `SOCK_DGRAM`
    Dgram,
    /// `SOCK_SEQPACKET`
    Seqpacket,
}

/// Sockets to hold. A unix path that begins with `@` is an abstract name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SocketSpec {
    /// TCP listener.
    TcpListen {
        /// Where.
        address: SocketAddr,
    },
    /// Established TCP connection to a listener that is already there.
    TcpConnect {
        /// Peer.
        address: SocketAddr,
    },
    /// Listener on this address and both ends of one connection to it.
    TcpPair {
        /// A local address.
        ip: IpAddr,
    },
    /// A connection closed by both ends: one `time-wait` without a process is left for 60 s (and a listener).
    TcpTimeWait {
        /// A local address.
        ip: IpAddr,
    },
    /// A connection closed by the client only: `fin-wait-2` without a process, `close-wait` held (and a listener).
    TcpHalfClosed {
        /// A local address.
        ip: IpAddr,
    },
    /// A connection whose client sends no more, by `shutdown(2)`: `fin-wait-2` and `close-wait`, both held (and a listener).
    TcpShutDown {
        /// A local address.
        ip: IpAddr,
    },
    /// Three pairs of unix sockets, one of each shut down: for reading, for writing, for both.
    UnixShutDown,
    /// A client that believes it is connected while the server's half is still a request, `syn-recv` (and a listener).
    TcpSynReceived {
        /// A local address.
        ip: IpAddr,
    },
    /// A connection to a full backlog: `syn-sent` (and the listener and the pair that fill it).
    TcpSynSent {
        /// A local address.
        ip: IpAddr,
    },
    /// A TCP socket neither bound nor connected: held, and listed in no table.
    TcpUnused,
    /// Bound UDP socket.
    UdpBind {
        /// Where.
        address: SocketAddr,
    },
    /// Connected UDP socket.
    UdpConnect {
        /// Peer; need not exist.
        address: SocketAddr,
    },
    /// Bound UDP-Lite socket.
    UdpLiteBind {
        /// Where.
        address: SocketAddr,
    },
    /// Listener, or for `dgram` a bound socket.
    UnixListen {
        /// Path or abstract name.
        path: String,
        /// Type.
        #[serde(rename = "type")]
        unix_type: UnixType,
    },
    /// Socket connected to a listener that is already there.
    UnixConnect {
        /// Path or abstract name.
        path: String,
        /// Type.
        #[serde(rename = "type")]
        unix_type: UnixType,
    },
    /// `socketpair`.
    UnixPair {
        /// Type.
        #[serde(rename = "type")]
        unix_type: UnixType,
    },
    /// Raw IP socket.
    Raw {
        /// IPv6 rather than IPv4.
        #[serde(default)]
        v6: bool,
        /// IP protocol number.
        protocol: u8,
    },
    /// Packet socket.
    Packet {
        /// EtherType, host order; 3 is all.
        ethertype: u16,
        /// `SOCK_DGRAM` rather than `SOCK_RAW`.
        #[serde(default)]
        cooked: bool,
    },
    /// Netlink socket with a port id of its own.
    Netlink {
        /// `NETLINK_*`; 0 is rtnetlink.
        protocol: u8,
        /// Groups to join, bit mask.
        #[serde(default)]
        groups: u32,
    },
    /// Netlink socket that joins one group by its number, which may be above 32.
    NetlinkMember {
        /// `NETLINK_*`.
        protocol: u8,
        /// Number, from 1.
        group: u32,
    },
    /// `ping` socket: ICMP without privileges.
    Ping {
        /// IPv6 rather than IPv4.
        #[serde(default)]
        v6: bool,
    },
    /// Packet socket for everything, with a filter and perhaps for one interface only: what a packet capture is, or an
    /// implant that waits for a magic packet.
    Capture {
        /// The filter.
        filter: Filter,
        /// Name of the interface.
        #[serde(default)]
        interface: Option<String>,
    },
    /// Packet socket of which only the mapping of its ring is left.
    CaptureMapped,
    /// Bound UDP socket that hears one interface only.
    UdpOnInterface {
        /// Where.
        address: SocketAddr,
        /// Name of the interface.
        interface: String,
    },
    /// TCP listener that sends packets with a mark (`SO_MARK`), and both ends of a connection to it, of which the server's has it too.
    TcpMarked {
        /// Where.
        address: SocketAddr,
        /// The mark.
        mark: u32,
    },
    /// IPv6 listener on any address, and a connection to it over IPv4, both ends held.
    TcpMapped,
    /// A connection whose server has 1000 bytes to read.
    TcpQueued {
        /// A local address.
        ip: IpAddr,
    },
    /// A client that was closed while its server reads nothing: `fin-wait-1`, without a process, until it gives up minutes
    /// later (and the listener and the server's end).
    TcpOrphan {
        /// A local address.
        ip: IpAddr,
    },
    /// Bound UDP socket with a datagram of 700 bytes to read.
    UdpQueued {
        /// A local address.
        ip: IpAddr,
    },
    /// A pair of unix sockets, with two messages of 300 and 40 bytes on their way.
    UnixQueued {
        /// Type.
        #[serde(rename = "type")]
        unix_type: UnixType,
    },
    /// TCP listener that was sent through a unix socket (its pair is held) and then closed: it is on its way for ever.
    TcpInFlight {
        /// Where.
        address: SocketAddr,
    },
    /// TCP listener that is registered with an io_uring (which is held) and then closed.
    TcpRegistered {
        /// Where.
        address: SocketAddr,
    },
    /// TCP listener that only a thread with a descriptor table of its own has.
    TcpInThread {
        /// Where.
        address: SocketAddr,
    },
    /// Listener of MPTCP and both ends of one connection to it.
    MptcpPair {
        /// A local address.
        ip: IpAddr,
    },
    /// SCTP listener (module `sctp`).
    SctpListen {
        /// Where.
        address: SocketAddr,
    },
    /// SCTP listener, and both ends of two connections to it (module `sctp`): from one port at two addresses, so that the kernel has
    /// two transports of one key.
    SctpPairs,
    /// Vsock listener on any address (module `vsock_loopback`).
    VsockListen {
        /// Port.
        port: u32,
    },
    /// Vsock listener, both ends of one connection to it, and one that is bound to nothing (module `vsock_loopback`).
    VsockPair,
    /// XDP socket, bound to nothing.
    Xdp,
    /// Socket of the kernel's crypto interface (module `af_alg`).
    Alg,
}

/// An eBPF program to load and attach: each does nothing but return at once. The process keeps the link where there is one; else
/// nothing but the place that the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ProgramSpec {
    /// A socket filter that uses a map, attached to nothing; its descriptor is kept.
    SocketFilter,
    /// A program with a function of its own, attached to nothing; its descriptor is kept.
    WithFunction,
    /// What leaves a control group, by a link.
    CgroupLink {
        /// Path of the group, made if missing.
        cgroup: String,
    },
    /// What enters a control group, without a link.
    Cgroup {
        /// Path of the group, made if missing.
        cgroup: String,
    },
    /// A raw tracepoint, by a link.
    RawTracepoint {
        /// Its name.
        name: String,
    },
    /// A kprobe, by a perf event, whose descriptor is kept.
    Kprobe {
        /// The kernel's function.
        function: String,
    },
    /// A kprobe, by a link to a perf event (5.15).
    KprobeLink {
        /// The kernel's function.
        function: String,
    },
    /// What enters the loopback interface, before there is a packet of it, by a link.
    XdpLink,
    /// What enters the loopback interface, by a link (6.6).
    TcxLink,
    /// What leaves the loopback interface, without a link (6.6).
    Tcx,
    /// Lookups of sockets in the network namespace, by a link.
    SocketLookupLink,
    /// How flows are told apart in the network namespace, without a link.
    FlowDissector,
    /// A function of the kernel, by a trampoline; the program has the function's name.
    Tracing {
        /// When the program runs.
        way: TracingWay,
        /// The kernel's function.
        function: String,
    },
    /// A tracepoint whose arguments have types, by a link.
    TypedTracepoint {
        /// Its name.
        name: String,
    },
    /// What a file of the kernel's objects shows, by a link.
    Iterator {
        /// Its target, such as `task`.
        target: String,
    },
    /// A hook of the security modules for what is in a control group, by a link (6.0).
    GroupHook {
        /// Path of the group, made if missing.
        cgroup: String,
        /// The hook.
        hook: String,
    },
    /// Several functions at once, by a link (5.18).
    KprobeMulti {
        /// The kernel's functions.
        functions: Vec<String>,
    },
    /// Several places in a file at once, by a link (6.6).
    UprobeMulti {
        /// The file, made if missing; it need not be a program.
        path: String,
        /// Where in it, in bytes.
        offsets: Vec<u64>,
    },
    /// A congestion control of TCP (5.6). Its programs are kept by nothing but the struct.
    StructOps {
        /// Its name, and that of the map.
        name: String,
        /// By a link (6.4).
        link: bool,
    },
    /// A raw tracepoint, by a link that is pinned, of which nobody has a descriptor.
    Pinned {
        /// Its name, and that of the pin.
        name: String,
    },
    /// A hook of netfilter, by a link (6.4).
    Netfilter,
    /// What the sockets of a map receive, by a link (6.10).
    Sockmap,
    /// A tracepoint, by a perf event, whose descriptor is kept.
    Tracepoint {
        /// Its system.
        system: String,
        /// Its name.
        name: String,
    },
    /// A clock of the kernel, by a link to a perf event (5.15).
    ClockLink,
    /// What enters an interface of a pair, without a link.
    Xdp {
        /// In the driver, and not before there is a packet of it.
        native: bool,
    },
    /// What leaves the first interface of a netkit pair, by a link (6.7).
    NetkitLink,
    /// What leaves the second one, without a link.
    Netkit,
}

/// When a program runs that is attached to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TracingWay {
    /// `fentry`
    Entry,
    /// `fexit`
    Exit,
    /// `fmod_ret`
    ModifyReturn,
    /// `lsm`: the function is a hook of the security modules.
    Hook,
}

/// A socket filter that lets everything through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Four instructions of classic BPF.
    Classic,
    /// An eBPF program of two instructions, whose descriptor is kept too.
    Ebpf,
}

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawned {
    /// Pid in the initial pid namespace.
    pub pid: u32,
    /// Local addresses of its IP sockets in the order they were opened, ports as the kernel chose them.
    pub addresses: Vec<SocketAddr>,
    /// Pids of its children (zombies, then workers), as it sees them.
    pub children: Vec<u32>,
}

/// What a traffic process has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Milliseconds since something was last received, at the moment of the command; `None`: never yet.
    pub silent_ms: Option<u64>,
}

/// What a program left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Exit status; `None`: a signal ended it.
    pub status: Option<i32>,
    /// Standard output, not UTF-8 replaced.
    pub stdout: String,
    /// Standard error, the same.
    pub stderr: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_of_a_request_is_no_reply() {
        let echo = serde_json::to_vec(&Request { id: 7, command: Command::Ping }).unwrap();
        serde_json::from_slice::<Reply>(&echo).unwrap_err();
        assert_eq!(serde_json::from_str::<Reply>(r#"{"id":7,"ok":null}"#).unwrap().id, 7);
    }
}
