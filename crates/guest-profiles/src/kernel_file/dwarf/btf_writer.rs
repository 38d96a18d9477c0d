//! Writes a BTF. Format: `include/uapi/linux/btf.h` of Linux 6.18, which `btf` reads.

use std::collections::HashMap;

/// Number of a type; 0 is `void`.
pub(super) type Id = u32;

/// One type record.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    /// Offset of the name, from [`BtfWriter::string`].
    pub(super) name: u32,
    /// `BTF_KIND_*`.
    pub(super) kind: u32,
    pub(super) flag: bool,
    /// Entries in `extra`.
    pub(super) count: u16,
    pub(super) size_or_type: u32,
    pub(super) extra: Vec<u32>,
}

/// A BTF that is being written.
#[derive(Debug)]
pub(super) struct BtfWriter {
    records: Vec<Record>,
    strings: Vec<u8>,
    offsets: HashMap<String, u32>,
}

impl BtfWriter {
    pub(super) fn new() -> Self {
        Self { records: Vec::new(), strings: vec![0], offsets: HashMap::new() }
    }

    /// Adds a record.
    pub(super) fn add(&mut self, record: Record) -> Id {
        self.records.push(record);
        u32::try_from(self.records.len()).unwrap_or(u32::MAX)
    }

    /// Puts another record in place of one: of a type that refers to itself the number is needed before the rest is known.
    pub(super) fn replace(&mut self, id: Id, record: Record) {
        let index = usize::try_from(id).unwrap_or(usize::MAX).checked_sub(1);
        if let Some(place) = index.and_then(|index| self.records.get_mut(index)) {
            *place = record;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Offset of a string. A NUL in it, and what follows, is left out.
    pub(super) fn string(&mut self, text: &str) -> u32 {
        let text = text.split('\0').next().unwrap_or_default();
        if text.is_empty() {
            return 0;
        }
        if let Some(offset) = self.offsets.get(text) {
            return *offset;
        }
        let offset = u32::try_from(self.strings.len()).unwrap_or(u32::MAX);
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        self.offsets.insert(text.to_owned(), offset);
        offset
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut types = Vec::new();
        let mut word = |word: u32| types.extend_from_slice(&word.to_le_bytes());
        for record in &self.records {
            word(record.name);
            word((u32::from(record.flag) << 31) | (record.kind << 24) | u32::from(record.count));
            word(record.size_or_type);
            record.extra.iter().copied().for_each(&mut word);
        }
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (types_len, strings_len) = (len(&types), len(&self.strings));
        // Magic, version 1, no flags; header size; then offset and size of the types and of the strings.
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for field in [24, 0, types_len, types_len, strings_len] {
            bytes.extend_from_slice(&u32::to_le_bytes(field));
        }
        bytes.extend(types);
        bytes.extend(self.strings);
        bytes
    }
}
