//! What is asked of the hypervisor: which domains there are, how large one is, and its vCPUs' registers.
//!
//! Domain commands (`domctl`) are no stable interface: each carries a version, and a hypervisor of another one refuses it. Ours are made
//! in `domctl.rs`; a hypervisor that refuses all versions of them is asked through its own libxenctrl (`library.rs`).

use super::abi::{self, frame_info, hvm_context, info, pod, u32_at, u64_at, vcpu_context};
use super::domctl::Domctl;
#[cfg(feature = "xenctrl")]
use super::gpl::Crate as OfHost;
#[cfg(not(feature = "xenctrl"))]
use super::library::Libxenctrl as OfHost;
use super::privcmd::{Buffer, Privcmd};
use crate::Error;
use nix::errno::Errno;
use std::fmt;
use std::io;
use std::sync::Arc;
use vmi_core::{Gva, Registers};

/// Frames whose types are asked for at once (`XEN_DOMCTL_getpageframeinfo3` allows no more).
pub(super) const TYPES_MAX: usize = 1024;
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
    /// Frames that a pager has taken out to its file.
    pub(super) paged_pages: u64,
    /// Frame of its `struct shared_info`.
    pub(super) shared_info: u64,
    pub(super) vcpus: u32,
    /// Its UUID.
    pub(super) handle: [u8; 16],
}

/// How domains are asked about and paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// By domain commands of our own, and where the hypervisor refuses their versions, through its libxenctrl.
    #[default]
    Known,
    /// By domain commands of a version that no hypervisor has, so that it refuses them: to see that the other way works.
    Refused,
}

/// Domain commands. The answers are structures of the hypervisor's interface, with room behind them.
pub(super) trait Commands: fmt::Debug + Send + Sync {
    /// `struct xen_domctl_getdomaininfo` of the first domain whose number is `from` or higher. `Ok(None)`: there is none.
    fn domain_from(&self, from: u16) -> io::Result<Option<Vec<u8>>>;
    /// One more pause of the control domain. For `pause.rs` alone, as the next.
    fn pause(&self, domid: u16) -> io::Result<()>;
    /// One less.
    fn unpause(&self, domid: u16) -> io::Result<()>;
    /// `struct vcpu_guest_context`
    fn vcpu_context(&self, domid: u16, vcpu: u32) -> io::Result<Vec<u8>>;
    /// `struct hvm_hw_cpu`
    fn hvm_cpu(&self, domid: u16, vcpu: u32) -> io::Result<Vec<u8>>;
    /// Replaces numbers of frames, [`TYPES_MAX`] at most, by what they are (`XEN_DOMCTL_PFINFO_*`).
    fn frame_types(&self, domid: u16, frames: &mut [u64]) -> io::Result<()>;
}

/// The hypervisor.
#[derive(Debug)]
pub(super) struct Control {
    privcmd: Arc<Privcmd>,
    commands: Box<dyn Commands>,
}

impl Control {
    pub(super) fn open(interface: Interface) -> Result<Self, Error> {
        let privcmd = Privcmd::open().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotAXenHost,
            _ => Error::Permission { path: "/dev/xen/privcmd".into(), source },
        })?;
        Self::of(privcmd, interface)
    }

    pub(super) fn of(privcmd: Privcmd, interface: Interface) -> Result<Self, Error> {
        let privcmd = Arc::new(privcmd);
        let versions: &[u32] = match interface {
            Interface::Known => &abi::DOMCTL_VERSIONS,
            Interface::Refused => &[abi::DOMCTL_VERSION_OF_NONE],
        };
        let own: Box<dyn Commands> = Box::new(Domctl::new(Arc::clone(&privcmd), versions));
        let commands = accepted(own, || Ok(Box::new(OfHost::load()?)))?;
        Ok(Self { privcmd, commands })
    }

    /// The domain of this number. `Ok(None)`: there is none.
    pub(super) fn domain(&self, domid: u16) -> io::Result<Option<Info>> {
        Ok(self.domain_from(domid)?.filter(|info| info.domid == domid))
    }

    /// The first domain whose number is `from` or higher. `Ok(None)`: there is none.
    pub(super) fn domain_from(&self, from: u16) -> io::Result<Option<Info>> {
        let Some(info) = self.commands.domain_from(from)? else { return Ok(None) };
        parse_info(&info).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// For `pause.rs`, as the next.
    pub(super) fn pause(&self, domid: u16) -> io::Result<()> {
        self.commands.pause(domid)
    }

    pub(super) fn unpause(&self, domid: u16) -> io::Result<()> {
        self.commands.unpause(domid)
    }

    /// Which of these frames of the domain's own numbering have a page behind them. The answer neither brings back one that is paged
    /// out nor, other than a mapping, asks for that.
    pub(super) fn present(&self, domid: u16, frames: &[u64]) -> io::Result<Vec<bool>> {
        let mut present = Vec::with_capacity(frames.len());
        for some in frames.chunks(TYPES_MAX) {
            let mut types = some.to_vec();
            self.commands.frame_types(domid, &mut types)?;
            present
                .extend(types.iter().map(|kind| !frame_info::NOT_THERE.contains(&(kind & frame_info::MASK))));
        }
        Ok(present)
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
        let context = self.commands.vcpu_context(domid, vcpu)?;
        let control =
            |number: usize| u64_at(&context, vcpu_context::CONTROL.saturating_add(number.saturating_mul(8)));
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
        let record = self.commands.hvm_cpu(domid, vcpu)?;
        let registers = || {
            Some(Registers {
                cr0: u64_at(&record, hvm_context::CR0)?,
                cr3: u64_at(&record, hvm_context::CR3)?,
                cr4: u64_at(&record, hvm_context::CR4)?,
                idt: Gva(u64_at(&record, hvm_context::IDT)?),
            })
        };
        registers().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Commands of our own if the hypervisor knows a version of them, else those of `other`. Other errors come again with the first command.
fn accepted(
    own: Box<dyn Commands>,
    other: impl FnOnce() -> Result<Box<dyn Commands>, Error>,
) -> Result<Box<dyn Commands>, Error> {
    match own.domain_from(0) {
        Err(error) if error.raw_os_error() == Some(Errno::EACCES as i32) => other(),
        _ => Ok(own),
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
        paged_pages: u64_at(part, info::PAGED_PAGES)?,
        shared_info: u64_at(part, info::SHARED_INFO_FRAME)?,
        vcpus: u32_at(part, info::ONLINE_VCPUS)?,
        handle: part.get(info::HANDLE..info::HANDLE.checked_add(16)?)?.try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::library::Libxenctrl;

    /// Answers every command with an error, or with nothing.
    #[derive(Debug)]
    struct Made(Option<Errno>);

    impl Commands for Made {
        fn domain_from(&self, _: u16) -> io::Result<Option<Vec<u8>>> {
            self.0.map_or(Ok(None), |errno| Err(errno.into()))
        }

        fn pause(&self, _: u16) -> io::Result<()> {
            Ok(())
        }

        fn unpause(&self, _: u16) -> io::Result<()> {
            Ok(())
        }

        fn vcpu_context(&self, _: u16, _: u32) -> io::Result<Vec<u8>> {
            Ok(vec![0; vcpu_context::SIZE])
        }

        fn hvm_cpu(&self, _: u16, _: u32) -> io::Result<Vec<u8>> {
            Ok(vec![0; hvm_context::SIZE])
        }

        fn frame_types(&self, _: u16, _: &mut [u64]) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_library_is_loaded_only_when_the_hypervisor_refuses_our_versions() {
        let taken = |own: Option<Errno>| {
            let mut loaded = false;
            let commands = accepted(Box::new(Made(own)), || {
                loaded = true;
                Ok(Box::new(Made(Some(Errno::EIO))))
            });
            (loaded, commands.unwrap().domain_from(0).err().and_then(|error| error.raw_os_error()))
        };
        assert_eq!(taken(None), (false, None));
        assert_eq!(taken(Some(Errno::EPERM)), (false, Some(Errno::EPERM as i32)));
        assert_eq!(taken(Some(Errno::EACCES)), (true, Some(Errno::EIO as i32)));
    }

    #[test]
    fn a_library_that_is_not_there_is_an_error_that_says_what_has_it() {
        let version = "4.99".to_owned();
        let Err(error) =
            accepted(Box::new(Made(Some(Errno::EACCES))), || Ok(Box::new(Libxenctrl::load_of(&version)?)))
        else {
            panic!("there is no Xen 4.99")
        };
        let told = error.to_string();
        assert!(told.contains("libxenctrl.so.4.99") && told.contains("libxenmisc4.99"), "{told}");
    }
}
