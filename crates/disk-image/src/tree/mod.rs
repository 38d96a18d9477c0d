//! A file tree that is only read.
//!
//! All names are known from the start; contents are read when somebody asks. Paths are those of the image, absolute, and every link is
//! followed inside the tree: `/` is as far up as `..` goes. What lies below `/proc`, `/sys`, `/dev` and `/run` is not in it, since
//! other file systems cover it in a running guest. Names that are not UTF-8 are left out and counted.

mod archive;
mod directory;
mod ext;

pub(crate) use archive::{Archive, Compression, is_archive};
pub(crate) use directory::Directory;
pub(crate) use ext::Ext;

use crate::Error;
use std::collections::BTreeMap;
use std::io::Read;

/// Most files; a large server has some hundred thousand.
const NODES_MAX: usize = 2_000_000;
/// Most bytes of all their paths.
const NAMES_MAX: usize = 256 << 20;
/// Longest path, as in Linux (`PATH_MAX`).
const PATH_MAX: usize = 4096;
/// Most links on the way to a file, as in Linux (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;
/// Covered by other file systems in a running guest.
const COVERED: [&str; 4] = ["/proc/", "/sys/", "/dev/", "/run/"];

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link, with what it says.
    Link(String),
    /// A device, a socket, a pipe.
    Other,
}

/// One file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permissions, with the set-id bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file.
    pub size: u64,
    /// Last modification, in seconds since 1970.
    pub modified: i64,
    /// Where its content is, for an archive.
    pub(crate) at: u64,
}

/// Reads the contents of a tree's files.
pub(crate) trait Contents {
    /// The content of the regular file at a path of the tree, links resolved.
    fn open(&self, path: &str, node: &Node) -> Result<Box<dyn Read + '_>, Error>;
}

/// The files of an image.
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    left_out: usize,
    contents: Box<dyn Contents>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}

impl Tree {
    pub(crate) fn new(nodes: Nodes, contents: Box<dyn Contents>) -> Self {
        Self { nodes: nodes.nodes, left_out: nodes.left_out, contents }
    }

    /// How many files are not in it because their names are not UTF-8.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// All files, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The path without links that `path` means. `None`: there is nothing.
    #[must_use]
    pub fn resolve(&self, path: &str) -> Option<&str> {
        resolve(&self.nodes, path)
    }

    /// What `path` means, links followed.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(self.resolve(path)?)
    }

    /// The path of a regular file at just this path, no link followed.
    pub(crate) fn file(&self, path: &str) -> Option<&str> {
        let (path, node) = self.nodes.get_key_value(path)?;
        (node.kind == Kind::File).then_some(path.as_str())
    }

    /// The files right in a directory, by name.
    pub fn list(&self, directory: &str) -> impl Iterator<Item = (&str, &Node)> {
        let prefix = self.resolve(directory).map(|path| format!("{}/", path.trim_end_matches('/')));
        prefix.into_iter().flat_map(move |prefix| {
            let length = prefix.len();
            self.nodes
                .range(prefix.clone()..)
                .take_while(move |(path, _)| path.starts_with(&prefix))
                .filter_map(move |(path, node)| Some((path.get(length..)?, node)))
                .filter(|(name, _)| !name.is_empty() && !name.contains('/'))
        })
    }

    /// The content of a regular file, links followed.
    pub fn open(&self, path: &str) -> Result<Box<dyn Read + '_>, Error> {
        let missing = || Error::NoSuchFile { path: path.to_owned() };
        let (path, node) = self
            .resolve(path)
            .and_then(|path| self.nodes.get_key_value(path))
            .filter(|(_, node)| node.kind == Kind::File)
            .ok_or_else(missing)?;
        self.contents.open(path, node)
    }

    /// All of a regular file of at most `limit` bytes.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let too_large = |size| Error::FileTooLarge { path: path.to_owned(), size, limit };
        if let Some(size) = self.get(path).map(|node| node.size).filter(|size| *size > limit) {
            return Err(too_large(size));
        }
        let mut bytes = Vec::new();
        let failed = |source| Error::Read { what: path.to_owned(), source };
        self.open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        let size = bytes.len() as u64;
        if size > limit { Err(too_large(size)) } else { Ok(bytes) }
    }

    /// A text file of at most `limit` bytes; what is not UTF-8 in it is replaced. `None`: there is none.
    pub(crate) fn text(&self, path: &str, limit: u64) -> Result<Option<String>, Error> {
        match self.read(path, limit) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(Error::NoSuchFile { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The names of a tree in the making.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: BTreeMap<String, Node>,
    bytes: usize,
    left_out: usize,
}

impl Default for Nodes {
    fn default() -> Self {
        let root = Node { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, size: 0, modified: 0, at: 0 };
        Self { nodes: BTreeMap::from([("/".to_owned(), root)]), bytes: 0, left_out: 0 }
    }
}

impl Nodes {
    /// Whether what is below a directory belongs into the tree.
    pub(crate) fn enters(directory: &str) -> bool {
        !COVERED.iter().any(|covered| covered.strip_suffix('/') == Some(directory))
    }

    /// Adds a file, or replaces one. `path` is absolute and has neither `.` nor `..`.
    pub(crate) fn add(&mut self, path: String, node: Node) -> Result<(), Error> {
        if path.len() > PATH_MAX {
            return Err(Error::TooMany { what: "bytes in a path", limit: PATH_MAX });
        }
        if COVERED.iter().any(|covered| path.starts_with(covered)) {
            return Ok(());
        }
        self.bytes = self.bytes.saturating_add(path.len());
        self.nodes.insert(path, node);
        if self.nodes.len() > NODES_MAX {
            return Err(Error::TooMany { what: "files", limit: NODES_MAX });
        }
        if self.bytes > NAMES_MAX {
            return Err(Error::TooMany { what: "bytes in all its paths", limit: NAMES_MAX });
        }
        Ok(())
    }

    /// Notes a file whose name is not UTF-8.
    pub(crate) fn leave_out(&mut self) {
        self.left_out = self.left_out.saturating_add(1);
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(crate) fn resolve(&self, path: &str) -> Option<&str> {
        resolve(&self.nodes, path)
    }
}

fn resolve<'n>(nodes: &'n BTreeMap<String, Node>, path: &str) -> Option<&'n str> {
    let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut done = String::new();
    let mut links = 0_usize;
    while let Some(part) = todo.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                done.truncate(done.rfind('/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let parent = done.len();
        done.push('/');
        done.push_str(&part);
        if done.len() > PATH_MAX {
            return None;
        }
        if let Kind::Link(target) = &nodes.get(&done)?.kind {
            links = links.saturating_add(1);
            if links > LINKS_MAX {
                return None;
            }
            done.truncate(if target.starts_with('/') { 0 } else { parent });
            todo.extend(target.split('/').rev().map(str::to_owned));
        }
    }
    let done = if done.is_empty() { "/" } else { done.as_str() };
    nodes.get_key_value(done).map(|(path, _)| path.as_str())
}

#[cfg(test)]
mod tests {
    use super::{Kind, Node, Nodes};

    fn nodes(files: &[(&str, Kind)]) -> Nodes {
        let mut nodes = Nodes::default();
        for (path, kind) in files {
            let node = Node { kind: kind.clone(), mode: 0o755, uid: 0, gid: 0, size: 0, modified: 0, at: 0 };
            nodes.add((*path).to_owned(), node).unwrap();
        }
        nodes
    }

    fn link(target: &str) -> Kind {
        Kind::Link(target.to_owned())
    }

    #[test]
    fn a_link_never_leaves_the_tree() {
        let nodes = nodes(&[
            ("/etc", Kind::Directory),
            ("/etc/passwd", Kind::File),
            ("/etc/up", link("../../../../etc/passwd")),
            ("/etc/absolute", link("/etc/passwd")),
            ("/lib", link("usr/lib")),
            ("/usr", Kind::Directory),
            ("/usr/lib", Kind::Directory),
            ("/usr/lib/x", Kind::File),
            ("/a", link("/b")),
            ("/b", link("a")),
            ("/hole", link("/etc/nothing")),
        ]);
        for path in ["/etc/passwd", "/etc/up", "/etc/absolute", "../etc/./up", "/etc/../etc//passwd"] {
            assert_eq!(nodes.resolve(path), Some("/etc/passwd"), "{path}");
        }
        assert_eq!(nodes.resolve("/lib/x"), Some("/usr/lib/x"));
        assert_eq!(nodes.resolve("/../.."), Some("/"));
        assert_eq!(nodes.resolve("/a"), None, "links in a circle");
        assert_eq!(nodes.resolve("/hole"), None);
        assert_eq!(nodes.resolve("/etc/passwd/x"), None);
    }

    #[test]
    fn what_a_running_guest_covers_is_not_in_the_tree() {
        let nodes =
            nodes(&[("/proc", Kind::Directory), ("/proc/1", Kind::Directory), ("/process", Kind::File)]);
        assert!(nodes.get("/proc").is_some() && nodes.get("/process").is_some());
        assert!(nodes.get("/proc/1").is_none());
    }
}
