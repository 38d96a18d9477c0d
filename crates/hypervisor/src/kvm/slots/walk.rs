//! From a VM's ``struct kvm`` to its memory slots (virt/kvm/kvm_main.c, include/linux/kvm_host.h).
//!
//! Since 5.17 slots are in a hash table by number, before in an array; which of them, and where, the types say. The VMM may change
//! its slots meanwhile, which the kernel does by making another set and counting a generation up: a walk during which either
//! changed is walked again.

use super::program::LONGEST;
use super::types::{Named, Types};
use super::{Slot, SlotsUnusable};
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
    /// What to look for in the types.
    pub(super) const TYPES: [Named; 3] =
        [Named::Record("kvm"), Named::Record("kvm_memslots"), Named::Record("kvm_memory_slot")];

    /// `None`: the types have not all that is needed.
    pub(super) fn of(types: &Types<'_>) -> Option<Self> {
        let [kvm, set, slot] = Self::TYPES.map(|named| types.find(named));
        let (kvm, set, slot) = (kvm?, set?, slot?);
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

/// Copies kernel memory from an address.
type ReadKernel<'r> = dyn Fn(u64, &mut [u8]) -> Result<(), SlotsUnusable> + 'r;

/// The slots of the VM at `kvm`, by guest-physical address. `read` copies kernel memory.
pub(super) fn slots(offsets: &Offsets, kvm: u64, read: &ReadKernel<'_>) -> Result<Vec<Slot>, SlotsUnusable> {
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
    Err(SlotsUnusable::Changing)
}

struct Walk<'w> {
    offsets: &'w Offsets,
    read: &'w ReadKernel<'w>,
}

impl Walk<'_> {
    fn u64(&self, at: u64, offset: u64) -> Result<u64, SlotsUnusable> {
        let mut word = [0; 8];
        (self.read)(at.checked_add(offset).ok_or(SlotsUnusable::Nonsense)?, &mut word)?;
        Ok(u64::from_ne_bytes(word))
    }

    fn u32(&self, at: u64, offset: u64) -> Result<u32, SlotsUnusable> {
        let mut word = [0; 4];
        (self.read)(at.checked_add(offset).ok_or(SlotsUnusable::Nonsense)?, &mut word)?;
        Ok(u32::from_ne_bytes(word))
    }

    /// Which set of slots is in use, and its generation.
    fn state(&self, kvm: u64) -> Result<(u64, u64), SlotsUnusable> {
        let set = self.u64(kvm, self.offsets.sets)?;
        Ok((set, self.u64(set, self.offsets.generation)?))
    }

    fn set(&self, set: u64) -> Result<Vec<(Slot, u32)>, SlotsUnusable> {
        let mut found = Vec::new();
        match self.offsets.form {
            Form::Array { first, used } => {
                let used = u64::from(self.u32(set, used)?);
                if used > SLOTS_MAX {
                    return Err(SlotsUnusable::Nonsense);
                }
                let mut at = set.checked_add(first).ok_or(SlotsUnusable::Nonsense)?;
                for _ in 0..used {
                    let (slot, flags, _) = self.slot(at, 0)?;
                    found.push((slot, flags));
                    at = at.checked_add(self.offsets.slot_size).ok_or(SlotsUnusable::Nonsense)?;
                }
            }
            Form::Hash { heads, buckets, which, node } => {
                // Each slot is in two sets, and has a node (two words) for either.
                let which = u64::from(self.u32(set, which)?);
                if which > 1 {
                    return Err(SlotsUnusable::Nonsense);
                }
                let node = node.checked_add(which * 16).ok_or(SlotsUnusable::Nonsense)?;
                let heads = set.checked_add(heads).ok_or(SlotsUnusable::Nonsense)?;
                for mut next in self.words(heads, buckets)? {
                    while next != 0 {
                        if found.len() as u64 >= SLOTS_MAX {
                            return Err(SlotsUnusable::Nonsense);
                        }
                        let at = next.checked_sub(node).ok_or(SlotsUnusable::Nonsense)?;
                        let (slot, flags, link) = self.slot(at, node)?;
                        found.push((slot, flags));
                        next = link;
                    }
                }
            }
        }
        Ok(found)
    }

    fn words(&self, mut at: u64, count: u64) -> Result<Vec<u64>, SlotsUnusable> {
        if count > SLOTS_MAX {
            return Err(SlotsUnusable::Nonsense);
        }
        let mut words = Vec::new();
        let mut bytes = usize::try_from(count * 8).map_err(|_| SlotsUnusable::Nonsense)?;
        while bytes > 0 {
            let mut part = [0; LONGEST];
            let len = bytes.min(LONGEST);
            let part = part.get_mut(..len).ok_or(SlotsUnusable::Nonsense)?;
            (self.read)(at, part)?;
            words.extend(
                part.chunks_exact(8).filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?))),
            );
            at = at.checked_add(len as u64).ok_or(SlotsUnusable::Nonsense)?;
            bytes -= len;
        }
        Ok(words)
    }

    /// A slot with its flags, and the word at `link` of it.
    fn slot(&self, at: u64, link: u64) -> Result<(Slot, u32, u64), SlotsUnusable> {
        let size = usize::try_from(self.offsets.slot_size).ok().filter(|&size| size <= LONGEST);
        let mut bytes = vec![0; size.ok_or(SlotsUnusable::Nonsense)?];
        (self.read)(at, &mut bytes)?;
        let word = |offset: u64| u64_at(&bytes, offset).ok_or(SlotsUnusable::Nonsense);
        let in_bytes = |pages: u64| pages.checked_mul(PAGE_SIZE).ok_or(SlotsUnusable::Nonsense);
        let guest = Region {
            start: Gpa(in_bytes(word(self.offsets.first_page)?)?),
            len: in_bytes(word(self.offsets.pages)?)?,
        };
        let address = word(self.offsets.address)?;
        if guest.start.0.checked_add(guest.len).is_none() || address.checked_add(guest.len).is_none() {
            return Err(SlotsUnusable::Nonsense);
        }
        let flags = u32_at(&bytes, self.offsets.flags).ok_or(SlotsUnusable::Nonsense)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    /// Kernel memory of the tests: this many bytes at `BASE`.
    const BASE: u64 = 0xffff_8880_0000_0000;
    const KVM: u64 = BASE;
    const SET: u64 = BASE + 0x1000;
    const SLOTS: u64 = BASE + 0x2000;

    const HASH: Offsets = Offsets {
        sets: 0x20,
        generation: 0,
        form: Form::Hash { heads: 0x10, buckets: 4, which: 0x30, node: 0 },
        first_page: 0x20,
        pages: 0x28,
        address: 0x30,
        flags: 0x38,
        slot_size: 0x40,
    };
    const ARRAY: Offsets = Offsets { form: Form::Array { first: 0x40, used: 0x30 }, ..HASH };

    struct Memory(Vec<u8>);

    impl Memory {
        fn new() -> Self {
            let mut memory = Self(vec![0; 0x4000]);
            memory.put(KVM + 0x20, SET);
            memory
        }

        fn put(&mut self, at: u64, word: u64) {
            let at = usize::try_from(at - BASE).unwrap();
            self.0[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        }

        fn slot(&mut self, at: u64, page: u64, pages: u64, address: u64, flags: u64) {
            for (offset, word) in [(0x20, page), (0x28, pages), (0x30, address), (0x38, flags)] {
                self.put(at + offset, word);
            }
        }

        fn read(&self, at: u64, out: &mut [u8]) -> Result<(), SlotsUnusable> {
            let at = at.checked_sub(BASE).and_then(|at| usize::try_from(at).ok());
            let bytes = at.and_then(|at| self.0.get(at..at.checked_add(out.len())?));
            out.copy_from_slice(bytes.ok_or(SlotsUnusable::Gone)?);
            Ok(())
        }

        fn slots(&self, offsets: &Offsets) -> Result<Vec<Slot>, SlotsUnusable> {
            slots(offsets, KVM, &|at, out| self.read(at, out))
        }
    }

    fn expected() -> Vec<Slot> {
        let slot = |page: u64, pages: u64, address, read_only| Slot {
            guest: Region { start: Gpa(page << 12), len: pages << 12 },
            address,
            read_only,
            private: false,
        };
        vec![
            slot(0, 0xa0, 0x7000_0000, false),
            slot(0x100, 0x700, 0x7010_0000, false),
            slot(0xfffc0, 0x40, 0x1000, true),
        ]
    }

    /// Three slots: two in one bucket of the hash table.
    fn hashed() -> Memory {
        let mut memory = Memory::new();
        let (a, b, c) = (SLOTS, SLOTS + 0x100, SLOTS + 0x200);
        memory.slot(a, 0x100, 0x700, 0x7010_0000, 1);
        memory.slot(b, 0xfffc0, 0x40, 0x1000, 2);
        memory.slot(c, 0, 0xa0, 0x7000_0000, 0);
        // The second of each slot's two nodes is this set's.
        memory.put(SET + 0x30, 1);
        memory.put(SET + 0x10, a + 16);
        memory.put(a + 16, b + 16);
        memory.put(SET + 0x10 + 3 * 8, c + 16);
        memory
    }

    #[test]
    fn slots_are_read_from_a_hash_table_and_from_an_array() {
        assert_eq!(hashed().slots(&HASH).unwrap(), expected());
        let mut memory = Memory::new();
        memory.put(SET + 0x30, 3);
        for (index, (page, pages, address, flags)) in
            (0..).zip([(0xfffc0, 0x40, 0x1000, 2), (0x100, 0x700, 0x7010_0000, 1), (0, 0xa0, 0x7000_0000, 0)])
        {
            memory.slot(SET + 0x40 + 0x40 * index, page, pages, address, flags);
        }
        assert_eq!(memory.slots(&ARRAY).unwrap(), expected());
        memory.put(SET + 0x30, u64::from(u32::MAX));
        assert!(matches!(memory.slots(&ARRAY), Err(SlotsUnusable::Nonsense)));
    }

    #[test]
    fn a_chain_without_an_end_and_memory_that_is_not_there_are_errors() {
        let mut memory = hashed();
        memory.put(SLOTS + 0x100 + 16, SLOTS + 16);
        assert!(matches!(memory.slots(&HASH), Err(SlotsUnusable::Nonsense)));
        memory.put(SLOTS + 0x100 + 16, 0x1234);
        assert!(matches!(memory.slots(&HASH), Err(SlotsUnusable::Gone)));
        memory.put(SET + 0x30, 2);
        assert!(matches!(memory.slots(&HASH), Err(SlotsUnusable::Nonsense)));
    }

    #[test]
    fn slots_that_change_are_read_again_and_never_mixed() {
        let memory = hashed();
        let generation = SET;
        let reads = Cell::new(0_u64);
        // Of each walk, the generation is the second read and the last but none.
        let changing = |until: u64| {
            reads.set(0);
            slots(&HASH, KVM, &|at, out| {
                memory.read(at, out)?;
                if at == generation {
                    reads.set(reads.get() + 1);
                    out.copy_from_slice(&reads.get().min(until).to_ne_bytes());
                }
                Ok(())
            })
        };
        assert_eq!(changing(5).unwrap(), expected());
        assert_eq!(reads.get(), 6, "three walks");
        assert!(matches!(changing(u64::MAX), Err(SlotsUnusable::Changing)));
        let mut memory = hashed();
        memory.slot(SLOTS, 0x100, 0x700, 0x7010_0000, 1 | u64::from(INVALID));
        assert!(
            matches!(memory.slots(&HASH), Err(SlotsUnusable::Changing)),
            "one that is being moved is no slot"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_read_ends_without_a_panic(
            words in proptest::collection::vec((0..0x800_u64, prop_oneof![any::<u64>(), BASE..BASE + 0x4000, 0..64_u64]), 0..64)
        ) {
            let mut memory = hashed();
            for (at, word) in words {
                memory.put(BASE + at * 8, word);
            }
            let _ = memory.slots(&HASH);
            let _ = memory.slots(&ARRAY);
        }
    }
}
