//! A draft: a statement that nobody has signed yet, and what a person should know before signing it.
//!
//! The notes are beside the statement, never in it: what was seen how often is about one observation, and a certificate is
//! about a service. Must never be taken for a certificate.

use super::sightings::Sightings;
use crate::certificate::Statement;
use crate::text::shown;
use crate::{Error, Refusal, dsse, json};
use serde::{Deserialize, Serialize};

/// `schema` of a draft.
pub const DRAFT_SCHEMA: &str = "birthmark.draft/v1";

/// An unsigned statement with the notes of whoever made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// [`DRAFT_SCHEMA`].
    pub schema: String,
    /// What would be signed.
    pub statement: Statement,
    /// What it stands on, in sentences.
    pub about: Vec<String>,
    /// On single entries.
    pub notes: Vec<Note>,
}

/// What is known about one entry of the certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// JSON Pointer of the entry in the predicate: `/processes/3`.
    pub path: String,
    /// Why it is there.
    pub why: String,
    /// In how many looks it was seen. Absent: it was not observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looks: Option<usize>,
    /// On how many VMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vms: Option<usize>,
    /// What needs a person's eye.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub review: Vec<String>,
}

impl Draft {
    /// A draft of a statement that was not observed as it is.
    #[must_use]
    pub fn new(statement: Statement, about: Vec<String>, notes: Vec<Note>) -> Self {
        Self { schema: DRAFT_SCHEMA.to_owned(), statement, about, notes }
    }

    /// Reads a draft. `Err`: it is none, or its statement is one that verification would refuse whatever the time.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > dsse::ENVELOPE_LIMIT {
            return Err(Refusal::TooLarge { bytes: bytes.len(), limit: dsse::ENVELOPE_LIMIT });
        }
        let draft: Self = json::from_slice(bytes).map_err(Refusal::Draft)?;
        if draft.schema != DRAFT_SCHEMA {
            return Err(Refusal::DraftSchema { found: shown(&draft.schema), expected: DRAFT_SCHEMA });
        }
        draft.statement.check()?;
        Ok(draft)
    }

    /// The draft as JSON, for a file.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(Error::Encode)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// A note in the making.
#[derive(Clone, Debug)]
pub(crate) struct Noted {
    sightings: Sightings,
    why: &'static str,
    review: Vec<String>,
}

impl Noted {
    pub(crate) fn new(sightings: Sightings, why: &'static str) -> Self {
        Self { sightings, why, review: Vec::new() }
    }

    pub(crate) fn review(&mut self, what: &str) {
        self.review.push(what.to_owned());
    }

    /// The note of the entry at `path`, of an observation of so many looks at so many VMs.
    pub(super) fn finish(mut self, path: String, looks: usize, vms: usize) -> Note {
        if looks > 1 && self.sightings.looks <= 1 {
            self.review(&format!("seen in one of {looks} looks only"));
        }
        if vms > 1 && self.sightings.vms.len() == 1 {
            self.review(&format!("seen on one of {vms} VMs only"));
        }
        Note {
            path,
            why: self.why.to_owned(),
            looks: Some(self.sightings.looks),
            vms: Some(self.sightings.vms.len()),
            review: self.review,
        }
    }
}
