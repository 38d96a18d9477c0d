//! An ext2, ext3 or ext4 file system as a tree, read by the crate `ext4-view` out of whatever it is stored in.
//!
//! A journal that was not replayed is replayed in memory by that crate; nothing is written. A directory that is its own parent is bounded
//! by the limits of [`Nodes`].

use super::{Contents, Kind, Node, Nodes, Tree};
use crate::Error;
use crate::disk::Blocks;
use ext4_view::{Ext4, Ext4Read};
use std::io::Read;
use std::rc::Rc;

/// An ext file system.
pub(crate) struct Ext(Ext4);

struct Reader(Rc<dyn Blocks>);

impl Ext4Read for Reader {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        self.0.read_at(start_byte, dst).map_err(Into::into)
    }
}

impl Ext {
    pub(crate) fn load(blocks: Rc<dyn Blocks>) -> Result<Self, Error> {
        Ext4::load(Box::new(Reader(blocks))).map(Self).map_err(|error| failed("/", &error))
    }

    /// Whether it looks like the root of a Linux system.
    pub(crate) fn is_root(&self) -> bool {
        let is_there = |path: &str| self.0.symlink_metadata(path).is_ok();
        is_there("/etc") && (is_there("/usr") || is_there("/bin") || is_there("/sbin"))
    }

    pub(crate) fn tree(self) -> Result<Tree, Error> {
        let mut nodes = Nodes::default();
        let mut open = vec![String::new()];
        while let Some(directory) = open.pop() {
            let shown = if directory.is_empty() { "/" } else { directory.as_str() };
            for entry in self.0.read_dir(shown).map_err(|error| failed(shown, &error))? {
                let entry = entry.map_err(|error| failed(shown, &error))?;
                let name = entry.file_name();
                let Ok(name) = name.as_str() else {
                    nodes.leave_out();
                    continue;
                };
                if name == "." || name == ".." {
                    continue;
                }
                let path = format!("{directory}/{name}");
                let found = entry.metadata().map_err(|error| failed(&path, &error))?;
                let kind = if found.is_dir() {
                    Kind::Directory
                } else if found.is_symlink() {
                    let target = self.0.read_link(&path).map_err(|error| failed(&path, &error))?;
                    target.to_str().map_or(Kind::Other, |target| Kind::Link(target.to_owned()))
                } else if found.file_type().is_regular_file() {
                    Kind::File
                } else {
                    Kind::Other
                };
                if kind == Kind::Directory && Nodes::enters(&path) {
                    open.push(path.clone());
                }
                let node = Node {
                    mode: u32::from(found.mode()),
                    uid: found.uid(),
                    gid: found.gid(),
                    size: if kind == Kind::File { found.len() } else { 0 },
                    modified: found.modified().seconds(),
                    at: 0,
                    kind,
                };
                nodes.add(path, node)?;
            }
        }
        Ok(Tree::new(nodes, Box::new(self)))
    }
}

impl Contents for Ext {
    fn open(&self, path: &str, node: &Node) -> Result<Box<dyn Read + '_>, Error> {
        let file = self.0.open(path).map_err(|error| failed(path, &error))?;
        Ok(Box::new(file.take(node.size)))
    }
}

fn failed(path: &str, error: &ext4_view::Ext4Error) -> Error {
    Error::Ext { path: path.to_owned(), detail: error.to_string() }
}
