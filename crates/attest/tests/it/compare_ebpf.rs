//! Findings about eBPF programs, and what a certificate says of them.

use crate::fixture::*;
use attest::{Certificate, Pattern};
use facts::rule;

fn programs_of(change: impl FnOnce(&mut Vec<facts::EbpfProgram>)) -> Vec<facts::Finding> {
    drift(|s| change(s.ebpf_programs.as_mut().unwrap()))
}

#[test]
fn an_uncertified_program_is_one_finding_however_often_it_is_loaded_and_a_missing_one_is_none() {
    let evil = ebpf("pkt_magic", "xdp", "aaaabbbbccccdddd");
    let finding = only(programs_of(|programs| programs.extend([evil.clone(), evil])));
    assert_eq!(
        (finding.rule.as_str(), finding.subject.as_str()),
        (rule::EBPF_UNKNOWN, "eBPF program pkt_magic (xdp, tag aaaabbbbccccdddd)")
    );
    assert_eq!(
        finding.evidence["attached_to"],
        "cgroup /system.slice/nginx.service, cgroup /system.slice/nginx.service"
    );
    assert_eq!(programs_of(Vec::clear), []);
}

#[test]
fn the_same_name_with_other_instructions_or_of_another_type_is_unknown() {
    for program in [
        ebpf("sd_devices", "cgroup_device", "0000000000000001"),
        ebpf("sd_devices", "cgroup_skb", "d9e3c8a1b2f40576"),
    ] {
        let finding = only(programs_of(|programs| programs.push(program)));
        assert_eq!(finding.rule, rule::EBPF_UNKNOWN);
    }
    let nameless = facts::EbpfProgram { name: None, ..ebpf("", "cgroup_device", "d9e3c8a1b2f40576") };
    assert_eq!(only(programs_of(|programs| programs.push(nameless))).rule, rule::EBPF_UNKNOWN);
}

#[test]
fn an_entry_may_leave_name_and_tag_open() {
    let mut certificate = certificate();
    let entry = &mut certificate.ebpf.as_mut().unwrap()[0];
    entry.name = Some(Pattern::parse("sd_*").unwrap());
    entry.tag = None;
    let updated = web_with(|s| {
        s.ebpf_programs.as_mut().unwrap().push(ebpf("sd_bind4", "cgroup_device", "1111111111111111"));
    });
    assert_eq!(attest::compare(&certificate, &updated), []);
}

#[test]
fn a_certificate_of_before_says_nothing_of_programs_and_none_is_found() {
    let mut json = serde_json::to_value(certificate()).unwrap();
    json.as_object_mut().unwrap().remove("ebpf").unwrap();
    json["schema"] = "1.1".into();
    let old: Certificate = serde_json::from_value(json).unwrap();
    assert_eq!(old.ebpf, None);
    let evil = web_with(|s| s.ebpf_programs.as_mut().unwrap().push(ebpf("evil", "xdp", "aaaabbbbccccdddd")));
    assert_eq!(attest::compare(&old, &evil), []);
    let unread = web_with(|s| {
        s.ebpf_programs = None;
        s.problems.push(facts::Problem {
            kind: facts::ProblemKind::Unmapped,
            location: "bpf program table 0xffffffff82e00000".to_owned(),
            detail: "It is not mapped.".to_owned(),
        });
    });
    assert_eq!(attest::compare(&old, &unread), []);
}

#[test]
fn programs_that_are_not_known_any_more_are_not_clean() {
    let finding = only(drift(|s| s.ebpf_programs = None));
    assert_eq!(
        (finding.rule.as_str(), finding.subject.as_str()),
        (rule::GUEST_BLIND, "eBPF programs of the guest")
    );
    let untold = only(programs_of(|programs| programs[0].tag = None));
    assert_eq!(untold.rule, rule::GUEST_BLIND);
}

#[test]
fn what_is_learned_of_a_kernel_that_does_not_say_is_a_certificate_that_does_not_either() {
    let silent = web_with(|s| s.ebpf_programs = None);
    let certificate = |snapshots: &[facts::Snapshot]| {
        attest::certify(snapshots, &options()).unwrap().predicate.ebpf.map(|entries| entries.len())
    };
    assert_eq!(certificate(&[web()]), Some(1));
    assert_eq!(certificate(&[web(), silent]), None);
}

#[test]
fn a_program_that_runs_and_is_not_in_the_table_is_hidden_with_or_without_a_certificate() {
    let hidden = web_with(|s| {
        let program = &mut s.ebpf_programs.as_mut().unwrap()[0];
        program.views = vec!["attachment".into()];
        program.views_missing = vec!["program_table".into()];
    });
    let finding = only(attest::compare(&certificate(), &hidden));
    assert_eq!(finding.rule, rule::EBPF_HIDDEN);
    assert_eq!(
        (finding.views_seen, finding.views_missing),
        (vec!["attachment".into()], vec!["program_table".into()])
    );
    let uncertified = attest::cross_views(&hidden, &certificate().policy);
    assert_eq!(only(uncertified).rule, rule::EBPF_HIDDEN);
}

#[test]
fn a_program_of_which_it_is_not_known_whether_its_link_is_hidden_is_blindness_with_or_without_a_certificate()
{
    let unknown = |change: &dyn Fn(&mut facts::EbpfProgram)| {
        let snapshot = web_with(|s| {
            let program = &mut s.ebpf_programs.as_mut().unwrap()[0];
            change(program);
            s.problems.push(facts::Problem {
                kind: facts::ProblemKind::Inconsistent,
                location: format!("bpf_prog (link) {}", program.program),
                detail: "task_struct 0xffff888003a80000 has the lock".to_owned(),
            });
        });
        let finding = only(attest::compare(&certificate(), &snapshot));
        let uncertified = only(attest::cross_views(&snapshot, &certificate().policy));
        assert_eq!((uncertified.rule.as_str(), &uncertified.subject), (rule::GUEST_BLIND, &finding.subject));
        finding
    };
    let finding = unknown(&|_| ());
    assert_eq!(
        (finding.rule.as_str(), finding.subject.as_str()),
        (rule::GUEST_BLIND, "links of eBPF program sd_devices")
    );
    assert!(finding.evidence["seen"].contains("has the lock"), "{finding:?}");
    assert!(finding.evidence["programs"].starts_with("0x"), "{finding:?}");
    // Two that are on their way, one after the other, are not one of which it stays unknown.
    assert_eq!(unknown(&|_| ()).id, finding.id);
    assert_ne!(unknown(&|program| program.program = facts::Address(0x4000)).id, finding.id);
    assert_ne!(unknown(&|program| program.id = Some(77)).id, finding.id);
}

#[test]
fn two_programs_that_were_on_their_way_are_not_one_that_is_hidden() {
    let away = |address: u64, processes: Vec<u32>| {
        let snapshot = web_with(|s| {
            let program = &mut s.ebpf_programs.as_mut().unwrap()[0];
            program.program = facts::Address(address);
            program.processes.clone_from(&processes);
            program.views_missing = vec!["link".into()];
        });
        only(attest::cross_views(&snapshot, &certificate().policy)).id
    };
    assert_eq!(away(0x1000, vec![]), away(0x1000, vec![]), "the very same one is");
    assert_ne!(away(0x1000, vec![]), away(0x2000, vec![]));
    // Somebody holds it, so it is there to stay.
    assert_eq!(away(0x1000, vec![7]), away(0x2000, vec![7]));
}
