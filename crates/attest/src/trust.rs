//! Whom to trust with what: the operator's word on keys, beside the keys themselves.
//!
//! A public key alone says nothing about what its owner may sign. The policy narrows it to services and to a time, asks for
//! several signatures where one person should not decide, and takes back keys and certificates. All of it only ever
//! narrows: without a policy, one signature by any trusted key is enough. Must never be taken from a certificate, and what it
//! does not understand must refuse, not be ignored.

use crate::Refusal;
use crate::pattern::Pattern;
use crate::text::shown;
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// What is said of trusted keys; `trust.toml` in the directory of the keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustPolicy {
    /// How many different trusted keys must have signed; 0 means 1.
    #[serde(default = "one")]
    pub threshold: usize,
    /// The same for single services, by name.
    #[serde(default)]
    pub services: BTreeMap<String, ServiceTrust>,
    /// Limits of keys, by key id. A key that is not named has none.
    #[serde(default)]
    pub keys: BTreeMap<String, KeyTrust>,
    /// What is trusted no longer.
    #[serde(default)]
    pub revoked: Revoked,
}

fn one() -> usize {
    1
}

impl Default for TrustPolicy {
    fn default() -> Self {
        Self {
            threshold: one(),
            services: BTreeMap::new(),
            keys: BTreeMap::new(),
            revoked: Revoked::default(),
        }
    }
}

/// What one service asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTrust {
    /// How many different trusted keys must have signed; 0 means 1.
    pub threshold: usize,
}

/// Limits of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyTrust {
    /// Templates for the services it may sign for. Absent: any.
    #[serde(default)]
    pub services: Option<Vec<Pattern>>,
    /// First instant at which its signatures count.
    #[serde(default)]
    pub not_before: Option<Timestamp>,
    /// First instant at which they count no longer.
    #[serde(default)]
    pub not_after: Option<Timestamp>,
}

/// What is trusted no longer, whatever else holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// Ids of keys.
    #[serde(default)]
    pub keys: BTreeSet<String>,
    /// Digests of certificates, `sha256:…` of the payload, as `birthmark verify` prints them.
    #[serde(default)]
    pub certificates: BTreeSet<String>,
}

/// Why the signature of a trusted key does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Distrust {
    Revoked,
    NotYet(Timestamp),
    Expired(Timestamp),
    OtherServices(Vec<Pattern>),
}

impl TrustPolicy {
    /// How many signatures a certificate of the service needs.
    #[must_use]
    pub fn threshold(&self, service: &str) -> usize {
        self.services.get(service).map_or(self.threshold, |service| service.threshold).max(1)
    }

    /// The signers that are not revoked. `Err` when there is none.
    pub(crate) fn unrevoked(&self, signers: Vec<String>) -> Result<Vec<String>, Refusal> {
        let (revoked, good): (Vec<_>, Vec<_>) =
            signers.into_iter().partition(|id| self.revoked.keys.contains(id));
        match (good.is_empty(), revoked.into_iter().next()) {
            (true, Some(key_id)) => Err(Refusal::KeyRevoked { key_id }),
            _ => Ok(good),
        }
    }

    /// The signers that may sign for the service now, and the first instant at which they are too few. `Err` when they are.
    pub(crate) fn agree(
        &self,
        signers: Vec<String>,
        service: &str,
        now: Timestamp,
    ) -> Result<(Vec<String>, Option<Timestamp>), Refusal> {
        let needed = self.threshold(service);
        let mut good = Vec::new();
        let mut passed_over = Vec::new();
        for id in signers {
            match self.distrust(&id, service, now) {
                None => good.push(id),
                Some(why) => passed_over.push((id, why)),
            }
        }
        if good.len() < needed {
            return Err(match (needed, passed_over.pop()) {
                (1, Some((key_id, why))) => why.refusal(key_id, service),
                (_, last) => {
                    let passed_over = passed_over.into_iter().chain(last).map(|(id, _)| id).collect();
                    Refusal::TooFewSigners { service: shown(service), needed, signers: good, passed_over }
                }
            });
        }
        // `None` (no end) comes last.
        let mut ends: Vec<Option<Timestamp>> =
            good.iter().map(|id| self.keys.get(id).and_then(|key| key.not_after)).collect();
        ends.sort_by_key(|end| (end.is_none(), *end));
        let last_needed = good.len().saturating_sub(needed);
        Ok((good, ends.get(last_needed).copied().flatten()))
    }

    fn distrust(&self, id: &str, service: &str, now: Timestamp) -> Option<Distrust> {
        if self.revoked.keys.contains(id) {
            return Some(Distrust::Revoked);
        }
        let key = self.keys.get(id)?;
        if let Some(start) = key.not_before.filter(|start| now < *start) {
            return Some(Distrust::NotYet(start));
        }
        if let Some(end) = key.not_after.filter(|end| now >= *end) {
            return Some(Distrust::Expired(end));
        }
        let services = key.services.as_ref()?;
        let allowed = services.iter().any(|template| template.matches(service));
        (!allowed).then(|| Distrust::OtherServices(services.clone()))
    }
}

impl Distrust {
    fn refusal(self, key_id: String, service: &str) -> Refusal {
        let service = shown(service);
        match self {
            Self::Revoked => Refusal::KeyRevoked { key_id },
            Self::NotYet(not_before) => Refusal::KeyNotYetValid { key_id, not_before },
            Self::Expired(not_after) => Refusal::KeyExpired { key_id, not_after },
            Self::OtherServices(allowed) => {
                let allowed = allowed.iter().map(|template| template.as_str().to_owned()).collect();
                Refusal::KeyOutOfScope { key_id, service, allowed }
            }
        }
    }
}
