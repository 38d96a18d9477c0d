//! eBPF maps that run programs: ``map_idr`` → ``struct bpf_map``. Of these the maps of sockets (``struct bpf_stab`` and
//! ``struct bpf_shtab``, net/core/sock_map.c) are here; those that stand for a struct of the kernel's are in `bpf_struct_ops`.

use super::bpf_place::{Placed, attachment};
use super::layout::Resolver;
use super::xarray;
use crate::session::{Session, member};
use vmi_core::{Gva, ReadError};

/// ``BPF_MAP_TYPE_PERF_EVENT_ARRAY``, include/uapi/linux/bpf.h.
const PERF_EVENT_ARRAY: u32 = 4;
/// ``BPF_MAP_TYPE_SOCKMAP`` and ``BPF_MAP_TYPE_SOCKHASH``.
const SOCKMAP: u32 = 15;
const SOCKHASH: u32 = 18;
/// Members of ``struct sk_psock_progs`` with what is attached there: as they are called since 5.12, and before.
const WAYS: [(&str, &str); 4] = [
    ("msg_parser", "sk_msg_verdict"),
    ("stream_parser", "sk_skb_stream_parser"),
    ("stream_verdict", "sk_skb_stream_verdict"),
    ("skb_verdict", "sk_skb_verdict"),
];
const OLD_WAYS: [(&str, &str); 3] = [
    ("msg_parser", "sk_msg_verdict"),
    ("skb_parser", "sk_skb_stream_parser"),
    ("skb_verdict", "sk_skb_stream_verdict"),
];

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    kind: u64,
    id: u64,
    /// Where a ``struct sk_psock_progs`` is in the two types of maps.
    in_array: Option<u64>,
    in_hash: Option<u64>,
    ways: Vec<Way>,
}

#[derive(Clone, Debug)]
struct Way {
    attach_type: &'static str,
    program: u64,
    /// Since 6.10.
    link: Option<u64>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let of_progs = |member: &str| resolver.optional("sk_psock_progs", member);
        let ways = if of_progs("stream_parser").is_some() { WAYS.as_slice() } else { OLD_WAYS.as_slice() };
        let way = |(name, attach_type): &(&str, &'static str)| {
            let link = of_progs(&format!("{name}_link"));
            Some(Way { attach_type, program: of_progs(name)?, link })
        };
        // The map is the first thing in either.
        Some(Self {
            kind: resolver.optional("bpf_map", "map_type")?,
            id: resolver.optional("bpf_map", "id")?,
            in_array: resolver.optional("bpf_stab", "progs"),
            in_hash: resolver.optional("bpf_shtab", "progs"),
            ways: ways.iter().filter_map(way).collect(),
        })
    }
}

/// All maps that have a number: ``struct bpf_map *`` and ``enum bpf_map_type``.
pub(super) fn maps(session: &Session<'_>) -> Result<Vec<(Gva, u32)>, ReadError> {
    let layouts = session.kernel.layouts();
    let layout = layouts.bpf.as_ref().and_then(|bpf| bpf.map.as_ref());
    let table = session.kernel.symbol("map_idr");
    let (Some(layout), Some(tree), Some(table)) = (layout, layouts.xarray, table) else {
        return Ok(Vec::new());
    };
    let mut maps = Vec::new();
    for map in xarray::pointers(session, tree, "bpf map table", member(table, tree.idr_head)?)? {
        let kind = member(map, layout.kind).and_then(|at| session.space.u32(at));
        maps.extend(session.known("bpf_map", map, kind)?.map(|kind| (map, kind)));
    }
    Ok(maps)
}

/// Whether any of the maps can hold perf events.
pub(super) fn hold_events(maps: &[(Gva, u32)]) -> bool {
    maps.iter().any(|(_, kind)| *kind == PERF_EVENT_ARRAY)
}

/// Adds what runs for the sockets in maps.
pub(super) fn places(
    session: &Session<'_>,
    maps: &[(Gva, u32)],
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let Some(layout) = session.kernel.layouts().bpf.as_ref().and_then(|bpf| bpf.map.as_ref()) else {
        return Ok(());
    };
    for (map, kind) in maps {
        let programs = match *kind {
            SOCKMAP => layout.in_array,
            SOCKHASH => layout.in_hash,
            _ => None,
        };
        let Some(programs) = programs else { continue };
        let read = of_sockets(session, layout, *map, programs, placed);
        session.known("bpf_map (sockets)", *map, read)?;
    }
    Ok(())
}

fn of_sockets(
    session: &Session<'_>,
    layout: &Layout,
    map: Gva,
    programs: u64,
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let space = &session.space;
    let programs = member(map, programs)?;
    for way in &layout.ways {
        let program = space.pointer(member(programs, way.program)?)?;
        if program.is_null() {
            continue;
        }
        let link = match way.link {
            Some(offset) => space.pointer(member(programs, offset)?)?,
            None => Gva::default(),
        };
        placed.push(if link.is_null() {
            let id = space.u32(member(map, layout.id)?)?;
            let place = attachment("sockmap", Some(format!("map:{id}")), Some(way.attach_type.to_owned()));
            Placed::Program(program, place)
        } else {
            Placed::Link(link)
        });
    }
    Ok(())
}
