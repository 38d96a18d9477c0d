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
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Processes => "processes",
            Self::Sockets => "sockets",
            Self::Modules => "modules",
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
    [Table::Processes, Table::Sockets, Table::Modules]
        .into_iter()
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
    const ALL: &[Table] = &[Table::Processes, Table::Sockets, Table::Modules];
    // A string or vector of which a page is not resident: the object itself is there.
    if problem.kind == ProblemKind::Partial {
        return &[];
    }
    let object = problem.location.trim_start();
    let object = object.strip_prefix("struct ").unwrap_or(object);
    let object = object.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default();
    let one_of = |names: &[&str]| names.contains(&object);
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| object.starts_with(prefix));
    if one_of(FACTS) {
        &[]
    } else if one_of(PROCESS_LISTS) {
        &[Table::Processes]
    } else if one_of(MODULE_LISTS) {
        &[Table::Modules]
    } else if one_of(SOCKET_LISTS) || starts(SOCKET_PREFIXES) {
        &[Table::Sockets]
    } else {
        ALL
    }
}

/// Objects that hold one fact of a process; the fact is `None` in the process.
const FACTS: &[&str] = &[
    "args",
    "arg_start",
    "cgroup",
    "cred",
    "css_set",
    "dentry",
    "file",
    "inode",
    "kernfs_node",
    "maple_node",
    "maple_tree",
    "mm_struct",
    "mount",
    "nsproxy",
    "path",
    "user_namespace",
    "uts_namespace",
    "ipc_namespace",
    "mnt_namespace",
    "cgroup_namespace",
    "vfsmount",
    "vm_area_struct",
];
/// Objects that link the process table.
const PROCESS_LISTS: &[&str] = &[
    "idr",
    "init_task",
    "pid",
    "pid_namespace",
    "processes",
    "radix_tree_node",
    "rq",
    "signal_struct",
    "task_struct",
    "tasks",
    "upid",
    "xa_node",
    "xarray",
];
/// Objects that link the module list.
const MODULE_LISTS: &[&str] = &["mod_tree", "module", "modules"];
/// Objects that link sockets, or lead from a process to its sockets.
const SOCKET_LISTS: &[&str] =
    &["fdtable", "files_struct", "hlist_nulls_head", "net", "net_namespace_list", "request_sock"];
/// The same by the start of their names: `sock_common`, `tcp_hashinfo`, `udp_table`, `unix_socket_table`, …
const SOCKET_PREFIXES: &[&str] =
    &["inet", "netlink", "packet", "ping", "raw", "sctp", "sock", "tcp", "udp", "unix", "vsock", "xdp"];
