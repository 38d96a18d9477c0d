//! Findings about processes: unknown, changed, missing, with another identity.

use crate::fixture::*;
use attest::{Pattern, compare};
use facts::*;

#[test]
fn the_snapshot_it_was_learned_from_conforms() {
    assert_eq!(drift(|_| {}), []);
}

#[test]
fn another_look_at_the_same_service_conforms() {
    let findings = drift(|s| {
        for process in &mut s.processes {
            process.pid += 1000 * u32::from(process.pid > 2);
            process.ppid = process.ppid.map(|pid| pid + 1000 * u32::from(pid > 2));
            process.start_time_ns = Some(1);
            process.task = Address(0xffff_8889_0000_0000);
        }
        for socket in s.sockets.list() {
            for pid in &mut socket.processes {
                *pid += 1000 * u32::from(*pid > 2);
            }
            socket.inode = Some(9);
        }
        s.kernel.kaslr_offset = Address(0x3400_0000);
        s.processes.push(as_user(process(3000, "nginx", "/usr/sbin/nginx"), 33));
        s.processes.push(kernel_thread(3001, "kworker/u8:12-events_unbound"));
        s.processes.push(kernel_thread(3002, "ksoftirqd/17"));
        s.processes.retain(|process| process.name != "bash");
    });
    assert_eq!(findings, []);
}

#[test]
fn ten_workers_of_a_rogue_program_are_one_unknown_process() {
    let finding = only(drift(|s| {
        for pid in 600..610 {
            s.processes.push(process(pid, &format!("rogue-{pid}"), "/tmp/rogue"));
        }
    }));
    assert_eq!(finding.rule, rule::PROCESS_UNKNOWN);
    assert_eq!(finding.severity, Severity::High);
    assert_eq!(finding.confirmations, 1);
    assert_eq!(finding.evidence["pids"], "600, 601, 602, 603, 604, 605, 606, 607, 608, 609");
    assert!(finding.evidence["tasks"].starts_with("0xffff8880004b0000, "), "{:?}", finding.evidence);
    assert_eq!(finding.evidence["seen"], "/tmp/rogue");
    assert_eq!(finding.subject, "process /tmp/rogue (10 processes)");
    assert_eq!(finding.views_seen, ["task_list"]);
}

#[test]
fn two_rogue_programs_are_two_findings() {
    let findings = drift(|s| {
        s.processes.push(process(600, "a", "/tmp/a"));
        s.processes.push(process(601, "b", "/tmp/b"));
    });
    assert_eq!(rules(&findings), [rule::PROCESS_UNKNOWN; 2]);
}

#[test]
fn an_id_is_the_same_in_another_look_and_another_for_another_service() {
    let first = only(drift(|s| s.processes.push(process(600, "rogue", "/tmp/rogue"))));
    let later = web_with(|s| {
        s.processes.insert(0, process(98765, "rogue", "/tmp/rogue"));
        s.taken_at = "2027-01-01T00:00:00Z".to_owned();
    });
    assert_eq!(only(compare(&certificate(), &later)).id, first.id);
    let mut other = certificate();
    other.service = "database".to_owned();
    assert_ne!(only(compare(&other, &later)).id, first.id);
    assert_eq!(first.id.len(), 16);
}

#[test]
fn findings_do_not_depend_on_the_order_of_rows_and_the_worst_comes_first() {
    let change = |s: &mut Snapshot| {
        s.processes.push(process(600, "a", "/tmp/a"));
        s.processes.push(process(601, "a", "/tmp/a"));
        s.processes.push(process(602, "b", "/tmp/b"));
        s.processes.retain(|p| p.name != "dhclient");
        s.sockets.retain(|s| !s.processes.contains(&450));
        s.modules.push(module("evil"));
    };
    let findings = drift(change);
    assert_eq!(
        rules(&findings),
        [rule::MODULE_UNKNOWN, rule::PROCESS_UNKNOWN, rule::PROCESS_UNKNOWN, rule::PROCESS_MISSING]
    );
    assert!(findings[1].id < findings[2].id);
    let ids = |findings: &[Finding]| findings.iter().map(|f| f.id.clone()).collect::<Vec<_>>();
    let reversed = drift(|s| {
        change(s);
        s.processes.reverse();
        s.sockets.list().reverse();
        s.modules.reverse();
    });
    assert_eq!(ids(&reversed), ids(&findings));
}

#[test]
fn a_known_program_under_a_new_name_is_unknown() {
    let finding = only(drift(|s| s.processes.push(process(600, "nc", "/usr/bin/bash"))));
    assert_eq!(finding.rule, rule::PROCESS_UNKNOWN);
    assert_eq!(finding.evidence["expected"], "/usr/bin/bash under bash");
}

#[test]
fn a_certified_program_in_a_container_is_another_program() {
    let inside =
        |name: &str, exe: &str| Process { container: Some("c0ffee".into()), ..process(600, name, exe) };
    let finding = only(drift(|s| s.processes.push(inside("bash", "/usr/bin/bash"))));
    assert_eq!(finding.rule, rule::PROCESS_CHANGED);
    assert!(finding.message.contains("in a container"), "{}", finding.message);
    // Certified in a container, whatever its id.
    let mut certificate = certificate();
    let bash = certificate.processes.iter_mut().find(|e| e.names[0].as_str() == "bash").unwrap();
    bash.container = Some(Pattern::parse("*").unwrap());
    let contained = web_with(|s| s.processes[9] = inside("bash", "/usr/bin/bash"));
    assert_eq!(compare(&certificate, &contained), []);
    assert_eq!(rules(&compare(&certificate, &web())), [rule::PROCESS_CHANGED]);
}

#[test]
fn a_certified_name_with_another_executable_is_changed_and_not_also_missing() {
    let finding = only(drift(|s| {
        for index in 4..7 {
            s.processes[index].exe = Some("/tmp/nginx".into());
        }
        s.sockets.retain(|socket| !socket.processes.contains(&400));
    }));
    assert_eq!(finding.rule, rule::PROCESS_CHANGED);
    assert_eq!(finding.evidence["expected"], "/usr/sbin/nginx as nginx");
    assert_eq!(finding.evidence["pids"], "400, 401, 402");
}

#[test]
fn a_deleted_or_unnamed_executable_is_changed() {
    let deleted = only(drift(|s| s.processes[7].exe_state = Some(ExeState::Deleted)));
    assert_eq!(deleted.rule, rule::PROCESS_CHANGED);
    assert_eq!(deleted.evidence["seen"], "/usr/sbin/dhclient (deleted)");
    let memfd = Process { exe_state: Some(ExeState::Memfd), ..process(600, "sshd", "/memfd:sshd") };
    let memfd = only(drift(|s| s.processes.push(memfd)));
    assert_eq!(memfd.rule, rule::PROCESS_FILELESS);
    assert_eq!(memfd.evidence["seen"], "/memfd:sshd (memfd) under the name sshd");
}

#[test]
fn a_program_under_the_name_of_a_kernel_thread_is_changed() {
    let finding = only(drift(|s| s.processes.push(process(600, "kworker/1:2", "/tmp/x"))));
    assert_eq!(finding.rule, rule::PROCESS_CHANGED);
    assert!(finding.message.contains("a kernel thread's name"), "{}", finding.message);
}

#[test]
fn an_unknown_kernel_thread_is_unknown() {
    let finding = only(drift(|s| s.processes.push(kernel_thread(600, "evil/3"))));
    assert_eq!(finding.rule, rule::PROCESS_UNKNOWN);
    let again = only(drift(|s| s.processes.push(kernel_thread(700, "evil/8"))));
    assert_eq!(again.id, finding.id, "The number in a kernel thread's name is no other cause");
}

#[test]
fn a_kernel_thread_that_is_none_is_an_identity() {
    let with_file = Process { kernel_thread: true, ..process(600, "kworker/0:1", "/tmp/x") };
    assert_eq!(only(drift(|s| s.processes.push(with_file))).rule, rule::PROCESS_IDENTITY);
    let named = kernel_thread(600, "sshd");
    assert_eq!(only(drift(|s| s.processes.push(named))).rule, rule::PROCESS_IDENTITY);
}

#[test]
fn a_required_program_that_does_not_run_is_missing() {
    let gone = |s: &mut Snapshot| {
        s.processes.retain(|p| p.name != "nginx");
        s.sockets.retain(|socket| !socket.processes.contains(&400));
    };
    let finding = only(drift(gone));
    assert_eq!(finding.rule, rule::PROCESS_MISSING);
    assert_eq!(finding.severity, Severity::Medium);
    assert_eq!(finding.evidence["seen"], "0");
    // What is only allowed is never missing.
    assert_eq!(drift(|s| s.processes.retain(|p| p.name != "bash" && p.name != "kthreadd")), []);
}

#[test]
fn a_zombie_is_not_the_required_program_and_not_a_finding() {
    let findings = drift(|s| {
        s.processes[7] = zombie(450, "dhclient");
        s.sockets.retain(|socket| !socket.processes.contains(&450));
        s.processes.push(zombie(600, "whatever"));
    });
    assert_eq!(only(findings).rule, rule::PROCESS_MISSING);
}

#[test]
fn a_zombie_leader_with_living_threads_is_no_zombie() {
    let alive = |name: &str| {
        let alive = Process { threads: Some(2), ..zombie(600, name) };
        only(drift(|s| s.processes.push(alive))).rule
    };
    assert_eq!(alive("rogue"), rule::PROCESS_UNKNOWN);
    assert_eq!(alive("sshd"), rule::PROCESS_CHANGED);
}

#[test]
fn a_dying_process_of_a_certified_program_is_nothing_and_another_must_be_the_same_one_twice() {
    let dying = |pid, name: &str| Process { state: Some(ProcessState::Running), ..zombie(pid, name) };
    assert_eq!(drift(|s| s.processes.push(dying(600, "sshd"))), []);
    let finding = |pid, name: &str| only(drift(|s| s.processes.push(dying(pid, name))));
    assert_eq!(finding(600, "rogue").rule, rule::PROCESS_UNKNOWN);
    assert_eq!(finding(600, "rogue").id, finding(600, "rogue").id);
    assert_ne!(finding(600, "rogue").id, finding(601, "rogue").id);
    // A worker on its way to start a program in user space.
    assert_eq!(drift(|s| s.processes.push(dying(600, "kworker/u8:1"))), []);
    // It is not the program that must run.
    let missing = drift(|s| {
        s.processes[7] = dying(450, "dhclient");
        s.sockets.retain(|socket| !socket.processes.contains(&450));
    });
    assert_eq!(only(missing).rule, rule::PROCESS_MISSING);
    // What is learned from it is no more than its name, and nothing where the program is known.
    let learn = |snapshot: Snapshot| attest::certify(&[snapshot], &options()).unwrap();
    assert_eq!(learn(web_with(|s| s.processes.push(dying(600, "sshd")))), statement());
    let snapshot = web_with(|s| s.processes.push(dying(600, "rogue")));
    assert_eq!(compare(&learn(snapshot.clone()).predicate, &snapshot), []);
}

#[test]
fn absence_from_a_table_that_was_not_read_to_its_end_is_not_reported() {
    let findings = drift(|s| {
        s.processes.retain(|p| p.name != "dhclient");
        s.sockets.retain(|socket| !socket.processes.contains(&450));
        s.problems.push(problem(ProblemKind::Inconsistent, "task list 0xffffffff82e1b3c0"));
    });
    assert_eq!(rules(&findings), [rule::GUEST_BLIND]);
}

#[test]
fn counts_outside_the_certified_range_are_found() {
    let mut certificate = certificate();
    let index = certificate.processes.iter().position(|e| e.names[0].as_str() == "nginx").unwrap();
    certificate.processes[index].count.max = Some(2);
    assert_eq!(only(compare(&certificate, &web())).rule, rule::PROCESS_COUNT);
    certificate.processes[index].count.max = Some(3);
    assert_eq!(compare(&certificate, &web()), []);
    certificate.processes[index].count.min = 4;
    certificate.processes[index].count.max = None;
    let missing = only(compare(&certificate, &web()));
    assert_eq!((missing.rule.as_str(), missing.evidence["seen"].as_str()), (rule::PROCESS_MISSING, "3"));
}

#[test]
fn another_user_or_group_is_an_identity() {
    for change in [
        (|p: &mut Process| p.uid = Some(0)) as fn(&mut Process),
        |p| p.euid = Some(0),
        |p| p.gid = Some(0),
        |p| p.egid = Some(0),
    ] {
        let finding = only(drift(|s| change(&mut s.processes[5])));
        assert_eq!(finding.rule, rule::PROCESS_IDENTITY);
        assert_eq!(finding.evidence["pids"], "401");
    }
}

#[test]
fn capabilities_beyond_the_certified_ones_are_an_identity_and_fewer_are_not() {
    let more = only(drift(|s| s.processes[5].capabilities_effective = Some(Address(1 << 21))));
    assert_eq!(more.rule, rule::PROCESS_IDENTITY);
    assert!(more.evidence["seen"].contains("cap_sys_admin"), "{:?}", more.evidence);
    assert_eq!(drift(|s| s.processes[4].capabilities_effective = Some(Address(0))), []);
    // A worker may not have what only the master is certified for.
    assert_eq!(
        only(drift(|s| s.processes[5].capabilities_effective = Some(Address(ALL_CAPABILITIES)))).rule,
        rule::PROCESS_IDENTITY
    );
}

#[test]
fn arguments_are_compared_only_where_a_template_is_certified() {
    let other = web_with(|s| s.processes[7].args = Some(vec!["dhclient".to_owned(), "-sf".to_owned()]));
    let mut certificate = certificate();
    certificate.processes.iter_mut().for_each(|entry| entry.args = None);
    assert_eq!(compare(&certificate, &other), []);
    let entry = certificate.processes.iter_mut().find(|e| e.names[0].as_str() == "dhclient").unwrap();
    let template = |texts: &[&str]| Some(texts.iter().map(|t| Pattern::parse(t).unwrap()).collect());
    entry.args = template(&["/usr/sbin/dhclient"]);
    assert_eq!(compare(&certificate, &web()), []);
    let finding = only(compare(&certificate, &other));
    assert_eq!(finding.rule, rule::PROCESS_COMMAND_LINE);
    assert_eq!(finding.evidence["seen"], "dhclient, -sf");
    let entry = certificate.processes.iter_mut().find(|e| e.names[0].as_str() == "dhclient").unwrap();
    entry.args = template(&["dhclient", "**"]);
    assert_eq!(compare(&certificate, &other), []);
    let unread = web_with(|s| s.processes[7].args = None);
    assert_eq!(rules(&compare(&certificate, &unread)), [rule::GUEST_BLIND]);
}

#[test]
fn an_unknown_fact_is_never_a_match_and_never_a_default() {
    for change in [
        (|p: &mut Process| p.exe_state = None) as fn(&mut Process),
        |p| p.exe = None,
        |p| p.uid = None,
        |p| p.euid = None,
        |p| p.gid = None,
        |p| p.egid = None,
        |p| p.capabilities_effective = None,
    ] {
        // sshd holds a listener, so its socket is in doubt as well where its executable is unknown.
        let findings = drift(|s| change(&mut s.processes[8]));
        assert!(!findings.is_empty());
        assert!(findings.iter().all(|f| f.rule == rule::GUEST_BLIND), "{findings:#?}");
        assert!(findings.iter().any(|f| f.evidence["pids"] == "470"), "{findings:#?}");
    }
}

#[test]
fn guest_text_cannot_reach_a_terminal_raw_or_without_bound() {
    let finding = only(drift(|s| {
        s.processes.push(process(
            600,
            "\u{1b}[2Jx",
            &format!("/tmp/\u{1b}]0;x\u{7}\u{202e}{}", "a".repeat(9000)),
        ));
    }));
    for text in [&finding.subject, &finding.message].into_iter().chain(finding.evidence.values()) {
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    }
    assert!(finding.message.len() < 4000);
}

#[test]
fn a_guest_with_countless_causes_gets_a_bounded_report() {
    let findings = drift(|s| {
        for pid in 10_000..20_000 {
            s.processes.push(process(pid, "x", &format!("/tmp/{pid}")));
        }
    });
    assert_eq!(findings.len(), 257);
    assert!(findings.iter().any(|f| f.subject == "9744 further causes"));
}

#[test]
fn a_guest_that_names_its_workers_countlessly_gets_no_countless_proposal() {
    let finding = only(drift(|s| {
        for pid in 10_000..20_000 {
            s.processes.push(process(pid, &format!("x{pid}"), "/tmp/x"));
        }
    }));
    assert!(!finding.evidence.contains_key("allow_with"));
    assert!(finding.evidence["pids"].ends_with(" and 9968 more"));
}

#[test]
fn no_name_that_a_guest_chooses_makes_two_causes_one() {
    let findings = drift(|s| {
        s.processes.push(process(600, "nc", "/usr/bin/bash"));
        s.processes.push(process(601, "x", "/usr/bin/bash as nc"));
        s.sockets.list().push(unix("/a /usr/bin/bash", &[900]));
        s.sockets.list().push(unix("/a", &[900]));
    });
    let mut ids: Vec<_> = findings.iter().map(|f| &f.id).collect();
    ids.dedup();
    assert_eq!((findings.len(), ids.len()), (4, 4));
}

#[test]
fn an_unreadable_kernel_worker_is_the_same_finding_whatever_its_number() {
    let unread = |name: &str| {
        let worker = Process { uid: None, ..kernel_thread(600, name) };
        only(drift(|s| s.processes.push(worker))).id
    };
    assert_eq!(unread("kworker/0:1"), unread("kworker/u8:3-events"));
}

#[test]
fn a_program_started_by_somebody_else_is_a_parent_and_an_orphan_is_not() {
    let by = |ppid| drift(move |s| s.processes[9].ppid = Some(ppid));
    assert_eq!(by(470), []);
    assert_eq!(by(1), [], "its shell ended, and the first process adopted it");
    let finding = only(by(402));
    assert_eq!(finding.rule, rule::PROCESS_PARENT);
    assert_eq!(finding.evidence["seen"], "/usr/bin/bash started by /usr/sbin/nginx");
    assert_eq!(
        finding.evidence["expected"],
        "/usr/bin/bash started by /usr/lib/systemd/systemd, /usr/sbin/sshd"
    );
    assert_ne!(only(by(450)).id, finding.id);
    // Of a kernel thread there is only the name, and a helper that the kernel starts has one for a parent.
    assert!(only(by(30)).evidence["seen"].ends_with("started by [kworker/0:1-events]"));
}

#[test]
fn a_parent_that_is_not_there_is_unknown_and_has_to_be_so_of_the_same_process_twice() {
    let orphan = |pid: u32| {
        drift(move |s| {
            s.processes[9].ppid = Some(31337);
            s.processes[9].pid = pid;
        })
    };
    let finding = only(orphan(900));
    assert_eq!(finding.rule, rule::GUEST_BLIND);
    assert_ne!(only(orphan(901)).id, finding.id);
    let open = |certificate: &mut attest::Certificate| {
        certificate.processes.iter_mut().for_each(|entry| entry.parents = None);
    };
    let mut certificate = certificate();
    open(&mut certificate);
    assert_eq!(compare(&certificate, &web_with(|s| s.processes[9].ppid = None)), []);
}

#[test]
fn a_program_without_a_file_is_fileless_whatever_it_calls_itself() {
    let memfd = |name: &str| {
        let rogue = Process { exe_state: Some(ExeState::Memfd), ..process(600, name, "/memfd:x") };
        only(drift(move |s| s.processes.push(rogue)))
    };
    assert_eq!(memfd("x").rule, rule::PROCESS_FILELESS);
    assert_eq!(memfd("nginx").evidence["expected"], "/usr/sbin/nginx as nginx");
    assert_eq!(memfd("nginx").id, memfd("x").id, "one cause under two names");
}

#[test]
fn a_secret_in_arguments_is_not_in_the_finding() {
    let finding = only(drift(|s| {
        s.processes[7].args = Some(vec!["dhclient".to_owned(), "--password=hunter2".to_owned()]);
    }));
    assert_eq!(finding.rule, rule::PROCESS_COMMAND_LINE);
    assert_eq!(finding.evidence["seen"], "dhclient, --password=[redacted]");
    assert!(!format!("{finding:?}").contains("hunter2"), "{finding:#?}");
}

#[test]
fn a_template_for_any_kernel_thread_makes_no_masquerade_of_every_unknown_program() {
    let mut certificate = certificate();
    let threads = certificate.processes.iter_mut().find(|entry| entry.kernel_thread).unwrap();
    threads.names = vec![attest::Pattern::parse("**").unwrap()];
    let findings =
        attest::compare(&certificate, &web_with(|s| s.processes.push(process(666, "rogue", "/tmp/rogue"))));
    assert_eq!(rules(&findings), ["process.unknown"]);
}
