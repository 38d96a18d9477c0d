//! What QEMU's monitor knows, when the caller asks for it: the exact layout (`info mtree -f`) and the vCPUs' registers
//! (`info registers -a`, or where QEMU has no human monitor the notes of a small core dump), through QMP.
//!
//! Never the default. A QMP socket serves one client; where another holds it (libvirt does), ours waits in the socket's
//! queue unanswered, so every step has a deadline of 100 ms. Nothing but these is asked; asking for registers interrupts each vCPU
//! for a moment (cpu_synchronize_state), as reading a register from outside must.

use super::cmdline::{Keys, Options};
use super::layout::{Placement, by_rules, part};
use super::machine::Machine;
use crate::Error;
use crate::dump::{self, RawLayout};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use vmi_core::{Gpa, Gva, PAGE_SIZE, Region, Registers};

const DEADLINE: Duration = Duration::from_millis(100);
/// A flat view is some ten kilobytes; QEMU puts a whole answer on one line.
const MAX_ANSWER: u64 = 16 << 20;
/// Events, and answers to whoever asked before, that may stand before an answer.
const MAX_LINES: usize = 64;

/// One run of RAM or ROM of the flat view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlatRange {
    /// Guest-physical addresses.
    pub guest: Region,
    /// Name of the block.
    pub block: String,
    /// Offset in the block.
    pub offset: u64,
}

/// Asks the monitor of a QEMU process for the flat view of its memory.
pub fn flat_view(pid: u32, options: &Options) -> Result<Vec<FlatRange>, Error> {
    let path = socket_path(pid, options).ok_or(Error::NoMonitor { pid })?;
    let text = ask(&path, "info mtree -f").map_err(|source| Error::MonitorSilent { pid, path, source })?;
    let ranges = parse(&text);
    if ranges.is_empty() {
        return Err(Error::MonitorAnswer { pid, answer: text.chars().take(200).collect() });
    }
    Ok(ranges)
}

/// Asks the monitor of a QEMU process for the registers of all vCPUs.
pub fn registers(pid: u32, options: &Options) -> Result<Vec<Registers>, Error> {
    let path = socket_path(pid, options).ok_or(Error::NoMonitor { pid })?;
    match ask(&path, "info registers -a") {
        Ok(text) => {
            let registers = parse_registers(&text);
            if registers.is_empty() { registers_by_dump(pid, options) } else { Ok(registers) }
        }
        // It answered that it does not do that: a QEMU built without its human monitor.
        Err(refused) if refused.kind() == io::ErrorKind::Other => registers_by_dump(pid, options),
        Err(source) => Err(Error::MonitorSilent { pid, path, source }),
    }
}

/// The same out of the notes of a core dump of the guest's first page, which QEMU writes into a file of ours in memory. QEMU stops the
/// guest for that moment, about a millisecond, and lets it go on itself. Only once the guest is in 64-bit mode.
pub fn registers_by_dump(pid: u32, options: &Options) -> Result<Vec<Registers>, Error> {
    let path = socket_path(pid, options).ok_or(Error::NoMonitor { pid })?;
    let file = memfd_create(c"birthmark-registers", MFdFlags::MFD_CLOEXEC).map_err(|errno| Error::Map {
        pid,
        len: PAGE_SIZE,
        source: errno.into(),
    })?;
    dump_first_page(&path, &file).map_err(|source| Error::MonitorSilent { pid, path, source })?;
    let core = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(dump::open(Path::new(&core), RawLayout::default())?.registers().to_vec())
}

fn dump_first_page(path: &Path, into: &OwnedFd) -> io::Result<()> {
    const NAME: &str = "birthmark";
    let mut monitor = Monitor::connect(path)?;
    monitor.greet()?;
    let command = json!({"execute": "getfd", "arguments": {"fdname": NAME}});
    monitor.execute_with(&command, Some(into.as_raw_fd()))?;
    // QEMU closes its copy of the descriptor with the dump.
    let arguments =
        json!({"paging": false, "protocol": format!("fd:{NAME}"), "begin": 0, "length": PAGE_SIZE});
    monitor.execute(&json!({"execute": "dump-guest-memory", "arguments": arguments})).map(drop)
}

/// The vCPUs of `info registers -a`: `CR0=80050033 CR2=… CR3=000000000e8d2000 CR4=000006f0` and
/// `IDT=     fffffe0000000000 00000fff` for each (x86_cpu_dump_state(), target/i386/cpu-dump.c, QEMU 7.2).
#[must_use]
pub fn parse_registers(text: &str) -> Vec<Registers> {
    let value = |vcpu: &str, name: &str| {
        let rest = vcpu.split_once(name)?.1.trim_start();
        u64::from_str_radix(rest.split(|c: char| !c.is_ascii_hexdigit()).next()?, 16).ok()
    };
    text.split("CPU#")
        .filter_map(|vcpu| {
            Some(Registers {
                cr0: value(vcpu, "CR0=")?,
                cr3: value(vcpu, "CR3=")?,
                cr4: value(vcpu, "CR4=")?,
                idt: Gva(value(vcpu, "IDT=")?),
            })
        })
        .collect()
}

/// The first QMP unix socket of the command line, as a path that is right in our mount namespace.
pub(super) fn socket_path(pid: u32, options: &Options) -> Option<PathBuf> {
    let direct = options
        .values(&["qmp", "qmp-pretty"])
        .filter_map(|value| value.strip_prefix("unix:"))
        .map(|value| Keys::parse(value, "path"))
        .find_map(|keys| keys.get("path").map(ToOwned::to_owned));
    let by_chardev = || {
        options
            .values(&["mon"])
            .map(|value| Keys::parse(value, "chardev"))
            .filter(|keys| keys.get("mode") == Some("control"))
            .find_map(|monitor| {
                let id = monitor.get("chardev")?.to_owned();
                options
                    .values(&["chardev"])
                    .map(|value| Keys::parse(value, "backend"))
                    .filter(|keys| keys.get("backend") == Some("socket") && keys.get("id") == Some(&id))
                    .find_map(|keys| keys.get("path").map(ToOwned::to_owned))
            })
    };
    let path = direct.or_else(by_chardev)?;
    let base = if Path::new(&path).is_absolute() { "root" } else { "cwd" };
    Some(PathBuf::from(format!("/proc/{pid}/{base}/{}", path.trim_start_matches('/'))))
}

fn ask(path: &Path, what: &str) -> io::Result<String> {
    let mut monitor = Monitor::connect(path)?;
    monitor.greet()?;
    let command = json!({"execute": "human-monitor-command", "arguments": {"command-line": what}});
    match monitor.execute(&command)? {
        Value::String(text) => Ok(text),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A connection to a QMP socket.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: UnixStream,
    lines: BufReader<io::Take<UnixStream>>,
}

impl Monitor {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let address = UnixAddr::new(path)?;
        // Not blocking: a full queue is an error at once and not a wait for ever.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let descriptor = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(descriptor.as_raw_fd(), &address)?;
        let stream = UnixStream::from(descriptor);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let lines = BufReader::new(stream.try_clone()?.take(MAX_ANSWER));
        Ok(Self { stream, lines })
    }

    /// Leaves the mode that only this can be done in. The greeting is passed over as events are.
    pub(super) fn greet(&mut self) -> io::Result<()> {
        self.execute(&json!({"execute": "qmp_capabilities"})).map(drop)
    }

    /// Runs a command and gives its answer, events left out.
    pub(super) fn execute(&mut self, command: &Value) -> io::Result<Value> {
        self.execute_with(command, None)
    }

    /// The same, with a descriptor that the command is about.
    ///
    /// Each command has a name that no other has. QEMU runs a command that a client has sent and not waited for, and gives what came
    /// of it to whoever is its client then (monitor_qmp_dispatcher_co(), monitor/qmp.c, QEMU 7.2): us, if one of ours ran out of time.
    fn execute_with(&mut self, command: &Value, descriptor: Option<RawFd>) -> io::Result<Value> {
        static COMMANDS: AtomicU64 = AtomicU64::new(0);
        let number = COMMANDS.fetch_add(1, Ordering::Relaxed);
        let id = format!("birthmark {}.{number}", std::process::id());
        let mut command = command.clone();
        command["id"] = json!(id);
        let text = format!("{command}\n");
        let sent = match descriptor {
            None => 0,
            Some(descriptor) => {
                let rights = [ControlMessage::ScmRights(&[descriptor])];
                let parts = [IoSlice::new(text.as_bytes())];
                sendmsg::<UnixAddr>(self.stream.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None)?
            }
        };
        self.stream.write_all(text.as_bytes().get(sent..).unwrap_or_default())?;
        for _ in 0..MAX_LINES {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut value: Value = serde_json::from_str(&line)?;
            let to = value.get("id");
            let is_ours = to.is_some_and(|to| *to == id);
            // What QEMU could not even read it answers without a name.
            if let Some(error) = value.get("error").filter(|_| is_ours || to.is_none()) {
                return Err(io::Error::other(error.to_string()));
            }
            if let Some(answer) = value.get_mut("return").filter(|_| is_ours) {
                return Ok(answer.take());
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// RAM and ROM of the flat view that the address space `memory` uses.
#[must_use]
pub fn parse(text: &str) -> Vec<FlatRange> {
    text.split("FlatView #")
        .find(|view| view.lines().any(|line| line.trim_start().starts_with("AS \"memory\"")))
        .map(|view| view.lines().filter_map(parse_line).collect())
        .unwrap_or_default()
}

/// `0000000000100000-000000005fffffff (prio 0, ram): ram-node0 @0000000000100000 KVM`.
fn parse_line(line: &str) -> Option<FlatRange> {
    let (range, rest) = line.trim().split_once(" (prio ")?;
    let (start, last) = range.split_once('-')?;
    let (attributes, rest) = rest.split_once("): ")?;
    let kind = attributes.rsplit_once(", ")?.1;
    if !matches!(kind, "ram" | "rom" | "ramd" | "romd" | "nv-ram") {
        return None;
    }
    let rest = rest.strip_suffix(" KVM").unwrap_or(rest);
    let (block, offset) = match rest.rsplit_once(" @") {
        Some((block, offset)) => (block, u64::from_str_radix(offset, 16).ok()?),
        None => (rest, 0),
    };
    let start = u64::from_str_radix(start, 16).ok()?;
    let len = u64::from_str_radix(last, 16).ok()?.checked_sub(start)?.checked_add(1)?;
    Some(FlatRange { guest: Region { start: Gpa(start), len }, block: block.to_owned(), offset })
}

/// The flat view as placements of the machine's blocks, after holding it against the machine's rules. Firmware and video
/// memory are blocks of their own and left out. Below 1 MiB the chipset switches what is seen while the guest runs, so
/// what was to be seen at one moment says little, and the rules stand.
pub fn placements(pid: u32, machine: &Machine, ranges: &[FlatRange]) -> Result<Vec<Placement>, Error> {
    const LOW: u64 = 1 << 20;
    let block_number = |name: &str| {
        machine
            .blocks
            .iter()
            .position(|block| name == block.name || name.strip_prefix("/objects/") == Some(&block.name))
    };
    let placements: Vec<Placement> = ranges
        .iter()
        .filter_map(|range| {
            Some(Placement { guest: range.guest, block: block_number(&range.block)?, offset: range.offset })
        })
        .collect();
    let rules = match by_rules(pid, machine) {
        Ok(rules) => rules,
        // The rules know that they do not know: then the monitor's word stands alone.
        Err(Error::LayoutUncertain { .. } | Error::UnknownMachine { .. }) => return Ok(placements),
        Err(error) => return Err(error),
    };
    for rule in rules.iter().filter_map(|rule| part(rule, LOW..u64::MAX)) {
        let Placement { guest: Region { start: Gpa(start), len }, offset, .. } = rule;
        let agrees = placements.iter().any(|placement| {
            placement.block == rule.block
                && placement.guest.contains(Gpa(start), len)
                && placement.offset.saturating_add(start.saturating_sub(placement.guest.start.0)) == offset
        });
        if !agrees {
            let name = |block: usize| machine.blocks.get(block).map_or("?", |block| block.name.as_str());
            let monitor = ranges
                .iter()
                .filter(|range| range.guest.end().0 > start && range.guest.start.0 < rule.guest.end().0)
                .map(|range| format!("{} is {} at {:#x}", range.guest, range.block, range.offset))
                .collect::<Vec<_>>();
            return Err(Error::LayoutContradiction {
                pid,
                machine: machine.name.clone(),
                monitor: if monitor.is_empty() { "nothing there".to_owned() } else { monitor.join(", ") },
                rules: format!("{} is {} at {:#x}", rule.guest, name(rule.block), rule.offset),
            });
        }
    }
    let below = rules.iter().filter_map(|rule| part(rule, 0..LOW));
    let above = placements.iter().filter_map(|placement| part(placement, LOW..u64::MAX));
    let mut all: Vec<Placement> = below.chain(above).collect();
    all.sort_by_key(|placement| placement.guest.start);
    Ok(all)
}
