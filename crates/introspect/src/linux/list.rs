//! The kernel's lists: ``struct list_head`` and ``struct hlist_head`` / ``struct hlist_nulls_head``.
//!
//! Both link backwards as well as forwards, and that is used twice: on a running guest a link that does not agree with
//! its neighbour means that the list changed under us (walk again), and on a hostile one it makes an endless list
//! impossible, because an element that is reached twice cannot point back at two different predecessors.

use crate::session::{Session, member};
use facts::ProblemKind;
use vmi_core::{AddressSpace, Gva, ReadError};

/// How often a walk starts again before it settles for what it has.
const RETRIES: u32 = 8;
/// Elements of any one list. A kernel has at most 4,194,304 pids (`PID_MAX_LIMIT`, include/linux/threads.h, 6.12).
const ELEMENTS_MAX: usize = 4 << 20;
/// Where ``pprev``/``prev`` stands behind ``next`` in all three node types.
pub(crate) const BACK: u64 = 8;

/// Why a walk did not reach the end of its list.
#[derive(Debug)]
enum Broken {
    /// The element at `.0` points back at `.1`, not at where we came from.
    Link(Gva, Gva),
    /// More elements than any kernel has.
    Endless,
    /// An element could not be read.
    Read(Gva, ReadError),
}

/// Addresses of the list nodes of a circular ``struct list_head`` list, the head left out, in list order.
///
/// What a broken list gave up to the break is kept, and the break is recorded as a problem of `what`.
pub(crate) fn list(session: &Session<'_>, what: &str, head: Gva) -> Result<Vec<Gva>, ReadError> {
    let mut nodes = Vec::new();
    walk(session, what, head, &mut nodes, |space, nodes, last| list_once(space, head, nodes, last))?;
    Ok(nodes)
}

/// Addresses of the nodes of a hash chain. `head` is the address of ``struct hlist_head`` or
/// ``struct hlist_nulls_head``; the end is a null pointer or one with its lowest bit set.
pub(crate) fn hlist(session: &Session<'_>, what: &str, head: Gva) -> Result<Vec<Gva>, ReadError> {
    let mut nodes = Vec::new();
    add_hlist(session, what, head, &mut nodes)?;
    Ok(nodes)
}

/// Adds them to others.
fn add_hlist(session: &Session<'_>, what: &str, head: Gva, nodes: &mut Vec<Gva>) -> Result<(), ReadError> {
    walk(session, what, head, nodes, |space, nodes, last| hlist_once(space, head, nodes, last))
}

/// Whether the predecessor of the list node at `node` points at it. A node that was taken off its list points at itself
/// (``list_del_init()``), at its former neighbours or at poison that is not mapped; they do not point back.
pub(crate) fn is_linked(session: &Session<'_>, node: Gva) -> Result<bool, ReadError> {
    let predecessor = session.space.pointer(member(node, BACK)?)?;
    Ok(predecessor != node && session.space.pointer(predecessor).is_ok_and(|next| next == node))
}

/// The nodes of a circular list as far as one walk gets, for lists that never hold still: that a node is missing in the
/// result says nothing, so a list that breaks off is no problem.
pub(crate) fn glimpse(session: &Session<'_>, head: Gva) -> Result<Vec<Gva>, ReadError> {
    let mut nodes = Vec::new();
    match list_once(&session.space, head, &mut nodes, false) {
        Err(Broken::Read(_, error)) if error.ends_the_look() => Err(error),
        _ => Ok(nodes),
    }
}

/// The nodes of a hash chain, if one walk gets to its end: for heads that may themselves be gone.
pub(crate) fn hlist_of_one_walk(session: &Session<'_>, head: Gva) -> Result<Option<Vec<Gva>>, ReadError> {
    let mut nodes = Vec::new();
    match hlist_once(&session.space, head, &mut nodes, false) {
        Ok(()) => Ok(Some(nodes)),
        Err(Broken::Read(_, error)) if error.ends_the_look() => Err(error),
        Err(_) => Ok(None),
    }
}

/// Adds to `nodes` those of the list that `once` walks.
fn walk(
    session: &Session<'_>,
    what: &str,
    head: Gva,
    nodes: &mut Vec<Gva>,
    once: impl Fn(&AddressSpace<'_, '_>, &mut Vec<Gva>, bool) -> Result<(), Broken>,
) -> Result<(), ReadError> {
    let before = nodes.len();
    for attempt in 0..=RETRIES {
        nodes.truncate(before);
        let broken = match once(&session.space, nodes, attempt == RETRIES) {
            Ok(()) => return Ok(()),
            Err(Broken::Read(_, error)) if error.ends_the_look() => return Err(error),
            Err(broken) => broken,
        };
        if attempt < RETRIES {
            session.retry();
            continue;
        }
        let count = nodes.len().saturating_sub(before);
        match broken {
            Broken::Link(at, back) => session.problem(
                ProblemKind::Inconsistent,
                format_args!("{what} {head}"),
                format_args!(
                    "The element at {at} points back at {back}, not at its predecessor; {count} elements were read before it.",
                ),
            ),
            Broken::Endless => session.problem(
                ProblemKind::Budget,
                format_args!("{what} {head}"),
                format_args!("More than {ELEMENTS_MAX} elements."),
            ),
            Broken::Read(at, error) => session.problem(
                ProblemKind::Unmapped,
                format_args!("{what} {head}"),
                format_args!("The element at {at}: {error}; {count} elements were read before it."),
            ),
        }
    }
    Ok(())
}

fn pair(space: &AddressSpace<'_, '_>, at: Gva) -> Result<(Gva, Gva), Broken> {
    let mut bytes = [0; 16];
    space.read(at, &mut bytes).map_err(|error| Broken::Read(at, error))?;
    let [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7] = bytes;
    Ok((
        Gva(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
        Gva(u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7])),
    ))
}

/// Whether a link that does not agree is a change that is half done: a guest's CPU may stand between any two of its steps for as long as
/// the host likes. `one_more` is the place before that which leads to `at`.
///
/// An element that is put before `at`, or taken away there, is linked forwards for a moment while `at` points back past it. The
/// other way around, `at` points back at one that is not linked forwards any more, or not yet, and that points at it. And one that is
/// put first may be linked from both sides before it points back itself.
fn is_half_done(space: &AddressSpace<'_, '_>, at: Gva, (next, back): (Gva, Gva), one_more: Gva) -> bool {
    let points_at_it = || pair(space, back).is_ok_and(|(forwards, _)| forwards == at);
    let ends = next.is_null() || next.0 & 1 == 1;
    let linked = || ends || pair(space, next).is_ok_and(|(_, back)| back == at);
    back == one_more || points_at_it() || linked()
}

fn list_once(
    space: &AddressSpace<'_, '_>,
    head: Gva,
    nodes: &mut Vec<Gva>,
    last: bool,
) -> Result<(), Broken> {
    let (mut at, _) = pair(space, head)?;
    let (mut before, mut one_more) = (head, head);
    // Whoever changes a list has it for himself.
    let mut half_done = !last;
    while at != head {
        if nodes.len() >= ELEMENTS_MAX {
            return Err(Broken::Endless);
        }
        let (next, back) = pair(space, at)?;
        if back != before {
            if half_done || !is_half_done(space, at, (next, back), one_more) {
                return Err(Broken::Link(at, back));
            }
            half_done = true;
        }
        nodes.push(at);
        (one_more, before) = (before, at);
        at = next;
    }
    let (next, back) = pair(space, head)?;
    if back == before || (!half_done && is_half_done(space, head, (next, back), one_more)) {
        return Ok(());
    }
    Err(Broken::Link(head, back))
}

fn hlist_once(
    space: &AddressSpace<'_, '_>,
    head: Gva,
    nodes: &mut Vec<Gva>,
    last: bool,
) -> Result<(), Broken> {
    let mut at = space.pointer(head).map_err(|error| Broken::Read(head, error))?;
    let (mut before, mut one_more) = (head, head);
    let mut half_done = !last;
    while !at.is_null() && at.0 & 1 == 0 {
        if nodes.len() >= ELEMENTS_MAX {
            return Err(Broken::Endless);
        }
        let (next, back) = pair(space, at)?;
        // ``pprev`` is the address of the pointer that points here: the head's or the predecessor's ``next``.
        if back != before {
            if half_done || !is_half_done(space, at, (next, back), one_more) {
                return Err(Broken::Link(at, back));
            }
            half_done = true;
        }
        nodes.push(at);
        (one_more, before) = (before, at);
        at = next;
    }
    Ok(())
}

/// Where [`list`] and [`hlist`] expect the links. A kernel that has them elsewhere is not supported.
pub(crate) fn check(resolver: &mut super::layout::Resolver<'_>) {
    for (name, back) in [("list_head", "prev"), ("hlist_node", "pprev"), ("hlist_nulls_node", "pprev")] {
        if resolver.offset(name, "next") != 0 || resolver.offset(name, back) != BACK {
            resolver.lacks(format!("{name} with next and {back} side by side"));
        }
    }
}

/// Bytes of a hash table that are read at once.
const CHUNK: u64 = 64 << 10;
/// Most buckets of one table. The largest that Linux makes by itself has 2^19 (``tcp_hashinfo`` of a machine with much
/// memory); ``thash_entries=`` can ask for more.
const BUCKETS_MAX: u64 = 1 << 24;
/// Chains that are not empty from which on they are followed.
const CHAINS: usize = 4096;

/// A hash table: `count` buckets of `stride` bytes from `base`, the head of each chain `head` bytes into its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HashTable {
    pub(crate) base: Gva,
    pub(crate) count: u64,
    pub(crate) stride: u64,
    pub(crate) head: u64,
}

/// Addresses of all nodes in all chains of a hash table. Only chains that are not empty cost more than their share of
/// the bucket array, of which a block is kept at a time.
pub(crate) fn hash_table(session: &Session<'_>, what: &str, table: HashTable) -> Result<Vec<Gva>, ReadError> {
    let HashTable { base, count, stride, head } = table;
    // It lies in the guest's memory, beside everything else that is there.
    let room = session.space.look().memory().size() / 2;
    if count > BUCKETS_MAX || stride == 0 || stride > CHUNK || count.saturating_mul(stride) > room {
        session.problem(
            ProblemKind::Implausible,
            format_args!("{what} {base}"),
            format_args!("It claims {count} buckets of {stride} bytes."),
        );
        return Ok(Vec::new());
    }
    let (mut nodes, mut used) = (Vec::new(), Vec::new());
    let mut first = 0;
    while first < count {
        let buckets = (CHUNK / stride).min(count - first);
        let Some(start) = base.element(first, stride) else { break };
        used_heads(session, what, HashTable { base: start, count: buckets, stride, head }, &mut used)?;
        first = first.saturating_add(buckets);
        // Few at a time would have to be waited for.
        if used.len() >= CHAINS || first >= count {
            chains(session, what, &used, &mut nodes)?;
            used.clear();
        }
        if nodes.len() >= ELEMENTS_MAX {
            session.problem(
                ProblemKind::Budget,
                format_args!("{what} {base}"),
                format_args!("More than {ELEMENTS_MAX} elements."),
            );
            nodes.truncate(ELEMENTS_MAX);
            break;
        }
    }
    Ok(nodes)
}

/// Adds the nodes of the chains with these heads, until there are more than any kernel has.
fn chains(
    session: &Session<'_>,
    what: &str,
    heads: &[(Gva, Gva)],
    nodes: &mut Vec<Gva>,
) -> Result<(), ReadError> {
    session.each(heads, &[|session, (_, first), ()| session.expect(first, 0, 16)], |(head, _)| {
        if nodes.len() < ELEMENTS_MAX {
            add_hlist(session, what, head, nodes)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Adds the heads of a part of a table whose chains are not empty, and what they point at.
fn used_heads(
    session: &Session<'_>,
    what: &str,
    part: HashTable,
    used: &mut Vec<(Gva, Gva)>,
) -> Result<(), ReadError> {
    let HashTable { base, count, stride, head } = part;
    let bytes = session.space.bytes(base, usize::try_from(count.saturating_mul(stride)).unwrap_or(0));
    let bytes = session.known(what, base, bytes)?.unwrap_or_default();
    for (index, bucket) in bytes.chunks_exact(usize::try_from(stride).unwrap_or(1)).enumerate() {
        let pointer = usize::try_from(head)
            .ok()
            .and_then(|from| bucket.get(from..from.checked_add(8)?))
            .and_then(|bytes| <[u8; 8]>::try_from(bytes).ok())
            .map_or(0, u64::from_le_bytes);
        if pointer != 0 && pointer & 1 == 0 {
            let at = base.element(index as u64, stride).and_then(|bucket| bucket.checked_add(head));
            used.extend(at.map(|head| (head, Gva(pointer))));
        }
    }
    Ok(())
}
