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
    /// What libvirt says of it, where libvirt started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<Libvirt>,
}

/// What libvirt's description of a VM says beside what it is made of. Its owner wrote it, and on a cloud parts of it are a tenant's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Libvirt {
    /// `<title>`.
    pub title: Option<String>,
    /// `<description>`.
    pub description: Option<String>,
    /// Texts and attributes below `<metadata>`, in their order.
    pub metadata: Vec<Metadata>,
}

impl Libvirt {
    /// What a VM may be selected by: the metadata, and the title as `title`.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let title = self.title.iter().map(|title| ("title", title.as_str()));
        title.chain(self.metadata.iter().map(|one| (one.key.as_str(), one.value.as_str())))
    }
}

/// One text or attribute of a VM's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// XML namespace of the element.
    pub namespace: Option<String>,
    /// Names of the elements from the outermost on, without their prefixes, and of the attribute: `instance/flavor@name`.
    pub key: String,
    /// Its text.
    pub value: String,
}

/// One network interface of a VM, as seen from the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Name of the host-side device (`tap0`, `vnet3`, `vif1.0`).
    pub interface: String,
    /// Path of the network namespace that the VMM lives in (`/proc/PID/ns/net`); the device is looked for there.
    pub namespace: String,
}
