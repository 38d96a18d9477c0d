//! Guest addresses as types of their own.
//!
//! Mixing up a physical and a virtual address, or an overflow in `base + index * stride` with a hostile `index`, is the
//! classic bug of this field. So the two kinds do not convert into each other and have no operators.

use std::fmt;

/// Bytes of a small page, the unit of everything here (x86-64: 4096).
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// `self + bytes`; `None` on overflow of 64 bits.
            #[must_use]
            pub fn checked_add(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }

            /// `self - bytes`; `None` below zero.
            #[must_use]
            pub fn checked_sub(self, bytes: u64) -> Option<Self> {
                self.0.checked_sub(bytes).map(Self)
            }

            /// The element `index` of an array of `stride` bytes that starts here; `None` on overflow.
            #[must_use]
            pub fn element(self, index: u64, stride: u64) -> Option<Self> {
                self.checked_add(index.checked_mul(stride)?)
            }

            /// First byte of the 4 KiB page this is in.
            #[must_use]
            pub fn page_base(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// Offset in that page, below 4096.
            #[must_use]
            pub fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// Whether this is the null address.
            #[must_use]
            pub fn is_null(self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

address!(Gpa, "A guest-physical address.");
address!(Gva, "A guest-virtual address. Means nothing without the page tables it is translated by.");
