//! What a record looks like: plain data, produced by the BTF reader and stored in a profile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One struct or union.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Size in bytes, as `sizeof` gives it.
    pub size: u64,
    /// Members by path. Members of anonymous structs and unions carry their bare name, as in C; members of a named
    /// member whose record has no tag (`struct sock.sk_backlog`, `atomic_t` and other typedefs of untagged structs) are
    /// also listed under a dotted path: `sk_backlog.head`, `mm_users.counter`.
    pub members: BTreeMap<String, Field>,
}

/// One member, relative to the record it was asked of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Bytes from the start of the record.
    pub offset: u64,
    /// Bytes to read at `offset`. Zero for a flexible array. For a bitfield 1, 2, 4 or 8 wherever the declared type's
    /// storage unit holds it, else the fewest bytes that do (at most 8, packed records only).
    pub size: u64,
    /// Set for a bitfield: where its bits are in the little-endian integer of `size` bytes at `offset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<Bits>,
    /// What the bytes are.
    pub kind: FieldKind,
}

/// The place of a bitfield in its storage: `(value >> shift) & ((1 << width) - 1)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bits {
    /// Bits below the field, less than 64.
    pub shift: u32,
    /// Bits in the field, 1 to 64; `shift + width` is at most 64.
    pub width: u32,
}

/// What the bytes of a member are, with `const`, `volatile`, typedefs and type tags looked through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FieldKind {
    /// A little-endian integer, `char` and `bool` included.
    Integer {
        /// Two's complement.
        signed: bool,
    },
    /// An 8-byte guest-virtual address.
    Pointer {
        /// The pointee's tag, or its type's name; `None` for `void`, functions, pointers and other nameless things.
        target: Option<String>,
        /// The pointee's size in bytes; `None` when the kernel has only declared it, or it has none.
        target_size: Option<u64>,
    },
    /// A fixed array, or a flexible one (`count` 0).
    Array {
        /// Number of elements.
        count: u64,
        /// Bytes from one element to the next.
        stride: u64,
        /// What an element is.
        element: Box<FieldKind>,
    },
    /// An embedded struct or union.
    Record {
        /// Its tag, or the typedef's name when it has none; `None` when it has neither.
        name: Option<String>,
    },
    /// An enum.
    Enum {
        /// Its tag; `None` when it has none.
        name: Option<String>,
        /// Two's complement.
        signed: bool,
    },
    /// Anything else (floating point).
    Other,
}
