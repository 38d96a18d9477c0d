//! What a process may do and what controls it: capabilities, `no_new_privs`, a seccomp filter, a terminal.
//!
//! All of it is done between fork and exec, by the process itself.

use crate::init::{Result, context};
use crate::system::check;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use std::os::fd::IntoRawFd;
use testkit::command::Spawn;

/// Highest capability that any kernel has had is 40; asking about one that there is not is an error that ends the loop.
const CAPABILITIES: u32 = 64;

/// Capabilities first: taking them away needs one of them.
pub(crate) fn confine(spawn: &Spawn) -> Result<()> {
    if let Some(kept) = spawn.capabilities {
        for capability in (0..CAPABILITIES).filter(|capability| kept & (1 << capability) == 0) {
            // SAFETY: takes integers only.
            let dropped =
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
            if check(dropped).is_err() {
                break;
            }
        }
        set_capabilities(kept, spawn.ambient)?;
    }
    for capability in (0..CAPABILITIES).filter(|capability| spawn.ambient & (1 << capability) != 0) {
        let (raise, capability) =
            (libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, libc::c_ulong::from(capability));
        // SAFETY: takes integers only.
        let raised = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, 0, 0) };
        context(check(raised), "PR_CAP_AMBIENT")?;
    }
    if spawn.no_new_privs {
        context(nix::sys::prctl::set_no_new_privs(), "PR_SET_NO_NEW_PRIVS")?;
    }
    if spawn.seccomp { filter() } else { Ok(()) }
}

/// `capset(2)` with effective and permitted ones, and inheritable ones.
fn set_capabilities(kept: u64, inheritable: u64) -> Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`
    const VERSION: u32 = 0x2008_0522;
    let halves = |bits: u64| [bits & 0xffff_ffff, bits >> 32].map(|half| u32::try_from(half).unwrap_or(0));
    let header: [u32; 2] = [VERSION, 0];
    let ([low, high], [inherit_low, inherit_high]) = (halves(kept), halves(inheritable));
    let data: [u32; 6] = [low, low, inherit_low, high, high, inherit_high];
    // SAFETY: the header has a version and a pid, and the data the two records of three words that this version has.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    if result < 0 { Err(format!("capset: {}", std::io::Error::last_os_error())) } else { Ok(()) }
}

/// One instruction: everything is allowed.
fn filter() -> Result<()> {
    /// `BPF_RET | BPF_K`: return the constant.
    const RETURN: u16 = 6;
    let mut allow = libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let program = libc::sock_fprog { len: 1, filter: &raw mut allow };
    let mode = libc::SECCOMP_MODE_FILTER as libc::c_ulong;
    // SAFETY: the kernel copies the one instruction that the program points at, which lives through the call.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program, 0, 0) };
    context(check(set), "PR_SET_SECCOMP").map(drop)
}

/// Makes a terminal and has it control this session, whose leader this process is. Its other end stays open with the process.
pub(crate) fn take_terminal() -> Result<()> {
    let master = context(posix_openpt(OFlag::O_RDWR), "posix_openpt")?;
    context(grantpt(&master), "grantpt")?;
    context(unlockpt(&master), "unlockpt")?;
    let name = context(ptsname_r(&master), "ptsname")?;
    // The first terminal that a session leader opens becomes the session's.
    let terminal = context(open(name.as_str(), OFlag::O_RDWR, Mode::empty()), &name)?;
    for kept in [master.into_raw_fd(), terminal.into_raw_fd()] {
        // SAFETY: only numbers are passed; both descriptors are this process's, and stay open on purpose.
        let kept = unsafe { libc::fcntl(kept, libc::F_SETFD, 0) };
        context(check(kept), "fcntl")?;
    }
    Ok(())
}
