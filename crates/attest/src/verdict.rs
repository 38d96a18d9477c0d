//! From findings to one word, and to the report that carries it.
//!
//! Drift that was seen is drift, however much was not seen. `conforms` is only said when everything was seen and nothing
//! was found. Must never call a guest clean because it could not be read.

use crate::blind::{Table, blind_tables};
use crate::certificate::Certificate;
use facts::{Finding, REPORT_SCHEMA, Report, Snapshot, Verdict, Vm, rule};

/// The verdict on one look. `snapshot` is `None` when nothing could be read at all. The findings may be those of one
/// look, or only the confirmed ones.
#[must_use]
pub fn judge(
    certificate: Option<&Certificate>,
    findings: &[Finding],
    snapshot: Option<&Snapshot>,
) -> Verdict {
    let Some(snapshot) = snapshot else { return Verdict::Unreadable };
    let blind = findings.iter().any(|finding| finding.rule == rule::GUEST_BLIND);
    let drift = findings.iter().any(|finding| finding.rule != rule::GUEST_BLIND);
    let no_processes = blind_tables(snapshot).iter().any(|blind| blind.table == Table::Processes);
    match certificate {
        None if no_processes => Verdict::Unreadable,
        None => Verdict::Uncertified,
        Some(_) if drift => Verdict::Drifted,
        Some(_) if blind => Verdict::Unreadable,
        Some(_) => Verdict::Conforms,
    }
}

/// The report of one look. Of several, the caller adds what came and went between them ([`crate::Tasks`]), and why
/// a VM could not be read.
#[must_use]
pub fn report(vm: Vm, verdict: Verdict, findings: Vec<Finding>, snapshot: Option<Snapshot>) -> Report {
    Report { schema: REPORT_SCHEMA.to_owned(), vm, verdict, findings, snapshot, turnover: None, reason: None }
}
