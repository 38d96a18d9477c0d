//! `/dev/xen/privcmd`: hypercalls, and read-only mappings of a domain's memory.
//!
//! The descriptor is opened for reading only, so the kernel refuses to make any mapping of it writable. One that is to
//! be given away is restricted to its domain first ([`Privcmd::restrict`]): then it can make no hypercall any more.

use super::abi;
use crate::copy::copy_volatile;
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

/// The device.
const PATH: &str = "/dev/xen/privcmd";
/// Memory that hypercalls may use for their arguments (Linux 4.18 and later): it is never moved.
const BUFFER_PATH: &str = "/dev/xen/hypercall";
/// Bytes of a frame.
pub(super) const FRAME: usize = 4096;

/// The device, opened.
#[derive(Debug)]
pub(super) struct Privcmd {
    file: File,
}

impl Privcmd {
    /// Opens it. `NotFound`: this system runs on no Xen, or the module `xen-privcmd` is not loaded.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { file: File::open(PATH)? })
    }

    /// The device, opened by another process.
    pub(super) fn of(file: File) -> Self {
        Self { file }
    }

    /// The descriptor, for another process.
    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.file.into()
    }

    /// Gives up everything but mapping memory of this domain (Linux 4.13 and later), for ever.
    pub(super) fn restrict(&self, domid: u16) -> io::Result<()> {
        // SAFETY: the ioctl reads a domid_t, which lives through the call.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), abi::PRIVCMD_RESTRICT, &raw const domid) };
        Errno::result(result).map(drop).map_err(io::Error::from)
    }

    /// Makes a hypercall. Arguments that are addresses must be those of [`Buffer`]s large enough for what it writes.
    ///
    /// # Safety
    /// The hypervisor writes through such addresses without asking.
    pub(super) unsafe fn hypercall(&self, operation: u64, arguments: [u64; 2]) -> io::Result<i32> {
        let [first, second] = arguments;
        let call = [operation, first, second, 0, 0, 0];
        // SAFETY: the ioctl reads a struct privcmd_hypercall, six 64-bit numbers, which lives through the call; what the
        // hypercall itself does with its arguments is the caller's promise.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), abi::PRIVCMD_HYPERCALL, call.as_ptr()) };
        Ok(Errno::result(result)?)
    }

    /// Maps frames of a domain. Frames that do not exist, or are not the domain's, are told by [`Frames::error`].
    pub(super) fn map(&self, domid: u16, frames: &[u64]) -> io::Result<Frames> {
        let count = NonZeroUsize::new(frames.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let length = count.checked_mul(NonZeroUsize::new(FRAME).unwrap_or(NonZeroUsize::MIN));
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let base = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &self.file, 0) }?;
        let mut mapped = Frames { base, length, errors: vec![0; frames.len()].into_boxed_slice() };
        let number = u32::try_from(frames.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut batch = [0_u8; 32];
        abi::put(&mut batch, 0, number.to_le_bytes());
        abi::put(&mut batch, 4, domid.to_le_bytes());
        abi::put(&mut batch, 8, (base.as_ptr() as u64).to_le_bytes());
        abi::put(&mut batch, 16, (frames.as_ptr() as u64).to_le_bytes());
        abi::put(&mut batch, 24, (mapped.errors.as_mut_ptr() as u64).to_le_bytes());
        // SAFETY: the ioctl reads a struct privcmd_mmapbatch_v2: `number` frames to be read from `frames`, as many error
        // codes to be written to `errors`, and a range of addresses that is the mapping just made. All live through the call.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), abi::PRIVCMD_MMAPBATCH_V2, batch.as_ptr()) };
        match Errno::result(result) {
            // Some frame is paged out, as its own error code says.
            Ok(_) | Err(Errno::ENOENT) => Ok(mapped),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Frames of a domain, mapped read-only. They stay the domain's pages at the time of the mapping: one that the guest gives
/// back meanwhile is not freed before this is dropped, so mappings are not kept for long.
#[derive(Debug)]
pub(super) struct Frames {
    base: NonNull<c_void>,
    length: NonZeroUsize,
    /// 0, or a negative error number, for each frame.
    errors: Box<[i32]>,
}

// SAFETY: the mapping is only ever read, by volatile loads, and lives until it is dropped; any thread may do both.
unsafe impl Send for Frames {}
// SAFETY: as above; there is no interior state.
unsafe impl Sync for Frames {}

impl Frames {
    /// Pages of zeros of our own, and these answers about them.
    #[cfg(test)]
    pub(super) fn of_errors(errors: &[i32]) -> io::Result<Self> {
        let length = NonZeroUsize::new(errors.len() * FRAME).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let base = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE) }?;
        Ok(Self { base, length, errors: errors.into() })
    }

    /// Why frame `index` is not there; `None` when it is.
    pub(super) fn error(&self, index: usize) -> Option<Errno> {
        match self.errors.get(index) {
            Some(0) => None,
            Some(error) => Some(Errno::from_raw(error.saturating_neg())),
            None => Some(Errno::EINVAL),
        }
    }

    /// Copies from byte `offset` of frame `index` on. `false` when the frame is not there or the range leaves it.
    pub(super) fn copy(&self, index: usize, offset: usize, out: &mut [u8]) -> bool {
        if self.error(index).is_some() || offset.checked_add(out.len()).is_none_or(|end| end > FRAME) {
            return false;
        }
        // SAFETY: frame `index` is one of those mapped, as it has an error code, so its bytes are inside the mapping, and the
        // code says that there is a page behind it, which stays there as long as `self` lives. `out` is ours.
        unsafe { copy_volatile(self.base.as_ptr().cast::<u8>().add(index * FRAME + offset), out) };
        true
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and no reference into it was ever given out.
        let _ = unsafe { munmap(self.base, self.length.get()) };
    }
}

/// Memory for the arguments of hypercalls: whole pages that stay where they are.
#[derive(Debug)]
pub(super) struct Buffer {
    base: NonNull<c_void>,
    length: NonZeroUsize,
}

impl Buffer {
    /// At least `bytes` bytes of zeros.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let length = bytes.max(1).checked_next_multiple_of(FRAME).and_then(NonZeroUsize::new);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let base = match OpenOptions::new().read(true).write(true).open(BUFFER_PATH) {
            // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
            Ok(file) => unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, file, 0) }?,
            Err(_) => {
                let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_LOCKED | MapFlags::MAP_POPULATE;
                // SAFETY: as above.
                unsafe { mmap_anonymous(None, length, access, flags) }?
            }
        };
        Ok(Self { base, length })
    }

    /// Its address, as hypercalls want it.
    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Its bytes, between hypercalls.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is ours alone, readable and writable, and lives as long as `self`, which is borrowed; hypercalls
        // that write to it are made only while no such borrow exists.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast::<u8>(), self.length.get()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made; borrows of it have ended with `self`.
        let _ = unsafe { munmap(self.base, self.length.get()) };
    }
}
