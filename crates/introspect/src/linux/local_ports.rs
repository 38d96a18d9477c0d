//! The ports that a network namespace gives to sockets which ask for none: ``net.ipv4.ip_local_port_range``.

use super::layout::Resolver;
use crate::session::{Session, member};
use guest_profiles::FieldKind;
use std::ops::RangeInclusive;
use vmi_core::{Gva, ReadError};

/// Where a ``struct net`` has them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layout {
    /// Two integers, the lowest and the highest.
    Pair(u64),
    /// One, the highest above the lowest, since 6.8.
    Packed(u64),
    /// Nowhere that is known.
    Unknown,
}

impl Layout {
    pub(super) fn resolve(resolver: &Resolver<'_>) -> Self {
        let Ok(range) = resolver.profile().field("net", "ipv4.ip_local_ports.range") else {
            return Self::Unknown;
        };
        match range.kind {
            FieldKind::Array { count: 2, stride: 4, .. } => Self::Pair(range.offset),
            FieldKind::Integer { .. } if range.size == 4 => Self::Packed(range.offset),
            _ => Self::Unknown,
        }
    }
}

/// Those of the ``struct net`` at `net`. `None`: this kernel has them elsewhere.
pub(super) fn read(session: &Session<'_>, net: Gva) -> Result<Option<RangeInclusive<u16>>, ReadError> {
    let word = |at: Gva| session.space.u32(at);
    #[expect(clippy::cast_possible_truncation, reason = "ports, and the lower half of two")]
    Ok(match session.kernel.layouts().net.local_ports {
        Layout::Pair(offset) => {
            let at = member(net, offset)?;
            Some(word(at)? as u16..=word(member(at, 4)?)? as u16)
        }
        Layout::Packed(offset) => {
            let range = word(member(net, offset)?)?;
            Some(range as u16..=(range >> 16) as u16)
        }
        Layout::Unknown => None,
    })
}
