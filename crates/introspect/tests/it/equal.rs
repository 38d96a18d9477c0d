//! Compares a snapshot with the guest's own `/proc`, entry by entry and field by field.
//!
//! Nothing is left out but what `/proc` and the kernel's memory put differently by design, and each such case says why.

use super::equal_sockets;
use facts::{ExeState, ModuleState, ProcessState, Snapshot};
use std::collections::BTreeMap;
use std::fmt::Debug;
use testkit::Truth;
use testkit::truth;

/// Every difference, as a line. Empty: the tables are equal.
pub fn differences(truth: &Truth, snapshot: &Snapshot) -> Vec<String> {
    let mut found = Vec::new();
    kernel(truth, snapshot, &mut found);
    processes(truth, snapshot, &mut found);
    equal_sockets::sockets(truth, snapshot, &mut found);
    modules(truth, snapshot, &mut found);
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
            Some(guest) => process(guest, seen, found),
            None => found.push(format!("pid {pid} is not in the guest: {seen:?}")),
        }
    }
}

fn process(guest: &truth::Process, seen: &facts::Process, found: &mut Vec<String>) {
    let what = |field: &str| format!("pid {} {field}", guest.pid);
    differ(found, &what("ppid"), Some(guest.ppid), seen.ppid);
    differ(found, &what("name"), &guest.comm, &seen.name);
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
    differ(found, &what("cgroup"), guest.cgroup.as_ref(), seen.cgroup.as_ref());
    differ(found, &what("state"), state_of_letter(guest.state), seen.state.map(settled));
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
        seen.views.iter().map(String::as_str).filter(|view| !comes_and_goes(view)).collect();
    differ(found, &what("views"), expected, views);
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
    let views = ["module_list", "module_tree", "sysfs"].map(str::to_owned).to_vec();
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
