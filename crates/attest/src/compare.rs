//! Compares a snapshot with a certificate and says what does not fit.
//!
//! One cause is one finding, however many processes or sockets show it: rows are grouped by what a person would change
//! to make them right, and the pids and addresses are evidence. A finding's id is a hash of its rule, the service and
//! that cause, so it is the same in the next look, after a restart and after a reboot. Each finding says what was
//! expected, what was seen, and (where there is one) the smallest change to the certificate that would allow it:
//! `allow_with`, a JSON Patch (RFC 6902) for the certificate.
//!
//! What is unknown never matches: it is a `guest.blind` finding, and absence is only reported from tables that are fully
//! known. The certificate is indexed by executable, name, port and path, so the cost is the sum of both sizes, not their
//! product. Must never depend on the order of anything, or on a clock.

mod draft;
mod ebpf;
mod flow;
mod hidden;
mod hidden_socket;
mod kernel;
mod process;
mod socket;

use crate::blind::{Blind, Table, blind_tables};
use crate::certificate::Certificate;
use crate::policy::Policy;
use crate::reading::Owners;
use crate::text::{list, shown};
use draft::{Draft, Drafts};
use facts::{Finding, Problem, Snapshot, rule};

/// Most entries that a proposed change adds: beyond this no person would approve it.
const PROPOSAL_LIMIT: usize = 16;
/// Torn objects that are nothing to speak of, whatever the size of the guest.
const TORN: usize = 8;
/// One in so many rows may be torn.
const TORN_SHARE: usize = 20;

/// What in the snapshot breaks the certificate: the worst first, then by id. Every finding has one confirmation, this
/// look; [`crate::Tracker`] counts further ones. At most 256 causes per rule are listed, the rest is one finding.
#[must_use]
pub fn compare(certificate: &Certificate, snapshot: &Snapshot) -> Vec<Finding> {
    let mut blind = blind_tables(snapshot);
    match &certificate.ebpf {
        // Nobody asked.
        None => blind.retain(|blind| blind.table != Table::Ebpf),
        Some(_) if snapshot.ebpf_programs.is_none() => {
            blind.retain(|blind| blind.table != Table::Ebpf);
            blind.push(Blind { table: Table::Ebpf, problems: Vec::new() });
        }
        Some(_) => {}
    }
    let owners = Owners::new(snapshot);
    let mut drafts = Drafts::new(&certificate.service, &certificate.policy);
    kernel::compare(certificate, snapshot, &mut drafts);
    process::compare(certificate, snapshot, &owners, &blind, &mut drafts);
    socket::compare(certificate, snapshot, &owners, &mut drafts);
    ebpf::compare(certificate, snapshot, &mut drafts);
    hidden::compare(snapshot, &mut drafts);
    if let Some(flows) = &certificate.flows {
        flow::compare(flows, snapshot, &owners, &mut drafts);
    }
    hidden_socket::compare(snapshot, &mut drafts);
    for blind in &blind {
        let cause = draft::cause("table", [blind.table.to_string().as_str()]);
        drafts.add(rule::GUEST_BLIND, &cause, || blind_draft(blind));
    }
    if too_much_torn(snapshot) {
        drafts.add(rule::GUEST_BLIND, &draft::cause("torn", []), || torn_draft(snapshot.consistency.torn));
    }
    drafts.finish()
}

/// What is wrong with a guest whatever it is for: objects that the kernel's views disagree about. For a VM without a
/// certificate; [`compare`] has these findings too.
#[must_use]
pub fn cross_views(snapshot: &Snapshot, policy: &Policy) -> Vec<Finding> {
    let mut drafts = Drafts::new("", policy);
    hidden::compare(snapshot, &mut drafts);
    hidden_socket::compare(snapshot, &mut drafts);
    drafts.finish()
}

fn blind_draft(blind: &Blind<'_>) -> Draft {
    let table = blind.table;
    let problem = |problem: &Problem| format!("{}: {}", shown(&problem.location), shown(&problem.detail));
    let first = blind
        .problems
        .first()
        .map_or_else(|| "the table is empty, which no running guest's is".to_owned(), |first| problem(first));
    Draft::new(format!("{table} of the guest"), format!("The guest's {table} are not fully known: {first}"))
        .expected("a table read to its end")
        .seen(format!("{} problems", blind.problems.len()))
        .with("problems", list(blind.problems.iter().map(|one| problem(one))))
}

/// Whether more objects were dropped because they changed under the reader than a busy guest explains. Some always are:
/// they ended in the microseconds of their reading, and are as little known as what ended just before it.
fn too_much_torn(snapshot: &Snapshot) -> bool {
    let torn = usize::try_from(snapshot.consistency.torn).unwrap_or(usize::MAX);
    let rows = snapshot.processes.len().saturating_add(snapshot.sockets.len());
    torn > TORN && torn > rows / TORN_SHARE
}

fn torn_draft(torn: u32) -> Draft {
    Draft::new(
        "objects that did not hold still".to_owned(),
        format!("{torn} objects of the guest changed each time they were read, so nothing is known of them"),
    )
    .expected("every object read consistently")
    .seen(format!("{torn} objects dropped"))
}
