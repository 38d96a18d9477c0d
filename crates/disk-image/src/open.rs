//! Opens an image, whatever it is, by its content; and says what it is known by.

use crate::Error;
use crate::disk::{Blocks, Disk, FileSystem, Part, Qcow2, is_qcow2, partitions};
use crate::tree::{Archive, Compression, Directory, Ext, Kind, Tree, is_archive};
use nix::libc;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// A directory.
    Directory,
    /// A tar archive, compressed or not.
    Archive,
    /// The bytes of a disk or of a file system.
    Raw,
    /// A qcow2.
    Qcow2,
}

impl ImageKind {
    /// A word for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Archive => "tar archive",
            Self::Raw => "raw disk",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What an image is known by: an algorithm as in-toto names it, and lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDigest {
    /// `sha256` of the file, or `dirHash` of a directory.
    pub algorithm: &'static str,
    /// Lower-case hex.
    pub hex: String,
}

/// An image.
#[derive(Debug)]
pub struct Image {
    /// What it is.
    pub kind: ImageKind,
    /// The number of the partition that the tree is in, where there are partitions.
    pub partition: Option<u32>,
    /// Its files.
    pub tree: Tree,
    file: Option<File>,
}

impl Image {
    /// Opens an image. `partition`: the number of the one with the root file system, where it cannot be told otherwise.
    pub fn open(path: &Path, partition: Option<u32>) -> Result<Self, Error> {
        let failed = |source| Error::Image { path: path.to_owned(), source: Box::new(source) };
        Self::of(path, partition).map_err(failed)
    }

    fn of(path: &Path, partition: Option<u32>) -> Result<Self, Error> {
        let reading = |source| Error::Read { what: path.display().to_string(), source };
        let found = fs::metadata(path).map_err(reading)?;
        let no_disk = || if partition.is_some() { Err(Error::NoDisk) } else { Ok(()) };
        if found.is_dir() {
            no_disk()?;
            let tree = Directory::open(path)?;
            return Ok(Self { kind: ImageKind::Directory, partition: None, tree, file: None });
        }
        if !found.is_file() {
            return Err(Error::NoFile);
        }
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(reading)?;
        let mut start = vec![0; 1024];
        let len = file.read_at(&mut start, 0).map_err(reading)?;
        start.truncate(len);
        let kept = Some(file.try_clone().map_err(reading)?);
        if let Some(format) = foreign(&start) {
            return Err(Error::Format { format });
        }
        if let Some(compression) = Compression::of(&start) {
            no_disk()?;
            let tree = Archive::tree(Archive::decompress(file, compression)?)?;
            return Ok(Self { kind: ImageKind::Archive, partition: None, tree, file: kept });
        }
        if is_archive(&start) {
            no_disk()?;
            return Ok(Self {
                kind: ImageKind::Archive,
                partition: None,
                tree: Archive::tree(file)?,
                file: kept,
            });
        }
        let disk = Disk::new(file)?;
        let (kind, blocks): (_, Rc<dyn Blocks>) = if is_qcow2(&start) {
            (ImageKind::Qcow2, Rc::new(Qcow2::open(disk)?))
        } else {
            (ImageKind::Raw, Rc::new(disk))
        };
        let (partition, ext) = root(blocks, partition)?;
        Ok(Self { kind, partition, tree: ext.tree()?, file: kept })
    }

    /// What the image is known by. A file is read as it is; of a directory it is the hash of Go's `dirhash` (`h1`, in hex): of its
    /// regular files with their names, in order.
    pub fn digest(&self) -> Result<ImageDigest, Error> {
        let reading = |what: &str, source| Error::Read { what: what.to_owned(), source };
        if let Some(file) = &self.file {
            let mut file = file;
            file.rewind().map_err(|source| reading("image", source))?;
            let hex = sha256(&mut file).map_err(|source| reading("image", source))?;
            return Ok(ImageDigest { algorithm: "sha256", hex });
        }
        let mut whole = Sha256::new();
        for (path, _) in self.tree.iter().filter(|(_, node)| node.kind == Kind::File) {
            let hex = sha256(&mut self.tree.open(path)?).map_err(|source| reading(path, source))?;
            whole.update(format!("{hex}  {}\n", path.trim_start_matches('/')));
        }
        Ok(ImageDigest { algorithm: "dirHash", hex: hex(&whole.finalize()) })
    }
}

/// Image formats that are told by name only.
fn foreign(start: &[u8]) -> Option<&'static str> {
    const MAGICS: [(usize, &[u8], &str); 6] = [
        (0, b"KDMV", "VMDK"),
        (0, b"# Disk DescriptorFile", "VMDK"),
        (0, b"vhdxfile", "VHDX"),
        (0, b"conectix", "VHD"),
        (0x40, b"\x7f\x10\xda\xbe", "VDI"),
        (0, b"QED\0", "QED"),
    ];
    let has = |offset: usize, magic: &[u8]| start.get(offset..).is_some_and(|at| at.starts_with(magic));
    MAGICS.iter().find(|(offset, magic, _)| has(*offset, magic)).map(|(.., name)| *name)
}

/// The root file system of a disk, and the number of its partition.
fn root(disk: Rc<dyn Blocks>, wanted: Option<u32>) -> Result<(Option<u32>, Ext), Error> {
    let whole = FileSystem::of(disk.as_ref());
    if whole == FileSystem::Ext && wanted.is_none() {
        return Ok((None, Ext::load(disk)?));
    }
    let partitions = partitions(disk.as_ref())?;
    let mut found = Vec::new();
    let mut roots = Vec::new();
    for partition in &partitions {
        let part: Rc<dyn Blocks> = Rc::new(Part::new(Rc::clone(&disk), partition.start, partition.len)?);
        let file_system = FileSystem::of(part.as_ref());
        found.push(format!("{file_system} in partition {}", partition.number));
        match wanted {
            Some(number) if number == partition.number => {
                if file_system != FileSystem::Ext {
                    return Err(Error::NoRoot { found: found.pop().unwrap_or_default() });
                }
                return Ok((Some(number), Ext::load(part)?));
            }
            Some(_) => {}
            None if file_system == FileSystem::Ext => {
                let ext = Ext::load(part)?;
                if ext.is_root() {
                    roots.push((partition.number, ext));
                }
            }
            None => {}
        }
    }
    let found = if partitions.is_empty() { format!("no partitions, but {whole}") } else { found.join(", ") };
    if let Some(number) = wanted {
        return Err(Error::NoPartition { number, found });
    }
    if roots.len() > 1 {
        let which: Vec<_> = roots.iter().map(|(number, _)| number.to_string()).collect();
        return Err(Error::SeveralRoots { count: roots.len(), which: which.join(", ") });
    }
    let (number, ext) = roots.pop().ok_or(Error::NoRoot { found })?;
    Ok((Some(number), ext))
}

/// SHA-256 of all that a reader gives, in lower-case hex.
fn sha256(reader: &mut dyn Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let len = reader.read(&mut chunk)?;
        match chunk.get(..len) {
            Some(part) if !part.is_empty() => hash.update(part),
            _ => return Ok(hex(&hash.finalize())),
        }
    }
}

/// Bytes in lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
