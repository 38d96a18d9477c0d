//! What is asked of the hypervisor: which domains there are, how large one is, and its vCPUs' registers. Questions only: the
//! commands that change a domain are in `pause.rs`.
//!
//! Domain commands (`domctl`) are no stable interface: each carries a version, and a hypervisor of another one refuses it.
//! So the version is found out by asking, and where none fits, what they would tell is not known.

use super::abi::{self, domctl, hvm_context, info, pod, u32_at, u64_at, vcpu_context};
use super::privcmd::{Buffer, Privcmd};
use nix::errno::Errno;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use vmi_core::{Gva, Registers};

/// vCPUs asked for their registers; more say nothing new about where the kernel is.
const VCPUS_MAX: u32 = 8;
/// CR0.PG and CR4.PAE, which a paravirtual guest of 64 bits runs with whatever it was told.
const PAGING: u64 = 1 << 31;
const PAE: u64 = 1 << 5;

/// What the hypervisor says of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) domid: u16,
    pub(super) is_hvm: bool,
    pub(super) is_dying: bool,
    pub(super) has_shut_down: bool,
    pub(super) is_paused: bool,
    /// Frames it has.
    pub(super) total_pages: u64,
    /// Frames it may have.
    pub(super) max_pages: u64,
    /// Frame of its `struct shared_info`.
    pub(super) shared_info: u64,
    pub(super) vcpus: u32,
    /// Its UUID.
    pub(super) handle: [u8; 16],
}

/// The hypervisor.
#[derive(Debug)]
pub(super) struct Control {
    privcmd: Privcmd,
    /// The version of domain commands that it accepts; 0 before the first.
    version: AtomicU32,
}

impl Control {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self::of(Privcmd::open()?))
    }

    pub(super) fn of(privcmd: Privcmd) -> Self {
        Self { privcmd, version: AtomicU32::new(0) }
    }

    /// The domain of this number. `Ok(None)`: there is none.
    pub(super) fn domain(&self, domid: u16) -> io::Result<Option<Info>> {
        Ok(self.domain_from(domid)?.filter(|info| info.domid == domid))
    }

    /// The first domain whose number is `from` or higher. `Ok(None)`: there is none.
    pub(super) fn domain_from(&self, from: u16) -> io::Result<Option<Info>> {
        let part = match self.domctl(domctl::GET_DOMAIN_INFO, from, &mut |_| {}) {
            Ok(part) => part,
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Ok(None),
            Err(error) => return Err(error),
        };
        parse_info(&part).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The highest frame of the domain's own numbering.
    pub(super) fn highest_frame(&self, domid: u16) -> io::Result<u64> {
        let mut buffer = Buffer::new(8)?;
        abi::put(buffer.bytes(), 0, domid.to_le_bytes());
        // SAFETY: the hypervisor reads a domid_t from the buffer and writes nothing.
        let result =
            unsafe { self.privcmd.hypercall(abi::MEMORY_OP, [abi::XENMEM_MAXIMUM_GPFN, buffer.address()]) }?;
        // The answer is the ioctl's result, so frames beyond 2^31 (8 TiB) cannot be told from errors.
        u64::try_from(result).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Frames that come into being when they are first touched, by us too.
    pub(super) fn frames_on_demand(&self, domid: u16) -> io::Result<u64> {
        let mut buffer = Buffer::new(pod::SIZE)?;
        abi::put(buffer.bytes(), pod::DOMID, domid.to_le_bytes());
        // SAFETY: the hypervisor reads and writes one struct xen_pod_target, for which the buffer has room.
        unsafe { self.privcmd.hypercall(abi::MEMORY_OP, [abi::XENMEM_GET_POD_TARGET, buffer.address()]) }?;
        u64_at(buffer.bytes(), pod::ENTRIES).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Registers of the domain's vCPUs, the first few. Each is stopped for the moment that its registers are read.
    pub(super) fn registers(&self, info: &Info) -> io::Result<Vec<Registers>> {
        let mut all = Vec::new();
        for vcpu in 0..info.vcpus.min(VCPUS_MAX) {
            all.push(if info.is_hvm { self.hvm(info.domid, vcpu) } else { self.pv(info.domid, vcpu) }?);
        }
        Ok(all)
    }

    fn pv(&self, domid: u16, vcpu: u32) -> io::Result<Registers> {
        let mut context = Buffer::new(vcpu_context::SIZE)?;
        let address = context.address();
        self.domctl(domctl::GET_VCPU_CONTEXT, domid, &mut |part| {
            abi::put(part, 0, vcpu.to_le_bytes());
            abi::put(part, vcpu_context::BUFFER, address.to_le_bytes());
        })?;
        let bytes = context.bytes();
        let control =
            |number: usize| u64_at(bytes, vcpu_context::CONTROL.saturating_add(number.saturating_mul(8)));
        let registers = || {
            // It has no IDT: the hypervisor does, and keeps the guest's handlers in a table of another form.
            Some(Registers {
                cr0: control(0)? | PAGING,
                cr3: control(3)?,
                cr4: control(4)? | PAE,
                idt: Gva(0),
            })
        };
        registers().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn hvm(&self, domid: u16, vcpu: u32) -> io::Result<Registers> {
        let mut record = Buffer::new(hvm_context::SIZE)?;
        let address = record.address();
        self.domctl(domctl::GET_HVM_CONTEXT_PARTIAL, domid, &mut |part| {
            abi::put(part, 0, hvm_context::TYPE_CPU.to_le_bytes());
            abi::put(part, hvm_context::INSTANCE, vcpu.to_le_bytes());
            abi::put(part, hvm_context::LENGTH, (hvm_context::SIZE as u64).to_le_bytes());
            abi::put(part, hvm_context::BUFFER, address.to_le_bytes());
        })?;
        let bytes = record.bytes();
        let registers = || {
            Some(Registers {
                cr0: u64_at(bytes, hvm_context::CR0)?,
                cr3: u64_at(bytes, hvm_context::CR3)?,
                cr4: u64_at(bytes, hvm_context::CR4)?,
                idt: Gva(u64_at(bytes, hvm_context::IDT)?),
            })
        };
        registers().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Makes a domain command with the version that fits; gives its part after the call. Addresses that `fill` puts into the
    /// part must be those of buffers large enough for what the command writes.
    pub(super) fn domctl(
        &self,
        command: u32,
        domid: u16,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> io::Result<Vec<u8>> {
        let known = self.version.load(Ordering::Relaxed);
        let versions: &[u32] = if known == 0 { &abi::DOMCTL_VERSIONS } else { &[known] };
        let mut refused = io::Error::from(Errno::EACCES);
        for version in versions {
            let mut buffer = Buffer::new(domctl::SIZE)?;
            let bytes = buffer.bytes();
            abi::put(bytes, domctl::COMMAND, command.to_le_bytes());
            abi::put(bytes, domctl::VERSION, version.to_le_bytes());
            abi::put(bytes, domctl::DOMAIN, domid.to_le_bytes());
            if let Some(part) = bytes.get_mut(domctl::PART..domctl::SIZE) {
                fill(part);
            }
            // SAFETY: the hypervisor reads and writes one struct xen_domctl, for which the buffer has room, and what the
            // command's part points to are buffers of the size that it was told or that the interface prescribes.
            match unsafe { self.privcmd.hypercall(abi::DOMCTL, [buffer.address(), 0]) } {
                Ok(_) => {
                    self.version.store(*version, Ordering::Relaxed);
                    return Ok(buffer.bytes().get(domctl::PART..domctl::SIZE).unwrap_or_default().to_vec());
                }
                Err(error) if error.raw_os_error() == Some(Errno::EACCES as i32) => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }
}

fn parse_info(part: &[u8]) -> Option<Info> {
    let flags = u32_at(part, info::FLAGS)?;
    Some(Info {
        domid: u16::from_le_bytes(part.get(info::DOMAIN..info::DOMAIN.checked_add(2)?)?.try_into().ok()?),
        is_hvm: flags & info::HVM != 0,
        is_dying: flags & info::DYING != 0,
        has_shut_down: flags & info::SHUTDOWN != 0,
        is_paused: flags & info::PAUSED != 0,
        total_pages: u64_at(part, info::TOT_PAGES)?,
        max_pages: u64_at(part, info::MAX_PAGES)?,
        shared_info: u64_at(part, info::SHARED_INFO_FRAME)?,
        vcpus: u32_at(part, info::ONLINE_VCPUS)?,
        handle: part.get(info::HANDLE..info::HANDLE.checked_add(16)?)?.try_into().ok()?,
    })
}
