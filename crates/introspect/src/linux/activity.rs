//! What the kernel counted of tasks: how many were made, are there, and which number came last.
//!
//! A program that runs for a moment between two looks is in no table of either, but it was counted.

use super::layout::Resolver;
use super::percpu;
use crate::session::Session;
use facts::Activity;
use vmi_core::{Gva, ReadError};

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// In ``struct pid_namespace``: the number that the search for the next free pid begins at.
    next_pid: Option<u64>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Self {
        Self { next_pid: resolver.optional("pid_namespace", "idr.idr_next") }
    }
}

/// Reads the counters. What a kernel does not have, or what cannot be read, is `None`.
pub(crate) fn activity(session: &Session<'_>) -> Result<Activity, ReadError> {
    // All of these are single aligned words that the kernel changes in one go: a torn one cannot be read.
    let word = |at: Option<Gva>| -> Result<Option<u64>, ReadError> {
        match at {
            Some(at) => session.known("counter of tasks", at, session.space.u64(at)),
            None => Ok(None),
        }
    };
    let half = |at: Option<Gva>| -> Result<Option<u32>, ReadError> {
        match at {
            Some(at) => session.known("counter of tasks", at, session.space.u32(at)),
            None => Ok(None),
        }
    };
    let symbol = |name| session.kernel.symbol(name);
    let next_pid = symbol("init_pid_ns")
        .zip(session.kernel.layouts().activity.next_pid)
        .and_then(|(namespace, offset)| namespace.checked_add(offset));
    Ok(Activity {
        // ``unsigned long total_forks`` and ``int nr_threads``, kernel/fork.c.
        forks: word(symbol("total_forks"))?,
        threads: half(symbol("nr_threads"))?.map(u64::from),
        processes: processes(session)?,
        // ``idr_get_cursor() - 1``, as loadavg_proc_show() has it (fs/proc/loadavg.c).
        last_pid: half(next_pid)?.and_then(|next| next.checked_sub(1)),
    })
}

/// About how many tasks there are: what is worth several threads. It is only what the kernel says, and 0 where it says nothing.
pub(crate) fn threads(session: &Session<'_>) -> Result<usize, ReadError> {
    let Some(at) = session.kernel.symbol("nr_threads") else { return Ok(0) };
    match session.space.u32(at) {
        Ok(threads) => Ok(usize::try_from(threads).unwrap_or(usize::MAX)),
        Err(error) if error.ends_the_look() => Err(error),
        Err(_) => Ok(0),
    }
}

/// ``nr_processes()``, kernel/fork.c: each CPU has counted those that began on it less those that ended on it.
fn processes(session: &Session<'_>) -> Result<Option<u64>, ReadError> {
    let Some(counts) = session.kernel.symbol("process_counts") else { return Ok(None) };
    let Some(areas) = percpu::areas(session, "process_counts")? else { return Ok(None) };
    let mut sum: u64 = 0;
    for area in areas {
        // A CPU that is possible and not there may have no memory.
        match session.space.u64(Gva(counts.0.wrapping_add(area))) {
            Ok(count) => sum = sum.wrapping_add(count),
            Err(error) if error.ends_the_look() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(Some(sum).filter(|sum| *sum <= u64::from(u32::MAX)))
}
