//! `watch`: looks again and again, and tells what appeared and what went: processes, listeners, modules.
//!
//! Each change is one line (with `--json` one object), written at once, so that it can be read by another program as it
//! happens. What came and went between two looks has no line of its own; the kernel counted it, and that number is told.

use super::words;
use crate::Outcome;
use crate::args::WatchArgs;
use crate::guest::Guest;
use crate::output::{Cell, Output, Paint};
use anyhow::Context;
use attest::Tasks;
use facts::{Module, Process, Snapshot, Socket, SocketState, Turnover};
use introspect::Tables;
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::Serialize;
use std::collections::BTreeMap;
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
    let listeners = before.sockets.iter().filter(|socket| is_listener(socket)).count();
    tell(
        out,
        &Event::Started {
            at: &before.taken_at,
            vm: &before.vm.name,
            processes: before.processes.len(),
            listeners,
            modules: before.modules.len(),
        },
    )?;
    out.flush()?;
    let mut due = Instant::now();
    loop {
        due = due.checked_add(interval).unwrap_or(due).max(Instant::now());
        if stop.within(due.saturating_duration_since(Instant::now()))? {
            return Ok(Outcome::Done);
        }
        let after = match guest.look(Tables::ALL) {
            Ok(after) => after,
            Err(error) if is_end(&error) => {
                let at = Timestamp::now().to_string();
                tell(out, &Event::Ended { at: &at, vm: &before.vm.name })?;
                return Ok(Outcome::Done);
            }
            Err(error) => return Err(error),
        };
        for event in changes(&before, &after) {
            tell(out, &event)?;
        }
        out.flush()?;
        if out.is_unread() {
            return Ok(Outcome::Done);
        }
        before = after;
    }
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

    let processes = difference(&before.processes, &after.processes, |one| (one.pid, one.start_time_ns));
    if known(attest::Table::Processes) {
        events.extend(processes.went.into_iter().map(|process| Event::Process {
            at,
            what: What::Went,
            process,
        }));
    }
    let other_program = |(old, new): &(&Process, &Process)| {
        old.exe != new.exe && new.exe.is_some() && new.exe_state != Some(facts::ExeState::None)
    };
    let changed = processes.stayed.iter().copied().filter(other_program).map(|(_, process)| process);
    events.extend(changed.map(|process| Event::Process { at, what: What::Changed, process }));
    events.extend(processes.appeared.into_iter().map(|process| Event::Process {
        at,
        what: What::Appeared,
        process,
    }));

    let socket_key =
        |socket: &&Socket| (socket.sock, socket.inode, words::end(socket.local_address, socket.local_port));
    let (old, new) = (listeners(before), listeners(after));
    let sockets = difference(&old, &new, socket_key);
    if known(attest::Table::Sockets) {
        events.extend(sockets.went.into_iter().map(|listener| Event::Listener {
            at,
            what: What::Went,
            listener,
        }));
    }
    events.extend(sockets.appeared.into_iter().map(|listener| Event::Listener {
        at,
        what: What::Appeared,
        listener,
    }));

    let modules = difference(&before.modules, &after.modules, |module| (module.name.clone(), module.module));
    if known(attest::Table::Modules) {
        events.extend(modules.went.into_iter().map(|module| Event::Module { at, what: What::Went, module }));
    }
    events.extend(modules.appeared.into_iter().map(|module| Event::Module {
        at,
        what: What::Appeared,
        module,
    }));

    if let Some(Turnover { created, unseen, .. }) =
        Tasks::of(before).turnover(after).filter(|count| count.unseen > 0)
    {
        events.push(Event::Unseen { at, created, unseen });
    }
    events
}

struct Difference<'s, T> {
    went: Vec<&'s T>,
    appeared: Vec<&'s T>,
    stayed: Vec<(&'s T, &'s T)>,
}

/// Which of two lists an object is in, in the order of the lists.
fn difference<'s, T, K: Ord>(before: &'s [T], after: &'s [T], key: impl Fn(&'s T) -> K) -> Difference<'s, T> {
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
        Event::Started { at, vm, processes, listeners, modules } => out.line(&[
            time(at),
            gap(),
            Cell::new(format!(
                "{vm}: {}, {}, {}",
                words::count_of(*processes, "process", "processes"),
                words::count(*listeners, "listener"),
                words::count(*modules, "module")
            )),
        ]),
        Event::Process { at, what, process } => {
            let name =
                if process.kernel_thread { format!("[{}]", process.name) } else { process.name.clone() };
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
            let place = local.or_else(|| listener.path.clone()).unwrap_or_else(|| "?".to_owned());
            let owners: Vec<String> = listener.processes.iter().map(u32::to_string).collect();
            let owners = if owners.is_empty() { "nobody".to_owned() } else { owners.join(",") };
            let text = format!(" listener {} {place}  held by {owners}", words::protocol(listener));
            out.line(&[time(at), gap(), mark(*what), Cell::new(text)])
        }
        Event::Module { at, what, module } => {
            let text = format!(" module {}  at {}", module.name, module.module);
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

/// Ctrl-C, and the signal that services are ended with, as something to wait for.
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

    /// Whether one comes within this time.
    fn within(&self, time: Duration) -> anyhow::Result<bool> {
        let until = Instant::now().checked_add(time);
        loop {
            let left = until.map_or(time, |until| until.saturating_duration_since(Instant::now()));
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
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
            exe: Some(exe.to_owned()),
            ..Process::default()
        };
        let before = [process(1, 1, "/init"), process(7, 2, "/a"), process(8, 3, "/b")];
        let after = [process(1, 1, "/other"), process(7, 9, "/a"), process(8, 3, "/b")];
        let found = difference(&before, &after, |one| (one.pid, one.start_time_ns));
        assert_eq!(found.went, [&before[1]]);
        assert_eq!(found.appeared, [&after[1]]);
        assert_eq!(found.stayed.len(), 2);
    }
}
