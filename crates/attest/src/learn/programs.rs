//! Programs seen, told apart by executable and name, so that two tools in one binary (or two scripts of one interpreter)
//! are two entries, each with its own identities.
//!
//! The arguments of what init started are certified too, when they are few: a service is started in one way. The arguments
//! of everything else are left open: people type them. A process is adopted by the first one when its parent ends, so
//! whoever may have parents may have that one.

use super::draft::Noted;
use super::pairs;
use super::sightings::{Look, Sightings};
use crate::certificate::{Count, Identity, Presence, ProcessEntry};
use crate::generalise::{self, is_temporary};
use crate::pattern::Pattern;
use crate::reading::{Owners, Parent, Standing, Unknown, identity, is_executing, name_template, standing};
use facts::{ExeState, Process};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most ways to start one service that are certified one by one.
const WAYS: usize = 4;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Programs {
    #[serde(with = "pairs")]
    programs: BTreeMap<ProgramKey, Ways>,
    kernel_threads: Program,
    /// Processes that were just ending: by then nothing but the name and the identity is left of a program.
    #[serde(with = "pairs")]
    dying: BTreeMap<Pattern, Program>,
    /// Executable of the first process.
    init: Option<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct ProgramKey {
    executable: Option<Pattern>,
    /// [`ExeState`] by its place in the enumeration, for the order.
    exe_state: u8,
    in_container: bool,
    name: Pattern,
}

/// Ways in which one program was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Ways(#[serde(with = "pairs")] BTreeMap<Arguments, Program>);

/// Templates of an argument vector; `None`: it could not be read.
type Arguments = Option<Vec<Pattern>>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Program {
    names: BTreeSet<Pattern>,
    identities: BTreeSet<Identity>,
    parents: BTreeSet<Pattern>,
    sightings: Sightings,
    started_by_init: bool,
    generated: bool,
    redacted: bool,
}

impl Program {
    fn merge(&mut self, other: Self) {
        self.names.extend(other.names);
        self.identities.extend(other.identities);
        self.parents.extend(other.parents);
        self.sightings.merge(&other.sightings);
        self.started_by_init |= other.started_by_init;
        self.generated |= other.generated;
        self.redacted |= other.redacted;
    }
}

/// The template for a parent as [`Parent::Program`] names it.
pub(crate) fn parent_template(parent: &str) -> Pattern {
    if parent.starts_with("[kworker/") {
        return Pattern::parse("[kworker/**]").unwrap_or_else(|_| Pattern::literal(parent));
    }
    if parent.starts_with('[') { Pattern::with_numbers(parent) } else { Pattern::literal(parent) }
}

impl Programs {
    /// Adds one process. `Err`: a fact that a certificate needs is unknown, and the process is left out.
    pub(crate) fn add(&mut self, look: Look, process: &Process, owners: &Owners<'_>) -> Result<(), Unknown> {
        // Neither the old program nor the new one: the next look shows which.
        if is_executing(process) {
            return Ok(());
        }
        let name = name_template(process);
        let program = match standing(process)? {
            Standing::Gone => return Ok(()),
            Standing::Dying => {
                let identity = identity(process)?;
                let program = self.dying.entry(name.clone()).or_default();
                program.identities.insert(identity);
                program
            }
            // No certificate can allow it.
            Standing::FalseKernelThread => return Err(Unknown("kernel_thread")),
            Standing::KernelThread => {
                let identity = identity(process)?;
                self.kernel_threads.identities.insert(identity);
                &mut self.kernel_threads
            }
            Standing::Program(path, state) => self.program(process, owners, path, state, &name)?,
            Standing::Leaderless => self.program(process, owners, None, ExeState::None, &name)?,
        };
        program.names.insert(name);
        program.sightings.add(look);
        program.started_by_init |= process.pid == 1 || process.ppid == Some(1);
        Ok(())
    }

    fn program(
        &mut self,
        process: &Process,
        owners: &Owners<'_>,
        path: Option<&str>,
        state: ExeState,
        name: &Pattern,
    ) -> Result<&mut Program, Unknown> {
        let identity = identity(process)?;
        let parent = owners.parent(process)?;
        let file = path.map(|path| match is_temporary(path) {
            true => generalise::path(path, &[process.pid]),
            false => generalise::Generalised {
                template: Pattern::literal(path),
                generated: false,
                redacted: false,
            },
        });
        if process.pid == 1 {
            self.init = file.as_ref().map(|file| file.template.clone());
        }
        let (arguments, redacted) = arguments(process);
        let key = ProgramKey {
            executable: file.as_ref().map(|file| file.template.clone()),
            exe_state: state as u8,
            in_container: process.container.is_some(),
            name: name.clone(),
        };
        let program = self.programs.entry(key).or_default().0.entry(arguments).or_default();
        program.identities.insert(identity);
        program.generated |= file.is_some_and(|file| file.generated);
        program.redacted |= redacted;
        if let Parent::Program(parent) = parent {
            program.parents.insert(parent_template(&parent));
        }
        Ok(program)
    }

    /// How many different things were seen.
    pub(crate) fn len(&self) -> usize {
        let of = |program: &Program| {
            program.names.len().saturating_add(program.identities.len()).saturating_add(program.parents.len())
        };
        let programs = self.programs.values().flat_map(|ways| ways.0.values());
        programs.chain(self.dying.values()).chain([&self.kernel_threads]).map(of).sum()
    }

    /// A program that was only seen while it ended is an entry of its own, without an executable.
    fn add_the_dying(&mut self) {
        for (name, dying) in std::mem::take(&mut self.dying) {
            let covers =
                |known: &Pattern| *known == name || name.as_literal().is_some_and(|name| known.matches(name));
            let covered = self
                .programs
                .values()
                .flat_map(|ways| ways.0.values())
                .chain([&self.kernel_threads])
                .flat_map(|program| &program.names)
                .any(covers);
            if !covered {
                let key = ProgramKey {
                    executable: None,
                    exe_state: ExeState::None as u8,
                    in_container: false,
                    name,
                };
                // Whoever started it, it is not there to stay.
                let program = Program { started_by_init: false, ..dying };
                self.programs.entry(key).or_default().0.entry(None).or_default().merge(program);
            }
        }
    }

    /// The entries, kernel threads last. `looks`: how many snapshots there were; 0 for entries that are only allowed.
    pub(crate) fn entries(mut self, looks: usize) -> Vec<(ProcessEntry, Noted)> {
        self.add_the_dying();
        let init = self.init;
        let mut entries: Vec<_> = self
            .programs
            .into_iter()
            .flat_map(|(key, ways)| entries_of(&key, ways.0, looks, init.as_ref()))
            .collect();
        let threads = self.kernel_threads;
        if !threads.names.is_empty() {
            let entry = ProcessEntry {
                executable: None,
                exe_state: ExeState::None,
                kernel_thread: true,
                names: threads.names.into_iter().collect(),
                args: None,
                sha256: Vec::new(),
                identities: threads.identities.into_iter().collect(),
                parents: None,
                count: Count::default(),
                presence: Presence::Allowed,
                container: None,
            };
            let why = "the kernel's own, which come and go with its load";
            entries.push((entry, Noted::new(threads.sightings, why)));
        }
        entries
    }
}

/// Templates for the arguments of a process, and whether a secret was left out of them.
fn arguments(process: &Process) -> (Arguments, bool) {
    let Some(args) = &process.args else { return (None, false) };
    // A program that shows its state in place of its arguments: `nginx: worker process`.
    let title = args.first().and_then(|first| first.split_once(": ")).filter(|(name, _)| !name.contains('/'));
    if let Some((name, _)) = title {
        let template = format!("{}: **", Pattern::literal(name));
        let parts = [template.as_str(), "**"].map(Pattern::parse);
        return (parts.into_iter().collect::<Result<_, _>>().ok(), false);
    }
    let parts = generalise::arguments(args, process.pid);
    let redacted = parts.iter().any(|part| part.redacted);
    (Some(parts.into_iter().map(|part| part.template).collect()), redacted)
}

fn entries_of(
    key: &ProgramKey,
    ways: BTreeMap<Arguments, Program>,
    looks: usize,
    init: Option<&Pattern>,
) -> Vec<(ProcessEntry, Noted)> {
    let required =
        |program: &Program| looks > 0 && program.sightings.looks == looks && program.started_by_init;
    let known = ways.len() <= WAYS && ways.keys().all(Option::is_some);
    let pinned = known && ways.values().any(required);
    if pinned {
        return ways
            .into_iter()
            .map(|(arguments, program)| {
                let required = required(&program);
                entry(key, arguments, program, required, init)
            })
            .collect();
    }
    let mut all = Program::default();
    let mut always = false;
    for program in ways.into_values() {
        always |= required(&program);
        all.merge(program);
    }
    // A secret that is not written down needs no eye.
    all.redacted = false;
    vec![entry(key, None, all, always, init)]
}

fn entry(
    key: &ProgramKey,
    args: Arguments,
    program: Program,
    required: bool,
    init: Option<&Pattern>,
) -> (ProcessEntry, Noted) {
    let why = match (required, program.started_by_init) {
        (true, _) => "started by init and there in every look, so its absence is drift",
        (false, true) => "started by init, and not there in every look",
        (false, false) => "seen, and nothing says that it must be there",
    };
    let mut noted = Noted::new(program.sightings, why);
    if program.generated {
        noted.review("part of its path looks made up and was left open");
    }
    if program.redacted {
        noted.review("a secret in its arguments was left out: any text fits there");
    }
    let mut parents = program.parents;
    if let (false, Some(init)) = (parents.is_empty(), init) {
        parents.insert(init.clone());
    }
    let entry = ProcessEntry {
        executable: key.executable.clone(),
        exe_state: exe_state(key.exe_state),
        kernel_thread: false,
        names: program.names.into_iter().collect(),
        args,
        sha256: Vec::new(),
        identities: program.identities.into_iter().collect(),
        parents: (!parents.is_empty()).then(|| parents.into_iter().collect()),
        count: Count { min: u32::from(required), max: None },
        presence: if required { Presence::Required } else { Presence::Allowed },
        container: key.in_container.then(|| Pattern::parse("*").ok()).flatten(),
    };
    (entry, noted)
}

fn exe_state(index: u8) -> ExeState {
    [ExeState::Present, ExeState::Deleted, ExeState::Memfd]
        .into_iter()
        .find(|state| *state as u8 == index)
        .unwrap_or(ExeState::None)
}
