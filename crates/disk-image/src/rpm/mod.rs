//! RPM's database: the packages of an image and the files they own, in each of the formats that rpm has had.
//!
//! - `sqlite`: `rpmdb.sqlite`, rows of one table of an SQLite file, with its write-ahead log
//! - `ndb`: `Packages.db`, rpm's own format
//! - `bdb`: `Packages`, a hash table of Berkeley DB
//! - `header`: what one package says of itself
//!
//! The database is from an image and as hostile as that: every page is followed once, every number is checked against what there
//! is, and what is wrong ends the reading with its place. It is what the image says of itself; nothing proves it. Must never write,
//! and must never give a part of a damaged database for the whole.

mod bdb;
mod header;
mod ndb;
mod sqlite;

pub use header::Installed;

use sqlite::{Sqlite, Value};

/// Most packages; a large desktop has five thousand.
const PACKAGES_MAX: usize = 100_000;
/// Most files and directories of all packages; a large desktop has half a million.
const FILES_MAX: usize = 10_000_000;

/// Why a database could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpmError {
    /// Another file.
    #[error("it is no database of rpm")]
    NoDatabase,
    /// A field of the file's header.
    #[error("its {what} is {found}, which makes no sense")]
    Field {
        /// Which.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// A page.
    #[error("its page {page} {what}")]
    Page {
        /// Its number.
        page: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No table of packages.
    #[error("it has no table Packages")]
    NoTable,
    /// A row of the table.
    #[error("its package {row} {what}")]
    Package {
        /// Number of the row.
        row: i64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// More than any system has.
    #[error("it has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// What is done with each package: its number and its header.
type Take<'t> = dyn FnMut(i64, &[u8]) -> Result<(), RpmError> + 't;

/// Reads the packages of a database, whatever its format, and of its write-ahead log (empty: there is none; only SQLite has one), in
/// the order of their installation.
pub fn read(database: &[u8], log: &[u8], mut take: impl FnMut(Installed)) -> Result<(), RpmError> {
    let (mut count, mut files) = (0_usize, 0_usize);
    let mut one = |row: i64, blob: &[u8]| {
        count = count.saturating_add(1);
        if count > PACKAGES_MAX {
            return Err(RpmError::TooMany { what: "packages", limit: PACKAGES_MAX });
        }
        let package = header::parse(blob).map_err(|what| RpmError::Package { row, what })?;
        files = files.saturating_add(package.directories.len()).saturating_add(package.files.len());
        if files > FILES_MAX {
            return Err(RpmError::TooMany { what: "files of packages", limit: FILES_MAX });
        }
        take(package);
        Ok(())
    };
    if database.starts_with(ndb::MAGIC) {
        return ndb::blobs(database, &mut one);
    }
    if bdb::is_one(database) {
        return bdb::blobs(database, &mut one);
    }
    let sqlite = Sqlite::open(database, log)?;
    let root = sqlite.table("Packages")?.ok_or(RpmError::NoTable)?;
    sqlite.rows(root, &mut |row, values| match values.get(1) {
        Some(Value::Bytes(blob)) => one(row, blob),
        _ => Err(RpmError::Package { row, what: "has no header" }),
    })
}
