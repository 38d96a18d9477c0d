//! Where a paravirtual domain has memory: which machine frames are its, and which of its own frames each of them is.
//!
//! A PV guest builds its page tables of machine frame numbers, so that is what addresses in them mean. Its own numbering
//! (the *pseudo-physical* one, which VMCOREINFO and `/proc/iomem` speak) is a table in its memory, the p2m, that
//! `struct shared_info` leads to: `p2m_cr3` and `p2m_vaddr` (Linux 4.4 and later; arch/x86/xen/p2m.c). All of that is the
//! guest's word. It is bounded by what the hypervisor says of the domain, and a frame of somebody else that it names cannot be
//! mapped: the hypervisor checks the owner.

use super::abi::{shared_info, u64_at};
use super::control::Info;
use super::privcmd::{FRAME, Privcmd};
use crate::Error;
use std::collections::HashMap;
use std::io;

/// Entries of a page of 64-bit numbers.
const ENTRIES: u64 = 512;
const PRESENT: u64 = 1;
/// Bits 51..12 of a page-table entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Entries of the p2m with one of these bits are frames of others, mapped in, or no memory (arch/x86/include/asm/xen/page.h).
const FOREIGN: u64 = 1 << 63;
const IDENTITY: u64 = 1 << 62;
/// Frames of its own numbering that a guest may have beyond those it may own: holes between them.
const SLACK: u64 = 1 << 18;

/// The p2m of a domain at one moment.
#[derive(Debug, Default)]
pub(super) struct P2m {
    /// Machine frame of each frame of its own; `None` for a hole.
    pub(super) machine: Vec<Option<u64>>,
    /// Changes whenever the guest changes the table.
    pub(super) generation: u64,
}

/// Copies single frames out of a domain, each once.
struct Reader<'p> {
    privcmd: &'p Privcmd,
    domid: u16,
    pages: HashMap<u64, Box<[u8]>>,
}

impl Reader<'_> {
    fn entry(&mut self, frame: u64, index: u64) -> io::Result<u64> {
        if !self.pages.contains_key(&frame) {
            let mut page = vec![0; FRAME].into_boxed_slice();
            let mapped = self.privcmd.map(self.domid, &[frame])?;
            if !mapped.copy(0, 0, &mut page) {
                return Err(mapped.error(0).map_or(io::ErrorKind::InvalidData.into(), io::Error::from));
            }
            self.pages.insert(frame, page);
        }
        let at = usize::try_from(index.saturating_mul(8)).unwrap_or(usize::MAX);
        let page = self.pages.get(&frame);
        page.and_then(|page| u64_at(page, at)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The frame that a page of the guest's virtual memory is in, by four levels of page tables without large pages.
    fn frame_of(&mut self, root: u64, at: u64) -> io::Result<Option<u64>> {
        let mut table = root;
        for shift in [39, 30, 21, 12] {
            let entry = self.entry(table, at >> shift & (ENTRIES - 1))?;
            if entry & PRESENT == 0 {
                return Ok(None);
            }
            table = (entry & ADDRESS) / FRAME as u64;
        }
        Ok(Some(table))
    }
}

/// The generation of the p2m now, without reading it.
pub(super) fn generation(privcmd: &Privcmd, info: &Info) -> io::Result<u64> {
    let mut reader = Reader { privcmd, domid: info.domid, pages: HashMap::new() };
    reader.entry(info.shared_info, shared_info::P2M_GENERATION as u64 / 8)
}

/// Reads the p2m.
pub(super) fn read(privcmd: &Privcmd, info: &Info) -> Result<P2m, Error> {
    let domid = info.domid;
    let failed = |source| Error::XenP2m { domid, source };
    let mut reader = Reader { privcmd, domid, pages: HashMap::new() };
    let mut shared = |at: usize| reader.entry(info.shared_info, at as u64 / 8).map_err(failed);
    let (end, root) = (shared(shared_info::MAX_PFN)?, shared(shared_info::P2M_CR3)?);
    let (table, generation) = (shared(shared_info::P2M_VADDR)?, shared(shared_info::P2M_GENERATION)?);
    if root == 0 || table == 0 {
        return Err(Error::XenNoP2m { domid });
    }
    if end == 0 || end > info.max_pages.saturating_add(SLACK) {
        return Err(Error::XenP2mSize { domid, frames: end, max: info.max_pages });
    }
    let mut machine = Vec::new();
    for page in 0..end.div_ceil(ENTRIES) {
        let at = table.checked_add(page.saturating_mul(FRAME as u64)).ok_or(Error::XenNoP2m { domid })?;
        let frame = reader.frame_of((root & ADDRESS) / FRAME as u64, at).map_err(failed)?;
        for index in 0..ENTRIES.min(end.saturating_sub(page.saturating_mul(ENTRIES))) {
            let entry = match frame {
                Some(frame) => reader.entry(frame, index).map_err(failed)?,
                None => u64::MAX,
            };
            machine.push((entry & (FOREIGN | IDENTITY) == 0).then_some(entry));
        }
        // Its pages are read once and are most of what is kept.
        if let Some(frame) = frame {
            reader.pages.remove(&frame);
        }
    }
    Ok(P2m { machine, generation })
}
