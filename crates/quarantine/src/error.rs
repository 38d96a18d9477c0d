//! Everything that can go wrong when a VM is cut off or restored.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a VM could not be cut off, restored or asked about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A device name that no rule is written for.
    #[error("Network device name {name:?} is refused: {why}")]
    InterfaceName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A management network that cannot be one.
    #[error("Management network {text:?} is refused: {why}")]
    Prefix {
        /// As written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The VM has no device that this host could put a rule on.
    #[error("VM {vm} has no network device that this host can see, so there is nothing to cut off")]
    NothingToCut {
        /// Name of the VM.
        vm: String,
    },
    /// The device is not there.
    #[error("Network device {interface} does not exist in network namespace {namespace}")]
    DeviceAbsent {
        /// Device.
        interface: String,
        /// Path of the namespace.
        namespace: String,
    },
    /// The namespace that was recorded does not exist any more; its devices and rules ended with it.
    #[error("Network namespace {namespace} (inode {inode}) does not exist any more")]
    NamespaceGone {
        /// Path as recorded.
        namespace: String,
        /// Inode as recorded.
        inode: u64,
    },
    /// The namespace could not be opened or entered.
    #[error("Cannot enter network namespace {namespace}; entering one takes root (CAP_SYS_ADMIN)")]
    Namespace {
        /// Path.
        namespace: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No `nft`.
    #[error(
        "The nft command is not installed; install the nftables package (Debian: apt-get install nftables)"
    )]
    NftMissing,
    /// `nft` could not be run.
    #[error("Cannot run {path}")]
    NftStart {
        /// Path of the binary.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused `nft`.
    #[error(
        "The kernel refused nft in network namespace {namespace}: run as root or with CAP_NET_ADMIN there"
    )]
    Permission {
        /// Path of the namespace.
        namespace: String,
    },
    /// `nft` failed.
    #[error(
        "nft ended with {status} in network namespace {namespace}: {message} (rules in both directions take Linux \
         5.16 or newer with CONFIG_NETFILTER_EGRESS)"
    )]
    NftFailed {
        /// Path of the namespace.
        namespace: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote, shortened.
        message: String,
    },
    /// `nft` did not end.
    #[error("nft did not end within {seconds} s in network namespace {namespace}")]
    NftTimeout {
        /// Path of the namespace.
        namespace: String,
        /// Limit.
        seconds: u64,
    },
    /// `nft` wrote something that is not its JSON.
    #[error("Cannot understand what nft lists for device {interface}")]
    NftOutput {
        /// Device.
        interface: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The rules were accepted, but reading them back shows something else.
    #[error("The rules for device {interface} are not in place after nft accepted them: {what}")]
    NotInPlace {
        /// Device.
        interface: String,
        /// What was missing.
        what: &'static str,
    },
    /// The rules were removed, but reading back still shows them.
    #[error("The rules for device {interface} are still there after nft removed them")]
    StillThere {
        /// Device.
        interface: String,
    },
    /// The journal's directory or a file in it.
    #[error("Cannot {action} {path}")]
    Journal {
        /// What was tried: `write`, `read`, …
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process holds the journal.
    #[error(
        "The quarantine journal {path} is in use by another process; only one birthmarkd may use a state directory"
    )]
    JournalLocked {
        /// Directory.
        path: PathBuf,
    },
    /// A journal file that cannot be understood. It is left as it is.
    #[error(
        "Quarantine journal file {path} is damaged; the VM it names stays as it is until the file is mended or removed"
    )]
    JournalCorrupt {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A journal file that says something else than its name or its schema allow.
    #[error("Quarantine journal file {path} is refused: {why}")]
    JournalRefused {
        /// File.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// An identity that cannot name a journal file.
    #[error("VM id {id:?} cannot be recorded: {why}")]
    VmId {
        /// The id.
        id: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nothing to release.
    #[error("VM {vm} is not in quarantine")]
    NotQuarantined {
        /// Id or name asked for.
        vm: String,
    },
}
