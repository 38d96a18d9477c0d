//! Domain commands (`domctl`) as hypercalls of our own.
//!
//! They are no stable interface: each carries a version, and a hypervisor of another one refuses it. So the version is found out by
//! asking, and where none fits, `library.rs` is what is left.

use super::abi::{self, domctl, frame_info, hvm_context, vcpu_context};
use super::control::Commands;
use super::privcmd::{Buffer, Privcmd};
use nix::errno::Errno;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The hypervisor, asked through privcmd.
#[derive(Debug)]
pub(super) struct Domctl {
    privcmd: Arc<Privcmd>,
    /// Versions to try.
    versions: &'static [u32],
    /// The one that it accepts; 0 before the first.
    accepted: AtomicU32,
}

impl Domctl {
    pub(super) fn new(privcmd: Arc<Privcmd>, versions: &'static [u32]) -> Self {
        Self { privcmd, versions, accepted: AtomicU32::new(0) }
    }

    /// Makes a command with the version that fits; gives its part after the call. Addresses that `fill` puts into the part must be
    /// those of buffers large enough for what the command writes.
    fn make(&self, command: u32, domid: u16, fill: &mut dyn FnMut(&mut [u8])) -> io::Result<Vec<u8>> {
        let accepted = self.accepted.load(Ordering::Relaxed);
        let known = [accepted];
        let versions: &[u32] = if accepted == 0 { self.versions } else { &known };
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
                    self.accepted.store(*version, Ordering::Relaxed);
                    return Ok(buffer.bytes().get(domctl::PART..domctl::SIZE).unwrap_or_default().to_vec());
                }
                Err(error) if error.raw_os_error() == Some(Errno::EACCES as i32) => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }
}

impl Commands for Domctl {
    fn domain_from(&self, from: u16) -> io::Result<Option<Vec<u8>>> {
        match self.make(domctl::GET_DOMAIN_INFO, from, &mut |_| {}) {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn pause(&self, domid: u16) -> io::Result<()> {
        self.make(domctl::PAUSE, domid, &mut |_| {}).map(drop)
    }

    fn unpause(&self, domid: u16) -> io::Result<()> {
        self.make(domctl::UNPAUSE, domid, &mut |_| {}).map(drop)
    }

    fn vcpu_context(&self, domid: u16, vcpu: u32) -> io::Result<Vec<u8>> {
        let mut context = Buffer::new(vcpu_context::SIZE)?;
        let address = context.address();
        self.make(domctl::GET_VCPU_CONTEXT, domid, &mut |part| {
            abi::put(part, 0, vcpu.to_le_bytes());
            abi::put(part, vcpu_context::BUFFER, address.to_le_bytes());
        })?;
        Ok(context.bytes().to_vec())
    }

    fn hvm_cpu(&self, domid: u16, vcpu: u32) -> io::Result<Vec<u8>> {
        let mut record = Buffer::new(hvm_context::SIZE)?;
        let address = record.address();
        self.make(domctl::GET_HVM_CONTEXT_PARTIAL, domid, &mut |part| {
            abi::put(part, 0, u32::from(hvm_context::TYPE_CPU).to_le_bytes());
            abi::put(part, hvm_context::INSTANCE, vcpu.to_le_bytes());
            abi::put(part, hvm_context::LENGTH, (hvm_context::SIZE as u64).to_le_bytes());
            abi::put(part, hvm_context::BUFFER, address.to_le_bytes());
        })?;
        Ok(record.bytes().to_vec())
    }

    fn frame_types(&self, domid: u16, frames: &mut [u64]) -> io::Result<()> {
        let mut array = Buffer::new(frames.len().saturating_mul(8))?;
        for (place, frame) in array.bytes().chunks_exact_mut(8).zip(frames.iter()) {
            place.copy_from_slice(&frame.to_le_bytes());
        }
        let address = array.address();
        let number = frames.len() as u64;
        self.make(domctl::GET_PAGE_FRAME_INFO, domid, &mut |part| {
            abi::put(part, frame_info::NUMBER, number.to_le_bytes());
            abi::put(part, frame_info::BUFFER, address.to_le_bytes());
        })?;
        let (types, _) = array.bytes().as_chunks();
        for (frame, told) in frames.iter_mut().zip(types) {
            *frame = u64::from_le_bytes(*told);
        }
        Ok(())
    }
}
