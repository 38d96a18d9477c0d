//! Writes small BTFs, so that a test can say what a kernel's types are.

/// Types get the numbers 1, 2, … in the order in which they are added.
#[derive(Debug, Clone)]
pub struct BtfBuilder {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Offset of the first string, and number of types that are there already: those of the base.
    strings_from: u32,
    count: u32,
}

impl BtfBuilder {
    pub fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], strings_from: 0, count: 0 }
    }

    /// The types of a module of the kernel that `base` builds.
    pub fn on(base: &Self) -> Self {
        let strings_from = u32::try_from(base.strings.len()).unwrap();
        Self { types: Vec::new(), strings: Vec::new(), strings_from, count: base.count }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let offset = self.strings_from + u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        offset
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Any type: kind number, `kind_flag`, number of trailing entries, size or type, trailing words.
    pub fn raw(
        &mut self,
        name: &str,
        kind: u32,
        flag: bool,
        vlen: u32,
        size_or_type: u32,
        extra: &[u32],
    ) -> u32 {
        let name = self.string(name);
        self.words(&[name, (u32::from(flag) << 31) | (kind << 24) | vlen, size_or_type]);
        self.words(extra);
        self.count += 1;
        self.count
    }

    pub fn int(&mut self, name: &str, size: u32, signed: bool) -> u32 {
        self.raw(name, 1, false, 0, size, &[(u32::from(signed) << 24) | (size * 8)])
    }

    pub fn pointer(&mut self, target: u32) -> u32 {
        self.raw("", 2, false, 0, target, &[])
    }

    pub fn array(&mut self, element: u32, count: u32) -> u32 {
        self.raw("", 3, false, 0, 0, &[element, element, count])
    }

    pub fn record(&mut self, kind: u32, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let mut extra = Vec::new();
        for (name, target, bits) in members {
            extra.extend([self.string(name), *target, *bits]);
        }
        self.raw(name, kind, false, u32::try_from(members.len()).unwrap(), size, &extra)
    }

    /// Members: name, type, offset in bits.
    pub fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.record(4, name, size, members)
    }

    pub fn union(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.record(5, name, size, members)
    }

    /// A struct with bitfields. Members: name, type, offset in bits, width in bits (0: not a bitfield).
    pub fn bitfields(&mut self, name: &str, size: u32, members: &[(&str, u32, u32, u32)]) -> u32 {
        let mut extra = Vec::new();
        for (name, target, bits, width) in members {
            extra.extend([self.string(name), *target, (width << 24) | bits]);
        }
        self.raw(name, 4, true, u32::try_from(members.len()).unwrap(), size, &extra)
    }

    pub fn enumeration(&mut self, name: &str, signed: bool, values: &[(&str, i32)]) -> u32 {
        let mut extra = Vec::new();
        for (name, value) in values {
            extra.extend([self.string(name), value.cast_unsigned()]);
        }
        self.raw(name, 6, signed, u32::try_from(values.len()).unwrap(), 4, &extra)
    }

    pub fn enumeration64(&mut self, name: &str, signed: bool, values: &[(&str, u64)]) -> u32 {
        let mut extra = Vec::new();
        for (name, value) in values {
            let low = u32::try_from(value & 0xffff_ffff).unwrap();
            let high = u32::try_from(value >> 32).unwrap();
            extra.extend([self.string(name), low, high]);
        }
        self.raw(name, 19, signed, u32::try_from(values.len()).unwrap(), 8, &extra)
    }

    pub fn forward(&mut self, name: &str) -> u32 {
        self.raw(name, 7, false, 0, 0, &[])
    }

    pub fn typedef(&mut self, name: &str, target: u32) -> u32 {
        self.raw(name, 8, false, 0, target, &[])
    }

    pub fn volatile(&mut self, target: u32) -> u32 {
        self.raw("", 9, false, 0, target, &[])
    }

    pub fn constant(&mut self, target: u32) -> u32 {
        self.raw("", 10, false, 0, target, &[])
    }

    pub fn type_tag(&mut self, name: &str, target: u32) -> u32 {
        self.raw(name, 18, false, 0, target, &[])
    }

    pub fn build(&self) -> Vec<u8> {
        let types = u32::try_from(self.types.len()).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            bytes.extend_from_slice(&u32::to_le_bytes(word));
        }
        bytes.extend_from_slice(&self.types);
        bytes.extend_from_slice(&self.strings);
        bytes
    }
}
