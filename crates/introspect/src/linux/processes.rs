//! The process table: what independent views of the kernel have, put together.
//!
//! The views are the list of all thread group leaders (``init_task.tasks``, what `ps` effectively has), the pid table, the
//! tasks of the control groups, and the run queues. Each process says in which of them it was seen. Every living process is
//! in the first three, so one that was taken off a list to hide it stands out by the view that is missing.
//!
//! A running guest makes and ends processes between two walks, and that must never look like hiding. So where the views
//! disagree they are all taken a second time: what either time has counts as seen, and what the second has nowhere has ended.

use super::ascending::{ascending, next};
use super::seeing::Seeing;
use super::task::{self, Seen, Stamp};
use super::{activity, cgroup, list, pid, sched, slab};
use crate::apart::{apart, is_crowd, side_by_side};
use crate::session::Session;
use facts::{ProblemKind, Text};
use std::collections::{BTreeSet, HashMap, HashSet};
use vmi_core::{Gva, ReadError};

/// Name of the task list in [`facts::Process::views`]; the other views name themselves.
const LIST: &str = "task_list";
/// Name of the view that is taken on request.
const SLAB: &str = "slab";
/// The cache that all tasks but the idle one of the first CPU are allocated from (kernel/fork.c).
const CACHE: &str = "task_struct_cachep";

/// Names of the views, in the order in which a process has them.
const VIEWS: [&str; 4] = [LIST, pid::VIEW, cgroup::VIEW, sched::VIEW];

/// ``struct task_struct *`` of the thread group leaders that each view has: ascending, each once.
struct Views {
    /// The same as `listed`, in the order of the list.
    list: Vec<Gva>,
    listed: Vec<Gva>,
    /// `None`: this kernel has no such view.
    pid_table: Option<Vec<Gva>>,
    cgroup: Option<Vec<Gva>>,
    run_queue: Vec<Gva>,
}

impl Views {
    /// The task list comes last, or in a crowd beside others: what was born since the others were walked is then on it, and found in them
    /// the second time.
    fn take(session: &Session<'_>, head: Gva) -> Result<Self, ReadError> {
        let views = [pid::VIEW, cgroup::VIEW, sched::VIEW, LIST];
        let crowd = is_crowd(activity::threads(session)?);
        let (views, end) = side_by_side(session, &views, crowd, |session, view| match view {
            LIST => list::list(session, "task list", head),
            pid::VIEW => pid::leaders(session),
            sched::VIEW => sched::tasks(session).and_then(|tasks| leaders(session, tasks)),
            _ if cgroup::is_known(session) => {
                cgroup::tasks(session).and_then(|tasks| leaders(session, tasks))
            }
            _ => Ok(Vec::new()),
        });
        end?;
        let mut views = views.into_iter();
        let (pid_table, cgroup, run_queue, nodes) = (views.next(), views.next(), views.next(), views.next());
        let offset = session.kernel.layouts().task.tasks();
        let mut list: Vec<Gva> =
            nodes.into_iter().flatten().filter_map(|node| node.checked_sub(offset)).collect();
        let listed = ascending(list.clone());
        // Memory of a task that ended may be a new task's, further down the same list, before the walk is over.
        if listed.len() != list.len() {
            let mut seen = HashSet::new();
            list.retain(|task| seen.insert(*task));
        }
        let cgroup = cgroup.filter(|_| cgroup::is_known(session)).map(ascending);
        let run_queue = ascending(run_queue.unwrap_or_default());
        let pid_table = pid_table.filter(|_| pid::is_known(session)).map(ascending);
        Ok(Self { list, listed, pid_table, cgroup, run_queue })
    }

    /// Whether each of [`VIEWS`] has the task.
    fn of(&self, task: Gva) -> [bool; VIEWS.len()] {
        let has = |view: &[Gva]| view.binary_search(&task).is_ok();
        let optional = |view: &Option<Vec<Gva>>| view.as_deref().is_some_and(has);
        [has(&self.listed), optional(&self.pid_table), optional(&self.cgroup), has(&self.run_queue)]
    }

    fn has(&self, task: Gva) -> bool {
        self.of(task).contains(&true)
    }

    /// Tasks that some view has and another lacks that must have it.
    fn doubtful(&self) -> BTreeSet<Gva> {
        let must = [Some(&self.listed), self.pid_table.as_ref(), self.cgroup.as_ref()].into_iter().flatten();
        let all = ascending(must.clone().chain([&self.run_queue]).flatten().copied().collect());
        let mut must: Vec<&[Gva]> = must.map(Vec::as_slice).collect();
        let lacks = |task: &Gva| must.iter_mut().any(|view| next(view, *task, |of| *of).is_none());
        all.into_iter().filter(lacks).collect()
    }
}

/// The names of the views that every living process is in, of those that this kernel has. The run queues have only those
/// that run.
pub(crate) fn views(session: &Session<'_>) -> Vec<Text> {
    [(true, LIST), (pid::is_known(session), pid::VIEW), (cgroup::is_known(session), cgroup::VIEW)]
        .into_iter()
        .filter(|(known, _)| *known)
        .map(|(_, view)| view.into())
        .collect()
}

/// Adds all processes that any view has.
pub(crate) fn processes(session: &Session<'_>, processes: &mut Vec<Seen>) -> Result<(), ReadError> {
    let offset = session.kernel.layouts().task.tasks();
    let Some(head) = session.kernel.symbol("init_task").and_then(|task| task.checked_add(offset)) else {
        session.problem(ProblemKind::Profile, "init_task", "The kernel has no such symbol.");
        return Ok(());
    };
    let views = Views::take(session, head)?;
    let (rows, end) = apart(session, &views.list, |session, tasks| {
        let mut rows = Vec::with_capacity(tasks.len());
        let seeing = Seeing::new(&VIEWS);
        let read = |task| {
            match task::listed(session, task) {
                Ok(Some(mut process)) => {
                    process.facts.views = seeing.names(&views.of(task));
                    rows.push(process);
                }
                Ok(None) => session.torn(),
                Err(error) => session.unreadable("task_struct", task, error)?,
            }
            Ok(())
        };
        let end = session.each(tasks, &task::AHEAD, read);
        (rows, end.map(drop))
    });
    processes.reserve_exact(rows.iter().map(Vec::len).sum());
    rows.into_iter().for_each(|mut rows| processes.append(&mut rows));
    end?;
    if processes.is_empty() {
        session.problem(
            ProblemKind::Inconsistent,
            format_args!("task list {head}"),
            "It has no process: a running Linux has at least one.",
        );
    }
    let doubtful = views.doubtful();
    if !doubtful.is_empty() {
        settle(session, head, &views, &doubtful, processes)?;
    }
    if session.wants.scan { scan(session, processes) } else { Ok(()) }
}

/// Adds what is in the memory of tasks, whoever knows of it: also a process that is on no list, and sleeps.
fn scan(session: &Session<'_>, processes: &mut Vec<Seen>) -> Result<(), ReadError> {
    let known: Vec<Gva> = processes.iter().map(|process| Gva(process.facts.task.0)).collect();
    let Some(objects) = slab::objects(session, CACHE, &known)? else {
        session.problem(
            ProblemKind::Profile,
            CACHE,
            "The memory of tasks cannot be searched in this kernel.",
        );
        return Ok(());
    };
    let mut in_use = BTreeSet::new();
    for task in objects {
        match task::is_leader_in_use(session, task) {
            Ok(true) => {
                in_use.insert(task);
            }
            Ok(false) => {}
            Err(error) if error.ends_the_look() => return Err(error),
            Err(_) => {}
        }
    }
    for process in processes.iter_mut() {
        if in_use.remove(&Gva(process.facts.task.0)) {
            process.facts.views = process.facts.views.with(SLAB.into());
        }
    }
    for task in in_use {
        match task::unlisted(session, task) {
            Ok(Some(mut process)) => {
                process.facts.views = [SLAB].into();
                processes.extend(believed(session, process));
            }
            Err(error) if error.ends_the_look() => return Err(error),
            _ => session.torn(),
        }
    }
    Ok(())
}

/// Looks a second time at the tasks that not all views had.
fn settle(
    session: &Session<'_>,
    head: Gva,
    first: &Views,
    doubtful: &BTreeSet<Gva>,
    processes: &mut Vec<Seen>,
) -> Result<(), ReadError> {
    session.space.look().forget_pages();
    let second = Views::take(session, head)?;
    let mut rows: HashMap<Gva, Seen> = HashMap::new();
    for process in processes.extract_if(.., |process| doubtful.contains(&Gva(process.facts.task.0))) {
        rows.insert(Gva(process.facts.task.0), process);
    }
    let (mut unlisted, seeing) = (Vec::new(), Seeing::new(&VIEWS));
    for task in doubtful.iter().copied().filter(|task| second.has(*task)) {
        let listed = second.listed.binary_search(&task).is_ok();
        let row = match current(session, task, rows.remove(&task), listed) {
            Ok(row) => row,
            // Mostly memory of a task that ended just now. A task on the list has been told of as unreadable already.
            Err(error) if error.ends_the_look() => return Err(error),
            Err(_) => None,
        };
        match row {
            Some(mut row) => {
                let mut seen = first.of(task);
                seen.iter_mut().zip(second.of(task)).for_each(|(seen, again)| *seen |= again);
                row.facts.views = seeing.names(&seen);
                let rows = if listed { &mut *processes } else { &mut unlisted };
                rows.push(row);
            }
            None => session.torn(),
        }
    }
    let unlisted = still_there(session, head, unlisted)?;
    processes.extend(unlisted.into_iter().filter_map(|row| believed(session, row)));
    Ok(())
}

/// The row of a task that is on no task list, if there is a process behind it; else that is told.
fn believed(session: &Session<'_>, row: Seen) -> Option<Seen> {
    if row.is_void() {
        session.problem(
            ProblemKind::Implausible,
            format_args!("task_struct {}", row.facts.task),
            "It is on no task list, and neither its credentials nor its signal_struct can be read: it is no process.",
        );
        return None;
    }
    Some(row)
}

/// The row of a task if it is still of the same process, else a new one. `None`: it is no process any more, or kept changing.
fn current(
    session: &Session<'_>,
    task: Gva,
    row: Option<Seen>,
    listed: bool,
) -> Result<Option<Seen>, ReadError> {
    let now = Stamp::of(session, task)?;
    match row {
        Some(row) if now.is_of(&row) => Ok(Some(row)),
        _ if listed => task::listed(session, task),
        _ => task::unlisted(session, task),
    }
}

/// Those of the rows that are not on the task list which some view leads to once more, and which are still the same process.
///
/// Memory of a task that ended is the next one's, which starts as a copy of its parent, pid and all (see [`task::listed`]): a
/// view that was walked before that leads to what looks like the parent a second time.
fn still_there(session: &Session<'_>, head: Gva, rows: Vec<Seen>) -> Result<Vec<Seen>, ReadError> {
    if rows.is_empty() {
        return Ok(rows);
    }
    session.space.look().forget_pages();
    let third = Views::take(session, head)?;
    let mut kept = Vec::new();
    for row in rows {
        let task = Gva(row.facts.task.0);
        match Stamp::of(session, task) {
            Ok(now) if third.has(task) && now.is_of(&row) => kept.push(row),
            Err(error) if error.ends_the_look() => return Err(error),
            _ => session.torn(),
        }
    }
    Ok(kept)
}

/// The thread group leaders of tasks, the idle tasks left out. Tasks that cannot be read are gone.
fn leaders(session: &Session<'_>, tasks: Vec<Gva>) -> Result<Vec<Gva>, ReadError> {
    let leaders =
        session.each(&tasks, &[|session, task, ()| task::expect_leader(session, task)], |task| {
            match task::leader(session, task) {
                Err(error) if !error.ends_the_look() => Ok(None),
                leader => leader,
            }
        })?;
    Ok(leaders.into_iter().flatten().collect())
}
