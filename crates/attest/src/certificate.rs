//! The birth certificate: what a VM of one service may be and do, as an in-toto Statement v1.
//!
//! The JSON names are a contract (docs/birth-certificate.md). The *schema* of the predicate is `MAJOR.MINOR`: a newer
//! minor only adds fields, which an older program ignores; a newer major is refused. Names inside the predicate are
//! snake_case, except those that in-toto and X.509 gave (`notBefore`, `notAfter`). Templates are those of
//! [`crate::pattern`]. Must never hold anything about one particular run: no pid, no address, no boot id.

use crate::capabilities::Capabilities;
use crate::dsse::{Envelope, PAYLOAD_TYPE};
use crate::flow::Flows;
use crate::pattern::Pattern;
use crate::policy::Policy;
use crate::{Error, keys::PrivateKey};
use facts::{EbpfProgram, ExeState, Family, Vm};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// `_type` of the statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// `predicateType` of the statement.
pub const PREDICATE_TYPE: &str = "https://birthmark.dev/attestation/birth-certificate/v1";
/// Major version of the predicate's schema that this program reads.
pub const SCHEMA_MAJOR: u32 = 1;
/// Minor version that it writes.
pub const SCHEMA_MINOR: u32 = 3;

/// An in-toto Statement whose predicate is a birth certificate: the bytes that are signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub statement_type: String,
    /// Immutable things the statement is about: kernel and image, never the VM.
    pub subject: Vec<Subject>,
    /// [`PREDICATE_TYPE`].
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// The certificate.
    pub predicate: Certificate,
}

/// One immutable thing, told by its digests alone; the name is for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// `kernel` or `image`.
    #[serde(default)]
    pub name: String,
    /// Algorithm (`sha256`) to lower-case hex.
    pub digest: BTreeMap<String, String>,
}

/// What a VM of one service may be and do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Version of this form.
    pub schema: SchemaVersion,
    /// Grows with every certificate of the service, from 1; one that is lower than the highest seen is refused.
    pub serial: u64,
    /// `sha256:…` of the payload of the certificate that this one replaces. Absent: it is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<String>,
    /// The service.
    pub service: String,
    /// When it holds.
    pub validity: Validity,
    /// Which VMs it is for.
    #[serde(default)]
    pub selector: Selector,
    /// What they are.
    pub guest: Guest,
    /// What may run, and what must.
    pub processes: Vec<ProcessEntry>,
    /// What may listen.
    pub listeners: Vec<ListenerEntry>,
    /// With whom it may speak. Absent: flows are not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<Flows>,
    /// What may see raw packets.
    pub raw_sockets: Vec<RawSocketEntry>,
    /// Which kernel modules may be loaded.
    pub modules: Vec<ModuleEntry>,
    /// Files of the image that can be executed. Nothing is compared with them: a look at memory does not see a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileEntry>,
    /// Which eBPF programs may be loaded. Absent: they are not judged, as in certificates made before they were known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebpf: Option<Vec<EbpfEntry>>,
    /// What drift means.
    #[serde(default)]
    pub policy: Policy,
}

/// Version of the predicate's form, `"MAJOR.MINOR"` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SchemaVersion {
    /// Readers of another major refuse.
    pub major: u32,
    /// Readers of a lower minor ignore what they do not know.
    pub minor: u32,
}

impl SchemaVersion {
    /// What this program writes.
    pub const CURRENT: Self = Self { major: SCHEMA_MAJOR, minor: SCHEMA_MINOR };

    /// Parses `MAJOR.MINOR`; `None` for anything else, signs and leading zeros included.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| {
            let plain =
                digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
            plain.then(|| digits.parse().ok()).flatten()
        };
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for SchemaVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SchemaVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("a schema is a version like \"1.0\""))
    }
}

/// When a certificate holds: from `not_before` on, up to but not including `not_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Validity {
    /// First instant.
    pub not_before: Timestamp,
    /// First instant at which it no longer holds.
    pub not_after: Timestamp,
}

/// Which VMs a certificate is for: those with one of the names, one of the ids, or one of the texts. Empty: none, unless the operator says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// Templates for a VM's name.
    #[serde(default)]
    pub names: Vec<Pattern>,
    /// Templates for a VM's id (UUID).
    #[serde(default)]
    pub uuids: Vec<Pattern>,
    /// Templates for what libvirt says of a VM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<MetadataTemplate>,
}

/// A text or attribute of the metadata that libvirt has of a VM, or its `title`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataTemplate {
    /// Which: names of elements and of an attribute, as in `instance/flavor@name`; `title`.
    pub key: String,
    /// Template for its text.
    pub value: Pattern,
}

impl Selector {
    /// Whether the VM is selected.
    #[must_use]
    pub fn selects(&self, vm: &Vm) -> bool {
        let says = |wanted: &MetadataTemplate| {
            let mut said = vm.libvirt.iter().flat_map(facts::Libvirt::labels);
            said.any(|(key, text)| key == wanted.key && wanted.value.matches(text))
        };
        self.names.iter().any(|name| name.matches(&vm.name))
            || self.uuids.iter().any(|id| id.matches(&vm.id))
            || self.metadata.iter().any(says)
    }

    /// In words, one for each template.
    #[must_use]
    pub fn described(&self) -> Vec<String> {
        let plain = self.names.iter().chain(&self.uuids).map(|pattern| pattern.as_str().to_owned());
        plain.chain(self.metadata.iter().map(|one| format!("{}={}", one.key, one.value.as_str()))).collect()
    }
}

/// What the VMs are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// `x86_64`.
    pub arch: String,
    /// Kernels they may run: more than one while an update is rolled out.
    pub kernels: Vec<KernelIdentity>,
}

/// One kernel build.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KernelIdentity {
    /// `uname -r`.
    pub release: String,
    /// GNU build id, lower-case hex. Absent: the kernel has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// `sha256:…` of the kernel's type information.
    pub btf_digest: String,
}

/// Whether a program must run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Its absence is drift.
    Required,
    /// It may run.
    Allowed,
}

/// One program, or the kernel threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEntry {
    /// Template for the executable's path. Absent for kernel threads and for what has no path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<Pattern>,
    /// State of the executable.
    #[serde(default = "present", skip_serializing_if = "is_present")]
    pub exe_state: ExeState,
    /// Whether it is kernel threads.
    #[serde(default, skip_serializing_if = "is_false")]
    pub kernel_thread: bool,
    /// Templates for the kernel's `comm`. Empty: any.
    #[serde(default)]
    pub names: Vec<Pattern>,
    /// Templates for the argument vector, one for one; a last `**` stands for any further arguments. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<Pattern>>,
    /// SHA-256 of the executable's file (lower-case hex), one for each version that may run, where it is known from an
    /// image. A look at memory does not see the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sha256: Vec<String>,
    /// As whom it may run: at least one.
    pub identities: Vec<Identity>,
    /// Templates for the executable of the process that started it; a kernel thread is its name in brackets. Absent: any.
    /// The first process has no parent and always fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parents: Option<Vec<Pattern>>,
    /// How many at a time.
    #[serde(default, skip_serializing_if = "is_any_number")]
    pub count: Count,
    /// Whether it must run.
    pub presence: Presence,
    /// Template for the container's id. Absent: not in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Pattern>,
}

fn present() -> ExeState {
    ExeState::Present
}

fn is_present(state: &ExeState) -> bool {
    *state == ExeState::Present
}

fn is_any_number(count: &Count) -> bool {
    *count == Count::default()
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// As whom a program runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Effective capabilities it may have at most.
    #[serde(default)]
    pub capabilities: Capabilities,
}

/// How many processes of an entry at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// At least; only for what is required, where 0 means 1.
    #[serde(default)]
    pub min: u32,
    /// At most. Absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// Something that may listen: a TCP (SCTP, vsock) listener, a bound UDP socket without a peer, a unix listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerEntry {
    /// `tcp`, `udp`, `udplite`, `sctp`, `unix`, … as in a snapshot.
    pub protocol: String,
    /// Address family.
    pub family: Family,
    /// Local address. Absent for unix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressRule>,
    /// Local port. Absent for unix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortRule>,
    /// Unix: template for the path, or `@name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Pattern>,
    /// Templates for the executables that may hold it; everyone who holds it must be among them. Empty: held by no
    /// process, that is, by the kernel itself.
    pub processes: Vec<Pattern>,
}

/// Which local addresses an entry covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressRule {
    /// This one.
    Exactly(IpAddr),
    /// One address of an interface: neither loopback nor multicast nor the wildcard. Differs from VM to VM.
    Interface,
    /// Any, the wildcard included.
    Any,
}

impl AddressRule {
    /// Whether the address is covered.
    #[must_use]
    pub fn covers(self, address: IpAddr) -> bool {
        match self {
            Self::Exactly(exact) => exact == address,
            Self::Interface => !address.is_unspecified() && !address.is_loopback() && !address.is_multicast(),
            Self::Any => true,
        }
    }
}

impl fmt::Display for AddressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(address) => address.fmt(f),
            Self::Interface => f.write_str("interface"),
            Self::Any => f.write_str("any"),
        }
    }
}

impl Serialize for AddressRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AddressRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "interface" => Ok(Self::Interface),
            "any" => Ok(Self::Any),
            address => address.parse().map(Self::Exactly).map_err(|_| {
                de::Error::custom(format_args!("{address:?} is no IP address, \"interface\" or \"any\""))
            }),
        }
    }
}

/// Which ports an entry covers: a number in JSON, or a range like `"32768-60999"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRule {
    /// First port.
    pub first: u16,
    /// Last port, included.
    pub last: u16,
}

impl PortRule {
    /// The range from which Linux gives out ports that nobody asked for (`net.ipv4.ip_local_port_range`).
    pub const EPHEMERAL: Self = Self { first: 32768, last: 60999 };

    /// One port.
    #[must_use]
    pub fn exactly(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Whether the port is covered.
    #[must_use]
    pub fn covers(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl Serialize for PortRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.serialize_u16(self.first)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for PortRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a port is a number from 0 to 65535 or a range like \"32768-60999\"")]
        enum Form {
            One(u16),
            Range(String),
        }
        match Form::deserialize(deserializer)? {
            Form::One(port) => Ok(Self::exactly(port)),
            Form::Range(text) => text
                .split_once('-')
                .and_then(|(first, last)| Some(Self { first: first.parse().ok()?, last: last.parse().ok()? }))
                .filter(|range| range.first <= range.last)
                .ok_or_else(|| de::Error::custom(format_args!("{text:?} is no range of ports"))),
        }
    }
}

/// A raw or packet socket that may be open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawSocketEntry {
    /// Address family.
    pub family: Family,
    /// As in a snapshot. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Templates for the executables that may hold it; everyone who holds it must be among them.
    pub processes: Vec<Pattern>,
}

/// A kernel module that may be loaded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModuleEntry {
    /// Template for its name.
    pub name: Pattern,
}

/// A file of the image that can be executed: a program, or a script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path, without links.
    pub path: String,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// The package that it is from: `NAME=VERSION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// SHA-256 of each page of 4 KiB (of the last one, what there is of it), one after the other, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<String>,
}

/// An eBPF program that may be loaded, any number of times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EbpfEntry {
    /// What kind of program, by bpftool's word.
    #[serde(rename = "type")]
    pub kind: String,
    /// Template for its name. Absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Pattern>,
    /// What its instructions hash to, 16 digits of lower-case hex. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl EbpfEntry {
    /// The entry for just this program. `Err` names what is not known of it.
    pub(crate) fn of(program: &EbpfProgram) -> Result<Self, &'static str> {
        Ok(Self {
            kind: program.kind.clone().ok_or("type")?,
            name: program.name.as_deref().map(Pattern::literal),
            tag: Some(program.tag.clone().ok_or("tag")?),
        })
    }

    /// Whether it allows what [`EbpfEntry::of`] made of a program.
    pub(crate) fn allows(&self, seen: &Self) -> bool {
        let name = match (&self.name, seen.name.as_ref().and_then(Pattern::as_literal)) {
            (None, None) => true,
            (Some(template), Some(name)) => template.matches(name),
            _ => false,
        };
        name && self.kind == seen.kind && (self.tag.is_none() || self.tag == seen.tag)
    }
}

impl Statement {
    /// A statement about the kernels of the certificate and, where known, the image (SHA-256, lower-case hex).
    #[must_use]
    pub fn new(certificate: Certificate, image_sha256: Option<&str>) -> Self {
        let sha256 = |name: &str, hex: &str| Subject {
            name: name.to_owned(),
            digest: BTreeMap::from([("sha256".to_owned(), hex.to_owned())]),
        };
        let kernels = certificate.guest.kernels.iter().map(|kernel| {
            sha256("kernel", kernel.btf_digest.strip_prefix("sha256:").unwrap_or(&kernel.btf_digest))
        });
        let subject = kernels.chain(image_sha256.map(|hex| sha256("image", hex))).collect();
        Self {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject,
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: certificate,
        }
    }

    /// The JSON that is signed: the same statement gives the same bytes.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec_pretty(self).map_err(Error::Encode)
    }

    /// Signs it: bytes of a DSSE envelope for a file. A statement that verification would refuse whatever the time is
    /// not signed.
    pub fn sign(&self, key: &PrivateKey) -> Result<Vec<u8>, Error> {
        let mut envelope = self.to_envelope()?;
        envelope.sign(key)?;
        envelope.to_json()
    }

    /// An envelope to be signed. `Err` for a statement that verification would refuse whatever the time.
    pub fn to_envelope(&self) -> Result<Envelope, Error> {
        self.check().map_err(Error::WouldBeRefused)?;
        Ok(Envelope::new(PAYLOAD_TYPE, self.to_json()?))
    }
}

impl ProcessEntry {
    /// How many must run.
    #[must_use]
    pub fn least(&self) -> u32 {
        match self.presence {
            Presence::Required => self.count.min.max(1),
            Presence::Allowed => 0,
        }
    }
}
