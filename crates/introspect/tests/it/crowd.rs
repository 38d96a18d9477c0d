//! A guest with 5,000 processes and 20,000 sockets: every table equal to the guest's own `/proc`, for no more bytes than
//! `birthmark snapshot` reads when nobody asks for more. How long it takes is measured by `cargo xtask bench --bench crowd`: here
//! other guests have the same cores.

use crate::equal::differences;
use crate::opened::{Opened, PATIENT};
use facts::{Problem, ProblemKind, Snapshot};
use introspect::Options;
use testkit::{Kernel, Need, crowd};
use vmi_core::Budget;

#[test]
fn five_thousand_processes_and_twenty_thousand_sockets_are_equal_for_the_usual_bytes() {
    if !testkit::require(&[Need::Guest(Kernel::V6_12)]) {
        return;
    }
    let opened = Opened::boot(crowd::spec(Kernel::V6_12)).unwrap();
    crowd::fill(&opened.guest).unwrap();
    let usual = Budget { time: PATIENT.time, ..Budget::default() };
    let options = Options { budget: usual, ..Options::default() };
    let look = || introspect::snapshot(&*opened.vm.memory, &opened.kernel, opened.facts(), &options);
    let (truth, snapshot) = opened.guest.steady(|| Ok(look()?)).unwrap();
    assert!(truth.processes.len() >= crowd::PROCESSES && truth.sockets.len() >= crowd::SOCKETS);
    // A budget that was used up would be a problem, and every problem is a difference.
    let different = differences(&truth, &snapshot);
    let first = &different[..different.len().min(40)];
    assert!(different.is_empty(), "{} differences:\n{}", different.len(), first.join("\n"));

    // Several threads share what a look may read. What they have read by then is kept, in the order of the table, and the rest told of.
    let mut looks = (4..200).map(|quarters| {
        let options = Options { budget: Budget { bytes: quarters << 18, ..usual }, ..options };
        introspect::snapshot(&*opened.vm.memory, &opened.kernel, opened.facts(), &options).unwrap()
    });
    let some = |rows: usize, all: usize| (500..all).contains(&rows);
    let told = |short: &Snapshot, table: &str| {
        let of_table = |problem: &Problem| problem.kind == ProblemKind::Budget && problem.location == table;
        assert!(short.problems.iter().any(of_table), "{:?}", short.problems);
        assert!(short.problems.len() < 20, "{:?}", short.problems);
    };
    let short = looks.clone().find(|short| some(short.processes.len(), crowd::PROCESSES));
    let short = short.expect("a budget that is enough for some of the processes");
    told(&short, "processes");
    assert!(short.processes.is_sorted_by(|one, other| one.pid < other.pid));

    // The same while sockets are read.
    let short = looks.find(|short| some(short.sockets.len(), crowd::SOCKETS));
    let short = short.expect("a budget that is enough for some of the sockets");
    told(&short, "sockets");
    assert_eq!(attest::cross_views(&short, &attest::Policy::default()), []);
}
