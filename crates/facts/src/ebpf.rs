//! One eBPF program of a guest, and what it is attached to.

use crate::{Address, Text};
use serde::{Deserialize, Serialize};

/// One loaded program, in the words of `bpftool prog`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EbpfProgram {
    /// The number that the kernel gave it. `None`: it has none (any more), and still is where programs run from.
    pub id: Option<u32>,
    /// What kind of program it is: `cgroup_skb`, `kprobe`, …; `type 99` for one that this version has no word for.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The name that its loader gave it, of 15 bytes at most. `None`: it has none, or it could not be read.
    pub name: Option<String>,
    /// What its instructions hash to, 8 bytes in lower-case hex.
    pub tag: Option<String>,
    /// When it was loaded, in nanoseconds since boot.
    pub loaded_at_ns: Option<u64>,
    /// The same by the guest's wall clock, RFC 3339.
    pub loaded_at: Option<String>,
    /// User who loaded it, in the initial user namespace.
    pub uid: Option<u32>,
    /// Instructions after the kernel's own rewriting.
    pub instructions: Option<u32>,
    /// Bytes of machine code. `None`: it is interpreted, or it could not be read.
    pub jited_bytes: Option<u32>,
    /// Ids of the maps that it uses, ascending. `None`: they could not be read.
    pub maps: Option<Vec<u32>>,
    /// What it is attached to. What a `tc` filter or a program array holds is not among it.
    pub attached_to: Vec<EbpfAttachment>,
    /// Pids of processes with a descriptor of it, or of a link to it, ascending.
    pub processes: Vec<u32>,
    /// Views in which it was seen: `program_table`, `symbol_list`, `symbol_tree`, `link`, `attachment` (the place itself), `pin` (a file
    /// of it or of a link to it), `descriptor`.
    pub views: Vec<Text>,
    /// Views that it should be in, for what it is and how it is attached, and is not, also after looking again. `link`: a link to
    /// it is not in the kernel's table of links.
    #[serde(default)]
    pub views_missing: Vec<Text>,
    /// Address of its ``struct bpf_prog``.
    pub program: Address,
}

/// One place that a program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EbpfAttachment {
    /// The kind of place, by bpftool's word for links to such: `cgroup`, `xdp`, `tcx`, `perf_event`, …; `socket` for a
    /// socket's filter.
    pub kind: String,
    /// Which one: the path of a control group, the name of an interface, `system:event` of an event, a tracepoint, the name of a
    /// function, `net:[inode]` of a namespace, `map:id` of a map of sockets, family and hook of netfilter as nft names them (`ip output`),
    /// the path of the file that is probed, the kernel's struct and the map that is put in its place (`tcp_congestion_ops:name`).
    /// `None`: it is gone (the link remains), it is several (see `sites`), or it is not told.
    pub target: Option<String>,
    /// How: `cgroup_inet_egress`, `tcx_ingress`, `trace_fentry`, … `None`: there is only one way, or it is not told.
    pub attach_type: Option<String>,
    /// Id of the link that keeps it there. `None`: it was attached without one, or the link could not be found.
    pub link: Option<u32>,
    /// Where a link has several places at once (`kprobe_multi`, `uprobe_multi`): which. `None`: it has one, or it is not told.
    #[serde(default)]
    pub sites: Option<EbpfSites>,
    /// In which order it runs among others of its hook (`netfilter`), the lowest first. `None`: there is no such order, or it is not told.
    #[serde(default)]
    pub priority: Option<i32>,
}

/// The places of a link that has several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EbpfSites {
    /// How many there are.
    pub count: u32,
    /// The first of them, eight at most, in the link's order: names of the kernel's functions (the address, where it is a module's
    /// or has no name), or offsets in the file (`0x…`).
    pub first: Vec<String>,
}
