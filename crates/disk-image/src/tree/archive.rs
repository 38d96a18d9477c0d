//! A tar archive as a tree: ustar, GNU and pax, compressed or not.
//!
//! It is indexed once; contents are read at their offsets. A compressed one is decompressed into a temporary file without a name
//! (in `TMPDIR`), since its parts cannot be found otherwise. Names are those that extracting it would give: a later member replaces an
//! earlier one, and a member below a link lands where the link leads. One that would land outside is refused.

use super::{Contents, Kind, Node, Nodes, Tree};
use crate::Error;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::FileExt;

/// Most bytes of a decompressed archive.
const DECOMPRESSED_MAX: u64 = 64 << 30;
/// Largest window of a decoder, in bytes.
const WINDOW_MAX: u32 = 128 << 20;
/// Longest name in an extension header.
const EXTENSION_MAX: u64 = 1 << 20;

/// An archive that is not compressed, or not any more.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
}

/// Whether a file that starts so is a tar archive: its first header has the checksum that it should have.
pub(crate) fn is_archive(start: &[u8]) -> bool {
    let Some(block) = start.first_chunk::<512>() else { return false };
    let header = tar::Header::from_byte_slice(block);
    let sum = block.iter().enumerate().fold(0_u32, |sum, (at, byte)| {
        // The checksum's own place counts as spaces.
        sum.saturating_add(u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
    });
    block.iter().any(|byte| *byte != 0) && header.cksum().is_ok_and(|stated| stated == sum)
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Compression {
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// By the first bytes of a file.
    pub(crate) fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "Zstandard",
        }
    }

    fn reader(self, input: impl Read + 'static) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(input)),
            Self::Xz => Box::new(XzReader::new_mem_limit(input, true, WINDOW_MAX / 1024)),
            Self::Zstd => Box::new(
                StreamingDecoder::new_with_max_window_size(input, WINDOW_MAX.into())
                    .map_err(io::Error::other)?,
            ),
        })
    }
}

impl Archive {
    /// Decompresses a file that should have an archive in it.
    pub(crate) fn decompress(file: File, compression: Compression) -> Result<File, Error> {
        let reading = |source| Error::Read { what: format!("{} stream", compression.name()), source };
        let storing = |source| Error::Read { what: "temporary file of the archive".to_owned(), source };
        let mut reader = compression.reader(BufReader::new(file)).map_err(reading)?;
        let mut start = vec![0; 512];
        let mut filled = 0_usize;
        while let Some(rest) = start.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match reader.read(rest).map_err(reading)? {
                0 => break,
                more => filled = filled.saturating_add(more),
            }
        }
        if !is_archive(&start) {
            return Err(Error::CompressedDisk { compression: compression.name() });
        }
        let mut output = BufWriter::new(tempfile::tempfile().map_err(storing)?);
        output.write_all(&start).map_err(storing)?;
        let mut chunk = vec![0; 64 << 10];
        let mut total = 512_u64;
        loop {
            let len = reader.read(&mut chunk).map_err(reading)?;
            let Some(part) = chunk.get(..len).filter(|part| !part.is_empty()) else { break };
            total = total.saturating_add(len as u64);
            if total > DECOMPRESSED_MAX {
                return Err(Error::Decompressed { limit: DECOMPRESSED_MAX });
            }
            output.write_all(part).map_err(storing)?;
        }
        output.into_inner().map_err(|error| storing(error.into_error()))
    }

    pub(crate) fn tree(file: File) -> Result<Tree, Error> {
        let reading = |source| Error::Read { what: "archive".to_owned(), source };
        let mut handle = file.try_clone().map_err(reading)?;
        handle.rewind().map_err(reading)?;
        let mut nodes = Nodes::default();
        let mut named = Named::default();
        let mut archive = tar::Archive::new(handle);
        // Raw: the crate would read extension headers of any size into memory.
        for entry in archive.entries_with_seek().map_err(reading)?.raw(true) {
            let mut entry = entry.map_err(reading)?;
            if !named.extension(&mut entry)? {
                member(&mut nodes, std::mem::take(&mut named), &entry)?;
            }
        }
        Ok(Tree::new(nodes, Box::new(Self { file })))
    }
}

/// What the extension headers before a member say of it.
#[derive(Debug, Default)]
struct Named {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<i64>,
    sparse: bool,
}

impl Named {
    /// Takes an extension header. `false`: it is none.
    fn extension<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<bool, Error> {
        let kind = entry.header().entry_type();
        let is_extension = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if !is_extension {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        let reading = |source| Error::Read { what: "extension header of the archive".to_owned(), source };
        entry.take(EXTENSION_MAX.saturating_add(1)).read_to_end(&mut bytes).map_err(reading)?;
        if bytes.len() as u64 > EXTENSION_MAX {
            return Err(Error::TooMany { what: "bytes in an extension header", limit: 1 << 20 });
        }
        if kind.is_gnu_longname() || kind.is_gnu_longlink() {
            bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
            *(if kind.is_gnu_longname() { &mut self.path } else { &mut self.link }) = Some(bytes);
        } else if kind.is_pax_local_extensions() {
            for record in tar::PaxExtensions::new(&bytes) {
                let record = record.map_err(reading)?;
                let text = record.value().unwrap_or_default();
                match record.key_bytes() {
                    b"path" => self.path = Some(record.value_bytes().to_vec()),
                    b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                    b"size" => self.size = text.parse().ok(),
                    b"uid" => self.uid = text.parse().ok(),
                    b"gid" => self.gid = text.parse().ok(),
                    b"mtime" => self.modified = text.split('.').next().and_then(|whole| whole.parse().ok()),
                    key => self.sparse |= key.starts_with(b"GNU.sparse."),
                }
            }
        }
        Ok(true)
    }
}

fn member<R: Read>(nodes: &mut Nodes, named: Named, entry: &tar::Entry<'_, R>) -> Result<(), Error> {
    let header = entry.header();
    let raw = named.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let refused =
        |what| Error::Member { member: String::from_utf8_lossy(&raw).chars().take(200).collect(), what };
    let Ok(name) = std::str::from_utf8(&raw) else {
        nodes.leave_out();
        return Ok(());
    };
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(refused("would lie outside of the tree"));
    }
    let Some((last, directories)) = parts.split_last() else { return Ok(()) };
    let parent = directory(nodes, directories)?;
    let path = format!("{}/{last}", parent.trim_end_matches('/'));
    let number = |value: io::Result<u64>| value.ok().and_then(|value| u32::try_from(value).ok());
    let mut node = Node {
        kind: Kind::Other,
        mode: header.mode().map_err(|_| refused("has a mode that is no number"))? & 0o7777,
        uid: named.uid.or(number(header.uid())).ok_or_else(|| refused("has an owner that is no number"))?,
        gid: named.gid.or(number(header.gid())).ok_or_else(|| refused("has a group that is no number"))?,
        size: 0,
        modified: named.modified.or(header.mtime().ok().and_then(|time| time.try_into().ok())).unwrap_or(0),
        at: 0,
    };
    let link = named.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
    let link = link.and_then(|link| String::from_utf8(link).ok());
    let kind = header.entry_type();
    if kind.is_gnu_sparse() || named.sparse {
        return Err(refused("is stored with its holes left out; make the archive without --sparse"));
    } else if kind.is_dir() {
        node.kind = Kind::Directory;
        // A link to a directory stays one, as when it is extracted.
        if nodes.get(&path).is_some_and(|known| matches!(known.kind, Kind::Link(_))) {
            return Ok(());
        }
    } else if kind.is_symlink() {
        node.kind = Kind::Link(link.ok_or_else(|| refused("is a link to what is no UTF-8"))?);
    } else if kind.is_hard_link() {
        let target = link.ok_or_else(|| refused("is a link to what is no UTF-8"))?;
        let parts: Vec<&str> = target.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let known = if parts.contains(&"..") { None } else { nodes.get(&format!("/{}", parts.join("/"))) };
        node = known.cloned().ok_or_else(|| refused("is a link to what is not before it in the archive"))?;
    } else if kind.is_file() || kind.is_contiguous() {
        node.kind = Kind::File;
        node.size = header.entry_size().map_err(|_| refused("has a size that is no number"))?;
        if named.size.is_some_and(|size| size != node.size) {
            return Err(refused("is larger than 8 GiB, which only an image of another format can hold"));
        }
        node.at = entry.raw_file_position();
    }
    nodes.add(path, node)
}

/// The directory of these names, made as far as it is missing, and where it really is.
fn directory(nodes: &mut Nodes, names: &[&str]) -> Result<String, Error> {
    let mut path = String::from("/");
    for name in names {
        let next = format!("{}/{name}", path.trim_end_matches('/'));
        if nodes.get(&next).is_none() {
            let node =
                Node { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, size: 0, modified: 0, at: 0 };
            nodes.add(next.clone(), node)?;
        }
        // A link that leads nowhere yet is not followed; what is below it cannot be found then, and does not exist.
        path = nodes.resolve(&next).map_or(next, str::to_owned);
    }
    Ok(path)
}

impl Contents for Archive {
    fn open(&self, _: &str, node: &Node) -> Result<Box<dyn Read + '_>, Error> {
        Ok(Box::new(Member { file: &self.file, at: node.at, rest: node.size }))
    }
}

/// The bytes of a member.
struct Member<'a> {
    file: &'a File,
    at: u64,
    rest: u64,
}

impl Read for Member<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.rest).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let len = self.file.read_at(buffer, self.at)?;
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within the member"));
        }
        self.at = self.at.saturating_add(len as u64);
        self.rest = self.rest.saturating_sub(len as u64);
        Ok(len)
    }
}
