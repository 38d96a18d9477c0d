//! Whether pages can have been taken out of a memory file since it was last asked.
//!
//! What exists in a file of tmpfs (a memfd is one) goes on existing until somebody takes it out: a balloon that punches a hole, or
//! whoever makes the file shorter. Both end with the file's time of change set to the time on the clock
//! (mm/shmem.c, `shmem_truncate_range` and `shmem_setattr`), so as long as that time is the same, and older than the clock was when it
//! was first seen, nothing was taken out. That clock is the coarse one, which is what the kernel stamps with: two changes in one tick of it
//! have the same time, which is why the time must be older.
//!
//! Swapping takes nothing out. Other file systems do not promise it: on hugetlbfs a hole leaves no trace, and of a file on a
//! disk the kernel drops what it can read again.

use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::time::{ClockId, clock_gettime};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

/// Seconds since 1970, and nanoseconds.
type Time = (i64, i64);

/// See the module.
#[derive(Debug)]
pub(crate) struct Removals {
    tells: bool,
    /// When the file was changed last, if that was known to be over when it was asked.
    last: Mutex<Option<Time>>,
}

impl Removals {
    /// Of `file`, which is not asked yet.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        Ok(Self { tells: fstatfs(file)?.filesystem_type() == TMPFS_MAGIC, last: Mutex::new(None) })
    }

    /// Asks `file`, which must be the one it was made of, and has `begin` begin a look, with whether nothing was taken out since the
    /// look before. No other look is begun meanwhile.
    pub(crate) fn ask(&self, file: &File, begin: impl FnOnce(bool)) -> io::Result<Metadata> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // The clock first: what is taken out after this has its time, or a later one.
        let clock = clock_gettime(ClockId::CLOCK_REALTIME_COARSE)?;
        let metadata = file.metadata()?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let over = self.tells && changed < (clock.tv_sec(), clock.tv_nsec());
        begin(over && *last == Some(changed));
        *last = over.then_some(changed);
        Ok(metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FallocateFlags, fallocate};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, Instant};

    const PAGE: i64 = 4096;

    fn kept(removals: &Removals, file: &File) -> bool {
        let mut kept = None;
        removals.ask(file, |answer| kept = Some(answer)).unwrap();
        kept.unwrap()
    }

    /// Asks until pages are known to be kept.
    fn settle(removals: &Removals, file: &File) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !kept(removals, file) {
            assert!(Instant::now() < deadline, "a file that nobody changes never counts as unchanged");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn memfd() -> File {
        let file = File::from(memfd_create("guest", MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all_at(&[1; 64 << 10], 0).unwrap();
        file
    }

    #[test]
    fn a_hole_and_a_shorter_file_are_told_whenever_they_come() {
        let file = memfd();
        let removals = Removals::new(&file).unwrap();
        assert!(!kept(&removals, &file), "nothing is known before the first question");
        let punch = |at| {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(&file, flags, at, PAGE).unwrap();
        };
        for wait in [0, 0, 1, 3, 9, 27] {
            settle(&removals, &file);
            assert!(kept(&removals, &file));
            std::thread::sleep(Duration::from_millis(wait));
            punch(0);
            assert!(!kept(&removals, &file), "a hole after {wait} ms");
            // Mostly in the same tick of the clock as the one before.
            punch(PAGE);
            assert!(!kept(&removals, &file), "a second hole after {wait} ms");
        }
        settle(&removals, &file);
        file.set_len(32 << 10).unwrap();
        assert!(!kept(&removals, &file));
    }

    #[test]
    fn a_file_that_is_not_in_tmpfs_tells_nothing() {
        let file = File::open("/proc/self/exe").unwrap();
        let removals = Removals::new(&file).unwrap();
        assert!(!kept(&removals, &file));
        assert!(!kept(&removals, &file));
    }
}
