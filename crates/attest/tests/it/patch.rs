//! `allow_with` is a JSON Patch that works: applied to the certificate, the finding is gone and nothing else comes up.

use crate::fixture::*;
use attest::{Certificate, Statement, compare};
use facts::*;
use serde_json::Value;

/// The two operations that a proposal uses, on the paths it uses (RFC 6902 "add").
fn apply(certificate: &Certificate, patch: &str) -> Certificate {
    let mut document = serde_json::to_value(certificate).unwrap();
    for operation in serde_json::from_str::<Vec<Value>>(patch).unwrap() {
        assert_eq!(operation["op"], "add");
        let (parent, member) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
        match document.pointer_mut(parent).unwrap() {
            Value::Array(list) if member == "-" => list.push(operation["value"].clone()),
            Value::Object(object) => {
                object.insert(member.to_owned(), operation["value"].clone());
            }
            other => panic!("{parent} is neither a list nor an object: {other}"),
        }
    }
    serde_json::from_value(document).unwrap()
}

#[track_caller]
fn the_proposal_allows_it(certificate: &Certificate, snapshot: &Snapshot) {
    let findings = compare(certificate, snapshot);
    assert!(!findings.is_empty(), "Nothing was found, so nothing can be allowed.");
    let mut allowed = certificate.clone();
    for finding in &findings {
        let patch = finding.evidence.get("allow_with").unwrap_or_else(|| panic!("No proposal: {finding:#?}"));
        allowed = apply(&allowed, patch);
    }
    assert_eq!(compare(&allowed, snapshot), [], "after {findings:#?}");
    // And what it proposes can be signed.
    let key = attest::PrivateKey::generate().unwrap();
    Statement::new(allowed, None).sign(&key).unwrap();
}

#[test]
fn the_change_that_a_finding_proposes_allows_what_was_found() {
    let rogue = |s: &mut Snapshot| {
        s.processes.push(process(666, "rogue", "/tmp/rogue"));
        s.sockets.list().push(tcp("0.0.0.0", 4444, &[666]));
        s.sockets.list().push(tcp("::", 4444, &[666]));
    };
    type Change<'c> = &'c dyn Fn(&mut Snapshot);
    let changes: [(&str, Change<'_>); 21] = [
        ("unknown program and listener", &rogue),
        ("special characters", &|s| s.processes.push(process(666, "[*#\\", "/tmp/**/#1[a\\"))),
        ("known program, new name", &|s| s.processes.push(process(666, "nc", "/usr/sbin/nginx"))),
        ("program in a container", &|s| {
            s.processes.push(Process {
                container: Some("ab".repeat(32).into()),
                ..process(666, "nginx", "/usr/sbin/nginx")
            });
        }),
        ("unknown kernel thread", &|s| s.processes.push(kernel_thread(666, "evil/7"))),
        ("other executable", &|s| s.processes[4].exe = Some("/tmp/nginx".into())),
        ("deleted executable", &|s| s.processes[4].exe_state = Some(ExeState::Deleted)),
        ("memfd", &|s| {
            s.processes.push(Process { exe_state: Some(ExeState::Memfd), ..process(666, "x", "/memfd:x") });
        }),
        ("memfd without a path", &|s| {
            s.processes.push(Process {
                exe_state: Some(ExeState::Memfd),
                exe: None,
                ..process(666, "x", "")
            });
        }),
        ("missing", &|s| {
            s.processes.retain(|p| p.name != "dhclient");
            s.sockets.retain(|socket| !socket.processes.contains(&450));
        }),
        ("parent", &|s| s.processes[9].ppid = Some(402)),
        ("parent that is a kernel thread", &|s| s.processes[9].ppid = Some(30)),
        ("arguments with a secret", &|s| {
            s.processes[7].args =
                Some(vec!["dhclient".to_owned(), "--token".to_owned(), "hunter2".to_owned()]);
        }),
        ("identity", &|s| s.processes[5].euid = Some(0)),
        ("kernel thread identity", &|s| s.processes[3].uid = Some(99)),
        ("listener of somebody else", &|s| s.sockets.list()[0].processes = vec![900].into()),
        ("ephemeral and unix listeners", &|s| {
            s.sockets.list().push(udp("0.0.0.0", 40123, &[900]));
            s.sockets.list().push(unix("/tmp/sock.900/#x", &[900]));
            s.sockets.list().push(unix("@abstract", &[]));
        }),
        ("raw", &|s| {
            s.sockets.list().push(socket(Family::Inet, "raw", "icmp", SocketState::Unconnected, &[900]))
        }),
        ("module", &|s| s.modules.push(module("diamorphine"))),
        ("ebpf", &|s| s.ebpf_programs.as_mut().unwrap().push(ebpf("evil", "xdp", "aaaabbbbccccdddd"))),
        ("kernel", &|s| {
            s.kernel.release = "6.1.0-19-cloud-amd64".to_owned();
        }),
    ];
    for (name, change) in changes {
        println!("{name}");
        the_proposal_allows_it(&certificate(), &web_with(change));
    }
}

#[test]
fn the_change_proposed_for_other_arguments_and_too_many_processes_allows_them() {
    let mut certificate = certificate();
    let nginx = certificate.processes.iter_mut().find(|e| e.names[0].as_str() == "nginx").unwrap();
    nginx.args = Some(vec![attest::Pattern::literal("/usr/sbin/nginx")]);
    nginx.count.max = Some(2);
    let snapshot = web_with(|s| {
        s.processes.push(Process {
            args: Some(vec!["nginx".to_owned(), "-c".to_owned(), "/tmp/#x".to_owned()]),
            ..process(666, "nginx", "/usr/sbin/nginx")
        });
    });
    the_proposal_allows_it(&certificate, &snapshot);
}

#[test]
fn nothing_is_proposed_for_what_no_certificate_can_allow() {
    let disguised = drift(|s| s.processes.push(process(666, "kworker/3:0", "/tmp/rogue")));
    assert!(!only(disguised).evidence.contains_key("allow_with"));
    let flagged = drift(|s| {
        s.processes.push(Process { kernel_thread: true, ..process(666, "kworker/3:0", "/tmp/rogue") });
    });
    assert!(!only(flagged).evidence.contains_key("allow_with"));
    let blind = drift(|s| s.problems.push(problem(ProblemKind::Unmapped, "module list 0xffffffff82e00000")));
    assert!(!only(blind).evidence.contains_key("allow_with"));
}

#[test]
fn the_change_proposed_for_a_flow_allows_it() {
    let mut certificate = certificate();
    certificate.flows = Some(attest::Flows::default());
    let snapshot = web_with(|s| {
        s.sockets.list().push(flow(40001, "192.0.2.7", 443, &[900]));
        s.sockets.list().push(flow(40002, "2001:db8::7", 443, &[900]));
        s.sockets.list().push(flow(443, "198.51.100.9", 50000, &[401]));
    });
    the_proposal_allows_it(&certificate, &snapshot);
}
