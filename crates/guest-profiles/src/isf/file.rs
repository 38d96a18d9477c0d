//! Symbol files on disk: `.json`, or compressed by xz, which Volatility reads too.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use lzma_rust2::{XzOptions, XzWriter};

use super::read;
use crate::error::Error;
use crate::profile::{Profile, Wanted};
use crate::store;

/// Reads a symbol file, compressed or not, as its first bytes say. See [`read()`].
pub fn read_file(path: &Path, wanted: &Wanted) -> Result<Profile, Error> {
    let file = File::open(path).map_err(|source| Error::StoreRead { path: path.to_owned(), source })?;
    let profile = read(store::json(file), wanted);
    profile.map_err(|source| Error::IsfFile { path: path.to_owned(), source: Box::new(source) })
}

/// Compresses what `write` writes; quickly rather than well, because a kernel has 30 MB of it.
pub fn pack(write: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::IsfPack { source };
    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).map_err(failed)?;
    write(&mut writer)?;
    writer.finish().map_err(failed)
}
