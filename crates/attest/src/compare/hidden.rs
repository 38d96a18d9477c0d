//! Objects that some view of the kernel has and another, which must have it, has not.
//!
//! No certificate is needed to know that this is wrong: a kernel that works keeps its views together, and whoever takes an
//! object off one of them hides it from whoever reads that one. No certificate can allow it either. Must never count an
//! object that is on its way in or out: the walkers have looked twice, and two looks must agree before it is drift.

use super::draft::{Cause, Draft, Drafts, cause};
use super::ebpf::attached_to;
use crate::blind::{LINK_ON_ITS_WAY, object};
use crate::text::{list, shown};
use facts::{EbpfProgram, ExeState, Module, ModuleState, Process, ProcessState, Snapshot, Text, rule};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn compare(snapshot: &Snapshot, drafts: &mut Drafts<'_>) {
    processes(snapshot, drafts);
    modules(snapshot, drafts);
    ebpf(snapshot, drafts);
    unknown_links(snapshot, drafts);
}

/// Views in `all` that are not among those that saw an object.
fn missing<'v>(all: &'v [Text], seen: &[Text]) -> Vec<&'v Text> {
    all.iter().filter(|view| !seen.contains(view)).collect()
}

/// Views of processes that should have this one and have not.
///
/// A process is put into its views one after the other while it is made, and taken out so while it ends, and a guest's CPU may
/// stand still in between for as long as the host likes. So one that never ran yet need only be on the task list, and one
/// that ends and has no memory any more may be on no list: neither can do anything.
fn missing_of_process<'v>(snapshot: &'v Snapshot, process: &Process) -> Vec<&'v Text> {
    // True of nearly every process, and then nothing else needs to be asked.
    if process.views == snapshot.views.processes {
        return Vec::new();
    }
    let has = |name: &str| process.views.iter().any(|view| view == name);
    let begins = process.state == Some(ProcessState::New) && has("task_list") && !has("run_queue");
    let ends = process.exiting && process.exe_state == Some(ExeState::None);
    if begins || ends { Vec::new() } else { missing(&snapshot.views.processes, &process.views) }
}

fn processes(snapshot: &Snapshot, drafts: &mut Drafts<'_>) {
    let mut hidden: BTreeMap<Cause, Vec<&Process>> = BTreeMap::new();
    for process in &snapshot.processes {
        let missing = missing_of_process(snapshot, process);
        if !missing.is_empty() {
            let program = process.exe.as_deref().unwrap_or(&process.name);
            let parts = std::iter::once(program).chain(missing.into_iter().map(Text::as_str));
            hidden.entry(cause("process", parts)).or_default().push(process);
        }
    }
    for (cause, processes) in hidden {
        let Some(first) = processes.first() else { continue };
        drafts.add(rule::PROCESS_HIDDEN, &cause, || {
            let program = shown(first.exe.as_deref().unwrap_or(&first.name));
            let pids = list(processes.iter().map(|process| process.pid));
            let missing = missing_of_process(snapshot, first);
            let seen: BTreeSet<&Text> = processes.iter().flat_map(|process| &process.views).collect();
            Draft::new(
                format!("process {program} (pid {pids})"),
                format!(
                    "{program} runs (pid {pids}) and is missing in {}: it is hidden from whoever looks there",
                    list(missing.iter())
                ),
            )
            .expected(format!("in {}", list(snapshot.views.processes.iter())))
            .seen(format!("in {}", list(seen.iter())))
            .with("tasks", list(processes.iter().map(|process| process.task)))
            .with("pids", pids)
            .views(seen)
            .missing(missing)
        });
    }
}

/// Whether the module shows itself as not there yet while it is set up: `lsmod` leaves such a module out. In `/sys/module` it
/// comes only after that state, and leaves before it (load_module(), free_module(), kernel/module/main.c 6.12).
fn poses_as_unformed(module: &Module) -> bool {
    module.state == Some(ModuleState::Unformed) && module.views.iter().any(|view| view == "sysfs")
}

/// Whether the module is on its way in or out: it is in `/sys/module` only in between, and on the list and in the tree all the
/// time, so `lsmod` shows it.
fn comes_or_goes(module: &Module) -> bool {
    let has = |name: &str| module.views.iter().any(|view| view == name);
    let between =
        matches!(module.state, Some(ModuleState::Loading | ModuleState::Unloading | ModuleState::Unformed));
    between && has("module_list") && has("module_tree") && !has("sysfs")
}

fn modules(snapshot: &Snapshot, drafts: &mut Drafts<'_>) {
    for module in &snapshot.modules {
        let missing = missing(&snapshot.views.modules, &module.views);
        if comes_or_goes(module) || (missing.is_empty() && !poses_as_unformed(module)) {
            continue;
        }
        let name = shown(&module.name);
        let parts = std::iter::once(module.name.as_str()).chain(missing.iter().map(|view| view.as_str()));
        drafts.add(rule::MODULE_HIDDEN, &cause("module", parts), || {
            let message = if missing.is_empty() {
                format!("The kernel module {name} is set up and says that it is not yet: `lsmod` leaves it out")
            } else {
                format!(
                    "The kernel module {name} is loaded and missing in {}: it is hidden from whoever looks there",
                    list(missing.iter())
                )
            };
            Draft::new(format!("module {name}"), message)
                .expected(format!("in {}", list(snapshot.views.modules.iter())))
                .seen(format!("in {}", list(module.views.iter())))
                .with("module", module.module.to_string())
                .views(&module.views)
                .missing(missing)
        });
    }
}

fn ebpf(snapshot: &Snapshot, drafts: &mut Drafts<'_>) {
    let mut hidden: BTreeMap<Cause, Vec<&EbpfProgram>> = BTreeMap::new();
    for program in snapshot.ebpf_programs.iter().flatten() {
        if !program.views_missing.is_empty() {
            let parts = [&program.kind, &program.name, &program.tag];
            let parts = parts.map(|part| part.as_deref().unwrap_or_default());
            // A link leaves its table before its program leaves the place. What nobody holds, and is not the very same one in the next
            // look, was on its way.
            let which =
                [program.program.to_string(), program.id.map_or_else(String::new, |id| id.to_string())];
            let which = if program.processes.is_empty() { which.as_slice() } else { &[] };
            let parts = parts.into_iter().chain(which.iter().map(String::as_str));
            let parts = parts.chain(program.views_missing.iter().map(Text::as_str));
            hidden.entry(cause("ebpf", parts)).or_default().push(program);
        }
    }
    for (cause, programs) in hidden {
        let Some(first) = programs.first() else { continue };
        drafts.add(rule::EBPF_HIDDEN, &cause, || {
            let name = shown(first.name.as_deref().unwrap_or("without a name"));
            let seen: BTreeSet<&Text> = programs.iter().flat_map(|program| &program.views).collect();
            let missing = &first.views_missing;
            Draft::new(
                format!("eBPF program {name}"),
                format!(
                    "The eBPF program {name} is loaded and missing in {}: it is hidden from whoever looks there",
                    list(missing.iter())
                ),
            )
            .expected(format!("in {}", list(seen.iter().copied().chain(missing).collect::<BTreeSet<_>>())))
            .seen(format!("in {}", list(seen.iter())))
            .with("attached_to", attached_to(&programs))
            .with("programs", list(programs.iter().map(|program| program.program)))
            .with("pids", list(programs.iter().flat_map(|program| &program.processes)))
            .views(seen)
            .missing(missing)
        });
    }
}

/// eBPF programs of which it is not known whether a link is hidden: somebody has the lock under which they are taken off. No one has it
/// for long, so in two looks it is more than a program on its way out.
fn unknown_links(snapshot: &Snapshot, drafts: &mut Drafts<'_>) {
    let unknown = snapshot.problems.iter().filter(|problem| object(&problem.location) == LINK_ON_ITS_WAY);
    let mut of_program: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for problem in unknown {
        of_program.entry(&problem.location).or_default().push(&problem.detail);
    }
    for (location, details) in of_program {
        let named = |program: &&EbpfProgram| location.ends_with(&format!(" {}", program.program));
        let program = snapshot.ebpf_programs.iter().flatten().find(named);
        let name = program.and_then(|program| program.name.as_deref()).unwrap_or("without a name");
        let id = program.and_then(|program| program.id).map_or_else(String::new, |id| id.to_string());
        drafts.add(rule::GUEST_BLIND, &cause("ebpf link", [location, name, &id]), || {
            let name = shown(name);
            Draft::new(
                format!("links of eBPF program {name}"),
                format!("It is not known whether a link of the eBPF program {name} is hidden"),
            )
            .expected("in the table of links")
            .seen(list(details.iter().map(|detail| shown(detail))))
            .with("attached_to", attached_to(program.as_slice()))
            .with("programs", list(program.map(|program| program.program)))
        });
    }
}
