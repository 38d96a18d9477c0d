//! Whether a statement makes sense in itself: what no signature can make good.
//!
//! Asked before a statement is signed and after it was verified, so that both sides agree on what a certificate is. Must
//! never look at a clock or at another document.

use crate::Refusal;
use crate::certificate::{ListenerEntry, Presence, ProcessEntry, Statement, Subject, Validity};
use crate::flow::FlowEntry;
use crate::policy::LEAST_CONFIRMATIONS;
use crate::text::shown;
use facts::{ExeState, Family};

impl Statement {
    /// Whether it makes sense in itself.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let certificate = &self.predicate;
        if certificate.service.trim().is_empty() {
            return Err(Refusal::NoService);
        }
        if certificate.serial == 0 {
            return Err(Refusal::SerialZero);
        }
        let Validity { not_before, not_after } = certificate.validity;
        if not_after <= not_before {
            return Err(Refusal::ValidityReversed { not_before, not_after });
        }
        if self.subject.is_empty() || self.subject.iter().any(|subject| subject.digest.is_empty()) {
            return Err(Refusal::NoSubject);
        }
        if certificate.guest.kernels.is_empty() {
            return Err(Refusal::NoKernel);
        }
        for kernel in &certificate.guest.kernels {
            let hex = kernel.btf_digest.strip_prefix("sha256:");
            let named = |subject: &Subject| subject.digest.get("sha256").map(String::as_str) == hex;
            if hex.is_none() || !self.subject.iter().any(named) {
                return Err(Refusal::KernelNotSubject {
                    release: shown(&kernel.release),
                    digest: shown(&kernel.btf_digest),
                });
            }
        }
        if let Some(digest) = certificate.supersedes.as_ref().filter(|digest| !is_digest(digest)) {
            return Err(Refusal::SupersedesFormat { found: shown(digest) });
        }
        for (index, entry) in certificate.processes.iter().enumerate() {
            entry.contradiction().map_or(Ok(()), |what| Err(Refusal::ProcessEntry { index, what }))?;
        }
        for (index, entry) in certificate.listeners.iter().enumerate() {
            entry.contradiction().map_or(Ok(()), |what| Err(Refusal::ListenerEntry { index, what }))?;
        }
        for (index, entry) in certificate.files.iter().enumerate() {
            if !is_sha256(&entry.sha256) {
                let what = "its sha256 has not 64 lower-case hexadecimal digits";
                return Err(Refusal::FileEntry { index, what });
            }
        }
        if let Some(flows) = &certificate.flows {
            for (direction, entries) in [("egress", &flows.egress), ("ingress", &flows.ingress)] {
                for (index, entry) in entries.iter().enumerate() {
                    let refused = |what| Err(Refusal::FlowEntry { direction, index, what });
                    entry.contradiction().map_or(Ok(()), refused)?;
                }
            }
        }
        let defaults = ("default", Some(certificate.policy.confirmations));
        let rules =
            certificate.policy.rules.iter().map(|(rule, policy)| (rule.as_str(), policy.confirmations));
        for (rule, confirmations) in std::iter::once(defaults).chain(rules) {
            if let Some(confirmations) = confirmations.filter(|wanted| *wanted < LEAST_CONFIRMATIONS) {
                let rule = shown(rule);
                return Err(Refusal::TooFewConfirmations { rule, confirmations, least: LEAST_CONFIRMATIONS });
            }
        }
        Ok(())
    }
}

impl ProcessEntry {
    fn contradiction(&self) -> Option<&'static str> {
        if self.kernel_thread {
            let of_programs = self.container.is_some() || self.args.is_some() || self.parents.is_some();
            if self.executable.is_some() || of_programs || !self.sha256.is_empty() {
                return Some("kernel threads have no executable, no arguments, no parents and no container");
            }
            if self.names.is_empty() {
                return Some("kernel threads are told by their names, and it has none");
            }
        } else if self.executable.is_none() && matches!(self.exe_state, ExeState::Present | ExeState::Deleted)
        {
            return Some(
                "it has no executable, and is neither kernel threads nor of exe_state memfd or none",
            );
        }
        if !self.sha256.iter().all(|digest| is_sha256(digest)) {
            return Some("a sha256 has 64 lower-case hexadecimal digits");
        }
        if self.parents.as_ref().is_some_and(Vec::is_empty) {
            return Some("it has an empty list of parents, so only the first process could match it");
        }
        if self.identities.is_empty() {
            return Some("it has no identity, so nothing could ever match it");
        }
        if self.presence == Presence::Allowed && self.count.min > 0 {
            return Some("count.min is above 0, but its presence is not required");
        }
        if self.count.max.is_some_and(|max| max < self.least()) {
            return Some("count.max is less than the number that must run");
        }
        None
    }
}

impl ListenerEntry {
    fn contradiction(&self) -> Option<&'static str> {
        let internet = matches!(self.family, Family::Inet | Family::Inet6);
        if internet && (self.address.is_none() || self.port.is_none()) {
            return Some("an inet or inet6 listener has an address and a port");
        }
        if self.family == Family::Unix && self.path.is_none() {
            return Some("a unix listener has a path");
        }
        if self.port.is_none() && self.path.is_none() {
            return Some("it has neither a port nor a path");
        }
        None
    }
}

impl FlowEntry {
    fn contradiction(&self) -> Option<&'static str> {
        (self.port.last == 0).then_some("nothing is served at port 0")
    }
}

/// `sha256:` and 64 lower-case hexadecimal digits.
fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_sha256)
}

fn is_sha256(digits: &str) -> bool {
    digits.len() == 64 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}
