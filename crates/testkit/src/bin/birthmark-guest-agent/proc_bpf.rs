//! The truth about eBPF: what the system call `bpf` says of programs and links, and what the places that can have programs
//! say when they are asked.

use crate::bpf::{self, Attributes, word};
use crate::btf::Types;
use crate::init::{Result, context};
use crate::links::{self, Interface};
use crate::struct_ops;
use nix::libc;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use testkit::truth::{Place, Process, Program};

/// Enough for the largest ``struct bpf_prog_info`` and ``struct bpf_link_info``.
const INFO: usize = 256;
/// Programs of one place, and maps of one program, that are asked for.
const IDS: usize = 64;
/// ``enum bpf_link_type``.
const RAW_TRACEPOINT: u32 = 1;
const TRACING: u32 = 2;
const CGROUP: u32 = 3;
const ITERATOR: u32 = 4;
const NET_NAMESPACE: u32 = 5;
const XDP: u32 = 6;
const PERF_EVENT: u32 = 7;
const KPROBE_MULTI: u32 = 8;
const STRUCT_OPS: u32 = 9;
const NETFILTER: u32 = 10;
const TCX: u32 = 11;
const UPROBE_MULTI: u32 = 12;
const NETKIT: u32 = 13;
const SOCKMAP: u32 = 14;
/// Places of a link to several of which the truth has more than the number.
const FIRST: usize = 8;
/// Ways in which a program can be attached to a control group that are asked for: in, out, new socket, socket operations,
/// device.
const OF_GROUPS: [u32; 5] = [0, 1, 2, 3, 6];
const FLOW_DISSECTOR: u32 = 17;
/// Of these the last one is of the other end of the pair that is asked.
const OF_INTERFACES: [(u32, u32); 4] = [(TCX, 46), (TCX, 47), (NETKIT, 54), (NETKIT, NETKIT_PEER)];
const NETKIT_PEER: u32 = 55;

/// All programs.
pub(crate) fn read_all(processes: &[Process]) -> Result<Vec<Program>> {
    let mut programs = BTreeMap::new();
    for id in ids(bpf::PROG_GET_NEXT_ID) {
        // One that goes meanwhile is none.
        if let Ok(descriptor) = Attributes::new().with(0, id).open(bpf::PROG_GET_FD_BY_ID) {
            programs.insert(id, program(&descriptor)?);
        }
    }
    if programs.is_empty() {
        return Ok(Vec::new());
    }
    let groups = groups();
    let interfaces = context(links::all(), "The network interfaces")?;
    for id in ids(bpf::LINK_GET_NEXT_ID) {
        if let Ok(descriptor) = Attributes::new().with(0, id).open(bpf::LINK_GET_FD_BY_ID) {
            let (of_link, place) = link(&descriptor, &groups, &interfaces)?;
            for id in of_link {
                if let Some(program) = programs.get_mut(&id) {
                    program.places.push(place.clone());
                }
            }
        }
    }
    for id in ids(struct_ops::NEXT) {
        let Some(map) = struct_ops::registered(id).ok().flatten().filter(|map| map.in_use) else { continue };
        for id in map.programs {
            if let Some(program) = programs.get_mut(&id) {
                program.places.push(Place { target: Some(map.target.clone()), ..unlinked(STRUCT_OPS) });
            }
        }
    }
    pinned(&mut programs);
    for process in processes {
        held(process.pid, &mut programs);
    }
    for (path, _) in groups.values() {
        let Ok(group) = File::open(format!("/sys/fs/cgroup{path}")) else { continue };
        for way in OF_GROUPS {
            asked(&mut programs, group.as_raw_fd(), CGROUP, Some(path), way);
        }
    }
    for interface in &interfaces {
        let index = context(RawFd::try_from(interface.index), "The index of an interface")?;
        for (kind, way) in OF_INTERFACES {
            let of = match way {
                NETKIT_PEER => interface.peer.and_then(|peer| named(&interfaces, peer)),
                _ => Some(interface.name.clone()),
            };
            asked(&mut programs, index, kind, of.as_deref(), way);
        }
        for (mode, id) in &interface.xdp {
            told(&mut programs, *id, XDP, Some(&interface.name), *mode);
        }
    }
    let namespace = context(File::open("/proc/self/ns/net"), "The network namespace")?;
    let name = format!("net:[{}]", context(namespace.metadata(), "The network namespace")?.ino());
    asked(&mut programs, namespace.as_raw_fd(), NET_NAMESPACE, Some(&name), FLOW_DISSECTOR);
    let mut programs: Vec<Program> = programs.into_values().collect();
    programs.iter_mut().for_each(|program| program.places.sort());
    Ok(programs)
}

/// The numbers that one of the ``GET_NEXT_ID`` commands gives.
fn ids(command: libc::c_int) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut attributes = Attributes::new();
    while attributes.call(command).is_ok() {
        let id = attributes.word(4);
        ids.push(id);
        attributes = Attributes::new().with(0, id);
    }
    ids
}

fn program(descriptor: &impl AsRawFd) -> Result<Program> {
    let mut info = [0; INFO];
    let mut maps = [0_u32; IDS];
    info[52..56].copy_from_slice(&64_u32.to_ne_bytes());
    info[56..64].copy_from_slice(&(maps.as_mut_ptr().expose_provenance() as u64).to_ne_bytes());
    context(bpf::info(descriptor, &mut info), "The kernel does not describe a program")?;
    let name = info[64..80].split(|byte| *byte == 0).next().unwrap_or_default();
    let count = usize::try_from(word(&info, 52)).unwrap_or(0).min(IDS);
    // SAFETY: the array is alive and initialised; the kernel has written to it behind the compiler's back.
    let maps = unsafe { std::ptr::read_volatile(&raw const maps) };
    let mut maps = maps[..count].to_vec();
    maps.sort_unstable();
    Ok(Program {
        id: word(&info, 4),
        kind: word(&info, 0),
        name: String::from_utf8_lossy(name).into_owned(),
        tag: info[8..16].iter().map(|byte| format!("{byte:02x}")).collect(),
        load_time_ns: u64::from(word(&info, 44)) << 32 | u64::from(word(&info, 40)),
        uid: word(&info, 48),
        instruction_bytes: word(&info, 20),
        jited_bytes: word(&info, 16),
        maps,
        places: Vec::new(),
        processes: Vec::new(),
        pinned: false,
    })
}

/// A place of which nothing is known yet.
fn unlinked(kind: u32) -> Place {
    Place { kind, target: None, attach_type: None, link: None, sites: None, priority: None }
}

/// The ids of a link's programs, and what it is attached to.
fn link(
    descriptor: &impl AsRawFd,
    groups: &BTreeMap<u64, (String, u64)>,
    interfaces: &[Interface],
) -> Result<(Vec<u32>, Place)> {
    let info = link_info(descriptor, None)?.0;
    let mut place = Place { link: Some(word(&info, 4)), ..unlinked(word(&info, 0)) };
    let mut programs = vec![word(&info, 8)];
    let (kind, program, first) = (word(&info, 0), word(&info, 8), word(&info, 16));
    let text = |at| Ok::<_, String>(Some(link_info(descriptor, Some(at))?.1));
    (place.target, place.attach_type) = match kind {
        RAW_TRACEPOINT | ITERATOR => (text(16)?, None),
        // Before 5.13 it does not say.
        TRACING => match word(&info, 24) {
            0 => (None, Some(first)),
            id => (context(Types::of_kernel(), "The kernel's types")?.name(id), Some(first)),
        },
        CGROUP => {
            let id = u64::from(word(&info, 20)) << 32 | u64::from(first);
            (groups.get(&id).map(|(path, _)| path.clone()), Some(word(&info, 24)))
        }
        NET_NAMESPACE => (Some(format!("net:[{first}]")), Some(word(&info, 20))),
        XDP => {
            let interface = interfaces.iter().find(|interface| interface.index == first);
            let modes = interface.into_iter().flat_map(|interface| &interface.xdp);
            let mode = modes.filter(|(_, id)| *id == program).map(|(mode, _)| *mode).next();
            (named(interfaces, first), mode)
        }
        // A kprobe, its return, a tracepoint, since 6.6.
        PERF_EVENT if matches!(first, 3..=5) => (text(24)?, None),
        TCX | NETKIT => (named(interfaces, first), Some(word(&info, 20))),
        SOCKMAP => (Some(format!("map:{first}")), Some(word(&info, 20))),
        NETFILTER => {
            place.priority = Some(word(&info, 24).cast_signed());
            (Some(format!("{first}:{}", word(&info, 20))), None)
        }
        STRUCT_OPS => {
            let map =
                context(struct_ops::registered(first), "The map of a link")?.ok_or("A link to no map")?;
            programs = map.programs;
            (Some(map.target), None)
        }
        KPROBE_MULTI => {
            let (count, functions) = several(descriptor, word(&info, 24), 16, 24)?;
            let names = functions.into_iter().map(function).collect::<Result<_>>()?;
            place.sites = Some((count, names));
            (None, None)
        }
        UPROBE_MULTI => {
            let (count, offsets) = several(descriptor, word(&info, 52), 24, 52)?;
            place.sites = Some((count, offsets.iter().map(|offset| format!("{offset:#x}")).collect()));
            (probed(descriptor)?, None)
        }
        _ => (None, None),
    };
    Ok((programs, place))
}

/// How many places a link has, and the first of them: the kernel writes as many as it is told at `counted` where it is told at `at`.
fn several(descriptor: &impl AsRawFd, count: u32, at: usize, counted: usize) -> Result<(u32, Vec<u64>)> {
    let mut places = vec![0_u64; usize::try_from(count).unwrap_or(0)];
    let mut info = [0_u8; INFO];
    info[at..at + 8].copy_from_slice(&(places.as_mut_ptr().expose_provenance() as u64).to_ne_bytes());
    info[counted..counted + 4].copy_from_slice(&count.to_ne_bytes());
    context(bpf::info(descriptor, &mut info), "The kernel does not describe the places of a link")?;
    // SAFETY: the kernel has written to the elements of the vector, which is alive and initialised, behind the compiler's back.
    let places = places.iter().map(|place| unsafe { std::ptr::read_volatile(place) }).take(FIRST).collect();
    Ok((count, places))
}

/// The path of the file that a link probes.
fn probed(descriptor: &impl AsRawFd) -> Result<Option<String>> {
    let mut info = [0_u8; INFO];
    let mut text = [0_u8; 128];
    info[16..24].copy_from_slice(&(text.as_mut_ptr().expose_provenance() as u64).to_ne_bytes());
    info[48..52].copy_from_slice(&128_u32.to_ne_bytes());
    context(bpf::info(descriptor, &mut info), "The kernel does not say which file a link probes")?;
    // SAFETY: the array is alive and initialised; the kernel has written to it behind the compiler's back.
    let text = unsafe { std::ptr::read_volatile(&raw const text) };
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}

/// Names of functions that were asked for: the list of all is long.
static FUNCTIONS: Mutex<BTreeMap<u64, String>> = Mutex::new(BTreeMap::new());

/// The name of the kernel's function that `address` is in.
fn function(address: u64) -> Result<String> {
    let mut known = FUNCTIONS.lock().map_err(|_| "Names of functions are not known any more")?;
    if let Some(name) = known.get(&address) {
        return Ok(name.clone());
    }
    let mut best: Option<(u64, String)> = None;
    for line in BufReader::new(context(File::open("/proc/kallsyms"), "kallsyms")?).lines() {
        let line = context(line, "kallsyms")?;
        let mut words = line.split_whitespace();
        let at = words.next().and_then(|at| u64::from_str_radix(at, 16).ok()).unwrap_or(0);
        // Of several at one address the first one counts.
        if at <= address && best.as_ref().is_none_or(|(before, _)| at > *before) {
            best = words.nth(1).map(|name| (at, name.to_owned()));
        }
    }
    let (_, name) = best.ok_or("No function is before an address")?;
    known.insert(address, name.clone());
    Ok(name)
}

/// Notes which programs are pinned, or have a link that is.
fn pinned(programs: &mut BTreeMap<u32, Program>) {
    for entry in fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten() {
        let Ok(path) = std::ffi::CString::new(entry.path().as_os_str().as_encoded_bytes()) else { continue };
        let Ok(pin) = Attributes::new().pointing(0, path.as_ptr()).open(bpf::OBJ_GET) else { continue };
        for id in programs_of(&format!("/proc/self/fdinfo/{}", pin.as_raw_fd())) {
            if let Some(program) = programs.get_mut(&id) {
                program.pinned = true;
            }
        }
    }
}

/// The ids of the programs that a descriptor, or the link that it is of, has.
fn programs_of(descriptor: &str) -> Vec<u32> {
    let text = fs::read_to_string(descriptor).unwrap_or_default();
    let number = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    match (number("prog_id:\t"), number("link_id:\t"), number("map_id:\t")) {
        (Some(program), _, _) => vec![program],
        (None, Some(_), Some(map)) => {
            struct_ops::registered(map).ok().flatten().map(|map| map.programs).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// ``struct bpf_link_info``, and the text that the kernel is to write where the pointer at `at` says.
fn link_info(descriptor: &impl AsRawFd, at: Option<usize>) -> Result<([u8; INFO], String)> {
    let mut info = [0_u8; INFO];
    let mut text = [0_u8; 128];
    if let Some(at) = at {
        info[at..at + 8].copy_from_slice(&(text.as_mut_ptr().expose_provenance() as u64).to_ne_bytes());
        info[at + 8..at + 12].copy_from_slice(&128_u32.to_ne_bytes());
    }
    context(bpf::info(descriptor, &mut info), "The kernel does not describe a link")?;
    // SAFETY: the array is alive and initialised; the kernel has written to it behind the compiler's back.
    let text = unsafe { std::ptr::read_volatile(&raw const text) };
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok((info, String::from_utf8_lossy(text).into_owned()))
}

fn named(interfaces: &[Interface], index: u32) -> Option<String> {
    Some(interfaces.iter().find(|interface| interface.index == index)?.name.clone())
}

/// Path and inode of all control groups, by inode, which is a group's id.
fn groups() -> BTreeMap<u64, (String, u64)> {
    let mut groups = BTreeMap::new();
    let root = Path::new("/sys/fs/cgroup");
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(inode) = fs::metadata(&directory).map(|metadata| metadata.ino()) else { continue };
        let path = directory.strip_prefix(root).unwrap_or(Path::new("")).to_string_lossy().into_owned();
        groups.insert(inode, (format!("/{path}"), inode));
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    groups
}

/// Adds a process to the programs that it has descriptors of, and the perf events among these to their places.
fn held(pid: u32, programs: &mut BTreeMap<u32, Program>) {
    let mut name = [0_u8; 128];
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let (Ok(link), Ok(number)) = (fs::read_link(entry.path()), entry.file_name().into_string()) else {
            continue;
        };
        let link = link.to_string_lossy();
        let mut event = None;
        let of_descriptor = if link.starts_with("anon_inode:bpf") {
            programs_of(&format!("/proc/{pid}/fdinfo/{number}"))
        } else if link == "anon_inode:[perf_event]" {
            let mut attributes = Attributes::new()
                .with(0, pid)
                .with(4, number.parse().unwrap_or(0))
                .with(12, 128)
                .pointing(16, name.as_mut_ptr());
            let id = attributes.call(bpf::TASK_FD_QUERY).ok().map(|_| {
                // SAFETY: the array is alive and initialised; the kernel has written to it behind the compiler's back.
                let name = unsafe { std::ptr::read_volatile(&raw const name) };
                let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
                event = Some(String::from_utf8_lossy(text).into_owned());
                attributes.word(24)
            });
            id.into_iter().collect()
        } else {
            Vec::new()
        };
        for id in of_descriptor {
            let Some(program) = programs.get_mut(&id) else { continue };
            if program.processes.last() != Some(&pid) {
                program.processes.push(pid);
            }
            if let Some(target) = event.clone() {
                program.places.push(Place { target: Some(target), ..unlinked(PERF_EVENT) });
            }
        }
    }
}

/// Adds what a place says it has and no link keeps there.
fn asked(
    programs: &mut BTreeMap<u32, Program>,
    place: RawFd,
    kind: u32,
    target: Option<&str>,
    attach_type: u32,
) {
    let mut ids = [0_u32; IDS];
    let mut attributes =
        Attributes::new().with_fd(0, place).with(4, attach_type).pointing(16, ids.as_mut_ptr()).with(24, 64);
    // Not every kernel has every kind of place.
    if attributes.call(bpf::PROG_QUERY).is_err() {
        return;
    }
    let count = usize::try_from(attributes.word(24)).unwrap_or(0).min(IDS);
    // SAFETY: the array is alive and initialised; the kernel has written to it behind the compiler's back.
    let ids = unsafe { std::ptr::read_volatile(&raw const ids) };
    for id in &ids[..count] {
        told(programs, *id, kind, target, attach_type);
    }
}

/// Adds a place that says it has the program, unless a link keeps it there.
fn told(
    programs: &mut BTreeMap<u32, Program>,
    program: u32,
    kind: u32,
    target: Option<&str>,
    attach_type: u32,
) {
    let Some(program) = programs.get_mut(&program) else { return };
    let target = target.map(ToOwned::to_owned);
    let new = Place { target, attach_type: Some(attach_type), ..unlinked(kind) };
    if !program.places.iter().any(|place| Place { link: None, ..place.clone() } == new) {
        program.places.push(new);
    }
}
