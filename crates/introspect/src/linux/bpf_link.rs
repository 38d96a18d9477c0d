//! eBPF links: ``link_idr`` → ``struct bpf_link``, each of which keeps one program where it is attached.
//!
//! What a link is attached to is in the larger struct that it is a part of, another for each type of link.

use super::layout::Resolver;
use super::{
    bpf_netfilter, bpf_place, bpf_probe, bpf_struct_ops, bpf_words, cgroup, device, namespace, xarray,
};
use crate::session::{Session, container, member};
use facts::{EbpfAttachment, ProblemKind};
use vmi_core::{Gva, ReadError};

/// Most links that are read. A host full of containers has some hundred.
const LINKS_MAX: usize = 1 << 16;
/// Longest name of a tracepoint, a function or an iterator's target (``KSYM_NAME_LEN``).
const NAME_MAX: usize = 512;

/// ``enum bpf_link_type``, include/uapi/linux/bpf.h.
const RAW_TRACEPOINT: u32 = 1;
const TRACING: u32 = 2;
const CGROUP: u32 = 3;
const ITERATOR: u32 = 4;
const NET_NAMESPACE: u32 = 5;
const XDP: u32 = 6;
const PERF_EVENT: u32 = 7;
const KPROBE_MULTI: u32 = 8;
const STRUCT_OPS: u32 = 9;
const NETFILTER: u32 = 10;
const TCX: u32 = 11;
const UPROBE_MULTI: u32 = 12;
const NETKIT: u32 = 13;
const SOCKMAP: u32 = 14;

/// A struct that a link is a part of.
#[derive(Clone, Copy, Debug)]
struct Whole {
    /// Where the ``struct bpf_link`` is in it.
    link: u64,
    /// Where it says what the link is attached to.
    target: u64,
    /// Where it says how, if the link itself does not.
    attach_type: Option<u64>,
}

impl Whole {
    fn resolve(resolver: &Resolver<'_>, name: &str, target: &str, attach_type: Option<&str>) -> Option<Self> {
        Some(Self {
            link: resolver.optional(name, "link")?,
            target: resolver.optional(name, target)?,
            attach_type: attach_type.and_then(|member| resolver.optional(name, member)),
        })
    }
}

/// Offsets in bytes. What a kernel does not have is `None`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    id: u64,
    kind: u64,
    program: u64,
    references: u64,
    operations: u64,
    /// In ``struct bpf_link`` since 6.18; in what it is a part of before.
    attach_type: Option<u64>,
    raw_tracepoint: Option<Whole>,
    tracepoint: Option<(u64, u64)>,
    tracing: Option<Whole>,
    cgroup: Option<Whole>,
    iterator: Option<Whole>,
    iterator_target: Option<(u64, u64)>,
    net_namespace: Option<Whole>,
    /// In ``struct bpf_netns_link``: its place in the list of its namespace.
    net_namespace_node: Option<u64>,
    xdp: Option<Whole>,
    perf_event: Option<Whole>,
    tcx: Option<Whole>,
    netkit: Option<Whole>,
    sockmap: Option<Whole>,
    map_id: Option<u64>,
}

impl Layout {
    /// `None`: this kernel has no links.
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let whole = |name, target, attach_type| Whole::resolve(resolver, name, target, attach_type);
        Some(Self {
            id: resolver.optional("bpf_link", "id")?,
            kind: resolver.optional("bpf_link", "type")?,
            program: resolver.optional("bpf_link", "prog")?,
            references: resolver.optional("bpf_link", "refcnt")?,
            operations: resolver.optional("bpf_link", "ops")?,
            attach_type: resolver.optional("bpf_link", "attach_type"),
            raw_tracepoint: whole("bpf_raw_tp_link", "btp", None),
            tracepoint: resolver
                .optional("bpf_raw_event_map", "tp")
                .zip(resolver.optional("tracepoint", "name")),
            tracing: whole("bpf_tracing_link", "tgt_prog", Some("attach_type")),
            cgroup: whole("bpf_cgroup_link", "cgroup", Some("type")),
            iterator: whole("bpf_iter_link", "tinfo", None),
            iterator_target: resolver
                .optional("bpf_iter_target_info", "reg_info")
                .zip(resolver.optional("bpf_iter_reg", "target")),
            net_namespace: whole("bpf_netns_link", "net", Some("type")),
            net_namespace_node: resolver.optional("bpf_netns_link", "node"),
            xdp: whole("bpf_xdp_link", "dev", None),
            perf_event: whole("bpf_perf_link", "perf_file", None),
            tcx: whole("tcx_link", "dev", Some("location")),
            netkit: whole("netkit_link", "dev", Some("location")),
            sockmap: whole("sockmap_link", "map", Some("attach_type")),
            map_id: resolver.optional("bpf_map", "id"),
        })
    }
}

/// One link.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// ``struct bpf_link *``.
    pub(super) at: Gva,
    /// ``struct bpf_prog *``: one, or those of the map that a struct_ops link has.
    pub(super) programs: Vec<Gva>,
    /// ``struct perf_event *``, of a link to one.
    pub(super) event: Option<Gva>,
    pub(super) attachment: EbpfAttachment,
}

/// The ``struct bpf_link`` in the ``struct bpf_cgroup_link`` at `at`.
pub(super) fn in_cgroup_link(session: &Session<'_>, at: Gva) -> Option<Gva> {
    at.checked_add(layout(session)?.cgroup?.link)
}

/// The same of a ``struct bpf_xdp_link``.
pub(super) fn in_xdp_link(session: &Session<'_>, at: Gva) -> Option<Gva> {
    at.checked_add(layout(session)?.xdp?.link)
}

/// The same of the ``struct bpf_netns_link`` with its node in the list of its namespace at `node`.
pub(super) fn in_net_namespace_link(session: &Session<'_>, node: Gva) -> Option<Gva> {
    let layout = layout(session)?;
    node.checked_sub(layout.net_namespace_node?)?.checked_add(layout.net_namespace?.link)
}

fn layout<'s>(session: &'s Session<'_>) -> Option<&'s Layout> {
    session.kernel.layouts().bpf.as_ref()?.link.as_ref()
}

/// Whether anything holds the link at `at` still: one that is let go of is off the table first, and then off its place.
pub(super) fn is_held(session: &Session<'_>, at: Gva) -> Result<bool, ReadError> {
    let Some(layout) = layout(session) else { return Ok(false) };
    Ok(session.space.u64(member(at, layout.references)?)? != 0)
}

/// Whether the link at `at` is the one by which a hook of the security modules runs the programs of control groups. It is the kernel's
/// own and has no number, nor has its program (``bpf_trampoline_link_cgroup_shim()``).
pub(super) fn is_shared_hook(session: &Session<'_>, at: Gva) -> Result<bool, ReadError> {
    let (Some(layout), Some(of_hooks)) = (layout(session), session.kernel.symbol("bpf_shim_tramp_link_lops"))
    else {
        return Ok(false);
    };
    Ok(session.space.pointer(member(at, layout.operations)?)? == of_hooks)
}

/// All links that have a number.
pub(super) fn links(session: &Session<'_>) -> Result<Vec<Link>, ReadError> {
    let tree = session.kernel.layouts().xarray;
    let table = tree.zip(session.kernel.symbol("link_idr"));
    let Some((tree, table)) = table else { return Ok(Vec::new()) };
    let mut links = xarray::pointers(session, tree, "bpf link table", member(table, tree.idr_head)?)?;
    if links.len() > LINKS_MAX {
        session.problem(
            ProblemKind::Budget,
            format_args!("bpf link table {table}"),
            format_args!("The guest has {} links, of which {LINKS_MAX} are read.", links.len()),
        );
        links.truncate(LINKS_MAX);
    }
    let mut read_links = Vec::new();
    for at in links {
        read_links.extend(session.known("bpf_link", at, read(session, at))?.flatten());
    }
    Ok(read_links)
}

/// The ``struct bpf_link`` at `at`. `None`: this kernel's type is not known.
pub(super) fn read(session: &Session<'_>, at: Gva) -> Result<Option<Link>, ReadError> {
    let Some(layout) = layout(session) else { return Ok(None) };
    let space = &session.space;
    let kind = space.u32(member(at, layout.kind)?)?;
    let id = space.u32(member(at, layout.id)?)?;
    let program = space.pointer(member(at, layout.program)?)?;
    let program = Some(program).filter(|program| !program.is_null());
    let mut programs: Vec<Gva> = program.into_iter().collect();
    let mut event = None;
    let whole = match kind {
        RAW_TRACEPOINT => layout.raw_tracepoint,
        TRACING => layout.tracing,
        CGROUP => layout.cgroup,
        ITERATOR => layout.iterator,
        NET_NAMESPACE => layout.net_namespace,
        XDP => layout.xdp,
        PERF_EVENT => layout.perf_event,
        TCX => layout.tcx,
        NETKIT => layout.netkit,
        SOCKMAP => layout.sockmap,
        _ => None,
    };
    let (mut target, mut attach_type) = (None, None);
    if let Some(whole) = whole {
        let start = container(at, whole.link)?;
        let object = space.pointer(member(start, whole.target)?)?;
        attach_type = match (layout.attach_type, whole.attach_type) {
            (Some(offset), _) => Some(space.u32(member(at, offset)?)?),
            (None, Some(offset)) => Some(space.u32(member(start, offset)?)?),
            (None, None) => None,
        };
        target = match kind {
            TRACING => match program {
                Some(program) => super::bpf::function(session, program)?,
                None => None,
            },
            // It was there once: a link stays when the thing that it was attached to goes.
            _ if object.is_null() => None,
            RAW_TRACEPOINT => name_behind(session, object, layout.tracepoint)?,
            ITERATOR => name_behind(session, object, layout.iterator_target)?,
            CGROUP => cgroup::path(session, "cgroup", object, object)?,
            NET_NAMESPACE => namespace::of_net(session, object)?.map(|inode| format!("net:[{inode}]")),
            PERF_EVENT => {
                event = Some(super::file::private(session, object)?);
                match event {
                    Some(event) => bpf_place::event_name(session, event)?,
                    None => None,
                }
            }
            SOCKMAP => match layout.map_id {
                Some(offset) => Some(format!("map:{}", space.u32(member(object, offset)?)?)),
                None => None,
            },
            _ => Some(device::name(session, object)?),
        };
        if kind == XDP && !object.is_null() {
            let mode = bpf_place::xdp_mode(session, object, at)?;
            let attachment = attachment(kind, target, mode.map(ToOwned::to_owned), id);
            return Ok(Some(Link { at, programs, event, attachment }));
        }
    }
    let (mut sites, mut priority) = (None, None);
    match kind {
        KPROBE_MULTI => sites = bpf_probe::functions(session, at)?,
        UPROBE_MULTI => (target, sites) = bpf_probe::file(session, at)?,
        NETFILTER => (target, priority) = bpf_netfilter::hook(session, at)?,
        STRUCT_OPS => {
            if let Some(registered) = bpf_struct_ops::of_link(session, at)? {
                programs = registered.programs;
                target = Some(registered.target);
            }
        }
        _ => {}
    }
    // Where there is but one way, the number says nothing, and kernels before 6.18 do not have it.
    let tells = matches!(kind, TRACING | CGROUP | NET_NAMESPACE | TCX | NETKIT | SOCKMAP);
    let attach_type = attach_type.filter(|_| tells).map(bpf_words::attach_type);
    let attachment = EbpfAttachment { sites, priority, ..attachment(kind, target, attach_type, id) };
    Ok(Some(Link { at, programs, event, attachment }))
}

fn attachment(kind: u32, target: Option<String>, attach_type: Option<String>, id: u32) -> EbpfAttachment {
    let link = Some(id).filter(|id| *id != 0);
    EbpfAttachment { kind: bpf_words::link(kind), target, attach_type, link, sites: None, priority: None }
}

/// The text at the end of two pointers: `first` bytes into the object at `at`, and from there `second` bytes on.
fn name_behind(
    session: &Session<'_>,
    at: Gva,
    offsets: Option<(u64, u64)>,
) -> Result<Option<String>, ReadError> {
    let Some((first, second)) = offsets else { return Ok(None) };
    let object = session.space.pointer(member(at, first)?)?;
    let name = session.space.c_string(session.space.pointer(member(object, second)?)?, NAME_MAX)?;
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
}
