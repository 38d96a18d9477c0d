//! Real kernels to test against: the running one's BTF, and the Debian kernels that the lab has cached below
//! `target/lab/kernels`. What is not there is skipped with its reason: the lab's own tests fetch it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// (where from, bytes) of each real BTF that can be read here.
pub fn real_btfs() -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = vmlinuxes()
        .into_iter()
        .map(|kernel| (kernel.from.clone(), kernel.section(".BTF").1.to_vec()))
        .collect();
    let own = "/sys/kernel/btf/vmlinux";
    match std::fs::read(own) {
        Ok(bytes) => found.push((own.to_owned(), bytes)),
        Err(error) => eprintln!("skipped: {own} cannot be read: {error}"),
    }
    found
}

/// A Debian kernel as it lies in memory after its own decompression, at link addresses.
pub struct Vmlinux {
    pub from: String,
    pub image: Vec<u8>,
}

impl Vmlinux {
    /// Link address and bytes of a section.
    pub fn section(&self, name: &str) -> (u64, &[u8]) {
        let elf = goblin::elf::Elf::parse(&self.image).unwrap();
        let header = elf
            .section_headers
            .iter()
            .find(|header| elf.shdr_strtab.get_at(header.sh_name) == Some(name))
            .unwrap();
        (header.sh_addr, &self.image[header.file_range().unwrap()])
    }

    /// The file's bytes from a link address to the end of its segment.
    pub fn at(&self, address: u64) -> &[u8] {
        let elf = goblin::elf::Elf::parse(&self.image).unwrap();
        let segment = elf
            .program_headers
            .iter()
            .find(|header| {
                (header.p_vaddr..header.p_vaddr + header.p_filesz).contains(&address) && header.p_vaddr != 0
            })
            .unwrap();
        let skip = usize::try_from(address - segment.p_vaddr).unwrap();
        &self.image[segment.file_range()][skip..]
    }

    /// Link address of an offset in the file.
    pub fn address(&self, offset: usize) -> u64 {
        let elf = goblin::elf::Elf::parse(&self.image).unwrap();
        let segment =
            elf.program_headers.iter().find(|header| header.file_range().contains(&offset)).unwrap();
        segment.p_vaddr + (offset as u64 - segment.p_offset)
    }
}

/// The lab's kernels that have their image in `boot` (Debian's up to 6.12), decompressed with the system's own tools.
pub fn vmlinuxes() -> Vec<Vmlinux> {
    let images = packages().into_iter().flat_map(|package| entries(&package.join("boot")));
    let is_kernel =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    images.filter(is_kernel).filter_map(|path| decompress(&path)).collect()
}

/// The unpacked packages of the lab's kernels.
pub fn packages() -> Vec<PathBuf> {
    let directory = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => workspace().join(target),
        None => workspace().join("target"),
    }
    .join("lab/kernels");
    let packages: Vec<_> = entries(&directory)
        .iter()
        .flat_map(|kernel| entries(kernel))
        .filter(|package| package.is_dir())
        .collect();
    if packages.is_empty() {
        eprintln!("skipped: no kernel is cached below {}", directory.display());
    }
    packages
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Unpacks a bzImage: `Documentation/arch/x86/boot.rst`. The payload is followed by its size, 4 bytes.
fn decompress(path: &Path) -> Option<Vmlinux> {
    let bytes = std::fs::read(path).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let start = (usize::from(bytes[0x1f1]) + 1) * 512 + word(0x248);
    let payload = &bytes[start..start + word(0x24c) - 4];
    let tool = match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', ..] => "xz",
        [0x1f, 0x8b, ..] => "gzip",
        _ => panic!("{} is compressed in an unknown way", path.display()),
    };
    let child = Command::new(tool).arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            eprintln!("skipped: {} needs {tool}, which does not start: {error}", path.display());
            return None;
        }
    };
    let mut input = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(payload).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{tool} of {}", path.display());
    Some(Vmlinux { from: path.display().to_string(), image: output.stdout })
}
