//! Types of the kernel by number and by name, out of `/sys/kernel/btf/vmlinux` (Documentation/bpf/btf.rst): what a tracing
//! program is attached to is such a number.

use crate::bpf::word;
use std::fs;
use std::io;

/// ``BTF_KIND_STRUCT``, ``BTF_KIND_TYPEDEF`` and ``BTF_KIND_FUNC``.
pub(crate) const STRUCT: u32 = 4;
pub(crate) const TYPEDEF: u32 = 8;
pub(crate) const FUNCTION: u32 = 12;
/// ``BTF_KIND_PTR`` and ``BTF_KIND_FUNC_PROTO``.
const POINTER: u32 = 2;
const PROTOTYPE: u32 = 13;

/// A member of a struct.
pub(crate) struct Member {
    pub(crate) name: String,
    /// In bytes.
    pub(crate) offset: usize,
    /// Whether it points at a function.
    pub(crate) is_function: bool,
}

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

    /// Size and members of the struct of this name.
    pub(crate) fn structure(&self, name: &str) -> io::Result<(u32, Vec<Member>)> {
        let id = self.id(STRUCT, name)?;
        let places: Vec<usize> = self.places().map(|(at, ..)| at).collect();
        let place = |id: u32| usize::try_from(id).ok()?.checked_sub(1).and_then(|index| places.get(index));
        let words = |at: usize| self.types.get(at..).unwrap_or_default();
        let kind = |id: u32| place(id).map(|at| (word(words(*at), 4) >> 24 & 0x1f, word(words(*at), 8)));
        let at = *place(id).ok_or_else(|| io::Error::other(format!("No place of {name}")))?;
        let info = word(words(at), 4);
        let mut members = Vec::new();
        for index in 0..usize::try_from(info & 0xffff).map_err(io::Error::other)? {
            let member = words(at + 12 + 12 * index);
            let points_at = kind(word(member, 4)).filter(|(kind, _)| *kind == POINTER);
            let is_function =
                points_at.and_then(|(_, to)| kind(to)).is_some_and(|(kind, _)| kind == PROTOTYPE);
            // Where there are bit fields, the size of one is in the upper bits.
            let bits = word(member, 8) & if info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
            let name = self.names.get(usize::try_from(word(member, 0)).map_err(io::Error::other)?..);
            let name = name.unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
            members.push(Member {
                name: String::from_utf8_lossy(name).into_owned(),
                offset: usize::try_from(bits / 8).map_err(io::Error::other)?,
                is_function,
            });
        }
        Ok((word(words(at), 8), members))
    }

    /// Number, kind and name of each.
    fn each(&self) -> impl Iterator<Item = (u32, u32, &[u8])> {
        (1..).zip(self.places()).map(|(id, (_, kind, name))| (id, kind, name))
    }

    /// Where each is, its kind and its name.
    fn places(&self) -> impl Iterator<Item = (usize, u32, &[u8])> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let at = next;
            let head = self.types.get(at..at + 12)?;
            let info = word(head, 4);
            let (kind, count) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff).ok()?);
            next += 12
                + match kind {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    4 | 5 | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    _ => 0,
                };
            let name = self.names.get(usize::try_from(word(head, 0)).ok()?..)?;
            Some((at, kind, name.split(|byte| *byte == 0).next()?))
        })
    }
}
