//! Control groups: the path of a task in the unified hierarchy, and the container that the path speaks of.

use super::layout::Resolver;
use crate::session::{Session, member};
use facts::ProblemKind;
use vmi_core::{Gva, ReadError};

/// Deepest path. ``cgroup.max.depth`` is unlimited by default; nobody nests this deep.
const DEPTH_MAX: usize = 256;
/// Longest name of one directory (``NAME_MAX``).
const NAME_MAX: usize = 255;
/// Hex digits of a container id.
const CONTAINER_ID: usize = 64;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    default_cgroup: u64,
    node: u64,
    parent: u64,
    name: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            default_cgroup: resolver.offset("css_set", "dfl_cgrp"),
            node: resolver.offset("cgroup", "kn"),
            // Renamed in 6.15.
            parent: resolver.first_of("kernfs_node", &["parent", "__parent"]),
            name: resolver.offset("kernfs_node", "name"),
        }
    }
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
