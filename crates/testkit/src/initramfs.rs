//! Builds the guest's root file system: the agent as `/init`, a static busybox, and some modules of the kernel.
//!
//! One archive per kernel serves every guest; what differs between guests is told to the agent over its port. It is not
//! compressed: QEMU copies it into the guest at once, while the emulated CPU would need long to decompress it.

use crate::cpio::Archive;
use crate::kernels::KernelFiles;
use crate::{agent, kernels, lab};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules a guest can load, where its kernel has them as modules (6.12 has `virtio_pci` built in).
const MODULES: [&str; 25] = [
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "virtio_net",
    "virtio_console",
    "xen_netfront",
    "e1000",
    "dummy",
    "veth",
    "tun",
    "qemu_fw_cfg",
    "vsock_loopback",
    "af_alg",
    // What the next one's checksums ask the kernel for by name, where it is not built in.
    "crc32c_generic",
    "sctp",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "mptcp_diag",
    "unix_diag",
    "overlay",
    "af_packet_diag",
    "netlink_diag",
    "vsock_diag",
    "xsk_diag",
];

/// Busybox's commands that `Run` is likely to want.
const APPLETS: [&str; 16] = [
    "sh", "cat", "chmod", "dmesg", "echo", "id", "ip", "ls", "lsmod", "mount", "nc", "ping", "ps", "rm",
    "sleep", "true",
];

/// Changes when the layout of the archive changes, so that an old one in the cache is not used.
const LAYOUT: &[u8] = b"2";

/// Path of the archive for this kernel, built if it is not in the cache.
pub(crate) fn build(kernel: &KernelFiles) -> Result<PathBuf> {
    let agent = read(&agent::build()?)?;
    let busybox = read(&busybox()?)?;
    let modules = MODULES.join(" ");
    let unpacked = kernels::contents();
    let name = lab::digest([
        LAYOUT,
        &agent,
        &busybox,
        modules.as_bytes(),
        kernel.package.as_bytes(),
        unpacked.as_bytes(),
    ]);
    let home = lab::subdirectory("initramfs")?;
    let path = home.join(name).with_extension("cpio");
    if path.is_file() {
        return Ok(path);
    }
    let _lock = lab::lock("initramfs")?;
    if path.is_file() {
        return Ok(path);
    }
    let mut archive = Archive::default();
    add_agent(&mut archive, kernel, &agent, &busybox, &MODULES)?;

    let work = tempfile::NamedTempFile::new_in(&home)?;
    fs::write(work.path(), archive.finish())?;
    work.persist(&path)?;
    Ok(path)
}

/// The same archive compressed, for a machine to which every byte costs more than its decompression.
pub(crate) fn build_compressed(kernel: &KernelFiles) -> Result<PathBuf> {
    let plain = build(kernel)?;
    let path = plain.with_extension("cpio.xz");
    if path.is_file() {
        return Ok(path);
    }
    let _lock = lab::lock("initramfs")?;
    if path.is_file() {
        return Ok(path);
    }
    // The kernel knows this checksum and no other.
    let compressed = lab::run(Command::new("xz").args(["--check=crc32", "-c"]).arg(&plain))?;
    let work = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    fs::write(work.path(), compressed.stdout)?;
    work.persist(&path)?;
    Ok(path)
}

/// Unpacks what guests of this kernel boot from into a directory, which is made. Only root can: it has devices.
pub(crate) fn unpack(kernel: &KernelFiles, directory: &Path) -> Result<()> {
    let archive = build(kernel)?;
    fs::create_dir_all(directory).with_context(|| format!("Cannot make {}", directory.display()))?;
    let mut cpio = Command::new(busybox()?);
    lab::run(cpio.args(["cpio", "-i", "-d", "-F"]).arg(archive).current_dir(directory))?;
    Ok(())
}

/// What every system of the lab has: the agent as `/init`, busybox, and these modules with those they need.
pub(crate) fn add_agent(
    archive: &mut Archive,
    kernel: &KernelFiles,
    agent: &[u8],
    busybox: &[u8],
    modules: &[&str],
) -> Result<()> {
    for directory in ["bin", "dev", "etc", "lib", "lib/modules", "proc", "root", "run", "sys", "var"] {
        archive.directory(directory, 0o755);
    }
    archive.directory("tmp", 0o1777);
    archive.character_device("dev/console", 0o600, (5, 1));
    archive.character_device("dev/null", 0o666, (1, 3));
    archive.file("init", 0o755, agent);
    archive.file("bin/busybox", 0o755, busybox);
    for applet in APPLETS {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    let tree = ModuleTree::read(&kernel.modules)?;
    let mut order = Vec::new();
    for module in modules {
        tree.load_order(module, &mut order)?;
    }
    let mut needs = String::new();
    for (name, module) in &order {
        archive.file(&format!("lib/modules/{name}.ko"), 0o644, module);
        needs.push_str(&format!("{name}: {}\n", depends(module).join(" ")));
    }
    archive.file("lib/modules/needs", 0o644, needs.as_bytes());
    Ok(())
}

pub(crate) fn busybox() -> Result<PathBuf> {
    let found =
        ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.is_file());
    found.context("There is no /bin/busybox (Debian: busybox-static)")
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("Cannot read {}", path.display()))
}

/// Modules by name. The package has no `modules.dep` (its installation would make it), so the needs are read from the
/// modules themselves.
struct ModuleTree {
    paths: BTreeMap<String, PathBuf>,
}

impl ModuleTree {
    fn read(root: &Path) -> Result<Self> {
        let mut paths = BTreeMap::new();
        let mut directories = vec![root.join("kernel")];
        while let Some(directory) = directories.pop() {
            let entries =
                fs::read_dir(&directory).with_context(|| format!("Cannot list {}", directory.display()))?;
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    directories.push(path);
                } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
                    paths.insert(name.replace('-', "_"), path);
                }
            }
        }
        Ok(Self { paths })
    }

    /// Appends a module after all it needs, each once. One this kernel does not have as a module is left out.
    fn load_order(&self, name: &str, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        let Some(path) = self.paths.get(name) else { return Ok(()) };
        if order.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        let module = decompressed(path)?;
        for need in depends(&module) {
            self.load_order(&need, order)?;
        }
        order.push((name.to_owned(), module));
        Ok(())
    }
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return read(path),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => bail!("{} is compressed in a way not known here", path.display()),
    };
    Ok(lab::run(Command::new(program).arg("-dc").arg(path))?.stdout)
}

/// Names in the `depends=` entry of a module's `.modinfo` section.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = &module[at + KEY.len()..];
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    let names = String::from_utf8_lossy(&value[..end]).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::depends;

    #[test]
    fn a_modules_needs_are_read_from_its_modinfo() {
        assert_eq!(
            depends(b"ELF\0license=GPL\0depends=failover,net-failover\0x"),
            ["failover", "net_failover"]
        );
        assert_eq!(depends(b"ELF\0depends=\0name=x\0"), [""; 0]);
        assert_eq!(depends(b"ELF without any"), [""; 0]);
    }
}
