//! eBPF programs: ``prog_idr`` → ``struct bpf_prog``, what they are attached to, and who holds them.
//!
//! ``prog_idr`` is what `bpftool prog` lists. A program that is attached (`bpf_link`, `bpf_place`) or held by a descriptor and is
//! not in there is listed as well: its views tell.

use super::file::Lead;
use super::layout::Resolver;
use super::task::Seen;
use super::{bpf_link, bpf_place, bpf_words, holder, timekeeping, xarray};
use crate::session::{Session, member};
use bpf_link::Link;
use facts::{Address, EbpfAttachment, EbpfProgram, ProblemKind, Socket};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use vmi_core::{Gva, ReadError};

/// Most programs that are listed. Their machine code alone would fill the kernel's room for it before.
const PROGRAMS_MAX: usize = 1 << 16;
/// Most places of one program that are listed.
const PLACES_MAX: usize = 1024;
/// Most maps of one program: ``MAX_USED_MAPS``, include/linux/bpf_verifier.h.
const MAPS_MAX: u32 = 64;
/// ``BPF_OBJ_NAME_LEN``, include/uapi/linux/bpf.h.
const NAME: usize = 16;
/// Longest name of a function (``KSYM_NAME_LEN``).
const FUNCTION_MAX: usize = 512;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    kind: u64,
    len: u64,
    jited_len: u64,
    tag: u64,
    more: u64,
    id: u64,
    back: u64,
    name: u64,
    load_time: u64,
    user: u64,
    user_uid: u64,
    maps: u64,
    maps_count: u64,
    map_id: u64,
    function: u64,
    pub(super) link: Option<bpf_link::Layout>,
    pub(super) place: bpf_place::Layout,
}

impl Layout {
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let program = |member| resolver.optional("bpf_prog", member);
        let more = |member| resolver.optional("bpf_prog_aux", member);
        Some(Self {
            kind: program("type")?,
            len: program("len")?,
            jited_len: program("jited_len")?,
            tag: program("tag")?,
            more: program("aux")?,
            id: more("id")?,
            back: more("prog")?,
            name: more("name")?,
            load_time: more("load_time")?,
            user: more("user")?,
            user_uid: resolver.optional("user_struct", "uid")?,
            maps: more("used_maps")?,
            maps_count: more("used_map_cnt")?,
            map_id: resolver.optional("bpf_map", "id")?,
            function: more("attach_func_name")?,
            link: bpf_link::Layout::resolve(resolver),
            place: bpf_place::Layout::resolve(resolver),
        })
    }
}

/// Where a program was seen; the names are those in [`facts::EbpfProgram::views`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum View {
    Table,
    Link,
    Place,
    Descriptor,
}

impl View {
    fn name(self) -> &'static str {
        match self {
            Self::Table => "program_table",
            Self::Link => "link",
            Self::Place => "attachment",
            Self::Descriptor => "descriptor",
        }
    }
}

/// What is known of a program before it is read.
#[derive(Debug, Default)]
struct Entry {
    views: BTreeSet<View>,
    places: BTreeSet<EbpfAttachment>,
    pids: BTreeSet<u32>,
}

impl Entry {
    fn has_no_number(&self) -> bool {
        !self.views.contains(&View::Table)
    }

    fn is_attached(&self) -> bool {
        self.views.contains(&View::Link) || self.views.contains(&View::Place)
    }
}

/// By ``struct bpf_prog *``.
#[derive(Debug, Default)]
struct Found(BTreeMap<Gva, Entry>);

impl Found {
    fn entry(&mut self, program: Gva, view: View) -> &mut Entry {
        let entry = self.0.entry(program).or_default();
        entry.views.insert(view);
        entry
    }
}

/// Whether this kernel says where its programs are.
pub(crate) fn is_known(session: &Session<'_>) -> bool {
    session.kernel.layouts().bpf.is_some() && table(session).is_some()
}

/// The tree of programs, and where the pointer to its top node is.
fn table(session: &Session<'_>) -> Option<(xarray::Layout, Gva)> {
    let tree = session.kernel.layouts().xarray?;
    Some((tree, session.kernel.symbol("prog_idr")?.checked_add(tree.idr_head)?))
}

/// Adds all programs of the guest, whose processes and sockets are given.
pub(crate) fn programs(
    session: &Session<'_>,
    processes: &[Seen],
    sockets: &[Socket],
    programs: &mut Vec<EbpfProgram>,
) -> Result<(), ReadError> {
    let mut found = Found::default();
    in_table(session, &mut found)?;
    let links = bpf_link::links(session)?;
    for link in &links {
        if let Some(program) = link.program {
            found.entry(program, View::Link).places.insert(link.attachment.clone());
        }
    }
    for (program, attachment) in bpf_place::places(session)? {
        found.entry(program, View::Place).places.insert(attachment);
    }
    // The descriptors were followed for the sockets, if those were asked for.
    let known = session.ebpf_leads.take();
    let leads = known.map_or_else(|| holder::ebpf_leads(session, processes), Ok)?;
    held(session, leads, &links, &mut found)?;
    // One that is attached or held has a number for as long as it is; one loaded since the table was read has one by now, and
    // one that was closed since the descriptors were followed is held no more.
    if found.0.values().any(Entry::has_no_number) {
        session.space.forget();
        found.0.retain(|_, entry| !entry.has_no_number() || entry.is_attached());
        held(session, holder::ebpf_leads(session, processes)?, &links, &mut found)?;
        in_table(session, &mut found)?;
    }
    if found.0.len() > PROGRAMS_MAX {
        session.problem(
            ProblemKind::Budget,
            "ebpf_programs",
            format_args!("The guest has {}, of which {PROGRAMS_MAX} are listed.", found.0.len()),
        );
    }
    let mut of_sockets = of_sockets(sockets);
    for (at, entry) in found.0.into_iter().take(PROGRAMS_MAX) {
        let Some(mut program) = session.known("bpf_prog", at, read(session, at))?.flatten() else {
            continue;
        };
        let more = program.id.and_then(|id| of_sockets.remove(&id)).unwrap_or_default();
        let count = entry.places.len().saturating_add(more.len());
        if count > PLACES_MAX {
            session.problem(
                ProblemKind::Budget,
                format_args!("bpf_prog (places) {at}"),
                format_args!("It is attached to {count} things, of which {PLACES_MAX} are listed."),
            );
        }
        program.attached_to = entry.places.into_iter().chain(more).take(PLACES_MAX).collect();
        program.processes = entry.pids.into_iter().collect();
        program.views = entry.views.into_iter().map(|view| view.name().to_owned()).collect();
        programs.push(program);
    }
    programs.sort_by_key(|program| (program.id, program.program));
    Ok(())
}

fn in_table(session: &Session<'_>, found: &mut Found) -> Result<(), ReadError> {
    let Some((tree, head)) = table(session) else { return Ok(()) };
    for program in xarray::pointers(session, tree, "bpf program table", head)? {
        found.entry(program, View::Table);
    }
    Ok(())
}

/// Adds what descriptors lead to: programs, links, and perf events with a program.
fn held(
    session: &Session<'_>,
    leads: Vec<holder::EbpfLead>,
    links: &[Link],
    found: &mut Found,
) -> Result<(), ReadError> {
    let by_address: HashMap<Gva, &Link> = links.iter().map(|link| (link.at, link)).collect();
    let with_link: BTreeSet<Gva> = links.iter().filter_map(|link| link.event).collect();
    for (pid, lead) in leads {
        let program = match lead {
            Lead::Program(program) => Some(program),
            Lead::Link(at) => match by_address.get(&at) {
                Some(link) => link.program,
                // Of no number: taken off the table, or made since.
                None => {
                    let link = session.known("bpf_link", at, bpf_link::read(session, at))?.flatten();
                    if let Some((program, link)) =
                        link.and_then(|link| Some((link.program?, link.attachment)))
                    {
                        found.entry(program, View::Descriptor).places.insert(link);
                        Some(program)
                    } else {
                        None
                    }
                }
            },
            Lead::PerfEvent(event) => {
                let program = bpf_place::event_program(session, event);
                let program = session.known("perf_event", event, program)?.flatten();
                if let Some(program) = program.filter(|_| !with_link.contains(&event)) {
                    let name = bpf_place::event_name(session, event);
                    let name = session.known("perf_event", event, name)?.flatten();
                    let place = bpf_place::attachment("perf_event", name, None);
                    found.entry(program, View::Place).places.insert(place);
                }
                program
            }
            Lead::Sock(_) | Lead::Ring(_) | Lead::None => None,
        };
        if let Some(program) = program {
            found.entry(program, View::Descriptor).pids.insert(pid);
        }
    }
    Ok(())
}

/// Sockets by the id of the program that filters them.
fn of_sockets(sockets: &[Socket]) -> HashMap<u32, Vec<EbpfAttachment>> {
    let mut of_program: HashMap<u32, Vec<EbpfAttachment>> = HashMap::new();
    for socket in sockets {
        let Some(program) = socket.filter.as_ref().and_then(|filter| filter.program) else { continue };
        let target = socket.inode.map(|inode| format!("socket:[{inode}]"));
        of_program.entry(program).or_default().push(bpf_place::attachment("socket", target, None));
    }
    of_program.values_mut().for_each(|places| places.sort());
    of_program
}

/// The ``struct bpf_prog`` at `at`, but for what is attached and who holds it. `None`: it is none any more.
fn read(session: &Session<'_>, at: Gva) -> Result<Option<EbpfProgram>, ReadError> {
    let Some(layout) = &session.kernel.layouts().bpf else { return Ok(None) };
    let space = &session.space;
    let more = space.pointer(member(at, layout.more)?)?;
    // Points back; a freed one's memory is something else's by now.
    if space.pointer(member(more, layout.back)?)? != at {
        session.torn();
        return Ok(None);
    }
    let loaded_at_ns = space.u64(member(more, layout.load_time)?)?;
    let name = space.c_string(member(more, layout.name)?, NAME)?;
    let user = space.pointer(member(more, layout.user)?)?;
    let mut tag = [0; 8];
    space.read(member(at, layout.tag)?, &mut tag)?;
    let tag: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(EbpfProgram {
        id: Some(space.u32(member(more, layout.id)?)?).filter(|id| *id != 0),
        kind: Some(bpf_words::program(space.u32(member(at, layout.kind)?)?)),
        name: Some(String::from_utf8_lossy(&name).into_owned()).filter(|name| !name.is_empty()),
        tag: Some(tag),
        loaded_at_ns: Some(loaded_at_ns),
        loaded_at: timekeeping::wall_clock(session.boot_time(), loaded_at_ns),
        uid: if user.is_null() { None } else { Some(space.u32(member(user, layout.user_uid)?)?) },
        instructions: Some(space.u32(member(at, layout.len)?)?),
        jited_bytes: Some(space.u32(member(at, layout.jited_len)?)?).filter(|len| *len != 0),
        maps: session.known("bpf_prog_aux", more, maps(session, layout, more))?.flatten(),
        attached_to: Vec::new(),
        processes: Vec::new(),
        views: Vec::new(),
        program: Address(at.0),
    }))
}

/// Ids of the maps of the ``struct bpf_prog_aux`` at `more`.
fn maps(session: &Session<'_>, layout: &Layout, more: Gva) -> Result<Option<Vec<u32>>, ReadError> {
    let space = &session.space;
    let count = space.u32(member(more, layout.maps_count)?)?;
    if count > MAPS_MAX {
        session.problem(
            ProblemKind::Implausible,
            format_args!("bpf_prog_aux {more}"),
            format_args!("It claims {count} maps."),
        );
        return Ok(None);
    }
    let array = space.pointer(member(more, layout.maps)?)?;
    let mut ids = Vec::new();
    for index in 0..u64::from(count) {
        let at = array.element(index, 8).ok_or(ReadError::NotAnAddress { at: array, len: index })?;
        ids.push(space.u32(member(space.pointer(at)?, layout.map_id)?)?);
    }
    ids.sort_unstable();
    Ok(Some(ids))
}

/// The name of the function that the ``struct bpf_prog`` at `program` was loaded for. `None`: it is not for one.
pub(super) fn function(session: &Session<'_>, program: Gva) -> Result<Option<String>, ReadError> {
    let Some(layout) = &session.kernel.layouts().bpf else { return Ok(None) };
    let more = session.space.pointer(member(program, layout.more)?)?;
    let name = session.space.pointer(member(more, layout.function)?)?;
    if name.is_null() {
        return Ok(None);
    }
    let name = session.space.c_string(name, FUNCTION_MAX)?;
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
}
