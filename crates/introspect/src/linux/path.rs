//! Paths of files: ``struct path`` across mounts, as ``d_path()`` (fs/d_path.c) makes them.
//!
//! The walk goes up to the root of the mount tree, not to the process's own root directory: a chroot or a container does
//! not get to rename its executable.

use super::layout::Resolver;
use crate::session::{Session, container, member};
use facts::{ExeState, ProblemKind, Text};
use std::cell::RefCell;
use std::collections::HashMap;
use vmi_core::{Gva, ReadError};

/// Directories and mounts in one path. ``PATH_MAX`` allows 2048 one-letter directories.
const STEPS_MAX: usize = 4096;
/// Longest name of one directory (``NAME_MAX``); memfd names may be 249 long.
const NAME_MAX: u32 = 255;
/// ``MNT_NS_INTERNAL`` = ``ERR_PTR(-EINVAL)``, fs/mount.h: a file system that is mounted nowhere.
const MNT_NS_INTERNAL: u64 = (-22i64).cast_unsigned();

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    file_path: u64,
    path_mnt: u64,
    path_dentry: u64,
    dentry_parent: u64,
    dentry_name_len: u64,
    dentry_name: u64,
    dentry_unhashed: u64,
    mnt_root: u64,
    mount_mnt: u64,
    mount_parent: u64,
    mount_mountpoint: u64,
    mount_namespace: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            file_path: resolver.offset("file", "f_path"),
            path_mnt: resolver.offset("path", "mnt"),
            path_dentry: resolver.offset("path", "dentry"),
            dentry_parent: resolver.offset("dentry", "d_parent"),
            dentry_name_len: resolver.offset("dentry", "d_name.len"),
            dentry_name: resolver.offset("dentry", "d_name.name"),
            dentry_unhashed: resolver.offset("dentry", "d_hash.pprev"),
            mnt_root: resolver.offset("vfsmount", "mnt_root"),
            mount_mnt: resolver.offset("mount", "mnt"),
            mount_parent: resolver.offset("mount", "mnt_parent"),
            mount_mountpoint: resolver.offset("mount", "mnt_mountpoint"),
            mount_namespace: resolver.offset("mount", "mnt_ns"),
        }
    }
}

/// A path and what became of the file there.
#[derive(Clone, Debug)]
pub(crate) struct FilePath {
    pub(crate) text: Text,
    pub(crate) state: ExeState,
}

/// Paths of one look by ``(vfsmount, dentry)``: a hundred processes run a dozen programs.
pub(crate) type PathCache = RefCell<HashMap<(Gva, Gva), Option<FilePath>>>;

/// The path of the ``struct file *`` at `file`. `None`: it could not be read, with a problem.
pub(crate) fn of_file(session: &Session<'_>, file: Gva) -> Result<Option<FilePath>, ReadError> {
    of(session, "file", file, session.kernel.layouts().path.file_path)
}

/// The same of the ``struct path`` that is `offset` bytes into the object `what` at `at`.
pub(crate) fn of(
    session: &Session<'_>,
    what: &str,
    at: Gva,
    offset: u64,
) -> Result<Option<FilePath>, ReadError> {
    let layout = &session.kernel.layouts().path;
    let read = || {
        let path = member(at, offset)?;
        let mnt = session.space.pointer(member(path, layout.path_mnt)?)?;
        let dentry = session.space.pointer(member(path, layout.path_dentry)?)?;
        Ok((mnt, dentry))
    };
    let Some((mnt, dentry)) = session.known(what, at, read())? else { return Ok(None) };
    if let Some(known) = session.paths.borrow().get(&(mnt, dentry)) {
        return Ok(known.clone());
    }
    let path = session.known("path of file", at, walk(session, at, mnt, dentry))?.flatten();
    // All processes that have it share it.
    session.space.look().keep(path.as_ref().map_or(0, |path| path.text.len() as u64))?;
    session.paths.borrow_mut().insert((mnt, dentry), path.clone());
    Ok(path)
}

/// Has fetched what [`of_file`] reads of the ``struct file *`` at `file`.
pub(super) fn expect_file(session: &Session<'_>, file: Gva) {
    session.expect(file, session.kernel.layouts().path.file_path, 16);
}

fn walk(session: &Session<'_>, file: Gva, mnt: Gva, dentry: Gva) -> Result<Option<FilePath>, ReadError> {
    let layout = &session.kernel.layouts().path;
    let space = &session.space;
    let pointer = |object, offset| space.pointer(member(object, offset)?);
    // container_of(mnt, struct mount, mnt)
    let mount_of = |mnt: Gva| container(mnt, layout.mount_mnt);

    let mut mount = mount_of(mnt)?;
    let unnamed = pointer(mount, layout.mount_namespace)?.0 == MNT_NS_INTERNAL;
    let is_root = pointer(dentry, layout.dentry_parent)? == dentry;
    // d_unlinked(): not in the hash of names, and no root.
    let unlinked = pointer(dentry, layout.dentry_unhashed)?.is_null() && !is_root;
    let state = match (unnamed, unlinked) {
        (true, _) => ExeState::Memfd,
        (false, true) => ExeState::Deleted,
        (false, false) => ExeState::Present,
    };

    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut at = dentry;
    let mut mnt_root = pointer(member(mount, layout.mount_mnt)?, layout.mnt_root)?;
    for _ in 0..STEPS_MAX {
        if at == mnt_root {
            let parent = pointer(mount, layout.mount_parent)?;
            if parent == mount {
                return Ok(Some(FilePath { text: join(names), state }));
            }
            at = pointer(mount, layout.mount_mountpoint)?;
            mount = parent;
            mnt_root = pointer(member(mount, layout.mount_mnt)?, layout.mnt_root)?;
            continue;
        }
        let parent = pointer(at, layout.dentry_parent)?;
        if parent == at && !unnamed {
            // The root of a file system that is mounted elsewhere: a path that leads nowhere.
            return Ok(Some(FilePath { text: join(names), state }));
        }
        let len = space.u32(member(at, layout.dentry_name_len)?)?;
        if len > NAME_MAX {
            session.problem(
                ProblemKind::Implausible,
                format_args!("dentry {at}"),
                format_args!("Its name has {len} bytes."),
            );
            return Ok(None);
        }
        let name = pointer(at, layout.dentry_name)?;
        names.push(space.bytes(name, usize::try_from(len).unwrap_or(0))?);
        if unnamed {
            return Ok(Some(FilePath { text: join(names), state }));
        }
        at = parent;
    }
    session.problem(
        ProblemKind::Cycle,
        format_args!("file {file}"),
        format_args!("Its path has more than {STEPS_MAX} steps."),
    );
    Ok(None)
}

fn join(names: Vec<Vec<u8>>) -> Text {
    let mut path = Vec::new();
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    String::from_utf8_lossy(&path).into()
}
