//! Control groups: the path of a task in the unified hierarchy, the container that the path speaks of, and the tasks that the
//! groups know.
//!
//! Every task but the idle ones is in the list of a ``struct css_set``, and all of those are in one hash table: a view of
//! processes that `ps` never uses, and that nobody keeps who wants to stay within limits and accounting.

use super::layout::Resolver;
use super::list::{self, HashTable};
use crate::session::{Session, member};
use facts::ProblemKind;
use vmi_core::{Gva, ReadError};

/// Deepest path. ``cgroup.max.depth`` is unlimited by default; nobody nests this deep.
const DEPTH_MAX: usize = 256;
/// Longest name of one directory (``NAME_MAX``).
const NAME_MAX: usize = 255;
/// Name of the view of tasks in [`facts::Process::views`].
pub(crate) const VIEW: &str = "cgroup";
/// Buckets of ``css_set_table``: ``CSS_SET_HASH_BITS`` is 7 (kernel/cgroup/cgroup.c, 4.5 to 7.2).
const SETS: u64 = 128;
/// Hex digits of a container id.
const CONTAINER_ID: usize = 64;

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

/// Path in the unified hierarchy, from ``struct css_set *`` through ``struct kernfs_node *``. `None` without one.
pub(crate) fn path(session: &Session<'_>, css_set: Gva) -> Result<Option<String>, ReadError> {
    if css_set.is_null() {
        return Ok(None);
    }
    let layout = &session.kernel.layouts().cgroup;
    let space = &session.space;
    let cgroup = space.pointer(member(css_set, layout.default_cgroup)?)?;
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
                format_args!("css_set {css_set}"),
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

/// The container id in a path: the last directory whose name ends, before any `.scope`, in 64 hex digits.
///
/// That is how docker, containerd, cri-o and podman name their groups (`docker-<id>.scope`, `cri-containerd-<id>.scope`,
/// `/docker/<id>`).
pub(crate) fn container(path: &str) -> Option<String> {
    path.rsplit('/').find_map(|directory| {
        let name = directory.strip_suffix(".scope").unwrap_or(directory);
        let id = name.get(name.len().checked_sub(CONTAINER_ID)?..)?;
        let prefix_ends = name.len() == CONTAINER_ID || name.get(..name.len() - CONTAINER_ID)?.ends_with('-');
        (prefix_ends && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
            .then(|| id.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::container;

    #[test]
    fn a_container_id_is_found_whatever_runtime_named_the_group() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("/system.slice/docker-{id}.scope"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("/docker/{id}"),
            format!("/machine.slice/libpod-{id}.scope/container"),
        ] {
            assert_eq!(container(&path).as_deref(), Some(id.as_str()), "{path}");
        }
    }

    #[test]
    fn a_name_that_only_resembles_an_id_is_none() {
        let id = "0123456789abcdef".repeat(4);
        for path in ["/", "/system.slice/ssh.service", &format!("/x{id}"), &format!("/docker-{}", &id[1..])] {
            assert_eq!(container(path), None, "{path}");
        }
    }
}
