//! What goes wrong here: [`Error`] when we cannot do what we were asked to, [`Refusal`] when a document is not to be trusted.
//!
//! They are two because they mean opposite things to a caller: an [`Error`] is reported to the person who typed the
//! command, while a [`Refusal`] is a security outcome that a daemon stores and shows (the VM counts as uncertified).
//! Each way a certificate can be refused is its own variant with the values, so that nobody has to parse a message.

use crate::blind::Table;
use jiff::Timestamp;

/// A key, a learning run or a signature that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system gave no random bytes.
    #[error("The operating system gave no random bytes for a new key: {reason}")]
    Random {
        /// What it said.
        reason: getrandom::Error,
    },
    /// The text holds no PEM block.
    #[error("The key file of {bytes} bytes holds no PEM block (a line like -----BEGIN PRIVATE KEY-----)")]
    NotPem {
        /// Length of the text.
        bytes: usize,
    },
    /// A private key where a public one belongs. The caller should also warn that it was exposed.
    #[error("This is a private key, but a public key is needed here; give the .pub file that belongs to it")]
    PrivateKeyGiven,
    /// A public key where a private one belongs.
    #[error("This is a public key, but signing needs the private key that belongs to it")]
    PublicKeyGiven,
    /// A password-protected private key.
    #[error(
        "This private key is protected by a password, which is not supported; give an unprotected PKCS#8 key"
    )]
    EncryptedKey,
    /// A PEM block of another kind.
    #[error(
        "The PEM block is a {label}, but an Ed25519 key in PKCS#8 (private) or SPKI (public) form is needed"
    )]
    OtherPem {
        /// Its label.
        label: String,
    },
    /// A PKCS#8 block that is no Ed25519 private key.
    #[error("The private key is not a valid Ed25519 key")]
    PrivateKey(#[source] ed25519_dalek::pkcs8::Error),
    /// An SPKI block that is no Ed25519 public key.
    #[error("The public key is not a valid Ed25519 key")]
    PublicKey(#[source] ed25519_dalek::pkcs8::spki::Error),
    /// The key could not be written as PEM or DER.
    #[error("The key could not be encoded: {reason}")]
    EncodeKey {
        /// What the encoder said.
        reason: String,
    },
    /// The statement could not be written as JSON.
    #[error("The certificate could not be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// A finding that no certificate can allow.
    #[error("Finding {id} ({rule}) proposes no change: no certificate can allow it")]
    NothingProposed {
        /// The finding.
        id: String,
        /// Its rule.
        rule: String,
    },
    /// A finding whose proposal cannot be followed.
    #[error("The change that finding {id} proposes is not made: {reason}")]
    Proposal {
        /// The finding.
        id: String,
        /// Why.
        reason: String,
    },
    /// A signature that is not one of the key it should be of.
    #[error("The signature of {bytes} bytes is not one of key {key_id} over this certificate")]
    NotASignature {
        /// The key.
        key_id: String,
        /// Its length.
        bytes: usize,
    },
    /// A key signs once.
    #[error("The certificate is already signed by key {key_id}")]
    AlreadySigned {
        /// The key.
        key_id: String,
    },
    /// The statement would be refused by everyone who verifies it, so it is not signed.
    #[error("The certificate is not signed because verification would refuse it")]
    WouldBeRefused(#[source] Refusal),
    /// Nothing to learn from.
    #[error("A certificate is learned from at least one snapshot, and none was given")]
    NoSnapshot,
    /// A table of a snapshot could not be read, so what is missing in it would be missing in the certificate.
    #[error(
        "Snapshot {index} of {vm} is not fit to learn from: its {table} are not fully known ({count} problems, first: \
         {location}: {detail})"
    )]
    TableUnknown {
        /// Which snapshot, from 0.
        index: usize,
        /// The VM's name.
        vm: String,
        /// The table.
        table: Table,
        /// How many problems make it unknown.
        count: usize,
        /// Where the first one is.
        location: String,
        /// What happened there.
        detail: String,
    },
    /// The guest's memory contradicts what the host knows of its kernel: nothing good can be learned of it.
    #[error(
        "Snapshot {index} of {vm} cannot be certified: the guest's memory contradicts the stored profile of its kernel \
         ({first})"
    )]
    KernelContradicted {
        /// Which snapshot, from 0.
        index: usize,
        /// The VM's name.
        vm: String,
        /// The first contradiction.
        first: String,
    },
    /// VMs of one service have one architecture.
    #[error("The VMs to learn from have different architectures, {one} and {other}")]
    SeveralArchitectures {
        /// Of the looks so far.
        one: String,
        /// Of this one.
        other: String,
    },
    /// More different things were seen than a person could approve.
    #[error("More than {limit} different facts were seen; no certificate can be learned from that")]
    TooMuchToLearn {
        /// The most that are learned.
        limit: usize,
    },
    /// One fact that the certificate needs is unknown.
    #[error("Snapshot {index} of {vm} is not fit to learn from: `{fact}` of {object} is unknown")]
    FactUnknown {
        /// Which snapshot, from 0.
        index: usize,
        /// The VM's name.
        vm: String,
        /// The object.
        object: String,
        /// The fact.
        fact: &'static str,
    },
}

/// Why a certificate is not trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// More bytes than any certificate has.
    #[error("The certificate has {bytes} bytes; at most {limit} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not JSON, a duplicate key, nesting too deep, or a field of another type.
    #[error("The file is not a DSSE envelope in JSON")]
    Envelope(#[source] serde_json::Error),
    /// A field that an envelope must have.
    #[error("The file is not a DSSE envelope: it has no {field}")]
    EnvelopeField {
        /// The field.
        field: &'static str,
    },
    /// Not a draft in JSON.
    #[error("The file is not a draft of a certificate")]
    Draft(#[source] serde_json::Error),
    /// A draft of another version.
    #[error("The draft has schema {found:?}, not {expected:?}")]
    DraftSchema {
        /// What it says.
        found: String,
        /// What ours says.
        expected: &'static str,
    },
    /// No signature at all.
    #[error("The certificate is not signed")]
    Unsigned,
    /// More signatures than are checked.
    #[error("The certificate has {count} signatures; at most {limit} are checked")]
    TooManySignatures {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// `payload` is not base64 in the standard or the URL-safe alphabet.
    #[error("The payload is not base64")]
    PayloadEncoding(#[source] base64::DecodeError),
    /// A properly made envelope of something else.
    #[error("The payload type is {found:?}, not {expected:?}")]
    PayloadType {
        /// What it says.
        found: String,
        /// What a certificate says.
        expected: &'static str,
    },
    /// The caller trusts nobody.
    #[error("No trusted public key was given, so no certificate can be trusted")]
    NoTrustedKey,
    /// Every signature is something other than 64 bytes in base64.
    #[error("Signature {index} is not an Ed25519 signature (64 bytes in base64)")]
    SignatureEncoding {
        /// The first of them, from 0.
        index: usize,
    },
    /// Signed, but by nobody we trust (as far as the key ids say).
    #[error("The certificate is signed by {}, and none of the {trusted} trusted keys is among them", .key_ids.join(", "))]
    UntrustedKey {
        /// Key ids the signatures name.
        key_ids: Vec<String>,
        /// How many keys are trusted.
        trusted: usize,
    },
    /// A signature that names a trusted key (or none) and does not match: altered after signing, or wrongly signed.
    #[error(
        "The signature {} does not match the content: the certificate was altered, or signed in another way",
        .key_id.as_ref().map_or_else(|| "without a key id".to_owned(), |id| format!("of key {id}"))
    )]
    SignatureMismatch {
        /// The key it names.
        key_id: Option<String>,
    },
    /// Signed by a key that was taken back.
    #[error("The certificate is signed by key {key_id}, which is revoked")]
    KeyRevoked {
        /// The key.
        key_id: String,
    },
    /// The certificate itself was taken back.
    #[error("The certificate {digest} is revoked")]
    CertificateRevoked {
        /// `sha256:…` of its payload.
        digest: String,
    },
    /// Signed by a key whose time has not come.
    #[error("The signature of key {key_id} does not count before {not_before}")]
    KeyNotYetValid {
        /// The key.
        key_id: String,
        /// First instant at which it does.
        not_before: Timestamp,
    },
    /// Signed by a key whose time is over.
    #[error("The signature of key {key_id} counts no longer since {not_after}")]
    KeyExpired {
        /// The key.
        key_id: String,
        /// First instant at which it did not.
        not_after: Timestamp,
    },
    /// Signed by a key that may not sign for this service.
    #[error("Key {key_id} may not sign for service {service:?}, only for {}", .allowed.join(", "))]
    KeyOutOfScope {
        /// The key.
        key_id: String,
        /// The service.
        service: String,
        /// Templates of the services it may sign for.
        allowed: Vec<String>,
    },
    /// Fewer keys agree than the operator asks for.
    #[error(
        "Service {service:?} needs the signatures of {needed} trusted keys, and {} count{}", .signers.len(),
        match .passed_over.len() { 0 => String::new(), _ => format!(" (passed over: {})", .passed_over.join(", ")) }
    )]
    TooFewSigners {
        /// The service.
        service: String,
        /// How many it needs.
        needed: usize,
        /// Keys whose signatures count.
        signers: Vec<String>,
        /// Trusted keys whose signatures do not count, for their time or their scope.
        passed_over: Vec<String>,
    },
    /// The signed bytes are not a statement.
    #[error("The signed content is not an in-toto Statement in JSON")]
    Statement(#[source] serde_json::Error),
    /// Another kind of statement.
    #[error("The statement is of type {found:?}, not {expected:?}")]
    StatementType {
        /// What it says.
        found: String,
        /// What ours says.
        expected: &'static str,
    },
    /// A statement about something else.
    #[error("The predicate is of type {found:?}, not {expected:?}")]
    PredicateType {
        /// What it says.
        found: String,
        /// What ours says.
        expected: &'static str,
    },
    /// `schema` is not `MAJOR.MINOR`.
    #[error("The certificate's schema is {found:?}, not a version like \"1.0\"")]
    SchemaFormat {
        /// What it says.
        found: String,
    },
    /// Made for another generation of this program.
    #[error("The certificate has schema {found}; this program understands version {supported}.x")]
    SchemaMajor {
        /// What it says.
        found: String,
        /// The one we read.
        supported: u32,
    },
    /// The predicate has a field of another type, or lacks one.
    #[error("The certificate's content does not have the form that its schema demands")]
    Predicate(#[source] serde_json::Error),
    /// Its time has not come.
    #[error("The certificate is not valid before {not_before}, and it is {now}")]
    NotYetValid {
        /// Start of its validity.
        not_before: Timestamp,
        /// The time it was verified at.
        now: Timestamp,
    },
    /// Its time is over.
    #[error("The certificate expired at {not_after}, and it is {now}")]
    Expired {
        /// End of its validity.
        not_after: Timestamp,
        /// The time it was verified at.
        now: Timestamp,
    },
    /// An older certificate is offered in the place of a newer one.
    #[error(
        "The certificate has serial {serial}, but serial {highest} of service {service:?} was seen before"
    )]
    RolledBack {
        /// Its service.
        service: String,
        /// Its serial.
        serial: u64,
        /// The highest one seen.
        highest: u64,
    },
    /// No service named.
    #[error("The certificate names no service")]
    NoService,
    /// Serials start at 1.
    #[error("The certificate has serial 0; serials start at 1")]
    SerialZero,
    /// The end is not after the start.
    #[error("The certificate's validity ends at {not_after}, which is not after its start {not_before}")]
    ValidityReversed {
        /// Start.
        not_before: Timestamp,
        /// End.
        not_after: Timestamp,
    },
    /// in-toto demands at least one subject, each with at least one digest.
    #[error("The statement has no subject with a digest")]
    NoSubject,
    /// A kernel whose digest is not among the subjects.
    #[error("Kernel {release} has the type digest {digest}, which is not among the statement's subjects")]
    KernelNotSubject {
        /// Its release.
        release: String,
        /// Its digest.
        digest: String,
    },
    /// No kernel at all is certified.
    #[error("The certificate names no kernel")]
    NoKernel,
    /// A process entry that contradicts itself.
    #[error("Process entry {index} contradicts itself: {what}")]
    ProcessEntry {
        /// Which, from 0.
        index: usize,
        /// How.
        what: &'static str,
    },
    /// A listener entry that contradicts itself.
    #[error("Listener entry {index} contradicts itself: {what}")]
    ListenerEntry {
        /// Which, from 0.
        index: usize,
        /// How.
        what: &'static str,
    },
    /// A file entry that contradicts itself.
    #[error("File entry {index} contradicts itself: {what}")]
    FileEntry {
        /// Which, from 0.
        index: usize,
        /// How.
        what: &'static str,
    },
    /// A flow entry that contradicts itself.
    #[error("Flow entry {index} ({direction}) contradicts itself: {what}")]
    FlowEntry {
        /// `egress` or `ingress`.
        direction: &'static str,
        /// Which, from 0.
        index: usize,
        /// How.
        what: &'static str,
    },
    /// `supersedes` is no digest.
    #[error("The certificate supersedes {found:?}, which is not a digest like \"sha256:…\"")]
    SupersedesFormat {
        /// What it says.
        found: String,
    },
    /// One observation is never enough for a running guest: races are not drift.
    #[error("The policy of {rule} asks for {confirmations} confirmations; at least {least} are needed")]
    TooFewConfirmations {
        /// The rule, or `default`.
        rule: String,
        /// What it asks for.
        confirmations: u32,
        /// The least.
        least: u32,
    },
}
