//! The host's profile store, as this command uses it.
//!
//! `/var/lib/birthmark/profiles`, which is written to, then `/usr/share/birthmark/profiles`, which came with the program.

use guest_profiles::Store;
use std::path::PathBuf;

/// Names other directories, separated by `:`, of which the first is written to; empty: there is no store.
const DIRECTORIES: &str = "BIRTHMARK_PROFILES";

/// The store.
pub(crate) fn store() -> Store {
    let directories = match std::env::var_os(DIRECTORIES) {
        Some(paths) => std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect(),
        None => vec![PathBuf::from(Store::WRITABLE), PathBuf::from(Store::SHIPPED)],
    };
    Store::new(directories)
}
