//! What can be executed: ELF files and scripts with an execute bit, in the directories in which an installed system has programs.
//!
//! Each file is read once, for its digest and those of its pages of 4 KiB, which is what a kernel maps.

use super::{Package, Packages};
use crate::open::hex;
use crate::{Error, Kind, Tree};
use sha2::{Digest, Sha256};

/// Where programs are installed. What runs from elsewhere (`/tmp`, `/home`, `/var`) is not born with the image.
const PLACES: [&str; 8] = ["/bin/", "/etc/", "/lib/", "/lib64/", "/opt/", "/sbin/", "/srv/", "/usr/"];
/// Most programs; a desktop has some ten thousand.
const PROGRAMS_MAX: usize = 100_000;
/// Largest program.
const PROGRAM_MAX: u64 = 4 << 30;
/// Most bytes of all programs, so that their digests end some day.
const TOTAL_MAX: u64 = 64 << 30;
/// Most pages whose digests are kept: those of 4 GiB.
const PAGES_MAX: usize = 1 << 20;
const PAGE: usize = 4096;
/// Longest first line of a script (`BINPRM_BUF_SIZE`).
const SHEBANG_MAX: usize = 256;

/// Something that can be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its path, without links: the one that the kernel has of a process that runs it.
    pub path: String,
    /// What it is.
    pub kind: ProgramKind,
    /// Permissions, with the set-id bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// SHA-256 of each page of 4 KiB; of the last one, what there is of it. Empty when the image has too many.
    pub pages: Vec<[u8; 32]>,
    /// The package it is from.
    pub package: Option<Package>,
}

/// What a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramKind {
    /// Machine code.
    Elf,
    /// A script, and the path that its first line names.
    Script {
        /// The interpreter, as written.
        interpreter: String,
    },
}

pub(super) fn read(tree: &Tree, packages: &Packages) -> Result<Vec<Program>, Error> {
    let mut programs = Vec::new();
    let (mut total, mut pages_kept) = (0_u64, 0_usize);
    for (path, node) in tree.iter() {
        let in_root = path.rfind('/') == Some(0);
        let installed = in_root || PLACES.iter().any(|place| path.starts_with(place));
        if node.kind != Kind::File || node.mode & 0o111 == 0 || !installed {
            continue;
        }
        let start = read_start(tree, path)?;
        let Some(kind) = kind(&start) else { continue };
        total = total.saturating_add(node.size);
        if node.size > PROGRAM_MAX || total > TOTAL_MAX {
            let limit = if node.size > PROGRAM_MAX { PROGRAM_MAX } else { TOTAL_MAX };
            return Err(Error::FileTooLarge { path: path.to_owned(), size: node.size, limit });
        }
        let (sha256, mut pages) = digests(tree, path)?;
        pages_kept = pages_kept.saturating_add(pages.len());
        if pages_kept > PAGES_MAX {
            pages.clear();
        }
        programs.push(Program {
            path: path.to_owned(),
            kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            size: node.size,
            sha256,
            pages,
            package: packages.owner(path).cloned(),
        });
        if programs.len() > PROGRAMS_MAX {
            return Err(Error::TooMany { what: "programs", limit: PROGRAMS_MAX });
        }
    }
    Ok(programs)
}

fn read_start(tree: &Tree, path: &str) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let mut start = Vec::new();
    let failed = |source| Error::Read { what: path.to_owned(), source };
    tree.open(path)?.take(SHEBANG_MAX as u64).read_to_end(&mut start).map_err(failed)?;
    Ok(start)
}

fn kind(start: &[u8]) -> Option<ProgramKind> {
    if start.starts_with(b"\x7fELF") {
        return Some(ProgramKind::Elf);
    }
    let line = start.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let interpreter = String::from_utf8_lossy(line).split_whitespace().next()?.to_owned();
    Some(ProgramKind::Script { interpreter })
}

/// The digest of a file and those of its pages.
fn digests(tree: &Tree, path: &str) -> Result<(String, Vec<[u8; 32]>), Error> {
    let failed = |source| Error::Read { what: path.to_owned(), source };
    let mut reader = tree.open(path)?;
    let mut whole = Sha256::new();
    let mut pages = Vec::new();
    let mut page = vec![0; PAGE];
    loop {
        let mut filled = 0_usize;
        while let Some(rest) = page.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match reader.read(rest).map_err(failed)? {
                0 => break,
                more => filled = filled.saturating_add(more),
            }
        }
        let Some(part) = page.get(..filled).filter(|part| !part.is_empty()) else { break };
        whole.update(part);
        if pages.len() < PAGES_MAX {
            pages.push(Sha256::digest(part).into());
        }
        if filled < PAGE {
            break;
        }
    }
    Ok((hex(&whole.finalize()), pages))
}
