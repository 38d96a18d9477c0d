//! Types of the kernel by number and by name, out of `/sys/kernel/btf/vmlinux` (Documentation/bpf/btf.rst): what a tracing
//! program is attached to is such a number.

use crate::bpf::word;
use std::fs;
use std::io;

/// ``BTF_KIND_TYPEDEF`` and ``BTF_KIND_FUNC``.
pub(crate) const TYPEDEF: u32 = 8;
pub(crate) const FUNCTION: u32 = 12;

/// The kernel's own.
pub(crate) struct Types {
    types: Vec<u8>,
    names: Vec<u8>,
}

impl Types {
    pub(crate) fn of_kernel() -> io::Result<Self> {
        let data = fs::read("/sys/kernel/btf/vmlinux")?;
        let at = |offset| usize::try_from(word(&data, offset)).map_err(io::Error::other);
        let header = at(4)?;
        let part = |from: usize, len: usize| {
            let start = header + from;
            data.get(start..start + len).map(<[u8]>::to_vec).ok_or_else(|| io::Error::other("Cut types"))
        };
        Ok(Self { types: part(at(8)?, at(12)?)?, names: part(at(16)?, at(20)?)? })
    }

    /// The name of the type `id`.
    pub(crate) fn name(&self, id: u32) -> Option<String> {
        let (_, _, name) = self.each().find(|(number, _, _)| *number == id)?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// The number of the type of this kind and name.
    pub(crate) fn id(&self, kind: u32, name: &str) -> io::Result<u32> {
        self.each()
            .find(|(_, of, called)| *of == kind && *called == name.as_bytes())
            .map(|(id, _, _)| id)
            .ok_or_else(|| io::Error::other(format!("The kernel has no type {name}")))
    }

    /// Number, kind and name of each.
    fn each(&self) -> impl Iterator<Item = (u32, u32, &[u8])> {
        let mut at = 0;
        (1..).map_while(move |id| {
            let head = self.types.get(at..at + 12)?;
            let info = word(head, 4);
            let (kind, count) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff).ok()?);
            at += 12
                + match kind {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    4 | 5 | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    _ => 0,
                };
            let name = self.names.get(usize::try_from(word(head, 0)).ok()?..)?;
            Some((id, kind, name.split(|byte| *byte == 0).next()?))
        })
    }
}
