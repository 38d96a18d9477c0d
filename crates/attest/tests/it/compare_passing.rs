//! Processes on their way: in the middle of execve, and children of a parent that is ending.

use crate::fixture::*;
use attest::{Learner, certify, compare};
use facts::*;

fn findings(process: Process) -> Vec<Finding> {
    drift(|s| s.processes.push(process))
}

/// A shell in the place of an sshd: its file is there, its name, arguments and identity are not yet.
fn between(pid: u32) -> Process {
    Process {
        exe: Some("/usr/bin/bash".into()),
        args: Some(vec![]),
        executing: Some(true),
        ..Process { ppid: Some(470), ..process(pid, "sshd", "/usr/sbin/sshd") }
    }
}

#[test]
fn a_certified_program_is_not_judged_by_what_is_not_its_own_yet() {
    assert_eq!(findings(between(600)), []);
    assert_eq!(findings(Process { args: None, uid: Some(7), ..between(600) }), []);
    // It is what it was before that is judged as soon as execve is over, and where nobody knows whether it is.
    for executing in [Some(false), None] {
        let settled = only(findings(Process { executing, ..between(600) }));
        assert_eq!(settled.rule, rule::PROCESS_CHANGED);
    }
    // A required program that is just started is not missing, and it is not one more of its kind either.
    let restarting = drift(|s| {
        let nginx = s.processes.iter_mut().find(|process| process.pid == 450).unwrap();
        *nginx =
            Process { executing: Some(true), args: Some(vec![]), name: "systemd".into(), ..nginx.clone() };
        s.sockets.retain(|socket| !socket.processes.contains(&450));
    });
    assert_eq!(restarting, []);
}

#[test]
fn execve_excuses_nobody_who_has_other_threads() {
    let busy = |pid| only(findings(Process { threads: Some(2), ..between(pid) }));
    assert_eq!(busy(600).rule, rule::PROCESS_CHANGED);
    assert_eq!(busy(600).id, busy(601).id);
    assert!(!busy(600).evidence.contains_key("state"));
    assert_eq!(only(findings(Process { threads: None, ..between(600) })).rule, rule::PROCESS_CHANGED);
}

#[test]
fn a_program_that_is_not_certified_or_not_there_or_not_for_that_parent_is_told_in_the_middle_of_execve() {
    let rogue = |pid| only(findings(Process { exe: Some("/tmp/rogue".into()), ..between(pid) }));
    assert_eq!(rogue(600).evidence["state"], "in the middle of execve");
    assert!(!rogue(600).evidence.contains_key("allow_with"), "nobody wants that in a certificate");
    // By its file, as when it has its own name: the next look confirms it.
    let settled = only(findings(process(600, "rogue", "/tmp/rogue")));
    assert_eq!((rogue(600).rule.as_str(), rogue(601).id), (rule::PROCESS_UNKNOWN, settled.id));
    let elsewhere = |pid| only(findings(Process { ppid: Some(400), ..between(pid) }));
    assert_eq!(elsewhere(600).id, elsewhere(600).id);
    assert_ne!(elsewhere(600).id, elsewhere(601).id);
    for change in [
        |p: &mut Process| p.exe_state = Some(ExeState::Deleted),
        |p: &mut Process| p.container = Some("c0ffee".into()),
        |p: &mut Process| p.ppid = Some(400),
    ] {
        let mut process = between(600);
        change(&mut process);
        let finding = only(findings(process));
        assert!(
            [rule::PROCESS_CHANGED, rule::PROCESS_PARENT].contains(&finding.rule.as_str()),
            "{finding:?}"
        );
    }
}

#[test]
fn what_is_between_two_programs_is_not_learned_and_holds_no_socket_beside_others() {
    let mut learner = Learner::new(&options());
    learner.look(&web()).unwrap();
    let settled = learner.draft(&options()).unwrap().statement;
    let mut snapshot = web_with(|s| s.processes.push(between(600)));
    snapshot.sockets.list()[2].processes = vec![1, 470, 600].into();
    let mut learner = Learner::new(&options());
    learner.look(&snapshot).unwrap();
    assert_eq!(learner.draft(&options()).unwrap().statement, settled);
    // The shell has not closed yet what the sshd listened on.
    assert_eq!(compare(&certificate(), &snapshot), []);
    // Alone it does hold it.
    snapshot.sockets.list()[2].processes = vec![600].into();
    assert_eq!(rules(&compare(&certificate(), &snapshot)), [rule::LISTENER_UNKNOWN]);
}

#[test]
fn a_child_of_a_parent_that_is_ending_is_judged_as_the_first_process_will_have_it() {
    let ending = |snapshot: &mut Snapshot| {
        let parent = snapshot.processes.iter_mut().find(|process| process.pid == 470).unwrap();
        parent.exe = None;
        parent.exe_state = Some(ExeState::None);
        parent.args = Some(vec![]);
    };
    let mut certificate = certificate();
    certificate.processes.iter_mut().for_each(|entry| entry.presence = attest::Presence::Allowed);
    certificate.processes.iter_mut().for_each(|entry| entry.count = attest::Count::default());
    certificate.listeners[0].processes.push(attest::Pattern::parse("**").unwrap());
    let found = |certificate: &attest::Certificate| compare(certificate, &web_with(ending));
    let parents = |findings: Vec<Finding>| {
        findings
            .into_iter()
            .filter(|finding| finding.evidence.get("expected").is_some_and(|e| e == "a known parent"))
            .count()
    };
    assert_eq!(parents(found(&certificate)), 0);
    // Whose children the first process may not have stays unknown.
    let bash = certificate.processes.iter_mut().find(|entry| entry.names[0].as_str() == "bash").unwrap();
    bash.parents.as_mut().unwrap().retain(|parent| parent.as_str() == "/usr/sbin/sshd");
    assert_eq!(parents(found(&certificate)), 1);
}

/// A copy of a root program on its way to be another user's: the group is that user's already.
fn copy(of: usize) -> impl Fn(&mut Snapshot) -> &mut Process {
    move |snapshot| {
        let copy = Process { forked_only: Some(true), ..snapshot.processes[of].clone() };
        snapshot.processes.push(Process { pid: 600, gid: Some(1000), egid: Some(1000), ..copy });
        snapshot.processes.last_mut().unwrap()
    }
}

#[test]
fn a_copy_of_a_program_that_may_take_on_any_group_may_have_done_so_and_no_more() {
    const SSHD: usize = 8;
    let found = |change: &dyn Fn(&mut Process)| drift(|s| change(copy(SSHD)(s)));
    assert_eq!(found(&|_| {}), []);
    assert_eq!(found(&|p| p.egid = Some(0)), []);
    let changes: [&dyn Fn(&mut Process); 7] = [
        // Another user, or part of one.
        &|p| p.uid = Some(1000),
        &|p| p.euid = Some(1000),
        &|p| *p = Process { forked_only: Some(true), ..as_user(p.clone(), 1000) },
        // What has executed a program is no copy, and what may have is none.
        &|p| p.forked_only = Some(false),
        &|p| p.forked_only = None,
        &|p| p.exe = Some("/usr/bin/bash".into()),
        // What is not certified gives nothing to a copy.
        &|p| p.exe = Some("/tmp/sshd".into()),
    ];
    for (index, change) in changes.iter().enumerate() {
        assert_eq!(found(change).len(), 1, "change {index}");
    }
    // The kernel's own threads are forked too, and have no sessions.
    let thread = drift(|s| {
        let thread = Process { forked_only: Some(true), gid: Some(5), ..kernel_thread(31, "kworker/1:1") };
        s.processes.push(thread);
    });
    assert_eq!(only(thread).rule, rule::PROCESS_IDENTITY);
}

#[test]
fn a_worker_that_becomes_root_or_gains_a_capability_or_a_group_is_found_though_its_master_may_all() {
    // The master is root and certified by its name, the worker is a user by another.
    let mut certificate = certificate();
    let worker = |s: &mut Snapshot| {
        s.processes[5].name = "nginx-worker".into();
        s.processes[6].name = "nginx-worker".into();
        s.processes[5].forked_only = Some(true);
        s.processes[6].forked_only = Some(true);
    };
    certificate.processes = certify(&[web_with(worker)], &options()).unwrap().predicate.processes;
    let found = |change: &dyn Fn(&mut Process)| {
        compare(
            &certificate,
            &web_with(|s| {
                worker(s);
                change(&mut s.processes[5]);
            }),
        )
    };
    assert_eq!(found(&|_| {}), []);
    let changes: [&dyn Fn(&mut Process); 8] = [
        &|p| (p.uid, p.euid, p.gid, p.egid) = (Some(0), Some(0), Some(0), Some(0)),
        &|p| (p.uid, p.euid) = (Some(0), Some(0)),
        &|p| p.euid = Some(0),
        &|p| p.uid = Some(0),
        &|p| p.gid = Some(0),
        &|p| p.egid = Some(42),
        &|p| p.capabilities_effective = Some(Address(1 << 6)),
        &|p| p.capabilities_effective = Some(Address(ALL_CAPABILITIES)),
    ];
    for (index, change) in changes.iter().enumerate() {
        let finding = only(found(change));
        assert_eq!(finding.rule, rule::PROCESS_IDENTITY, "change {index}");
        assert_eq!(finding.evidence["pids"], "401");
    }
}
