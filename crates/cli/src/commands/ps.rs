//! `ps`: the processes of a guest, as a list or a tree, with the columns, the order and the selection that were asked for.
//!
//! `--json` prints the selected processes whole, in the order asked for; columns and the tree are for people.

use super::{tables, words};
use crate::Outcome;
use crate::args::{Column, PsArgs, SortArg};
use crate::guest::Guest;
use crate::output::{Cell, Output, Paint, Table};
use facts::{Namespaces, Process, TaskKind, Thread};
use introspect::{Environment, Options};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// What is shown when no columns were asked for.
const USUAL: [Column; 8] = [
    Column::Pid,
    Column::Ppid,
    Column::Uid,
    Column::Threads,
    Column::State,
    Column::Name,
    Column::Exe,
    Column::Args,
];

/// What of it a narrow terminal can do without.
const DISPENSABLE: [&str; 3] = ["THREADS", "PPID", "UID"];
/// A name of the kernel's, 15 bytes at most, with brackets.
const NAME_WIDTH: usize = 17;
/// What tells most executables apart, when it is the end of their paths.
const EXE_WIDTH: usize = 12;

pub(crate) fn ps(args: &PsArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let environment = match (args.env, args.show_values) {
        (false, _) => Environment::No,
        (true, false) => Environment::Names,
        (true, true) => Environment::Values,
    };
    let tables = tables::PROCESSES;
    let wanted = Options { tables, threads: args.threads, environment, ..Options::default() };
    let snapshot = Guest::of(&args.target)?.ask(wanted)?;
    let mut processes: Vec<&Process> =
        snapshot.processes.iter().filter(|process| is_selected(args, process)).collect();
    if let Some(SortArg { column, descending }) = args.sort {
        // Stable: what is equal stays in the order of pids.
        if descending {
            processes.sort_by_cached_key(|process| Reverse(value(column, Row::of(process))));
        } else {
            processes.sort_by_cached_key(|process| value(column, Row::of(process)));
        }
    }
    if out.json {
        out.json(&processes)?;
    } else {
        out.table(&table(&processes, args))?;
    }
    tables::tell(&args.target.target, &snapshot, attest::Table::Processes, snapshot.processes.len())
}

/// The usual columns of all processes.
pub(crate) fn usual_table(processes: &[Process]) -> Table {
    let mut table = titled(&USUAL).spare(&DISPENSABLE);
    for process in processes {
        table.row(USUAL.map(|column| cell(column, Row::of(process), "")));
    }
    table
}

fn is_selected(args: &PsArgs, process: &Process) -> bool {
    fn any<T>(asked: &[T], fits: impl Fn(&T) -> bool) -> bool {
        asked.is_empty() || asked.iter().any(fits)
    }
    let container = |asked: &String| {
        process
            .container
            .as_deref()
            .is_some_and(|id| asked == "*" || (!asked.is_empty() && id.starts_with(asked)))
    };
    !(args.no_kernel && process.kernel_thread)
        && any(&args.names, |name| name.0.matches(&process.name))
        && any(&args.pids, |pid| *pid == process.pid)
        && any(&args.uids, |uid| process.uid == Some(*uid) || process.euid == Some(*uid))
        && any(&args.containers, container)
        && any(&args.namespaces, |inode| inodes(&process.namespaces).contains(&Some(*inode)))
}

fn inodes(namespaces: &Namespaces) -> [Option<u32>; 7] {
    let Namespaces { pid, net, mnt, user, uts, ipc, cgroup } = *namespaces;
    [pid, net, mnt, user, uts, ipc, cgroup]
}

/// A line: a process, or one of its threads.
#[derive(Clone, Copy)]
struct Row<'p> {
    process: &'p Process,
    thread: Option<&'p Thread>,
}

impl<'p> Row<'p> {
    fn of(process: &'p Process) -> Self {
        Self { process, thread: None }
    }
}

fn table(processes: &[&Process], args: &PsArgs) -> Table {
    let mut columns = if args.columns.is_empty() { USUAL.to_vec() } else { args.columns.clone() };
    if args.columns.is_empty() {
        if args.threads {
            columns.insert(1, Column::Tid);
        }
        if args.env {
            columns.push(Column::Env);
        }
    }
    let mut table = titled(&columns);
    if args.tree {
        // Of a deep branch the name is at its end.
        table = table.ending(&["NAME"], NAME_WIDTH);
    }
    if args.columns.is_empty() {
        table = table.spare(&DISPENSABLE);
    }
    let mut row = |row: Row<'_>, branch: &str| {
        table.row(columns.iter().map(|column| cell(*column, row, branch)));
    };
    let lines = if args.tree {
        tree(processes)
    } else {
        processes.iter().map(|one| (*one, Branch::default())).collect()
    };
    for (process, branch) in lines {
        row(Row::of(process), &branch.own);
        // The leader is the process itself.
        let threads = process.thread_list.iter().flatten().filter(|thread| thread.tid != process.pid);
        for thread in threads {
            row(Row { process, thread: Some(thread) }, &branch.below);
        }
    }
    table
}

fn titled(columns: &[Column]) -> Table {
    Table::new(&columns.iter().copied().map(title).collect::<Vec<_>>()).ending(&["EXE"], EXE_WIDTH)
}

/// What is drawn before the name of a process in the tree, and before the names of its threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Branch {
    own: String,
    below: String,
}

/// Each process after its parent. One whose parent is not shown, or is below itself, stands at the left.
fn tree<'p>(processes: &[&'p Process]) -> Vec<(&'p Process, Branch)> {
    let shown: BTreeSet<u32> = processes.iter().map(|process| process.pid).collect();
    let mut children: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
    let mut roots = Vec::new();
    for process in processes.iter().copied() {
        match process.ppid.filter(|parent| *parent != process.pid && shown.contains(parent)) {
            Some(parent) => children.entry(parent).or_default().push(process),
            None => roots.push(process),
        }
    }
    let mut lines = Vec::new();
    let mut done = BTreeSet::new();
    // Processes that are each other's parents are below no root: the first of them becomes one.
    for root in roots.into_iter().chain(processes.iter().copied()) {
        // On a stack of its own: a guest can make a tree as deep as it has pids.
        let mut waiting = vec![(root, Branch::default())];
        while let Some((process, branch)) = waiting.pop() {
            if !done.insert(std::ptr::from_ref(process)) {
                continue;
            }
            // The children of a pid that two processes claim to have are below the first.
            let below = children.remove(&process.pid).unwrap_or_default();
            let last = below.len().saturating_sub(1);
            for (index, child) in below.into_iter().enumerate().rev() {
                let (own, more) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                let own = format!("{}{own}", branch.below);
                waiting.push((child, Branch { own, below: format!("{}{more}", branch.below) }));
            }
            lines.push((process, branch));
        }
    }
    lines
}

/// What a column says of a row, in an order that makes sense to sort by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    /// It is not known.
    Unknown,
    /// There is no such thing.
    Nothing,
    Number(u64),
    Text(String),
}

impl Value {
    fn number(value: Option<impl Into<u64>>) -> Self {
        value.map_or(Self::Unknown, |value| Self::Number(value.into()))
    }

    fn text(value: Option<impl ToString>) -> Self {
        value.map_or(Self::Unknown, |value| Self::Text(value.to_string()))
    }

    fn list(values: Option<impl Iterator<Item = String>>) -> Self {
        match values.map(|values| values.collect::<Vec<_>>()) {
            None => Self::Unknown,
            Some(values) if values.is_empty() => Self::Nothing,
            Some(values) => Self::Text(values.join(",")),
        }
    }

    fn some(value: Option<impl ToString>) -> Self {
        value.map_or(Self::Nothing, |value| Self::Text(value.to_string()))
    }
}

fn value(column: Column, row: Row<'_>) -> Value {
    let Row { process, thread } = row;
    let spaces = &process.namespaces;
    match column {
        Column::Pid => Value::Number(process.pid.into()),
        Column::Ppid => Value::number(process.ppid),
        Column::Tid => Value::Number(thread.map_or(process.pid, |thread| thread.tid).into()),
        Column::Uid => Value::number(process.uid),
        Column::Euid => Value::number(process.euid),
        Column::Gid => Value::number(process.gid),
        Column::Egid => Value::number(process.egid),
        Column::Groups => {
            Value::list(process.groups.as_ref().map(|groups| groups.iter().map(u32::to_string)))
        }
        Column::Threads => Value::number(process.threads),
        Column::State => {
            let state = thread.map_or(process.state, |thread| thread.state);
            Value::text(state.map(words::process_state))
        }
        Column::Name => Value::Text(thread.map_or(&process.name, |thread| &thread.name).to_string()),
        Column::Exe => Value::text(process.exe.as_ref()),
        Column::Args => match (&process.args, &process.args_partial) {
            (Some(args), _) if args.is_empty() => Value::Nothing,
            (Some(args), _) => Value::Text(args.join(" ")),
            (None, Some(args)) if !args.is_empty() => {
                Value::Text(format!("{} (not all is readable)", args.join(" ")))
            }
            (None, _) => Value::Unknown,
        },
        Column::Started => Value::text(process.started_at.as_ref()),
        Column::Time => Value::number(process.cpu_time_ns),
        Column::Rss => Value::number(process.resident_bytes),
        Column::Pgid => Value::number(process.process_group),
        Column::Sid => Value::number(process.session),
        Column::Tty => Value::some(process.terminal.as_ref().map(|terminal| &terminal.name)),
        Column::Caps => Value::text(process.capabilities_effective),
        Column::Bounding => Value::text(process.capabilities_bounding),
        Column::Seccomp => Value::text(process.seccomp.as_ref().map(words::serde_name)),
        Column::NoNewPrivs => Value::text(process.no_new_privs.map(|set| if set { "yes" } else { "no" })),
        Column::Cgroup => Value::text(process.cgroup.as_ref()),
        Column::CgroupsV1 => Value::list(
            process
                .cgroups_v1
                .as_ref()
                .map(|groups| groups.iter().map(|group| format!("{}:{}", group.hierarchy, group.path))),
        ),
        Column::Container => Value::some(process.container.as_ref()),
        Column::Runtime => Value::some(process.container_runtime.as_ref().map(words::serde_name)),
        Column::Pidns => Value::number(spaces.pid),
        Column::Netns => Value::number(spaces.net),
        Column::Mntns => Value::number(spaces.mnt),
        Column::Userns => Value::number(spaces.user),
        Column::Utsns => Value::number(spaces.uts),
        Column::Ipcns => Value::number(spaces.ipc),
        Column::Cgroupns => Value::number(spaces.cgroup),
        Column::Views => Value::list(Some(process.views.iter().map(ToString::to_string))),
        Column::Env => Value::list(process.environment.as_ref().map(|variables| {
            variables.iter().map(|variable| match (variable.name.as_str(), &variable.value) {
                ("", None) => "…".to_owned(),
                (name, None) => name.to_owned(),
                ("", Some(value)) => value.clone(),
                (name, Some(value)) => format!("{name}={value}"),
            })
        })),
        Column::Task => Value::Text(thread.map_or(process.task, |thread| thread.task).to_string()),
    }
}

fn cell(column: Column, row: Row<'_>, branch: &str) -> Cell {
    match column {
        Column::Name => name(row, branch),
        Column::Exe => words::executable(row.process),
        Column::Time => Cell::known(row.process.cpu_time_ns.map(cpu_time)),
        Column::Rss => Cell::known(row.process.resident_bytes.map(words::size)),
        _ => match value(column, row) {
            Value::Unknown => Cell::known(None::<String>),
            Value::Nothing => Cell::new("-"),
            Value::Number(number) => Cell::new(number.to_string()),
            Value::Text(text) => Cell::new(text),
        },
    }
}

/// Kernel threads in brackets, told by their flags, and other threads in braces. A process that calls itself so, or draws a branch of
/// the tree, is in quotes.
fn name(row: Row<'_>, branch: &str) -> Cell {
    let Row { process, thread } = row;
    match thread {
        Some(Thread { name, kind: TaskKind::User, .. }) => {
            Cell::new(format!("{branch}{{{name}}}")).paint(Paint::Dim)
        }
        Some(Thread { name, .. }) => Cell::new(format!("{branch}[{name}]")).paint(Paint::Dim),
        None if process.kernel_thread => Cell::new(format!("{branch}[{}]", process.name)).paint(Paint::Dim),
        None => Cell::new(format!("{branch}{}", own_name(&process.name))),
    }
}

/// A process's name for itself, which nobody takes for more than that.
pub(super) fn own_name(name: &str) -> Cow<'_, str> {
    if name.starts_with(['[', '{', '"', ' ', '│', '├', '└']) {
        Cow::Owned(format!("\"{name}\""))
    } else {
        Cow::Borrowed(name)
    }
}

/// `12:34.56`, minutes without end.
fn cpu_time(ns: u64) -> String {
    let hundredths = ns / 10_000_000;
    let (seconds, rest) = (hundredths / 100, hundredths % 100);
    format!("{}:{:02}.{rest:02}", seconds / 60, seconds % 60)
}

/// Numbers are set to the right.
fn title(column: Column) -> &'static str {
    match column {
        Column::Pid => ">PID",
        Column::Ppid => ">PPID",
        Column::Tid => ">TID",
        Column::Uid => ">UID",
        Column::Euid => ">EUID",
        Column::Gid => ">GID",
        Column::Egid => ">EGID",
        Column::Groups => "GROUPS",
        Column::Threads => ">THREADS",
        Column::State => "STATE",
        Column::Name => "NAME",
        Column::Exe => "EXE",
        Column::Args => "ARGS",
        Column::Started => "STARTED",
        Column::Time => ">TIME",
        Column::Rss => ">RSS",
        Column::Pgid => ">PGID",
        Column::Sid => ">SID",
        Column::Tty => "TTY",
        Column::Caps => "CAPS",
        Column::Bounding => "BOUNDING",
        Column::Seccomp => "SECCOMP",
        Column::NoNewPrivs => "NO-NEW-PRIVS",
        Column::Cgroup => "CGROUP",
        Column::CgroupsV1 => "CGROUPS-V1",
        Column::Container => "CONTAINER",
        Column::Runtime => "RUNTIME",
        Column::Pidns => ">PIDNS",
        Column::Netns => ">NETNS",
        Column::Mntns => ">MNTNS",
        Column::Userns => ">USERNS",
        Column::Utsns => ">UTSNS",
        Column::Ipcns => ">IPCNS",
        Column::Cgroupns => ">CGROUPNS",
        Column::Views => "VIEWS",
        Column::Env => "ENV",
        Column::Task => "TASK",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    fn process(pid: u32, ppid: u32) -> Process {
        Process { pid, ppid: Some(ppid), name: format!("p{pid}").into(), ..Process::default() }
    }

    fn drawn(processes: &[Process]) -> Vec<String> {
        tree(&processes.iter().collect::<Vec<_>>())
            .into_iter()
            .map(|(process, branch)| format!("{}{}", branch.own, process.pid))
            .collect()
    }

    #[test]
    fn a_tree_has_each_process_once_below_its_parent() {
        let processes =
            [process(1, 0), process(2, 0), process(10, 1), process(11, 10), process(12, 1), process(13, 2)];
        assert_eq!(drawn(&processes), ["1", "├─ 10", "│  └─ 11", "└─ 12", "2", "└─ 13"]);
    }

    #[test]
    fn processes_that_are_their_own_ancestors_are_shown_all_the_same() {
        let processes = [process(1, 0), process(5, 6), process(6, 5), process(7, 7), process(1, 0)];
        let mut shown = drawn(&processes);
        assert_eq!(shown.len(), 5);
        shown.sort();
        assert_eq!(shown, ["1", "1", "5", "7", "└─ 6"]);
    }

    #[test]
    fn a_tree_as_deep_as_the_pids_go_is_drawn() {
        let processes: Vec<Process> = (1..2_000).map(|pid| process(pid, pid - 1)).collect();
        assert_eq!(drawn(&processes).len(), 1_999);
    }

    #[test]
    fn a_process_that_calls_itself_a_kernel_thread_or_a_branch_is_in_quotes() {
        for name in ["[kworker/0:1]", "{nginx}", "└─ sshd", "│  sshd", "├─ a", "  sshd", "\"[a]\""]
        {
            let process = Process { name: name.into(), ..Process::default() };
            assert_eq!(super::name(Row::of(&process), "└─ "), Cell::new(format!("└─ \"{name}\"")));
        }
        let process = Process { name: "kworker/0:1".into(), kernel_thread: true, ..Process::default() };
        assert_eq!(super::name(Row::of(&process), ""), Cell::new("[kworker/0:1]").paint(Paint::Dim));
        assert_eq!(own_name("sh [1]"), "sh [1]");
    }

    #[test]
    fn cpu_time_is_minutes_seconds_and_hundredths() {
        assert_eq!(cpu_time(0), "0:00.00");
        assert_eq!(cpu_time(754_560_000_000), "12:34.56");
    }

    #[test]
    fn every_column_has_a_title_of_its_own() {
        let titles: BTreeSet<_> = Column::value_variants().iter().map(|column| title(*column)).collect();
        assert_eq!(titles.len(), Column::value_variants().len());
    }
}
