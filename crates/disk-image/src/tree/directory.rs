//! A directory of the host as a tree.
//!
//! Whoever may write to it may change it meanwhile. Files are therefore opened below the directory without following a link, so that
//! a file of the host never gets into a certificate through a link that was put there in the last moment.

use super::{Contents, Kind, Node, Nodes, Tree};
use crate::Error;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    root: File,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Tree, Error> {
        let failed = |what: &Path, source| Error::Read { what: what.display().to_string(), source };
        let root = fs::OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_DIRECTORY.bits())
            .open(path)
            .map_err(|source| failed(path, source))?;
        let mut nodes = Nodes::default();
        let mut open = vec![String::new()];
        while let Some(directory) = open.pop() {
            let shown = path.join(directory.trim_start_matches('/'));
            for entry in fs::read_dir(&shown).map_err(|source| failed(&shown, source))? {
                let entry = entry.map_err(|source| failed(&shown, source))?;
                let Ok(name) = entry.file_name().into_string() else {
                    nodes.leave_out();
                    continue;
                };
                let found = entry.metadata().map_err(|source| failed(&entry.path(), source))?;
                let kind = if found.is_dir() {
                    Kind::Directory
                } else if found.is_file() {
                    Kind::File
                } else if found.is_symlink() {
                    let target =
                        fs::read_link(entry.path()).map_err(|source| failed(&entry.path(), source))?;
                    match target.into_os_string().into_string() {
                        Ok(target) => Kind::Link(target),
                        Err(_) => Kind::Other,
                    }
                } else {
                    Kind::Other
                };
                let path = format!("{directory}/{name}");
                if kind == Kind::Directory && Nodes::enters(&path) {
                    open.push(path.clone());
                }
                let node = Node {
                    mode: found.mode() & 0o7777,
                    uid: found.uid(),
                    gid: found.gid(),
                    size: if kind == Kind::File { found.size() } else { 0 },
                    modified: found.mtime(),
                    at: 0,
                    kind,
                };
                nodes.add(path, node)?;
            }
        }
        Ok(Tree::new(nodes, Box::new(Self { root })))
    }
}

impl Contents for Directory {
    fn open(&self, path: &str, node: &Node) -> Result<Box<dyn Read + '_>, Error> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let failed = |source| Error::Read { what: path.to_owned(), source };
        let file =
            openat2(&self.root, path.trim_start_matches('/'), how).map_err(|error| failed(error.into()))?;
        Ok(Box::new(File::from(file).take(node.size)))
    }
}
