//! Linux, one file per kernel subsystem.
//!
//! Version differences are handled in the walker they concern, by asking the profile which members there are.

pub(crate) mod anchor;
pub(crate) mod cgroup;
pub(crate) mod cred;
pub(crate) mod description;
pub(crate) mod file;
pub(crate) mod hint;
pub(crate) mod image;
pub(crate) mod iomem;
pub(crate) mod kernel;
pub(crate) mod layout;
pub(crate) mod list;
pub(crate) mod locate;
pub(crate) mod mm;
pub(crate) mod module;
pub(crate) mod module_info;
pub(crate) mod namespace;
pub(crate) mod net;
pub(crate) mod netlink;
pub(crate) mod path;
pub(crate) mod pid;
pub(crate) mod processes;
pub(crate) mod raw;
pub(crate) mod roots;
pub(crate) mod sched;
pub(crate) mod slab;
pub(crate) mod sock;
pub(crate) mod stored;
pub(crate) mod symbols;
pub(crate) mod task;
pub(crate) mod tcp;
pub(crate) mod udp;
pub(crate) mod unix;
pub(crate) mod vmcoreinfo;
