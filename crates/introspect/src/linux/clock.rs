//! Whether a kernel runs, by its clock: ``struct timekeeper`` (kernel/time/timekeeping.c) moves for as long as anything does.
//!
//! A reset and a kexec leave the memory of the kernel that ran: its tables hold together in every way until somebody writes over
//! them, which with KASLR may be never. What no remains do is go on. So a clock that tells the host's time is of a kernel that
//! runs; of two kernels the one whose clock moves runs; and one that is looked at for long without moving is doubted
//! ([`Pulse`]). A doubt is never a verdict: a guest that idles or is paused stands still too, and a guest's wall clock may be wrong.

use super::kernel::Kernel;
use super::timekeeping;
use crate::Error;
use std::thread;
use std::time::{Duration, Instant};
use vmi_core::{AddressSpace, Budget, GuestMemory, Look};

/// How far a clock may be from where it should be. Kernels that idle do not move theirs: most wake more than once a second.
const OF_NOW: Duration = Duration::from_secs(2);
/// For how long the clocks of several kernels are watched, at most.
const WATCHED: Duration = Duration::from_millis(1500);
const BETWEEN: Duration = Duration::from_millis(5);
/// For how long they are watched after one has moved. What moves a forgery wakes a CPU, and a CPU that wakes moves the clock of
/// the kernel that runs.
const AFTERWARDS: Duration = Duration::from_millis(60);
/// For how long a kernel may stand still before it is doubted, and then again twice as long each time, up to the longest.
const DOUBTED: Duration = Duration::from_secs(3);
const DOUBTED_MAX: Duration = Duration::from_secs(60);

/// A clock as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// Seconds since 1970 by the guest's wall clock when it was last moved.
    seconds: i64,
    /// What the counter of the clock's source stood at then.
    cycles: Option<u64>,
}

impl Clock {
    /// `None`: this kernel keeps it otherwise, or it cannot be read.
    fn read(look: &Look<'_>, kernel: &Kernel) -> Option<Self> {
        let space = AddressSpace::new(look, kernel.root(), kernel.levels());
        let layout = &kernel.layouts().timekeeping;
        let word = |member| timekeeping::at(kernel, member).and_then(|at| space.u64(at).ok());
        let seconds = i64::try_from(word(layout.seconds)?).ok()?;
        Some(Self { seconds, cycles: word(layout.cycles) })
    }

    /// How many seconds it is ahead of the host's.
    fn ahead(self) -> i64 {
        self.seconds.saturating_sub(jiff::Timestamp::now().as_second())
    }

    /// Whether it tells the time of a clock that is `ahead` of the host's.
    fn tells(self, ahead: i64) -> bool {
        self.ahead().abs_diff(ahead) <= OF_NOW.as_secs()
    }
}

/// Whether a kernel's clock tells the host's time, so that it was running a moment ago. `false` says nothing.
pub(super) fn is_of_now(look: &Look<'_>, kernel: &Kernel) -> bool {
    Clock::read(look, kernel).is_some_and(|clock| clock.tells(0))
}

/// The one of several kernels whose clock moves. `Ok(None)`: none does, or more than one.
pub(super) fn the_one_that_runs<'k>(
    memory: &dyn GuestMemory,
    kernels: &'k [Kernel],
) -> Result<Option<&'k Kernel>, Error> {
    let clocks = || -> Result<Vec<Option<Clock>>, Error> {
        let look = Look::begin(memory, Budget::default())?;
        Ok(kernels.iter().map(|kernel| Clock::read(&look, kernel)).collect())
    };
    let began = clocks()?;
    let mut until = Instant::now().checked_add(WATCHED);
    let mut moved = vec![false; kernels.len()];
    while until.is_some_and(|until| Instant::now() < until) {
        thread::sleep(BETWEEN);
        let had_moved = moved.contains(&true);
        for ((moved, now), then) in moved.iter_mut().zip(clocks()?).zip(&began) {
            *moved |= now.is_some() && now != *then;
        }
        if !had_moved && moved.contains(&true) {
            until = Instant::now().checked_add(AFTERWARDS);
        }
    }
    let mut running = kernels.iter().zip(moved).filter_map(|(kernel, moved)| moved.then_some(kernel));
    Ok(running.next().filter(|_| running.next().is_none()))
}

/// What is remembered of a kernel between the looks of one program.
#[derive(Debug)]
pub struct Pulse {
    last: Option<Clock>,
    moved_at: Instant,
    doubted_after: Duration,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { last: None, moved_at: Instant::now(), doubted_after: DOUBTED }
    }
}

impl Pulse {
    /// Whether `memory` still holds this boot of `kernel`, as [`Kernel::is_current`] says it, and there is no cause to doubt
    /// that it runs. `Ok(false)`: whoever asks searches the kernel anew, and finds the same one if it only stood still. `Err`
    /// when the VM is gone.
    pub fn holds(&mut self, kernel: &Kernel, memory: &dyn GuestMemory) -> Result<bool, Error> {
        if !kernel.is_current(memory)? {
            return Ok(false);
        }
        let clock = Clock::read(&Look::begin(memory, Budget::default())?, kernel);
        Ok(!self.is_doubted(clock, Instant::now()))
    }

    fn is_doubted(&mut self, clock: Option<Clock>, now: Instant) -> bool {
        // A clock that cannot be read is one that does not move.
        if clock.is_some() && clock != self.last {
            *self = Self { last: clock, moved_at: now, doubted_after: DOUBTED };
            return false;
        }
        let doubted = now.saturating_duration_since(self.moved_at) >= self.doubted_after;
        if doubted {
            self.moved_at = now;
            self.doubted_after = self.doubted_after.saturating_mul(2).min(DOUBTED_MAX);
        }
        doubted
    }
}

/// How far a kernel's clock is ahead of the host's, in seconds. `Ok(None)`: it cannot be read.
pub(super) fn ahead(kernel: &Kernel, memory: &dyn GuestMemory) -> Result<Option<i64>, Error> {
    Ok(Clock::read(&Look::begin(memory, Budget::default())?, kernel).map(Clock::ahead))
}

/// Whether a kernel's clock is as far ahead of the host's as it was.
pub(super) fn is_still_ahead(
    kernel: &Kernel,
    memory: &dyn GuestMemory,
    ahead: Option<i64>,
) -> Result<bool, Error> {
    let clock = Clock::read(&Look::begin(memory, Budget::default())?, kernel);
    Ok(clock.zip(ahead).is_some_and(|(clock, ahead)| clock.tells(ahead)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<Clock> {
        Some(Clock { seconds, cycles: Some(1) })
    }

    #[test]
    fn a_kernel_that_stands_still_is_doubted_ever_more_rarely_and_one_that_moves_is_not() {
        let mut pulse = Pulse::default();
        let start = Instant::now();
        let doubts = |pulse: &mut Pulse, clock, from: u64, to: u64| -> Vec<u64> {
            (from..to).filter(|s| pulse.is_doubted(clock, start + Duration::from_secs(*s))).collect()
        };
        assert!((0..100).all(|s| !pulse.is_doubted(at(s), start + Duration::from_secs(s.unsigned_abs()))));
        assert_eq!(doubts(&mut pulse, at(99), 100, 340), [102, 108, 120, 144, 192, 252, 312]);
        assert_eq!(
            doubts(&mut pulse, at(400), 400, 410),
            [403, 409],
            "it moved, and the next doubt is soon again"
        );
    }

    #[test]
    fn a_clock_that_cannot_be_read_is_doubted() {
        let mut pulse = Pulse::default();
        let start = Instant::now();
        assert!((0..5).any(|s| pulse.is_doubted(None, start + Duration::from_secs(s))));
    }

    #[test]
    fn a_counter_that_moves_within_one_second_is_a_pulse() {
        let mut pulse = Pulse::default();
        let start = Instant::now();
        let ticks = |n: u64| Some(Clock { seconds: 7, cycles: Some(n) });
        assert!((0..20).all(|s| !pulse.is_doubted(ticks(s), start + Duration::from_secs(s))));
    }
}
