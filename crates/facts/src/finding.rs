//! A fact that breaks a rule, and the report that says so.

use crate::{Snapshot, Text, Turnover, Vm};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Stable names of the rules. A test, a config file and a dashboard may depend on each of them.
pub mod rule {
    /// A process runs that the certificate does not allow.
    pub const PROCESS_UNKNOWN: &str = "process.unknown";
    /// A process that the certificate knows by name runs from another executable, or from a deleted or unnamed one.
    pub const PROCESS_CHANGED: &str = "process.changed";
    /// A process that the certificate requires does not run.
    pub const PROCESS_MISSING: &str = "process.missing";
    /// A known program runs as another user, with more capabilities, or as a kernel thread when it is none.
    pub const PROCESS_IDENTITY: &str = "process.identity";
    /// A process is missing in a view of the kernel that every process is in: somebody took it off.
    pub const PROCESS_HIDDEN: &str = "process.hidden";
    /// A known program runs with arguments that the certificate's templates do not allow.
    pub const PROCESS_COMMAND_LINE: &str = "process.command_line";
    /// A process runs a program that no file system ever named (`memfd_create`), and the certificate does not allow it.
    pub const PROCESS_FILELESS: &str = "process.fileless";
    /// A known program was started by a program that the certificate does not name as its parent.
    pub const PROCESS_PARENT: &str = "process.parent";
    /// More processes of a program run than the certificate allows.
    pub const PROCESS_COUNT: &str = "process.count";
    /// A connection that the certificate does not allow: to or from another peer, at another port, of another program, or in
    /// the other direction.
    pub const FLOW_UNKNOWN: &str = "socket.flow.unknown";
    /// Something listens where the certificate allows no listener.
    pub const LISTENER_UNKNOWN: &str = "socket.listener.unknown";
    /// A socket is missing in a view that every socket of its kind and state is in: somebody took it off.
    pub const SOCKET_HIDDEN: &str = "socket.hidden";
    /// A raw or packet socket that the certificate does not allow.
    pub const SOCKET_RAW: &str = "socket.raw";
    /// A kernel module that the certificate does not allow.
    pub const MODULE_UNKNOWN: &str = "module.unknown";
    /// A kernel module is missing in a view of the kernel that every module is in.
    pub const MODULE_HIDDEN: &str = "module.hidden";
    /// An eBPF program that the certificate does not allow.
    pub const EBPF_UNKNOWN: &str = "ebpf.unknown";
    /// An eBPF program is loaded, and missing in a view of the kernel that must have it, or a link to it is.
    pub const EBPF_HIDDEN: &str = "ebpf.hidden";
    /// The kernel is not the one the VM was born with.
    pub const KERNEL_CHANGED: &str = "kernel.changed";
    /// Part of the guest could not be read, so nothing can be said about it.
    pub const GUEST_BLIND: &str = "guest.blind";
}

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a look.
    Low,
    /// Worth a look today.
    Medium,
    /// Worth an action.
    High,
    /// Worth an action now.
    Critical,
}

/// Names and values that show a finding to be true: addresses, paths, expected and seen values. Values are text, so
/// that the same evidence always prints the same bytes.
pub type Evidence = BTreeMap<String, String>;

/// One fact that breaks one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The same for the same cause across looks, restarts and reboots.
    pub id: String,
    /// One of [`rule`].
    pub rule: String,
    /// How bad.
    pub severity: Severity,
    /// What it is about: `process /usr/bin/nc (pid 214)`.
    pub subject: String,
    /// One sentence for a person: what was expected, what was seen.
    pub message: String,
    /// The values behind it.
    pub evidence: Evidence,
    /// Views that saw the object.
    pub views_seen: Vec<Text>,
    /// Views that should have seen it and did not.
    pub views_missing: Vec<Text>,
    /// Looks in a row that agreed.
    pub confirmations: u32,
}

/// What a look says about a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything seen is allowed, and everything required was seen.
    Conforms,
    /// There are findings.
    Drifted,
    /// There is no certificate to compare with.
    Uncertified,
    /// The guest, or too much of it, could not be read.
    Unreadable,
}

/// What `birthmark audit --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`crate::REPORT_SCHEMA`].
    pub schema: String,
    /// The VM.
    pub vm: Vm,
    /// What the look says.
    pub verdict: Verdict,
    /// The findings, worst first.
    pub findings: Vec<Finding>,
    /// What they stand on. `None` when nothing could be read at all.
    pub snapshot: Option<Snapshot>,
    /// What came and went between the first look and that one. `None`: there was one look, or the kernel's counters are not known.
    #[serde(default)]
    pub turnover: Option<Turnover>,
    /// Why the VM could not be read, where `verdict` is `unreadable`.
    #[serde(default)]
    pub reason: Option<String>,
}
