//! Places that run eBPF programs whether or not a link keeps them there: control groups, network interfaces, network
//! namespaces and perf events; and, each in a file of its own, what else runs programs.

use super::layout::Resolver;
use super::{
    bpf_link, bpf_map, bpf_netfilter, bpf_probe, bpf_struct_ops, bpf_trace, bpf_words, cgroup, device, list,
    namespace, net,
};
use crate::session::{Session, member};
use facts::{EbpfAttachment, ProblemKind};
use std::collections::HashSet;
use vmi_core::{Gva, ReadError};

/// Most control groups that are looked into. A host full of containers has some thousand.
const GROUPS_MAX: usize = 1 << 16;
/// Most ways in which a program can be attached to a control group; 6.12 has 38.
const WAYS_MAX: u64 = 256;
/// Bytes of a ``struct list_head`` and of a ``struct hlist_head``.
const LIST_HEAD: u64 = 16;
const HLIST_HEAD: u64 = 8;
/// What ``netdev_priv()`` rounds the size of a ``struct net_device`` up to (``NETDEV_ALIGN``).
const PRIVATE_ALIGN: u64 = 32;
/// Most programs in one direction of an interface (``BPF_MPROG_MAX``, include/linux/bpf_mprog.h).
const DIRECTION_MAX: u64 = 64;
/// Words of `ip link` for ``enum bpf_xdp_mode`` (include/linux/netdevice.h).
const XDP_MODES: [&str; 3] = ["xdpgeneric", "xdpdrv", "xdpoffload"];
/// ``enum netns_bpf_attach_type``, include/linux/bpf-netns.h.
const NET_NAMESPACE_WAYS: [&str; 2] = ["flow_dissector", "sk_lookup"];
/// Longest name of an event and of its system (``MAX_EVENT_NAME_LEN`` is 64; functions have longer ones).
const NAME_MAX: usize = 512;

/// Offsets in bytes. What a kernel does not have is `None`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    groups: Option<Groups>,
    xdp: Option<Xdp>,
    directions: Option<Directions>,
    netkit: Option<Netkit>,
    several: Option<Several>,
    /// In ``struct net``: the programs attached without a link, and the lists of links.
    net_programs: Option<u64>,
    net_links: Option<u64>,
    event: Option<Event>,
}

#[derive(Clone, Debug)]
struct Groups {
    root: u64,
    own: u64,
    children: u64,
    sibling: u64,
    programs: u64,
    /// Whether they are in a ``list_head``; else in an ``hlist_head``, since 6.1.
    circular: bool,
    /// What each list stands for, by its number: ``enum cgroup_bpf_attach_type``, and ``enum bpf_attach_type`` before 5.15.
    ways: Vec<(u64, String)>,
    node: u64,
    program: u64,
    link: u64,
}

#[derive(Clone, Debug)]
struct Xdp {
    state: u64,
    size: u64,
    program: u64,
    link: u64,
}

#[derive(Clone, Debug)]
struct Directions {
    ingress: u64,
    egress: u64,
}

/// Interfaces of containers that hand their packets to programs (``drivers/net/netkit.c``).
#[derive(Clone, Debug)]
struct Netkit {
    /// In ``struct net_device``: what tells its kind.
    operations: u64,
    /// Behind ``struct net_device``: the programs of this end, and whether it is the first of the pair.
    programs: u64,
    primary: u64,
}

/// Several programs in one place, in their order.
#[derive(Clone, Debug)]
struct Several {
    programs: u64,
    parent: u64,
    links: u64,
}

#[derive(Clone, Debug)]
struct Event {
    program: u64,
    call: u64,
    class: u64,
    system: u64,
    register: u64,
    name: u64,
    tracepoint_name: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Self {
        Self {
            groups: Groups::resolve(resolver),
            xdp: Xdp::resolve(resolver),
            directions: Directions::resolve(resolver),
            netkit: Netkit::resolve(resolver),
            several: Several::resolve(resolver),
            net_programs: resolver.optional("net", "bpf.progs"),
            net_links: resolver.optional("net", "bpf.links"),
            event: Event::resolve(resolver),
        }
    }
}

impl Groups {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let profile = resolver.profile();
        let node = resolver.optional("bpf_prog_list", "node")?;
        let flags = resolver.optional("cgroup", "bpf.flags")?;
        let programs = resolver.optional("cgroup", "bpf.progs")?;
        let bytes = flags.checked_sub(programs)?;
        let ways: Vec<(u64, String)> =
            match profile.enums.get("cgroup_bpf_attach_type").filter(|values| !values.is_empty()) {
                Some(values) => {
                    let value = |name: &str| values.get(name).and_then(|value| u64::try_from(*value).ok());
                    let count = value("MAX_CGROUP_BPF_ATTACH_TYPE")?.min(WAYS_MAX);
                    let hooks = value("CGROUP_LSM_START").zip(value("CGROUP_LSM_END"));
                    let is_hook = |way| hooks.is_some_and(|(first, last)| (first..=last).contains(&way));
                    let named = |way| {
                        let name = values.iter().find(|(_, value)| u64::try_from(**value) == Ok(way))?.0;
                        Some(name.to_lowercase())
                    };
                    let word = |way| if is_hook(way) { Some("lsm_cgroup".to_owned()) } else { named(way) };
                    (0..count).filter_map(|way| Some((way, word(way)?))).collect()
                }
                None => (0..(bytes / LIST_HEAD).min(WAYS_MAX))
                    .map(|way| (way, bpf_words::attach_type(u32::try_from(way).unwrap_or(u32::MAX))))
                    .collect(),
            };
        let count = ways.last()?.0.checked_add(1)?;
        Some(Self {
            root: resolver.optional("cgroup_root", "cgrp")?,
            own: resolver.optional("cgroup", "self")?,
            children: resolver.optional("cgroup_subsys_state", "children")?,
            sibling: resolver.optional("cgroup_subsys_state", "sibling")?,
            programs,
            circular: bytes.checked_div(count)? >= LIST_HEAD,
            ways,
            node,
            program: resolver.optional("bpf_prog_list", "prog")?,
            link: resolver.optional("bpf_prog_list", "link")?,
        })
    }
}

impl Xdp {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        Some(Self {
            state: resolver.optional("net_device", "xdp_state")?,
            size: resolver.profile().size("bpf_xdp_entity").ok()?,
            program: resolver.optional("bpf_xdp_entity", "prog")?,
            link: resolver.optional("bpf_xdp_entity", "link")?,
        })
    }
}

impl Directions {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        Some(Self {
            ingress: resolver.optional("net_device", "tcx_ingress")?,
            egress: resolver.optional("net_device", "tcx_egress")?,
        })
    }
}

impl Netkit {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let device = resolver.profile().size("net_device").ok()?.checked_next_multiple_of(PRIVATE_ALIGN)?;
        Some(Self {
            operations: resolver.optional("net_device", "rtnl_link_ops")?,
            programs: device.checked_add(resolver.optional("netkit", "active")?)?,
            primary: device.checked_add(resolver.optional("netkit", "primary")?)?,
        })
    }
}

impl Several {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        Some(Self {
            programs: resolver.optional("bpf_mprog_entry", "fp_items")?,
            parent: resolver.optional("bpf_mprog_entry", "parent")?,
            links: resolver.optional("bpf_mprog_bundle", "cp_items")?,
        })
    }
}

impl Event {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        Some(Self {
            program: resolver.optional("perf_event", "prog")?,
            call: resolver.optional("perf_event", "tp_event")?,
            class: resolver.optional("trace_event_call", "class")?,
            system: resolver.optional("trace_event_class", "system")?,
            register: resolver.optional("trace_event_class", "reg")?,
            name: resolver.optional("trace_event_call", "name")?,
            tracepoint_name: resolver.optional("tracepoint", "name")?,
        })
    }
}

/// What a place has.
pub(super) enum Placed {
    /// A ``struct bpf_prog *``, attached without a link.
    Program(Gva, EbpfAttachment),
    /// A ``struct bpf_link *``, which knows the rest.
    Link(Gva),
    /// A ``struct bpf_prog *`` that only a link can have put there. The place at `at` does not say which link. Who takes it off has the
    /// ``struct mutex`` at `lock` meanwhile. `None`: the place has none, or it is not known where.
    ByLink { at: Gva, program: Gva, attachment: EbpfAttachment, lock: Option<Gva> },
    /// The program of a ``struct perf_event *``, which is there as long as anybody holds the event's file: a descriptor, a link, a map,
    /// or who has `mapped` its buffer. `lock` is as above.
    Event { event: Gva, program: Gva, mapped: bool, attachment: EbpfAttachment, lock: Option<Gva> },
}

/// What all places have.
pub(super) fn places(session: &Session<'_>) -> Result<Vec<Placed>, ReadError> {
    let Some(bpf) = session.kernel.layouts().bpf.as_ref() else { return Ok(Vec::new()) };
    let layout = &bpf.place;
    let mut placed = Vec::new();
    if let Some(groups) = &layout.groups {
        of_groups(session, groups, &mut placed)?;
    }
    let maps = bpf_map::maps(session)?;
    bpf_map::places(session, &maps, &mut placed)?;
    bpf_struct_ops::places(session, &maps, &mut placed)?;
    bpf_trace::places(session, &mut placed)?;
    bpf_probe::places(session, &mut placed)?;
    for net in net::namespaces(session)? {
        let read = of_namespace(session, layout, net, &mut placed);
        session.known("net (programs)", net, read)?;
        let read = bpf_netfilter::places(session, net, &mut placed);
        session.known("net (netfilter)", net, read)?;
        for interface in device::all(session, net)? {
            let read = of_interface(session, layout, interface, &mut placed);
            session.known("net_device", interface, read)?;
        }
    }
    // What may hold an event and is not looked into.
    if bpf_map::hold_events(&maps) {
        for place in &mut placed {
            if let Placed::Event { mapped, .. } = place {
                *mapped = true;
            }
        }
    }
    Ok(placed)
}

fn of_groups(session: &Session<'_>, layout: &Groups, placed: &mut Vec<Placed>) -> Result<(), ReadError> {
    let Some(root) = session.kernel.symbol("cgrp_dfl_root") else { return Ok(()) };
    let mut open = vec![member(root, layout.root)?];
    let mut seen = HashSet::new();
    while let Some(group) = open.pop() {
        if !seen.insert(group) {
            continue;
        }
        if seen.len() > GROUPS_MAX {
            session.problem(
                ProblemKind::Budget,
                format_args!("cgroup {group}"),
                format_args!("Programs of more than {GROUPS_MAX} control groups are not read."),
            );
            break;
        }
        session.known("cgroup", group, of_group(session, layout, group, placed))?;
        let children = member(group, layout.own).and_then(|own| member(own, layout.children));
        let Some(children) = session.known("cgroup", group, children)? else { continue };
        for node in list::list(session, "cgroup children", children)? {
            let child = node.checked_sub(layout.sibling).and_then(|own| own.checked_sub(layout.own));
            open.extend(child);
        }
    }
    Ok(())
}

fn of_group(
    session: &Session<'_>,
    layout: &Groups,
    group: Gva,
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let heads = member(group, layout.programs)?;
    let size = if layout.circular { LIST_HEAD } else { HLIST_HEAD };
    for (way, word) in &layout.ways {
        let head = heads.element(*way, size).ok_or(ReadError::NotAnAddress { at: heads, len: *way })?;
        let nodes = match layout.circular {
            true => list::list(session, "bpf_prog_list", head)?,
            false => list::hlist(session, "bpf_prog_list", head)?,
        };
        for node in nodes {
            let Some(entry) = node.checked_sub(layout.node) else { continue };
            let read = || -> Result<(Gva, Gva), ReadError> {
                Ok((
                    session.space.pointer(member(entry, layout.program)?)?,
                    session.space.pointer(member(entry, layout.link)?)?,
                ))
            };
            let Some((program, link)) = session.known("bpf_prog_list", entry, read())? else { continue };
            if !link.is_null() {
                placed.extend(bpf_link::in_cgroup_link(session, link).map(Placed::Link));
            } else if !program.is_null() {
                let target = cgroup::path(session, "cgroup", group, group)?;
                let place = attachment("cgroup", target, Some(word.clone()));
                placed.push(Placed::Program(program, place));
            }
        }
    }
    Ok(())
}

fn of_interface(
    session: &Session<'_>,
    layout: &Layout,
    interface: Gva,
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let name = device::name(session, interface)?;
    let space = &session.space;
    if let Some(xdp) = &layout.xdp {
        for (mode, program, link) in xdp_programs(session, xdp, interface)? {
            if !link.is_null() {
                placed.extend(bpf_link::in_xdp_link(session, link).map(Placed::Link));
            } else if !program.is_null() {
                let place = attachment("xdp", Some(name.clone()), Some(mode.to_owned()));
                placed.push(Placed::Program(program, place));
            }
        }
    }
    let mut lists = Vec::new();
    if let Some(directions) = &layout.directions {
        lists.push((directions.ingress, "tcx", "tcx_ingress"));
        lists.push((directions.egress, "tcx", "tcx_egress"));
    }
    if let (Some(netkit), Some(operations)) = (&layout.netkit, session.kernel.symbol("netkit_link_ops"))
        && space.pointer(member(interface, netkit.operations)?)? == operations
    {
        let primary = space.u8(member(interface, netkit.primary)?)? != 0;
        lists.push((netkit.programs, "netkit", if primary { "netkit_primary" } else { "netkit_peer" }));
    }
    for (offset, kind, way) in lists {
        let several = space.pointer(member(interface, offset)?)?;
        of_several(
            session,
            layout,
            several,
            &attachment(kind, Some(name.clone()), Some(way.to_owned())),
            placed,
        )?;
    }
    Ok(())
}

/// The programs of the ``struct bpf_mprog_entry`` at `entry`, which are all attached in the same way.
fn of_several(
    session: &Session<'_>,
    layout: &Layout,
    entry: Gva,
    place: &EbpfAttachment,
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let Some(several) = layout.several.as_ref().filter(|_| !entry.is_null()) else { return Ok(()) };
    let space = &session.space;
    let programs = member(entry, several.programs)?;
    let links = member(space.pointer(member(entry, several.parent)?)?, several.links)?;
    for index in 0..DIRECTION_MAX {
        let of = |array: Gva| {
            array
                .element(index, 8)
                .ok_or(ReadError::NotAnAddress { at: array, len: index })
                .and_then(|at| space.pointer(at))
        };
        let program = of(programs)?;
        if program.is_null() {
            break;
        }
        let link = of(links)?;
        placed.push(match link.is_null() {
            true => Placed::Program(program, place.clone()),
            false => Placed::Link(link),
        });
    }
    Ok(())
}

fn of_namespace(
    session: &Session<'_>,
    layout: &Layout,
    net: Gva,
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    for (index, word) in (0..).zip(NET_NAMESPACE_WAYS) {
        let of = |offset, size| {
            member(net, offset)?.element(index, size).ok_or(ReadError::NotAnAddress { at: net, len: offset })
        };
        if let Some(offset) = layout.net_programs {
            let program = session.space.pointer(of(offset, 8)?)?;
            if !program.is_null() {
                let target = namespace::of_net(session, net)?.map(|inode| format!("net:[{inode}]"));
                let place = attachment("netns", target, Some(word.to_owned()));
                placed.push(Placed::Program(program, place));
            }
        }
        if let Some(offset) = layout.net_links {
            for node in list::list(session, "netns_bpf.links", of(offset, LIST_HEAD)?)? {
                placed.extend(bpf_link::in_net_namespace_link(session, node).map(Placed::Link));
            }
        }
    }
    Ok(())
}

/// Mode, program and link of each way in which XDP can be on an interface.
fn xdp_programs(
    session: &Session<'_>,
    layout: &Xdp,
    interface: Gva,
) -> Result<Vec<(&'static str, Gva, Gva)>, ReadError> {
    let state = member(interface, layout.state)?;
    let mut found = Vec::new();
    for (index, mode) in (0..).zip(XDP_MODES) {
        let entity = state.element(index, layout.size);
        let entity = entity.ok_or(ReadError::NotAnAddress { at: state, len: layout.size })?;
        found.push((
            mode,
            session.space.pointer(member(entity, layout.program)?)?,
            session.space.pointer(member(entity, layout.link)?)?,
        ));
    }
    Ok(found)
}

/// How the XDP link at `link` (its ``struct bpf_link``, which is its beginning too) is on the interface at `interface`.
pub(super) fn xdp_mode(
    session: &Session<'_>,
    interface: Gva,
    link: Gva,
) -> Result<Option<&'static str>, ReadError> {
    let Some(layout) = session.kernel.layouts().bpf.as_ref().and_then(|bpf| bpf.place.xdp.as_ref()) else {
        return Ok(None);
    };
    let programs = xdp_programs(session, layout, interface)?;
    Ok(programs.into_iter().find(|(_, _, of)| *of == link).map(|(mode, _, _)| mode))
}

/// The program of the ``struct perf_event`` at `event`.
pub(super) fn event_program(session: &Session<'_>, event: Gva) -> Result<Option<Gva>, ReadError> {
    let Some(layout) = session.kernel.layouts().bpf.as_ref().and_then(|bpf| bpf.place.event.as_ref()) else {
        return Ok(None);
    };
    let program = session.space.pointer(member(event, layout.program)?)?;
    Ok(Some(program).filter(|program| !program.is_null()))
}

/// `system:name` of what the ``struct perf_event`` at `event` counts. `None`: it is no trace event (a hardware counter).
pub(super) fn event_name(session: &Session<'_>, event: Gva) -> Result<Option<String>, ReadError> {
    let Some(layout) = session.kernel.layouts().bpf.as_ref().and_then(|bpf| bpf.place.event.as_ref()) else {
        return Ok(None);
    };
    let space = &session.space;
    let call = space.pointer(member(event, layout.call)?)?;
    if call.is_null() {
        return Ok(None);
    }
    let text = |at: Gva| space.c_string(at, NAME_MAX).map(|text| String::from_utf8_lossy(&text).into_owned());
    let class = space.pointer(member(call, layout.class)?)?;
    let system = text(space.pointer(member(class, layout.system)?)?)?;
    let mut name = space.pointer(member(call, layout.name)?)?;
    // That of a tracepoint is the tracepoint's. Which flag says so has changed; what turns it on has not.
    if Some(space.pointer(member(class, layout.register)?)?) == session.kernel.symbol("trace_event_reg") {
        name = space.pointer(member(name, layout.tracepoint_name)?)?;
    }
    Ok(Some(format!("{system}:{}", text(name)?)))
}

/// Something that a program is attached to without a link.
pub(super) fn attachment(kind: &str, target: Option<String>, attach_type: Option<String>) -> EbpfAttachment {
    EbpfAttachment { kind: kind.to_owned(), target, attach_type, link: None, sites: None, priority: None }
}
