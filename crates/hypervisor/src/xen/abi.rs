//! Numbers and layouts of the interfaces of Linux and Xen that are used, each with the header that defines it.
//!
//! Structures are read and written as bytes at offsets: what is used of them is little, and what comes back from the hypervisor
//! is data like any other. Headers are those of Xen 4.17 (xen/include/public) and Linux 6.1 (include/uapi/xen).

/// Number of an ioctl of `privcmd` (include/uapi/xen/privcmd.h): `_IOC(_IOC_NONE, 'P', number, size)`.
const fn privcmd(number: u64, size: u64) -> u64 {
    size << 16 | (b'P' as u64) << 8 | number
}

/// `IOCTL_PRIVCMD_HYPERCALL`, `struct privcmd_hypercall`: operation and five arguments.
pub(super) const PRIVCMD_HYPERCALL: u64 = privcmd(0, 48);
/// `IOCTL_PRIVCMD_MMAPBATCH_V2`, `struct privcmd_mmapbatch_v2`.
pub(super) const PRIVCMD_MMAPBATCH_V2: u64 = privcmd(4, 32);
/// `IOCTL_PRIVCMD_RESTRICT`, `domid_t`.
pub(super) const PRIVCMD_RESTRICT: u64 = privcmd(6, 2);

/// `__HYPERVISOR_memory_op` (xen.h).
pub(super) const MEMORY_OP: u64 = 12;
/// `XENMEM_maximum_gpfn` (memory.h): highest guest frame, argument `domid_t *`.
pub(super) const XENMEM_MAXIMUM_GPFN: u64 = 14;
/// `XENMEM_get_pod_target` (memory.h), argument `struct xen_pod_target *`.
pub(super) const XENMEM_GET_POD_TARGET: u64 = 17;
/// `struct xen_pod_target`.
pub(super) mod pod {
    pub(crate) const SIZE: usize = 40;
    /// Frames that the guest may use and that do not exist yet.
    pub(crate) const ENTRIES: usize = 24;
    pub(crate) const DOMID: usize = 32;
}

/// `__HYPERVISOR_domctl` (xen.h).
pub(super) const DOMCTL: u64 = 36;
/// `XEN_DOMCTL_INTERFACE_VERSION` (domctl.h), which the hypervisor compares and refuses with `EACCES`. 0x15 is 4.17's, which
/// the lab tests. What is used of the answers lies at the same offsets in 4.14 to 4.19.
pub(super) const DOMCTL_VERSIONS: [u32; 5] = [0x15, 0x16, 0x17, 0x14, 0x13];
/// A version that no hypervisor has.
pub(super) const DOMCTL_VERSION_OF_NONE: u32 = u32::MAX;
/// `struct xen_domctl`: command, version, domain, then the command's own part.
pub(super) mod domctl {
    pub(crate) const SIZE: usize = 16 + 128;
    pub(crate) const COMMAND: usize = 0;
    pub(crate) const VERSION: usize = 4;
    pub(crate) const DOMAIN: usize = 8;
    pub(crate) const PART: usize = 16;

    /// The two that change something; for `pause.rs`.
    pub(crate) const PAUSE: u32 = 3;
    pub(crate) const UNPAUSE: u32 = 4;
    pub(crate) const GET_DOMAIN_INFO: u32 = 5;
    pub(crate) const GET_VCPU_CONTEXT: u32 = 13;
    pub(crate) const GET_HVM_CONTEXT_PARTIAL: u32 = 55;
    pub(crate) const GET_PAGE_FRAME_INFO: u32 = 61;
}
/// `struct xen_domctl_getdomaininfo`, offsets in the part.
pub(super) mod info {
    pub(crate) const DOMAIN: usize = 0;
    pub(crate) const FLAGS: usize = 4;
    pub(crate) const TOT_PAGES: usize = 8;
    pub(crate) const MAX_PAGES: usize = 16;
    pub(crate) const PAGED_PAGES: usize = 40;
    pub(crate) const SHARED_INFO_FRAME: usize = 48;
    pub(crate) const ONLINE_VCPUS: usize = 64;
    pub(crate) const HANDLE: usize = 76;

    pub(crate) const DYING: u32 = 1 << 0;
    pub(crate) const HVM: u32 = 1 << 1;
    pub(crate) const SHUTDOWN: u32 = 1 << 2;
    pub(crate) const PAUSED: u32 = 1 << 3;
}
/// `struct xen_domctl_vcpucontext`: vCPU, then the address of a `struct vcpu_guest_context` (arch-x86/xen.h).
pub(super) mod vcpu_context {
    pub(crate) const BUFFER: usize = 8;
    pub(crate) const SIZE: usize = 5168;
    /// `ctrlreg[8]`: CR0 to CR7; 3 is the kernel's page-table root, as a machine address.
    pub(crate) const CONTROL: usize = 4984;
}
/// `struct xen_domctl_hvmcontext_partial`: type, instance, length and address of a buffer for one record of the domain's saved
/// state, here `struct hvm_hw_cpu` (arch-x86/hvm/save.h).
pub(super) mod hvm_context {
    pub(crate) const TYPE_CPU: u16 = 2;
    pub(crate) const INSTANCE: usize = 4;
    pub(crate) const LENGTH: usize = 8;
    pub(crate) const BUFFER: usize = 16;
    pub(crate) const SIZE: usize = 1032;
    pub(crate) const CR0: usize = 656;
    pub(crate) const CR3: usize = 672;
    pub(crate) const CR4: usize = 680;
    pub(crate) const IDT: usize = 872;
}
/// `struct xen_domctl_getpageframeinfo3`: how many, and the address of numbers that are replaced by types.
pub(super) mod frame_info {
    pub(crate) const NUMBER: usize = 0;
    pub(crate) const BUFFER: usize = 8;
    /// `XEN_DOMCTL_PFINFO_LTAB_MASK`
    pub(crate) const MASK: u64 = 0xf << 28;
    /// `XEN_DOMCTL_PFINFO_XTAB`, `XALLOC` and `BROKEN`
    pub(crate) const NOT_THERE: [u64; 3] = [0xf << 28, 0xe << 28, 0xd << 28];
}
/// `struct shared_info` of a 64-bit guest (xen.h, arch-x86/xen.h), which the guest writes.
pub(super) mod shared_info {
    pub(crate) const MAX_PFN: usize = 3088;
    pub(crate) const P2M_CR3: usize = 3112;
    pub(crate) const P2M_VADDR: usize = 3120;
    pub(crate) const P2M_GENERATION: usize = 3128;
}

/// A 64-bit value at an offset; `None` beyond the end.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// A 32-bit value at an offset; `None` beyond the end.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Writes a value into a structure of ours.
pub(super) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(N)) {
        place.copy_from_slice(&value);
    }
}
