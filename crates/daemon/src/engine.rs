//! What the daemon needs of the world: which VMs there are, a look at one, and its network devices.
//!
//! A seam, so that schedule, tracking and quarantine can be tested without a guest. The real one is
//! [`crate::LiveEngine`].

use facts::{Nic, Snapshot, Vm};

/// Why a VM could not be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookError {
    /// The VM ended.
    #[error("{0}")]
    Gone(String),
    /// It is there, but it cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// There is no kernel in it to look at; it may not have come that far.
    #[error("{0}")]
    NotYet(String),
}

/// The VMs of this host.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// Those that were found.
    pub vms: Vec<Vm>,
    /// What kept others from being found, one sentence each.
    pub problems: Vec<String>,
}

/// Access to the VMs of this host.
pub trait Engine: Send + Sync + std::fmt::Debug {
    /// The VMs that run now.
    fn list(&self) -> Result<Listed, LookError>;

    /// Opens one; kept for as long as the VM lives.
    fn open(&self, vm: &Vm) -> Result<Box<dyn Guest>, LookError>;

    /// Its host-side network devices.
    fn nics(&self, vm: &Vm) -> Result<Vec<Nic>, LookError>;
}

/// One opened VM.
pub trait Guest: Send + std::fmt::Debug {
    /// All facts, now.
    fn look(&mut self) -> Result<Snapshot, LookError>;
}
