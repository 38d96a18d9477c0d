//! The same as `library.rs`, by the `xenctrl` crate, with the feature of that name only: the crate is GPL-3.0-only, and so is every program that
//! is built with it.
//!
//! It takes layouts from the Xen headers of the machine that it is built on, where ours read members at offsets; the UUID that
//! xenstore has is what a domain's are held against either way. What it does not offer (`xc_vcpu_getcontext`, `xc_get_pfn_type_batch`) is
//! asked by our own way to the same library.

use super::abi::{self, hvm_context, info};
use super::control::Commands;
use super::library::Libxenctrl;
use crate::Error;
use nix::errno::Errno;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use xenctrl::XenControl;
use xenctrl::error::XcError;

/// Room for the members of a structure that are read.
const ROOM: usize = 2048;

/// The crate, and our own way for the rest.
#[derive(Debug)]
pub(super) struct Crate {
    control: Mutex<Control>,
    rest: Libxenctrl,
}

#[derive(Debug)]
struct Control(XenControl);

// SAFETY: it is a handle of libxenctrl's and addresses of its functions, neither of which belongs to a thread; the lock around it sees to it
// that two never use it at once.
unsafe impl Send for Control {}

impl Crate {
    pub(super) fn load() -> Result<Self, Error> {
        let rest = Libxenctrl::load()?;
        let control = XenControl::new_default()
            .map_err(|error| Error::Permission { path: "/dev/xen/privcmd".into(), source: failed(&error) })?;
        Ok(Self { control: Mutex::new(Control(control)), rest })
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The crate tells what went wrong in words only.
fn failed(error: &XcError) -> io::Error {
    io::Error::other(error.to_string())
}

impl Commands for Crate {
    fn domain_from(&self, from: u16) -> io::Result<Option<Vec<u8>>> {
        let found = self.control().0.domain_getinfolist(from.into()).map_err(|error| failed(&error))?;
        Ok(found.map(|told| {
            let mut bytes = vec![0; ROOM];
            abi::put(&mut bytes, info::DOMAIN, told.domain.to_le_bytes());
            abi::put(&mut bytes, info::FLAGS, told.flags.to_le_bytes());
            abi::put(&mut bytes, info::TOT_PAGES, told.tot_pages.to_le_bytes());
            abi::put(&mut bytes, info::MAX_PAGES, told.max_pages.to_le_bytes());
            abi::put(&mut bytes, info::PAGED_PAGES, told.paged_pages.to_le_bytes());
            abi::put(&mut bytes, info::SHARED_INFO_FRAME, told.shared_info_frame.to_le_bytes());
            abi::put(&mut bytes, info::ONLINE_VCPUS, told.nr_online_vcpus.to_le_bytes());
            abi::put(&mut bytes, info::HANDLE, told.handle);
            bytes
        }))
    }

    fn pause(&self, domid: u16) -> io::Result<()> {
        self.control().0.domain_pause(domid.into()).map_err(|error| failed(&error))
    }

    fn unpause(&self, domid: u16) -> io::Result<()> {
        self.control().0.domain_unpause(domid.into()).map_err(|error| failed(&error))
    }

    fn vcpu_context(&self, domid: u16, vcpu: u32) -> io::Result<Vec<u8>> {
        self.rest.vcpu_context(domid, vcpu)
    }

    fn hvm_cpu(&self, domid: u16, vcpu: u32) -> io::Result<Vec<u8>> {
        let instance = u16::try_from(vcpu).map_err(|_| Errno::EINVAL)?;
        let told = self.control().0.domain_hvm_getcontext_partial(domid.into(), instance);
        let told = told.map_err(|error| failed(&error))?;
        let mut bytes = vec![0; ROOM];
        abi::put(&mut bytes, hvm_context::CR0, told.cr0.to_le_bytes());
        abi::put(&mut bytes, hvm_context::CR3, told.cr3.to_le_bytes());
        abi::put(&mut bytes, hvm_context::CR4, told.cr4.to_le_bytes());
        abi::put(&mut bytes, hvm_context::IDT, told.idtr_base.to_le_bytes());
        Ok(bytes)
    }

    fn frame_types(&self, domid: u16, frames: &mut [u64]) -> io::Result<()> {
        self.rest.frame_types(domid, frames)
    }
}
