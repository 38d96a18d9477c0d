//! A virtual machine as this host sees it, before anything in it is looked at.

use serde::{Deserialize, Serialize};

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hypervisor {
    /// A VMM process that holds `anon_inode:kvm-vm` descriptors.
    Kvm,
    /// QEMU with its software emulation (no KVM descriptors).
    QemuTcg,
    /// A Xen domain.
    Xen,
    /// A memory image in a file.
    Image,
}

/// Whether the guest's CPUs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// The VMM process exists. Whether it paused its CPUs cannot be told without its monitor.
    Running,
    /// The guest's CPUs are known to be stopped.
    Paused,
    /// A file: nothing runs.
    Image,
}

/// One VM, as `birthmark list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// The name its owner gave it (`-name` of QEMU, the xenstore name, the file's name); else `pid-N`.
    pub name: String,
    /// Stable identity: the machine's UUID where one was given, else a value derived from what started it.
    pub id: String,
    /// What runs it.
    pub hypervisor: Hypervisor,
    /// Host process id of the VMM (KVM, QEMU).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Xen domain id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domid: Option<u32>,
    /// Guest memory in bytes, holes not counted. `None` when the layout could not be told.
    pub memory_bytes: Option<u64>,
    /// Number of virtual CPUs.
    pub vcpus: Option<u32>,
    /// Whether it runs.
    pub state: VmState,
}

/// One network interface of a VM, as seen from the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Name of the host-side device (`tap0`, `vnet3`, `vif1.0`).
    pub interface: String,
    /// Path of the network namespace that the VMM lives in (`/proc/PID/ns/net`); the device is looked for there.
    pub namespace: String,
}
