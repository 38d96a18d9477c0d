//! Open files: ``struct files_struct`` → ``struct fdtable`` → ``struct file``, as far as they are sockets or lead to some, or are
//! what keeps an eBPF program.

use super::layout::Resolver;
use super::record::Members;
use super::sock;
use crate::apart::{Part, apart};
use crate::session::{Session, Step, member};
use facts::ProblemKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use vmi_core::{Gva, ReadError};

/// Most descriptors of one process. ``sysctl_nr_open`` allows 2^20 by default; a table that claims more is not believed.
const DESCRIPTORS_MAX: u32 = 1 << 26;
/// Bytes of a ``struct files_struct`` in which what is asked of it, and mostly its ``struct fdtable``, lie.
const TABLE: u64 = 128;
/// Most open descriptors that are followed, over all processes of a look.
const OPEN_MAX: usize = 16 << 20;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    fdt: u64,
    max_fds: u64,
    fd: u64,
    open_fds: u64,
    operations: u64,
    private: u64,
    pub(super) socket_sk: u64,
    socket_file: u64,
    sk_socket: u64,
    references: References,
    /// What says what a ``struct file`` is, and what says whose it is.
    kind: Members,
    held: Members,
    /// What is read of a ``struct fdtable``.
    of_table: Members,
}

/// How a ``struct file`` counts who holds it.
#[derive(Clone, Copy, Debug)]
enum References {
    /// ``f_count``, the number of references.
    Count(u64),
    /// ``f_ref`` (6.13): one less than the number, and below zero when there is none (include/linux/file_ref.h).
    Biased(u64),
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let references = match resolver.optional("file", "f_ref") {
            Some(offset) => References::Biased(offset),
            None => References::Count(resolver.offset("file", "f_count")),
        };
        let (References::Count(count) | References::Biased(count)) = references;
        let [operations, private] = ["f_op", "private_data"].map(|name| resolver.offset("file", name));
        let [max_fds, fd, open_fds] =
            ["max_fds", "fd", "open_fds"].map(|name| resolver.offset("fdtable", name));
        let [socket_sk, socket_file] = ["sk", "file"].map(|name| resolver.offset("socket", name));
        Self {
            kind: Members::at([operations, private]),
            held: Members::at([count, private]),
            of_table: Members::at([max_fds, fd, open_fds]),
            fdt: resolver.offset("files_struct", "fdt"),
            max_fds,
            fd,
            open_fds,
            operations,
            private,
            socket_sk,
            socket_file,
            sk_socket: resolver.offset("sock", "sk_socket"),
            references,
        }
    }
}

/// What a ``struct file`` is to a search for sockets or eBPF programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    /// A socket.
    Sock(SocketLead),
    /// An io_uring: its ``struct io_ring_ctx``, which may hold further files.
    Ring(Gva),
    /// An eBPF program: its ``struct bpf_prog``.
    Program(Gva),
    /// A link to one: its ``struct bpf_link``.
    Link(Gva),
    /// A ``struct perf_event``, which may have one.
    PerfEvent(Gva),
    /// Nothing.
    None,
}

/// A socket that a file leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketLead {
    pub(super) sk: Gva,
    /// No other socket has had it in the same memory before.
    pub(super) inode: Option<u64>,
    /// Whether it says itself that this is its file. One that is being made in the memory of another does not, or not yet.
    pub(super) agrees: bool,
}

/// An open descriptor that leads somewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    /// ``struct files_struct *``.
    pub(super) table: Gva,
    /// Where in the table it is, and the ``struct file *`` that was there.
    at: Gva,
    pub(super) number: u32,
    pub(super) file: Gva,
    pub(super) lead: Lead,
}

/// Bytes of a table's array of descriptors that are read again at once.
const AGAIN: usize = 512;

/// Drops the descriptors that lead there no more. A file that is closed is soon another one's: what was found at its address is of
/// this descriptor only if the file was there after it as well as before.
fn keep_open(session: &Session<'_>, descriptors: &mut Vec<Descriptor>) -> Result<(), ReadError> {
    let mut open = Vec::with_capacity(descriptors.len());
    for run in descriptors.chunk_by(|one, next| one.at.0 / AGAIN as u64 == next.at.0 / AGAIN as u64) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let offset = |of: &Descriptor| usize::try_from(of.at.0.saturating_sub(first.at.0)).unwrap_or(0);
        let mut bytes = [0; AGAIN];
        let bytes = bytes.get_mut(..offset(last).saturating_add(8)).unwrap_or_default();
        let read = session.known("fdtable", first.at, session.space.read_again(first.at, bytes))?;
        open.extend(run.iter().map(|of| {
            let now = bytes.get(offset(of)..).and_then(|bytes| bytes.first_chunk::<8>());
            read.is_some() && now.is_some_and(|now| u64::from_le_bytes(*now) == of.file.0)
        }));
    }
    let mut open = open.into_iter();
    descriptors.retain(|_| open.next().unwrap_or(false));
    Ok(())
}

/// A kind of file by the symbol of its operations, and what its private data is.
type FileKind = (&'static str, fn(Gva) -> Lead);

/// The same by the address of its operations. `None`: this kernel has no such files.
type KnownKind = (Option<Gva>, fn(Gva) -> Lead);

const KINDS: [FileKind; 5] = [
    ("io_uring_fops", Lead::Ring),
    ("bpf_prog_fops", Lead::Program),
    ("bpf_link_fops", Lead::Link),
    // Of links that can be polled, since 6.11.
    ("bpf_link_fops_poll", Lead::Link),
    ("perf_fops", Lead::PerfEvent),
];

/// Whether anybody has a reference to the ``struct file`` at `file`.
pub(super) fn is_referenced(session: &Session<'_>, file: Gva) -> Result<bool, ReadError> {
    let read = |offset| Ok::<_, ReadError>(session.space.u64(member(file, offset)?)?.cast_signed());
    Ok(match session.kernel.layouts().file.references {
        References::Count(offset) => read(offset)? > 0,
        References::Biased(offset) => read(offset)? >= 0,
    })
}

/// Has fetched what [`is_referenced`] and [`socket_of`] read of the ``struct file *`` at `file`.
pub(super) fn expect_references(session: &Session<'_>, file: Gva) {
    session.kernel.layouts().file.held.expect(session, file);
}

/// What the ``struct file`` at `file` stands for, as its operations know it.
pub(super) fn private(session: &Session<'_>, file: Gva) -> Result<Gva, ReadError> {
    session.space.pointer(member(file, session.kernel.layouts().file.private)?)
}

/// ``struct socket *`` that the ``struct file`` at `file` is of, and its ``struct sock *``.
pub(super) fn socket_of(session: &Session<'_>, file: Gva) -> Result<(Gva, Gva), ReadError> {
    let layout = &session.kernel.layouts().file;
    let socket = session.space.pointer(member(file, layout.private)?)?;
    Ok((socket, session.space.pointer(member(socket, layout.socket_sk)?)?))
}

/// Finds what is behind files, for several threads at once.
#[derive(Debug)]
pub(super) struct Files {
    /// Operations of sockets. `None`: this kernel's symbols do not say.
    of_sockets: Option<Gva>,
    kinds: [KnownKind; KINDS.len()],
    /// Open descriptors that were met so far.
    open: AtomicUsize,
}

impl Files {
    pub(super) fn new(session: &Session<'_>) -> Self {
        Self {
            of_sockets: session.kernel.symbol("socket_file_ops"),
            kinds: KINDS.map(|(name, lead)| (session.kernel.symbol(name), lead)),
            open: AtomicUsize::new(0),
        }
    }

    /// The descriptors in each ``struct files_struct *`` of `tables` that lead somewhere, ascending, table by table.
    pub(super) fn of_tables(&self, session: &Session<'_>, tables: &[Gva]) -> Part<Vec<Descriptor>> {
        let mut found = Vec::new();
        let (parts, end) = apart(session, tables, |session, tables| {
            let mut descriptors = Vec::new();
            let end = self.read_tables(session, tables, &mut descriptors);
            (descriptors, end)
        });
        found.reserve(parts.iter().map(Vec::len).sum());
        parts.into_iter().for_each(|mut part| found.append(&mut part));
        (found, end)
    }

    /// First the files of all tables, then what is behind them: few tables have many.
    fn read_tables(
        &self,
        session: &Session<'_>,
        tables: &[Gva],
        descriptors: &mut Vec<Descriptor>,
    ) -> Result<(), ReadError> {
        // About as many as usual processes have.
        let mut open = Vec::with_capacity(tables.len().saturating_mul(16).min(OPEN_USUAL));
        session.each(tables, &AHEAD_OF_TABLES, |table| {
            let read = self.read_table(session, table, &mut open);
            session.known("files_struct", table, read)
        })?;
        let (files, behind) = each_once(&open);
        let leads = session.each(&files, &AHEAD_OF_FILES, |file| self.lead(session, file))?;
        descriptors.reserve(open.len());
        for (Open { table, at, number, file }, index) in open.into_iter().zip(behind) {
            if let Some(lead) = leads.get(index).copied().filter(|lead| *lead != Lead::None) {
                descriptors.push(Descriptor { table, at, number, file, lead });
            }
        }
        keep_open(session, descriptors)
    }

    /// Adds the open descriptors of the ``struct files_struct *`` at `files`.
    fn read_table(&self, session: &Session<'_>, files: Gva, open: &mut Vec<Open>) -> Result<(), ReadError> {
        let layout = &session.kernel.layouts().file;
        let space = &session.space;
        let fdt = space.pointer(member(files, layout.fdt)?)?;
        let max_fds = space.u32(member(fdt, layout.max_fds)?)?;
        if max_fds > DESCRIPTORS_MAX {
            session.problem(
                ProblemKind::Implausible,
                format_args!("fdtable {fdt}"),
                format_args!("It claims {max_fds} descriptors."),
            );
            return Ok(());
        }
        let fd = space.pointer(member(fdt, layout.fd)?)?;
        let open_fds = space.pointer(member(fdt, layout.open_fds)?)?;
        for word in 0..u64::from(max_fds.div_ceil(64)) {
            let at = open_fds.element(word, 8).ok_or(ReadError::NotAnAddress { at: open_fds, len: 8 })?;
            let mut bits = space.u64(at)?;
            if bits == 0 {
                continue;
            }
            let count = bits.count_ones() as usize;
            if self.open.fetch_add(count, Ordering::Relaxed) > OPEN_MAX {
                session.problem(
                    ProblemKind::Budget,
                    format_args!("files_struct {files}"),
                    format_args!("More than {OPEN_MAX} open descriptors in the guest."),
                );
                return Ok(());
            }
            // From the first that is open to the last, in one read.
            let first = bits.trailing_zeros();
            let count = u64::BITS.saturating_sub(bits.leading_zeros()).saturating_sub(first);
            let number = word.saturating_mul(64).saturating_add(u64::from(first));
            let at = fd.element(number, 8).ok_or(ReadError::NotAnAddress { at: fd, len: 8 })?;
            let mut bytes = [0; 64 * 8];
            let bytes = bytes.get_mut(..count as usize * 8).unwrap_or_default();
            space.read(at, bytes)?;
            bits >>= first;
            for (index, file) in bytes.as_chunks::<8>().0.iter().enumerate() {
                let file = Gva(u64::from_le_bytes(*file));
                // A descriptor that is reserved and not yet installed has its bit set and no file.
                if bits & 1 == 1
                    && !file.is_null()
                    && let Some(at) = at.element(index as u64, 8)
                {
                    let number = number.saturating_add(index as u64);
                    let number = u32::try_from(number).unwrap_or(u32::MAX);
                    open.push(Open { table: files, at, number, file });
                }
                bits >>= 1;
            }
        }
        Ok(())
    }

    /// What the ``struct file`` at `file` is.
    pub(super) fn lead(&self, session: &Session<'_>, file: Gva) -> Result<Lead, ReadError> {
        Ok(session.known("file", file, self.read_lead(session, file))?.unwrap_or(Lead::None))
    }

    fn read_lead(&self, session: &Session<'_>, file: Gva) -> Result<Lead, ReadError> {
        let layout = &session.kernel.layouts().file;
        let operations = Some(session.space.pointer(member(file, layout.operations)?)?);
        let held = session.space.pointer(member(file, layout.private)?)?;
        let sk = match self.of_sockets {
            Some(of_sockets) if operations == Some(of_sockets) => {
                Some(session.space.pointer(member(held, layout.socket_sk)?)?)
            }
            Some(_) => None,
            None => sock_by_its_links(session, file)?,
        };
        if let Some(sk) = sk {
            if sk.is_null() {
                return Ok(Lead::None);
            }
            // In this order, and its number again: what is between is of the one that has it.
            let inode = sock::inode(session, held)?;
            let own = session.space.pointer(member(held, layout.socket_file)?)?;
            let agrees = own == file && sock::inode(session, held)? == inode;
            return Ok(Lead::Sock(SocketLead { sk, inode, agrees }));
        }
        for (of_kind, lead) in self.kinds {
            if of_kind.is_some() && operations == of_kind {
                return Ok(lead(held));
            }
        }
        Ok(Lead::None)
    }
}

/// An open descriptor.
#[derive(Clone, Copy)]
struct Open {
    /// ``struct files_struct *``.
    table: Gva,
    /// Where in the table it is, and the ``struct file *`` there.
    at: Gva,
    number: u32,
    file: Gva,
}

/// Most descriptors that room is made for before they are found.
const OPEN_USUAL: usize = 1 << 16;
/// Files that are kept in mind to be known again, a power of two.
const KNOWN_AGAIN: usize = 256;

/// The files of descriptors, and where among them that of each descriptor is. Many descriptors have a file in common, as those that are
/// inherited, and mostly then it is here once: it is looked for among a few of those before, so that this costs next to nothing.
fn each_once(open: &[Open]) -> (Vec<Gva>, Vec<usize>) {
    let (mut files, mut behind): (Vec<Gva>, _) = (Vec::new(), Vec::with_capacity(open.len()));
    let mut before = [(Gva(0), 0); KNOWN_AGAIN];
    for Open { file, .. } in open {
        // Files are objects of 192 bytes and more.
        let slot = usize::try_from((file.0 / 64) ^ (file.0 / 4096)).unwrap_or(0) % KNOWN_AGAIN;
        let Some(known) = before.get_mut(slot) else { continue };
        if known.0 != *file {
            *known = (*file, files.len());
            files.push(*file);
        }
        behind.push(known.1);
    }
    (files, behind)
}

/// What goes ahead of [`Files::read_table`].
const AHEAD_OF_TABLES: [Step<Gva>; 3] = [
    |session, files, ()| session.expect(files, 0, TABLE),
    |session, files, ()| {
        let layout = &session.kernel.layouts().file;
        if let Some(fdt) = session.glimpse(files, layout.fdt) {
            layout.of_table.expect(session, fdt);
        }
    },
    |session, files, ()| {
        let layout = &session.kernel.layouts().file;
        if let Some(fdt) = session.glimpse(files, layout.fdt) {
            for array in
                [layout.open_fds, layout.fd].into_iter().filter_map(|array| session.glimpse(fdt, array))
            {
                session.expect(array, 0, 8);
            }
        }
    },
];

/// What goes ahead of [`Files::lead`].
const AHEAD_OF_FILES: [Step<Gva>; 2] = [
    |session, file, ()| {
        session.kernel.layouts().file.kind.expect(session, file);
    },
    |session, file, ()| {
        let layout = &session.kernel.layouts().file;
        if let Some(socket) = session.glimpse(file, layout.private) {
            session.kernel.layouts().net.sock.of_held_socket.expect(session, socket);
        }
    },
];

/// The sock of a file of a kernel whose symbols do not say which operations sockets have (no ``CONFIG_KALLSYMS_ALL``): a file
/// is a socket's when what it holds points back at it, and so does the sock.
fn sock_by_its_links(session: &Session<'_>, file: Gva) -> Result<Option<Gva>, ReadError> {
    let layout = &session.kernel.layouts().file;
    let pointer = |at: Gva, offset: u64| session.space.pointer(member(at, offset)?);
    let socket = pointer(file, layout.private)?;
    let linked = || -> Result<Option<Gva>, ReadError> {
        let sk = pointer(socket, layout.socket_sk)?;
        let links_back =
            pointer(socket, layout.socket_file)? == file && pointer(sk, layout.sk_socket)? == socket;
        Ok(links_back.then_some(sk))
    };
    match linked() {
        // What other files hold need not be a pointer at all.
        Err(error) if !error.ends_the_look() => Ok(None),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::{Open, each_once};
    use vmi_core::Gva;

    #[test]
    fn each_descriptor_is_told_its_own_file_and_one_that_many_share_is_there_once() {
        let shared = [0xffff_8880_0123_4000, 0xffff_8880_0123_40c0];
        let own = |number: u32| 0xffff_8880_0200_0000 + u64::from(number) * 0x40;
        let numbers = 0..1000_u32;
        let files = numbers.flat_map(|number| [shared[0], own(number), shared[1]]);
        let open: Vec<Open> = (0..)
            .zip(files)
            .map(|(number, file)| Open { table: Gva(1), at: Gva(2), number, file: Gva(file) })
            .collect();
        let (files, behind) = each_once(&open);
        assert_eq!(behind.len(), open.len());
        for (of, index) in open.iter().zip(behind) {
            assert_eq!(files[index], of.file);
        }
        // Files that have a place in mind in common push each other out, and are there again.
        assert!((1002..1100).contains(&files.len()), "{}", files.len());
    }
}
