//! What a process runs: ``struct mm_struct``, its executable, its argument vector, its environment, and how much memory it has.
//!
//! The executable (``mm->exe_file``) is the kernel's own record and is what identifies a program. Arguments and environment
//! are user memory: the process can rewrite them, and their pages can be missing. Missing is said, never read as empty.
//! The environment is where programs are told their passwords, so it is read only when somebody asks for it, and its values
//! are let go right here unless they were asked for too.

use super::layout::Resolver;
use super::path::{self, FilePath};
use super::record::{Members, Record};
use crate::session::Environment;
use crate::session::{Session, member};
use facts::{EnvironmentVariable, ProblemKind, Process};
use guest_profiles::{FieldKind, Profile};
use vmi_core::{AddressSpace, Approach, Gpa, Gva, PAGE_SIZE, ReadError};

/// Longest argument vector that is read; Linux allows a quarter of the stack limit, 2 MiB by default.
const ARGUMENTS_MAX: u64 = 2 << 20;
/// ``MM_FILEPAGES``, ``MM_ANONPAGES``, ``MM_SHMEMPAGES``, include/linux/mm_types_task.h (since 4.5).
const COUNTERS: [u64; 3] = [0, 1, 3];
/// What `/proc/PID/cmdline` reads for a process that rewrote its arguments (fs/proc/base.c, get_mm_proctitle()).
const TITLE_MAX: u64 = PAGE_SIZE;
/// Most strings of one vector. A process can fill its 2 MiB with nothing but their ends, each of which would take 24 bytes here; that many
/// arguments of two bytes no program has.
const STRINGS_MAX: usize = 128 << 10;
/// What a string takes besides its characters.
const STRING: u64 = size_of::<String>() as u64;

/// Offsets in ``struct mm_struct``, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pgd: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    exe_file: u64,
    /// The bounds of the arguments and the environment.
    bounds: Members,
    /// These and all else that is read of it.
    all: Members,
    resident: Option<Resident>,
}

/// Where the counters of resident pages are: ``rss_stat[NR_MM_COUNTERS]``.
#[derive(Clone, Copy, Debug)]
struct Resident {
    /// Of the first counter.
    first: u64,
    /// Bytes from one to the next.
    stride: u64,
}

impl Resident {
    /// Counters that each have a part on every CPU (since 6.2), or plain ones in a record of their own.
    fn resolve(profile: &Profile) -> Option<Self> {
        let counters = profile.field("mm_struct", "rss_stat").ok()?;
        match &counters.kind {
            FieldKind::Array { stride, .. } => {
                let count = profile.field("percpu_counter", "count").ok()?.offset;
                Some(Self { first: counters.offset.checked_add(count)?, stride: *stride })
            }
            _ => {
                let plain = profile.field("mm_struct", "rss_stat.count").ok()?;
                Some(Self { first: plain.offset, stride: 8 })
            }
        }
    }
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let [arg_start, arg_end, env_start, env_end] =
            ["arg_start", "arg_end", "env_start", "env_end"].map(|name| resolver.offset("mm_struct", name));
        let pgd = resolver.offset("mm_struct", "pgd");
        let exe_file = resolver.offset("mm_struct", "exe_file");
        let resident = Resident::resolve(resolver.profile());
        let bounds = [arg_start, arg_end, env_start, env_end];
        let counters = resident.into_iter().flat_map(|Resident { first, stride }| {
            COUNTERS.map(|counter| first.saturating_add(counter.saturating_mul(stride)))
        });
        Self {
            pgd,
            arg_start,
            arg_end,
            env_start,
            env_end,
            bounds: Members::at(bounds),
            all: Members::at(bounds.into_iter().chain([pgd, exe_file]).chain(counters)),
            exe_file,
            resident,
        }
    }
}

/// Has fetched what is read of the ``struct mm_struct *`` at `mm`.
pub(super) fn expect(session: &Session<'_>, mm: Gva) {
    session.kernel.layouts().mm.all.expect(session, mm);
}

/// The same of what it points at, once [`expect`] had time: the executable, and the first step on the way to the arguments.
pub(super) fn expect_memory(session: &Session<'_>, mm: Gva) -> Option<Approach> {
    let layout = &session.kernel.layouts().mm;
    if let Some(file) = session.glimpse(mm, layout.exe_file) {
        path::expect_file(session, file);
    }
    let arguments = session.glimpse(mm, layout.arg_start)?;
    let root = session.space.translate(session.glimpse(mm, layout.pgd)?).ok()?.at;
    Approach::begin(session.space.look(), root, session.space.levels(), arguments)
}

/// The executable of the ``struct mm_struct *`` at `mm`. `None`: it could not be read, with a problem.
pub(crate) fn executable(session: &Session<'_>, mm: Gva) -> Result<Option<FilePath>, ReadError> {
    let layout = &session.kernel.layouts().mm;
    let file = member(mm, layout.exe_file).and_then(|at| session.space.pointer(at));
    match session.known("mm_struct", mm, file)? {
        Some(file) if !file.is_null() => path::of_file(session, file),
        Some(_) => {
            session.problem(
                ProblemKind::Implausible,
                format_args!("mm_struct {mm}"),
                "It has no executable.",
            );
            Ok(None)
        }
        None => Ok(None),
    }
}

/// Fills in the argument vector as `/proc/PID/cmdline` gives it, or what there is of it, with a problem.
pub(crate) fn fill_arguments(session: &Session<'_>, mm: Gva, process: &mut Process) -> Result<(), ReadError> {
    match session.known("mm_struct", mm, raw_arguments(session, mm))? {
        Some(Ok(bytes)) => {
            let strings = split(session, &bytes)?;
            if strings.are_all(session, "arguments", mm, process.pid) {
                process.args = Some(strings.got);
            } else {
                process.args_partial = Some(strings.got);
            }
        }
        Some(Err(partial)) => {
            partial.tell(session, "arguments", mm, process.pid);
            process.args_partial = Some(split(session, &partial.got)?.got);
        }
        None => {}
    }
    Ok(())
}

/// The environment as `/proc/PID/environ` gives it, its values only if they are `wanted`. `None`: it was not asked for, or not
/// all of it could be read, with a problem.
pub(crate) fn environment(
    session: &Session<'_>,
    mm: Gva,
    pid: u32,
    wanted: Environment,
) -> Result<Option<Vec<EnvironmentVariable>>, ReadError> {
    if wanted == Environment::No {
        return Ok(None);
    }
    match session.known("mm_struct", mm, raw_environment(session, mm))? {
        Some(Ok(bytes)) => {
            let strings = split(session, &bytes)?;
            let all = strings.are_all(session, "environment", mm, pid);
            Ok(all.then(|| variables(strings.got, wanted)))
        }
        Some(Err(partial)) => {
            partial.tell(session, "environment", mm, pid);
            Ok(None)
        }
        None => Ok(None),
    }
}

fn variables(strings: Vec<String>, wanted: Environment) -> Vec<EnvironmentVariable> {
    let variable = |entry: String| {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) if !name.is_empty() => (name, value),
            _ => ("", entry.as_str()),
        };
        let value = (wanted == Environment::Values).then(|| value.to_owned());
        EnvironmentVariable { name: name.to_owned(), value }
    };
    strings.into_iter().map(variable).collect()
}

/// Resident memory in bytes: pages of files, without one, and of shared memory (``get_mm_rss()``, include/linux/mm.h). Each
/// counter can be below zero for a moment and then counts as none. `None`: this kernel counts otherwise, or it cannot be read.
pub(crate) fn resident_bytes(session: &Session<'_>, mm: Gva) -> Result<Option<u64>, ReadError> {
    let Some(Resident { first, stride }) = session.kernel.layouts().mm.resident else { return Ok(None) };
    let read = || {
        let base = member(mm, first)?;
        let mut pages: u64 = 0;
        for counter in COUNTERS {
            let at =
                base.element(counter, stride).ok_or(ReadError::NotAnAddress { at: base, len: stride })?;
            pages = pages.saturating_add(u64::try_from(session.space.u64(at)?.cast_signed()).unwrap_or(0));
        }
        Ok(pages.saturating_mul(PAGE_SIZE))
    };
    session.known("mm_struct", mm, read())
}

/// User memory of which a page is not resident.
struct Partial {
    /// What was before that page.
    got: Vec<u8>,
    /// Bytes that it should be.
    of: u64,
}

impl Partial {
    fn tell(&self, session: &Session<'_>, what: &str, mm: Gva, pid: u32) {
        session.problem(
            ProblemKind::Partial,
            format_args!("{what} of pid {pid}, mm_struct {mm}"),
            format_args!(
                "Only {} of {} bytes could be read: a page is not resident.",
                self.got.len(),
                self.of
            ),
        );
    }
}

/// The process's own address space.
fn user_space<'l, 'm>(session: &Session<'m>, mm: Gva) -> Result<AddressSpace<'l, 'm>, ReadError>
where
    'm: 'l,
{
    let pgd = session.space.pointer(member(mm, session.kernel.layouts().mm.pgd)?)?;
    let root = Gpa(session.space.translate(pgd)?.at.0);
    Ok(AddressSpace::brief(session.space.look(), root, session.space.levels()))
}

/// ``environ_read()``, fs/proc/base.c (6.12).
fn raw_environment(session: &Session<'_>, mm: Gva) -> Result<Result<Vec<u8>, Partial>, ReadError> {
    let layout = &session.kernel.layouts().mm;
    let value = |offset| session.space.u64(member(mm, offset)?);
    let (start, end) = (value(layout.env_start)?, value(layout.env_end)?);
    match end.checked_sub(start) {
        None | Some(0) => Ok(Ok(Vec::new())),
        Some(len) if len > ARGUMENTS_MAX => Ok(Err(Partial { got: Vec::new(), of: len })),
        Some(len) => resident(&user_space(session, mm)?, Gva(start), len),
    }
}

/// ``get_mm_cmdline()``, fs/proc/base.c (6.12).
fn raw_arguments(session: &Session<'_>, mm: Gva) -> Result<Result<Vec<u8>, Partial>, ReadError> {
    let layout = &session.kernel.layouts().mm;
    let mut record = Record::of(mm, &layout.bounds);
    record.read(session)?;
    let (start, end) = (record.u64(layout.arg_start)?, record.u64(layout.arg_end)?);
    let (env_start, env_end) = (record.u64(layout.env_start)?, record.u64(layout.env_end)?);
    if end <= start {
        return Ok(Ok(Vec::new()));
    }
    let len = end - start;
    if len > ARGUMENTS_MAX {
        return Ok(Err(Partial { got: Vec::new(), of: len }));
    }
    let user = user_space(session, mm)?;

    let bytes = match resident(&user, Gva(start), len)? {
        Ok(bytes) => bytes,
        Err(partial) => return Ok(Err(partial)),
    };
    if bytes.last().is_none_or(|last| *last == 0) {
        return Ok(Ok(bytes));
    }
    // The last NUL was overwritten: setproctitle() let the title run on into the environment.
    let limit = if env_start == end && env_end >= env_start { env_end } else { end };
    let title_len = (limit - start).min(TITLE_MAX);
    Ok(resident(&user, Gva(start), title_len)?
        .map(|title| title.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()))
}

/// `len` bytes of user memory, or how far they could be read.
fn resident(
    user: &AddressSpace<'_, '_>,
    start: Gva,
    len: u64,
) -> Result<Result<Vec<u8>, Partial>, ReadError> {
    let mut bytes = Vec::new();
    let mut at = start;
    let mut rest = len;
    while rest > 0 {
        let step = rest.min(PAGE_SIZE - at.page_offset());
        let got = bytes.len();
        bytes.resize(got.saturating_add(usize::try_from(step).unwrap_or(0)), 0);
        match user.read(at, bytes.get_mut(got..).unwrap_or_default()) {
            Ok(()) => {}
            Err(error) if error.ends_the_look() => return Err(error),
            Err(_) => {
                bytes.truncate(got);
                return Ok(Err(Partial { got: bytes, of: len }));
            }
        }
        rest -= step;
        at = member(at, step)?;
    }
    Ok(Ok(bytes))
}

/// The strings of a vector, and how many more there are than are read.
#[derive(Debug, PartialEq, Eq)]
struct Strings {
    got: Vec<String>,
    more: usize,
}

impl Strings {
    /// Whether these are all; else that is told as a problem.
    fn are_all(&self, session: &Session<'_>, what: &str, mm: Gva, pid: u32) -> bool {
        if self.more > 0 {
            session.problem(
                ProblemKind::Partial,
                format_args!("{what} of pid {pid}, mm_struct {mm}"),
                format_args!(
                    "Only {STRINGS_MAX} strings were read of {}.",
                    STRINGS_MAX.saturating_add(self.more)
                ),
            );
        }
        self.more == 0
    }
}

/// What is kept of the bytes of a vector is counted.
fn split(session: &Session<'_>, bytes: &[u8]) -> Result<Strings, ReadError> {
    let strings = strings(bytes);
    let kept = strings.got.iter().map(|string| STRING.saturating_add(string.len() as u64));
    session.space.look().keep(kept.fold(0, u64::saturating_add))?;
    Ok(strings)
}

fn strings(bytes: &[u8]) -> Strings {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Strings { got: Vec::new(), more: 0 };
    }
    let count = bytes.iter().filter(|byte| **byte == 0).count().saturating_add(1);
    let mut got = Vec::with_capacity(count.min(STRINGS_MAX));
    let parts = bytes.split(|byte| *byte == 0).take(STRINGS_MAX);
    got.extend(parts.map(|part| match str::from_utf8(part) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(part).into_owned(),
    }));
    Strings { got, more: count.saturating_sub(STRINGS_MAX) }
}

#[cfg(test)]
mod tests {
    use super::{STRINGS_MAX, Strings, strings};

    #[test]
    fn a_vector_of_nothing_but_ends_is_cut_and_says_so() {
        let Strings { got, more } = strings(&vec![0; 2 << 20]);
        assert_eq!((got.len(), more), (STRINGS_MAX, (2 << 20) - STRINGS_MAX));
        let most = "a\0".repeat(STRINGS_MAX);
        let Strings { got, more } = strings(most.as_bytes());
        assert_eq!((got.len(), more), (STRINGS_MAX, 0));
    }

    #[test]
    fn a_vector_ends_with_its_last_end() {
        let of = |bytes: &[u8]| strings(bytes).got;
        assert_eq!(of(b"a\0b c\0"), ["a", "b c"]);
        assert_eq!(of(b"a\0\0"), ["a", ""]);
        assert_eq!((of(b""), of(b"\0")), (Vec::new(), Vec::new()));
        assert_eq!(of(b"\xff"), ["\u{fffd}"]);
    }
}
