//! What can be wrong with an image, and what to do about it.

use std::io;
use std::path::PathBuf;

/// Why an image, or something in it, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image as a whole.
    #[error("{path} could not be read as an image", path = path.display())]
    Image {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// The host could not read.
    #[error("{what} could not be read")]
    Read {
        /// What was read.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ends too early.
    #[error("{what} at {offset} with {len} bytes is outside of the {size} bytes that there are")]
    Outside {
        /// What should be there.
        what: &'static str,
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
        /// What there is.
        size: u64,
    },
    /// Neither a directory nor a regular file.
    #[error("it is neither a directory nor a regular file")]
    NoFile,
    /// An image format that is told by name only.
    #[error(
        "it is a {format} image, which is not read; make a raw or qcow2 one of it with `qemu-img convert -O qcow2`"
    )]
    Format {
        /// Its name.
        format: &'static str,
    },
    /// A compressed file with something else in it than an archive.
    #[error("it is compressed with {compression}, and what is in it is no tar archive; decompress it first")]
    CompressedDisk {
        /// With what.
        compression: &'static str,
    },
    /// What was decompressed takes too much.
    #[error("it has more than {limit} bytes when decompressed")]
    Decompressed {
        /// Most bytes.
        limit: u64,
    },
    /// A qcow2 that cannot be read.
    #[error("its qcow2 header asks for what is not read: {what}")]
    Qcow2Unsupported {
        /// What, and what to do.
        what: String,
    },
    /// A qcow2 that contradicts itself.
    #[error("its qcow2 {what} is {found}, and at most {limit} makes sense")]
    Qcow2Value {
        /// Name of the field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A compressed cluster of a qcow2 is broken.
    #[error("the compressed cluster at {offset} of its file could not be decompressed")]
    Qcow2Cluster {
        /// Where in the file.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A partition table that cannot be.
    #[error("its partition table has {what} {found}, and at most {limit} makes sense")]
    PartitionTable {
        /// What.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// Not one file system that is read.
    #[error(
        "none of its file systems is an ext2, ext3 or ext4 with a root directory of Linux: it has {found}; give a tar archive or a \
         directory of the root file system (`virt-tar-out -a IMAGE / root.tar`, or mount it read-only)"
    )]
    NoRoot {
        /// What was found instead.
        found: String,
    },
    /// More than one root file system.
    #[error("{count} of its partitions hold a root file system ({which}); say which with --partition N")]
    SeveralRoots {
        /// How many.
        count: usize,
        /// Their numbers.
        which: String,
    },
    /// No such partition.
    #[error("it has no partition {number}: it has {found}")]
    NoPartition {
        /// Wanted.
        number: u32,
        /// What there is.
        found: String,
    },
    /// Partitions of something that is not a disk.
    #[error("a partition is asked for, and it is no disk")]
    NoDisk,
    /// The file system's reader refused.
    #[error("its ext file system could not be read at {path}: {detail}")]
    Ext {
        /// Where in the tree.
        path: String,
        /// The reader's words.
        detail: String,
    },
    /// A member of an archive.
    #[error("the member {member} of the archive {what}")]
    Member {
        /// Its name.
        member: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// More than any image has.
    #[error("it has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A file of the tree that is too large for what it is read for.
    #[error("{path} has {size} bytes, and at most {limit} are read of such a file")]
    FileTooLarge {
        /// Its path in the tree.
        path: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// No such file in the tree.
    #[error("there is no file {path} in the image")]
    NoSuchFile {
        /// Its path.
        path: String,
    },
    /// Nothing in the tree looks like Linux.
    #[error("it has no program that could run; is it the root file system of a Linux system?")]
    NoPrograms,
}
