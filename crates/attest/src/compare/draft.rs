//! A finding in the making, and what all findings have in common: id, severity, order, limit.

use crate::keys::hex;
use crate::policy::Policy;
use crate::text::json as json_text;
use facts::{Evidence, Finding, Text};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Most findings of one rule. A hostile guest can make as many causes as it likes.
const LIMIT: usize = 256;

/// What makes a finding the same one in another look: no pid, no address, nothing that a run chooses. The first part says
/// what kind of cause it is; parts are never joined, so no guest text can pass for another cause.
pub(super) type Cause = Vec<String>;

pub(super) fn cause<'p>(kind: &'p str, parts: impl IntoIterator<Item = &'p str>) -> Cause {
    std::iter::once(kind).chain(parts).map(str::to_owned).collect()
}

/// What one finding says.
pub(super) struct Draft {
    subject: String,
    message: String,
    evidence: Evidence,
    views: BTreeSet<Text>,
    missing: BTreeSet<Text>,
}

impl Draft {
    pub(super) fn new(subject: String, message: String) -> Self {
        Self { subject, message, evidence: Evidence::new(), views: BTreeSet::new(), missing: BTreeSet::new() }
    }

    pub(super) fn expected(self, value: impl Into<String>) -> Self {
        self.with("expected", value)
    }

    pub(super) fn seen(self, value: impl Into<String>) -> Self {
        self.with("seen", value)
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.evidence.insert(name.to_owned(), value.into());
        self
    }

    pub(super) fn views<'v>(mut self, views: impl IntoIterator<Item = &'v Text>) -> Self {
        self.views.extend(views.into_iter().cloned());
        self
    }

    /// Views that should have seen it and did not.
    pub(super) fn missing<'v>(mut self, views: impl IntoIterator<Item = &'v Text>) -> Self {
        self.missing.extend(views.into_iter().cloned());
        self
    }

    /// The smallest change that would allow it; left out when the certificate cannot say such a thing.
    pub(super) fn allow_with(self, patch: Patch) -> Self {
        if patch.0.is_empty() { self } else { self.with("allow_with", json_text(&Value::Array(patch.0))) }
    }
}

/// A JSON Patch for the certificate (the `predicate` of the statement).
#[derive(Default)]
pub(super) struct Patch(Vec<Value>);

impl Patch {
    /// Appends to a list, or sets a member.
    pub(super) fn add(mut self, path: &str, value: &impl Serialize) -> Self {
        // What cannot be written as JSON is not proposed.
        if let Ok(value) = serde_json::to_value(value) {
            self.0.push(json!({ "op": "add", "path": path, "value": value }));
        }
        self
    }
}

/// Collects the findings of one look.
pub(super) struct Drafts<'c> {
    service: &'c str,
    policy: &'c Policy,
    by_rule: BTreeMap<&'static str, OfRule>,
}

/// The findings of one rule by their ids, and how many more there are.
#[derive(Default)]
struct OfRule {
    drafts: BTreeMap<String, Draft>,
    more: usize,
}

impl<'c> Drafts<'c> {
    pub(super) fn new(service: &'c str, policy: &'c Policy) -> Self {
        Self { service, policy, by_rule: BTreeMap::new() }
    }

    /// Adds a finding. Of too many the ones with the lowest ids are kept (they are the same in each look), and only what
    /// may be kept is built.
    pub(super) fn add(&mut self, rule: &'static str, cause: &Cause, build: impl FnOnce() -> Draft) {
        let id = id(rule, self.service, cause);
        let of_rule = self.by_rule.entry(rule).or_default();
        if of_rule.drafts.contains_key(&id) {
            return;
        }
        if of_rule.drafts.len() >= LIMIT {
            of_rule.more = of_rule.more.saturating_add(1);
            if of_rule.drafts.last_key_value().is_none_or(|(last, _)| id > *last) {
                return;
            }
            of_rule.drafts.pop_last();
        }
        of_rule.drafts.insert(id, build());
    }

    /// The findings: the worst first, then by id.
    pub(super) fn finish(self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (rule, OfRule { mut drafts, more }) in self.by_rule {
            if more > 0 {
                let draft = Draft::new(
                    format!("{more} further causes"),
                    format!("{more} further causes break the rule {rule}; {LIMIT} are listed one by one"),
                );
                drafts.insert(id(rule, self.service, &cause("more", [])), draft);
            }
            let severity = self.policy.decide(rule).severity;
            findings.extend(drafts.into_iter().map(|(id, draft)| Finding {
                id,
                rule: rule.to_owned(),
                severity,
                subject: draft.subject,
                message: draft.message,
                evidence: draft.evidence,
                views_seen: draft.views.into_iter().collect(),
                views_missing: draft.missing.into_iter().collect(),
                confirmations: 1,
            }));
        }
        findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.id.cmp(&b.id)));
        findings
    }
}

/// 16 hex digits of SHA-256 over the parts, each with its length in front so that no two lists of parts look alike.
fn id(rule: &str, service: &str, cause: &Cause) -> String {
    let mut hash = Sha256::new();
    for part in [rule, service].into_iter().chain(cause.iter().map(String::as_str)) {
        hash.update(part.len().to_string());
        hash.update(":");
        hash.update(part);
    }
    hex(hash.finalize().get(..8).unwrap_or_default())
}

/// A `guest.blind` finding about one fact of `count` objects.
pub(super) fn unknown_fact(object: &str, fact: &str, count: usize) -> Draft {
    Draft::new(
        object.to_owned(),
        format!("{object}: `{fact}` could not be read ({count} seen), so nothing can be said of it"),
    )
    .expected(format!("a known {fact}"))
    .seen("unknown")
}
