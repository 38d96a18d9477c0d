//! One look at one guest: the address space, the problems met, and the order in which tables are read.
//!
//! Walkers get a [`Session`] and nothing else. It must never let a problem pass in silence, and never let a hostile
//! guest make the list of problems itself the attack, so that list is bounded too.

use crate::linux::kernel::Kernel;
use crate::{Error, linux};
use facts::{Consistency, ConsistencyMode, Problem, ProblemKind, Rows, Snapshot, Views, Vm, VmState};
use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::time::Instant;
use vmi_core::{Access, AddressSpace, Budget, GuestMemory, Gva, Look, ReadError};

/// Which tables a look reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Processes.
    pub processes: bool,
    /// Sockets, with their owners.
    pub sockets: bool,
    /// Modules.
    pub modules: bool,
    /// eBPF programs, with who holds them. Which sockets they filter is known if sockets are read too.
    pub ebpf: bool,
}

impl Tables {
    /// All of them.
    pub const ALL: Self = Self { processes: true, sockets: true, modules: true, ebpf: true };
}

/// How much of the processes' environments a look reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Environment {
    /// Nothing.
    #[default]
    No,
    /// Names of variables.
    Names,
    /// Names and values. Values hold passwords and keys: for somebody who asked for just that.
    Values,
}

/// How to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What the look may cost.
    pub budget: Budget,
    /// What it reads.
    pub tables: Tables,
    /// Whether memory itself is searched for processes, sockets and modules that are on no list. Reads some 20 MiB for each GiB.
    pub scan: bool,
    /// Whether the threads of each process are listed.
    pub threads: bool,
    /// Whether the environment of each process is read.
    pub environment: Environment,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            budget: Budget::default(),
            tables: Tables::ALL,
            scan: false,
            threads: false,
            environment: Environment::No,
        }
    }
}

/// How many objects each step of [`Session::each`] is ahead of the next.
const AHEAD: usize = 8;

/// Has something of an object fetched that will be read soon, and notes what the next step needs.
pub(crate) type Step<O, N = ()> = fn(&Session<'_>, O, &mut N);

/// Problems kept of one look. A guest that causes more gets one line that counts the rest.
const PROBLEMS_MAX: usize = 256;

/// One look in progress.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) kernel: &'a Kernel,
    /// The kernel's own address space.
    pub(crate) space: AddressSpace<'a, 'a>,
    pub(crate) paths: linux::path::PathCache,
    pub(crate) groups: linux::cgroup::GroupCache,
    pub(crate) namespaces: linux::namespace::NamespaceCache,
    pub(crate) wants: Options,
    /// What descriptors lead to eBPF programs by, once the descriptors were followed for the sake of sockets.
    pub(crate) ebpf_leads: RefCell<Option<Vec<linux::holder::EbpfLead>>>,
    boot_time: Option<i64>,
    problems: RefCell<Vec<Problem>>,
    suppressed: Cell<u64>,
    retries: Cell<u32>,
    torn: Cell<u32>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(look: &'a Look<'a>, kernel: &'a Kernel) -> Self {
        Self {
            kernel,
            wants: Options::default(),
            ebpf_leads: RefCell::default(),
            boot_time: None,
            groups: linux::cgroup::GroupCache::default(),
            namespaces: linux::namespace::NamespaceCache::default(),
            space: AddressSpace::new(look, kernel.root(), kernel.levels()),
            paths: linux::path::PathCache::default(),
            problems: RefCell::default(),
            suppressed: Cell::new(0),
            retries: Cell::new(0),
            torn: Cell::new(0),
        }
    }

    /// A session on another thread, for a part of the work of one: see [`crate::apart`].
    pub(crate) fn of_helper(
        look: &'a Look<'a>,
        kernel: &'a Kernel,
        wants: Options,
        boot_time: Option<i64>,
    ) -> Self {
        Self { wants, boot_time, ..Self::new(look, kernel) }
    }

    /// The problems that were met and are listed, which it then has no longer.
    pub(crate) fn take_problems(&self) -> Vec<Problem> {
        self.problems.take()
    }

    /// Adds problems that were taken.
    pub(crate) fn put_problems(&self, problems: impl Iterator<Item = Problem>) {
        for Problem { kind, location, detail } in problems {
            self.problem(kind, location, detail);
        }
    }

    /// What else it counted: problems that are not listed, walks that began again, and objects that kept changing.
    pub(crate) fn counts(&self) -> (u64, u32, u32) {
        (self.suppressed.get(), self.retries.get(), self.torn.get())
    }

    /// Adds what a helper counted.
    pub(crate) fn add_counts(&self, (suppressed, retries, torn): (u64, u32, u32)) {
        self.suppressed.set(self.suppressed.get().saturating_add(suppressed));
        self.retries.set(self.retries.get().saturating_add(retries));
        self.torn.set(self.torn.get().saturating_add(torn));
    }

    /// When the guest booted by its wall clock, in nanoseconds since 1970. `None`: not known.
    pub(crate) fn boot_time(&self) -> Option<i64> {
        self.boot_time
    }

    /// Records that something could not be read.
    pub(crate) fn problem(&self, kind: ProblemKind, location: impl Display, detail: impl Display) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < PROBLEMS_MAX {
            problems.push(Problem { kind, location: location.to_string(), detail: detail.to_string() });
        } else {
            self.suppressed.set(self.suppressed.get().saturating_add(1));
        }
    }

    /// How many problems were met so far: whether something could be read whole is told by whether there are more after it.
    pub(crate) fn problems_met(&self) -> u64 {
        self.suppressed.get().saturating_add(self.problems.borrow().len() as u64)
    }

    /// Records a failed read of the object `what` at `at`. `Err` hands the error back when the look cannot go on.
    pub(crate) fn unreadable(&self, what: &str, at: Gva, error: ReadError) -> Result<(), ReadError> {
        if error.ends_the_look() {
            return Err(error);
        }
        self.problem(ProblemKind::Unmapped, format_args!("{what} {at}"), error);
        Ok(())
    }

    /// `result` as an option: a failed read becomes a problem.
    pub(crate) fn known<T>(
        &self,
        what: &str,
        at: Gva,
        result: Result<T, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => self.unreadable(what, at, error).map(|()| None),
        }
    }

    /// What `read` says of each of `objects`. Meanwhile what it will read of those after it is on its way: each of `steps` goes
    /// [`AHEAD`] objects before the next one, and the last one that many before `read`.
    ///
    /// Reading objects is waiting for memory, once for each pointer on the way. A step finds what the one before has had fetched, and
    /// has fetched what that points at, so that the memory of many objects is waited for at once.
    pub(crate) fn each<O: Copy, N: Clone + Default, T>(
        &self,
        objects: &[O],
        steps: &[Step<O, N>],
        mut read: impl FnMut(O) -> Result<T, ReadError>,
    ) -> Result<Vec<T>, ReadError> {
        // Elsewhere nothing can be fetched beforehand.
        let steps = if self.space.look().memory().access() == Access::Mapped { steps } else { &[] };
        let mut notes = vec![N::default(); if steps.is_empty() { 0 } else { objects.len() }];
        let mut go_ahead = |front: usize| {
            for (step, at) in steps.iter().zip((0..=front).rev().step_by(AHEAD)) {
                if let (Some(object), Some(note)) = (objects.get(at), notes.get_mut(at)) {
                    step(self, *object, note);
                }
            }
        };
        let ahead = steps.len().saturating_mul(AHEAD);
        (0..ahead).for_each(&mut go_ahead);
        let mut results = Vec::with_capacity(objects.len());
        for (at, object) in objects.iter().enumerate() {
            go_ahead(at.saturating_add(ahead));
            results.push(read(*object)?);
        }
        Ok(results)
    }

    /// Has `len` bytes, `offset` bytes into the object at `at`, fetched.
    #[inline]
    pub(crate) fn expect(&self, at: Gva, offset: u64, len: u64) {
        if let Some(at) = at.checked_add(offset) {
            self.space.expect(at, len);
        }
    }

    /// What the pointer `offset` bytes into the object at `at` points at, once that was fetched.
    #[inline]
    pub(crate) fn glimpse(&self, at: Gva, offset: u64) -> Option<Gva> {
        self.space.glimpse(at.checked_add(offset)?)
    }

    /// A table is read again from its start.
    pub(crate) fn retry(&self) {
        self.retries.set(self.retries.get().saturating_add(1));
        self.space.forget();
    }

    /// An object was dropped because it kept changing.
    pub(crate) fn torn(&self) {
        self.torn.set(self.torn.get().saturating_add(1));
    }

    fn finish(self) -> (Vec<Problem>, Consistency) {
        let mut problems = self.problems.into_inner();
        if self.suppressed.get() > 0 {
            problems.push(Problem {
                kind: ProblemKind::Budget,
                location: "problems".to_owned(),
                detail: format!("{} more problems are not listed.", self.suppressed.get()),
            });
        }
        let consistency = Consistency {
            mode: ConsistencyMode::Live,
            retries: self.retries.get(),
            torn: self.torn.get(),
            paused_us: None,
        };
        (problems, consistency)
    }
}

/// Runs one table's walk, which adds to the list it is given, of so many rows by `len`. A used-up budget ends the table early with a problem, and
/// what was read stays; a failed backend ends the look.
fn table<T: Default>(
    session: &Session<'_>,
    name: &str,
    wanted: bool,
    len: fn(&T) -> usize,
    walk: impl FnOnce(&mut T) -> Result<(), ReadError>,
) -> Result<T, Error> {
    let mut items = T::default();
    if !wanted {
        return Ok(items);
    }
    match walk(&mut items) {
        Ok(()) => {}
        Err(ReadError::Memory(error)) => return Err(Error::Memory(error)),
        Err(error) => {
            let kind = match error {
                ReadError::Budget { .. } => ProblemKind::Budget,
                _ => ProblemKind::Unmapped,
            };
            session.problem(
                kind,
                name,
                format_args!("{error}; {} entries were read before it.", len(&items)),
            );
        }
    }
    Ok(items)
}

/// A fact that stands outside of all tables. A used-up budget leaves it unknown, which the tables after it say too.
fn one<T>(session: &Session<'_>, name: &str, result: Result<T, ReadError>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ReadError::Memory(error)) => Err(Error::Memory(error)),
        Err(error) => {
            let budget = matches!(error, ReadError::Budget { .. });
            session.problem(if budget { ProblemKind::Budget } else { ProblemKind::Unmapped }, name, error);
            Ok(None)
        }
    }
}

pub(crate) fn snapshot(
    memory: &dyn GuestMemory,
    kernel: &Kernel,
    vm: &Vm,
    options: &Options,
) -> Result<Snapshot, Error> {
    let started = Instant::now();
    let taken_at = jiff::Timestamp::now().to_string();
    let look = Look::begin(memory, options.budget)?;
    let mut session = Session { wants: *options, ..Session::new(&look, kernel) };
    let tables = options.tables;
    session.boot_time = one(&session, "timekeeper", linux::timekeeping::boot_time(&session))?.flatten();

    // Sockets and programs need processes for their owners.
    let need_processes = tables.processes || tables.sockets || tables.ebpf;
    let mut processes = table(&session, "processes", need_processes, Vec::len, |processes| {
        linux::processes::processes(&session, processes)
    })?;
    let activity =
        one(&session, "counter of tasks", linux::activity::activity(&session))?.unwrap_or_default();
    processes.sort_by_key(|process| (process.facts.pid, process.facts.task));
    let sockets = table(&session, "sockets", tables.sockets, Rows::len, |sockets| {
        linux::net::sockets(&session, &processes, sockets)
    })?;
    let mut modules = table(&session, "modules", tables.modules, Vec::len, |modules| {
        linux::module::modules(&session, modules)
    })?;
    modules.sort_by(|a, b| (&a.name, a.module).cmp(&(&b.name, b.module)));
    let ebpf_programs = (tables.ebpf && linux::bpf::is_known(&session))
        .then(|| {
            table(&session, "ebpf_programs", true, Vec::len, |programs| {
                linux::bpf::programs(&session, &processes, &sockets, programs)
            })
        })
        .transpose()?;
    let facts = kernel.facts(&session);
    let views =
        Views { processes: linux::processes::views(&session), modules: linux::module::views(&session) };

    let (problems, mut consistency) = session.finish();
    if matches!(vm.state, VmState::Image | VmState::Paused) {
        consistency.mode = ConsistencyMode::Still;
    }
    Ok(Snapshot {
        schema: facts::SNAPSHOT_SCHEMA.to_owned(),
        vm: vm.clone(),
        taken_at,
        elapsed_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        consistency,
        kernel: facts,
        views,
        activity,
        processes: processes.into_iter().map(|seen| seen.facts).collect(),
        sockets,
        modules,
        ebpf_programs,
        problems,
    })
}

/// The address of a member `offset` bytes into the object at `object`. An address that wraps around is as unreadable as
/// one that is not mapped.
pub(crate) fn member(object: Gva, offset: u64) -> Result<Gva, ReadError> {
    object.checked_add(offset).ok_or(ReadError::NotAnAddress { at: object, len: offset })
}

/// The address of the object that has a member `offset` bytes into it at `at` (``container_of()``). One that wraps around is as
/// unreadable.
pub(crate) fn container(at: Gva, offset: u64) -> Result<Gva, ReadError> {
    at.checked_sub(offset).ok_or(ReadError::NotAnAddress { at, len: offset })
}
