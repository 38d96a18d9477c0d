//! Cuts a VM off the network at its host-side devices, and restores it. Never knows why.
//!
//! [`Quarantine`] is the entry point: [`Quarantine::cut_off`], [`Quarantine::release`], and [`Quarantine::reconcile`]
//! for after a crash. It puts two parts together:
//!
//! - a [`Journal`]: what is wanted, on disk *before* anything is done, so that a crash at any point neither loses nor
//!   lifts a quarantine;
//! - an [`Enforce`]: what does it. [`Nftables`] puts stateless drop rules on the VM's tap device in both directions, in
//!   the network namespace that the VMM lives in, so that connections that already stand die too.
//!
//! What it must never do: decide. It has no notion of findings, certificates or verdicts; it is told which VM, which
//! devices and which addresses stay open. And it never reports a rule as in place that it has not read back.

mod enforce;
mod error;
mod interface;
mod journal;
mod namespace;
mod nft;
mod policy;
mod quarantine;
mod rules;

pub use enforce::{Cut, Dropped, Enforce, Status};
pub use error::Error;
pub use interface::InterfaceName;
pub use journal::{Entry, Journal, State, file_stem};
pub use namespace::Place;
pub use nft::Nftables;
pub use policy::{Policy, Prefix};
pub use quarantine::{CutOff, Outcome, Quarantine, Reconciled};
