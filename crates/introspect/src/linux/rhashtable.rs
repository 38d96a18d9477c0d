//! The kernel's resizable hash tables: ``struct rhashtable`` and its ``struct bucket_table`` (include/linux/rhashtable.h).
//!
//! Chains link forwards only, and a running guest takes nodes off one chain and puts them on another while they are followed.
//! So it is done as the kernel does it: a chain ends with the address of its own bucket, and one that ends with another's is
//! followed again. While a table is made larger or smaller there are two, the second one ``future_tbl``: what is moved is
//! in the one or the other. The first is freed when all is moved, so that what was wrong with it counts only if it still is the table.

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
/// More of what is wrong with one table than a look lists.
const TROUBLES_MAX: usize = 257;
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
    let mut attempt = 0;
    loop {
        let first = pointer(session, table, session.kernel.layouts().net.rhashtable.table)?;
        let (nodes, troubles) = (Vec::new(), Vec::new());
        let mut walk = Walk { session, table, first, nodes, troubles, standing: false };
        walk.tables()?;
        let is_replaced = walk.is_replaced()?;
        if is_replaced && attempt < RETRIES {
            // Whatever was wrong with what it was, which may be other memory by now.
            attempt += 1;
            session.retry();
            continue;
        }
        if is_replaced {
            session.problem(
                ProblemKind::Inconsistent,
                format_args!("{what} {table}"),
                format_args!("It was replaced each of {RETRIES} times it was read."),
            );
        }
        for (at, trouble) in walk.troubles {
            trouble.told(session, what, at);
        }
        walk.nodes.sort_unstable();
        walk.nodes.dedup();
        return Ok(walk.nodes);
    }
}

/// A pointer member as it is now, also where pages are kept.
fn now(session: &Session<'_>, at: Gva, offset: u64) -> Result<Gva, ReadError> {
    let mut now = [0; 8];
    session.space.read_again(member(at, offset)?, &mut now)?;
    Ok(Gva(u64::from_le_bytes(now)))
}

/// A ``struct bucket_table``.
#[derive(Clone, Copy)]
struct Buckets {
    first: Gva,
    size: u32,
}

impl Buckets {
    fn has(self, bucket: Gva) -> bool {
        let offset = bucket.0.checked_sub(self.first.0);
        offset.is_some_and(|offset| offset.is_multiple_of(8) && offset / 8 < u64::from(self.size))
    }
}

/// Why a table or chain was not read to its end.
enum Trouble {
    /// So many buckets, nested so deep.
    Buckets(u32, u32),
    /// It comes back to this node.
    Cycle(Gva),
    /// It ends with something else than its bucket.
    Elsewhere(Gva),
    Endless,
    Unmapped(ReadError),
}

impl Trouble {
    fn told(self, session: &Session<'_>, what: &str, at: Gva) {
        let (kind, detail) = match self {
            Self::Buckets(size, nest) => (
                ProblemKind::Implausible,
                format!("It has {size} buckets and is nested {nest} deep; only flat tables are read."),
            ),
            Self::Cycle(node) => (ProblemKind::Cycle, format!("A chain comes back to {node}.")),
            Self::Elsewhere(end) => {
                (ProblemKind::Inconsistent, format!("Its chain ends at {end}, which is not its bucket."))
            }
            Self::Endless => (ProblemKind::Budget, format!("More than {NODES_MAX} nodes.")),
            Self::Unmapped(error) => (ProblemKind::Unmapped, error.to_string()),
        };
        session.problem(kind, format_args!("{what} {at}"), detail);
    }
}

/// One reading of a table and of those that it is being moved to.
struct Walk<'s, 'a> {
    session: &'s Session<'a>,
    /// ``struct rhashtable *``, and its ``struct bucket_table *`` when this began.
    table: Gva,
    first: Gva,
    nodes: Vec<Gva>,
    /// What may turn out to be no table's.
    troubles: Vec<(Gva, Trouble)>,
    /// Whether a node was met that is being moved. There is one at a time: who moves has the table for himself.
    standing: bool,
}

impl Walk<'_, '_> {
    /// Whether everything was moved to another table since.
    fn is_replaced(&self) -> Result<bool, ReadError> {
        let layout = self.session.kernel.layouts().net.rhashtable;
        Ok(now(self.session, self.table, layout.table)? != self.first)
    }

    fn is_trouble(&mut self, at: Gva, trouble: Trouble) {
        if self.troubles.len() < TROUBLES_MAX {
            self.troubles.push((at, trouble));
        }
    }

    fn tables(&mut self) -> Result<(), ReadError> {
        let layout = self.session.kernel.layouts().net.rhashtable;
        let mut at = self.first;
        for _ in 0..MOVES_MAX {
            // None at all: nobody has set it up.
            if at.is_null() {
                break;
            }
            let read = self.buckets(at);
            self.unless_unmapped(at, read)?;
            // What was moved meanwhile is in the next one by now, whatever that was before.
            let next = now(self.session, at, layout.future);
            at = self.unless_unmapped(at, next)?.unwrap_or_default();
            if !at.is_null() {
                self.session.space.look().forget_pages();
            }
        }
        Ok(())
    }

    fn unless_unmapped<T>(&mut self, at: Gva, read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.ends_the_look() => Err(error),
            Err(error) => {
                self.is_trouble(at, Trouble::Unmapped(error));
                Ok(None)
            }
        }
    }

    /// The buckets of the ``struct bucket_table`` at `table`. `Err`: what it claims is not believed.
    fn claimed(&self, table: Gva) -> Result<Result<Buckets, Trouble>, ReadError> {
        let layout = self.session.kernel.layouts().net.rhashtable;
        let size = self.session.space.u32(member(table, layout.size)?)?;
        let nest = self.session.space.u32(member(table, layout.nest)?)?;
        let first = member(table, layout.buckets)?;
        let believed = size <= BUCKETS_MAX && nest == 0;
        Ok(if believed { Ok(Buckets { first, size }) } else { Err(Trouble::Buckets(size, nest)) })
    }

    /// Adds the nodes of the ``struct bucket_table`` at `table`.
    fn buckets(&mut self, table: Gva) -> Result<(), ReadError> {
        let Buckets { first: buckets, size } = match self.claimed(table)? {
            Ok(buckets) => buckets,
            Err(trouble) => {
                self.is_trouble(table, trouble);
                return Ok(());
            }
        };
        for first in (0..size).step_by(CHUNK as usize) {
            let Some(start) = buckets.element(u64::from(first), 8) else { break };
            let count = usize::try_from(CHUNK.min(size - first)).unwrap_or(0);
            let bytes = self.session.space.bytes(start, count.saturating_mul(8))?;
            for (index, head) in bytes.as_chunks::<8>().0.iter().enumerate() {
                if u64::from_le_bytes(*head) & !LOW_BIT == 0 {
                    continue;
                }
                let Some(bucket) = start.element(index as u64, 8) else { break };
                if !self.chain(table, bucket)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Adds the nodes of the chain of the bucket at `bucket` of `table`. `false`: that is no table any more.
    fn chain(&mut self, table: Gva, bucket: Gva) -> Result<bool, ReadError> {
        let before = self.nodes.len();
        let mut trouble = None;
        for attempt in 0..=RETRIES {
            if attempt > 0 {
                if self.is_replaced()? {
                    return Ok(false);
                }
                self.session.retry();
            }
            self.nodes.truncate(before);
            trouble = self.chain_once(bucket)?;
            if trouble.is_none() {
                return Ok(true);
            }
        }
        if let Some(Trouble::Elsewhere(end)) = trouble
            && !self.standing
            && self.is_moved_to(table, Gva(end.0 & !LOW_BIT))?
        {
            self.standing = true;
        } else if let Some(trouble) = trouble {
            self.is_trouble(bucket, trouble);
        }
        Ok(true)
    }

    /// Whether `bucket` is of a table that `table` is being moved to.
    ///
    /// It is the last node of a chain that is moved (``rhashtable_rehash_one()``, lib/rhashtable.c): first it leads to those that are in its
    /// new bucket, then that leads to it, and then it is taken off the old chain. A guest's CPU may stand between these for as long as the
    /// host likes; nobody was behind it.
    fn is_moved_to(&self, table: Gva, bucket: Gva) -> Result<bool, ReadError> {
        let layout = self.session.kernel.layouts().net.rhashtable;
        let mut at = table;
        for _ in 0..MOVES_MAX {
            let next = now(self.session, at, layout.future).and_then(|next| Ok((next, self.claimed(next)?)));
            match next {
                Ok((_, Ok(buckets))) if buckets.has(bucket) => return Ok(true),
                Ok((next, Ok(_))) => at = next,
                Err(error) if error.ends_the_look() => return Err(error),
                _ => break,
            }
        }
        Ok(false)
    }

    fn chain_once(&mut self, bucket: Gva) -> Result<Option<Trouble>, ReadError> {
        let mut seen = HashSet::new();
        let before = self.nodes.len();
        let mut at = Gva(self.session.space.pointer(bucket)?.0 & !LOW_BIT);
        while !at.is_null() && at.0 & LOW_BIT == 0 {
            if self.nodes.len() >= NODES_MAX {
                return Ok(Some(Trouble::Endless));
            }
            if !seen.insert(at) {
                return Ok(Some(Trouble::Cycle(at)));
            }
            self.nodes.push(at);
            at = match self.session.space.pointer(at) {
                Ok(next) => next,
                Err(error) if error.ends_the_look() => return Err(error),
                // What was a node is no memory any more.
                Err(_) => return Ok(Some(Trouble::Elsewhere(at))),
            };
        }
        // A bucket that was emptied since it was found to be used has no end either.
        let whole = at.0 == bucket.0 | LOW_BIT || (at.is_null() && self.nodes.len() == before);
        Ok((!whole).then_some(Trouble::Elsewhere(at)))
    }
}
