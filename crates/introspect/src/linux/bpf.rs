//! eBPF programs: ``prog_idr`` → ``struct bpf_prog``, what they are attached to, and who holds them.
//!
//! ``prog_idr`` is what `bpftool prog` lists. A program that is attached (`bpf_link`, `bpf_place`), held by a descriptor or has a
//! name for its machine code (`bpf_symbol`) and is not in there is listed as well: its views tell.

use super::file::Lead;
use super::layout::Resolver;
use super::task::Seen;
use super::{
    bpf_link, bpf_map, bpf_netfilter, bpf_pin, bpf_place, bpf_probe, bpf_struct_ops, bpf_symbol, bpf_trace,
    bpf_words, holder, mutex, timekeeping, xarray,
};
use crate::session::{Session, member};
use bpf_link::Link;
use bpf_place::Placed;
use facts::{Address, EbpfAttachment, EbpfProgram, ProblemKind, Rows, Socket};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use vmi_core::{Gva, ReadError};

/// Most programs that are listed. Their machine code alone would fill the kernel's room for it before.
const PROGRAMS_MAX: usize = 1 << 16;
/// Most places of one program that are listed.
const PLACES_MAX: usize = 1024;
/// Most maps of one program: ``MAX_USED_MAPS``, include/linux/bpf_verifier.h.
const MAPS_MAX: u32 = 64;
/// Most functions of one program: ``BPF_MAX_SUBPROGS``, include/linux/bpf_verifier.h, and one that the verifier adds.
const FUNCTIONS_MAX: u32 = 257;
/// ``BPF_PROG_TYPE_SOCKET_FILTER`` and ``BPF_PROG_TYPE_CGROUP_SKB``, which anybody may load if the machine's owner likes. Such a
/// program has no name for its machine code.
const OF_ANYBODY: [u32; 2] = [1, 8];
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
    references: Option<u64>,
    /// Array and length; the length has two names since 6.9.
    functions: Option<u64>,
    functions_count: Vec<u64>,
    pub(super) symbol: Option<bpf_symbol::Layout>,
    pub(super) link: Option<bpf_link::Layout>,
    pub(super) place: bpf_place::Layout,
    pub(super) trace: bpf_trace::Layout,
    pub(super) probe: bpf_probe::Layout,
    pub(super) netfilter: Option<bpf_netfilter::Layout>,
    pub(super) map: Option<bpf_map::Layout>,
    pub(super) struct_ops: Option<bpf_struct_ops::Layout>,
    pub(super) pin: Option<bpf_pin::Layout>,
    mutex: Option<mutex::Layout>,
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
            references: more("refcnt"),
            functions: more("func"),
            functions_count: ["func_cnt", "real_func_cnt"].into_iter().filter_map(more).collect(),
            symbol: bpf_symbol::Layout::resolve(resolver),
            link: bpf_link::Layout::resolve(resolver),
            place: bpf_place::Layout::resolve(resolver),
            trace: bpf_trace::Layout::resolve(resolver),
            probe: bpf_probe::Layout::resolve(resolver),
            netfilter: bpf_netfilter::Layout::resolve(resolver),
            map: bpf_map::Layout::resolve(resolver),
            struct_ops: bpf_struct_ops::Layout::resolve(resolver),
            pin: bpf_pin::Layout::resolve(resolver),
            mutex: mutex::Layout::resolve(resolver),
        })
    }
}

/// Where a program was seen; the names are those in [`facts::EbpfProgram::views`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum View {
    Table,
    SymbolList,
    SymbolTree,
    Link,
    Place,
    Pin,
    Descriptor,
}

impl View {
    /// Where the names of programs are.
    const SYMBOLS: [Self; 2] = [Self::SymbolList, Self::SymbolTree];

    fn name(self) -> &'static str {
        match self {
            Self::Table => "program_table",
            Self::SymbolList => "symbol_list",
            Self::SymbolTree => "symbol_tree",
            Self::Link => "link",
            Self::Place => "attachment",
            Self::Pin => "pin",
            Self::Descriptor => "descriptor",
        }
    }
}

/// What is known of a program before it is read.
#[derive(Debug, Default)]
struct Entry {
    views: BTreeSet<View>,
    /// Where it should be and is not.
    missing: BTreeSet<View>,
    /// Links that something leads to and the table of links lacks, and places at which only such a link can have put it. With the
    /// ``struct task_struct *`` that has the lock of the place: what is missing there may be on its way out.
    unlisted: BTreeMap<Gva, Option<Gva>>,
    places: BTreeSet<EbpfAttachment>,
    pids: BTreeSet<u32>,
}

impl Entry {
    /// Whether it is loaded and not yet let go of, whatever the tables say.
    fn is_in_use(&self) -> bool {
        [View::Link, View::Place, View::Pin, View::Descriptor].iter().any(|view| self.views.contains(view))
    }

    /// Whether a link of it is missing for certain.
    fn lacks_link(&self) -> bool {
        self.unlisted.values().any(Option::is_none)
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

    /// What a first look saw is not missing: it was on its way.
    fn forgive(&mut self, first: &Self) {
        for (program, entry) in &mut self.0 {
            let Some(before) = first.0.get(program) else { continue };
            entry.views.extend(&before.views);
            entry.unlisted.retain(|at, owner| {
                let Some(first) = before.unlisted.get(at) else { return false };
                *owner = owner.or(*first);
                true
            });
            let lacks_link = entry.lacks_link();
            let views = &entry.views;
            entry.missing.retain(|view| match view {
                View::Link => lacks_link,
                view => !views.contains(view),
            });
        }
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
    sockets: &Rows<Socket>,
    programs: &mut Vec<EbpfProgram>,
) -> Result<(), ReadError> {
    // The descriptors were followed for the sockets, if those were asked for.
    let known = session.ebpf_leads.take();
    let mut found = take(session, known.map_or_else(|| holder::ebpf_leads(session, processes), Ok)?)?;
    // A program that comes or goes is in some of the views for a moment, so where they disagree they are taken a second time.
    if found.0.values().any(|entry| !entry.missing.is_empty() || !entry.unlisted.is_empty()) {
        session.space.forget();
        let first = found;
        found = take(session, holder::ebpf_leads(session, processes)?)?;
        found.forgive(&first);
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
        for (place, owner) in &entry.unlisted {
            if let Some(owner) = owner {
                session.problem(
                    ProblemKind::Inconsistent,
                    format_args!("bpf_prog (link) {at}"),
                    format_args!(
                        "No link is known that keeps it at {place}. It may be on its way out, because task_struct {owner} has the \
                         lock of that place, or it is hidden."
                    ),
                );
            }
        }
        program.attached_to = entry.places.into_iter().chain(more).take(PLACES_MAX).collect();
        program.processes = entry.pids.into_iter().collect();
        let names = |views: BTreeSet<View>| views.into_iter().map(|view| view.name().into()).collect();
        program.views = names(entry.views);
        program.views_missing = names(entry.missing);
        programs.push(program);
    }
    programs.sort_by_key(|program| (program.id, program.program));
    Ok(())
}

/// All programs that any view has, and what each should be in.
fn take(session: &Session<'_>, leads: Vec<holder::EbpfLead>) -> Result<Found, ReadError> {
    let mut found = Found::default();
    if let Some((tree, head)) = table(session) {
        for program in xarray::pointers(session, tree, "bpf program table", head)? {
            found.entry(program, View::Table);
        }
    }
    let mut links = Links::listed(session)?;
    for link in links.listed.values() {
        for program in &link.programs {
            found.entry(*program, View::Link).places.insert(link.attachment.clone());
        }
    }
    // What does not say which link it has is known when all links are.
    let mut silent = Vec::new();
    for placed in bpf_place::places(session)? {
        match placed {
            Placed::Program(program, attachment) => {
                found.entry(program, View::Place).places.insert(attachment);
            }
            Placed::Link(at) => drop(by_link(session, at, View::Place, &mut links, &mut found)?),
            Placed::ByLink { .. } | Placed::Event { .. } => silent.push(placed),
        }
    }
    for lead in bpf_pin::leads(session)? {
        match lead {
            Lead::Program(program) => drop(found.entry(program, View::Pin)),
            Lead::Link(at) => drop(by_link(session, at, View::Pin, &mut links, &mut found)?),
            Lead::Sock(_) | Lead::Ring(_) | Lead::PerfEvent(_) | Lead::None => {}
        }
    }
    let events = held(session, leads, &mut links, &mut found)?;
    kept_by_links(session, silent, &links, &events, &mut found)?;
    let symbols = [bpf_symbol::in_list(session)?, bpf_symbol::in_tree(session)?];
    for (view, programs) in View::SYMBOLS.into_iter().zip(&symbols) {
        for program in programs.iter().flatten() {
            found.entry(*program, view);
        }
    }
    without_parts(session, &mut found)?;
    for (at, entry) in &mut found.0 {
        if !entry.views.contains(&View::Table) {
            entry.missing.insert(View::Table);
        }
        if entry.lacks_link() {
            entry.missing.insert(View::Link);
        }
        let lacking: Vec<View> = (View::SYMBOLS.into_iter().zip(&symbols))
            .filter(|(view, programs)| programs.is_some() && !entry.views.contains(view))
            .map(|(view, _)| view)
            .collect();
        if entry.is_in_use() && !lacking.is_empty() {
            let in_other = View::SYMBOLS.iter().any(|view| entry.views.contains(view));
            if in_other || session.known("bpf_prog", *at, has_symbol(session, *at))? == Some(true) {
                entry.missing.extend(lacking);
            }
        }
    }
    Ok(found)
}

/// Leaves out what only the names have and what is no program of its own: functions of programs, and programs that nothing holds any
/// more, which lose their number first and their name last.
fn without_parts(session: &Session<'_>, found: &mut Found) -> Result<(), ReadError> {
    let Some(layout) = &session.kernel.layouts().bpf else { return Ok(()) };
    let only_named = |entry: &Entry| !entry.is_in_use() && !entry.views.contains(&View::Table);
    if !found.0.values().any(only_named) {
        return Ok(());
    }
    let mut parts = BTreeSet::new();
    for at in found.0.keys() {
        let functions = functions(session, layout, *at);
        parts.extend(session.known("bpf_prog (functions)", *at, functions)?.into_iter().flatten());
    }
    let mut gone = Vec::new();
    for (at, _) in found.0.iter().filter(|(_, entry)| only_named(entry)) {
        if parts.contains(at)
            || session.known("bpf_prog", *at, is_let_go(session, layout, *at))? != Some(false)
        {
            gone.push(*at);
        }
    }
    gone.iter().for_each(|at| drop(found.0.remove(at)));
    Ok(())
}

/// ``struct bpf_prog *`` of the functions of the program at `at`, if it has any.
fn functions(session: &Session<'_>, layout: &Layout, at: Gva) -> Result<Vec<Gva>, ReadError> {
    let Some(functions) = layout.functions else { return Ok(Vec::new()) };
    let space = &session.space;
    let more = space.pointer(member(at, layout.more)?)?;
    let mut count = 0;
    for offset in &layout.functions_count {
        count = count.max(space.u32(member(more, *offset)?)?);
    }
    let array = space.pointer(member(more, functions)?)?;
    if array.is_null() {
        return Ok(Vec::new());
    }
    if count > FUNCTIONS_MAX {
        session.problem(
            ProblemKind::Implausible,
            format_args!("bpf_prog_aux {more}"),
            format_args!("It claims {count} functions."),
        );
        return Ok(Vec::new());
    }
    let each = |index| array.element(index, 8).ok_or(ReadError::NotAnAddress { at: array, len: index });
    (0..u64::from(count)).map(|index| space.pointer(each(index)?)).collect()
}

/// Bytes of machine code of the program at `at`, which are those of its functions if it has any: it is the first of them itself.
fn jited_bytes(session: &Session<'_>, layout: &Layout, at: Gva) -> Result<u32, ReadError> {
    let len = |program: Gva| session.space.u32(member(program, layout.jited_len)?);
    let functions = functions(session, layout, at)?;
    if functions.is_empty() {
        return len(at);
    }
    functions.into_iter().try_fold(0_u32, |sum, function| Ok(sum.saturating_add(len(function)?)))
}

fn is_let_go(session: &Session<'_>, layout: &Layout, at: Gva) -> Result<bool, ReadError> {
    let Some(references) = layout.references else { return Ok(false) };
    let more = session.space.pointer(member(at, layout.more)?)?;
    Ok(session.space.u64(member(more, references)?)? == 0)
}

/// Whether the machine code of the program at `at` must have a name.
fn has_symbol(session: &Session<'_>, at: Gva) -> Result<bool, ReadError> {
    let Some(layout) = &session.kernel.layouts().bpf else { return Ok(false) };
    let kind = session.space.u32(member(at, layout.kind)?)?;
    Ok(!OF_ANYBODY.contains(&kind) && session.space.u32(member(at, layout.jited_len)?)? != 0)
}

/// Links by their ``struct bpf_link *``.
struct Links {
    /// Those in the table.
    listed: HashMap<Gva, Link>,
    /// Others that something leads to.
    others: HashMap<Gva, Link>,
}

impl Links {
    fn listed(session: &Session<'_>) -> Result<Self, ReadError> {
        let listed = bpf_link::links(session)?.into_iter().map(|link| (link.at, link)).collect();
        Ok(Self { listed, others: HashMap::new() })
    }

    fn all(&self) -> impl Iterator<Item = &Link> {
        self.listed.values().chain(self.others.values())
    }
}

/// The programs of the link at `at`, which `view` leads to.
fn by_link(
    session: &Session<'_>,
    at: Gva,
    view: View,
    links: &mut Links,
    found: &mut Found,
) -> Result<Vec<Gva>, ReadError> {
    if let Some(link) = links.listed.get(&at) {
        for program in &link.programs {
            found.entry(*program, view);
        }
        return Ok(link.programs.clone());
    }
    // Made since the table was read, on its way out, or taken off the table.
    let Some(link) = session.known("bpf_link", at, bpf_link::read(session, at))?.flatten() else {
        return Ok(Vec::new());
    };
    if session.known("bpf_link", at, bpf_link::is_held(session, at))? != Some(true) {
        return Ok(Vec::new());
    }
    for program in &link.programs {
        let entry = found.entry(*program, view);
        entry.places.insert(link.attachment.clone());
        // Probes of files are in their place before their link has a number or anybody can hold it.
        if view != View::Place || link.attachment.link.is_some() {
            entry.unlisted.insert(at, None);
        }
    }
    let programs = link.programs.clone();
    links.others.insert(at, link);
    Ok(programs)
}

/// Adds what descriptors lead to: programs, links, and perf events with a program. Gives back these events.
fn held(
    session: &Session<'_>,
    leads: Vec<holder::EbpfLead>,
    links: &mut Links,
    found: &mut Found,
) -> Result<BTreeSet<Gva>, ReadError> {
    let mut events = Vec::new();
    for (pid, lead) in leads {
        let programs = match lead {
            Lead::Program(program) => vec![program],
            Lead::Link(at) => by_link(session, at, View::Descriptor, links, found)?,
            Lead::PerfEvent(event) => {
                let program = bpf_place::event_program(session, event);
                let program = session.known("perf_event", event, program)?.flatten();
                events.extend(program.map(|program| (event, program)));
                program.into_iter().collect()
            }
            Lead::Sock(_) | Lead::Ring(_) | Lead::None => Vec::new(),
        };
        for program in programs {
            found.entry(program, View::Descriptor).pids.insert(pid);
        }
    }
    let with_link: BTreeSet<Gva> = links.all().filter_map(|link| link.event).collect();
    for (event, program) in &events {
        if !with_link.contains(event) {
            let name = session.known("perf_event", *event, bpf_place::event_name(session, *event))?.flatten();
            let place = bpf_place::attachment("perf_event", name, None);
            found.entry(*program, View::Place).places.insert(place);
        }
    }
    Ok(events.into_iter().map(|(event, _)| event).collect())
}

/// Adds places that do not say which link they have. Where none of the links is there, one is missing: it is neither in the table nor
/// does anything lead to it. Or it is on its way out: who lets go of the last link takes it off the table, waits for the place's lock, and
/// takes the program off (``bpf_link_free()``, kernel/bpf/syscall.c). `held`: perf events that descriptors lead to.
///
/// The lock is asked for when the place was read. Whoever takes a program off that is still there in the next take has the lock then, waits
/// for it, or is about to ask for it.
fn kept_by_links(
    session: &Session<'_>,
    silent: Vec<Placed>,
    links: &Links,
    held: &BTreeSet<Gva>,
    found: &mut Found,
) -> Result<(), ReadError> {
    let mut known = HashSet::new();
    for link in links.all() {
        let EbpfAttachment { kind, target, .. } = &link.attachment;
        known.extend(link.programs.iter().map(|program| (*program, kind.as_str(), target.as_deref())));
    }
    let of_links: BTreeSet<Gva> = links.all().filter_map(|link| link.event).collect();
    let mutex = session.kernel.layouts().bpf.as_ref().and_then(|bpf| bpf.mutex);
    for placed in silent {
        let (at, program, attachment, lock, is_known, lacks_link) = match placed {
            Placed::ByLink { at, program, attachment, lock } => {
                let place = (program, attachment.kind.as_str(), attachment.target.as_deref());
                let is_known = known.contains(&place);
                (at, program, attachment, lock, is_known, !is_known)
            }
            Placed::Event { event, program, mapped, attachment, lock } => {
                let is_known = of_links.contains(&event) || held.contains(&event);
                (event, program, attachment, lock, is_known, !is_known && !mapped)
            }
            Placed::Program(..) | Placed::Link(_) => continue,
        };
        let entry = found.entry(program, View::Place);
        if !is_known {
            entry.places.insert(attachment);
        }
        if lacks_link {
            let owner = match lock.zip(mutex) {
                Some((lock, mutex)) => session.known("mutex", lock, mutex::owner(session, mutex, lock))?,
                None => None,
            };
            entry.unlisted.insert(at, owner.flatten());
        }
    }
    Ok(())
}

/// Sockets by the id of the program that filters them.
fn of_sockets(sockets: &Rows<Socket>) -> HashMap<u32, Vec<EbpfAttachment>> {
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
        jited_bytes: Some(jited_bytes(session, layout, at)?).filter(|len| *len != 0),
        maps: session.known("bpf_prog_aux", more, maps(session, layout, more))?.flatten(),
        attached_to: Vec::new(),
        processes: Vec::new(),
        views: Vec::new(),
        views_missing: Vec::new(),
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
