//! One entry of a certificate in a few words, as findings, reviews and differences name it. Nothing of it is left out: it is
//! what a person agrees to.

use crate::certificate::{
    EbpfEntry, FileEntry, Identity, KernelIdentity, ListenerEntry, ProcessEntry, RawSocketEntry,
};
use crate::flow::FlowEntry;
use crate::pattern::Pattern;
use crate::text::{all, shown};
use facts::ExeState;

/// `/usr/bin/nc`, with its state when that is not the usual one.
pub(crate) fn file(path: Option<&str>, state: ExeState) -> String {
    let state = match state {
        ExeState::Present => "",
        ExeState::Deleted => "(deleted)",
        ExeState::Memfd => "(memfd)",
        ExeState::None => "(no executable)",
    };
    match path {
        Some(path) if state.is_empty() => path.to_owned(),
        Some(path) => format!("{path} {state}"),
        None => state.to_owned(),
    }
}

pub(crate) fn process(entry: &ProcessEntry) -> String {
    if entry.kernel_thread {
        return format!("kernel threads {}", all(&entry.names));
    }
    let file = file(entry.executable.as_ref().map(Pattern::as_str), entry.exe_state);
    if entry.names.is_empty() { file } else { format!("{file} as {}", all(&entry.names)) }
}

pub(crate) fn identity(identity: &Identity) -> String {
    let Identity { uid, euid, gid, egid, capabilities } = identity;
    format!("uid {uid}, euid {euid}, gid {gid}, egid {egid}, capabilities {capabilities}")
}

pub(crate) fn listener(entry: &ListenerEntry) -> String {
    let place = match (&entry.path, entry.address, entry.port) {
        (Some(path), ..) => path.as_str().to_owned(),
        (None, Some(address), Some(port)) => format!("{address} port {port}"),
        (None, _, Some(port)) => format!("port {port}"),
        (None, ..) => "an unnamed place".to_owned(),
    };
    format!("{} {place} held by {}", shown(&entry.protocol), holders(&entry.processes))
}

pub(crate) fn flow(entry: &FlowEntry) -> String {
    let FlowEntry { protocol, cidr, port, processes } = entry;
    format!("{} {cidr} port {port} held by {}", shown(protocol), holders(processes))
}

pub(crate) fn raw_socket(entry: &RawSocketEntry) -> String {
    let protocol = entry.protocol.as_deref().unwrap_or("any");
    format!("{:?} {} held by {}", entry.family, shown(protocol), holders(&entry.processes)).to_lowercase()
}

pub(crate) fn file_entry(entry: &FileEntry) -> String {
    let package = entry.package.as_ref().map(|package| format!(" of {}", shown(package))).unwrap_or_default();
    format!("{}{package}", shown(&entry.path))
}

pub(crate) fn ebpf(entry: &EbpfEntry) -> String {
    let name = entry.name.as_ref().map_or("without a name", |name| name.as_str());
    format!("{} {} tag {}", shown(&entry.kind), shown(name), shown(entry.tag.as_deref().unwrap_or("any")))
}

pub(crate) fn kernel(kernel: &KernelIdentity) -> String {
    let build = kernel.build_id.as_deref().unwrap_or("none");
    format!("{} build id {}", shown(&kernel.release), shown(build))
}

fn holders(processes: &[Pattern]) -> String {
    if processes.is_empty() { "the kernel".to_owned() } else { all(processes) }
}
