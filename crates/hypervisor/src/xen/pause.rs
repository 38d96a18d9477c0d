//! Stops and resumes a domain, for `crate::pause`: the two commands of the hypervisor that change a domain, and the only ones here.
//!
//! The hypervisor counts pauses of the control domain (`controller_pause_count`, xen/common/domain.c) and a domain runs when there
//! are as many ends. So ours nests with `xl pause`: ended, it leaves a domain standing that an operator paused meanwhile. One end too
//! many would take the operator's away, so it is made only for a pause that was, and only of a domain that still stands.

use super::control::{Control, Info, Interface};
use super::discover::Domain;
use super::privcmd::Privcmd;
use crate::Error;
use crate::pause::Stops;
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// A domain.
#[derive(Debug)]
pub(crate) struct DomainOf {
    domid: u16,
    handle: [u8; 16],
    interface: Interface,
}

impl DomainOf {
    pub(crate) fn new(domain: &Domain) -> Self {
        Self { domid: domain.info.domid, handle: domain.info.handle, interface: domain.interface }
    }

    pub(crate) fn domid(&self) -> u16 {
        self.domid
    }

    pub(crate) fn interface(&self) -> Interface {
        self.interface
    }

    /// The way to the hypervisor.
    pub(crate) fn connect(&self) -> Result<OwnedFd, Error> {
        let privcmd = Privcmd::open().map_err(|source| self.refused(source))?;
        Ok(privcmd.into_descriptor())
    }

    /// Ends the pause of a guard that was killed, which said that it was about to stop a domain that ran.
    pub(crate) fn resume(&self) -> Result<(), Error> {
        let control = Control::open(self.interface)?;
        let mut held = Held { control, domid: self.domid, handle: self.handle, stops: true };
        held.resume().map(drop).map_err(|source| self.refused(source))
    }

    fn refused(&self, source: io::Error) -> Error {
        Error::XenRefused { domid: self.domid, source }
    }
}

/// A domain in the hands of the guard.
#[derive(Debug)]
pub(crate) struct Held {
    control: Control,
    domid: u16,
    /// UUID of the domain: its number may be another's by the time that it is resumed.
    handle: [u8; 16],
    /// Whether our pause is among those that the hypervisor has counted.
    stops: bool,
}

impl Held {
    /// `privcmd` is an open `/dev/xen/privcmd`.
    pub(crate) fn of(privcmd: OwnedFd, domid: u16, interface: Interface) -> io::Result<Self> {
        let control = Control::of(Privcmd::of(File::from(privcmd)), interface).map_err(io::Error::other)?;
        let info = control.domain(domid)?.ok_or_else(|| io::Error::from(Errno::ESRCH))?;
        Ok(Self { control, domid, handle: info.handle, stops: false })
    }

    /// What the hypervisor says of the domain. `None`: it has ended.
    fn info(&self) -> io::Result<Option<Info>> {
        Ok(self.control.domain(self.domid)?.filter(|info| info.handle == self.handle && !info.is_dying))
    }
}

impl Stops for Held {
    fn runs(&mut self) -> io::Result<bool> {
        Ok(self.info()?.is_some_and(|info| !info.is_paused))
    }

    fn stop(&mut self) -> io::Result<()> {
        self.control.pause(self.domid)?;
        self.stops = true;
        Ok(())
    }

    fn resume(&mut self) -> io::Result<bool> {
        let stood = self.stops && self.info()?.is_some_and(|info| info.is_paused);
        if stood {
            self.control.unpause(self.domid)?;
            self.stops = false;
        }
        Ok(stood)
    }
}
