//! Loads the eBPF programs that a workload is told to, and attaches them. None of them does anything.

use crate::bpf::{self, Attributes};
use crate::init::{Result, context};
use nix::libc;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use testkit::command::ProgramSpec;

/// ``enum bpf_prog_type``.
const SOCKET_FILTER: u32 = 1;
const KPROBE: u32 = 2;
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const CGROUP_SKB: u32 = 8;
const RAW_TRACEPOINT: u32 = 17;
const FLOW_DISSECTOR: u32 = 22;
const SK_LOOKUP: u32 = 30;
/// ``enum bpf_attach_type``.
const INGRESS: u32 = 0;
const EGRESS: u32 = 1;
const TO_FLOW_DISSECTOR: u32 = 17;
const TO_SK_LOOKUP: u32 = 36;
const TO_XDP: u32 = 37;
const TO_PERF_EVENT: u32 = 41;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// ``XDP_FLAGS_SKB_MODE``, include/uapi/linux/if_link.h.
const XDP_GENERIC: u32 = 1 << 1;
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
        ProgramSpec::CgroupLink { cgroup } => {
            let program = bpf::load(CGROUP_SKB, EGRESS, "leaving", &returns(1))?;
            Ok(vec![link(&program, group(cgroup)?.as_raw_fd(), EGRESS, 0)?])
        }
        ProgramSpec::Cgroup { cgroup } => {
            let program = bpf::load(CGROUP_SKB, INGRESS, "entering", &returns(1))?;
            attach(&program, group(cgroup)?.as_raw_fd(), INGRESS, ALLOW_MULTI)?;
            Ok(Vec::new())
        }
        ProgramSpec::RawTracepoint { name } => {
            let program = bpf::load(RAW_TRACEPOINT, 0, "raw", &returns(0))?;
            let name = std::ffi::CString::new(name.as_str()).map_err(io::Error::other)?;
            let mut attributes = Attributes::new().pointing(0, name.as_ptr()).with_fd(8, program.as_raw_fd());
            Ok(vec![attributes.open(bpf::RAW_TRACEPOINT_OPEN)?])
        }
        ProgramSpec::Kprobe { function } => {
            let program = bpf::load(KPROBE, 0, "probe", &returns(0))?;
            let event = probe(function)?;
            // SAFETY: takes the descriptor of a program as its argument.
            let set = unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF, program.as_raw_fd()) };
            crate::system::check(set)?;
            Ok(vec![event])
        }
        ProgramSpec::KprobeLink { function } => {
            let program = bpf::load(KPROBE, 0, "probe_link", &returns(0))?;
            Ok(vec![link(&program, probe(function)?.as_raw_fd(), TO_PERF_EVENT, 0)?])
        }
        ProgramSpec::XdpLink => {
            // ``XDP_PASS``.
            let program = bpf::load(XDP, TO_XDP, "xdp", &returns(2))?;
            Ok(vec![link(&program, LOOPBACK.cast_signed(), TO_XDP, XDP_GENERIC)?])
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
    }
}

/// The directory of a control group, made if missing.
fn group(path: &str) -> io::Result<File> {
    let path = format!("/sys/fs/cgroup{path}");
    fs::create_dir_all(&path)?;
    File::open(path)
}

fn link(program: &OwnedFd, target: RawFd, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    Attributes::new()
        .with_fd(0, program.as_raw_fd())
        .with_fd(4, target)
        .with(8, attach_type)
        .with(12, flags)
        .open(bpf::LINK_CREATE)
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
    /// ``PERF_FLAG_FD_CLOEXEC``, include/uapi/linux/perf_event.h.
    const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
    let kind = fs::read_to_string("/sys/bus/event_source/devices/kprobe/type")?;
    let kind: u32 = kind.trim().parse().map_err(io::Error::other)?;
    let function = std::ffi::CString::new(function).map_err(io::Error::other)?;
    // ``struct perf_event_attr``: type, its own size (``PERF_ATTR_SIZE_VER5``), and the function's name at ``config1``.
    let mut attributes = [0_u64; 14];
    attributes[0] = u64::from(kind) | 112 << 32;
    attributes[7] = function.as_ptr().expose_provenance() as u64;
    // SAFETY: the kernel reads the attributes, of the length that they say, and the name, which both live through the call.
    crate::system::owned(unsafe {
        libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), -1, 0, -1, CLOSE_ON_EXEC)
    })
}
