//! Reads a kernel file into the same profile that a guest with this kernel would give, with no guest booted.
//!
//! - `bzimage`, `deb`: the wrappings, from the outside to the vmlinux in them
//! - `compression`: everything that these are compressed with
//! - `elf`: the vmlinux
//! - `dwarf`: layouts of a vmlinux without BTF
//! - `source`: bytes by offset, in memory or on disk
//!
//! What a guest tells of itself is asked of the file in the same way and by the same code: the symbol table that the kernel
//! carries, and with its symbols the banner, the ELF notes and the BTF. Where a kernel carries none of that, the file may have more:
//! `.symtab` or a `System.map` beside it, and DWARF.
//!
//! A kernel file is hostile: it may come from anywhere. Every size is checked before it is believed, no decoder gives more than was
//! announced, and the whole takes at most 256 MiB: a bzImage of 48, the vmlinux in it of 96, and a decoder's window as large.

mod bzimage;
mod compression;
mod deb;
mod dwarf;
mod elf;
mod source;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Btf, Error, Kallsyms, Profile, ProfileIdentity, Wanted, build_id, search_kallsyms, system_map};
use elf::Elf;
use source::{Disk, Source};

/// Where the kernel image is mapped (`__START_KERNEL_map`, `arch/x86/include/asm/page_64_types.h`); below are per-CPU offsets.
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Most bytes of the banner.
const BANNER_MAX: u64 = 512;
/// What the banner starts with (`init/version-timestamp.c`); the release follows.
const BANNER: &str = "Linux version ";
/// Most bytes of ELF notes; a kernel has a few hundred.
const NOTES_MAX: u64 = 64 << 10;
/// Most bytes of type information; Debian 7.2 has 7 MiB.
const BTF_MAX: u64 = 64 << 20;
/// Most bytes of a System.map; Debian's have 8 MiB.
const SYSTEM_MAP_MAX: u64 = 48 << 20;
/// Most entries of a directory that are looked at.
const ENTRIES_MAX: usize = 4096;
/// A data symbol that every kernel has: without it, the symbol table at hand has functions only.
const DATA_SYMBOL: &str = "init_task";

/// A kernel, read from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFile {
    /// What the engine needs of it.
    pub profile: Profile,
    /// What the kernel calls itself, `Linux version …`.
    pub banner: String,
    /// Where the layouts are from.
    pub layouts: LayoutSource,
}

/// Where the layouts of a kernel file are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutSource {
    /// The kernel's own type information, the same that a guest has in its memory.
    Btf,
    /// Debug information of the file; the guest has nothing of it.
    Dwarf,
}

/// Reads a bzImage, a vmlinux or a Debian package of one. `Err` names the file.
pub fn read(path: &Path, wanted: &Wanted) -> Result<KernelFile, Error> {
    let kernel = || {
        let disk = Disk::open(path)?;
        of_source(&disk, wanted, Some(path))
    };
    kernel().map_err(|source| Error::File { path: path.to_owned(), source: Box::new(source) })
}

/// As [`read`], of bytes.
pub fn parse(bytes: &[u8], wanted: &Wanted) -> Result<KernelFile, Error> {
    of_source(&bytes, wanted, None)
}

/// The kernels that `path` means: a file is one itself; of a directory those in it, in its `boot`, and in its `lib/modules/RELEASE`,
/// so that `/boot`, an unpacked package, and a module directory all do.
pub fn find(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source: Box::new(source) };
    let read = |source| failed(Error::FileRead { offset: 0, len: 0, source });
    if !fs::metadata(path).map_err(read)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut places = vec![path.to_owned(), path.join("boot")];
    for modules in ["lib/modules", "usr/lib/modules"] {
        places.extend(entries(&path.join(modules)));
    }
    let mut kernels: Vec<PathBuf> = places.iter().flat_map(|place| entries(place)).collect();
    kernels.retain(|kernel| {
        let name = kernel.file_name().unwrap_or_default().to_string_lossy();
        is_kernel_name(&name) && fs::symlink_metadata(kernel).is_ok_and(|found| found.is_file())
    });
    // `lib` may be a link to `usr/lib`.
    let mut seen = std::collections::BTreeSet::new();
    kernels.retain(|kernel| seen.insert(fs::canonicalize(kernel).unwrap_or_else(|_| kernel.clone())));
    if kernels.is_empty() { Err(failed(Error::DirectoryWithoutKernel)) } else { Ok(kernels) }
}

/// What is in a directory, in order; nothing if it is none.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().take(ENTRIES_MAX);
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

/// Whether a file of this name is a kernel: `vmlinuz`, `vmlinux`, with or without a release behind.
fn is_kernel_name(name: &str) -> bool {
    ["vmlinuz", "vmlinux"]
        .iter()
        .filter_map(|kind| name.strip_prefix(kind))
        .any(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn of_source(source: &dyn Source, wanted: &Wanted, path: Option<&Path>) -> Result<KernelFile, Error> {
    let start = source.bytes("start of the file", 0, source.len().min(1024))?;
    if deb::is_deb(&start) {
        let (name, bytes) = deb::kernel(source)?;
        let part =
            |source| Error::FilePart { part: format!("{name} of the package"), source: Box::new(source) };
        return not_a_package(&bytes.as_slice(), wanted, None).map_err(part);
    }
    not_a_package(source, wanted, path)
}

fn not_a_package(source: &dyn Source, wanted: &Wanted, path: Option<&Path>) -> Result<KernelFile, Error> {
    let start = source.bytes("start of the file", 0, source.len().min(1024))?;
    if bzimage::is_bzimage(&start) {
        let payload = bzimage::unpack(source)?;
        let part =
            |source| Error::FilePart { part: "vmlinux in the bzImage".to_owned(), source: Box::new(source) };
        return vmlinux(&payload.as_slice(), wanted, path).map_err(part);
    }
    if start.starts_with(b"\x7fELF") {
        return vmlinux(source, wanted, path);
    }
    let mut hexadecimal = String::new();
    for byte in start.iter().take(8) {
        // Writing to a String cannot fail.
        let _ = write!(hexadecimal, "{byte:02x} ");
    }
    let start = if hexadecimal.is_empty() {
        "nothing, it is empty".to_owned()
    } else {
        hexadecimal.trim_end().to_owned()
    };
    Err(Error::FileUnknown { start })
}

fn vmlinux(source: &dyn Source, wanted: &Wanted, path: Option<&Path>) -> Result<KernelFile, Error> {
    let elf = Elf::parse(source)?;
    let mut names = wanted.symbols.to_vec();
    let own = ["linux_banner", "__start_notes", "__stop_notes", "__start_BTF", "__stop_BTF", DATA_SYMBOL];
    names.extend(own);
    let symbols = symbols(&elf, &names, path)?;

    let banner = symbols.get("linux_banner").ok_or(Error::KernelWithout { what: "symbol linux_banner" })?;
    let banner = elf
        .at("banner", *banner, BANNER_MAX)?
        .ok_or(Error::KernelWithout { what: "bytes at linux_banner: it was stripped of them" })?;
    let banner = String::from_utf8_lossy(banner.split(|byte| *byte == 0).next().unwrap_or_default());
    let banner = banner.trim_end().to_owned();
    let release = banner
        .strip_prefix(BANNER)
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or(Error::KernelWithout { what: "banner that names its release" })?
        .to_owned();

    let notes = between(&elf, &symbols, "__start_notes", "__stop_notes", NOTES_MAX)?;
    let build_id = notes.and_then(|notes| build_id(&notes).ok());
    let identity = ProfileIdentity { release, build_id };
    let btf = between(&elf, &symbols, "__start_BTF", "__stop_BTF", BTF_MAX)?;
    let (profile, layouts) = match btf {
        Some(btf) => {
            let btf = Btf::parse(&btf)?;
            (Profile::from_btf(&btf, wanted, symbols, identity)?, LayoutSource::Btf)
        }
        None => {
            let what = "type information, neither BTF nor DWARF";
            let types = dwarf::types(&elf, wanted)?.ok_or(Error::KernelWithout { what })?;
            let mut profile = Profile::from_btf(&Btf::parse(&types)?, wanted, symbols, identity)?;
            profile.btf_digest = None;
            (profile, LayoutSource::Dwarf)
        }
    };
    let profile = profile.with_banner(Some(&banner));
    Ok(KernelFile { profile, banner, layouts })
}

/// The bytes between two symbols; `None` when the kernel has not both, or they enclose nothing.
fn between<'s>(
    elf: &Elf<'s>,
    symbols: &BTreeMap<String, u64>,
    start: &'static str,
    stop: &str,
    max: u64,
) -> Result<Option<Cow<'s, [u8]>>, Error> {
    let Some((start_at, stop)) = symbols.get(start).zip(symbols.get(stop)) else { return Ok(None) };
    let Some(len) = stop.checked_sub(*start_at).filter(|len| *len > 0) else { return Ok(None) };
    if len > max {
        return Err(Error::FileTooLarge { what: format!("section at {start}"), size: len, limit: max });
    }
    let bytes = elf.at(start, *start_at, len)?;
    Ok(bytes.filter(|bytes| bytes.len() as u64 == len))
}

/// The wanted symbols: out of the table that the kernel carries for itself, as a guest has it; what that lacks out of `.symtab`;
/// and if there is still no data among them, out of a System.map beside the file.
fn symbols(elf: &Elf<'_>, names: &[&str], path: Option<&Path>) -> Result<BTreeMap<String, u64>, Error> {
    let (mut symbols, failed) = match kallsyms(elf, names) {
        Ok(symbols) => (symbols, None),
        Err(error) => (BTreeMap::new(), Some(error)),
    };
    for (name, address) in elf.symbols(names)? {
        symbols.entry(name).or_insert(address);
    }
    if !symbols.contains_key(DATA_SYMBOL)
        && let Some((map_path, text)) = path.and_then(beside)
    {
        let map = system_map(&text, names);
        let foreign = map.iter().find_map(|(name, found)| {
            let expected = symbols.get(name).filter(|expected| *expected != found)?;
            Some((name.clone(), *found, *expected))
        });
        if let Some((symbol, found, expected)) = foreign {
            return Err(Error::SystemMapForeign { path: map_path, symbol, found, expected });
        }
        symbols.extend(map);
    }
    match failed {
        Some(error) if symbols.is_empty() => Err(error),
        _ => Ok(symbols),
    }
}

/// The symbols out of the kernel's own table, at link addresses.
fn kallsyms(elf: &Elf<'_>, names: &[&str]) -> Result<BTreeMap<String, u64>, Error> {
    // The text is the first thing in the window, from its first byte (arch/x86/kernel/vmlinux.lds.S).
    let Some(stext) = elf.segments(START_KERNEL_MAP).next().map(|segment| segment.address) else {
        return Err(Error::KernelWithout { what: "segment at the addresses of a kernel" });
    };
    let mut failed = Error::KernelWithout { what: "symbol table" };
    for segment in elf.segments(START_KERNEL_MAP) {
        let bytes = elf.segment(segment)?;
        let found = match search_kallsyms(&bytes, segment.address) {
            Ok(found) => found,
            Err(_) => continue,
        };
        for tables in found.tables(&bytes) {
            match Kallsyms::new(tables, stext).and_then(|kallsyms| kallsyms.resolve(names)) {
                Ok(symbols) => return Ok(symbols),
                Err(error) => failed = error,
            }
        }
    }
    Err(failed)
}

/// The System.map beside a kernel file, `System.map-6.1.0` beside `vmlinuz-6.1.0`, and its bytes. `None`: there is none.
fn beside(path: &Path) -> Option<(PathBuf, Vec<u8>)> {
    let name = path.file_name()?.to_str()?;
    let suffix = name.strip_prefix("vmlinuz").or_else(|| name.strip_prefix("vmlinux"))?;
    let path = path.with_file_name(format!("System.map{suffix}"));
    let disk = Disk::open(&path).ok()?;
    let bytes = disk.bytes("System.map", 0, disk.len().min(SYSTEM_MAP_MAX)).ok()?.into_owned();
    Some((path, bytes))
}
