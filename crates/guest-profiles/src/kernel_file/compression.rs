//! Everything that kernels and Debian's packages are compressed with, as streams.
//!
//! All decoders are pure Rust and bounded: no window is larger than [`WINDOW_MAX`], and the reader of a stream says how much it
//! takes. bzip2 and LZO are known by name only: no kernel that Debian ships has used them.

use std::fmt;
use std::io::{self, Read};

use flate2::read::{GzDecoder, ZlibDecoder};
use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::StreamingDecoder;

use crate::Error;

/// Largest window (dictionary) of a decoder, in bytes: `XZ_DICT_MAX` of `scripts/xz_wrap.sh` and `ZSTD_WINDOWSIZE_MAX` of
/// `lib/decompress_unzstd.c` (Linux 6.12).
const WINDOW_MAX: u32 = 128 << 20;
/// Beside its dictionary an LZMA decoder has tables of some hundred KiB.
const LZMA_TABLES: u32 = 4 << 20;
/// Uncompressed bytes of each block but the last: `LZ4_DEFAULT_UNCOMPRESSED_CHUNK_SIZE` of `lib/decompress_unlz4.c` (Linux 6.12).
const LZ4_BLOCK: usize = 8 << 20;
/// Most compressed bytes of a block: `LZ4_compressBound` of [`LZ4_BLOCK`].
const LZ4_COMPRESSED: u32 = (8 << 20) + (8 << 20) / 255 + 16;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    /// What gzip wraps; sections of ELF files have it bare.
    Zlib,
    Bzip2,
    Lzma,
    Xz,
    Lzo,
    /// The format of `lz4 -l`: blocks without checksums.
    Lz4Legacy,
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zlib => "zlib",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "LZMA",
            Self::Xz => "xz",
            Self::Lzo => "LZO",
            Self::Lz4Legacy => "legacy LZ4",
            Self::Zstd => "Zstandard",
        })
    }
}

impl Compression {
    /// By the first bytes, as `lib/decompress.c` (Linux 6.12) tells a kernel's compressions apart.
    pub(super) fn of(start: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Compression); 9] = [
            (b"\x7fELF", Compression::None),
            (b"\x1f\x8b", Compression::Gzip),
            (b"\x1f\x9e", Compression::Gzip),
            (b"BZh", Compression::Bzip2),
            (b"\x5d\x00\x00", Compression::Lzma),
            (b"\xfd7zXZ\x00", Compression::Xz),
            (b"\x89LZO", Compression::Lzo),
            (b"\x02\x21\x4c\x18", Compression::Lz4Legacy),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        ];
        MAGICS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, compression)| *compression)
    }

    /// Decompresses `input`, which starts at `offset` of the file.
    pub(super) fn reader<'r>(self, input: impl Read + 'r, offset: u64) -> Result<Box<dyn Read + 'r>, Error> {
        let failed = |source| Error::Decompress { compression: self.to_string(), offset, source };
        let most = (WINDOW_MAX + LZMA_TABLES) / 1024;
        Ok(match self {
            Self::None => Box::new(input),
            Self::Gzip => Box::new(GzDecoder::new(input)),
            Self::Zlib => Box::new(ZlibDecoder::new(input)),
            Self::Xz => Box::new(XzReader::new_mem_limit(input, false, most)),
            Self::Lzma => Box::new(LzmaReader::new_mem_limit(input, most, None).map_err(failed)?),
            Self::Lz4Legacy => Box::new(Lz4Legacy::new(input)),
            Self::Zstd => Box::new(Zstd(
                StreamingDecoder::new_with_max_window_size(input, WINDOW_MAX.into())
                    .map_err(|error| failed(io::Error::other(error)))?,
            )),
            Self::Bzip2 | Self::Lzo => {
                return Err(Error::CompressionUnsupported { compression: self.to_string(), offset });
            }
        })
    }

    /// Decompresses all of `input`, which starts at `offset` of the file and must give just `len` bytes.
    pub(super) fn unpack(self, input: impl Read, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let failed = |source| Error::Decompress { compression: self.to_string(), offset, source };
        let mut reader = self.reader(input, offset)?;
        let mut bytes = Vec::new();
        // One byte more than there should be, so that the stream's end is reached and its checksum compared.
        reader.by_ref().take(len as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() != len {
            let found = if bytes.len() > len { "more".to_owned() } else { bytes.len().to_string() };
            return Err(Error::DecompressedLength {
                compression: self.to_string(),
                offset,
                found,
                expected: len,
            });
        }
        Ok(bytes)
    }
}

/// A Zstandard frame whose checksum is compared at its end, which the decoder leaves to its caller.
struct Zstd<R: Read>(StreamingDecoder<R, ruzstd::decoding::FrameDecoder>);

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.0.read(buffer)?;
        let decoder = &self.0.decoder;
        if len == 0 && !buffer.is_empty() {
            let stated = decoder.get_checksum_from_data();
            if stated.is_some() && stated != decoder.get_calculated_checksum() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "its checksum is not that of the data",
                ));
            }
        }
        Ok(len)
    }
}

/// Magic, then blocks: compressed size (4 bytes, little-endian) and LZ4 block.
struct Lz4Legacy<R> {
    input: R,
    started: bool,
    compressed: Vec<u8>,
    block: Vec<u8>,
    /// Bytes in `block`, and how many of them were handed out.
    filled: usize,
    taken: usize,
}

impl<R: Read> Lz4Legacy<R> {
    fn new(input: R) -> Self {
        Self { input, started: false, compressed: Vec::new(), block: Vec::new(), filled: 0, taken: 0 }
    }

    /// Reads the next block. `Ok(false)`: there is none.
    fn next_block(&mut self) -> io::Result<bool> {
        if !self.started {
            let mut magic = [0; 4];
            self.input.read_exact(&mut magic)?;
            self.started = true;
        }
        let mut size = Vec::with_capacity(4);
        self.input.by_ref().take(4).read_to_end(&mut size)?;
        let Ok(size) = <[u8; 4]>::try_from(size.as_slice()) else {
            return if size.is_empty() { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        };
        let size = u32::from_le_bytes(size);
        if size == 0 || size > LZ4_COMPRESSED {
            let text = format!("a block has {size} bytes, outside 1..={LZ4_COMPRESSED}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.compressed.clear();
        let read = self.input.by_ref().take(size.into()).read_to_end(&mut self.compressed)?;
        if read as u64 != u64::from(size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.block.is_empty() {
            // Fresh zeros cost nothing until they are written over.
            self.block = vec![0; LZ4_BLOCK];
        }
        self.filled = lz4_flex::block::decompress_into(&self.compressed, &mut self.block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.taken = 0;
        Ok(true)
    }
}

impl<R: Read> Read for Lz4Legacy<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.taken == self.filled {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let rest = self.block.get(self.taken..self.filled).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        if let (Some(target), Some(piece)) = (buffer.get_mut(..len), rest.get(..len)) {
            target.copy_from_slice(piece);
        }
        self.taken += len;
        Ok(len)
    }
}
