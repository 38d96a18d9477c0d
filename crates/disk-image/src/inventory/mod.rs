//! What of a tree can run, and what the tree itself says about it.
//!
//! - `programs`: executables and scripts, with their digests
//! - `packages`: the databases of dpkg and RPM: which package a file is from
//! - `units`: what systemd starts, as whom, and what it listens on
//! - `accounts`: names of users and groups
//! - `kernels`: kernel images and modules
//!
//! Same tree, same inventory, byte for byte: everything is in the order of its path. What is not understood is noted in a sentence
//! and left out; it is never guessed.

mod accounts;
mod kernels;
mod packages;
mod programs;
mod units;

pub use accounts::Accounts;
pub use kernels::KernelFiles;
pub use packages::{Package, Packages};
pub use programs::{Program, ProgramKind};
pub use units::{Listen, Service, Socket};

use crate::{Error, Kind, Tree};

/// Most bytes of a text file that is read.
const TEXT_MAX: u64 = 256 << 20;

/// What of a tree can run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Executables and scripts, by path.
    pub programs: Vec<Program>,
    /// What systemd may start.
    pub services: Vec<Service>,
    /// What systemd may listen on.
    pub sockets: Vec<Socket>,
    /// Kernels, by release.
    pub kernels: Vec<KernelFiles>,
    /// Users and groups.
    pub accounts: Accounts,
    /// How many packages are installed.
    pub packages: usize,
    /// Last modification of the newest regular file, in seconds since 1970.
    pub newest: i64,
    /// What was not understood, in sentences.
    pub notes: Vec<String>,
}

/// Looks at everything in a tree. `Err`: something of it could not be read, or nothing in it can run.
pub fn inventory(tree: &Tree) -> Result<Inventory, Error> {
    let mut notes = Vec::new();
    if tree.left_out() > 0 {
        notes.push(format!("{} files have names that are not UTF-8 and were left out.", tree.left_out()));
    }
    let accounts = Accounts::read(tree)?;
    let packages = Packages::read(tree, &mut notes)?;
    let programs = programs::read(tree, &packages)?;
    if programs.is_empty() {
        return Err(Error::NoPrograms);
    }
    let (services, sockets) = units::read(tree, &accounts, &mut notes)?;
    let files = tree.iter().filter(|(_, node)| node.kind == Kind::File);
    Ok(Inventory {
        programs,
        services,
        sockets,
        kernels: kernels::read(tree),
        packages: packages.len(),
        accounts,
        newest: files.map(|(_, node)| node.modified).max().unwrap_or(0),
        notes,
    })
}
