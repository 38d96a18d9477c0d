//! The command line (DESIGN 4.1), as data. The help texts are the reference that operators read first.

use crate::commands::socket_filter::Choice;
use crate::duration::Duration;
use attest::{MetadataTemplate, Pattern, Selector};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use hypervisor::Target;
use hypervisor::pause::Reins;
use std::path::PathBuf;

const EXIT_STATUS: &str = "\
Exit status: 0 conforms or done, 1 findings or drift, 2 error (one line on standard error).
A TARGET is a VM's name, pid:N (its VMM's process), uuid:U, xen:DOMID, or the path of a memory image (ELF core, LiME, raw).";

/// Looks into the VMs of this host from outside, and compares them with their signed birth certificates.
#[derive(Debug, Parser)]
#[command(name = "birthmark", version, after_help = EXIT_STATUS, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the VMs of this host.
    List,
    /// Show everything that can be seen in a VM.
    Snapshot(TargetArg),
    /// Show the processes of a VM.
    Ps(PsArgs),
    /// Show the sockets of a VM and who holds them.
    Sockets(SocketsArgs),
    /// Show the kernel modules of a VM, and its eBPF programs below them.
    Modules(TargetArg),
    /// Show the eBPF programs of a VM, what they are attached to and who holds them.
    Ebpf(TargetArg),
    /// Show what appears in a VM and what goes, until the VM ends or you interrupt it.
    Watch(WatchArgs),
    /// Compare a VM with its birth certificate.
    Audit(AuditArgs),
    /// Make a birth certificate of a VM that is known to be good.
    Certify(Box<CertifyArgs>),
    /// Make a pair of keys: one that signs certificates, one that verifies them.
    Keygen(KeygenArgs),
    /// Check whether a certificate can be trusted.
    Verify(VerifyArgs),
    /// Show what a certificate allows.
    Show(VerifyArgs),
    /// Kernel profiles: layouts and symbol addresses of kernel builds, as this host keeps them.
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Show the page that a person reads before signing: what is allowed, why, and what needs an eye.
    Review(ReviewArgs),
    /// Sign a draft, or add a signature to a certificate.
    Sign(SignArgs),
    /// Show what is different between two certificates or drafts. Exit status 1 when something is.
    Diff(DiffArgs),
    /// Make the next draft of a certificate, which allows what some findings found.
    Accept(AcceptArgs),
    /// Show how birthmarkd and the VMs that it watches stand.
    Status(DaemonArgs),
    /// Show the findings that birthmarkd has now.
    Findings(DaemonArgs),
    /// Have birthmarkd cut a VM off the network.
    Quarantine(VmArgs),
    /// Have birthmarkd end a VM's quarantine. Its open findings count as accepted until they are gone.
    Release(VmArgs),
    /// Check what this host can and cannot do, and say why.
    Doctor(DoctorArgs),
    /// Resumes a paused guest when its time is up.
    #[command(name = "pause-guard", hide = true)]
    PauseGuard(GuardArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TargetArg {
    /// VM name, pid:N, uuid:U, xen:DOMID, metadata:KEY=VALUE (of libvirt), or path of a memory image.
    pub(crate) target: Target,
    /// Search memory itself too, for processes, sockets and modules that are on no list of the guest's kernel. Takes longer.
    #[arg(long)]
    pub(crate) scan: bool,
    /// Stop the guest while looking, for so many milliseconds at most: a Xen domain, or the VMM of a guest of KVM or QEMU. It
    /// runs again whatever happens to this program; one that stood before is left so.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) pause: Option<u64>,
    /// Where memory alone does not show the kernel and no monitor answers, have KVM write the vCPUs' registers into the page that it
    /// shares with the VMM. Intrusive: that page, which is not the guest's, is written to for up to a second.
    #[arg(long)]
    pub(crate) vcpu_page: bool,
}

/// What the guard of a pause is told. For this program's own use.
#[derive(Debug, Args)]
pub(crate) struct GuardArgs {
    pub(crate) limit_ms: u64,
    pub(crate) reins: Reins,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    pub(crate) target: TargetArg,
    /// Leave out kernel threads.
    #[arg(long)]
    pub(crate) no_kernel: bool,
    /// Show the threads of each process too.
    #[arg(long)]
    pub(crate) threads: bool,
    /// Show each process below its parent.
    #[arg(long)]
    pub(crate) tree: bool,
    /// Columns, in this order.
    #[arg(short = 'o', long, value_name = "COLUMN", value_enum, value_delimiter = ',')]
    pub(crate) columns: Vec<Column>,
    /// Column to sort by, in descending order with a - before it. Default: pid.
    #[arg(long, value_name = "[-]COLUMN", allow_hyphen_values = true)]
    pub(crate) sort: Option<SortArg>,
    /// Only processes of this name, where * stands for anything; may be given more than once, like those below.
    #[arg(long = "name", value_name = "TEMPLATE")]
    pub(crate) names: Vec<PatternArg>,
    /// Only this pid.
    #[arg(long = "pid", value_name = "N")]
    pub(crate) pids: Vec<u32>,
    /// Only processes whose real or effective user id this is.
    #[arg(long = "uid", value_name = "N")]
    pub(crate) uids: Vec<u32>,
    /// Only processes in this container: the id or its beginning, or a name; * for all that are in one.
    #[arg(long = "container", value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) containers: Vec<String>,
    /// Only processes in this namespace of any kind, by its inode number (`ls -l /proc/PID/ns`).
    #[arg(long = "namespace", value_name = "INODE")]
    pub(crate) namespaces: Vec<u32>,
    /// Read the environment of each process and show the names of its variables.
    #[arg(long)]
    pub(crate) env: bool,
    /// With --env, show values too. They hold passwords and keys.
    #[arg(long, requires = "env")]
    pub(crate) show_values: bool,
}

/// A template in which `*` stands for anything.
#[derive(Clone, Debug)]
pub(crate) struct PatternArg(pub(crate) Pattern);

impl std::str::FromStr for PatternArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Pattern::parse(text).map(Self).map_err(|error| error.to_string())
    }
}

/// What `ps` sorts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SortArg {
    pub(crate) column: Column,
    pub(crate) descending: bool,
}

impl std::str::FromStr for SortArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        let column = Column::from_str(name, true).map_err(|_| format!("there is no column `{name}`"))?;
        Ok(Self { column, descending })
    }
}

/// A column of `ps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Column {
    Pid,
    Ppid,
    /// Number of a thread.
    Tid,
    /// Real user id: names are the guest's own business.
    #[value(alias = "user")]
    Uid,
    #[value(alias = "euser")]
    Euid,
    #[value(alias = "group")]
    Gid,
    Egid,
    Groups,
    Threads,
    State,
    /// The kernel's name of it.
    #[value(alias = "comm")]
    Name,
    Exe,
    Args,
    /// Start by the guest's wall clock.
    #[value(alias = "start")]
    Started,
    /// CPU time used.
    #[value(alias = "cputime")]
    Time,
    /// Resident memory.
    Rss,
    Pgid,
    /// Session.
    #[value(alias = "session")]
    Sid,
    /// Terminal.
    #[value(alias = "terminal")]
    Tty,
    /// Effective capabilities.
    Caps,
    /// Bounding set of capabilities.
    Bounding,
    Seccomp,
    /// Whether it can gain no privileges.
    #[value(alias = "nnp")]
    NoNewPrivs,
    Cgroup,
    /// Control groups of version 1.
    CgroupsV1,
    Container,
    Runtime,
    Pidns,
    Netns,
    Mntns,
    Userns,
    Utsns,
    Ipcns,
    Cgroupns,
    /// Views in which it was seen.
    Views,
    /// Environment, if it was read.
    Env,
    /// Address of its task.
    Task,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) target: TargetArg,
    /// Time between two looks.
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub(crate) interval: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct SocketsArgs {
    #[command(flatten)]
    pub(crate) target: TargetArg,
    #[command(flatten)]
    pub(crate) choice: Choice,
}

/// Whom to trust, and where certificates are.
#[derive(Clone, Debug, Args)]
pub(crate) struct TrustArgs {
    /// Public key (PEM) that a certificate must be signed with; may be given more than once.
    /// Default: every .pub and .pem file of CONFIG_DIR/trusted-keys, within the limits of trust.toml there.
    #[arg(long = "trusted-key", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) trusted_keys: Vec<PathBuf>,
    /// Directory with certificates/ and trusted-keys/.
    #[arg(long, value_name = "DIR", env = "BIRTHMARK_CONFIG_DIR", default_value = "/etc/birthmark")]
    pub(crate) config_dir: PathBuf,
    /// Directory in which birthmarkd and `audit` remember the highest serials seen.
    #[arg(long, value_name = "DIR", env = "BIRTHMARK_STATE_DIR", default_value = "/var/lib/birthmark")]
    pub(crate) state_dir: PathBuf,
}

/// Who signs.
#[derive(Clone, Debug, Args)]
pub(crate) struct KeyArgs {
    /// Private key (PEM) that signs: a file (see `birthmark keygen`), or env:NAME for an environment variable.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) key: Option<String>,
    /// Program that signs in place of a key, for a KMS or HSM: it is given the bytes to sign on standard input, and prints
    /// the Ed25519 signature, 64 bytes or their base64.
    #[arg(long, value_name = "PROGRAM", value_hint = ValueHint::CommandName, conflicts_with = "key", requires = "signer_key")]
    pub(crate) signer: Option<PathBuf>,
    /// Public key (PEM) of --signer.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "signer")]
    pub(crate) signer_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    pub(crate) target: TargetArg,
    /// Certificate to compare with, whichever VM it selects.
    /// Default: the one of CONFIG_DIR/certificates/*.json that selects the VM.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) certificate: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CertifyArgs {
    /// VM name, pid:N, uuid:U, xen:DOMID, or path of a memory image; several for siblings that one certificate is for.
    #[arg(required_unless_present = "image", value_name = "TARGET")]
    pub(crate) targets: Vec<Target>,
    /// Certify what is in an image (directory, tar archive, raw disk, qcow2) that nothing has booted from. With a TARGET: hold
    /// what is learned from it against the image that it started from; programs get the digests of their files, and those
    /// that are not in the image need an eye.
    #[arg(long, value_name = "IMAGE", value_hint = ValueHint::AnyPath, conflicts_with = "image_sha256")]
    pub(crate) image: Option<PathBuf>,
    /// Hold a draft that was learned before (by birthmarkd, say) against the image, instead of a TARGET.
    #[arg(long, value_name = "DRAFT", requires = "image", value_hint = ValueHint::FilePath,
        conflicts_with_all = ["targets", "serial", "selectors", "valid_for", "not_before"])]
    pub(crate) learned: Option<PathBuf>,
    /// Partition of the image's root file system, where there is more than one.
    #[arg(long, value_name = "N", requires = "image")]
    pub(crate) partition: Option<u32>,
    /// Kernel that VMs of the image run, where it is not in it: vmlinuz, vmlinux, or Debian package of one.
    #[arg(long, value_name = "FILE", requires = "image", value_hint = ValueHint::FilePath)]
    pub(crate) kernel: Option<PathBuf>,
    /// First instant at which a certificate of an image holds, RFC 3339. Default: SOURCE_DATE_EPOCH, else the time of the
    /// image's newest file.
    #[arg(long, value_name = "TIME", requires = "image", conflicts_with = "targets")]
    pub(crate) not_before: Option<jiff::Timestamp>,
    /// Search memory itself too, for processes, sockets and modules that are on no list of the guest's kernel. Takes longer.
    #[arg(long, requires = "targets")]
    pub(crate) scan: bool,
    /// Name of the service that VMs like this one provide.
    #[arg(long, value_name = "NAME")]
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// File for the certificate, or for the draft when nobody signs it.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// Serial: 1 for the first certificate of a service, one more for each later one.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) serial: u64,
    /// How long it holds, from now: 365d, 12h, 1y.
    #[arg(long, value_name = "DURATION", default_value = "365d")]
    pub(crate) valid_for: Duration,
    /// Which VMs it is for: name=TEMPLATE, uuid=TEMPLATE, or metadata=KEY=TEMPLATE (what libvirt says of a VM, as `list --json`
    /// shows it; its title is the key title), where * stands for anything; may be given more than once. Default: VMs of the
    /// same name.
    #[arg(long = "selector", value_name = "KEY=TEMPLATE")]
    pub(crate) selectors: Vec<SelectorArg>,
    /// Observe for this long (10m, 1h) and certify what was seen in it.
    #[arg(long, value_name = "DURATION", default_value = "2s", requires = "targets")]
    pub(crate) learn: Duration,
    /// Certify also with whom the VM speaks; without this, flows are not judged.
    #[arg(long, requires = "targets")]
    pub(crate) flows: bool,
    /// What birthmarkd does about drift that shows that something foreign runs.
    #[arg(long, value_enum, default_value_t = ActionArg::Quarantine)]
    pub(crate) action: ActionArg,
    /// SHA-256 (hex) of the disk image that such VMs start from.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub(crate) image_sha256: Option<String>,
    /// Certify although something could not be read; what is unknown is left out.
    #[arg(long, requires = "targets")]
    pub(crate) accept_unknown: bool,
    /// Replace the file if it exists.
    #[arg(long)]
    pub(crate) force: bool,
}

/// What is done about drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActionArg {
    /// Cut the VM off.
    Quarantine,
    /// Only tell.
    Alert,
}

/// One `--selector`.
#[derive(Clone, Debug)]
pub(crate) enum SelectorArg {
    Name(Pattern),
    Uuid(Pattern),
    Metadata(MetadataTemplate),
}

impl std::str::FromStr for SelectorArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, template) =
            text.split_once('=').ok_or_else(|| "a selector is name=TEMPLATE or uuid=TEMPLATE".to_owned())?;
        let pattern = |template: &str| Pattern::parse(template).map_err(|error| error.to_string());
        match key {
            _ if template.is_empty() => Err("its template is empty".to_owned()),
            "name" => pattern(template).map(Self::Name),
            // A VM's id is `uuid:U`.
            "uuid" => pattern(&format!("uuid:{}", template.to_lowercase())).map(Self::Uuid),
            "metadata" => {
                let parts =
                    template.split_once('=').filter(|(key, value)| !key.is_empty() && !value.is_empty());
                let (key, value) = parts.ok_or_else(|| "metadata is metadata=KEY=TEMPLATE".to_owned())?;
                Ok(Self::Metadata(MetadataTemplate { key: key.to_owned(), value: pattern(value)? }))
            }
            _ => Err(format!("VMs are selected by name, uuid or metadata, not by `{key}`")),
        }
    }
}

impl CertifyArgs {
    /// The selectors as a certificate states them; `None` when there are none.
    pub(crate) fn selector(&self) -> Option<Selector> {
        let mut selector = Selector::default();
        for one in &self.selectors {
            match one {
                SelectorArg::Name(pattern) => selector.names.push(pattern.clone()),
                SelectorArg::Uuid(pattern) => selector.uuids.push(pattern.clone()),
                SelectorArg::Metadata(template) => selector.metadata.push(template.clone()),
            }
        }
        (!self.selectors.is_empty()).then_some(selector)
    }
}

/// What can be done with profiles. WHAT is a file, the release (`uname -r`) or digest (`sha256:…`) of a stored profile, or a
/// TARGET.
#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Make profiles of kernels out of their files, with no guest booted.
    Build(ProfileBuildArgs),
    /// Show the profiles that this host keeps.
    List,
    /// Show what is in a profile.
    Show(ProfileArg),
    /// Check profiles: all stored ones, or one, which --target holds against a guest.
    Verify(ProfileVerifyArgs),
    /// Write a profile to a file: of a VM's kernel, or a stored one.
    Export(ProfileExportArgs),
    /// Put profiles into the store of this host.
    Import(ProfileImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ProfileBuildArgs {
    /// vmlinuz (bzImage), vmlinux, Debian package of a kernel, or directory with kernels (/boot, an unpacked package,
    /// /lib/modules/RELEASE).
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) files: Vec<PathBuf>,
    /// Directory that is laid out like the store, or file for one profile: one line of JSON; compressed if its name ends in .xz.
    /// Default: the store of this host.
    #[arg(short, long, value_name = "DIR|FILE", value_hint = ValueHint::AnyPath)]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file if it exists.
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileArg {
    /// File, release or digest of a stored profile, VM name, pid:N, uuid:U, or path of a memory image.
    #[arg(value_name = "WHAT")]
    pub(crate) what: String,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileVerifyArgs {
    /// File, release or digest of a stored profile. Default: every stored profile.
    #[arg(value_name = "WHAT")]
    pub(crate) what: Option<String>,
    /// Guest to hold the profile against.
    #[arg(long, value_name = "TARGET", requires = "what")]
    pub(crate) target: Option<Target>,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileExportArgs {
    /// VM name, pid:N, uuid:U, path of a memory image, or file, release or digest of a stored profile.
    #[arg(value_name = "WHAT")]
    pub(crate) what: String,
    /// File to write: one line of JSON; compressed if its name ends in .xz.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// Write Volatility 3's symbol file, with all types and symbols of the kernel of a VM or memory image.
    #[arg(long)]
    pub(crate) isf: bool,
    /// Replace the file if it exists.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileImportArgs {
    /// Profiles, or symbol files of Volatility 3 (from dwarf2json, say); .xz is unpacked.
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
}

/// 64 hex digits, given back in lower case.
fn sha256(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(digits.to_lowercase());
    }
    Err("a SHA-256 has 64 hexadecimal digits".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// File for the private key; the public one goes to the same name with .pub at its end.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Certificate.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReviewArgs {
    /// Draft or certificate.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Certificate or draft that it would replace: what is different comes first.
    #[arg(long, value_name = "OLD", value_hint = ValueHint::FilePath)]
    pub(crate) since: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Certificate or draft.
    #[arg(value_name = "OLD", value_hint = ValueHint::FilePath)]
    pub(crate) old: PathBuf,
    /// Certificate or draft.
    #[arg(value_name = "NEW", value_hint = ValueHint::FilePath)]
    pub(crate) new: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptArgs {
    /// Ids of the findings, as `birthmark findings` and `birthmark audit` show them.
    #[arg(required = true, value_name = "FINDING")]
    pub(crate) findings: Vec<String>,
    /// Certificate that is to be replaced.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) certificate: PathBuf,
    /// Report with the findings (`birthmark audit --json`). Default: what birthmarkd has found.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<PathBuf>,
    /// File for the draft, to be signed with `birthmark sign`.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// How long it holds, from now. Default: as long as the certificate that it replaces.
    #[arg(long, value_name = "DURATION")]
    pub(crate) valid_for: Option<Duration>,
    /// Replace the file if it exists.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// Draft, or certificate that others have signed already.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// File for the certificate.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Control socket of birthmarkd.
    #[arg(
        long,
        value_name = "PATH",
        env = "BIRTHMARK_SOCKET",
        default_value = "/run/birthmark/birthmarkd.sock",
        value_hint = ValueHint::FilePath
    )]
    pub(crate) socket: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    /// Name or id of the VM, as `birthmark status` shows it.
    pub(crate) vm: String,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
    /// Directory with certificates/ and trusted-keys/.
    #[arg(long, value_name = "DIR", env = "BIRTHMARK_CONFIG_DIR", default_value = "/etc/birthmark")]
    pub(crate) config_dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_column_to_sort_by_may_be_turned_round() {
        let sort = |text: &str| text.parse::<SortArg>();
        assert_eq!(sort("-rss"), Ok(SortArg { column: Column::Rss, descending: true }));
        assert_eq!(sort("comm"), Ok(SortArg { column: Column::Name, descending: false }));
        assert!(sort("--rss").is_err() && sort("").is_err());
    }

    #[test]
    fn a_selector_is_a_name_a_uuid_or_metadata() {
        assert!(matches!("name=web-*".parse(), Ok(SelectorArg::Name(pattern)) if pattern.matches("web-17")));
        assert!(matches!("uuid=AB*".parse(), Ok(SelectorArg::Uuid(pattern)) if pattern.matches("uuid:abcd")));
        let metadata = "metadata=instance/flavor@name=m1.*".parse();
        assert!(
            matches!(metadata, Ok(SelectorArg::Metadata(one)) if one.key == "instance/flavor@name" && one.value.matches("m1.a"))
        );
        for bad in
            ["web-*", "name=", "pid=7", "name=a\\", "metadata=", "metadata=a", "metadata==a", "metadata=a="]
        {
            assert!(bad.parse::<SelectorArg>().is_err(), "{bad}");
        }
    }
}
