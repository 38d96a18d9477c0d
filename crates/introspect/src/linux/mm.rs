//! What a process runs: ``struct mm_struct``, its executable and its argument vector.
//!
//! The executable (``mm->exe_file``) is the kernel's own record and is what identifies a program. The argument vector is
//! user memory: the process can rewrite it, and its pages can be missing. Missing is said, never read as empty.

use super::layout::Resolver;
use super::path::{self, FilePath};
use crate::session::{Session, member};
use facts::ProblemKind;
use vmi_core::{AddressSpace, Gpa, Gva, PAGE_SIZE, ReadError};

/// Longest argument vector that is read; Linux allows a quarter of the stack limit, 2 MiB by default.
const ARGUMENTS_MAX: u64 = 2 << 20;
/// What `/proc/PID/cmdline` reads for a process that rewrote its arguments (fs/proc/base.c, get_mm_proctitle()).
const TITLE_MAX: u64 = PAGE_SIZE;

/// Offsets in ``struct mm_struct``, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pgd: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    exe_file: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            pgd: resolver.offset("mm_struct", "pgd"),
            arg_start: resolver.offset("mm_struct", "arg_start"),
            arg_end: resolver.offset("mm_struct", "arg_end"),
            env_start: resolver.offset("mm_struct", "env_start"),
            env_end: resolver.offset("mm_struct", "env_end"),
            exe_file: resolver.offset("mm_struct", "exe_file"),
        }
    }
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

/// The argument vector as `/proc/PID/cmdline` gives it. `None`: not all of it could be read, with a problem.
pub(crate) fn arguments(session: &Session<'_>, mm: Gva, pid: u32) -> Result<Option<Vec<String>>, ReadError> {
    match session.known("mm_struct", mm, raw_arguments(session, mm))? {
        Some(Ok(bytes)) => Ok(Some(split(&bytes))),
        Some(Err(Partial { got, of })) => {
            session.problem(
                ProblemKind::Partial,
                format_args!("arguments of pid {pid}, mm_struct {mm}"),
                format_args!("Only {got} of {of} bytes could be read: a page is not resident."),
            );
            Ok(None)
        }
        None => Ok(None),
    }
}

struct Partial {
    got: u64,
    of: u64,
}

/// ``get_mm_cmdline()``, fs/proc/base.c (6.12).
fn raw_arguments(session: &Session<'_>, mm: Gva) -> Result<Result<Vec<u8>, Partial>, ReadError> {
    let layout = &session.kernel.layouts().mm;
    let value = |offset| session.space.u64(member(mm, offset)?);
    let (start, end) = (value(layout.arg_start)?, value(layout.arg_end)?);
    let (env_start, env_end) = (value(layout.env_start)?, value(layout.env_end)?);
    if end <= start {
        return Ok(Ok(Vec::new()));
    }
    let len = end - start;
    if len > ARGUMENTS_MAX {
        return Ok(Err(Partial { got: 0, of: len }));
    }
    let pgd = Gva(value(layout.pgd)?);
    let root = Gpa(session.space.translate(pgd)?.at.0);
    let user = AddressSpace::brief(session.space.look(), root, session.space.levels());

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
        match user.bytes(at, usize::try_from(step).unwrap_or(0)) {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) if error.ends_the_look() => return Err(error),
            Err(_) => return Ok(Err(Partial { got: bytes.len() as u64, of: len })),
        }
        rest -= step;
        at = member(at, step)?;
    }
    Ok(Ok(bytes))
}

fn split(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}
