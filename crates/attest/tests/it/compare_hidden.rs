//! Findings about objects that the kernel's views disagree about. No certificate is needed for them.

use crate::fixture::*;
use attest::{Policy, compare, cross_views};
use facts::*;

fn names(names: &[&str]) -> Vec<Text> {
    names.iter().copied().map(Text::from).collect()
}

/// The snapshot of a kernel that has all views, with every object in all of them.
fn seen_everywhere() -> Snapshot {
    let mut snapshot = web();
    snapshot.views = Views {
        processes: names(&["task_list", "pid_table", "cgroup"]),
        modules: names(&["module_list", "module_tree", "sysfs"]),
    };
    for process in &mut snapshot.processes {
        process.views = snapshot.views.processes.clone().into();
    }
    for module in &mut snapshot.modules {
        module.views = snapshot.views.modules.clone();
    }
    snapshot
}

fn findings(change: impl FnOnce(&mut Snapshot)) -> Vec<Finding> {
    let mut snapshot = seen_everywhere();
    change(&mut snapshot);
    let found = cross_views(&snapshot, &Policy::default());
    let certified = compare(&certificate(), &snapshot);
    let messages = |findings: &[Finding]| -> Vec<String> {
        let hidden = findings.iter().filter(|finding| finding.rule.ends_with(".hidden"));
        hidden.map(|finding| finding.message.clone()).collect()
    };
    assert_eq!(messages(&found), messages(&certified), "a certificate changes nothing about them");
    found
}

#[test]
fn views_that_agree_are_no_finding() {
    assert_eq!(findings(|_| {}), []);
    assert_eq!(findings(|s| s.views = Views::default()), [], "a look that compared no views");
    assert_eq!(findings(|s| s.processes[0].views = s.processes[0].views.with("run_queue".into())), []);
}

#[test]
fn a_process_that_a_view_lacks_is_hidden_and_says_where() {
    let finding =
        only(findings(|s| s.processes[4].views = names(&["pid_table", "cgroup", "run_queue"]).into()));
    assert_eq!((finding.rule.as_str(), finding.severity), (rule::PROCESS_HIDDEN, Severity::Critical));
    assert_eq!(finding.views_seen, names(&["cgroup", "pid_table", "run_queue"]));
    assert_eq!(finding.views_missing, names(&["task_list"]));
    assert!(finding.message.contains("/usr/sbin/nginx"), "{}", finding.message);
    assert!(finding.message.contains("task_list"), "{}", finding.message);
    assert_eq!(finding.evidence["tasks"], web().processes[4].task.to_string());
    assert_eq!(finding.evidence.get("allow_with"), None, "no certificate can allow it");
}

#[test]
fn ten_hidden_processes_of_one_program_are_one_finding_and_another_way_to_hide_is_another() {
    let hide = |s: &mut Snapshot| {
        s.processes[5].views = names(&["task_list"]).into();
        s.processes[6].views = names(&["task_list"]).into();
    };
    let finding = only(findings(hide));
    assert_eq!(finding.evidence["pids"], "401, 402");
    let both = findings(|s| {
        hide(s);
        s.processes[4].views = names(&["cgroup"]).into();
    });
    assert_eq!(both.len(), 2);
    assert!(both.contains(&finding));
}

#[test]
fn a_process_that_ends_has_left_its_views_and_is_not_hidden() {
    let ending = |s: &mut Snapshot| {
        let process = &mut s.processes[4];
        process.state = Some(ProcessState::Zombie);
        process.exiting = true;
        process.exe = None;
        process.exe_state = Some(ExeState::None);
        process.views = names(&["task_list"]).into();
    };
    assert_eq!(findings(ending), []);
    // One that has an executable only poses as ending, whatever its state.
    let poses = |s: &mut Snapshot| {
        ending(s);
        s.processes[4].exe_state = Some(ExeState::Present);
    };
    assert_eq!(only(findings(poses)).rule, rule::PROCESS_HIDDEN);
    let poses = |s: &mut Snapshot| {
        ending(s);
        s.processes[4].exiting = false;
    };
    assert_eq!(only(findings(poses)).rule, rule::PROCESS_HIDDEN);
}

#[test]
fn a_process_that_never_ran_yet_need_only_be_on_the_task_list() {
    let new = |views: &'static [&'static str]| {
        findings(move |s| {
            s.processes[4].state = Some(ProcessState::New);
            s.processes[4].views = names(views).into();
        })
    };
    assert_eq!(new(&["task_list"]), []);
    assert_eq!(only(new(&["pid_table"])).rule, rule::PROCESS_HIDDEN);
    // It runs, so it is not new.
    assert_eq!(only(new(&["task_list", "run_queue"])).rule, rule::PROCESS_HIDDEN);
}

#[test]
fn a_module_that_a_view_lacks_is_hidden() {
    let finding = only(findings(|s| s.modules[0].views = names(&["module_tree"])));
    assert_eq!((finding.rule.as_str(), finding.severity), (rule::MODULE_HIDDEN, Severity::Critical));
    assert_eq!(finding.views_missing, names(&["module_list", "sysfs"]));
    assert_eq!(finding.evidence["module"], web().modules[0].module.to_string());
}

#[test]
fn a_module_that_comes_or_goes_is_not_hidden_and_one_that_poses_so_is() {
    let module = |state, views: &'static [&'static str]| {
        findings(move |s| {
            s.modules[0].state = Some(state);
            s.modules[0].views = names(views);
        })
    };
    for state in [ModuleState::Loading, ModuleState::Unloading, ModuleState::Unformed] {
        assert_eq!(module(state, &["module_list", "module_tree"]), []);
        for views in [&["module_tree"] as &[_], &["module_list"], &["module_tree", "sysfs"]] {
            assert_eq!(only(module(state, views)).rule, rule::MODULE_HIDDEN);
        }
    }
    let finding = only(module(ModuleState::Unformed, &["module_list", "module_tree", "sysfs"]));
    assert_eq!(finding.rule, rule::MODULE_HIDDEN);
    assert!(finding.message.contains("lsmod"), "{}", finding.message);
}

#[test]
fn a_socket_that_a_view_lacks_is_hidden_and_says_where_and_who_holds_it() {
    let finding = only(findings(|s| s.sockets.list()[0].views_missing = names(&["hash_table"]).into()));
    assert_eq!((finding.rule.as_str(), finding.severity), (rule::SOCKET_HIDDEN, Severity::Critical));
    assert_eq!(finding.subject, "socket inet tcp 443");
    assert_eq!(finding.views_missing, names(&["hash_table"]));
    assert_eq!(finding.evidence["pids"], "400, 401, 402");
    assert_eq!(finding.evidence["socks"], web().sockets.get(0).unwrap().sock.to_string());
    assert!(finding.evidence["files"].starts_with("0xffff"), "{finding:#?}");
    assert_eq!(finding.evidence.get("allow_with"), None, "no certificate can allow it");
}

#[test]
fn a_socket_that_nobody_holds_is_hidden_and_one_that_nobody_need_hold_is_not() {
    let with = |ownership, missing: &[&str]| {
        findings(|s| {
            s.sockets.list()[0].processes.clear();
            s.sockets.list()[0].ownership = ownership;
            s.sockets.list()[0].views_missing = names(missing).into();
        })
    };
    let finding = only(with(Some(Ownership::Nobody), &["file_table"]));
    assert_eq!((finding.rule.as_str(), finding.views_missing), (rule::SOCKET_HIDDEN, names(&["file_table"])));
    assert!(finding.message.contains("nothing that was seen holds it"), "{}", finding.message);
    for ownership in [Ownership::Kernel, Ownership::Pending, Ownership::Orphan, Ownership::InFlight] {
        assert_eq!(with(Some(ownership), &[]), [], "{ownership:?}");
    }
}

#[test]
fn the_same_hiding_is_the_same_finding_and_another_port_or_view_is_another() {
    let id = |port, view: &str| {
        only(findings(|s| {
            s.sockets.list()[2] = tcp("0.0.0.0", port, &[1, 470]);
            s.sockets.list()[2].views_missing = names(&[view]).into();
            s.sockets.list()[2].sock = Address(0xffff_8880_0000_0000 | u64::from(port));
        }))
        .id
    };
    assert_eq!(id(22, "hash_table"), id(22, "hash_table"));
    assert_ne!(id(22, "hash_table"), id(22, "file_table"));
    assert_ne!(id(22, "hash_table"), id(23, "hash_table"));
}

#[test]
fn a_listener_whose_holder_could_not_be_found_is_blindness() {
    let mut snapshot = seen_everywhere();
    snapshot.sockets.list()[0].processes.clear();
    snapshot.sockets.list()[0].ownership = None;
    let found = compare(&certificate(), &snapshot);
    assert!(found.iter().any(|finding| finding.rule == rule::GUEST_BLIND), "{found:#?}");
}
