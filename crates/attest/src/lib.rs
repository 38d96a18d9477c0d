//! The birth certificate: what a VM of a service may be and do, who says so, and whether it still is.
//!
//! The way of a judgement: [`certify`] learns a [`Statement`] from snapshots of a known-good VM, [`Statement::sign`] makes
//! a signed envelope of it, [`verify`] gives it back only when it can be trusted, [`compare`] says what in a later snapshot
//! breaks it, [`Tracker`] waits until looks agree, and [`judge`] and [`report`] say it in one word.
//!
//! Plain data in and out (`facts`), bytes in and out: this crate never sees guest memory, never reads a file, and has no
//! clock. What it compares comes from a hostile guest; what it verifies comes from anybody. Nothing in it panics on
//! either, and all of it is bounded.
//!
//! ```
//! # fn snapshot() -> facts::Snapshot { serde_json::from_str(include_str!("../tests/it/data/web.json")).unwrap() }
//! use attest::{LearnOptions, PrivateKey, Validity, VerifyOptions, certify, compare, judge, verify};
//!
//! // At birth: learn, and sign.
//! let key = PrivateKey::generate()?;
//! let good = snapshot();
//! let options = LearnOptions {
//!     service: "web-frontend".to_owned(),
//!     serial: 1,
//!     validity: Validity { not_before: "2026-11-01T00:00:00Z".parse()?, not_after: "2027-11-01T00:00:00Z".parse()? },
//!     selector: None,
//!     image_sha256: None,
//!     accept_unknown: false,
//!     flows: false,
//! };
//! let envelope = certify(&[good.clone()], &options)?.sign(&key)?;
//!
//! // Later: verify, and compare.
//! let trusted = [key.public()];
//! let verified = verify(&envelope, &trusted, "2026-12-01T00:00:00Z".parse()?, &VerifyOptions::default())?;
//! let findings = compare(verified.certificate(), &good);
//! assert_eq!(judge(Some(verified.certificate()), &findings, Some(&good)), facts::Verdict::Conforms);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod amend;
mod blind;
mod capabilities;
mod certificate;
mod check;
mod compare;
mod describe;
mod diff;
pub mod dsse;
mod error;
mod flow;
mod generalise;
mod json;
mod keys;
mod learn;
mod origin;
mod pattern;
mod policy;
mod reading;
mod review;
mod text;
mod tracker;
mod trust;
mod turnover;
mod verdict;
mod verify;

pub use amend::amend;
pub use blind::{Blind, Table, blind_tables};
pub use capabilities::Capabilities;
pub use certificate::{
    AddressRule, Certificate, Count, EbpfEntry, FileEntry, Guest, Identity, KernelIdentity, ListenerEntry,
    MetadataTemplate, ModuleEntry, PREDICATE_TYPE, PortRule, Presence, ProcessEntry, RawSocketEntry,
    SCHEMA_MAJOR, SCHEMA_MINOR, STATEMENT_TYPE, SchemaVersion, Selector, Statement, Subject, Validity,
};
pub use compare::{compare, cross_views};
pub use diff::{Change, ChangeKind, diff};
pub use error::{Error, Refusal};
pub use flow::{Cidr, FlowEntry, Flows};
pub use keys::{PrivateKey, PublicKey};
pub use learn::{DRAFT_SCHEMA, Draft, LearnOptions, Learner, Note, certify};
pub use origin::Origin;
pub use pattern::{PATTERN_LIMIT, Pattern, PatternError};
pub use policy::{Action, Decision, LEAST_CONFIRMATIONS, Mode, Policy, RulePolicy};
pub use review::{Warning, review, review_since, warnings};
pub use tracker::{Progress, Tracker};
pub use trust::{KeyTrust, Revoked, ServiceTrust, TrustPolicy};
pub use turnover::Tasks;
pub use verdict::{judge, report};
pub use verify::{Verified, VerifyOptions, digest, parse, verify};
