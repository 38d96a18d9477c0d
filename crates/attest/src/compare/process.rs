//! Processes: unknown, changed, missing, as somebody else, with other arguments.

use super::PROPOSAL_LIMIT;
use super::draft::{Cause, Draft, Drafts, Patch, cause, unknown_fact};
use crate::blind::{Blind, Table};
use crate::certificate::{Certificate, Count, Identity, Presence, ProcessEntry};
use crate::describe;
use crate::generalise;
use crate::learn::{Look, Programs, parent_template};
use crate::pattern::Pattern;
use crate::reading::{Owners, Parent, Standing, Unknown, identity, is_executing, name_template, standing};
use crate::text::{list, shown};
use facts::{ExeState, Process, Snapshot, rule};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) fn compare(
    certificate: &Certificate,
    snapshot: &Snapshot,
    owners: &Owners<'_>,
    blind: &[Blind<'_>],
    drafts: &mut Drafts<'_>,
) {
    let mut comparison = Comparison::new(&certificate.processes, owners);
    for process in &snapshot.processes {
        comparison.take(process);
    }
    for ((rule, cause), group) in &comparison.groups {
        drafts.add(rule, cause, || group.draft(&certificate.processes, owners, &comparison.matched));
    }
    comparison.counts(blind.iter().any(|blind| blind.table == Table::Processes), drafts);
}

/// ``CAP_SETGID``, include/uapi/linux/capability.h.
const CAP_SETGID: u64 = 1 << 6;
/// What is unknown when the program of a parent is.
const PARENT: &str = "parent";

/// Finds the entries that could be meant by a process.
struct Index<'c> {
    by_executable: HashMap<&'c str, Vec<usize>>,
    without_executable: Vec<usize>,
    executable_templates: Vec<usize>,
    /// Names of programs, then of kernel threads.
    names: [NameIndex<'c>; 2],
}

#[derive(Default)]
struct NameIndex<'c> {
    literal: HashMap<&'c str, usize>,
    templates: Vec<(&'c Pattern, usize)>,
}

impl<'c> NameIndex<'c> {
    fn find(&self, name: &str) -> Option<usize> {
        self.literal.get(name).copied().or_else(|| {
            self.templates.iter().find(|(template, _)| template.matches(name)).map(|(_, index)| *index)
        })
    }

    fn add(&mut self, entry: &'c ProcessEntry, index: usize) {
        for name in &entry.names {
            match name.as_literal() {
                Some(text) => {
                    self.literal.entry(text).or_insert(index);
                }
                None => self.templates.push((name, index)),
            }
        }
    }
}

impl<'c> Index<'c> {
    fn new(entries: &'c [ProcessEntry]) -> Self {
        let mut new = Self {
            by_executable: HashMap::new(),
            without_executable: Vec::new(),
            executable_templates: Vec::new(),
            names: [NameIndex::default(), NameIndex::default()],
        };
        let [programs, kernel_threads] = &mut new.names;
        for (index, entry) in entries.iter().enumerate() {
            if entry.kernel_thread {
                kernel_threads.add(entry, index);
                continue;
            }
            programs.add(entry, index);
            match entry.executable.as_ref().map(Pattern::as_literal) {
                Some(None) => new.executable_templates.push(index),
                Some(Some(path)) => new.by_executable.entry(path).or_default().push(index),
                None => new.without_executable.push(index),
            }
        }
        new
    }

    fn program_named(&self, name: &str) -> Option<usize> {
        self.names[0].find(name)
    }

    fn kernel_thread_named(&self, name: &str) -> Option<usize> {
        self.names[1].find(name)
    }

    /// Whether a name is one that kernel threads are told by. A template for any name, as a certificate of an image has it,
    /// tells nothing.
    fn is_name_of_kernel_thread(&self, name: &str) -> bool {
        let [_, threads] = &self.names;
        threads.literal.contains_key(name)
            || threads
                .templates
                .iter()
                .any(|(template, _)| template.determines() > 0 && template.matches(name))
    }
}

/// How well a process fits an entry for its executable, from the worst to the best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    ExeState,
    Container,
    Name,
    Arguments,
    Identity,
    Parent,
    /// It fits as far as is known.
    Unknown(Unknown),
    /// It fits in what is the new program's already: it is in the middle of execve.
    Passing,
    Full,
}

/// Why a process is in a finding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Nothing is certified about its executable or, for a kernel thread, its name.
    Program,
    KernelThread,
    /// The executable is certified under other names only.
    Name(usize),
    /// The executable is certified outside a container only, or inside only.
    Container(usize),
    /// The name belongs to an entry with another executable.
    Executable(usize),
    /// The executable was deleted, or is otherwise not what it was.
    ExeState(usize),
    /// A program under a kernel thread's name.
    Masquerade,
    Identity(usize),
    /// A kernel thread by its flag, but with an executable or under a program's name.
    FalseKernelThread,
    Arguments(usize),
    Parent(usize),
    Fact(&'static str),
}

struct Group<'s> {
    reason: Reason,
    processes: Vec<&'s Process>,
}

struct Comparison<'c, 's> {
    entries: &'c [ProcessEntry],
    owners: &'c Owners<'s>,
    index: Index<'c>,
    /// Processes that fit, by entry.
    matched: Vec<u32>,
    /// Entries that another finding already speaks about.
    accounted: Vec<bool>,
    /// Names of processes whose executable is unknown: any of them may be what an entry requires.
    unreadable: BTreeSet<&'s str>,
    groups: BTreeMap<(&'static str, Cause), Group<'s>>,
}

impl<'c, 's> Comparison<'c, 's> {
    fn new(entries: &'c [ProcessEntry], owners: &'c Owners<'s>) -> Self {
        Self {
            entries,
            owners,
            index: Index::new(entries),
            matched: vec![0; entries.len()],
            accounted: vec![false; entries.len()],
            unreadable: BTreeSet::new(),
            groups: BTreeMap::new(),
        }
    }

    fn take(&mut self, process: &'s Process) {
        match standing(process) {
            Err(Unknown(fact)) => {
                self.unreadable.insert(&process.name);
                let cause = cause("process", [fact, name_template(process).as_str()]);
                self.report(rule::GUEST_BLIND, cause, Reason::Fact(fact), process);
            }
            Ok(Standing::Gone) => {}
            // Dying processes are seen in each look at a busy guest (and so are kernel threads about to start a program).
            // Only the kernel's code runs in them. One with a certified name is to be expected; another one is only drift
            // when the very same is still there in the next look.
            Ok(Standing::Dying) => {
                let name = process.name.as_str();
                if self.index.program_named(name).is_none() && !self.index.is_name_of_kernel_thread(name) {
                    let cause = cause("dying", [name, &process.pid.to_string()]);
                    self.report(rule::PROCESS_UNKNOWN, cause, Reason::Program, process);
                }
            }
            Ok(Standing::Leaderless) => self.program(process, None, ExeState::None),
            Ok(Standing::FalseKernelThread) => {
                let file = process.exe.as_deref().unwrap_or(&process.name);
                let pid = in_passing(process);
                let parts = [file, &pid].into_iter().filter(|part| !part.is_empty());
                let cause = cause("false kernel thread", parts);
                self.report(rule::PROCESS_IDENTITY, cause, Reason::FalseKernelThread, process);
            }
            Ok(Standing::KernelThread) => self.kernel_thread(process),
            Ok(Standing::Program(path, state)) => self.program(process, path, state),
        }
    }

    fn kernel_thread(&mut self, process: &'s Process) {
        let cause = |more: &str| cause("kernel thread", [name_template(process).as_str(), more]);
        let Some(index) = self.index.kernel_thread_named(&process.name) else {
            if let Some(index) = self.index.program_named(&process.name) {
                self.account(index);
                self.report(
                    rule::PROCESS_IDENTITY,
                    cause("of a program"),
                    Reason::FalseKernelThread,
                    process,
                );
            } else {
                self.report(rule::PROCESS_UNKNOWN, cause(""), Reason::KernelThread, process);
            }
            return;
        };
        let Some(entry) = self.entries.get(index) else { return };
        match fit_identity(entry, process) {
            Fit::Full => self.count(index),
            Fit::Unknown(Unknown(fact)) => {
                self.account(index);
                self.report(rule::GUEST_BLIND, cause(fact), Reason::Fact(fact), process);
            }
            _ => {
                self.account(index);
                let cause = cause(&identity_text(process));
                self.report(rule::PROCESS_IDENTITY, cause, Reason::Identity(index), process);
            }
        }
    }

    fn program(&mut self, process: &'s Process, path: Option<&'s str>, state: ExeState) {
        match self.best_fit(process, path, state) {
            Some((Fit::Full, index)) => self.count(index),
            // It is about to be what the entry is about.
            Some((Fit::Passing, index)) => self.account(index),
            best => self.misfit(process, path, state, best),
        }
    }

    /// A program that fits no entry in full. Apart from the above, since nearly all fit and need no words.
    fn misfit(
        &mut self,
        process: &'s Process,
        path: Option<&'s str>,
        state: ExeState,
        best: Option<(Fit, usize)>,
    ) {
        let file = describe::file(path, state);
        // Every program of several threads looks like that while it ends, so here too it must be the same one twice.
        let pid = if state == ExeState::None { process.pid.to_string() } else { in_passing(process) };
        let of_file = |more: &str| cause("program", [file.as_str(), more, &pid]);
        let named =
            |more: &str| cause("named program", [file.as_str(), name_template(process).as_str(), more, &pid]);
        match best {
            Some((Fit::Unknown(Unknown(fact)), index)) => {
                self.account(index);
                // A parent ends any time; only the same orphan twice is worth telling.
                let pid = if fact == PARENT { process.pid.to_string() } else { in_passing(process) };
                let cause = cause("program", [file.as_str(), fact, &pid]);
                self.report(rule::GUEST_BLIND, cause, Reason::Fact(fact), process);
            }
            Some((Fit::Parent, index)) => {
                self.account(index);
                let parent = parent_text(self.owners, process);
                self.report(rule::PROCESS_PARENT, named(&parent), Reason::Parent(index), process);
            }
            Some((Fit::Identity, index)) => {
                self.account(index);
                let cause = named(&identity_text(process));
                self.report(rule::PROCESS_IDENTITY, cause, Reason::Identity(index), process);
            }
            Some((Fit::Arguments, index)) => {
                self.account(index);
                self.report(rule::PROCESS_COMMAND_LINE, named(""), Reason::Arguments(index), process);
            }
            _ if state == ExeState::Memfd => {
                // It replaces what runs under that name, if anything does.
                let certified = self.index.program_named(&process.name);
                let reason = certified.map_or(Reason::Program, Reason::Executable);
                certified.into_iter().for_each(|index| self.account(index));
                self.report(rule::PROCESS_FILELESS, of_file(""), reason, process);
            }
            Some((Fit::ExeState, index)) => {
                self.account(index);
                self.report(rule::PROCESS_CHANGED, of_file(""), Reason::ExeState(index), process);
            }
            // The name is still the old program's and tells nothing.
            None if is_executing(process) => {
                let cause = cause("program", [file.as_str(), "", ""]);
                self.report(rule::PROCESS_UNKNOWN, cause, Reason::Program, process);
            }
            other => {
                if let Some(index) = self.index.program_named(&process.name) {
                    self.account(index);
                    let reason = match other {
                        Some((Fit::Container, index)) => Reason::Container(index),
                        _ => Reason::Executable(index),
                    };
                    self.report(rule::PROCESS_CHANGED, named(""), reason, process);
                } else if self.index.is_name_of_kernel_thread(&process.name) {
                    self.report(rule::PROCESS_CHANGED, named(""), Reason::Masquerade, process);
                } else {
                    let (cause, reason) = match other {
                        Some((Fit::Container, index)) => {
                            (of_file("in a container or not"), Reason::Container(index))
                        }
                        Some((_, index)) => (named(""), Reason::Name(index)),
                        None => (of_file(""), Reason::Program),
                    };
                    self.report(rule::PROCESS_UNKNOWN, cause, reason, process);
                }
            }
        }
    }

    /// The entry for this executable that fits best. The first of equals.
    fn best_fit(&self, process: &Process, path: Option<&str>, state: ExeState) -> Option<(Fit, usize)> {
        let mut best: Option<(Fit, usize)> = None;
        let literal = match path {
            Some(path) => self.index.by_executable.get(path).map(Vec::as_slice).unwrap_or_default(),
            None => self.index.without_executable.as_slice(),
        };
        let templates = self.index.executable_templates.iter().filter(|index| {
            let template = self.entries.get(**index).and_then(|entry| entry.executable.as_ref());
            path.zip(template).is_some_and(|(path, template)| template.matches(path))
        });
        for index in literal.iter().chain(templates) {
            let Some(entry) = self.entries.get(*index) else { continue };
            let fit = fit(entry, process, state, self.owners);
            if best.is_none_or(|(known, _)| fit > known) {
                best = Some((fit, *index));
            }
            if fit == Fit::Full {
                break;
            }
        }
        best
    }

    fn count(&mut self, index: usize) {
        if let Some(count) = self.matched.get_mut(index) {
            *count = count.saturating_add(1);
        }
    }

    fn account(&mut self, index: usize) {
        if let Some(accounted) = self.accounted.get_mut(index) {
            *accounted = true;
        }
    }

    fn report(&mut self, rule: &'static str, cause: Cause, reason: Reason, process: &'s Process) {
        let new = || Group { reason, processes: Vec::new() };
        self.groups.entry((rule, cause)).or_insert_with(new).processes.push(process);
    }

    /// Too few and too many.
    fn counts(&self, blind: bool, drafts: &mut Drafts<'_>) {
        for (index, entry) in self.entries.iter().enumerate() {
            let seen = self.matched.get(index).copied().unwrap_or(0);
            let accounted = self.accounted.get(index).copied().unwrap_or(false);
            let explained = || accounted || self.unreadable.iter().any(|name| fits_name(entry, name));
            if seen < entry.least() && !blind && !explained() {
                drafts.add(rule::PROCESS_MISSING, &entry_cause("missing", entry), || {
                    missing(index, entry, seen)
                });
            }
            if let Some(max) = entry.count.max.filter(|max| seen > *max) {
                drafts.add(rule::PROCESS_COUNT, &entry_cause("too many", entry), || {
                    too_many(index, entry, max, seen)
                });
            }
        }
    }
}

fn entry_cause(kind: &'static str, entry: &ProcessEntry) -> Cause {
    let container = entry.container.as_ref().map(Pattern::as_str).unwrap_or_default();
    let args = entry.args.iter().flatten().map(Pattern::as_str);
    cause(kind, [describe::process(entry).as_str(), container].into_iter().chain(args))
}

fn missing(index: usize, entry: &ProcessEntry, seen: u32) -> Draft {
    let what = shown(&describe::process(entry));
    let mut patch = Patch::default().add(&format!("/processes/{index}/presence"), &Presence::Allowed);
    if entry.count.min > 0 {
        patch = patch.add(&format!("/processes/{index}/count/min"), &0);
    }
    Draft::new(
        format!("process {what}"),
        format!("{what} must run at least {} times, and {seen} run", entry.least()),
    )
    .expected(format!("at least {}", entry.least()))
    .seen(seen.to_string())
    .allow_with(patch)
}

fn too_many(index: usize, entry: &ProcessEntry, max: u32, seen: u32) -> Draft {
    let what = shown(&describe::process(entry));
    Draft::new(format!("process {what}"), format!("{what} may run at most {max} times, and {seen} run"))
        .expected(format!("at most {max}"))
        .seen(seen.to_string())
        .allow_with(Patch::default().add(&format!("/processes/{index}/count/max"), &seen))
}

fn fit(entry: &ProcessEntry, process: &Process, state: ExeState, owners: &Owners<'_>) -> Fit {
    if entry.exe_state != state {
        return Fit::ExeState;
    }
    let container = match (&entry.container, &process.container) {
        (None, None) => true,
        (Some(template), Some(id)) => template.matches(id),
        _ => false,
    };
    if !container {
        return Fit::Container;
    }
    // Name, arguments and identity are still the old program's, in part or all of them. They are judged before anything runs.
    if is_executing(process) && !fits_self(entry, process) {
        return match fit_parent(entry, process, owners) {
            Fit::Full => Fit::Passing,
            other => other,
        };
    }
    if !fits_name(entry, &process.name) {
        return Fit::Name;
    }
    if let Some(templates) = &entry.args {
        match &process.args {
            None => return Fit::Unknown(Unknown("args")),
            Some(args) if !fits_arguments(templates, args) => return Fit::Arguments,
            Some(_) => {}
        }
    }
    match fit_identity(entry, process) {
        Fit::Full => fit_parent(entry, process, owners),
        other => other,
    }
}

/// Whether name, arguments and identity are all as certified.
fn fits_self(entry: &ProcessEntry, process: &Process) -> bool {
    let arguments = || match (&entry.args, &process.args) {
        (None, _) => true,
        (Some(templates), Some(args)) => fits_arguments(templates, args),
        (Some(_), None) => false,
    };
    fits_name(entry, &process.name) && arguments() && fit_identity(entry, process) == Fit::Full
}

fn fit_parent(entry: &ProcessEntry, process: &Process, owners: &Owners<'_>) -> Fit {
    let Some(parents) = &entry.parents else { return Fit::Full };
    let may_be = |program: Option<&str>| {
        program.is_some_and(|program| parents.iter().any(|parent| parent.matches(program)))
    };
    match owners.parent(process) {
        Ok(Parent::None) => Fit::Full,
        Ok(Parent::Program(program)) if may_be(Some(&program)) => Fit::Full,
        Ok(Parent::Program(_)) => Fit::Parent,
        // A busy service takes its time to end. Who adopts its children may have them, so nothing is gained by not waiting for it.
        Ok(Parent::Dying) if may_be(owners.first_program()) => Fit::Full,
        Ok(Parent::Dying | Parent::Vanished) | Err(_) => Fit::Unknown(Unknown(PARENT)),
    }
}

fn fits_name(entry: &ProcessEntry, name: &str) -> bool {
    entry.names.is_empty() || entry.names.iter().any(|template| template.matches(name))
}

fn fits_arguments(templates: &[Pattern], args: &[String]) -> bool {
    let (fixed, open) = match templates.split_last() {
        Some((last, fixed)) if last.as_str() == "**" => (fixed, true),
        _ => (templates, false),
    };
    let enough = if open { args.len() >= fixed.len() } else { args.len() == fixed.len() };
    enough && fixed.iter().zip(args).all(|(template, arg)| template.matches(arg))
}

fn fit_identity(entry: &ProcessEntry, process: &Process) -> Fit {
    let seen = match identity(process) {
        Err(unknown) => return Fit::Unknown(unknown),
        Ok(seen) => seen,
    };
    // Who starts a session forks, and the copy takes on the group long before it is the user. A certified identity that may take
    // on any group gains nothing by having done so (docs/decisions/0023).
    let may_change_group = |allowed: &Identity| {
        process.forked_only == Some(true)
            && !process.kernel_thread
            && allowed.capabilities.mask() & CAP_SETGID != 0
    };
    let allowed = entry.identities.iter().any(|allowed| {
        (allowed.uid, allowed.euid) == (seen.uid, seen.euid)
            && ((allowed.gid, allowed.egid) == (seen.gid, seen.egid) || may_change_group(allowed))
            && seen.capabilities.beyond(allowed.capabilities).is_empty()
    });
    if allowed { Fit::Full } else { Fit::Identity }
}

impl Group<'_> {
    /// `matched`: how many processes fit each entry.
    fn draft(&self, entries: &[ProcessEntry], owners: &Owners<'_>, matched: &[u32]) -> Draft {
        let Some(first) = self.processes.first() else {
            return unknown_fact("processes", "pid", 0);
        };
        let name = shown(&first.name);
        let state = first.exe_state.unwrap_or(ExeState::None);
        let file = shown(&describe::file(first.exe.as_deref(), state));
        let entry = |index: usize| entries.get(index).map(describe::process).unwrap_or_default();
        let (seen, expected) = match self.reason {
            Reason::Program => (file.clone(), "no such program".to_owned()),
            Reason::KernelThread => (format!("kernel thread {name}"), "no such kernel thread".to_owned()),
            Reason::Name(index) => {
                let names = entries.get(index).map(|e| list(&e.names)).unwrap_or_default();
                (format!("{file} under the name {name}"), format!("{file} under {names}"))
            }
            Reason::Container(index) => {
                let place = |inside: bool| if inside { "in a container" } else { "outside a container" };
                let certified = entries.get(index).is_some_and(|entry| entry.container.is_some());
                let seen = format!("{file} {}", place(first.container.is_some()));
                (seen, format!("{file} {}", place(certified)))
            }
            Reason::Executable(index) => (format!("{file} under the name {name}"), entry(index)),
            Reason::ExeState(index) => (file.clone(), entry(index)),
            Reason::Masquerade => (
                format!("{file} under a kernel thread's name {name}"),
                "a kernel thread under that name".to_owned(),
            ),
            Reason::Identity(index) => {
                let identities = entries
                    .get(index)
                    .map(|e| list(e.identities.iter().map(describe::identity)))
                    .unwrap_or_default();
                (identity_text(first), identities)
            }
            Reason::FalseKernelThread => (
                format!("{file} ({name}) marked as a kernel thread"),
                "a program that is no kernel thread".to_owned(),
            ),
            Reason::Arguments(index) => {
                let templates =
                    entries.get(index).and_then(|e| e.args.as_ref()).map(list).unwrap_or_default();
                let args = generalise::redacted(first.args.as_deref().unwrap_or_default());
                (list(args.iter().map(|arg| shown(arg))), templates)
            }
            Reason::Parent(index) => {
                let parents =
                    entries.get(index).and_then(|e| e.parents.as_ref()).map(list).unwrap_or_default();
                let by = |parent: &str| format!("{file} started by {parent}");
                (by(&shown(&parent_text(owners, first))), by(&parents))
            }
            Reason::Fact(fact) => {
                let object = match first.exe.as_deref() {
                    Some(_) => format!("process {file}"),
                    None => format!("process {name}"),
                };
                return self.evidence(unknown_fact(&object, fact, self.processes.len()));
            }
        };
        let pids = match self.processes.as_slice() {
            [one] => format!("pid {}", one.pid),
            many => format!("{} processes", many.len()),
        };
        let what = if first.exe.is_some() { &file } else { &name };
        let message = match self.reason {
            Reason::Identity(_) | Reason::Arguments(_) => {
                format!("{what} ({pids}) runs as {seen}; certified is {expected}")
            }
            Reason::Program | Reason::KernelThread => {
                format!("{seen} runs ({pids}), and the certificate does not allow it")
            }
            _ => format!("{seen} runs ({pids}); certified is {expected}"),
        };
        let draft = Draft::new(format!("process {what} ({pids})"), message).expected(expected).seen(seen);
        self.evidence(draft).allow_with(self.proposal(entries, owners, matched))
    }

    fn evidence(&self, draft: Draft) -> Draft {
        let names: BTreeSet<_> = self.processes.iter().map(|process| shown(&process.name)).collect();
        let draft = if self.processes.iter().all(|process| is_executing(process)) {
            draft.with("state", "in the middle of execve".to_owned())
        } else {
            draft
        };
        draft
            .with("pids", list(self.processes.iter().map(|process| process.pid)))
            .with("tasks", list(self.processes.iter().map(|process| process.task)))
            .with("names", list(names))
            .views(self.processes.iter().flat_map(|process| &process.views))
    }

    fn proposal(&self, entries: &[ProcessEntry], owners: &Owners<'_>, matched: &[u32]) -> Patch {
        let none = Patch::default();
        match self.reason {
            Reason::Identity(index) => {
                let identities: BTreeSet<_> =
                    self.processes.iter().filter_map(|p| identity(p).ok()).collect();
                identities.iter().fold(none, |patch, identity| {
                    patch.add(&format!("/processes/{index}/identities/-"), identity)
                })
            }
            Reason::Parent(index) => {
                let parents: BTreeSet<_> =
                    self.processes.iter().map(|process| parent_text(owners, process)).collect();
                parents.iter().fold(none, |patch, parent| {
                    patch.add(&format!("/processes/{index}/parents/-"), &parent_template(parent))
                })
            }
            Reason::KernelThread => {
                let Some(index) = entries.iter().position(|entry| entry.kernel_thread) else {
                    return self.new_entries(owners);
                };
                let names: BTreeSet<_> =
                    self.processes.iter().map(|process| name_template(process)).collect();
                names.iter().fold(none, |patch, name| patch.add(&format!("/processes/{index}/names/-"), name))
            }
            Reason::Arguments(index) => {
                let Some(entry) = entries.get(index) else { return none };
                let vectors: BTreeSet<Vec<Pattern>> = self
                    .processes
                    .iter()
                    .filter_map(|process| process.args.as_ref())
                    .map(|args| {
                        generalise::arguments(args, 0).into_iter().map(|part| part.template).collect()
                    })
                    .collect();
                if vectors.len() > PROPOSAL_LIMIT {
                    return none;
                }
                // A required program that only runs with the new arguments has changed them; else it has new ones too.
                let changed = entry.least() > matched.get(index).copied().unwrap_or(0);
                vectors.into_iter().enumerate().fold(none, |patch, (number, args)| {
                    if changed && number == 0 {
                        return patch.add(&format!("/processes/{index}/args"), &args);
                    }
                    let (presence, count) = (Presence::Allowed, Count::default());
                    patch.add(
                        "/processes/-",
                        &ProcessEntry { args: Some(args), presence, count, ..entry.clone() },
                    )
                })
            }
            Reason::Masquerade | Reason::FalseKernelThread | Reason::Fact(_) => none,
            _ => self.new_entries(owners),
        }
    }

    fn new_entries(&self, owners: &Owners<'_>) -> Patch {
        let mut programs = Programs::default();
        for process in &self.processes {
            if programs.add(Look::default(), process, owners).is_err() {
                return Patch::default();
            }
        }
        let new = programs.entries(0);
        if new.len() > PROPOSAL_LIMIT {
            return Patch::default();
        }
        new.iter().fold(Patch::default(), |patch, (entry, _)| patch.add("/processes/-", entry))
    }
}

/// The pid of a process in the middle of execve, empty for others: only the very same one twice in a row is worth telling.
fn in_passing(process: &Process) -> String {
    if is_executing(process) { process.pid.to_string() } else { String::new() }
}

/// The program that started a process; empty where there is none or it is unknown.
fn parent_text(owners: &Owners<'_>, process: &Process) -> String {
    match owners.parent(process) {
        Ok(Parent::Program(program)) => program.into_owned(),
        Ok(Parent::None | Parent::Dying | Parent::Vanished) | Err(_) => String::new(),
    }
}

fn identity_text(process: &Process) -> String {
    identity(process)
        .map_or_else(|Unknown(fact)| format!("unknown {fact}"), |identity| describe::identity(&identity))
}
