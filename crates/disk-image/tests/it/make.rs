//! Makes a small root file system, and images of it with the tools that everybody uses.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use testkit::Need;

pub const TOOLS: [Need; 5] = [
    Need::Program("mkfs.ext4"),
    Need::Program("qemu-img"),
    Need::Program("tar"),
    Need::Program("xz"),
    Need::Program("zstd"),
];

pub struct Lab(TempDir);

impl Lab {
    /// A directory with a root file system in `root`.
    pub fn new() -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        let elf =
            |size: usize| b"\x7fELF".iter().copied().chain((0..size).map(|at| at as u8)).collect::<Vec<u8>>();
        lab.file("usr/bin/web", 0o755, &elf(10_000));
        lab.file("usr/sbin/admin", 0o4755, &elf(100));
        lab.file("usr/bin/script", 0o755, b"#!/bin/sh -e\necho\n");
        lab.file("usr/bin/no-program", 0o755, b"only text");
        lab.file("usr/bin/not-executable", 0o644, &elf(5));
        lab.file("var/tmp/elsewhere", 0o755, &elf(5));
        lab.file("init", 0o755, &elf(4092));
        lab.link("bin", "usr/bin");
        lab.link("lib", "usr/lib");
        lab.link("etc/escape", "/etc/../../../../../../etc/hostname");
        lab.file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\nwww:x:33:44::/:/bin/false\n");
        lab.file("etc/group", 0o644, b"root:x:0:\nwww:x:44:\nssl:x:55:\n");
        lab.file(
            "usr/lib/systemd/system/web.service",
            0o644,
            b"[Service]\nExecStartPre=+/bin/script\nExecStart=/bin/web --port 80\nUser=www\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n",
        );
        lab.file("etc/systemd/system/web.service.d/group.conf", 0o644, b"[Service]\nGroup=ssl\n");
        lab.file(
            "usr/lib/systemd/system/web.socket",
            0o644,
            b"[Socket]\nListenStream=80\nListenStream=/run/web\n",
        );
        lab.file(
            "var/lib/dpkg/status",
            0o644,
            b"Package: web\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.2-3\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n",
        );
        lab.file("var/lib/dpkg/info/web.list", 0o644, b"/.\n/bin\n/bin/web\n");
        lab.file("usr/lib/modules/6.1.0-x/kernel/net/virtio-net.ko.xz", 0o644, b"no module");
        lab.file("boot/vmlinuz-6.1.0-x", 0o644, b"no kernel");
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, name: &str, mode: u32, content: &[u8]) {
        let path = self.path("root").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn link(&self, name: &str, target: &str) {
        let path = self.path("root").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    /// An archive, compressed with a program if its name is not empty.
    pub fn archive(&self, program: &str) -> PathBuf {
        let path = self.path(&format!("image.tar.{program}"));
        let mut tar = Command::new("tar");
        if !program.is_empty() {
            tar.arg(format!("--use-compress-program={program}"));
        }
        run(tar.arg("-C").arg(self.path("root")).arg("-cf").arg(&path).arg("."));
        path
    }

    /// The bytes of a file system.
    pub fn ext4(&self) -> PathBuf {
        let path = self.path("ext4.raw");
        run(Command::new("mkfs.ext4").args(["-q", "-d"]).arg(self.path("root")).arg(&path).arg("16M"));
        path
    }

    /// A disk with an empty first partition and the file system in the second, of a GPT or of an MBR.
    pub fn disk(&self, gpt: bool) -> PathBuf {
        let ext4 = fs::read(self.ext4()).unwrap();
        let path = self.path(if gpt { "gpt.raw" } else { "mbr.raw" });
        let disk = fs::File::create(&path).unwrap();
        let (first, second) = (2048_u64, 4096_u64);
        let sectors = ext4.len() as u64 / 512;
        disk.set_len((second + sectors + 2048) * 512).unwrap();
        disk.write_all_at(&ext4, second * 512).unwrap();
        let mut mbr = [0; 512];
        let mut entry = |index: usize, kind: u8, start: u64, count: u64| {
            let at = 446 + 16 * index;
            mbr[at + 4] = kind;
            mbr[at + 8..at + 12].copy_from_slice(&u32::try_from(start).unwrap().to_le_bytes());
            mbr[at + 12..at + 16].copy_from_slice(&u32::try_from(count).unwrap().to_le_bytes());
        };
        if gpt {
            entry(0, 0xee, 1, second + sectors);
            let mut table = vec![0; 512 + 128 * 128];
            table[..8].copy_from_slice(b"EFI PART");
            table[72..80].copy_from_slice(&2_u64.to_le_bytes());
            table[80..84].copy_from_slice(&128_u32.to_le_bytes());
            table[84..88].copy_from_slice(&128_u32.to_le_bytes());
            for (at, start, end) in [(512, first, second - 1), (640, second, second + sectors - 1)] {
                table[at..at + 16].fill(7);
                table[at + 32..at + 40].copy_from_slice(&start.to_le_bytes());
                table[at + 40..at + 48].copy_from_slice(&end.to_le_bytes());
            }
            disk.write_all_at(&table, 512).unwrap();
        } else {
            entry(0, 0x83, first, second - first);
            // The second is a logical one: the link is in the sector before what it tells of.
            entry(1, 0x05, second - 1, sectors + 1);
            let mut link = [0; 512];
            link[446 + 4] = 0x83;
            link[446 + 8..446 + 12].copy_from_slice(&1_u32.to_le_bytes());
            link[446 + 12..446 + 16].copy_from_slice(&u32::try_from(sectors).unwrap().to_le_bytes());
            link[510..].copy_from_slice(&[0x55, 0xaa]);
            disk.write_all_at(&link, (second - 1) * 512).unwrap();
        }
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        disk.write_all_at(&mbr, 0).unwrap();
        path
    }

    /// What qemu-img makes of a raw image.
    pub fn qcow2(&self, raw: &Path, name: &str, arguments: &[&str]) -> PathBuf {
        let path = self.path(name);
        run(Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args(arguments)
            .arg(raw)
            .arg(&path));
        path
    }
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
