//! Structs of the kernel's whose functions are eBPF programs: ``struct bpf_struct_ops_map`` (kernel/bpf/bpf_struct_ops.c). The map has the
//! programs, each by a ``struct bpf_link`` of its own that has no number, and the struct that is put in the kernel's place.
//!
//! A map in use is either registered by itself, and says so, or by a link that says which map it has registered. The list of TCP's
//! congestion controls has the structs themselves, so for these it is known by the place which maps are in use.

use super::bpf_place::{Placed, attachment};
use super::layout::Resolver;
use super::list;
use crate::session::{Session, container, member};
use facts::ProblemKind;
use vmi_core::{Gva, ReadError};

/// ``BPF_MAP_TYPE_STRUCT_OPS``, include/uapi/linux/bpf.h.
const STRUCT_OPS: u32 = 26;
/// ``BPF_STRUCT_OPS_STATE_INUSE`` and ``BPF_STRUCT_OPS_STATE_READY``.
const IN_USE: u32 = 1;
const READY: u32 = 3;
/// Most functions of one struct: ``BPF_STRUCT_OPS_MAX_NR_MEMBERS`` and, since 6.12, what fits in the map's pages.
const FUNCTIONS_MAX: u32 = 512;
/// ``BPF_OBJ_NAME_LEN``.
const MAP_NAME: usize = 16;
const NAME_MAX: usize = 512;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// In ``struct bpf_struct_ops_link``, since 6.4.
    link: Option<(u64, u64)>,
    /// In ``struct bpf_map``.
    operations: u64,
    name: u64,
    /// In ``struct bpf_struct_ops_map``.
    map: u64,
    programs: Programs,
    count: Option<u64>,
    state: u64,
    data: u64,
    kind: Kind,
    /// In ``struct btf_type``: how many members it has, in the lowest 16 bits.
    info: u64,
    /// In ``struct tcp_congestion_ops``.
    congestion: Option<u64>,
}

/// How a map has its programs.
#[derive(Clone, Copy, Debug)]
enum Programs {
    /// ``struct bpf_prog **``, before 6.0.
    Themselves(u64),
    /// ``struct bpf_link **``, and where the program is in each.
    Links(u64, u64),
}

/// Where its ``struct bpf_struct_ops`` is, the name in that, and the ``struct btf_type`` of the kernel's struct.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// All in ``struct bpf_struct_ops``.
    One { kind: u64, name: u64, of: u64 },
    /// With a ``struct bpf_struct_ops_desc`` in between, since 6.9.
    Described { description: u64, kind: u64, name: u64, of: u64 },
}

impl Layout {
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let of_map = |member| resolver.optional("bpf_struct_ops_map", member);
        let of_kind = |member| resolver.optional("bpf_struct_ops", member);
        let of_description = |member| resolver.optional("bpf_struct_ops_desc", member);
        let of_value = |member| resolver.optional("bpf_struct_ops_value", member);
        let name = of_kind("name")?;
        let kind = match of_map("st_ops_desc") {
            Some(description) => Kind::Described {
                description,
                kind: of_description("st_ops")?,
                name,
                of: of_description("type")?,
            },
            None => Kind::One { kind: of_map("st_ops")?, name, of: of_kind("type")? },
        };
        let programs = match of_map("links") {
            Some(links) => Programs::Links(links, resolver.optional("bpf_link", "prog")?),
            None => Programs::Themselves(of_map("progs")?),
        };
        let value = of_map("kvalue")?;
        let state = of_value("state").or_else(|| of_value("common.state"))?;
        Some(Self {
            link: resolver
                .optional("bpf_struct_ops_link", "link")
                .zip(resolver.optional("bpf_struct_ops_link", "map")),
            operations: resolver.optional("bpf_map", "ops")?,
            name: resolver.optional("bpf_map", "name")?,
            map: of_map("map")?,
            programs,
            count: of_map("funcs_cnt"),
            state: value.checked_add(state)?,
            data: value.checked_add(of_value("data")?)?,
            kind,
            info: resolver.optional("btf_type", "info")?,
            congestion: resolver.optional("tcp_congestion_ops", "list"),
        })
    }
}

fn layout<'s>(session: &'s Session<'_>) -> Option<&'s Layout> {
    session.kernel.layouts().bpf.as_ref()?.struct_ops.as_ref()
}

/// A map, as far as it is read.
pub(super) struct Registered {
    /// ``struct bpf_prog *`` of its functions.
    pub(super) programs: Vec<Gva>,
    /// The kernel's struct and the name of the map.
    pub(super) target: String,
}

/// What the link has registered whose ``struct bpf_link`` is at `link`. `None`: nothing any more.
pub(super) fn of_link(session: &Session<'_>, link: Gva) -> Result<Option<Registered>, ReadError> {
    let Some(layout) = layout(session) else { return Ok(None) };
    let Some((offset, map)) = layout.link else { return Ok(None) };
    let start = container(link, offset)?;
    let map = session.space.pointer(member(start, map)?)?;
    if map.is_null() { Ok(None) } else { registered(session, layout, map).map(Some) }
}

/// Adds the programs of those of the `maps` that are in use, and of those that the kernel's own list has.
pub(super) fn places(
    session: &Session<'_>,
    maps: &[(Gva, u32)],
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let Some(layout) = layout(session) else { return Ok(()) };
    for (map, _) in maps.iter().filter(|(_, kind)| *kind == STRUCT_OPS) {
        let read = of_map(session, layout, *map, false, placed);
        session.known("bpf_struct_ops_map", *map, read)?;
    }
    for map in congestion_controls(session, layout)? {
        let read = of_map(session, layout, map, true, placed);
        session.known("bpf_struct_ops_map", map, read)?;
    }
    Ok(())
}

/// The maps whose structs are congestion controls of TCP.
fn congestion_controls(session: &Session<'_>, layout: &Layout) -> Result<Vec<Gva>, ReadError> {
    let symbol = |name| session.kernel.symbol(name);
    let (Some(node), Some(head), Some(operations)) =
        (layout.congestion, symbol("tcp_cong_list"), symbol("bpf_struct_ops_map_ops"))
    else {
        return Ok(Vec::new());
    };
    let mut maps = Vec::new();
    for at in list::list(session, "tcp congestion controls", head)? {
        let map = at.checked_sub(node).and_then(|data| data.checked_sub(layout.data));
        let Some(map) = map.and_then(|whole| whole.checked_add(layout.map)) else { continue };
        // What is before a struct of the kernel's own or of a module's need not be mapped.
        match member(map, layout.operations).and_then(|at| session.space.pointer(at)) {
            Ok(of) if of == operations => maps.push(map),
            Err(error) if error.ends_the_look() => return Err(error),
            _ => {}
        }
    }
    Ok(maps)
}

/// `in_place`: the kernel uses its struct, whatever the map says.
fn of_map(
    session: &Session<'_>,
    layout: &Layout,
    map: Gva,
    in_place: bool,
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let start = container(map, layout.map)?;
    let by_link = match session.space.u32(member(start, layout.state)?)? {
        IN_USE => false,
        READY if in_place => true,
        _ => return Ok(()),
    };
    let Registered { programs, target } = registered(session, layout, map)?;
    let place = attachment("struct_ops", Some(target), None);
    placed.extend(programs.into_iter().map(|program| match by_link {
        true => Placed::ByLink { at: map, program, attachment: place.clone(), lock: None },
        false => Placed::Program(program, place.clone()),
    }));
    Ok(())
}

fn registered(session: &Session<'_>, layout: &Layout, map: Gva) -> Result<Registered, ReadError> {
    let space = &session.space;
    let start = container(map, layout.map)?;
    let pointer = |at: Gva, offset| space.pointer(member(at, offset)?);
    let (name, of) = match layout.kind {
        Kind::One { kind, name, of } => {
            let kind = pointer(start, kind)?;
            (pointer(kind, name)?, pointer(kind, of)?)
        }
        Kind::Described { description, kind, name, of } => {
            let description = pointer(start, description)?;
            (pointer(pointer(description, kind)?, name)?, pointer(description, of)?)
        }
    };
    let text = |at, max| Ok::<_, ReadError>(String::from_utf8_lossy(&space.c_string(at, max)?).into_owned());
    let target = format!("{}:{}", text(name, NAME_MAX)?, text(member(map, layout.name)?, MAP_NAME)?);
    let count = match layout.count {
        Some(offset) => space.u32(member(start, offset)?)?,
        None => space.u32(member(of, layout.info)?)? & 0xffff,
    };
    if count > FUNCTIONS_MAX {
        session.problem(
            ProblemKind::Implausible,
            format_args!("bpf_struct_ops_map {map}"),
            format_args!("It claims {count} functions."),
        );
        return Ok(Registered { programs: Vec::new(), target });
    }
    let (Programs::Themselves(array) | Programs::Links(array, _)) = layout.programs;
    let array = pointer(start, array)?;
    let mut programs = Vec::new();
    for index in 0..u64::from(count) {
        let at = array.element(index, 8).ok_or(ReadError::NotAnAddress { at: array, len: index })?;
        let object = space.pointer(at)?;
        if object.is_null() {
            continue;
        }
        programs.push(match layout.programs {
            Programs::Themselves(_) => object,
            Programs::Links(_, program) => pointer(object, program)?,
        });
    }
    Ok(Registered { programs, target })
}
