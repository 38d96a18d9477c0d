//! Differences are told entry by entry, and order is none.

use crate::fixture::*;
use attest::{Certificate, ChangeKind, Flows, Pattern, diff};

fn changed(change: impl FnOnce(&mut Certificate)) -> Vec<String> {
    let mut new = certificate_with_everything();
    change(&mut new);
    let told = diff(&certificate_with_everything(), &new);
    told.iter()
        .map(|c| format!("{:?} {}: {} [{}]", c.change, c.section, c.entry, c.details.join("; ")))
        .collect()
}

#[test]
fn the_same_in_another_order_is_no_difference() {
    let same = changed(|c| {
        c.processes.reverse();
        c.listeners.reverse();
        c.modules.reverse();
    });
    assert_eq!(same, Vec::<String>::new());
}

#[test]
fn another_user_of_a_program_is_a_change_of_it_and_another_program_is_a_new_one() {
    let told = changed(|c| {
        c.processes[0].identities[0].uid = 5;
        let mut other = c.processes[0].clone();
        other.executable = Some(Pattern::literal("/usr/bin/zsh"));
        c.processes.push(other);
        c.listeners.remove(0);
    });
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told[0].starts_with("Changed processes: /usr/bin/bash as bash [identities: - {"), "{told:#?}");
    assert!(told[0].contains("\"uid\":5"), "{told:#?}");
    assert_eq!(told[1], "Added processes: /usr/bin/zsh as bash []");
    assert!(told[2].starts_with("Removed listeners: tcp 0.0.0.0 port 22"), "{told:#?}");
}

#[test]
fn every_part_of_a_certificate_is_compared() {
    type Part = (&'static str, fn(&mut Certificate));
    let parts: [Part; 11] = [
        ("certificate", |c| c.serial += 1),
        ("certificate", |c| c.supersedes = None),
        ("certificate", |c| c.validity.not_after = time("2030-01-01T00:00:00Z")),
        ("selector", |c| c.selector.names.clear()),
        ("kernels", |c| c.guest.kernels[0].build_id = None),
        ("processes", |c| c.processes[3].sha256.clear()),
        ("flows", |c| c.flows = None),
        ("egress flows", |c| c.flows = Some(Flows { egress: vec![], ..c.flows.clone().unwrap() })),
        ("raw sockets", |c| c.raw_sockets[0].processes.clear()),
        ("modules", |c| c.modules[0].name = Pattern::literal("x")),
        ("policy", |c| c.policy.mode = attest::Mode::Monitor),
    ];
    for (section, change) in parts {
        let mut new = certificate_with_everything();
        change(&mut new);
        let told = diff(&certificate_with_everything(), &new);
        assert!(told.iter().any(|change| change.section == section), "{section}: {told:?}");
        let back = diff(&new, &certificate_with_everything());
        assert_eq!(told.len(), back.len(), "{section}: one way tells more than the other");
    }
    let mut mode = certificate();
    mode.policy.mode = attest::Mode::Monitor;
    let told = diff(&certificate(), &mode);
    assert_eq!(
        (told[0].change, told[0].details.as_slice()),
        (ChangeKind::Changed, ["mode: \"enforce\" → \"monitor\"".to_owned()].as_slice())
    );
}
