//! A request to io_uring that a worker thread of the kernel has to carry out, and never finishes.
//!
//! Opening a FIFO waits for the other end, and an open cannot be waited for in any other way than by a thread: the worker
//! stays for as long as the process does.

use crate::init::{Result, context};
use nix::libc;
use nix::sys::stat::Mode;
use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

/// `struct io_uring_params` as words (include/uapi/linux/io_uring.h): ten of its own, then the offsets of the two rings.
const PARAMS: usize = 30;
/// Of those words: offsets in the submission ring of its tail and of its array of entries.
const TAIL: usize = 11;
const ARRAY: usize = 16;
const OFFSET_ENTRIES: libc::off_t = 0x1000_0000;
const PAGE: usize = 4096;
const OP_OPENAT: u8 = 18;
/// `IOSQE_ASYNC`: straight to a worker.
const ASYNC: u8 = 1 << 4;

/// Starts the request; it is under way as long as what is given back lives.
pub(crate) fn start() -> Result<(OwnedFd, CString)> {
    let path = context(CString::new(format!("/run/fifo-{}", std::process::id())), "Not a path")?;
    context(nix::unistd::mkfifo(path.as_c_str(), Mode::S_IRWXU), "mkfifo")?;
    let mut params = [0_u32; PARAMS];
    // SAFETY: the kernel fills in the parameters, which live through the call.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, params.as_mut_ptr()) };
    let ring = i32::try_from(ring).ok().filter(|ring| *ring >= 0);
    let ring = ring.ok_or_else(|| format!("io_uring_setup: {}", io::Error::last_os_error()))?;
    // SAFETY: the descriptor was just made and is owned by nobody else.
    let owned = unsafe { OwnedFd::from_raw_fd(ring) };
    let (submissions, entries) = (map(ring, 0)?, map(ring, OFFSET_ENTRIES)?);

    let mut entry = [0_u8; 64];
    entry[0] = OP_OPENAT;
    entry[1] = ASYNC;
    entry[4..8].copy_from_slice(&libc::AT_FDCWD.to_ne_bytes());
    entry[16..24].copy_from_slice(&(path.as_ptr().expose_provenance() as u64).to_ne_bytes());
    entry[28..32].copy_from_slice(&libc::O_RDONLY.to_ne_bytes());
    let [tail, array] = [TAIL, ARRAY].map(|word| usize::try_from(params[word]).unwrap_or(0));
    if tail.max(array) + 4 > PAGE {
        return Err("The submission ring is longer than a page".to_owned());
    }
    // SAFETY: a ring of one entry fits its first page, as checked, and the kernel said where in it tail and array are; the
    // entries are in the other mapping. Nothing else in this process knows the ring.
    unsafe {
        ptr::copy_nonoverlapping(entry.as_ptr(), entries, entry.len());
        submissions.add(array).cast::<u32>().write_volatile(0);
        (*submissions.add(tail).cast::<AtomicU32>()).store(1, Ordering::Release);
    }
    // SAFETY: takes integers only, and no signal mask.
    let entered =
        unsafe { libc::syscall(libc::SYS_io_uring_enter, ring, 1_u32, 0_u32, 0_u32, 0_usize, 0_usize) };
    if entered != 1 {
        return Err(format!("io_uring_enter: {entered}, {}", io::Error::last_os_error()));
    }
    Ok((owned, path))
}

/// The first page of one of the ring's areas. It stays mapped for as long as the process lives.
fn map(ring: i32, area: libc::off_t) -> Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let at = unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, libc::MAP_SHARED, ring, area) };
    if at == libc::MAP_FAILED { Err(format!("mmap: {}", io::Error::last_os_error())) } else { Ok(at.cast()) }
}
