//! Layouts of types that a module defines, for walkers of what the module made.
//!
//! A kernel's profile has what is in the kernel itself. A family of sockets that is a module has its types in the module's split
//! BTF, which is there once it is loaded: it is read the first time one of its objects is met, and kept for the boot. Nobody
//! vouches for a module's types but the guest. Whoever can change them can as well change the objects that they describe.

use super::vsock;
use crate::session::Session;
use facts::ProblemKind;
use guest_profiles::{Wanted, WantedType};
use std::sync::{Arc, OnceLock};
use vmi_core::Budget;

const VSOCK: Wanted = Wanted {
    types: &[
        WantedType { name: "vsock_sock", members: &["local_addr", "remote_addr"] },
        WantedType { name: "sockaddr_vm", members: &["svm_cid", "svm_port"] },
    ],
    symbols: &[],
    enums: &[],
};

/// What was learned of the modules of one boot.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModuleLayouts {
    vsock: Arc<OnceLock<Option<vsock::Layout>>>,
}

impl ModuleLayouts {
    /// `None`: the module does not tell.
    pub(super) fn vsock(&self, session: &Session<'_>) -> Option<vsock::Layout> {
        if let Some(known) = self.vsock.get() {
            return *known;
        }
        let memory = session.space.look().memory();
        match session.kernel.module_profile(memory, "vsock", &VSOCK, Budget::default()) {
            Ok(profile) => {
                let layout = profile.as_ref().and_then(vsock::Layout::of);
                *self.vsock.get_or_init(|| layout)
            }
            // A profile that was made of something else than BTF is of a kernel that may have none.
            Err(crate::Error::Unsupported { .. }) => None,
            Err(error) => {
                session.problem(ProblemKind::Implausible, "types of the module vsock", error);
                None
            }
        }
    }
}
