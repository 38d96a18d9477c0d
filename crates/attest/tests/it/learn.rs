//! What a certificate learns from snapshots, and that they then conform.

use crate::fixture::*;
use attest::{AddressRule, Error, LearnOptions, PortRule, Presence, ProcessEntry, Table, certify, compare};
use facts::*;

fn entry<'c>(certificate: &'c attest::Certificate, name: &str) -> &'c ProcessEntry {
    certificate.processes.iter().find(|e| e.names.iter().any(|n| n.matches(name))).unwrap()
}

fn learn(snapshots: &[Snapshot]) -> attest::Certificate {
    certify(snapshots, &options()).unwrap().predicate
}

#[test]
fn one_look_requires_what_init_started_and_allows_the_rest() {
    let certificate = certificate();
    for required in ["systemd", "nginx", "dhclient", "sshd"] {
        assert_eq!(entry(&certificate, required).presence, Presence::Required, "{required}");
    }
    for allowed in ["bash", "kthreadd", "kworker/7:7"] {
        assert_eq!(entry(&certificate, allowed).presence, Presence::Allowed, "{allowed}");
    }
}

#[test]
fn several_looks_require_what_init_started_and_all_of_them_saw() {
    let later = web_with(|s| {
        s.processes.retain(|p| p.name != "dhclient");
        s.sockets.retain(|socket| !socket.processes.contains(&450));
    });
    let certificate = learn(&[web(), later]);
    assert_eq!(entry(&certificate, "dhclient").presence, Presence::Allowed);
    assert_eq!(entry(&certificate, "nginx").presence, Presence::Required);
    assert_eq!(entry(&certificate, "bash").presence, Presence::Allowed);
    assert_eq!(entry(&certificate, "kthreadd").presence, Presence::Allowed);
}

#[test]
fn several_looks_are_all_allowed() {
    let other = web_with(|s| {
        s.vm.name = "web-2".to_owned();
        s.kernel.release = "6.1.0-19-cloud-amd64".to_owned();
        s.processes.push(as_user(process(950, "cron", "/usr/sbin/cron"), 7));
        s.sockets.list().push(tcp("0.0.0.0", 8080, &[950]));
        s.modules.push(module("nf_tables"));
    });
    let statement = certify(&[web(), other.clone()], &options()).unwrap();
    assert_eq!(compare(&statement.predicate, &web()), []);
    assert_eq!(compare(&statement.predicate, &other), []);
    assert_eq!(statement.predicate.guest.kernels.len(), 2);
    assert!(
        statement.predicate.selector.selects(&web().vm) && statement.predicate.selector.selects(&other.vm)
    );
}

#[test]
fn kernel_threads_are_one_entry_with_templates() {
    let certificate = certificate();
    let threads: Vec<_> = certificate.processes.iter().filter(|e| e.kernel_thread).collect();
    let [threads] = threads.as_slice() else { panic!("{threads:#?}") };
    let names: Vec<_> = threads.names.iter().map(|n| n.as_str()).collect();
    assert_eq!(names, ["ksoftirqd/#", "kthreadd", "kworker/**"]);
}

#[test]
fn programs_of_one_binary_are_told_apart_by_name() {
    let busybox = |pid, name: &str| process(pid, name, "/bin/busybox");
    let snapshot = web_with(|s| {
        s.processes.push(busybox(600, "sh"));
        s.processes.push(as_user(busybox(601, "httpd"), 99));
    });
    let certificate = learn(std::slice::from_ref(&snapshot));
    assert_eq!(entry(&certificate, "sh").identities.len(), 1);
    assert_eq!(compare(&certificate, &snapshot), []);
    let mut rogue = snapshot;
    rogue.processes.push(busybox(602, "nc"));
    assert_eq!(rules(&compare(&certificate, &rogue)), [rule::PROCESS_UNKNOWN]);
}

#[test]
fn nothing_of_one_run_gets_into_the_certificate() {
    let snapshot = web_with(|s| s.sockets.list().push(unix("/run/user/1000/agent.470.sock", &[470])));
    let json = serde_json::to_string(&learn(std::slice::from_ref(&snapshot))).unwrap();
    for one_run in ["4711", "0xffff", "470", "2026-11-20", "12345", "4026531840", "0x1200"] {
        assert!(!json.contains(one_run), "{one_run} in {json}");
    }
    assert!(json.contains("/run/user/1000/agent.#.sock"), "{json}");
}

#[test]
fn ports_that_the_kernel_chose_are_left_open() {
    let first = web_with(|s| {
        s.sockets.list().push(udp("0.0.0.0", 40111, &[450]));
        s.sockets.list().push(tcp("0.0.0.0", 41222, &[450]));
        s.sockets.list().push(tcp("0.0.0.0", 50051, &[400]));
    });
    let second = web_with(|s| {
        s.sockets.list().push(udp("0.0.0.0", 51222, &[450]));
        s.sockets.list().push(tcp("0.0.0.0", 42333, &[450]));
        s.sockets.list().push(tcp("0.0.0.0", 50051, &[400]));
    });
    let ports = |certificate: &attest::Certificate, protocol: &str, exe: &str| {
        let of = certificate.listeners.iter().filter(|l| l.protocol == protocol);
        let of = of.filter(|l| l.processes.iter().any(|p| p.matches(exe)));
        of.filter_map(|l| l.port).collect::<Vec<_>>()
    };
    let one = learn(std::slice::from_ref(&first));
    assert_eq!(ports(&one, "udp", "/usr/sbin/dhclient"), [PortRule::EPHEMERAL, PortRule::exactly(68)]);
    assert_eq!(ports(&one, "tcp", "/usr/sbin/dhclient"), [PortRule::exactly(41222)]);
    let two = learn(&[first, second]);
    assert_eq!(ports(&two, "tcp", "/usr/sbin/dhclient"), [PortRule::EPHEMERAL]);
    assert!(ports(&two, "tcp", "/usr/sbin/nginx").contains(&PortRule::exactly(50051)));
}

#[test]
fn interface_addresses_are_left_open_and_loopback_is_not() {
    let snapshot = web_with(|s| s.sockets.list().push(tcp("127.0.0.53", 53, &[1])));
    let certificate = learn(std::slice::from_ref(&snapshot));
    let address = |port| {
        let listener = certificate.listeners.iter().find(|l| l.port == Some(PortRule::exactly(port)));
        listener.unwrap().address.unwrap()
    };
    assert_eq!(address(68), AddressRule::Interface);
    assert_eq!(address(53), AddressRule::Exactly("127.0.0.53".parse().unwrap()));
    assert_eq!(address(22), AddressRule::Exactly("0.0.0.0".parse().unwrap()));
}

#[test]
fn a_snapshot_with_an_unknown_table_is_refused_with_the_reason() {
    let blind = web_with(|s| s.problems.push(problem(ProblemKind::Cycle, "module list 0xffffffff82e00000")));
    let error = certify(&[web(), blind.clone()], &options()).unwrap_err();
    assert!(
        matches!(&error, Error::TableUnknown { index: 1, table: Table::Modules, count: 1, .. }),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "Snapshot 1 of web-1 is not fit to learn from: its modules are not fully known (1 problems, first: module list \
         0xffffffff82e00000: A read failed.)"
    );
    let told = attest::LearnOptions { accept_unknown: true, ..options() };
    assert!(certify(&[blind], &told).is_ok());
}

#[test]
fn a_snapshot_with_an_unknown_fact_is_refused_with_the_reason() {
    let refuse = |change: &dyn Fn(&mut Snapshot), wanted: &str| {
        let error = certify(&[web_with(change)], &options()).unwrap_err();
        assert!(matches!(&error, Error::FactUnknown { fact, .. } if *fact == wanted), "{error}");
    };
    refuse(&|s| s.processes[4].exe_state = None, "exe_state");
    refuse(&|s| s.processes[4].capabilities_effective = None, "capabilities_effective");
    refuse(&|s| s.processes[2].uid = None, "uid");
    refuse(&|s| s.sockets.list()[0].local_port = None, "local_port");
    refuse(&|s| s.sockets.list()[0].processes = vec![31337].into(), "processes");
    refuse(&|s| s.kernel.btf_digest = None, "btf_digest");
    refuse(&|s| s.processes.push(Process { kernel_thread: true, ..process(9, "x", "/x") }), "kernel_thread");
}

#[test]
fn a_kernel_without_an_identity_is_refused_whatever_is_accepted() {
    let told = attest::LearnOptions { accept_unknown: true, ..options() };
    let nameless = web_with(|s| s.kernel.btf_digest = None);
    assert!(matches!(certify(&[nameless], &told), Err(Error::FactUnknown { .. })));
}

#[test]
fn nothing_is_learned_from_nothing() {
    assert!(matches!(certify(&[], &options()), Err(Error::NoSnapshot)));
}

#[test]
fn what_is_learned_does_not_depend_on_the_order_of_rows() {
    let reversed = web_with(|s| {
        s.processes.reverse();
        s.sockets.list().reverse();
        s.modules.reverse();
    });
    assert_eq!(learn(&[reversed]), learn(&[web()]));
}

#[test]
fn kernel_and_image_are_the_subjects() {
    let with_image = attest::LearnOptions { image_sha256: Some("ab".repeat(32)), ..options() };
    let statement = certify(&[web()], &with_image).unwrap();
    let subjects: Vec<_> =
        statement.subject.iter().map(|s| (s.name.as_str(), s.digest["sha256"].clone())).collect();
    assert_eq!(subjects, [("kernel", "3c".repeat(32)), ("image", "ab".repeat(32))]);
}

#[test]
fn a_guest_that_contradicts_the_stored_profile_is_not_certified_whatever_is_accepted() {
    let altered = web_with(|s| {
        s.kernel.profile.source = ProfileSource::Store;
        s.kernel.profile.contradictions = vec!["the guest's symbol table has modules at 0x1".to_owned()];
    });
    for accept_unknown in [false, true] {
        let error =
            certify(&[web(), altered.clone()], &LearnOptions { accept_unknown, ..options() }).unwrap_err();
        assert!(matches!(error, Error::KernelContradicted { index: 1, .. }), "{error}");
        assert!(error.to_string().contains("modules at 0x1"), "{error}");
    }
}

#[test]
fn what_services_are_started_with_is_certified_and_what_people_type_is_not() {
    let certificate = certificate();
    let args = |name| entry(&certificate, name).args.as_ref().map(|args| args[0].as_str().to_owned());
    assert_eq!(args("dhclient").as_deref(), Some("/usr/sbin/dhclient"));
    assert_eq!(args("bash"), None);
    // More ways than a person would read: left open.
    let many = web_with(|s| {
        for (n, pid) in (500..505).enumerate() {
            let args = Some(vec!["dhclient".to_owned(), format!("eth{n}")]);
            s.processes.push(Process { args, ..process(pid, "dhclient", "/usr/sbin/dhclient") });
        }
    });
    assert_eq!(entry(&learn(&[many]), "dhclient").args, None);
}

#[test]
fn a_program_that_shows_its_state_as_its_arguments_is_certified_in_every_state() {
    let title = |s: &mut Snapshot, state: &str| {
        for process in s.processes.iter_mut().filter(|p| p.name == "nginx") {
            process.args = Some(vec![format!("nginx: {state}")]);
        }
    };
    let certificate = learn(&[web_with(|s| title(s, "worker process"))]);
    let nginx = entry(&certificate, "nginx").args.clone().unwrap();
    assert_eq!(nginx.iter().map(|arg| arg.as_str()).collect::<Vec<_>>(), ["nginx: **", "**"]);
    assert_eq!(compare(&certificate, &web_with(|s| title(s, "worker process is shutting down"))), []);
}

#[test]
fn parents_are_certified_and_the_first_process_may_adopt() {
    let certificate = certificate();
    let parents = |name| {
        let parents = entry(&certificate, name).parents.as_ref().unwrap();
        parents.iter().map(|parent| parent.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(parents("bash"), ["/usr/lib/systemd/systemd", "/usr/sbin/sshd"]);
    assert_eq!(parents("sshd"), ["/usr/lib/systemd/systemd"]);
    assert_eq!(entry(&certificate, "systemd").parents, None);
    assert_eq!(entry(&certificate, "kthreadd").parents, None);
}

#[test]
fn flows_are_learned_when_asked_for_peer_by_peer_until_there_are_too_many() {
    let options = attest::LearnOptions { flows: true, ..options() };
    let snapshot = web_with(|s| {
        s.sockets.list().push(flow(40001, "10.0.5.9", 5432, &[401]));
        s.sockets.list().push(flow(443, "203.0.113.7", 55555, &[401]));
        s.sockets.list().push(flow(40003, "127.0.0.1", 6379, &[401]));
        s.sockets.list().extend((0..17).map(|n| flow(41000 + n, &format!("198.51.100.{n}"), 443, &[900])));
    });
    let draft = {
        let mut learner = attest::Learner::new(&options);
        learner.look(&snapshot).unwrap();
        learner.draft(&options).unwrap()
    };
    let certificate = &draft.statement.predicate;
    assert_eq!(compare(certificate, &snapshot), []);
    let flows = certificate.flows.as_ref().unwrap();
    let lines = |entries: &[attest::FlowEntry]| {
        entries.iter().map(|e| format!("{} {} {}", e.cidr, e.port, e.processes[0])).collect::<Vec<_>>()
    };
    assert_eq!(lines(&flows.egress), ["0.0.0.0/0 443 /usr/bin/bash", "10.0.5.9/32 5432 /usr/sbin/nginx"]);
    assert_eq!(lines(&flows.ingress), ["0.0.0.0/0 443 /usr/sbin/nginx"]);
    let review = |path: &str| &draft.notes.iter().find(|note| note.path == path).unwrap().review;
    assert!(review("/flows/egress/0")[0].contains("more than 16 peers"));
    assert!(review("/flows/ingress/0")[0].contains("anybody may connect"));
    assert_eq!(learn(&[snapshot]).flows, None);
}

#[test]
fn what_was_seen_once_or_on_one_sibling_or_looks_made_up_is_marked_for_review() {
    let mut learner = attest::Learner::new(&options());
    learner.look(&web()).unwrap();
    let sibling = web_with(|s| {
        s.vm.name = "web-2".to_owned();
        s.vm.id = "uuid:2".to_owned();
        s.processes.push(process(700, "job", "/tmp/tmp.aB3xY9Qz/job"));
        s.sockets.list().push(unix("/tmp/dbus-kQzRtWpL2x", &[470]));
        s.processes[7].args = Some(vec!["dhclient".to_owned(), "--password=hunter2".to_owned()]);
    });
    learner.look(&sibling).unwrap();
    let draft = learner.draft(&options()).unwrap();
    let json = serde_json::to_string(&draft).unwrap();
    assert!(
        !json.contains("hunter2") && !json.contains("aB3xY9Qz") && !json.contains("kQzRtWpL2x"),
        "{json}"
    );
    let certificate = &draft.statement.predicate;
    let note = |index: Option<usize>, section: &str| {
        let path = format!("/{section}/{}", index.unwrap());
        draft.notes.iter().find(|note| note.path == path).unwrap()
    };
    let job = certificate.processes.iter().position(|e| e.names[0].as_str() == "job");
    assert_eq!(certificate.processes[job.unwrap()].executable.as_ref().unwrap().as_str(), "/tmp/tmp.*/job");
    let job = note(job, "processes");
    assert_eq!((job.looks, job.vms), (Some(1), Some(1)));
    assert!(job.review.iter().any(|text| text.contains("one of 2 looks only")), "{job:?}");
    assert!(job.review.iter().any(|text| text.contains("one of 2 VMs only")), "{job:?}");
    assert!(job.review.iter().any(|text| text.contains("made up")), "{job:?}");
    let dbus = certificate
        .listeners
        .iter()
        .position(|l| l.path.as_ref().is_some_and(|p| p.as_str() == "/tmp/dbus-*"));
    assert!(!note(dbus, "listeners").review.is_empty());
    let nginx = certificate.processes.iter().position(|e| e.names[0].as_str() == "nginx");
    assert!(note(nginx, "processes").review.is_empty());
    assert_eq!(compare(certificate, &sibling), []);
}

#[test]
fn a_look_that_is_not_fit_leaves_nothing_behind() {
    let mut learner = attest::Learner::new(&options());
    learner.look(&web()).unwrap();
    let before = learner.draft(&options()).unwrap();
    let blind = web_with(|s| {
        s.processes.push(process(700, "job", "/opt/job"));
        s.sockets.list()[0].local_port = None;
    });
    assert!(learner.look(&blind).is_err());
    assert_eq!(learner.draft(&options()).unwrap(), before);
    assert_eq!(learner.looks(), 1);
}
