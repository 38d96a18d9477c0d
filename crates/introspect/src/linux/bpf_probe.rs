//! Links with many probes at once: of the kernel's functions (``struct bpf_kprobe_multi_link``) and of places in a file
//! (``struct bpf_uprobe_multi_link``, both kernel/trace/bpf_trace.c), and where the kernel keeps the probes themselves.
//!
//! Probes of functions are ``struct fprobe``: each has a ``struct ftrace_ops`` on the list of these before 6.14, and is in a hash table
//! since (kernel/trace/fprobe.c). Those of files are in a tree by file and offset (kernel/events/uprobes.c).

use super::bpf_place::Placed;
use super::function_name::Functions;
use super::layout::Resolver;
use super::list::{self, HashTable};
use super::path;
use crate::session::{Session, container, member};
use facts::{EbpfSites, ProblemKind};
use std::collections::BTreeSet;
use vmi_core::{Gva, ReadError};

/// Places of one link that are told.
const FIRST: u32 = 8;
/// ``FPROBE_TABLE_SIZE``, kernel/trace/fprobe.c 6.14.
const TABLE: u64 = 64;
/// Most users of ftrace, and most probes of files, that are followed.
const USERS_MAX: usize = 1 << 16;
/// Most programs that use one probe of a file.
const CONSUMERS_MAX: usize = 1 << 12;

/// Offsets in bytes. What a kernel does not have is `None`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    functions: Option<FunctionProbes>,
    files: Option<FileProbes>,
}

#[derive(Clone, Debug)]
struct FunctionProbes {
    /// In ``struct bpf_kprobe_multi_link``.
    link: u64,
    probe: u64,
    addresses: u64,
    count: u64,
    /// In ``struct fprobe``.
    entry: u64,
    exit: u64,
    kept: Kept,
}

/// How the kernel finds its probes.
#[derive(Clone, Copy, Debug)]
enum Kept {
    /// By the ``struct ftrace_ops`` of each: where that is, and in it the function and the next one.
    List { operations: u64, function: u64, next: u64 },
    /// By a ``struct fprobe_hlist`` of each: its node, and its probe.
    Table { node: u64, probe: u64 },
}

#[derive(Clone, Debug)]
struct FileProbes {
    /// In ``struct bpf_uprobe_multi_link``.
    link: u64,
    path: u64,
    count: u64,
    probes: u64,
    /// ``struct bpf_uprobe``.
    size: u64,
    offset: u64,
    whole: u64,
    consumer: u64,
    /// In ``struct uprobe``.
    node: u64,
    left: u64,
    right: u64,
    consumers: u64,
    /// In ``struct uprobe_consumer``; in a ``list_head`` since 6.12, singly linked before.
    handler: u64,
    return_handler: u64,
    next: Option<u64>,
    in_list: Option<u64>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Self {
        Self { functions: FunctionProbes::resolve(resolver), files: FileProbes::resolve(resolver) }
    }
}

impl FunctionProbes {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let of_link = |member| resolver.optional("bpf_kprobe_multi_link", member);
        let table = || {
            Some(Kept::Table {
                node: resolver.optional("fprobe_hlist", "hlist")?,
                probe: resolver.optional("fprobe_hlist", "fp")?,
            })
        };
        let list = || {
            Some(Kept::List {
                operations: resolver.optional("fprobe", "ops")?,
                function: resolver.optional("ftrace_ops", "func")?,
                next: resolver.optional("ftrace_ops", "next")?,
            })
        };
        Some(Self {
            link: of_link("link")?,
            probe: of_link("fp")?,
            addresses: of_link("addrs")?,
            count: of_link("cnt")?,
            entry: resolver.optional("fprobe", "entry_handler")?,
            exit: resolver.optional("fprobe", "exit_handler")?,
            kept: table().or_else(list)?,
        })
    }
}

impl FileProbes {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let of_link = |member| resolver.optional("bpf_uprobe_multi_link", member);
        let of_probe = |member| resolver.optional("bpf_uprobe", member);
        let of_consumer = |member| resolver.optional("uprobe_consumer", member);
        Some(Self {
            link: of_link("link")?,
            path: of_link("path")?,
            count: of_link("cnt")?,
            probes: of_link("uprobes")?,
            size: resolver.profile().size("bpf_uprobe").ok()?,
            offset: of_probe("offset")?,
            whole: of_probe("link")?,
            consumer: of_probe("consumer")?,
            node: resolver.optional("uprobe", "rb_node")?,
            left: resolver.optional("rb_node", "rb_left")?,
            right: resolver.optional("rb_node", "rb_right")?,
            consumers: resolver.optional("uprobe", "consumers")?,
            handler: of_consumer("handler")?,
            return_handler: of_consumer("ret_handler")?,
            next: of_consumer("next"),
            in_list: of_consumer("cons_node"),
        })
    }
}

fn layout<'s>(session: &'s Session<'_>) -> Option<&'s Layout> {
    session.kernel.layouts().bpf.as_ref().map(|bpf| &bpf.probe)
}

/// Which functions the kprobe_multi link is attached to whose ``struct bpf_link`` is at `link`.
pub(super) fn functions(session: &Session<'_>, link: Gva) -> Result<Option<EbpfSites>, ReadError> {
    let Some(layout) = layout(session).and_then(|layout| layout.functions.as_ref()) else { return Ok(None) };
    let start = container(link, layout.link)?;
    let count = session.space.u32(member(start, layout.count)?)?;
    let addresses = session.space.pointer(member(start, layout.addresses)?)?;
    let names = Functions::of(session);
    let names = session.known("symbol table", link, names)?.flatten();
    let mut first = Vec::new();
    for index in 0..count.min(FIRST) {
        let function = session.space.pointer(element(addresses, index, 8)?)?;
        let name = match &names {
            Some(names) => session.known("symbol table", function, names.name(session, function))?.flatten(),
            None => None,
        };
        first.push(name.unwrap_or_else(|| function.to_string()));
    }
    Ok(Some(EbpfSites { count, first }))
}

/// The file that the uprobe_multi link is attached to whose ``struct bpf_link`` is at `link`, and where in it.
pub(super) fn file(
    session: &Session<'_>,
    link: Gva,
) -> Result<(Option<String>, Option<EbpfSites>), ReadError> {
    let Some(layout) = layout(session).and_then(|layout| layout.files.as_ref()) else {
        return Ok((None, None));
    };
    let start = container(link, layout.link)?;
    let path = path::of(session, "bpf_uprobe_multi_link", start, layout.path)?;
    let path = path.map(|path| path.text.to_string());
    let count = session.space.u32(member(start, layout.count)?)?;
    let probes = session.space.pointer(member(start, layout.probes)?)?;
    let mut first = Vec::new();
    for index in 0..count.min(FIRST) {
        let probe = element(probes, index, layout.size)?;
        first.push(format!("{:#x}", session.space.u64(member(probe, layout.offset)?)?));
    }
    Ok((path, Some(EbpfSites { count, first })))
}

/// Adds the links that the kernel's own probes are of.
pub(super) fn places(session: &Session<'_>, placed: &mut Vec<Placed>) -> Result<(), ReadError> {
    let Some(layout) = layout(session) else { return Ok(()) };
    if let Some(functions) = &layout.functions {
        of_functions(session, functions, placed)?;
    }
    if let Some(files) = &layout.files {
        of_files(session, files, placed)?;
    }
    Ok(())
}

fn of_functions(
    session: &Session<'_>,
    layout: &FunctionProbes,
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let symbol = |name| session.kernel.symbol(name);
    let handlers = (symbol("kprobe_multi_link_handler"), symbol("kprobe_multi_link_exit_handler"));
    let is_of_link = |probe: Gva| {
        let entry = session.space.pointer(member(probe, layout.entry)?)?;
        let exit = session.space.pointer(member(probe, layout.exit)?)?;
        let is = |at: Gva, handler: Option<Gva>| !at.is_null() && Some(at) == handler;
        Ok(is(entry, handlers.0) || is(exit, handlers.1))
    };
    for probe in probes(session, layout.kept)? {
        if session.known("fprobe", probe, is_of_link(probe))? == Some(true) {
            let link = probe.checked_sub(layout.probe).and_then(|start| start.checked_add(layout.link));
            placed.extend(link.map(Placed::Link));
        }
    }
    Ok(())
}

/// All ``struct fprobe *``.
fn probes(session: &Session<'_>, kept: Kept) -> Result<Vec<Gva>, ReadError> {
    let symbol = |name| session.kernel.symbol(name);
    let mut probes = Vec::new();
    match kept {
        Kept::Table { node, probe } => {
            let Some(base) = symbol("fprobe_table") else { return Ok(probes) };
            let table = HashTable { base, count: TABLE, stride: 8, head: 0 };
            for at in list::hash_table(session, "fprobe table", table)? {
                let read = || session.space.pointer(member(container(at, node)?, probe)?);
                probes.extend(session.known("fprobe_hlist", at, read())?);
            }
        }
        Kept::List { operations, function, next } => {
            let (Some(first), Some(end)) = (symbol("ftrace_ops_list"), symbol("ftrace_list_end")) else {
                return Ok(probes);
            };
            let runs = [symbol("fprobe_handler"), symbol("fprobe_kprobe_handler")];
            let mut seen = BTreeSet::new();
            let mut pointer = first;
            while let Some(at) = session.known("ftrace_ops", pointer, session.space.pointer(pointer))? {
                if at.is_null() || at == end || !seen.insert(at) {
                    break;
                }
                if seen.len() > USERS_MAX {
                    too_many(session, "ftrace_ops list", first);
                    break;
                }
                let runs_probe = || Ok(runs.contains(&Some(session.space.pointer(member(at, function)?)?)));
                if session.known("ftrace_ops", at, runs_probe())? == Some(true) {
                    probes.extend(at.checked_sub(operations));
                }
                pointer = member(at, next)?;
            }
        }
    }
    Ok(probes)
}

fn of_files(session: &Session<'_>, layout: &FileProbes, placed: &mut Vec<Placed>) -> Result<(), ReadError> {
    let Some(root) = session.kernel.symbol("uprobes_tree") else { return Ok(()) };
    let mut open = vec![root];
    let mut seen = BTreeSet::new();
    while let Some(pointer) = open.pop() {
        let Some(node) = session.known("uprobes tree", pointer, session.space.pointer(pointer))? else {
            continue;
        };
        if node.is_null() || !seen.insert(node) {
            continue;
        }
        if seen.len() > USERS_MAX {
            too_many(session, "uprobes tree", root);
            break;
        }
        open.extend([node.checked_add(layout.left), node.checked_add(layout.right)].into_iter().flatten());
        let links = container(node, layout.node).and_then(|probe| of_file_probe(session, layout, probe));
        placed.extend(session.known("uprobe", node, links)?.into_iter().flatten().map(Placed::Link));
    }
    Ok(())
}

/// ``struct bpf_link *`` of those that use the ``struct uprobe`` at `probe`.
fn of_file_probe(session: &Session<'_>, layout: &FileProbes, probe: Gva) -> Result<Vec<Gva>, ReadError> {
    let space = &session.space;
    let head = member(probe, layout.consumers)?;
    let mut consumers = Vec::new();
    match (layout.in_list, layout.next) {
        (Some(node), _) => {
            let nodes = list::list(session, "uprobe consumers", head)?;
            consumers.extend(nodes.into_iter().filter_map(|at| at.checked_sub(node)));
        }
        (None, Some(next)) => {
            let mut at = space.pointer(head)?;
            while !at.is_null() && consumers.len() < CONSUMERS_MAX {
                consumers.push(at);
                at = space.pointer(member(at, next)?)?;
            }
        }
        (None, None) => {}
    }
    let symbol = |name| session.kernel.symbol(name);
    let handlers = (symbol("uprobe_multi_link_handler"), symbol("uprobe_multi_link_ret_handler"));
    let mut links = Vec::new();
    for consumer in consumers {
        let handler = space.pointer(member(consumer, layout.handler)?)?;
        let return_handler = space.pointer(member(consumer, layout.return_handler)?)?;
        let is = |at: Gva, known: Option<Gva>| !at.is_null() && Some(at) == known;
        if is(handler, handlers.0) || is(return_handler, handlers.1) {
            let own = container(consumer, layout.consumer)?;
            let whole = space.pointer(member(own, layout.whole)?)?;
            links.extend(whole.checked_add(layout.link));
        }
    }
    Ok(links)
}

fn too_many(session: &Session<'_>, what: &str, at: Gva) {
    session.problem(
        ProblemKind::Budget,
        format_args!("{what} {at}"),
        format_args!("More than {USERS_MAX} elements."),
    );
}

fn element(array: Gva, index: u32, size: u64) -> Result<Gva, ReadError> {
    array.element(u64::from(index), size).ok_or(ReadError::NotAnAddress { at: array, len: size })
}
