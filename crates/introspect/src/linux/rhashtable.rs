//! The kernel's resizable hash tables: ``struct rhashtable`` and its ``struct bucket_table`` (include/linux/rhashtable.h).
//!
//! Chains link forwards only, and a running guest takes nodes off one chain and puts them on another while they are followed.
//! So it is done as the kernel does it: a chain ends with the address of its own bucket, and one that ends with another's is
//! followed again. While a table is made larger or smaller there are two, the second one ``future_tbl``: what is moved is
//! in the one or the other.

use super::layout::Resolver;
use super::net::pointer;
use crate::session::{Session, member};
use facts::ProblemKind;
use std::collections::HashSet;
use vmi_core::{Gva, ReadError};

/// Most buckets of one table; they grow with the number of entries.
const BUCKETS_MAX: u32 = 1 << 22;
/// Buckets that are read at once.
const CHUNK: u32 = 1024;
/// Most nodes of one table.
const NODES_MAX: usize = 1 << 20;
/// Most tables that are being moved to at a time: one, and one more where that is too small already.
const MOVES_MAX: usize = 4;
/// How often a table or chain is read again that changed meanwhile.
const RETRIES: u32 = 8;
/// In a bucket it is its lock, and in a node's ``next`` it ends the chain.
const LOW_BIT: u64 = 1;

/// Offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    table: u64,
    size: u64,
    nest: u64,
    buckets: u64,
    future: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            table: resolver.offset("rhashtable", "tbl"),
            size: resolver.offset("bucket_table", "size"),
            nest: resolver.offset("bucket_table", "nest"),
            buckets: resolver.offset("bucket_table", "buckets"),
            future: resolver.offset("bucket_table", "future_tbl"),
        }
    }
}

/// Addresses of the nodes (``struct rhash_head``) of the ``struct rhashtable`` at `table`, each once, ascending.
pub(super) fn nodes(session: &Session<'_>, what: &str, table: Gva) -> Result<Vec<Gva>, ReadError> {
    let layout = session.kernel.layouts().net.rhashtable;
    let mut nodes = Vec::new();
    for attempt in 0..=RETRIES {
        if attempt > 0 {
            session.retry();
        }
        nodes.clear();
        let first = pointer(session, table, layout.table)?;
        let mut at = first;
        for _ in 0..MOVES_MAX {
            // None at all: nobody has set it up.
            if at.is_null() {
                break;
            }
            buckets(session, what, at, &mut nodes)?;
            at = pointer(session, at, layout.future)?;
        }
        let mut now = [0; 8];
        session.space.read_again(member(table, layout.table)?, &mut now)?;
        if Gva(u64::from_le_bytes(now)) == first {
            nodes.sort_unstable();
            nodes.dedup();
            return Ok(nodes);
        }
    }
    session.problem(
        ProblemKind::Inconsistent,
        format_args!("{what} {table}"),
        format_args!("It was replaced each of {RETRIES} times it was read."),
    );
    Ok(nodes)
}

/// Adds the nodes of the ``struct bucket_table`` at `table`.
fn buckets(session: &Session<'_>, what: &str, table: Gva, nodes: &mut Vec<Gva>) -> Result<(), ReadError> {
    let layout = session.kernel.layouts().net.rhashtable;
    let space = &session.space;
    let size = space.u32(member(table, layout.size)?)?;
    let nest = space.u32(member(table, layout.nest)?)?;
    if size > BUCKETS_MAX || nest != 0 {
        session.problem(
            ProblemKind::Implausible,
            format_args!("{what} {table}"),
            format_args!("It has {size} buckets and is nested {nest} deep; only flat tables are read."),
        );
        return Ok(());
    }
    let buckets = member(table, layout.buckets)?;
    for first in (0..size).step_by(CHUNK as usize) {
        let Some(start) = buckets.element(u64::from(first), 8) else { break };
        let count = usize::try_from(CHUNK.min(size - first)).unwrap_or(0);
        let bytes = space.bytes(start, count.saturating_mul(8))?;
        for (index, head) in bytes.as_chunks::<8>().0.iter().enumerate() {
            if u64::from_le_bytes(*head) & !LOW_BIT == 0 {
                continue;
            }
            let Some(bucket) = start.element(index as u64, 8) else { break };
            chain(session, what, bucket, nodes)?;
        }
    }
    Ok(())
}

/// Why a chain was not read to its end.
enum Broken {
    /// It comes back to this node.
    Cycle(Gva),
    /// It ends with something else than its bucket.
    Elsewhere(Gva),
    Endless,
}

/// Adds the nodes of the chain of the bucket at `bucket`.
fn chain(session: &Session<'_>, what: &str, bucket: Gva, nodes: &mut Vec<Gva>) -> Result<(), ReadError> {
    let before = nodes.len();
    let mut broken = None;
    for attempt in 0..=RETRIES {
        if attempt > 0 {
            session.retry();
        }
        nodes.truncate(before);
        broken = chain_once(session, bucket, nodes)?;
        if broken.is_none() {
            return Ok(());
        }
    }
    match broken {
        Some(Broken::Cycle(at)) => session.problem(
            ProblemKind::Cycle,
            format_args!("{what} {bucket}"),
            format_args!("A chain comes back to {at}."),
        ),
        Some(Broken::Elsewhere(at)) => session.problem(
            ProblemKind::Inconsistent,
            format_args!("{what} {bucket}"),
            format_args!("Its chain ends at {at}, which is not its bucket."),
        ),
        Some(Broken::Endless) => session.problem(
            ProblemKind::Budget,
            format_args!("{what} {bucket}"),
            format_args!("More than {NODES_MAX} nodes."),
        ),
        None => {}
    }
    Ok(())
}

fn chain_once(session: &Session<'_>, bucket: Gva, nodes: &mut Vec<Gva>) -> Result<Option<Broken>, ReadError> {
    let mut seen = HashSet::new();
    let before = nodes.len();
    let mut at = Gva(session.space.pointer(bucket)?.0 & !LOW_BIT);
    while !at.is_null() && at.0 & LOW_BIT == 0 {
        if nodes.len() >= NODES_MAX {
            return Ok(Some(Broken::Endless));
        }
        if !seen.insert(at) {
            return Ok(Some(Broken::Cycle(at)));
        }
        nodes.push(at);
        at = match session.space.pointer(at) {
            Ok(next) => next,
            Err(error) if error.ends_the_look() => return Err(error),
            // What was a node is no memory any more.
            Err(_) => return Ok(Some(Broken::Elsewhere(at))),
        };
    }
    // A bucket that was emptied since it was found to be used has no end either.
    let whole = at.0 == bucket.0 | LOW_BIT || (at.is_null() && nodes.len() == before);
    Ok((!whole).then_some(Broken::Elsewhere(at)))
}
