//! An ext2, ext3 or ext4 file system as a tree, read by the crate `ext4-view` out of whatever it is stored in.
//!
//! What that crate would believe at any size (blocks, block groups, the length of a link) is checked before it sees it. A journal that was not replayed is replayed in memory by that crate; nothing is written. A directory that is its own parent is bounded
//! by the limits of [`Nodes`].

use super::{Contents, Kind, Node, Nodes, Tree};
use crate::Error;
use crate::disk::Blocks;
use ext4_view::{Ext4, Ext4Read};
use std::io::Read;
use std::rc::Rc;

/// Largest block, as in Linux: 64 KiB.
const LOG_BLOCK_MAX: u32 = 6;
/// Most block groups: 128 TiB in blocks of 4 KiB.
const GROUPS_MAX: u64 = 1 << 20;
/// Longest link, as in Linux (`PATH_MAX`).
const LINK_MAX: u64 = 4096;
/// Where the superblock is, and how much of it.
const SUPERBLOCK: (u64, usize) = (1024, 1024);

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
        plausible(blocks.as_ref())?;
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
                if nodes.get(&path).is_some() {
                    let detail = "the directory has this name twice".to_owned();
                    return Err(Error::Ext { path, detail });
                }
                let found = entry.metadata().map_err(|error| failed(&path, &error))?;
                let kind = if found.is_dir() {
                    Kind::Directory
                } else if found.is_symlink() && found.len() > LINK_MAX {
                    Kind::Other
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

/// `Err` for a superblock whose numbers would take memory without end. Whether they are right is for the crate to say.
fn plausible(blocks: &dyn Blocks) -> Result<(), Error> {
    let mut superblock = vec![0; SUPERBLOCK.1];
    blocks.read_at(SUPERBLOCK.0, &mut superblock)?;
    let word = |at: usize| {
        let bytes = superblock.get(at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let refused = |what: String| Err(Error::Ext { path: "/".to_owned(), detail: what });
    let log = word(24);
    if log > LOG_BLOCK_MAX {
        return refused(format!(
            "its blocks have 2^{} bytes, and at most 2^16 makes sense",
            log.saturating_add(10)
        ));
    }
    // The upper half counts where block numbers have 64 bits.
    let high = if word(96) & 0x80 != 0 { word(336) } else { 0 };
    let count = u64::from(high) << 32 | u64::from(word(4));
    let groups = count.saturating_sub(word(20).into()).div_ceil(u64::from(word(32)).max(1));
    if groups > GROUPS_MAX {
        return refused(format!("it has {groups} block groups, and at most {GROUPS_MAX} make sense"));
    }
    Ok(())
}
