//! Control groups: the paths of a task in the unified hierarchy and in those of version 1, and the tasks that the groups know.
//!
//! Every task but the idle ones is in the list of a ``struct css_set``, and all of those are in one hash table: a view of
//! processes that `ps` never uses, and that nobody keeps who wants to stay within limits and accounting.

use super::container::{self, Container};
use super::layout::Resolver;
use super::list::{self, HashTable};
use crate::session::{Session, member};
use facts::{CgroupV1, ProblemKind, Text};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use vmi_core::{Gva, ReadError};

/// Deepest path. ``cgroup.max.depth`` is unlimited by default; nobody nests this deep.
const DEPTH_MAX: usize = 256;
/// Longest name of one directory (``NAME_MAX``).
const NAME_MAX: usize = 255;
/// Name of the view of tasks in [`facts::Process::views`].
pub(crate) const VIEW: &str = "cgroup";
/// Buckets of ``css_set_table``: ``CSS_SET_HASH_BITS`` is 7 (kernel/cgroup/cgroup.c, 4.5 to 7.2).
const SETS: u64 = 128;
/// Longest name of a hierarchy (``MAX_CGROUP_ROOT_NAMELEN``) and of a controller (``MAX_CGROUP_TYPE_NAMELEN``).
const ROOT_NAME_MAX: usize = 64;
const CONTROLLER_NAME_MAX: usize = 32;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    default_cgroup: u64,
    node: u64,
    parent: u64,
    name: u64,
    /// In ``struct css_set``: its place in the hash table, and its lists of tasks.
    hash: u64,
    tasks: u64,
    migrating: u64,
    /// Leaders that exited before their threads, since 5.2.
    dying: Option<u64>,
    /// In ``struct task_struct``: its place in such a list.
    task_node: u64,
    /// In ``struct css_set``: the links to its groups, one in each hierarchy.
    links: u64,
    link_node: u64,
    link_cgroup: u64,
    root: u64,
    root_controllers: u64,
    root_name: u64,
    controller_name: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            default_cgroup: resolver.offset("css_set", "dfl_cgrp"),
            node: resolver.offset("cgroup", "kn"),
            // Renamed in 6.15.
            parent: resolver.first_of("kernfs_node", &["parent", "__parent"]),
            name: resolver.offset("kernfs_node", "name"),
            hash: resolver.offset("css_set", "hlist"),
            tasks: resolver.offset("css_set", "tasks"),
            migrating: resolver.offset("css_set", "mg_tasks"),
            dying: resolver.optional("css_set", "dying_tasks"),
            task_node: resolver.offset("task_struct", "cg_list"),
            links: resolver.offset("css_set", "cgrp_links"),
            link_node: resolver.offset("cgrp_cset_link", "cgrp_link"),
            link_cgroup: resolver.offset("cgrp_cset_link", "cgrp"),
            root: resolver.offset("cgroup", "root"),
            root_controllers: resolver.offset("cgroup_root", "subsys_mask"),
            root_name: resolver.offset("cgroup_root", "name"),
            controller_name: resolver.offset("cgroup_subsys", "legacy_name"),
        }
    }
}

/// Whether this kernel has the view.
pub(crate) fn is_known(session: &Session<'_>) -> bool {
    session.kernel.symbol("css_set_table").is_some()
}

/// ``struct task_struct *`` of all tasks, threads as well as leaders, that the groups know.
pub(crate) fn tasks(session: &Session<'_>) -> Result<Vec<Gva>, ReadError> {
    let layout = &session.kernel.layouts().cgroup;
    let Some(base) = session.kernel.symbol("css_set_table") else { return Ok(Vec::new()) };
    let table = HashTable { base, count: SETS, stride: 8, head: 0 };
    let mut tasks = Vec::new();
    for node in list::hash_table(session, "css_set table", table)? {
        let Some(set) = node.checked_sub(layout.hash) else { continue };
        for list in [layout.tasks, layout.migrating].into_iter().chain(layout.dying) {
            let nodes = list::list(session, "css_set task list", member(set, list)?)?;
            tasks.extend(nodes.into_iter().filter_map(|node| node.checked_sub(layout.task_node)));
        }
    }
    Ok(tasks)
}

/// Where the tasks of one ``struct css_set`` are.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Path in the unified hierarchy. `None`: it could not be read, with a problem.
    pub(crate) path: Option<Text>,
    /// Those of version 1, in the order that `/proc/PID/cgroup` has. `None`: they could not be read, with a problem.
    pub(crate) v1: Option<Vec<CgroupV1>>,
    pub(crate) container: Option<Container>,
}

impl Groups {
    /// Bytes that a process takes which shows them: all but what it has in common with others.
    fn text(&self) -> u64 {
        let v1 = self.v1.iter().flatten().map(|group| group.hierarchy.len().saturating_add(group.path.len()));
        v1.fold(0, usize::saturating_add) as u64
    }
}

/// Groups of one look by ``struct css_set *``: a hundred processes are in a dozen groups.
pub(crate) type GroupCache = RefCell<HashMap<Gva, Rc<Groups>>>;

/// The groups of the ``struct css_set *`` at `css_set`.
pub(crate) fn groups(session: &Session<'_>, css_set: Gva) -> Result<Rc<Groups>, ReadError> {
    if css_set.is_null() {
        return Ok(Rc::default());
    }
    if let Some(known) = session.groups.borrow().get(&css_set) {
        // Whoever asks will show them: a path may be 64 KiB long, and every process may be there.
        session.space.look().keep(known.text())?;
        return Ok(Rc::clone(known));
    }
    let layout = &session.kernel.layouts().cgroup;
    let default = session.space.pointer(member(css_set, layout.default_cgroup)?);
    let path = default.and_then(|cgroup| path(session, "css_set", css_set, cgroup));
    let path = session.known("css_set", css_set, path)?.flatten().map(Text::from);
    let v1 = session.known("css_set", css_set, version_1(session, css_set))?;
    let paths = path.iter().map(Text::as_str).chain(v1.iter().flatten().map(|group| group.path.as_str()));
    let container = paths.flat_map(container::container).next();
    let groups = Rc::new(Groups { path, v1, container });
    let shared = groups.path.as_ref().map_or(0, |path| path.len() as u64);
    session.space.look().keep(groups.text().saturating_mul(2).saturating_add(shared))?;
    session.groups.borrow_mut().insert(css_set, Rc::clone(&groups));
    Ok(groups)
}

/// The groups in hierarchies of version 1. ``css_set->cgrp_links`` has one link for each hierarchy, the unified one included.
fn version_1(session: &Session<'_>, css_set: Gva) -> Result<Vec<CgroupV1>, ReadError> {
    let layout = &session.kernel.layouts().cgroup;
    let space = &session.space;
    let default = space.pointer(member(css_set, layout.default_cgroup)?)?;
    let mut groups = Vec::new();
    for node in list::list(session, "css_set links", member(css_set, layout.links)?)? {
        let text = |group: &CgroupV1| group.path.len().saturating_add(group.hierarchy.len()) as u64;
        space.look().keep(groups.last().map_or(0, text))?;
        let Some(link) = node.checked_sub(layout.link_node) else { continue };
        let cgroup = space.pointer(member(link, layout.link_cgroup)?)?;
        let root = space.pointer(member(cgroup, layout.root)?)?;
        // The unified hierarchy's is the default group, or that hierarchy's root.
        if cgroup == default || root == space.pointer(member(default, layout.root)?)? {
            continue;
        }
        if let Some(path) = path(session, "css_set", css_set, cgroup)? {
            groups.push(CgroupV1 { hierarchy: hierarchy(session, root)?, path });
        }
    }
    groups.sort_by(|a: &CgroupV1, b| (&a.hierarchy, &a.path).cmp(&(&b.hierarchy, &b.path)));
    Ok(groups)
}

/// Controllers and name of a hierarchy as ``proc_cgroup_show()`` prints them (kernel/cgroup/cgroup.c).
fn hierarchy(session: &Session<'_>, root: Gva) -> Result<String, ReadError> {
    let layout = &session.kernel.layouts().cgroup;
    let space = &session.space;
    let mut words = Vec::new();
    let mut mask = space.u32(member(root, layout.root_controllers)?)?;
    if let Some(controllers) = session.kernel.symbol("cgroup_subsys") {
        while mask != 0 {
            let number = u64::from(mask.trailing_zeros());
            mask &= mask.wrapping_sub(1);
            let at =
                controllers.element(number, 8).ok_or(ReadError::NotAnAddress { at: controllers, len: 8 })?;
            let name = space.pointer(member(space.pointer(at)?, layout.controller_name)?)?;
            let name = space.c_string(name, CONTROLLER_NAME_MAX)?;
            words.push(String::from_utf8_lossy(&name).into_owned());
        }
    }
    let name = space.c_string(member(root, layout.root_name)?, ROOT_NAME_MAX)?;
    if !name.is_empty() {
        words.push(format!("name={}", String::from_utf8_lossy(&name)));
    }
    Ok(words.join(","))
}

/// Path of a ``struct cgroup *`` in its hierarchy, through ``struct kernfs_node *``. `None`: it has no end, with a problem of
/// the object `what` at `of` that asks.
pub(super) fn path(
    session: &Session<'_>,
    what: &str,
    of: Gva,
    cgroup: Gva,
) -> Result<Option<String>, ReadError> {
    let layout = &session.kernel.layouts().cgroup;
    let space = &session.space;
    let mut node = space.pointer(member(cgroup, layout.node)?)?;
    let mut names: Vec<String> = Vec::new();
    loop {
        let parent = space.pointer(member(node, layout.parent)?)?;
        if parent.is_null() {
            break;
        }
        if names.len() >= DEPTH_MAX {
            session.problem(
                ProblemKind::Cycle,
                format_args!("{what} {of}"),
                format_args!("Its path is deeper than {DEPTH_MAX}."),
            );
            return Ok(None);
        }
        let name = space.c_string(space.pointer(member(node, layout.name)?)?, NAME_MAX)?;
        names.push(String::from_utf8_lossy(&name).into_owned());
        node = parent;
    }
    names.reverse();
    Ok(Some(format!("/{}", names.join("/"))))
}
