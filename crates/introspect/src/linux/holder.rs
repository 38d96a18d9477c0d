//! Who holds which socket: the descriptors of every process and thread, what io_urings have registered, and what is on its
//! way in unix sockets.
//!
//! A descriptor counts more than a ring, and a ring more than a message: a socket is said to be held by the strongest of
//! them only, as `/proc/PID/fd` says it.

use super::ascending::{ascending, find};
use super::file::{Files, Lead, SocketLead};
use super::layout::Resolver;
use super::task::Seen;
use super::{io_uring, list, scm, sock, task};
use crate::apart::{apart, is_crowd, sort_apart};
use crate::session::{Session, member};
use facts::{Descriptor, Descriptors, Ownership, Pids, ProblemKind};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use vmi_core::{Gva, ReadError};

/// ``AF_UNIX``, include/linux/socket.h.
const UNIX: u16 = 1;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    tasks: u64,
    tgid: u64,
    start_time: u64,
    files: u64,
    signal: u64,
    thread_node: u64,
    nr_threads: u64,
    thread_head: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            tasks: resolver.offset("task_struct", "tasks"),
            tgid: resolver.offset("task_struct", "tgid"),
            start_time: resolver.first_of("task_struct", &["start_boottime", "real_start_time"]),
            files: resolver.offset("task_struct", "files"),
            signal: resolver.offset("task_struct", "signal"),
            thread_node: resolver.offset("task_struct", "thread_node"),
            nr_threads: resolver.offset("signal_struct", "nr_threads"),
            thread_head: resolver.offset("signal_struct", "thread_head"),
        }
    }
}

/// A table of descriptors (``struct files_struct *``) and a process that uses it.
pub(super) type Table = (u32, Gva);

/// A process, and where one of its descriptors leads that has to do with eBPF.
pub(crate) type EbpfLead = (u32, Lead);

/// Tables of the processes as they were read at the beginning of the look.
pub(super) fn tables(session: &Session<'_>, processes: &[Seen]) -> Result<Vec<Table>, ReadError> {
    let mut tables = Vec::new();
    for process in processes {
        tables.push((process.facts.pid, process.files));
        if process.facts.threads != Some(1) {
            of_threads(session, process.facts.pid, Gva(process.facts.task.0), &mut tables)?;
        }
    }
    Ok(tables)
}

/// Tables of all processes that there are now: those that began since, and those of `processes` that still run, also where
/// no list leads to them; and whether these may not be all, since somebody is closing what no table leads to any more.
pub(super) fn tables_now(session: &Session<'_>, processes: &[Seen]) -> Result<(Vec<Table>, bool), ReadError> {
    let layout = &session.kernel.layouts().net.holder;
    let mut tasks = BTreeSet::new();
    if let Some(head) = session.kernel.symbol("init_task").and_then(|task| task.checked_add(layout.tasks)) {
        let nodes = list::list(session, "task list", head)?;
        tasks.extend(nodes.into_iter().filter_map(|node| node.checked_sub(layout.tasks)));
    }
    for process in processes {
        let task = Gva(process.facts.task.0);
        let same = || {
            Ok(session.space.u32(member(task, layout.tgid)?)? == process.facts.pid
                && Some(session.space.u64(member(task, layout.start_time)?)?) == process.facts.start_time_ns)
        };
        if !tasks.contains(&task) && session.known("task_struct", task, same())? == Some(true) {
            tasks.insert(task);
        }
    }
    let mut tables = Vec::new();
    let mut closing = false;
    for task in tasks {
        closing |= session.known("task_struct", task, task::is_closing(session, task))? == Some(true);
        let read = || {
            let pid = session.space.u32(member(task, layout.tgid)?)?;
            Ok((pid, session.space.pointer(member(task, layout.files)?)?))
        };
        let Some((pid, files)) = session.known("task_struct", task, read())? else { continue };
        tables.push((pid, files));
        of_threads(session, pid, task, &mut tables)?;
    }
    Ok((tables, closing))
}

/// Adds the tables of the threads of the process `pid`, whose leader is `task`. A thread can have left its process's table
/// (`unshare(CLONE_FILES)`), and the leader may have ended before it.
fn of_threads(session: &Session<'_>, pid: u32, task: Gva, tables: &mut Vec<Table>) -> Result<(), ReadError> {
    let layout = &session.kernel.layouts().net.holder;
    let read = || {
        let signal = session.space.pointer(member(task, layout.signal)?)?;
        if signal.is_null() || session.space.u32(member(signal, layout.nr_threads)?)? <= 1 {
            return Ok(Vec::new());
        }
        let mut files = Vec::new();
        for node in list::list(session, "thread list", member(signal, layout.thread_head)?)? {
            let thread = node.checked_sub(layout.thread_node);
            let thread = thread.ok_or(ReadError::NotAnAddress { at: node, len: layout.thread_node })?;
            files.push(session.space.pointer(member(thread, layout.files)?)?);
        }
        Ok(files)
    };
    for files in session.known("thread list", task, read())?.unwrap_or_default() {
        // Those of one process stand together.
        let mut own = tables.iter().rev().take_while(|(of, _)| *of == pid);
        if own.all(|(_, known)| *known != files) {
            tables.push((pid, files));
        }
    }
    Ok(())
}

/// What descriptors lead to eBPF programs by, and whose they are.
pub(super) fn ebpf_leads(session: &Session<'_>, processes: &[Seen]) -> Result<Vec<EbpfLead>, ReadError> {
    let tables = Tables::new(&tables(session, processes)?);
    let (descriptors, end) = Files::new(session).of_tables(session, &tables.each);
    end?;
    let ebpf = |lead: &Lead| matches!(lead, Lead::Program(_) | Lead::Link(_) | Lead::PerfEvent(_));
    let mut leads = Vec::new();
    for descriptor in descriptors.iter().filter(|descriptor| ebpf(&descriptor.lead)) {
        leads.extend(tables.users(descriptor.table).map(|pid| (pid, descriptor.lead)));
    }
    leads.sort_by_key(|(pid, _)| *pid);
    Ok(leads)
}

/// Tables of descriptors by who uses them.
struct Tables {
    /// With whoever uses it, ascending by table.
    used: Vec<(Gva, u32)>,
    /// Each once, ascending.
    each: Vec<Gva>,
}

impl Tables {
    fn new(tables: &[Table]) -> Self {
        let mut used: Vec<(Gva, u32)> =
            tables.iter().filter(|(_, table)| !table.is_null()).map(|(pid, table)| (*table, *pid)).collect();
        used.sort_unstable();
        let mut each: Vec<Gva> = used.iter().map(|(table, _)| *table).collect();
        each.dedup();
        Self { used, each }
    }

    /// Pids of the users of a table.
    fn users(&self, table: Gva) -> impl Iterator<Item = u32> + '_ {
        let first = self.used.partition_point(|(used, _)| *used < table);
        self.used.iter().skip(first).take_while(move |(used, _)| *used == table).map(|(_, pid)| *pid)
    }
}

/// Who holds a socket, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    /// What is held: another socket in the same memory is not.
    pub(super) socket: SocketLead,
    /// ``struct file *`` that leads to it.
    pub(super) file: Gva,
    pub(super) ownership: Ownership,
    /// In the order in which they were found, perhaps repeated.
    pids: Pids,
    /// Those of processes, in the same order.
    descriptors: Descriptors,
}

impl Holding {
    fn new(socket: SocketLead, file: Gva, ownership: Ownership, pids: &[u32]) -> Self {
        Self { socket, file, ownership, pids: pids.into(), descriptors: Descriptors::new() }
    }

    /// Adds a holder: of another socket in the same memory, or a stronger one, and those that were known do not count.
    fn add(&mut self, socket: SocketLead, file: Gva, ownership: Ownership, pids: &[u32]) {
        if socket != self.socket || file != self.file || ownership < self.ownership {
            *self = Self::new(socket, file, ownership, pids);
        } else if ownership == self.ownership && (pids.len() != 1 || self.pids.last() != pids.last()) {
            self.pids.extend_from_slice(pids);
        }
    }

    /// The descriptors that lead to it, ascending.
    pub(super) fn descriptors(&self) -> Descriptors {
        let mut descriptors = Descriptors::from_slice(&self.descriptors);
        if descriptors.len() > 1 {
            descriptors.sort_unstable();
            descriptors.dedup();
        }
        descriptors
    }

    /// Its holders, ascending.
    pub(super) fn pids(&self) -> Pids {
        let mut pids = Pids::from_slice(&self.pids);
        if pids.len() > 1 {
            pids.sort_unstable();
            pids.dedup();
        }
        pids
    }
}

/// What was found by following everything that can hold a file.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// By ``struct sock *``, ascending.
    pub(super) of_sock: Vec<(Gva, Holding)>,
    /// Those that were found only after the others were in order. There are none in the end.
    late: BTreeMap<Gva, Holding>,
    /// Receive queues of unix socks, ascending by ``struct sock *``.
    pub(super) queues: Vec<(Gva, scm::Queue)>,
    /// Whether all of it could be read. If not, a socket that is not here may still be held.
    pub(super) complete: bool,
}

impl Holders {
    /// Follows the descriptors in `tables`, the rings among them, and the queues of all unix socks: those of `hashed`, ascending and each
    /// once, and those that descriptors lead to.
    pub(super) fn find(session: &Session<'_>, tables: &[Table], hashed: &[Gva]) -> Result<Self, ReadError> {
        let problems = session.problems_met();
        let mut search =
            Search { session, files: Files::new(session), found: Self::default(), rings: Vec::new() };
        // Where it is not known what an io_uring's file looks like, any of them may hold what seems to be nobody's.
        search.found.complete = session.kernel.layouts().net.io_uring.is_none()
            || session.kernel.symbol("io_uring_fops").is_some();
        search.descriptors(tables)?;
        search.rings()?;
        search.messages(hashed)?;
        search.rings()?;
        let mut found = search.found;
        if !found.late.is_empty() {
            found.of_sock.extend(std::mem::take(&mut found.late));
            found.of_sock.sort_by_key(|(sk, _)| *sk);
        }
        found.complete &= session.problems_met() == problems;
        Ok(found)
    }

    /// ``struct sock *`` of all sockets that are held, ascending.
    pub(super) fn socks(&self) -> impl Iterator<Item = Gva> {
        self.of_sock.iter().map(|(sk, _)| *sk)
    }

    /// Who holds a socket. `None`: nobody.
    pub(super) fn of(&self, sk: Gva) -> Option<&Holding> {
        let late = || self.late.get(&sk);
        find(&self.of_sock, sk).or_else(late)
    }

    /// The receive queue of a unix sock.
    pub(super) fn queue(&self, sk: Gva) -> Option<&scm::Queue> {
        find(&self.queues, sk)
    }

    /// Adds a descriptor that leads to a socket. They come in the order of their socks.
    fn add_descriptor(&mut self, socket: SocketLead, file: Gva, descriptor: Descriptor) {
        let last = self.of_sock.last_mut().filter(|(sk, _)| *sk == socket.sk);
        if let Some((_, known)) = last {
            known.add(socket, file, Ownership::Process, &[descriptor.pid]);
            known.descriptors.push(descriptor);
        } else {
            let mut new = Holding::new(socket, file, Ownership::Process, &[descriptor.pid]);
            new.descriptors.push(descriptor);
            self.of_sock.push((socket.sk, new));
        }
    }

    /// Adds what else holds a socket.
    fn add(&mut self, socket: SocketLead, file: Gva, ownership: Ownership, pids: &[u32]) {
        let known = self.of_sock.binary_search_by_key(&socket.sk, |(sk, _)| *sk).ok();
        match known.and_then(|at| self.of_sock.get_mut(at)) {
            Some((_, known)) => known.add(socket, file, ownership, pids),
            None => match self.late.entry(socket.sk) {
                Entry::Occupied(known) => known.into_mut().add(socket, file, ownership, pids),
                Entry::Vacant(place) => {
                    place.insert(Holding::new(socket, file, ownership, pids));
                }
            },
        }
    }
}

struct Search<'s, 'a> {
    session: &'s Session<'a>,
    files: Files,
    found: Holders,
    /// Rings to follow: ``struct io_ring_ctx *``, what holds the files in it, and who.
    rings: Vec<(Gva, Ownership, Vec<u32>)>,
}

impl Search<'_, '_> {
    fn descriptors(&mut self, tables: &[Table]) -> Result<(), ReadError> {
        let mut ebpf = Vec::new();
        let mut rings: BTreeMap<Gva, Vec<u32>> = BTreeMap::new();
        let tables = Tables::new(tables);
        let (descriptors, end) = self.files.of_tables(self.session, &tables.each);
        end?;
        let mut sockets = Vec::with_capacity(descriptors.len());
        self.found.of_sock.reserve(descriptors.len());
        for of_table in descriptors.chunk_by(|one, next| one.table == next.table) {
            let pids: Pids = of_table.first().into_iter().flat_map(|of| tables.users(of.table)).collect();
            for (descriptor, pid) in of_table.iter().flat_map(|of| pids.iter().map(move |pid| (of, *pid))) {
                match descriptor.lead {
                    Lead::Sock(socket) => {
                        sockets.push((socket, descriptor.file, Descriptor { pid, fd: descriptor.number }));
                    }
                    Lead::Ring(ring) => {
                        rings.entry(ring).or_default().push(pid);
                    }
                    Lead::Program(_) | Lead::Link(_) | Lead::PerfEvent(_) => {
                        ebpf.push((pid, descriptor.lead));
                    }
                    Lead::None => {}
                }
            }
        }
        // In the order in which they will be asked for: what comes next is then at hand.
        let mut order: Vec<((Gva, Descriptor), usize)> = Vec::with_capacity(sockets.len());
        order.extend(
            sockets.iter().enumerate().map(|(at, (socket, _, descriptor))| ((socket.sk, *descriptor), at)),
        );
        let crowd = is_crowd(sockets.len());
        sort_apart(&mut order, crowd, &|one, other| one.cmp(other));
        for (socket, file, descriptor) in order.into_iter().filter_map(|(_, at)| sockets.get(at)) {
            self.found.add_descriptor(*socket, *file, *descriptor);
        }
        ebpf.sort_by_key(|(pid, _)| *pid);
        *self.session.ebpf_leads.borrow_mut() = Some(ebpf);
        self.rings.extend(rings.into_iter().map(|(ring, pids)| (ring, Ownership::IoUring, pids)));
        Ok(())
    }

    /// Follows all rings that are known, and those that they hold.
    fn rings(&mut self) -> Result<(), ReadError> {
        let mut seen = HashSet::new();
        while let Some((ring, ownership, pids)) = self.rings.pop() {
            if !seen.insert(ring) {
                continue;
            }
            let files = io_uring::files(self.session, ring);
            let Some(files) = self.session.known("io_ring_ctx", ring, files)? else { continue };
            let Some(files) = files else {
                self.session.problem(
                    ProblemKind::Profile,
                    format_args!("io_ring_ctx {ring}"),
                    "It is not known how this kernel keeps registered files.",
                );
                continue;
            };
            for file in files {
                self.follow(file, ownership, &pids)?;
            }
        }
        Ok(())
    }

    fn messages(&mut self, hashed: &[Gva]) -> Result<(), ReadError> {
        let others: Vec<Gva> = self.found.socks().filter(|sk| hashed.binary_search(sk).is_err()).collect();
        let (unix, end) = apart(self.session, &others, |session, socks| {
            let mut unix = Vec::new();
            let end = session.each(socks, &[|session, sk, ()| sock::expect_family(session, sk)], |sk| {
                if session.known("sock", sk, sock::family_of(session, sk))? == Some(UNIX) {
                    unix.push(sk);
                }
                Ok(())
            });
            (unix, end.map(drop))
        });
        end?;
        let socks = ascending(hashed.iter().copied().chain(unix.into_iter().flatten()).collect());
        let (queues, end) = apart(self.session, &socks, |session, socks| {
            let mut queues = Vec::with_capacity(socks.len());
            let end = session.each(socks, &[|session, sk, ()| scm::expect(session, sk)], |sk| {
                let queue = session.known("unix receive queue", sk, scm::queue(session, sk))?;
                queues.extend(queue.map(|queue| (sk, queue)));
                Ok(())
            });
            (queues, end.map(drop))
        });
        end?;
        for (sk, queue) in queues.into_iter().flatten() {
            if !queue.files.is_empty() {
                let pids = self.found.of(sk).map(|held| held.pids.clone()).unwrap_or_default();
                for file in &queue.files {
                    self.follow(*file, Ownership::InFlight, &pids)?;
                }
            }
            self.found.queues.push((sk, queue));
        }
        Ok(())
    }

    fn follow(&mut self, file: Gva, ownership: Ownership, pids: &[u32]) -> Result<(), ReadError> {
        match self.files.lead(self.session, file)? {
            Lead::Sock(socket) => {
                self.found.add(socket, file, ownership, pids);
            }
            Lead::Ring(ring) => self.rings.push((ring, ownership, pids.to_vec())),
            Lead::Program(_) | Lead::Link(_) | Lead::PerfEvent(_) | Lead::None => {}
        }
        Ok(())
    }
}
