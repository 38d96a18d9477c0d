//! `watch`: looks again and again, and tells what appeared and what went: processes, listeners, modules, eBPF programs.
//!
//! Each change is one line (with `--json` one object), written at once, so that it can be read by another program as it
//! happens. What came and went between two looks has no line of its own; the kernel counted it, and that number is told.
//!
//! It goes on for as long as there is a VM and a reader: a guest that boots again is watched again from there. Must never tell
//! that something went because it could not be read.

use super::{ps, sockets, tables, words};
use crate::Outcome;
use crate::args::WatchArgs;
use crate::guest::Guest;
use crate::output::{Cell, Output, Paint};
use anyhow::Context;
use attest::Tasks;
use facts::{Address, EbpfProgram, Module, Process, Snapshot, Socket, SocketState, Text, Turnover};
use introspect::Tables;
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// It was not there in the look before.
    Appeared,
    /// It is not there any more.
    Went,
    /// A process runs another program now.
    Changed,
}

/// One line of `--json`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'s> {
    /// The first look.
    Started {
        at: &'s str,
        vm: &'s str,
        processes: usize,
        listeners: usize,
        modules: usize,
    },
    Process {
        at: &'s str,
        what: What,
        process: &'s Process,
    },
    Listener {
        at: &'s str,
        what: What,
        listener: &'s Socket,
    },
    Module {
        at: &'s str,
        what: What,
        module: &'s Module,
    },
    Program {
        at: &'s str,
        what: What,
        program: &'s EbpfProgram,
    },
    /// The guest booted again, and this is the first look at it.
    Rebooted {
        at: &'s str,
        vm: &'s str,
        processes: usize,
        listeners: usize,
        modules: usize,
    },
    /// It cannot be looked into for now, as while it boots. Told once, until a look succeeds.
    Unreadable {
        at: &'s str,
        vm: &'s str,
        why: String,
    },
    /// Tasks that were made since the look before, and those of them that no look shows.
    Unseen {
        at: &'s str,
        created: u64,
        unseen: u64,
    },
    /// The VM ended.
    Ended {
        at: &'s str,
        vm: &'s str,
    },
}

pub(crate) fn watch(args: &WatchArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let interval = args.interval.length(Timestamp::now())?;
    let mut guest = Guest::of(&args.target)?;
    let mut before = guest.look(Tables::ALL)?;
    // From here on an interrupt ends the loop between two lines.
    let stop = Interrupt::catch()?;
    tell(out, &first(&before, false))?;
    out.flush()?;
    let mut due = Instant::now();
    let mut is_unreadable = false;
    loop {
        due = due.checked_add(interval).unwrap_or(due).max(Instant::now());
        if stop.within(due.saturating_duration_since(Instant::now()))? {
            return Ok(Outcome::Done);
        }
        let now = || Timestamp::now().to_string();
        match guest.look(Tables::ALL) {
            Ok(mut after) => {
                if is_another_boot(&before, &after) {
                    tell(out, &first(&after, true))?;
                } else {
                    for event in changes(&before, &after) {
                        tell(out, &event)?;
                    }
                    carry_over(before, &mut after);
                }
                before = after;
                is_unreadable = false;
            }
            Err(error) if is_end(&error) => {
                tell(out, &Event::Ended { at: &now(), vm: &before.vm.name })?;
                return Ok(Outcome::Done);
            }
            Err(error) if !is_unreadable => {
                tell(out, &Event::Unreadable { at: &now(), vm: &before.vm.name, why: format!("{error:#}") })?;
                is_unreadable = true;
            }
            Err(_) => {}
        }
        out.flush()?;
        if out.is_unread() {
            return Ok(Outcome::Done);
        }
    }
}

/// What there is in the first look at a boot.
fn first(look: &Snapshot, again: bool) -> Event<'_> {
    let (at, vm) = (look.taken_at.as_str(), look.vm.name.as_str());
    let (processes, modules) = (look.processes.len(), look.modules.len());
    let listeners = listeners(look).len();
    if again {
        Event::Rebooted { at, vm, processes, listeners, modules }
    } else {
        Event::Started { at, vm, processes, listeners, modules }
    }
}

/// Whether the guest booted between two looks. Its kernel need not have moved.
fn is_another_boot(before: &Snapshot, after: &Snapshot) -> bool {
    fn other<T: PartialEq>(before: Option<T>, after: Option<T>) -> bool {
        before.zip(after).is_some_and(|(before, after)| before != after)
    }
    let init = |look: &Snapshot| look.processes.iter().find(|process| process.pid == 1)?.start_time_ns;
    let place = |look: &Snapshot| (look.kernel.page_table_root, look.kernel.kaslr_offset);
    place(before) != place(after)
        || other(before.kernel.boot_id.as_ref(), after.kernel.boot_id.as_ref())
        || other(init(before), init(after))
}

/// What a table that could not be read in full does not show any more is known until a look shows that it is gone.
fn carry_over(before: Snapshot, after: &mut Snapshot) {
    fn carry<T, K: Ord>(before: Vec<T>, after: &mut Vec<T>, key: impl Fn(&T) -> K) {
        let shown: BTreeSet<K> = after.iter().map(&key).collect();
        after.extend(before.into_iter().filter(|one| !shown.contains(&key(one))));
    }
    let blind: Vec<attest::Table> = attest::blind_tables(after).iter().map(|blind| blind.table).collect();
    let is_blind = |table| blind.contains(&table);
    if is_blind(attest::Table::Processes) {
        carry(before.processes, &mut after.processes, process_key);
    }
    if is_blind(attest::Table::Sockets) {
        let listeners = before.sockets.into_iter().filter(is_listener).collect();
        carry(listeners, after.sockets.list(), listener_key);
    }
    if is_blind(attest::Table::Modules) {
        carry(before.modules, &mut after.modules, module_key);
    }
    if is_blind(attest::Table::Ebpf) || after.ebpf_programs.is_none() {
        let programs = after.ebpf_programs.get_or_insert_default();
        carry(before.ebpf_programs.unwrap_or_default(), programs, program_key);
    }
}

// What makes an object the same in two looks: pids, numbers and places are given again.

fn process_key(process: &Process) -> (u32, Option<u64>) {
    (process.pid, process.start_time_ns)
}

fn listener_key(socket: &Socket) -> (Address, Option<u64>, Option<IpAddr>, Option<u16>) {
    (socket.sock, socket.inode, socket.local_address, socket.local_port)
}

fn module_key(module: &Module) -> (String, Address) {
    (module.name.clone(), module.module)
}

fn program_key(program: &EbpfProgram) -> (Address, Option<u32>, Option<u64>) {
    (program.program, program.id, program.loaded_at_ns)
}

/// Whether the VM is no more.
fn is_end(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(vmi_core::MemoryError::Gone { .. }))
            || matches!(
                cause.downcast_ref(),
                Some(introspect::Error::Memory(vmi_core::MemoryError::Gone { .. }))
            )
    })
}

/// What is different in the second look, what went before what appeared.
fn changes<'s>(before: &'s Snapshot, after: &'s Snapshot) -> Vec<Event<'s>> {
    let mut events = Vec::new();
    let at = after.taken_at.as_str();
    // A table that could not be read in full says nothing about what is not in it.
    let known = |table| !attest::blind_tables(after).iter().any(|blind| blind.table == table);

    let Difference { went, appeared, stayed } = difference(&before.processes, &after.processes, process_key);
    let event = |what| move |process| Event::Process { at, what, process };
    if known(attest::Table::Processes) {
        events.extend(went.into_iter().map(event(What::Went)));
    }
    let other_program = |(old, new): &(&Process, &Process)| {
        old.exe != new.exe && new.exe.is_some() && new.exe_state != Some(facts::ExeState::None)
    };
    let changed = stayed.into_iter().filter(other_program).map(|(_, process)| process);
    events.extend(changed.map(event(What::Changed)));
    events.extend(appeared.into_iter().map(event(What::Appeared)));

    let (old, new) = (listeners(before), listeners(after));
    let Difference { went, appeared, .. } = difference(&old, &new, |one| listener_key(one));
    let event = |what| move |listener: &&'s Socket| Event::Listener { at, what, listener };
    if known(attest::Table::Sockets) {
        events.extend(went.into_iter().map(event(What::Went)));
    }
    events.extend(appeared.into_iter().map(event(What::Appeared)));

    let Difference { went, appeared, .. } = difference(&before.modules, &after.modules, module_key);
    let event = |what| move |module| Event::Module { at, what, module };
    if known(attest::Table::Modules) {
        events.extend(went.into_iter().map(event(What::Went)));
    }
    events.extend(appeared.into_iter().map(event(What::Appeared)));

    if let (Some(old), Some(new)) = (&before.ebpf_programs, &after.ebpf_programs) {
        let Difference { went, appeared, .. } = difference(old, new, program_key);
        let event = |what| move |program| Event::Program { at, what, program };
        if known(attest::Table::Ebpf) {
            events.extend(went.into_iter().map(event(What::Went)));
        }
        events.extend(appeared.into_iter().map(event(What::Appeared)));
    }

    if let Some(Turnover { created, unseen, .. }) =
        Tasks::of(before).turnover(after).filter(|count| count.unseen > 0)
    {
        events.push(Event::Unseen { at, created, unseen });
    }
    events
}

struct Difference<'l, T> {
    went: Vec<&'l T>,
    appeared: Vec<&'l T>,
    stayed: Vec<(&'l T, &'l T)>,
}

/// Which of two lists an object is in, in the order of the lists.
fn difference<'l, T, K: Ord>(before: &'l [T], after: &'l [T], key: impl Fn(&'l T) -> K) -> Difference<'l, T> {
    let old: BTreeMap<K, &T> = before.iter().map(|one| (key(one), one)).collect();
    let new: BTreeMap<K, &T> = after.iter().map(|one| (key(one), one)).collect();
    Difference {
        went: before.iter().filter(|one| !new.contains_key(&key(one))).collect(),
        appeared: after.iter().filter(|one| !old.contains_key(&key(one))).collect(),
        stayed: after.iter().filter_map(|one| Some((*old.get(&key(one))?, one))).collect(),
    }
}

fn listeners(snapshot: &Snapshot) -> Vec<&Socket> {
    snapshot.sockets.iter().filter(|socket| is_listener(socket)).collect()
}

/// What waits for somebody else to speak first: listeners, and datagram sockets that are bound and have no peer.
fn is_listener(socket: &Socket) -> bool {
    match socket.state {
        Some(SocketState::Listen) => true,
        _ => {
            socket.kind.as_deref() == Some("dgram")
                && socket.local_port.is_some_and(|port| port != 0)
                && socket.remote_address.is_none()
        }
    }
}

fn tell(out: &mut Output, event: &Event<'_>) -> anyhow::Result<()> {
    if out.json {
        return out.json_line(event);
    }
    let time = |at: &str| {
        Cell::new(at.split_once('T').and_then(|(_, time)| time.get(..12)).unwrap_or(at)).paint(Paint::Dim)
    };
    let gap = || Cell::new("  ");
    match event {
        Event::Started { at, vm, processes, listeners, modules }
        | Event::Rebooted { at, vm, processes, listeners, modules } => {
            let again = if matches!(event, Event::Rebooted { .. }) { " booted again" } else { "" };
            let text = format!(
                "{vm}{again}: {}, {}, {}",
                words::count_of(*processes, "process", "processes"),
                words::count(*listeners, "listener"),
                words::count(*modules, "module")
            );
            out.line(&[time(at), gap(), Cell::new(text)])
        }
        Event::Unreadable { at, vm, why } => {
            out.line(&[time(at), gap(), Cell::new(format!("{vm}: {why}")).paint(Paint::Yellow)])
        }
        Event::Process { at, what, process } => {
            let name = if process.kernel_thread {
                format!("[{}]", process.name)
            } else {
                ps::own_name(&process.name).into_owned()
            };
            let mut cells = vec![
                time(at),
                gap(),
                mark(*what),
                Cell::new(format!(" process {} {name}", process.pid)),
                gap(),
            ];
            cells.push(words::executable(process));
            if *what != What::Went {
                let owner = process.uid.map_or_else(|| "?".to_owned(), |uid| uid.to_string());
                let parent = process.ppid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
                cells.push(Cell::new(format!("  uid {owner}, parent {parent}")));
                let args = process.args.as_ref().filter(|args| !args.is_empty()).map(|args| args.join(" "));
                cells.extend(args.map(|args| Cell::new(format!("  {args}"))));
            }
            out.line(&cells)
        }
        Event::Listener { at, what, listener } => {
            let local = words::end(listener.local_address, listener.local_port);
            let place = local
                .or_else(|| listener.path.as_ref().map(Text::to_string))
                .unwrap_or_else(|| "?".to_owned());
            let owners: Vec<String> = listener.processes.iter().map(u32::to_string).collect();
            let owners = if owners.is_empty() { "nobody".to_owned() } else { owners.join(",") };
            let text = format!(" listener {} {place}  held by {owners}", sockets::protocol(listener));
            out.line(&[time(at), gap(), mark(*what), Cell::new(text)])
        }
        Event::Module { at, what, module } => {
            let text = format!(" module {}  at {}", module.name, module.module);
            out.line(&[time(at), gap(), mark(*what), Cell::new(text)])
        }
        Event::Program { at, what, program } => {
            let id = program.id.map_or_else(|| "?".to_owned(), |id| id.to_string());
            let kind = program.kind.as_deref().unwrap_or("?");
            let name = program.name.as_deref().unwrap_or("-");
            let places: Vec<String> = program.attached_to.iter().map(tables::place).collect();
            let places = if places.is_empty() { "nothing".to_owned() } else { places.join(" ") };
            let text = format!(" eBPF program {id} {kind} {name}  attached to {places}");
            out.line(&[time(at), gap(), mark(*what), Cell::new(text)])
        }
        Event::Unseen { at, created, unseen } => {
            let text = format!("{unseen} of {created} new tasks came and went unseen");
            out.line(&[time(at), gap(), Cell::new("~").paint(Paint::Yellow), Cell::new(format!(" {text}"))])
        }
        Event::Ended { at, vm } => out.line(&[time(at), gap(), Cell::new(format!("{vm} has ended"))]),
    }
}

fn mark(what: What) -> Cell {
    match what {
        What::Appeared => Cell::new("+").paint(Paint::Green),
        What::Went => Cell::new("-").paint(Paint::Red),
        What::Changed => Cell::new("*").paint(Paint::Yellow),
    }
}

/// Ctrl-C, and the signal that services are ended with, as something to wait for; and the end of whoever reads.
struct Interrupt(SignalFd);

impl Interrupt {
    fn catch() -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block().context("Signals cannot be held back")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&signals, flags).context("Signals cannot be waited for")?))
    }

    /// Whether one comes within this time, or nobody reads what is printed any more.
    fn within(&self, time: Duration) -> anyhow::Result<bool> {
        let until = Instant::now().checked_add(time);
        let printed = io::stdout();
        loop {
            let left = until.map_or(time, |until| until.saturating_duration_since(Instant::now()));
            // Of a pipe without a reader the kernel tells an error, which nobody need ask for.
            let mut polled = [
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(printed.as_fd(), PollFlags::empty()),
            ];
            // Rounded up, or the last millisecond would be spent asking.
            let left = left.saturating_add(Duration::from_micros(999));
            match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) if until.is_none_or(|until| Instant::now() >= until) => return Ok(false),
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error).context("Waiting failed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_was_given_again_went_and_appeared() {
        let process = |pid, start, exe: &str| Process {
            pid,
            start_time_ns: Some(start),
            exe: Some(exe.into()),
            ..Process::default()
        };
        let before = [process(1, 1, "/init"), process(7, 2, "/a"), process(8, 3, "/b")];
        let after = [process(1, 1, "/other"), process(7, 9, "/a"), process(8, 3, "/b")];
        let found = difference(&before, &after, process_key);
        assert_eq!(found.went, [&before[1]]);
        assert_eq!(found.appeared, [&after[1]]);
        assert_eq!(found.stayed.len(), 2);
    }

    fn look(pids: &[u32]) -> Snapshot {
        let processes: Vec<Process> = pids
            .iter()
            .map(|pid| Process { pid: *pid, start_time_ns: Some(1), ..Process::default() })
            .collect();
        let look = serde_json::json!({
            "schema": "birthmark.snapshot/v1",
            "vm": {"name": "vm", "id": "id", "hypervisor": "kvm", "memory_bytes": null, "vcpus": null, "state": "running"},
            "taken_at": "2026-01-01T00:00:00Z", "elapsed_us": 1,
            "consistency": {"mode": "live", "retries": 0, "torn": 0},
            "kernel": {
                "release": "6.1", "version": null, "banner": "Linux", "build_id": null, "arch": "x86_64",
                "page_table_levels": 4, "page_table_root": "0x1000", "kaslr_offset": "0x0", "boot_id": null,
                "profile": {"source": "guest", "digest": ""},
            },
            "processes": processes, "sockets": [], "modules": [], "problems": [],
        });
        serde_json::from_value(look).unwrap()
    }

    fn blind(mut look: Snapshot) -> Snapshot {
        look.problems.push(facts::Problem {
            kind: facts::ProblemKind::Inconsistent,
            location: "struct task_struct at 0x1".to_owned(),
            detail: "its list ends nowhere".to_owned(),
        });
        assert!(attest::blind_tables(&look).iter().any(|blind| blind.table == attest::Table::Processes));
        look
    }

    fn told(before: &Snapshot, after: &Snapshot) -> Vec<(What, u32)> {
        let told = changes(before, after).into_iter().map(|event| match event {
            Event::Process { what, process, .. } => (what, process.pid),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    #[test]
    fn what_one_look_could_not_read_neither_goes_nor_appears() {
        let first = look(&[1, 7, 8]);
        let mut second = blind(look(&[1, 9]));
        assert_eq!(
            told(&first, &second),
            [(What::Appeared, 9)],
            "nothing is known of those that are missing"
        );
        carry_over(first, &mut second);
        let third = look(&[1, 7, 9]);
        assert_eq!(told(&second, &third), [(What::Went, 8)], "7 was there all along");
    }

    #[test]
    fn a_guest_that_boots_again_is_not_taken_for_one_whose_processes_all_went() {
        let first = look(&[1, 7]);
        assert!(!is_another_boot(&first, &look(&[1])));
        let mut again = look(&[1, 7]);
        again.processes[0].start_time_ns = Some(2);
        assert!(is_another_boot(&first, &again), "the same kernel at the same place, started again");
        let mut moved = look(&[1, 7]);
        moved.kernel.kaslr_offset = facts::Address(0x20_0000);
        assert!(is_another_boot(&first, &moved));
        let mut unread = look(&[]);
        unread.problems = blind(look(&[])).problems;
        assert!(!is_another_boot(&first, &unread), "what is not known is no other boot");
    }
}
