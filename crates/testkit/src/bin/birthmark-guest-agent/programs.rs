//! Loads the eBPF programs that a workload is told to, and attaches them. None of them does anything.

use crate::bpf::{self, Attributes};
use crate::btf::{self, Types};
use crate::init::{Result, context};
use crate::{links, struct_ops};
use nix::libc;
use nix::mount::{MsFlags, mount};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use testkit::command::{ProgramSpec, TracingWay};

/// ``enum bpf_prog_type``.
const SOCKET_FILTER: u32 = 1;
const KPROBE: u32 = 2;
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const CGROUP_SKB: u32 = 8;
const TRACEPOINT: u32 = 5;
const PERF_EVENT: u32 = 7;
const SK_SKB: u32 = 14;
const RAW_TRACEPOINT: u32 = 17;
const FLOW_DISSECTOR: u32 = 22;
const TRACING: u32 = 26;
const SECURITY_HOOK: u32 = 29;
const SK_LOOKUP: u32 = 30;
const NETFILTER: u32 = 32;
/// ``enum bpf_attach_type``.
const INGRESS: u32 = 0;
const EGRESS: u32 = 1;
const TO_FLOW_DISSECTOR: u32 = 17;
const TO_TYPED_TRACEPOINT: u32 = 23;
const TO_ENTRY: u32 = 24;
const TO_EXIT: u32 = 25;
const TO_RETURN: u32 = 26;
const TO_HOOK: u32 = 27;
const TO_ITERATOR: u32 = 28;
const TO_SK_LOOKUP: u32 = 36;
const TO_XDP: u32 = 37;
const TO_SK_SKB: u32 = 38;
const TO_PERF_EVENT: u32 = 41;
const TO_KPROBES: u32 = 42;
const TO_GROUP_HOOK: u32 = 43;
const TO_NETFILTER: u32 = 45;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
const TO_UPROBES: u32 = 48;
const NETKIT_PRIMARY: u32 = 54;
const NETKIT_PEER: u32 = 55;
/// ``BPF_MAP_TYPE_SOCKMAP``.
const SOCKMAP: u32 = 15;
/// ``BPF_F_ALLOW_MULTI``.
const ALLOW_MULTI: u32 = 1 << 1;
/// The loopback interface is the first of its namespace.
const LOOPBACK: u32 = 1;
/// ``PERF_EVENT_IOC_SET_BPF``: ``_IOW('$', 8, __u32)``.
const SET_BPF: libc::c_ulong = 0x4004_2408;
/// `exit`.
const EXIT: u64 = 0x95;

/// `return value`.
fn returns(value: u32) -> [u64; 2] {
    [0xb7 | u64::from(value) << 32, EXIT]
}

/// What must be kept open.
pub(crate) fn load_all(programs: &[ProgramSpec]) -> Result<Vec<OwnedFd>> {
    let mut held = Vec::new();
    if !programs.is_empty() {
        // Before 5.11 programs count as locked memory.
        let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the kernel reads one rlimit, which lives through the call.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
        context(crate::system::check(set), "RLIMIT_MEMLOCK")?;
    }
    for spec in programs {
        held.extend(context(load(spec), &format!("{spec:?}"))?);
    }
    Ok(held)
}

fn load(spec: &ProgramSpec) -> io::Result<Vec<OwnedFd>> {
    match spec {
        ProgramSpec::SocketFilter => {
            // An array of one element of eight bytes.
            let mut attributes = Attributes::new().with(0, 2).with(4, 4).with(8, 8).with(12, 1);
            let map = attributes.open(bpf::MAP_CREATE)?;
            // ``r1 = map``: two instructions, the first with ``BPF_PSEUDO_MAP_FD`` as its source.
            let load_map = 0x18 | 1 << 8 | 1 << 12 | u64::from(map.as_raw_fd().cast_unsigned()) << 32;
            let [first, last] = returns(0);
            Ok(vec![bpf::load(SOCKET_FILTER, 0, "with_map", &[load_map, 0, first, last])?])
        }
        ProgramSpec::WithFunction => {
            // A call of what is two instructions on (``BPF_PSEUDO_CALL``), and the end.
            let [first, last] = returns(0);
            Ok(vec![bpf::load(KPROBE, 0, "calling", &[0x85 | 1 << 12 | 1 << 32, EXIT, first, last])?])
        }
        ProgramSpec::CgroupLink { cgroup } => {
            let program = bpf::load(CGROUP_SKB, EGRESS, "leaving", &returns(1))?;
            Ok(vec![link(&program, group(cgroup)?.as_raw_fd(), EGRESS, 0)?])
        }
        ProgramSpec::Cgroup { cgroup } => {
            let program = bpf::load(CGROUP_SKB, INGRESS, "entering", &returns(1))?;
            attach(&program, group(cgroup)?.as_raw_fd(), INGRESS, ALLOW_MULTI)?;
            Ok(Vec::new())
        }
        ProgramSpec::RawTracepoint { name } => Ok(vec![raw_tracepoint("raw", name)?]),
        ProgramSpec::Pinned { name } => {
            let place = "/sys/fs/bpf";
            if fs::read_dir(place)?.next().is_none() {
                mount(Some("bpf"), place, Some("bpf"), MsFlags::empty(), None::<&str>)?;
            }
            let link = raw_tracepoint("pinned", name)?;
            let path = c_string(&format!("{place}/{name}"))?;
            let mut attributes = Attributes::new().pointing(0, path.as_ptr()).with_fd(8, link.as_raw_fd());
            attributes.call(bpf::OBJ_PIN)?;
            Ok(Vec::new())
        }
        ProgramSpec::StructOps { name, link } => Ok(struct_ops::register(name, *link)?.into_iter().collect()),
        ProgramSpec::Kprobe { function } => {
            let program = bpf::load(KPROBE, 0, "probe", &returns(0))?;
            let event = probe(function)?;
            set_program(&event, &program)?;
            Ok(vec![event])
        }
        ProgramSpec::KprobeLink { function } => {
            let program = bpf::load(KPROBE, 0, "probe_link", &returns(0))?;
            Ok(vec![link(&program, probe(function)?.as_raw_fd(), TO_PERF_EVENT, 0)?])
        }
        ProgramSpec::XdpLink => {
            // ``XDP_PASS``.
            let program = bpf::load(XDP, TO_XDP, "xdp", &returns(2))?;
            Ok(vec![link(&program, LOOPBACK.cast_signed(), TO_XDP, links::GENERIC)?])
        }
        ProgramSpec::TcxLink => {
            let program = bpf::load(SCHED_CLS, TCX_INGRESS, "tcx_link", &returns(0))?;
            Ok(vec![link(&program, LOOPBACK.cast_signed(), TCX_INGRESS, 0)?])
        }
        ProgramSpec::Tcx => {
            let program = bpf::load(SCHED_CLS, TCX_EGRESS, "tcx", &returns(0))?;
            attach(&program, LOOPBACK.cast_signed(), TCX_EGRESS, 0)?;
            Ok(Vec::new())
        }
        ProgramSpec::SocketLookupLink => {
            // ``SK_PASS``.
            let program = bpf::load(SK_LOOKUP, TO_SK_LOOKUP, "lookup", &returns(1))?;
            let namespace = File::open("/proc/self/ns/net")?;
            Ok(vec![link(&program, namespace.as_raw_fd(), TO_SK_LOOKUP, 0)?])
        }
        ProgramSpec::FlowDissector => {
            let program = bpf::load(FLOW_DISSECTOR, TO_FLOW_DISSECTOR, "dissector", &returns(0))?;
            attach(&program, 0, TO_FLOW_DISSECTOR, 0)?;
            Ok(Vec::new())
        }
        ProgramSpec::Tracing { .. }
        | ProgramSpec::TypedTracepoint { .. }
        | ProgramSpec::Iterator { .. }
        | ProgramSpec::GroupHook { .. }
        | ProgramSpec::KprobeMulti { .. }
        | ProgramSpec::UprobeMulti { .. }
        | ProgramSpec::Tracepoint { .. }
        | ProgramSpec::ClockLink => traced(spec),
        ProgramSpec::Netfilter => {
            // ``NF_ACCEPT``, for what IPv4 sends (``NF_INET_LOCAL_OUT``), after others.
            let program = bpf::load(NETFILTER, TO_NETFILTER, "accepting", &returns(1))?;
            let attributes = linking(&program, 0, TO_NETFILTER, 0);
            Ok(vec![attributes.with(16, 2).with(20, 3).with(24, 100).open(bpf::LINK_CREATE)?])
        }
        ProgramSpec::Sockmap => {
            let mut map = Attributes::new().with(0, SOCKMAP).with(4, 4).with(8, 4).with(12, 1);
            let map = map.open(bpf::MAP_CREATE)?;
            // ``SK_PASS``.
            let program = bpf::load(SK_SKB, TO_SK_SKB, "mapped", &returns(1))?;
            Ok(vec![link(&program, map.as_raw_fd(), TO_SK_SKB, 0)?])
        }
        ProgramSpec::Xdp { native } => {
            let program = bpf::load(XDP, TO_XDP, "xdp_set", &returns(2))?;
            let pair = links::made("pair", "veth")?;
            // Each mode on an end of its own: no interface has both.
            let (interface, mode) = match (native, pair.peer) {
                (true, _) => (pair.index, links::NATIVE),
                (false, Some(peer)) => (peer, links::GENERIC),
                (false, None) => return Err(io::Error::other("An interface without its other end")),
            };
            links::set_xdp(interface, program.as_raw_fd(), mode)?;
            Ok(Vec::new())
        }
        ProgramSpec::NetkitLink => {
            let program = bpf::load(SCHED_CLS, NETKIT_PRIMARY, "netkit_link", &returns(0))?;
            Ok(vec![link(&program, netkit()?, NETKIT_PRIMARY, 0)?])
        }
        ProgramSpec::Netkit => {
            let program = bpf::load(SCHED_CLS, NETKIT_PEER, "netkit", &returns(0))?;
            attach(&program, netkit()?, NETKIT_PEER, 0)?;
            Ok(Vec::new())
        }
    }
}

/// What runs when the kernel itself does something.
fn traced(spec: &ProgramSpec) -> io::Result<Vec<OwnedFd>> {
    let target = |kind, name: &str| Types::of_kernel()?.id(kind, name);
    match spec {
        ProgramSpec::Tracing { way, function } => {
            let (kind, attach_type, name) = match way {
                TracingWay::Entry => (TRACING, TO_ENTRY, function.clone()),
                TracingWay::Exit => (TRACING, TO_EXIT, function.clone()),
                TracingWay::ModifyReturn => (TRACING, TO_RETURN, function.clone()),
                TracingWay::Hook => (SECURITY_HOOK, TO_HOOK, format!("bpf_lsm_{function}")),
            };
            let target = target(btf::FUNCTION, &name)?;
            let program = bpf::load_for(kind, attach_type, target, &name, &returns(0))?;
            Ok(vec![Attributes::new().with_fd(8, program.as_raw_fd()).open(bpf::RAW_TRACEPOINT_OPEN)?])
        }
        ProgramSpec::TypedTracepoint { name } => {
            let target = target(btf::TYPEDEF, &format!("btf_trace_{name}"))?;
            let program = bpf::load_for(TRACING, TO_TYPED_TRACEPOINT, target, "typed", &returns(0))?;
            Ok(vec![Attributes::new().with_fd(8, program.as_raw_fd()).open(bpf::RAW_TRACEPOINT_OPEN)?])
        }
        ProgramSpec::Iterator { target: name } => {
            let target = target(btf::FUNCTION, &format!("bpf_iter_{name}"))?;
            let program = bpf::load_for(TRACING, TO_ITERATOR, target, "iterator", &returns(0))?;
            Ok(vec![link(&program, 0, TO_ITERATOR, 0)?])
        }
        ProgramSpec::GroupHook { cgroup, hook } => {
            let target = target(btf::FUNCTION, &format!("bpf_lsm_{hook}"))?;
            let program = bpf::load_for(SECURITY_HOOK, TO_GROUP_HOOK, target, "group_hook", &returns(1))?;
            Ok(vec![link(&program, group(cgroup)?.as_raw_fd(), TO_GROUP_HOOK, 0)?])
        }
        ProgramSpec::KprobeMulti { functions } => {
            let program = bpf::load(KPROBE, TO_KPROBES, "probes", &returns(0))?;
            let names = functions.iter().map(|name| c_string(name)).collect::<io::Result<Vec<_>>>()?;
            let names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
            let count = u32::try_from(names.len()).map_err(io::Error::other)?;
            let attributes = linking(&program, 0, TO_KPROBES, 0);
            Ok(vec![attributes.with(20, count).pointing(24, names.as_ptr()).open(bpf::LINK_CREATE)?])
        }
        ProgramSpec::UprobeMulti { path, offsets } => {
            if !fs::exists(path)? {
                fs::create_dir_all(Path::new(path).parent().unwrap_or(Path::new("/")))?;
                fs::write(path, [0x90; 4096])?;
            }
            let program = bpf::load(KPROBE, TO_UPROBES, "uprobes", &returns(0))?;
            let path = c_string(path)?;
            let count = u32::try_from(offsets.len()).map_err(io::Error::other)?;
            let attributes = linking(&program, 0, TO_UPROBES, 0).with(48, count);
            let mut attributes = attributes.pointing(16, path.as_ptr()).pointing(24, offsets.as_ptr());
            Ok(vec![attributes.open(bpf::LINK_CREATE)?])
        }
        ProgramSpec::Tracepoint { system, name } => {
            let program = bpf::load(TRACEPOINT, 0, "tracepoint", &returns(0))?;
            let events = "/sys/kernel/tracing";
            if !fs::exists(format!("{events}/events"))? {
                mount(Some("tracefs"), events, Some("tracefs"), MsFlags::empty(), None::<&str>)?;
            }
            let number = fs::read_to_string(format!("{events}/events/{system}/{name}/id"))?;
            // ``PERF_TYPE_TRACEPOINT``.
            let event = event(2, number.trim().parse().map_err(io::Error::other)?, 0)?;
            set_program(&event, &program)?;
            Ok(vec![event])
        }
        ProgramSpec::ClockLink => {
            let program = bpf::load(PERF_EVENT, 0, "clock", &returns(0))?;
            // ``PERF_TYPE_SOFTWARE``, ``PERF_COUNT_SW_CPU_CLOCK``, and never due.
            let event = event(1, 0, 0)?;
            Ok(vec![link(&program, event.as_raw_fd(), TO_PERF_EVENT, 0)?])
        }
        other => Err(io::Error::other(format!("{other:?} traces nothing"))),
    }
}

/// The link of a program to a raw tracepoint.
fn raw_tracepoint(program: &str, name: &str) -> io::Result<OwnedFd> {
    let program = bpf::load(RAW_TRACEPOINT, 0, program, &returns(0))?;
    let name = c_string(name)?;
    let mut attributes = Attributes::new().pointing(0, name.as_ptr()).with_fd(8, program.as_raw_fd());
    attributes.open(bpf::RAW_TRACEPOINT_OPEN)
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

/// Index of the first interface of a netkit pair.
fn netkit() -> io::Result<RawFd> {
    RawFd::try_from(links::made("kit", "netkit")?.index).map_err(io::Error::other)
}

/// The directory of a control group, made if missing.
fn group(path: &str) -> io::Result<File> {
    let path = format!("/sys/fs/cgroup{path}");
    fs::create_dir_all(&path)?;
    File::open(path)
}

fn link(program: &OwnedFd, target: RawFd, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    linking(program, target, attach_type, flags).open(bpf::LINK_CREATE)
}

fn linking(program: &OwnedFd, target: RawFd, attach_type: u32, flags: u32) -> Attributes {
    let attributes = Attributes::new().with_fd(0, program.as_raw_fd()).with_fd(4, target);
    attributes.with(8, attach_type).with(12, flags)
}

fn attach(program: &OwnedFd, target: RawFd, attach_type: u32, flags: u32) -> io::Result<()> {
    Attributes::new()
        .with_fd(0, target)
        .with_fd(4, program.as_raw_fd())
        .with(8, attach_type)
        .with(12, flags)
        .call(bpf::PROG_ATTACH)
        .map(drop)
}

/// A perf event for each time that a function of the kernel is called.
fn probe(function: &str) -> io::Result<OwnedFd> {
    let kind = fs::read_to_string("/sys/bus/event_source/devices/kprobe/type")?;
    let function = c_string(function)?;
    event(kind.trim().parse().map_err(io::Error::other)?, 0, function.as_ptr().expose_provenance() as u64)
}

/// A perf event of the first CPU. `name` is null or points at a string that lives through the call.
fn event(kind: u32, number: u64, name: u64) -> io::Result<OwnedFd> {
    /// ``PERF_FLAG_FD_CLOEXEC``, include/uapi/linux/perf_event.h.
    const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
    // ``struct perf_event_attr``: type, its own size (``PERF_ATTR_SIZE_VER5``), the number, and a function's name at ``config1``.
    let mut attributes = [0_u64; 14];
    attributes[0] = u64::from(kind) | 112 << 32;
    attributes[1] = number;
    attributes[7] = name;
    // SAFETY: the kernel reads the attributes, of the length that they say, and the name, which both live through the call.
    crate::system::owned(unsafe {
        libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), -1, 0, -1, CLOSE_ON_EXEC)
    })
}

/// Has the program run whenever the event happens.
fn set_program(event: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes the descriptor of a program as its argument.
    crate::system::check(unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF, program.as_raw_fd()) }).map(drop)
}
