//! `birthmarkd`: finds VMs, looks at each every interval, holds it against its certificate, tells what it finds, and cuts
//! off what drifts.
//!
//! The parts, along the way of the data:
//!
//! - [`Engine`]: the VMs of this host (`live`: the real one). `discovery` lists them, `schedule` says who is due, and a
//!   few worker threads (`look`) take facts;
//! - [`Trust`]: which certificate is for which VM; [`Watch`]: findings that open, are confirmed, close; [`Boots`]: whether a look may
//!   be believed at once, since a VM that is reset keeps its memory;
//! - `memory`: those findings on disk, so that they outlive the daemon and the VM;
//! - `learning`: what a service does that has no certificate yet, as a draft for a person;
//! - `keeper`: everything that cuts off or restores, behind one lock, over the `quarantine` crate's journal;
//! - [`Event`]: what is told, as JSON lines; `control`: what is asked and ordered, over a Unix socket.
//!
//! Threads, not async: looking is memory copies. Only the control socket runs on tokio, in one thread, and no worker
//! ever sees it.
//!
//! What it must never do: lift a quarantine because it ends, crashes, or cannot read something; and stop looking at other
//! VMs because one of them, or a file, is bad.

mod boot;
mod config;
mod control;
mod discovery;
mod engine;
mod events;
mod keeper;
mod learning;

mod live;
mod look;
mod memory;
mod registry;
mod run;
mod schedule;
mod store;
mod trust;
mod watch;

pub use boot::{Belief, Boots};
pub use config::{Config, ConfigError, Learn, Mode, Names, QuarantineConfig};
pub use control::{Control, VmStatus};
pub use engine::{Engine, Guest, Listed, LookError};
pub use events::{Cause, Event, LookRef, Sink, VmRef};
pub use learning::LearningStatus;
pub use live::LiveEngine;
pub use registry::CertificateRef;
pub use run::Daemon;
pub use trust::{Match, Trust};
pub use watch::{Outcome, Watch};
