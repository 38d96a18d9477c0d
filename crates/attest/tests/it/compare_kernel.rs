//! Findings about the kernel, its modules, and what could not be read.

use crate::fixture::*;
use attest::compare;
use facts::*;

#[test]
fn another_kernel_is_changed() {
    for change in [
        (|k: &mut Kernel| k.release = "6.1.0-19-cloud-amd64".to_owned()) as fn(&mut Kernel),
        |k| k.build_id = Some("00".repeat(20)),
        |k| k.btf_digest = Some(format!("sha256:{}", "00".repeat(32))),
        |k| k.arch = "aarch64".to_owned(),
        // What is known already contradicts, so what is unknown does not matter.
        |k| {
            k.release = "5.10".to_owned();
            k.btf_digest = None;
        },
    ] {
        let finding = only(drift(|s| change(&mut s.kernel)));
        assert_eq!((finding.rule.as_str(), finding.severity), (rule::KERNEL_CHANGED, Severity::Critical));
        assert_eq!(finding.subject, "kernel");
        assert!(finding.evidence["expected"].starts_with("6.1.0-18-cloud-amd64 (x86_64, build id 8f2b"));
    }
}

#[test]
fn an_unread_kernel_identity_is_no_match() {
    for change in [(|k: &mut Kernel| k.build_id = None) as fn(&mut Kernel), |k| k.btf_digest = None] {
        assert_eq!(only(drift(|s| change(&mut s.kernel))).rule, rule::GUEST_BLIND);
    }
}

#[test]
fn one_of_several_certified_kernels_is_enough() {
    let mut certificate = certificate();
    let mut newer = certificate.guest.kernels[0].clone();
    newer.release = "6.1.0-19-cloud-amd64".to_owned();
    newer.build_id = Some("11".repeat(20));
    certificate.guest.kernels.push(newer);
    assert_eq!(compare(&certificate, &web()), []);
    let updated = web_with(|s| {
        s.kernel.release = "6.1.0-19-cloud-amd64".to_owned();
        s.kernel.build_id = Some("11".repeat(20));
    });
    assert_eq!(compare(&certificate, &updated), []);
    // But not half of one and half of the other.
    let mixed = web_with(|s| s.kernel.build_id = Some("11".repeat(20)));
    assert_eq!(rules(&compare(&certificate, &mixed)), [rule::KERNEL_CHANGED]);
}

#[test]
fn an_uncertified_module_is_found_and_a_missing_one_is_not() {
    let finding = only(drift(|s| s.modules.push(module("diamorphine"))));
    assert_eq!(
        (finding.rule.as_str(), finding.subject.as_str()),
        (rule::MODULE_UNKNOWN, "module diamorphine")
    );
    assert_eq!(finding.evidence["modules"], "0xffffffffc0000000");
    assert_eq!(drift(|s| s.modules.clear()), []);
}

#[test]
fn a_problem_blinds_the_table_that_it_shortens() {
    let blind = |location: &str, kind| {
        let findings = drift(|s| s.problems.push(problem(kind, location)));
        assert!(findings.iter().all(|f| f.rule == rule::GUEST_BLIND), "{findings:#?}");
        let mut subjects: Vec<_> = findings.into_iter().map(|f| f.subject).collect();
        subjects.sort();
        subjects
    };
    let unmapped = |location| blind(location, ProblemKind::Unmapped);
    assert_eq!(unmapped("task list 0xffffffff82e1b3c0"), ["processes of the guest"]);
    assert_eq!(unmapped("task_struct 0xffff888003a80000"), ["processes of the guest"]);
    assert_eq!(unmapped("TCP hash table 0xffff888003a80000"), ["sockets of the guest"]);
    assert_eq!(unmapped("files_struct 0xffff888003a80000"), ["sockets of the guest"]);
    assert_eq!(blind("modules", ProblemKind::Profile), ["modules of the guest"]);
    // One fact of one process.
    assert_eq!(unmapped("cred 0xffff888003a80000"), [""; 0]);
    assert_eq!(unmapped("task_struct (parent) 0xffff888003a80000"), [""; 0]);
    assert_eq!(blind("arguments of pid 9, mm_struct 0xffff888003a80000", ProblemKind::Partial), [""; 0]);
    // A place that nobody here knows: everything.
    let all = [
        "eBPF programs of the guest",
        "modules of the guest",
        "processes of the guest",
        "sockets of the guest",
    ];
    assert_eq!(unmapped("flux_capacitor 0xffff888003a80000"), all);
    assert_eq!(blind("problems", ProblemKind::Budget), all);
}

#[test]
fn an_empty_process_table_is_blindness_also_without_a_problem() {
    let findings = drift(|s| {
        s.processes.clear();
        s.sockets.list().clear();
    });
    assert_eq!(rules(&findings), [rule::GUEST_BLIND]);
}

#[test]
fn more_objects_that_never_held_still_than_a_busy_guest_explains_are_blindness() {
    assert_eq!(drift(|s| s.consistency.torn = 8), []);
    assert_eq!(only(drift(|s| s.consistency.torn = 9)).rule, rule::GUEST_BLIND);
    let large = |torn| {
        drift(|s| {
            s.processes.extend((0..384).map(|n| as_user(process(1000 + n, "nginx", "/usr/sbin/nginx"), 33)));
            s.consistency.torn = torn;
        })
    };
    assert_eq!(large(20), []);
    assert_eq!(only(large(21)).rule, rule::GUEST_BLIND);
}

#[test]
fn memory_that_contradicts_the_stored_profile_is_a_changed_kernel() {
    let certificate = certificate();
    let altered = web_with(|s| {
        s.kernel.profile.source = ProfileSource::Store;
        s.kernel.profile.contradictions =
            vec!["the guest's symbol table has modules at 0x1".to_owned(), "and more".to_owned()];
    });
    let findings = compare(&certificate, &altered);
    assert_eq!(rules(&findings), [rule::KERNEL_CHANGED]);
    let [finding] = findings.as_slice() else { panic!("{findings:#?}") };
    assert!(finding.message.contains("modules at 0x1"), "{}", finding.message);
    assert!(finding.evidence["seen"].contains("and more"), "{:?}", finding.evidence);
}
