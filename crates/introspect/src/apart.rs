//! Large tables, read by several threads.
//!
//! What a row of a table says does not depend on other rows, and reading one is mostly waiting for memory. So a long list of objects
//! is cut into parts, and whoever is free takes the next one. Each thread has a session of its own; the rows and the problems of a
//! look come in the order of the list all the same, however many threads there were. Short lists are not worth a thread.

use crate::session::Session;
use facts::Problem;
use std::cmp::Ordering;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use vmi_core::{Access, Look, ReadError};

/// Objects from which on a list is cut.
const MANY: usize = 512;
/// Threads that a look has at most: the host has other things to do.
const THREADS_MAX: usize = 4;
/// Parts for each thread, so that one that is held up does not hold up all.
const PARTS: usize = 8;

/// What was read of one part of a list, and whether all of it was.
pub(crate) type Part<T> = (T, Result<(), ReadError>);

/// What became of one part.
struct Done<T> {
    number: usize,
    part: Part<T>,
    problems: Vec<Problem>,
}

/// A list that is being read.
struct Work<'w, O, F, T> {
    parts: Vec<&'w [O]>,
    next: AtomicUsize,
    read: F,
    done: Mutex<Vec<Done<T>>>,
}

impl<O, F, T> Work<'_, O, F, T>
where
    F: Fn(&Session<'_>, &[O]) -> Part<T>,
{
    /// Takes part after part, until there is none or the look is over.
    fn take(&self, session: &Session<'_>) {
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            let Some(objects) = self.parts.get(number) else { return };
            let part = (self.read)(session, objects);
            if part.1.is_err() {
                self.next.store(self.parts.len(), Relaxed);
            }
            self.done().push(Done { number, part, problems: session.take_problems() });
        }
    }

    fn done(&self) -> MutexGuard<'_, Vec<Done<T>>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `read` makes of all parts of `objects`, in their order. With the first error, if there was one, comes what was read before it.
pub(crate) fn apart<O: Sync, T: Send>(
    session: &Session<'_>,
    objects: &[O],
    read: impl Fn(&Session<'_>, &[O]) -> Part<T> + Sync,
) -> Part<Vec<T>> {
    if !is_crowd(objects.len()) {
        let (rows, end) = read(session, objects);
        return (vec![rows], end);
    }
    let threads = threads();
    by_parts(session, objects, threads, objects.len().div_ceil(threads.saturating_mul(PARTS)), read)
}

/// What `read` makes of each of `objects`, which are few, and with a `crowd` in the guest much work each.
pub(crate) fn side_by_side<O: Copy + Sync, T: Send>(
    session: &Session<'_>,
    objects: &[O],
    crowd: bool,
    read: impl Fn(&Session<'_>, O) -> Result<T, ReadError> + Sync,
) -> Part<Vec<T>> {
    let threads = if crowd { threads() } else { 1 };
    let (parts, end) = by_parts(session, objects, threads, 1, |session, objects| {
        let mut rows = Vec::with_capacity(objects.len());
        let end = objects.iter().try_for_each(|object| read(session, *object).map(|row| rows.push(row)));
        (rows, end)
    });
    (parts.into_iter().flatten().collect(), end)
}

/// Whether so many objects are worth threads.
pub(crate) fn is_crowd(objects: usize) -> bool {
    objects >= MANY
}

/// Sorts `items`, a `crowd` of them on several threads. Items that compare as the same may change places.
pub(crate) fn sort_apart<T: Send>(
    items: &mut [T],
    crowd: bool,
    compare: &(impl Fn(&T, &T) -> Ordering + Sync),
) {
    let threads = if crowd { threads() } else { 1 };
    let (mut rest, mut parts) = (items, Vec::with_capacity(threads));
    for left in (2..=threads).rev() {
        let len = rest.len() / left;
        if len == 0 {
            break;
        }
        // All that is in the part belongs before all that is behind it.
        rest.select_nth_unstable_by(len, compare);
        let (part, behind) = rest.split_at_mut(len);
        parts.push(part);
        rest = behind;
    }
    parts.push(rest);
    beside(parts, crowd, |part| part.sort_unstable_by(compare));
}

/// What `work` makes of each of `items`, which are few, and with a `crowd` in the guest much work each. Reads no memory of the guest.
pub(crate) fn beside<T: Send, R: Send>(
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    crowd: bool,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let items = items.into_iter();
    if !crowd || threads() < 2 {
        return items.map(work).collect();
    }
    let (items, done) = (Mutex::new(items.enumerate()), Mutex::new(Vec::new()));
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let take = || {
        while let Some((number, item)) = next() {
            let result = work(item);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads() {
            // Without a thread there is less help, and no less done.
            let _ = thread::Builder::new().spawn_scoped(scope, take);
        }
        take();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// How many threads a look may have.
fn threads() -> usize {
    // Asked once: it takes files of the host to tell (those of our control group).
    static THREADS: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX));
    *THREADS
}

/// [`apart`] with so many threads, in parts of `len` objects.
fn by_parts<O: Sync, T: Send>(
    session: &Session<'_>,
    objects: &[O],
    threads: usize,
    len: usize,
    read: impl Fn(&Session<'_>, &[O]) -> Part<T> + Sync,
) -> Part<Vec<T>> {
    let look = session.space.look();
    // Pages that are copied whole would be copied by each thread.
    if threads < 2 || look.memory().access() != Access::Mapped {
        let (rows, end) = read(session, objects);
        return (vec![rows], end);
    }
    let before = session.take_problems();
    let len = len.max(1);
    let work = Work {
        parts: objects.chunks(len).collect(),
        next: AtomicUsize::new(0),
        read,
        done: Mutex::new(Vec::new()),
    };
    let looks: Vec<Mutex<Look<'_>>> =
        (2..=threads as u64).rev().map(|parts| Mutex::new(look.beside(parts))).collect();
    let (kernel, wants, boot_time) = (session.kernel, session.wants, session.boot_time());
    let help = |look: &Mutex<Look<'_>>| {
        let look = look.lock().unwrap_or_else(PoisonError::into_inner);
        let helper = Session::of_helper(&look, kernel, wants, boot_time);
        work.take(&helper);
        helper.counts()
    };
    thread::scope(|scope| {
        // Without a thread there is less help.
        let start = |look| thread::Builder::new().spawn_scoped(scope, move || help(look)).ok();
        let helpers: Vec<_> = looks.iter().filter_map(start).collect();
        work.take(session);
        for helper in helpers {
            match helper.join() {
                Ok(counts) => session.add_counts(counts),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    for beside in looks {
        look.rejoin(&beside.into_inner().unwrap_or_else(PoisonError::into_inner));
    }
    let mut done = work.done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|done| done.number);
    session.put_problems(before.into_iter().chain(done.iter_mut().flat_map(|done| done.problems.drain(..))));
    let mut end = Ok(());
    let mut all = Vec::with_capacity(done.len());
    for Done { part: (rows, part_end), .. } in done {
        all.push(rows);
        end = end.and(part_end);
    }
    (all, end)
}
