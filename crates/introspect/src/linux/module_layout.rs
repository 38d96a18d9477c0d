//! Layouts and tables of what a module defines, for walkers of what the module made.
//!
//! A kernel's profile has what is in the kernel itself. A family of sockets that is a module has its types in the module's split
//! BTF and its tables among the module's symbols, which are there once it is loaded: they are read the first time they are asked for,
//! and kept until the module is loaded anew, which moves its tables. Nobody vouches for a module's types but the guest. Whoever can
//! change them can as well change the objects that they describe.

use super::{sctp, vsock};
use crate::session::Session;
use facts::ProblemKind;
use guest_profiles::{Profile, Wanted, WantedType};
use std::sync::{Arc, Mutex, PoisonError};
use vmi_core::{Budget, Gva};

const fn some(name: &'static str, members: &'static [&'static str]) -> WantedType {
    WantedType { name, members }
}

const VSOCK: Wanted = Wanted {
    types: &[
        some(
            "vsock_sock",
            &["local_addr", "remote_addr", "bound_table", "connected_table", "transport", "peer_shutdown"],
        ),
        some("sockaddr_vm", &["svm_cid", "svm_port"]),
    ],
    symbols: &["vsock_bind_table", "vsock_connected_table"],
    enums: &[],
};

const SCTP: Wanted = Wanted {
    types: &[
        some(
            "sctp_globals",
            &["ep_hashtable", "ep_hashsize", "port_hashtable", "port_hashsize", "transport_hashtable"],
        ),
        some("sctp_hashbucket", &["chain"]),
        some("sctp_bind_hashbucket", &["chain"]),
        some("sctp_bind_bucket", &["node", "owner"]),
        some("sctp_endpoint", &["base", "node"]),
        some("sctp_ep_common", &["node", "sk"]),
        some("sctp_transport", &["node", "asoc"]),
        some("sctp_association", &["base"]),
        some("rhlist_head", &["rhead", "next"]),
    ],
    symbols: &["sctp_globals"],
    enums: &[],
};

/// What one module told (`None`: nothing), and what it had registered with the kernel by then, which tells one load of it from the next.
type Learned<T> = Arc<Mutex<Option<(Gva, Option<T>)>>>;

/// What was learned of the modules of one boot.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModuleLayouts {
    vsock: Learned<vsock::Layout>,
    sctp: Learned<sctp::Layout>,
}

impl ModuleLayouts {
    /// `registered` is the module's ``struct net_proto_family *``. `None`: the module does not tell.
    pub(super) fn vsock(&self, session: &Session<'_>, registered: Gva) -> Option<vsock::Layout> {
        learn(&self.vsock, session, registered, "vsock", &VSOCK, vsock::Layout::of)
    }

    /// `registered` is the module's ``struct net_protocol *``. `None`: the module does not tell.
    pub(super) fn sctp(&self, session: &Session<'_>, registered: Gva) -> Option<sctp::Layout> {
        learn(&self.sctp, session, registered, "sctp", &SCTP, sctp::Layout::of)
    }
}

fn learn<T: Copy>(
    learned: &Learned<T>,
    session: &Session<'_>,
    registered: Gva,
    module: &str,
    wanted: &Wanted,
    layout_of: impl FnOnce(&Profile) -> Option<T>,
) -> Option<T> {
    let mut learned = learned.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, layout)) = learned.filter(|(known, _)| *known == registered) {
        return layout;
    }
    let memory = session.space.look().memory();
    let layout = match session.kernel.module_profile(memory, module, wanted, Budget::default()) {
        Ok(profile) => profile.as_ref().and_then(layout_of),
        // A profile that was made of something else than BTF is of a kernel that may have none.
        Err(crate::Error::Unsupported { .. }) => None,
        Err(error) => {
            session.problem(ProblemKind::Implausible, format_args!("types of the module {module}"), error);
            return None;
        }
    };
    *learned = Some((registered, layout));
    layout
}
