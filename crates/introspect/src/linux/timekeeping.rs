//! The guest's wall clock: ``struct timekeeper`` (kernel/time/timekeeping.c).
//!
//! It keeps how far the clock that people read and the clock that counts from boot are ahead of the monotonic one; the
//! difference of the two is the moment of boot. Only setting the clock changes it.

use super::kernel::Kernel;
use super::layout::Resolver;
use crate::session::Session;
use facts::ProblemKind;
use vmi_core::{Gva, ReadError};

/// How often the two numbers are read for the same answer twice.
const TRIES: usize = 4;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Of the ``struct timekeeper`` in the kernel's variable.
    timekeeper: Option<u64>,
    real: Option<u64>,
    boot: Option<u64>,
    /// Seconds of the wall clock, at the last tick.
    pub(super) seconds: Option<u64>,
    /// The counter that the clock is kept by, at the last tick.
    pub(super) cycles: Option<u64>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Self {
        // ``struct tk_data`` since 6.13; before that a nameless struct of a sequence counter, which is longer with
        // `PREEMPT_RT`, and the timekeeper, aligned to 8 bytes.
        let counter = resolver.profile().size("seqcount_raw_spinlock").ok();
        let timekeeper = resolver
            .optional("tk_data", "timekeeper")
            .or_else(|| counter.and_then(|size| size.checked_next_multiple_of(8)));
        Self {
            timekeeper,
            real: resolver.optional("timekeeper", "offs_real"),
            boot: resolver.optional("timekeeper", "offs_boot"),
            seconds: resolver.optional("timekeeper", "xtime_sec"),
            cycles: resolver.optional("timekeeper", "tkr_mono.cycle_last"),
        }
    }
}

/// Where a member of the system's timekeeper is. `None`: this kernel keeps it otherwise.
pub(super) fn at(kernel: &Kernel, member: Option<u64>) -> Option<Gva> {
    // An array of them since 6.17, whose first is the system's.
    let data = kernel.symbol("tk_core").or_else(|| kernel.symbol("timekeeper_data"))?;
    data.checked_add(kernel.layouts().timekeeping.timekeeper?)?.checked_add(member?)
}

/// When the guest booted by its wall clock, in nanoseconds since 1970. `None`: this kernel keeps it otherwise, or it cannot be
/// read.
pub(crate) fn boot_time(session: &Session<'_>) -> Result<Option<i64>, ReadError> {
    let layout = &session.kernel.layouts().timekeeping;
    let (Some(real), Some(boot)) = (at(session.kernel, layout.real), at(session.kernel, layout.boot)) else {
        return Ok(None);
    };
    let read =
        || -> Result<(u64, u64), ReadError> { Ok((session.space.u64(real)?, session.space.u64(boot)?)) };
    let mut last = None;
    for _ in 0..TRIES {
        let Some(now) = session.known("timekeeper", real, read())? else { return Ok(None) };
        if last == Some(now) {
            return Ok(plausible(session, real, now));
        }
        last = Some(now);
        session.space.look().forget_pages();
    }
    Ok(None)
}

fn plausible(session: &Session<'_>, data: Gva, (real, boot): (u64, u64)) -> Option<i64> {
    let time = real.cast_signed().checked_sub(boot.cast_signed()).filter(|time| *time >= 0);
    if time.is_none() {
        session.problem(
            ProblemKind::Implausible,
            format_args!("timekeeper {data}"),
            format_args!("Its clocks are {real:#x} and {boot:#x} ns ahead."),
        );
    }
    time
}

/// A moment of the boot clock as RFC 3339 by the wall clock. `None`: not known, or out of all bounds.
pub(crate) fn wall_clock(boot_time: Option<i64>, since_boot_ns: u64) -> Option<String> {
    let at = i128::from(boot_time?).checked_add(i128::from(since_boot_ns))?;
    jiff::Timestamp::from_nanosecond(at).ok().map(|at| at.to_string())
}
