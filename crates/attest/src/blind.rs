//! Which tables of a snapshot are not fully known.
//!
//! A walker that lost its way leaves a table that is shorter than the truth, and a shorter table looks cleaner. So each
//! problem of a snapshot is assigned to the tables whose *completeness* it puts in doubt, by the C object in its
//! `where`. Problems with a single fact of an object (its credentials, its executable) are not counted here: the fact is
//! `None` in the object, and comparison treats `None` as unknown. A problem in a place that nobody here knows puts every
//! table in doubt: what cannot be read is unknown, never clean. Must never be made lenient to silence an alarm.

use facts::{Problem, ProblemKind, Snapshot};
use std::fmt;

/// A table of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `processes`
    Processes,
    /// `sockets`
    Sockets,
    /// `modules`
    Modules,
    /// `ebpf_programs`
    Ebpf,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Processes => "processes",
            Self::Sockets => "sockets",
            Self::Modules => "modules",
            Self::Ebpf => "eBPF programs",
        })
    }
}

/// A table whose absences prove nothing, and the problems that make it so (none when it is empty without a reason).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blind<'s> {
    /// The table.
    pub table: Table,
    /// Why. Empty only for a process table that is empty without any problem.
    pub problems: Vec<&'s Problem>,
}

/// The tables of the snapshot that are not fully known, in the order of [`Table`].
#[must_use]
pub fn blind_tables(snapshot: &Snapshot) -> Vec<Blind<'_>> {
    ALL.into_iter()
        .filter_map(|table| {
            let problems: Vec<_> =
                snapshot.problems.iter().filter(|problem| hides(problem).contains(&table)).collect();
            let impossible = table == Table::Processes && snapshot.processes.is_empty();
            (impossible || !problems.is_empty()).then_some(Blind { table, problems })
        })
        .collect()
}

/// The tables whose completeness a problem puts in doubt.
fn hides(problem: &Problem) -> &'static [Table] {
    // A string or vector of which a page is not resident: the object itself is there.
    if problem.kind == ProblemKind::Partial {
        return &[];
    }
    let object = object(&problem.location);
    PLACES
        .iter()
        .find(|(_, objects)| objects.contains(&object))
        .map_or(&[Table::Processes, Table::Sockets, Table::Modules, Table::Ebpf], |(tables, _)| tables)
}

/// The C object that a problem's `where` names, without its address.
pub(crate) fn object(location: &str) -> &str {
    location.split(" 0x").next().unwrap_or_default().trim()
}

/// The object of a problem which says of an eBPF program that it is on its way out, or that its link is hidden. That is a finding of
/// its own.
pub(crate) const LINK_ON_ITS_WAY: &str = "bpf_prog (link)";

const ALL: [Table; 4] = [Table::Processes, Table::Sockets, Table::Modules, Table::Ebpf];

/// What a problem's `where` says in front of the address, as the walkers of `introspect` write it, and the tables that
/// lose rows when that object cannot be read. Whatever is not here puts all of them in doubt.
const PLACES: &[(&[Table], &[&str])] = &[
    // One fact of a process or socket: it is `None` there.
    (
        &[],
        &[
            "bpf link table",
            "bpf_link",
            LINK_ON_ITS_WAY,
            "bpf_prog (places)",
            "bpf_prog_aux",
            "bpf_prog_list",
            "cgroup",
            "cgroup children",
            "counter of tasks",
            "cred",
            "css_set",
            "css_set links",
            "dentry",
            "group_info",
            "mm_struct",
            "mutex",
            "namespace",
            "net (programs)",
            "net_device",
            "netlink_sock",
            "network interface list",
            "nsproxy",
            "path of file",
            "perf_event",
            "pid",
            "process_counts",
            "signal_struct",
            "sk_filter",
            "task_struct (parent)",
            "task_struct (thread)",
            "thread list",
            "timekeeper",
            "tty_struct",
        ],
    ),
    (
        &[Table::Processes],
        &[
            "css_set table",
            "css_set task list",
            "init_task",
            "kmem_cache",
            "pid table",
            "processes",
            "run queue",
            "task list",
            "task_struct",
            "task_struct_cachep",
        ],
    ),
    (&[Table::Ebpf], &["bpf program table", "bpf_prog", "ebpf_programs"]),
    (&[Table::Modules], &["module", "module list", "module range", "module set", "module tree", "modules"]),
    // The last seven lead from a process to its sockets: without them an owner is missing. (`file` is also on the way to
    // the executable, which is `None` then.)
    (
        &[Table::Sockets],
        &[
            "TCP hash table",
            "UDP hash table",
            "bucket_table",
            "inet_hashinfo",
            "net",
            "net_namespace_list",
            "netlink_table",
            "network namespace list",
            "nl_table",
            "XDP socket list",
            "packet socket list",
            "ping hash table",
            "raw hash table",
            "sock",
            "sockets",
            "udp_table",
            "unix hash table",
            "fdtable",
            "file",
            "files_struct",
            "io_ring_ctx",
            "scm_fp_list",
            "thread list",
            "unix receive queue",
        ],
    ),
];
