//! Parses `/proc/PID/maps` (proc_pid_maps(5)).

use super::process::{proc_path, read_proc};
use crate::Error;

/// One line: a run of addresses of the process with one kind of backing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `r` of the permissions.
    pub readable: bool,
    /// `w` of the permissions.
    pub writable: bool,
    /// `x` of the permissions.
    pub executable: bool,
    /// `s` (shared) instead of `p` (private, copy on write).
    pub shared: bool,
    /// Offset in the file of `start`; meaningless for anonymous memory.
    pub offset: u64,
    /// Device of the file, `(major, minor)`; `(0, 0)` for anonymous memory.
    pub device: (u32, u32),
    /// Inode of the file; 0 for anonymous memory.
    pub inode: u64,
    /// Path or pseudo-path as the kernel prints it (a line end in it is `\012`), without ` (deleted)`.
    pub name: String,
    /// The file was deleted, as a memfd always is.
    pub deleted: bool,
}

impl Mapping {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it is empty, which the kernel never prints.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is no file behind it.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.inode == 0
    }

    /// Parses one line; `None` when it is of another form.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (permissions, rest) = rest.split_once(' ')?;
        let (offset, rest) = rest.split_once(' ')?;
        let (device, rest) = rest.split_once(' ')?;
        let (inode, name) = rest.split_once(' ').unwrap_or((rest, ""));
        let (start, end) = range.split_once('-')?;
        let (major, minor) = device.split_once(':')?;
        let [r, w, x, s] = <[u8; 4]>::try_from(permissions.as_bytes()).ok()?;
        let name = name.trim_start_matches(' ');
        let mapping = Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            readable: r == b'r',
            writable: w == b'w',
            executable: x == b'x',
            shared: s == b's',
            offset: u64::from_str_radix(offset, 16).ok()?,
            device: (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?),
            inode: inode.parse().ok()?,
            name: name.strip_suffix(" (deleted)").unwrap_or(name).to_owned(),
            deleted: name.ends_with(" (deleted)"),
        };
        (mapping.start < mapping.end).then_some(mapping)
    }
}

/// Parses a whole file; `Err` is the line that is of another form.
pub fn parse(text: &str) -> Result<Vec<Mapping>, String> {
    text.lines().map(|line| Mapping::parse(line).ok_or_else(|| line.to_owned())).collect()
}

/// The mappings of a process, ascending.
pub(crate) fn read(pid: u32) -> Result<Vec<Mapping>, Error> {
    let bytes = read_proc(pid, "maps")?;
    let mappings = parse(&String::from_utf8_lossy(&bytes))
        .map_err(|line| Error::ProcSyntax { path: proc_path(pid, "maps"), line })?;
    // A process whose memory is gone (a zombie, a kernel thread) has an empty file.
    if mappings.is_empty() { Err(Error::ProcessGone { pid }) } else { Ok(mappings) }
}
