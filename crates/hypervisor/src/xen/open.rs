//! From a domain to its memory.

use super::control::Control;
use super::discover::Domain;
use super::memory::XenMemory;
use super::privcmd::Privcmd;
use super::{layout, pv};
use crate::Error;
use nix::errno::Errno;
use std::io;
use vmi_core::Registers;

/// Opens a domain's memory. The descriptor that the memory keeps can do nothing but map this domain's frames.
pub(crate) fn open(domain: &Domain) -> Result<XenMemory, Error> {
    let info = &domain.info;
    let domid = info.domid;
    let refused = |source| Error::XenRefused { domid, source };
    let privcmd = Privcmd::open().map_err(refused)?;
    match privcmd.restrict(domid) {
        // A kernel before 4.13 has no such ioctl.
        Err(error) if error.raw_os_error() != Some(Errno::ENOTTY as i32) => return Err(refused(error)),
        _ => {}
    }
    if !info.is_hvm {
        let p2m = pv::read(&privcmd, info)?;
        return Ok(XenMemory::paravirtual(privcmd, info.clone(), p2m));
    }
    let control = Control::open(domain.interface)?;
    let frames = control.frames_on_demand(domid).map_err(refused)?;
    if frames > 0 {
        return Err(Error::XenOnDemand { domid, frames });
    }
    let highest = control.highest_frame(domid).map_err(refused)?;
    let static_max = domain.static_max_kib.and_then(|kib| kib.checked_mul(1024));
    let layout = layout::find(&control, info, highest, static_max).map_err(refused)?;
    if layout.present.is_empty() {
        return Err(Error::XenRefused { domid, source: io::Error::from(Errno::ENOMEM) });
    }
    Ok(XenMemory::translated(privcmd, domid, layout))
}

/// Registers of a domain's vCPUs.
pub(crate) fn registers(domain: &Domain) -> Result<Vec<Registers>, Error> {
    let refused = |source| Error::XenRefused { domid: domain.info.domid, source };
    Control::open(domain.interface)?.registers(&domain.info).map_err(refused)
}
