//! Everything Birthmark can say about a guest, as plain data.
//!
//! This crate is the boundary between *seeing* (`introspect`) and *judging* (`attest`), and it is what every `--json`
//! output prints. It has public fields, serde, two containers ([`Names`], [`Rows`]), and no behaviour beyond constructors and `Display`: no I/O, no logic, no
//! knowledge of memory or policy.
//!
//! The JSON names are a contract (DESIGN 4.2): snake_case, addresses as `"0x…"` strings, times as RFC 3339, and what is
//! unknown is `null`, never an empty string or a zero. Adding a field is not a break; changing the meaning of one is.

mod address;
mod ebpf;
mod finding;
mod kernel;
mod module;
mod names;
mod process;
mod rows;
mod snapshot;
mod socket;
mod vm;

pub use address::Address;
pub use ebpf::{EbpfAttachment, EbpfProgram, EbpfSites};
pub use finding::{Evidence, Finding, Report, Severity, Verdict, rule};
pub use kernel::{Kernel, ProfileOrigin, ProfileSource};
pub use module::{Module, ModuleState};
pub use names::Names;
pub use process::{
    CgroupV1, ContainerRuntime, EnvironmentVariable, ExeState, Namespaces, Process, ProcessState, Seccomp,
    TaskKind, Terminal, Thread,
};
pub use rows::{Place, Rows};
pub use snapshot::{Activity, Consistency, ConsistencyMode, Problem, ProblemKind, Snapshot, Turnover, Views};
pub use socket::{
    Descriptor, Family, FilterKind, NetlinkAddress, Ownership, Shutdown, Socket, SocketFilter,
    SocketInterface, SocketPeer, SocketState, VsockAddress,
};
pub use vm::{Hypervisor, Libvirt, Metadata, Nic, Vm, VmState};

/// Text that many rows have in common, or that is short: to copy it costs no allocation. A crowd's tables have a hundred thousand such.
pub type Text = smol_str::SmolStr;

/// Pids, ascending. Most lists of them are short, and then cost no allocation.
pub type Pids = smallvec::SmallVec<[u32; 4]>;
/// Descriptors, ascending. Most lists of them are short, and then cost no allocation.
pub type Descriptors = smallvec::SmallVec<[Descriptor; 2]>;

/// Value of `schema` in a [`Snapshot`].
pub const SNAPSHOT_SCHEMA: &str = "birthmark.snapshot/v1";
/// Value of `schema` in a [`Report`].
pub const REPORT_SCHEMA: &str = "birthmark.report/v1";
