//! The host's own libxenctrl, loaded when the hypervisor refuses every version of domain commands that `domctl.rs` knows.
//!
//! It comes with the hypervisor, so it has the version that is right there. Nothing of it is linked: it is loaded by the name that
//! goes with the running hypervisor (`libxenctrl.so.4.17`), and only by who asks about domains or pauses one, never by what parses guest
//! bytes. Its functions that are used have kept their signatures from Xen 4.13 to 4.20 (tools/include/xenctrl.h). What they write are
//! structures of the hypervisor's interface, of which `control.rs` reads the same few members as of its own commands' answers.

use super::abi::{hvm_context, vcpu_context};
use super::control::Commands;
use crate::Error;
use libloading::os::unix::{Library, Symbol};
use nix::errno::Errno;
use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::fs;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the kernel tells the hypervisor's version.
const VERSION: &str = "/sys/hypervisor/version";
/// Room for what a function writes whose length is that of a structure of its release; those of today have no more than 5168 bytes.
const ROOM: usize = 16 << 10;

type Handle = *mut c_void;
type Open = unsafe extern "C" fn(*const c_void, *const c_void, c_uint) -> Handle;
type Close = unsafe extern "C" fn(Handle) -> c_int;
/// `xc_domain_pause`, `xc_domain_unpause`
type OfDomain = unsafe extern "C" fn(Handle, u32) -> c_int;
/// `xc_domain_getinfolist`
type InfoList = unsafe extern "C" fn(Handle, u32, c_uint, *mut c_void) -> c_int;
/// `xc_vcpu_getcontext`
type VcpuContext = unsafe extern "C" fn(Handle, u32, u32, *mut c_void) -> c_int;
/// `xc_domain_hvm_getcontext_partial`
type HvmContext = unsafe extern "C" fn(Handle, u32, u16, u16, *mut c_void, u32) -> c_int;
/// `xc_get_pfn_type_batch`
type FrameTypes = unsafe extern "C" fn(Handle, u32, c_uint, *mut c_ulong) -> c_int;

/// libxenctrl with its way to the hypervisor open.
#[derive(Debug)]
pub(super) struct Libxenctrl {
    /// What `xc_interface_open` gave; it serves one thread at a time.
    handle: Mutex<Interface>,
    close: Symbol<Close>,
    pause: Symbol<OfDomain>,
    unpause: Symbol<OfDomain>,
    info: Symbol<InfoList>,
    vcpu: Symbol<VcpuContext>,
    hvm: Symbol<HvmContext>,
    types: Symbol<FrameTypes>,
    /// Unloaded last.
    _library: Library,
}

#[derive(Debug)]
struct Interface(NonNull<c_void>);

// SAFETY: libxenctrl keeps nothing of the thread that opened it in its handle; only that two threads must not use it at once, which the
// lock around it sees to.
unsafe impl Send for Interface {}

impl Libxenctrl {
    /// Loads the one of the hypervisor that runs, and has it open its way there.
    pub(super) fn load() -> Result<Self, Error> {
        let part =
            |name: &str| fs::read_to_string(format!("{VERSION}/{name}")).map(|text| text.trim().to_owned());
        let version = part("major").and_then(|major| Ok(format!("{major}.{}", part("minor")?)));
        let version = version.map_err(|source| Error::XenVersion { source })?;
        Self::load_of(&version)
    }

    /// The same of a version that is known.
    pub(super) fn load_of(version: &str) -> Result<Self, Error> {
        let name = format!("libxenctrl.so.{version}");
        let missing = |source| Error::XenLibrary { name: name.clone(), version: version.to_owned(), source };
        // SAFETY: its constructors and destructors are those of Xen's own library, which the host's administrator installed: it sets up
        // nothing but itself.
        let library = unsafe { Library::new(&name) }.map_err(missing)?;
        /// A function by name, as the type that its place wants.
        fn function<T>(library: &Library, name: &str) -> Result<Symbol<T>, libloading::Error> {
            // SAFETY: each caller names a function of xenctrl.h and takes it for what that header says it is (see the types above).
            unsafe { library.get(name) }
        }
        let open: Symbol<Open> = function(&library, "xc_interface_open").map_err(missing)?;
        let close: Symbol<Close> = function(&library, "xc_interface_close").map_err(missing)?;
        let pause = function(&library, "xc_domain_pause").map_err(missing)?;
        let unpause = function(&library, "xc_domain_unpause").map_err(missing)?;
        let info = function(&library, "xc_domain_getinfolist").map_err(missing)?;
        let vcpu = function(&library, "xc_vcpu_getcontext").map_err(missing)?;
        let hvm = function(&library, "xc_domain_hvm_getcontext_partial").map_err(missing)?;
        let types = function(&library, "xc_get_pfn_type_batch").map_err(missing)?;
        // SAFETY: no loggers (it then prints errors on standard error, and `flags` 0 asks for nothing else).
        let handle = unsafe { open(ptr::null(), ptr::null(), 0) };
        let handle = NonNull::new(handle).map(Interface).ok_or_else(|| Error::Permission {
            path: "/dev/xen/privcmd".into(),
            source: io::Error::last_os_error(),
        })?;
        Ok(Self {
            handle: Mutex::new(handle),
            close,
            pause,
            unpause,
            info,
            vcpu,
            hvm,
            types,
            _library: library,
        })
    }

    fn handle(&self) -> MutexGuard<'_, Interface> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a function that answers -1 for an error has said.
fn answer(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Commands for Libxenctrl {
    fn domain_from(&self, from: u16) -> io::Result<Option<Vec<u8>>> {
        let mut info = vec![0; ROOM];
        let interface = self.handle();
        // SAFETY: the handle is open; it writes one xc_domaininfo_t (some 130 bytes), for which there is room.
        let count = unsafe { (self.info)(interface.0.as_ptr(), from.into(), 1, info.as_mut_ptr().cast()) };
        Ok((answer(count)? > 0).then_some(info))
    }

    fn pause(&self, domid: u16) -> io::Result<()> {
        let interface = self.handle();
        // SAFETY: the handle is open.
        answer(unsafe { (self.pause)(interface.0.as_ptr(), domid.into()) }).map(drop)
    }

    fn unpause(&self, domid: u16) -> io::Result<()> {
        let interface = self.handle();
        // SAFETY: the handle is open.
        answer(unsafe { (self.unpause)(interface.0.as_ptr(), domid.into()) }).map(drop)
    }

    fn vcpu_context(&self, domid: u16, vcpu: u32) -> io::Result<Vec<u8>> {
        const { assert!(vcpu_context::SIZE < ROOM) };
        let mut context = vec![0; ROOM];
        let interface = self.handle();
        // SAFETY: the handle is open; it writes one vcpu_guest_context_any_t (5168 bytes), for which there is room.
        let result =
            unsafe { (self.vcpu)(interface.0.as_ptr(), domid.into(), vcpu, context.as_mut_ptr().cast()) };
        answer(result).map(|_| context)
    }

    fn hvm_cpu(&self, domid: u16, vcpu: u32) -> io::Result<Vec<u8>> {
        let instance = u16::try_from(vcpu).map_err(|_| Errno::EINVAL)?;
        let length = u32::try_from(hvm_context::SIZE).map_err(|_| Errno::EINVAL)?;
        let mut record = vec![0; hvm_context::SIZE];
        let interface = self.handle();
        // SAFETY: the handle is open; it writes no more than the length that it is told, which is the buffer's.
        let result = unsafe {
            (self.hvm)(
                interface.0.as_ptr(),
                domid.into(),
                hvm_context::TYPE_CPU,
                instance,
                record.as_mut_ptr().cast(),
                length,
            )
        };
        answer(result).map(|_| record)
    }

    fn frame_types(&self, domid: u16, frames: &mut [u64]) -> io::Result<()> {
        let number = c_uint::try_from(frames.len()).map_err(|_| Errno::E2BIG)?;
        let interface = self.handle();
        // SAFETY: the handle is open; it reads and writes `number` xen_pfn_t, which are 64-bit numbers here.
        let result =
            unsafe { (self.types)(interface.0.as_ptr(), domid.into(), number, frames.as_mut_ptr().cast()) };
        answer(result).map(drop)
    }
}

impl Drop for Libxenctrl {
    fn drop(&mut self) {
        let interface = self.handle();
        // SAFETY: the handle is open and is not used again.
        let _ = unsafe { (self.close)(interface.0.as_ptr()) };
    }
}
