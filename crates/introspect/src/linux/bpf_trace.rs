//! Programs that run when the kernel itself does something, where the kernel keeps them: at tracepoints (``struct tracepoint``), in
//! trampolines before, behind and instead of functions (``struct bpf_trampoline``, kernel/bpf/trampoline.c), and in perf events.
//!
//! At tracepoints and in trampolines only links can put a program; which one, the place says since 6.10 and 6.0. Who takes a program off
//! takes its link off the table first, and then waits for a lock, and with it: ``tracepoints_mutex`` (kernel/tracepoint.c, until the
//! kernel's text is changed), the trampoline's own, and ``bpf_event_mutex`` (kernel/trace/bpf_trace.c, until all tasks have left it).

use super::bpf_place::{self, Placed, attachment};
use super::layout::Resolver;
use super::list::{self, HashTable};
use super::{bpf, bpf_link, bpf_words, percpu, xarray};
use crate::session::{Session, container, member};
use facts::ProblemKind;
use std::collections::BTreeSet;
use vmi_core::{Gva, ReadError};

/// Most bytes of the table of tracepoints, and of the tracepoints themselves if they are read at once; Debian 7.2 has 60 and 150 KiB.
const TABLE_MAX: u64 = 1 << 20;
/// Most functions at one tracepoint: perf's, ftrace's, and ``BPF_TRACE_MAX_PROGS`` (64) programs are many.
const FUNCTIONS_MAX: u64 = 256;
/// Longest name of a tracepoint.
const NAME_MAX: usize = 512;
/// ``TRAMPOLINE_TABLE_SIZE``, kernel/bpf/trampoline.c.
const TRAMPOLINES: u64 = 1 << 10;
/// ``BPF_TRAMP_MAX``, include/linux/bpf.h: before, behind, and with a say in the result.
const WAYS: u64 = 3;

/// Offsets in bytes. What a kernel does not have is `None`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    tracepoints: Option<Tracepoints>,
    trampolines: Option<Trampolines>,
    events: Option<Events>,
}

#[derive(Clone, Debug)]
struct Tracepoints {
    /// ``struct bpf_raw_event_map``: its tracepoint, and what runs programs there.
    entry: u64,
    point: u64,
    runs: u64,
    /// ``struct tracepoint``.
    size: u64,
    name: u64,
    functions: u64,
    /// ``struct tracepoint_func``.
    function_size: u64,
    function: u64,
    data: u64,
    /// Where the ``struct bpf_link`` is in what a program is there by, since 6.10: the link has a cookie since.
    link: Option<u64>,
}

#[derive(Clone, Debug)]
struct Trampolines {
    table: &'static str,
    node: u64,
    programs: u64,
    extension: u64,
    lock: Option<u64>,
    user: User,
    expected: u64,
}

/// What is in the list of a trampoline.
#[derive(Clone, Copy, Debug)]
enum User {
    /// A ``struct bpf_prog_aux``, before 6.0: its node, and its program.
    Program { node: u64, program: u64 },
    /// A ``struct bpf_tramp_link``, before 7.2: its node, and its link.
    Link { node: u64, link: u64 },
    /// A ``struct bpf_tramp_node``: its node, and the pointer to its link.
    Node { node: u64, link: u64 },
}

#[derive(Clone, Debug)]
struct Events {
    /// In ``struct perf_cpu_context``: its list of events.
    list: u64,
    /// In ``struct perf_event``.
    entry: u64,
    program: u64,
    buffer: u64,
    /// In ``struct pmu``: before 6.2 kinds of events have contexts of their own.
    of_kind: Option<u64>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Self {
        Self {
            tracepoints: Tracepoints::resolve(resolver),
            trampolines: Trampolines::resolve(resolver),
            events: Events::resolve(resolver),
        }
    }
}

impl Tracepoints {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let profile = resolver.profile();
        let by_link = resolver.optional("bpf_raw_tp_link", "cookie").is_some();
        Some(Self {
            entry: profile.size("bpf_raw_event_map").ok().filter(|size| *size != 0)?,
            point: resolver.optional("bpf_raw_event_map", "tp")?,
            runs: resolver.optional("bpf_raw_event_map", "bpf_func")?,
            size: profile.size("tracepoint").ok()?,
            name: resolver.optional("tracepoint", "name")?,
            functions: resolver.optional("tracepoint", "funcs")?,
            function_size: profile.size("tracepoint_func").ok()?,
            function: resolver.optional("tracepoint_func", "func")?,
            data: resolver.optional("tracepoint_func", "data")?,
            link: resolver.optional("bpf_raw_tp_link", "link").filter(|_| by_link),
        })
    }
}

impl Trampolines {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let of = |member| resolver.optional("bpf_trampoline", member);
        let (table, node) = match of("hlist_key") {
            Some(node) => ("trampoline_key_table", node),
            None => ("trampoline_table", of("hlist")?),
        };
        let by_node = || {
            Some(User::Node {
                node: resolver.optional("bpf_tramp_node", "tramp_hlist")?,
                link: resolver.optional("bpf_tramp_node", "link")?,
            })
        };
        let by_link = || {
            Some(User::Link {
                node: resolver.optional("bpf_tramp_link", "tramp_hlist")?,
                link: resolver.optional("bpf_tramp_link", "link")?,
            })
        };
        let by_program = || {
            Some(User::Program {
                node: resolver.optional("bpf_prog_aux", "tramp_hlist")?,
                program: resolver.optional("bpf_prog_aux", "prog")?,
            })
        };
        Some(Self {
            table,
            node,
            programs: of("progs_hlist")?,
            extension: of("extension_prog")?,
            lock: of("mutex"),
            user: by_node().or_else(by_link).or_else(by_program)?,
            expected: resolver.optional("bpf_prog", "expected_attach_type")?,
        })
    }
}

impl Events {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let context = resolver.optional("perf_cpu_context", "ctx")?;
        Some(Self {
            list: context.checked_add(resolver.optional("perf_event_context", "event_list")?)?,
            entry: resolver.optional("perf_event", "event_entry")?,
            program: resolver.optional("perf_event", "prog")?,
            buffer: resolver.optional("perf_event", "rb")?,
            of_kind: resolver.optional("pmu", "pmu_cpu_context"),
        })
    }
}

/// Adds what is at tracepoints, in trampolines and in perf events of CPUs. Those of single tasks are not looked for.
pub(super) fn places(session: &Session<'_>, placed: &mut Vec<Placed>) -> Result<(), ReadError> {
    let Some(layout) = session.kernel.layouts().bpf.as_ref().map(|bpf| &bpf.trace) else { return Ok(()) };
    if let Some(tracepoints) = &layout.tracepoints {
        of_tracepoints(session, tracepoints, placed)?;
    }
    if let Some(trampolines) = &layout.trampolines {
        of_trampolines(session, trampolines, placed)?;
    }
    if let Some(events) = &layout.events {
        of_events(session, events, placed)?;
    }
    Ok(())
}

fn of_tracepoints(
    session: &Session<'_>,
    layout: &Tracepoints,
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let symbol = |name| session.kernel.symbol(name);
    let (Some(start), Some(stop)) = (symbol("__start__bpf_raw_tp"), symbol("__stop__bpf_raw_tp")) else {
        return Ok(());
    };
    let len = stop.0.saturating_sub(start.0);
    if len > TABLE_MAX {
        session.problem(
            ProblemKind::Implausible,
            format_args!("bpf_raw_event_map {start}"),
            format_args!("The table has {len} bytes."),
        );
        return Ok(());
    }
    let table = session.space.bytes(start, usize::try_from(len).unwrap_or(0));
    let Some(table) = session.known("bpf_raw_event_map", start, table)? else { return Ok(()) };
    let entries = table.chunks_exact(usize::try_from(layout.entry).unwrap_or(usize::MAX));
    let points: Vec<(Gva, Gva)> = entries
        .filter_map(|entry| Some((Gva(word(entry, layout.point)?), Gva(word(entry, layout.runs)?))))
        .collect();
    // They stand together, and are read in one go.
    let first = points.iter().map(|(point, _)| *point).min().unwrap_or_default();
    let last = points.iter().map(|(point, _)| *point).max().unwrap_or_default();
    let len = last.0.saturating_sub(first.0).saturating_add(layout.size);
    let all = match len {
        0..=TABLE_MAX => session.space.bytes(first, usize::try_from(len).unwrap_or(0)),
        _ => Ok(Vec::new()),
    };
    let all = session.known("tracepoints", first, all)?.unwrap_or_default();
    for (point, runs) in points {
        let offset = point.0.saturating_sub(first.0).saturating_add(layout.functions);
        let functions = match word(&all, offset) {
            Some(functions) => Some(Gva(functions)),
            None => {
                let functions = member(point, layout.functions).and_then(|at| session.space.pointer(at));
                session.known("tracepoint", point, functions)?
            }
        };
        if let Some(functions) = functions.filter(|functions| !functions.is_null()) {
            let read = of_tracepoint(session, layout, point, functions, runs, placed);
            session.known("tracepoint", point, read)?;
        }
    }
    Ok(())
}

fn word(bytes: &[u8], offset: u64) -> Option<u64> {
    let bytes = bytes.get(usize::try_from(offset).ok()?..)?;
    bytes.first_chunk::<8>().map(|word| u64::from_le_bytes(*word))
}

/// `functions`: what is at the tracepoint, to the first that is null.
fn of_tracepoint(
    session: &Session<'_>,
    layout: &Tracepoints,
    point: Gva,
    functions: Gva,
    runs: Gva,
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let space = &session.space;
    for index in 0..FUNCTIONS_MAX {
        let at = functions.element(index, layout.function_size);
        let at = at.ok_or(ReadError::NotAnAddress { at: functions, len: index })?;
        let function = space.pointer(member(at, layout.function)?)?;
        if function.is_null() {
            break;
        }
        if function != runs {
            continue;
        }
        let data = space.pointer(member(at, layout.data)?)?;
        placed.push(if let Some(link) = layout.link {
            Placed::Link(member(data, link)?)
        } else {
            let name = space.c_string(space.pointer(member(point, layout.name)?)?, NAME_MAX)?;
            let name = String::from_utf8_lossy(&name).into_owned();
            let attachment = attachment("raw_tracepoint", Some(name), None);
            let lock = session.kernel.symbol("tracepoints_mutex");
            Placed::ByLink { at: point, program: data, attachment, lock }
        });
    }
    Ok(())
}

fn of_trampolines(
    session: &Session<'_>,
    layout: &Trampolines,
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let Some(base) = session.kernel.symbol(layout.table) else { return Ok(()) };
    let table = HashTable { base, count: TRAMPOLINES, stride: 8, head: 0 };
    for node in list::hash_table(session, "bpf trampoline table", table)? {
        let Some(trampoline) = node.checked_sub(layout.node) else { continue };
        let read = of_trampoline(session, layout, trampoline, placed);
        session.known("bpf_trampoline", trampoline, read)?;
    }
    Ok(())
}

fn of_trampoline(
    session: &Session<'_>,
    layout: &Trampolines,
    trampoline: Gva,
    placed: &mut Vec<Placed>,
) -> Result<(), ReadError> {
    let space = &session.space;
    let of_program = |program: Gva| -> Result<Placed, ReadError> {
        let way = space.u32(member(program, layout.expected)?)?;
        let function = bpf::function(session, program)?;
        let attachment = attachment("tracing", function, Some(bpf_words::attach_type(way)));
        let lock = layout.lock.map(|lock| member(trampoline, lock)).transpose()?;
        Ok(Placed::ByLink { at: trampoline, program, attachment, lock })
    };
    let extension = space.pointer(member(trampoline, layout.extension)?)?;
    if !extension.is_null() {
        placed.push(of_program(extension)?);
    }
    for way in 0..WAYS {
        let head = member(trampoline, layout.programs)?.element(way, 8);
        let head = head.ok_or(ReadError::NotAnAddress { at: trampoline, len: way })?;
        for at in list::hlist(session, "programs of a trampoline", head)? {
            let (User::Program { node, .. } | User::Link { node, .. } | User::Node { node, .. }) =
                layout.user;
            let user = container(at, node)?;
            let link = match layout.user {
                User::Program { program, .. } => {
                    placed.push(of_program(space.pointer(member(user, program)?)?)?);
                    continue;
                }
                User::Link { link, .. } => member(user, link)?,
                User::Node { link, .. } => space.pointer(member(user, link)?)?,
            };
            // Programs of control groups at hooks of the security modules share one that has no number.
            if !bpf_link::is_shared_hook(session, link)? {
                placed.push(Placed::Link(link));
            }
        }
    }
    Ok(())
}

fn of_events(session: &Session<'_>, layout: &Events, placed: &mut Vec<Placed>) -> Result<(), ReadError> {
    let Some(areas) = percpu::areas(session, "perf events")? else { return Ok(()) };
    let mut contexts = BTreeSet::new();
    if let Some(context) = layout.of_kind {
        let (tree, kinds) = (session.kernel.layouts().xarray, session.kernel.symbol("pmu_idr"));
        let Some((tree, kinds)) = tree.zip(kinds) else { return Ok(()) };
        // That of software events is not among them, but those of tracepoints and probes share its contexts.
        for kind in xarray::pointers(session, tree, "kinds of perf events", member(kinds, tree.idr_head)?)? {
            let read = member(kind, context).and_then(|at| session.space.pointer(at));
            contexts.extend(session.known("pmu", kind, read)?.filter(|context| !context.is_null()));
        }
    } else {
        contexts.extend(session.kernel.symbol("perf_cpu_context"));
    }
    for (context, area) in contexts.iter().flat_map(|context| areas.iter().map(move |area| (context, area))) {
        let head = Gva(context.0.wrapping_add(*area).wrapping_add(layout.list));
        // A CPU that is possible and not there need not have one.
        match session.space.pointer(head) {
            Ok(first) if !first.is_null() => {}
            Err(error) if error.ends_the_look() => return Err(error),
            _ => continue,
        }
        for node in list::list(session, "perf events", head)? {
            let Some(event) = node.checked_sub(layout.entry) else { continue };
            let read = || {
                let program = session.space.pointer(member(event, layout.program)?)?;
                Ok((program, session.space.pointer(member(event, layout.buffer)?)?))
            };
            let Some((program, buffer)) = session.known("perf_event", event, read())? else { continue };
            if !program.is_null() {
                let name = session.known("perf_event", event, bpf_place::event_name(session, event))?;
                let attachment = attachment("perf_event", name.flatten(), None);
                let (mapped, lock) = (!buffer.is_null(), session.kernel.symbol("bpf_event_mutex"));
                placed.push(Placed::Event { event, program, mapped, attachment, lock });
            }
        }
    }
    Ok(())
}
