//! Who is looked at when: a queue ordered by time, and a few threads that take from it.
//!
//! A job is owned by the queue or by one thread, never by both, so no VM is looked at twice at once and a look needs no
//! lock. The number of threads is fixed; a VM that takes long delays others, but never stops them.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug)]
struct Due<T> {
    at: Instant,
    /// Order of arrival, so that none starves among those due at once.
    number: u64,
    job: T,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    /// The earliest is the greatest, for a heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

#[derive(Debug)]
struct State<T> {
    heap: BinaryHeap<Due<T>>,
    next: u64,
    closed: bool,
}

/// Jobs by time.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        let state = State { heap: BinaryHeap::new(), next: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job.
    pub(crate) fn push(&self, at: Instant, job: T) {
        let mut state = self.lock();
        let number = state.next;
        state.next = number.wrapping_add(1);
        state.heap.push(Due { at, number, job });
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for the next job to be due. `None` once the queue is closed.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            let due = state.heap.peek().map(|due| due.at);
            state = match due {
                Some(at) if at <= now => return state.heap.pop().map(|due| due.job),
                Some(at) => {
                    let wait = at.saturating_duration_since(now);
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Ends all waiting. Jobs that are not done are dropped with the queue.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_earliest_job_comes_first_and_equal_ones_in_order() {
        let queue = Queue::new();
        let now = Instant::now();
        queue.push(now, 'b');
        queue.push(now, 'c');
        queue.push(now.checked_sub(Duration::from_secs(1)).unwrap(), 'a');
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some('a'), Some('b'), Some('c')]);
    }

    #[test]
    fn a_job_is_not_given_before_its_time() {
        let queue = Queue::new();
        let at = Instant::now() + Duration::from_millis(30);
        queue.push(at, ());
        queue.pop().unwrap();
        assert!(Instant::now() >= at);
    }

    #[test]
    fn a_new_earlier_job_wakes_a_waiting_thread() {
        let queue = Queue::new();
        queue.push(Instant::now() + Duration::from_secs(600), "late");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.pop());
            queue.push(Instant::now(), "now");
            assert_eq!(waiting.join().unwrap(), Some("now"));
        });
    }

    #[test]
    fn closing_ends_the_waiting() {
        let queue = Queue::<()>::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.pop());
            queue.close();
            assert_eq!(waiting.join().unwrap(), None);
        });
    }
}
