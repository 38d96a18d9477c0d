//! Compares a snapshot with the guest's own `/proc`, entry by entry and field by field.
//!
//! Nothing is left out but what `/proc` and the kernel's memory put differently by design, and each such case says why.

use super::{equal_ebpf, equal_sockets};
use facts::{ExeState, ModuleState, ProcessState, Seccomp, Snapshot, TaskKind};
use std::collections::BTreeMap;
use std::fmt::Debug;
use testkit::Truth;
use testkit::truth;

/// Every difference, as a line. Empty: the tables are equal.
pub fn differences(truth: &Truth, snapshot: &Snapshot) -> Vec<String> {
    let mut found = Vec::new();
    kernel(truth, snapshot, &mut found);
    activity(truth, snapshot, &mut found);
    processes(truth, snapshot, &mut found);
    equal_sockets::sockets(truth, snapshot, &mut found);
    modules(truth, snapshot, &mut found);
    equal_ebpf::programs(truth, snapshot, &mut found);
    found.extend(snapshot.problems.iter().map(|problem| format!("problem: {problem:?}")));
    found
}

pub fn differ<T: PartialEq + Debug>(found: &mut Vec<String>, what: &str, guest: T, seen: T) {
    if guest != seen {
        found.push(format!("{what}: the guest has {guest:?}, we saw {seen:?}"));
    }
}

fn kernel(truth: &Truth, snapshot: &Snapshot, found: &mut Vec<String>) {
    let (guest, seen) = (&truth.kernel, &snapshot.kernel);
    differ(found, "release", &guest.release, &seen.release);
    differ(found, "version", Some(&guest.version), seen.version.as_ref());
    differ(found, "banner", Some(&guest.banner), seen.banner.as_ref());
    differ(found, "boot id", Some(&guest.boot_id), seen.boot_id.as_ref());
    differ(found, "build id", guest.build_id.as_ref(), seen.build_id.as_ref());
    differ(found, "levels", guest.page_table_levels, seen.page_table_levels);
    differ(found, "boot", Some(guest.boot_time), seen.booted_at.as_deref().map(seconds));
}

/// A moment as whole seconds since 1970.
fn seconds(rfc_3339: &str) -> u64 {
    rfc_3339.parse::<jiff::Timestamp>().unwrap().as_second().try_into().unwrap()
}

fn activity(truth: &Truth, snapshot: &Snapshot, found: &mut Vec<String>) {
    let (guest, seen) = (&truth.kernel, &snapshot.activity);
    differ(found, "forks", Some(guest.forks), seen.forks);
    differ(found, "threads", Some(guest.threads), seen.threads);
    differ(found, "last pid", Some(guest.last_pid), seen.last_pid);
    differ(found, "processes counted", Some(truth.processes.len() as u64), seen.processes);
}

fn processes(truth: &Truth, snapshot: &Snapshot, found: &mut Vec<String>) {
    let guest: BTreeMap<u32, &truth::Process> = truth.processes.iter().map(|p| (p.pid, p)).collect();
    let seen: BTreeMap<u32, &facts::Process> = snapshot.processes.iter().map(|p| (p.pid, p)).collect();
    differ(found, "number of processes", truth.processes.len(), snapshot.processes.len());
    for pid in guest.keys().filter(|pid| !seen.contains_key(pid)) {
        found.push(format!("pid {pid} was not seen: {:?}", guest[pid]));
    }
    for (pid, seen) in seen {
        match guest.get(&pid) {
            Some(guest) => process(truth, guest, seen, found),
            None => found.push(format!("pid {pid} is not in the guest: {seen:?}")),
        }
    }
}

fn process(truth: &Truth, guest: &truth::Process, seen: &facts::Process, found: &mut Vec<String>) {
    let what = |field: &str| format!("pid {} {field}", guest.pid);
    differ(found, &what("ppid"), Some(guest.ppid), seen.ppid);
    differ(found, &what("name"), guest.comm.as_str(), seen.name.as_str());
    differ(found, &what("args"), Some(&guest.args), seen.args.as_ref());
    differ(found, &what("threads"), Some(guest.threads), seen.threads);
    differ(found, &what("kernel thread"), guest.kernel_thread, seen.kernel_thread);
    let ids = |ids: [u32; 4]| (Some(ids[0]), Some(ids[1]));
    differ(found, &what("uid, euid"), ids(guest.uids), (seen.uid, seen.euid));
    differ(found, &what("gid, egid"), ids(guest.gids), (seen.gid, seen.egid));
    let capabilities = seen.capabilities_effective.map(|bits| bits.0);
    differ(found, &what("capabilities"), Some(guest.capabilities_effective), capabilities);
    // Clock ticks of 10 ms (USER_HZ).
    differ(found, &what("start"), Some(guest.start_ticks), seen.start_time_ns.map(|ns| ns / 10_000_000));
    differ(found, &what("cgroup"), guest.cgroup.as_deref(), seen.cgroup.as_deref());
    differ(found, &what("state"), state_of_letter(guest.state), seen.state.map(settled));
    differ(found, &what("suid, fsuid"), (Some(guest.uids[2]), Some(guest.uids[3])), (seen.suid, seen.fsuid));
    differ(found, &what("sgid, fsgid"), (Some(guest.gids[2]), Some(guest.gids[3])), (seen.sgid, seen.fsgid));
    differ(found, &what("groups"), Some(&guest.groups), seen.groups.as_ref());
    let sets = [
        seen.capabilities_inheritable,
        seen.capabilities_permitted,
        seen.capabilities_bounding,
        seen.capabilities_ambient,
    ];
    differ(
        found,
        &what("capability sets"),
        guest.capabilities.map(Some),
        sets.map(|set| set.map(|bits| bits.0)),
    );
    let seccomp = [Seccomp::Disabled, Seccomp::Strict, Seccomp::Filter].get(guest.seccomp as usize).copied();
    differ(found, &what("seccomp"), seccomp, seen.seccomp);
    differ(found, &what("no_new_privs"), Some(guest.no_new_privs), seen.no_new_privs);
    let group = (Some(guest.process_group), Some(guest.session));
    differ(found, &what("process group, session"), group, (seen.process_group, seen.session));
    terminal(guest, seen, found);
    let groups: Option<Vec<(String, String)>> = seen
        .cgroups_v1
        .as_ref()
        .map(|groups| groups.iter().map(|group| (group.hierarchy.clone(), group.path.clone())).collect());
    differ(found, &what("groups of version 1"), Some(&guest.cgroups_v1), groups.as_ref());
    let started = snapshot_start(guest, truth);
    let seen_start = seen.started_at.as_deref().map(seconds);
    if seen_start.is_none_or(|seen| seen.abs_diff(started) > 1) {
        found
            .push(format!("{}: the guest has {started}, we saw {seen_start:?}", what("wall clock of start")));
    }
    used(guest, seen, found);
    on_request(guest, seen, found);
    let namespaces = facts::Namespaces {
        pid: guest.namespaces.pid,
        net: guest.namespaces.net,
        mnt: guest.namespaces.mnt,
        user: guest.namespaces.user,
        uts: guest.namespaces.uts,
        ipc: guest.namespaces.ipc,
        cgroup: guest.namespaces.cgroup,
    };
    differ(found, &what("namespaces"), &namespaces, &seen.namespaces);

    let (exe, state) = match guest.exe.as_deref() {
        None => (None, ExeState::None),
        Some(link) => match link.strip_suffix(" (deleted)") {
            None => (Some(link), ExeState::Present),
            Some(path) if path.starts_with("/memfd:") => (Some(path), ExeState::Memfd),
            Some(path) => (Some(path), ExeState::Deleted),
        },
    };
    differ(found, &what("exe"), (exe, Some(state)), (seen.exe.as_deref(), seen.exe_state));
    // Whether a zombie has left its control group depends on the kernel; the run queues come and go.
    let comes_and_goes = |view: &str| view == "run_queue" || (view == "cgroup" && guest.state == 'Z');
    let of_all = ["task_list", "pid_table", "cgroup"];
    let expected: Vec<&str> = of_all.into_iter().filter(|view| !comes_and_goes(view)).collect();
    let views: Vec<&str> =
        seen.views.iter().map(facts::Text::as_str).filter(|view| !comes_and_goes(view)).collect();
    differ(found, &what("views"), expected, views);
}

/// Seconds since 1970, to within the one that both roundings take.
fn snapshot_start(guest: &truth::Process, truth: &Truth) -> u64 {
    truth.kernel.boot_time + guest.start_ticks / 100
}

fn terminal(guest: &truth::Process, seen: &facts::Process, found: &mut Vec<String>) {
    let what = format!("pid {} terminal", guest.pid);
    let number = seen.terminal.as_ref().map(|terminal| (terminal.major, terminal.minor));
    differ(found, &what, guest.terminal, number);
    let name = guest.terminal.map(|(_, minor)| {
        // devpts is not in /sys; there the index is the name.
        guest.terminal_name.clone().unwrap_or_else(|| format!("pts/{minor}"))
    });
    differ(found, &what, name.as_deref(), seen.terminal.as_ref().map(|terminal| terminal.name.as_str()));
}

/// Whether it is who took the truth: the first process, or a service of a full system.
fn is_agent(guest: &truth::Process) -> bool {
    matches!(guest.exe.as_deref(), Some("/init" | "/usr/local/sbin/birthmark-guest-agent"))
}

/// CPU time and memory go on changing in what runs: the agent, which takes the truth, what spins, and the kernel's threads.
fn used(guest: &truth::Process, seen: &facts::Process, found: &mut Vec<String>) {
    let runs = is_agent(guest) || guest.kernel_thread || guest.state == 'R';
    // User and system time are each rounded down to 10 ms.
    let ticks = seen.cpu_time_ns.map(|ns| ns / 10_000_000);
    let right =
        ticks.is_some_and(|seen| seen <= guest.cpu_ticks + 2 && (runs || seen + 2 >= guest.cpu_ticks));
    if !right {
        found
            .push(format!("pid {} CPU time: the guest has {}, we saw {ticks:?}", guest.pid, guest.cpu_ticks));
    }
    // The kernel prints the shared part of the counter, or (since 6.16) its sum: up to 32 pages for each of two CPUs more in
    // each of three counters.
    let slack = if is_agent(guest) { 1024 } else { 3 * 2 * 32 };
    let pages = seen.resident_bytes.map(|bytes| bytes / 4096);
    if pages.is_none_or(|seen| seen.abs_diff(guest.resident_pages) > slack) {
        found.push(format!(
            "pid {} resident: the guest has {}, we saw {pages:?}",
            guest.pid, guest.resident_pages
        ));
    }
}

fn on_request(guest: &truth::Process, seen: &facts::Process, found: &mut Vec<String>) {
    if let Some(threads) = &seen.thread_list {
        let guest_list: Vec<_> = guest
            .tasks
            .iter()
            .map(|task| {
                let kind = match task.flags {
                    flags if flags & 0x0020_0000 != 0 => TaskKind::Kernel,
                    flags if flags & 0x10 != 0 => TaskKind::IoWorker,
                    _ => TaskKind::User,
                };
                (task.tid, task.comm.as_str(), kind, state_of_letter(task.state), Some(task.start_ticks))
            })
            .collect();
        let seen_list: Vec<_> = threads
            .iter()
            .map(|thread| {
                let ticks = thread.start_time_ns.map(|ns| ns / 10_000_000);
                (thread.tid, thread.name.as_str(), thread.kind, thread.state.map(settled), ticks)
            })
            .collect();
        differ(found, &format!("pid {} threads", guest.pid), guest_list, seen_list);
    }
    if let Some(environment) = &seen.environment {
        let seen: Vec<String> = environment
            .iter()
            .map(|variable| match (variable.name.as_str(), variable.value.as_deref()) {
                ("", value) => value.unwrap_or("(hidden)").to_owned(),
                (name, value) => format!("{name}={}", value.unwrap_or("(hidden)")),
            })
            .collect();
        differ(found, &format!("pid {} environment", guest.pid), &guest.environment, &seen);
    }
}

/// Running, sleeping and idle come and go while nothing else changes; stopped, traced and dead do not.
fn settled(state: ProcessState) -> ProcessState {
    match state {
        ProcessState::Running | ProcessState::DiskSleep | ProcessState::Idle | ProcessState::New => {
            ProcessState::Sleeping
        }
        other => other,
    }
}

fn state_of_letter(letter: char) -> Option<ProcessState> {
    Some(match letter {
        'R' | 'S' | 'D' | 'I' => ProcessState::Sleeping,
        'T' => ProcessState::Stopped,
        't' => ProcessState::TracingStop,
        'X' => ProcessState::Dead,
        'Z' => ProcessState::Zombie,
        'P' => ProcessState::Parked,
        _ => return None,
    })
}

fn modules(truth: &Truth, snapshot: &Snapshot, found: &mut Vec<String>) {
    let guest: BTreeMap<_, _> = truth
        .modules
        .iter()
        .map(|m| (m.name.clone(), (Some(m.size), m.references, Some(m.state.as_str()))))
        .collect();
    let views = ["module_list", "module_tree", "sysfs"].map(facts::Text::from).to_vec();
    differ(found, "views of modules", &views, &snapshot.views.modules);
    let seen: BTreeMap<_, _> = snapshot
        .modules
        .iter()
        .map(|module| {
            differ(found, &format!("views of module {}", module.name), &views, &module.views);
            let state = module.state.map(|state| match state {
                ModuleState::Live => "Live",
                ModuleState::Loading => "Loading",
                ModuleState::Unloading => "Unloading",
                ModuleState::Unformed => "in no table of the guest",
            });
            (module.name.clone(), (module.size, module.references, state))
        })
        .collect();
    differ(found, "modules", guest, seen);
}
