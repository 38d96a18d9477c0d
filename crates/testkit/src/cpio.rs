//! Writer of cpio archives in the `newc` format, the one an initramfs has (Documentation/driver-api/early-userspace/
//! buffer-format.rst). Everything belongs to root and is dated 1970, so the same content gives the same bytes.

/// An archive being written.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    /// Adds a directory. Parents must have been added before.
    pub(crate) fn directory(&mut self, path: &str, permissions: u32) {
        self.entry(path, DIRECTORY | permissions, (0, 0), &[]);
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, FILE | permissions, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub(crate) fn character_device(&mut self, path: &str, permissions: u32, device: (u32, u32)) {
        self.entry(path, CHARACTER_DEVICE | permissions, device, &[]);
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        // Magic, then: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check.
        let fields: [usize; 13] = [
            self.inode as usize,
            mode as usize,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            device.0 as usize,
            device.1 as usize,
            path.len() + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn the_system_cpio_lists_what_was_written() {
        if !crate::lab::installed("cpio") {
            eprintln!("skipped: cpio is not installed");
            return;
        }
        let mut archive = Archive::default();
        archive.directory("bin", 0o755);
        archive.file("bin/odd", 0o755, b"12345");
        archive.symlink("bin/link", "odd");
        archive.character_device("null", 0o666, (1, 3));
        let mut child = Command::new("cpio")
            .args(["-itv", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let words: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
        let summary: Vec<_> = words.iter().map(|line| (line[0], line[line.len() - 1])).collect();
        assert_eq!(
            summary,
            [("drwxr-xr-x", "bin"), ("-rwxr-xr-x", "bin/odd"), ("lrwxrwxrwx", "odd"), ("crw-rw-rw-", "null")]
        );
        assert_eq!(words[1][4], "5");
        assert_eq!(words[3][4..6], ["1,", "3"]);
    }
}
