//! From a VM's ``struct kvm`` to its memory slots (virt/kvm/kvm_main.c, include/linux/kvm_host.h).
//!
//! Since 5.17 slots are in a hash table by number, before in an array; which of them, and where, the types say. The VMM may change
//! its slots meanwhile, which the kernel does by making another set and counting a generation up: a walk during which either
//! changed is walked again.

use super::program::LONGEST;
use super::types::Types;
use super::{Slot, Unusable};
use vmi_core::{Gpa, PAGE_SIZE, Region};

/// More slots than KVM has had on x86 until 5.11, and than a VMM uses.
const SLOTS_MAX: u64 = 4096;
/// Walks until slots have stopped changing.
const TRIES: u32 = 8;

/// ``KVM_MEM_READONLY``.
const READ_ONLY: u32 = 1 << 1;
/// ``KVM_MEM_GUEST_MEMFD``.
const PRIVATE: u32 = 1 << 2;
/// ``KVM_MEMSLOT_INVALID``: it is being moved or taken away.
const INVALID: u32 = 1 << 16;

/// Where things are in the structs of the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offsets {
    /// ``struct kvm``: the sets of slots, the first of which is of all modes but SMM.
    sets: u64,
    /// ``struct kvm_memslots``.
    generation: u64,
    form: Form,
    /// ``struct kvm_memory_slot``.
    first_page: u64,
    pages: u64,
    address: u64,
    flags: u64,
    slot_size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// ``id_hash``, ``node_idx``; ``id_node`` of a slot.
    Hash { heads: u64, buckets: u64, which: u64, node: u64 },
    /// ``memslots``, ``used_slots``.
    Array { first: u64, used: u64 },
}

impl Offsets {
    /// `None`: the types have not all that is needed.
    pub(super) fn of(types: &Types<'_>) -> Option<Self> {
        let (kvm, set, slot) =
            (types.record("kvm")?, types.record("kvm_memslots")?, types.record("kvm_memory_slot")?);
        let of_set = |name: &str| types.member(set, name);
        let of_slot = |name: &str| Some(types.member(slot, name)?.offset);
        let form = match of_set("id_hash") {
            Some(heads) => Form::Hash {
                heads: heads.offset,
                buckets: types.count(heads.kind)?,
                which: of_set("node_idx")?.offset,
                node: of_slot("id_node")?,
            },
            None => Form::Array { first: of_set("memslots")?.offset, used: of_set("used_slots")?.offset },
        };
        Some(Self {
            sets: types.member(kvm, "memslots")?.offset,
            generation: of_set("generation")?.offset,
            form,
            first_page: of_slot("base_gfn")?,
            pages: of_slot("npages")?,
            address: of_slot("userspace_addr")?,
            flags: of_slot("flags")?,
            slot_size: types.size(slot)?,
        })
    }
}

/// The slots of the VM at `kvm`, by guest-physical address. `read` copies kernel memory.
pub(super) fn slots(
    offsets: &Offsets,
    kvm: u64,
    read: &dyn Fn(u64, &mut [u8]) -> Result<(), Unusable>,
) -> Result<Vec<Slot>, Unusable> {
    let walk = Walk { offsets, read };
    for _ in 0..TRIES {
        let before = walk.state(kvm)?;
        // What is read of a set that is being replaced may be anything, an address that nobody has for one.
        let found = walk.set(before.0);
        if walk.state(kvm)? == before {
            let mut found = found?;
            if found.iter().all(|(_, flags)| flags & INVALID == 0) {
                found.sort_by_key(|(slot, _)| slot.guest.start);
                return Ok(found.into_iter().map(|(slot, _)| slot).collect());
            }
        }
        std::thread::yield_now();
    }
    Err(Unusable::Changing)
}

struct Walk<'w> {
    offsets: &'w Offsets,
    read: &'w dyn Fn(u64, &mut [u8]) -> Result<(), Unusable>,
}

impl Walk<'_> {
    fn u64(&self, at: u64, offset: u64) -> Result<u64, Unusable> {
        let mut word = [0; 8];
        (self.read)(at.checked_add(offset).ok_or(Unusable::Nonsense)?, &mut word)?;
        Ok(u64::from_ne_bytes(word))
    }

    fn u32(&self, at: u64, offset: u64) -> Result<u32, Unusable> {
        let mut word = [0; 4];
        (self.read)(at.checked_add(offset).ok_or(Unusable::Nonsense)?, &mut word)?;
        Ok(u32::from_ne_bytes(word))
    }

    /// Which set of slots is in use, and its generation.
    fn state(&self, kvm: u64) -> Result<(u64, u64), Unusable> {
        let set = self.u64(kvm, self.offsets.sets)?;
        Ok((set, self.u64(set, self.offsets.generation)?))
    }

    fn set(&self, set: u64) -> Result<Vec<(Slot, u32)>, Unusable> {
        let mut found = Vec::new();
        match self.offsets.form {
            Form::Array { first, used } => {
                let used = u64::from(self.u32(set, used)?);
                if used > SLOTS_MAX {
                    return Err(Unusable::Nonsense);
                }
                let mut at = set.checked_add(first).ok_or(Unusable::Nonsense)?;
                for _ in 0..used {
                    let (slot, flags, _) = self.slot(at, 0)?;
                    found.push((slot, flags));
                    at = at.checked_add(self.offsets.slot_size).ok_or(Unusable::Nonsense)?;
                }
            }
            Form::Hash { heads, buckets, which, node } => {
                // Each slot is in two sets, and has a node (two words) for either.
                let which = u64::from(self.u32(set, which)?);
                if which > 1 {
                    return Err(Unusable::Nonsense);
                }
                let node = node.checked_add(which * 16).ok_or(Unusable::Nonsense)?;
                let heads = set.checked_add(heads).ok_or(Unusable::Nonsense)?;
                for mut next in self.words(heads, buckets)? {
                    while next != 0 {
                        if found.len() as u64 >= SLOTS_MAX {
                            return Err(Unusable::Nonsense);
                        }
                        let at = next.checked_sub(node).ok_or(Unusable::Nonsense)?;
                        let (slot, flags, link) = self.slot(at, node)?;
                        found.push((slot, flags));
                        next = link;
                    }
                }
            }
        }
        Ok(found)
    }

    fn words(&self, mut at: u64, count: u64) -> Result<Vec<u64>, Unusable> {
        if count > SLOTS_MAX {
            return Err(Unusable::Nonsense);
        }
        let mut words = Vec::new();
        let mut bytes = usize::try_from(count * 8).map_err(|_| Unusable::Nonsense)?;
        while bytes > 0 {
            let mut part = [0; LONGEST];
            let len = bytes.min(LONGEST);
            let part = part.get_mut(..len).ok_or(Unusable::Nonsense)?;
            (self.read)(at, part)?;
            words.extend(part.chunks_exact(8).filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?))));
            at = at.checked_add(len as u64).ok_or(Unusable::Nonsense)?;
            bytes -= len;
        }
        Ok(words)
    }

    /// A slot with its flags, and the word at `link` of it.
    fn slot(&self, at: u64, link: u64) -> Result<(Slot, u32, u64), Unusable> {
        let size = usize::try_from(self.offsets.slot_size).ok().filter(|&size| size <= LONGEST);
        let mut bytes = vec![0; size.ok_or(Unusable::Nonsense)?];
        (self.read)(at, &mut bytes)?;
        let word = |offset: u64| u64_at(&bytes, offset).ok_or(Unusable::Nonsense);
        let in_bytes = |pages: u64| pages.checked_mul(PAGE_SIZE).ok_or(Unusable::Nonsense);
        let guest = Region {
            start: Gpa(in_bytes(word(self.offsets.first_page)?)?),
            len: in_bytes(word(self.offsets.pages)?)?,
        };
        let address = word(self.offsets.address)?;
        if guest.start.0.checked_add(guest.len).is_none() || address.checked_add(guest.len).is_none() {
            return Err(Unusable::Nonsense);
        }
        let flags = u32_at(&bytes, self.offsets.flags).ok_or(Unusable::Nonsense)?;
        let slot = Slot { guest, address, read_only: flags & READ_ONLY != 0, private: flags & PRIVATE != 0 };
        Ok((slot, flags, word(link)?))
    }
}

fn u64_at(bytes: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: u64) -> Option<u32> {
    let at = usize::try_from(at).ok()?;
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
