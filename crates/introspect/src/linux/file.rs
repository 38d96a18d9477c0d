//! Open files: ``struct files_struct`` → ``struct fdtable`` → ``struct file``, as far as they are sockets.

use super::layout::Resolver;
use crate::session::{Session, member};
use facts::ProblemKind;
use std::collections::HashMap;
use vmi_core::{Gva, ReadError};

/// Most descriptors of one process. ``sysctl_nr_open`` allows 2^20 by default; a table that claims more is not believed.
const DESCRIPTORS_MAX: u32 = 1 << 26;
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
    socket_sk: u64,
    socket_file: u64,
    sk_socket: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            fdt: resolver.offset("files_struct", "fdt"),
            max_fds: resolver.offset("fdtable", "max_fds"),
            fd: resolver.offset("fdtable", "fd"),
            open_fds: resolver.offset("fdtable", "open_fds"),
            operations: resolver.offset("file", "f_op"),
            private: resolver.offset("file", "private_data"),
            socket_sk: resolver.offset("socket", "sk"),
            socket_file: resolver.offset("socket", "file"),
            sk_socket: resolver.offset("sock", "sk_socket"),
        }
    }
}

/// Finds the ``struct sock`` behind descriptors, and remembers tables and files that processes share.
#[derive(Debug, Default)]
pub(crate) struct SocketFiles {
    tables: HashMap<Gva, Vec<Gva>>,
    files: HashMap<Gva, Option<Gva>>,
    open: usize,
}

impl SocketFiles {
    /// ``struct sock *`` of all sockets in the ``struct files_struct *`` at `files`.
    pub(crate) fn socks(&mut self, session: &Session<'_>, files: Gva) -> Result<Vec<Gva>, ReadError> {
        if files.is_null() {
            return Ok(Vec::new());
        }
        if let Some(known) = self.tables.get(&files) {
            return Ok(known.clone());
        }
        let socks = match self.read_table(session, files) {
            Ok(socks) => socks,
            Err(error) => {
                session.unreadable("files_struct", files, error)?;
                Vec::new()
            }
        };
        self.tables.insert(files, socks.clone());
        Ok(socks)
    }

    fn read_table(&mut self, session: &Session<'_>, files: Gva) -> Result<Vec<Gva>, ReadError> {
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
            return Ok(Vec::new());
        }
        let fd = space.pointer(member(fdt, layout.fd)?)?;
        let open_fds = space.pointer(member(fdt, layout.open_fds)?)?;
        let mut socks = Vec::new();
        for word in 0..u64::from(max_fds.div_ceil(64)) {
            let at = open_fds.element(word, 8).ok_or(ReadError::NotAnAddress { at: open_fds, len: 8 })?;
            let mut bits = space.u64(at)?;
            while bits != 0 {
                let number = word.saturating_mul(64).saturating_add(u64::from(bits.trailing_zeros()));
                bits &= bits - 1;
                self.open = self.open.saturating_add(1);
                if self.open > OPEN_MAX {
                    session.problem(
                        ProblemKind::Budget,
                        format_args!("files_struct {files}"),
                        format_args!("More than {OPEN_MAX} open descriptors in the guest."),
                    );
                    return Ok(socks);
                }
                let at = fd.element(number, 8).ok_or(ReadError::NotAnAddress { at: fd, len: 8 })?;
                let file = space.pointer(at)?;
                // A descriptor that is reserved and not yet installed has its bit set and no file.
                if !file.is_null() {
                    socks.extend(self.sock_of(session, file)?);
                }
            }
        }
        Ok(socks)
    }

    fn sock_of(&mut self, session: &Session<'_>, file: Gva) -> Result<Option<Gva>, ReadError> {
        if let Some(known) = self.files.get(&file) {
            return Ok(*known);
        }
        let layout = &session.kernel.layouts().file;
        let read = || {
            let operations = session.space.pointer(member(file, layout.operations)?)?;
            match session.kernel.symbol("socket_file_ops") {
                Some(of_sockets) if operations != of_sockets => return Ok(None),
                Some(_) => {}
                None => return sock_by_its_links(session, file),
            }
            let socket = session.space.pointer(member(file, layout.private)?)?;
            let sk = session.space.pointer(member(socket, layout.socket_sk)?)?;
            Ok(Some(sk).filter(|sk| !sk.is_null()))
        };
        let sock = session.known("file", file, read())?.flatten();
        self.files.insert(file, sock);
        Ok(sock)
    }
}

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
