//! A reader of xenstore, the tree of names in which Xen's tools keep what the hypervisor does not know: names of domains, their
//! configured memory, their devices.
//!
//! The wire protocol is xen/include/public/io/xs_wire.h: a header of four 32-bit numbers (type, request, transaction, length) and
//! a payload of at most 4096 bytes. Only reading and listing are ever asked for.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// xenstored's socket, where it runs in this domain.
const SOCKET: &str = "/run/xenstored/socket";
/// The kernel's way to it, wherever it runs.
const DEVICE: &str = "/dev/xen/xenbus";
const DEADLINE: Duration = Duration::from_secs(2);
const HEADER: usize = 16;
/// `XENSTORE_PAYLOAD_MAX`.
const PAYLOAD_MAX: u32 = 4096;
const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const ERROR: u32 = 16;

/// A connection.
#[derive(Debug)]
pub(super) struct Store {
    connection: File,
    request: u32,
}

impl Store {
    pub(super) fn open() -> io::Result<Self> {
        let connection = match UnixStream::connect(SOCKET) {
            Ok(stream) => {
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_write_timeout(Some(DEADLINE))?;
                File::from(OwnedFd::from(stream))
            }
            Err(_) => OpenOptions::new().read(true).write(true).open(DEVICE)?,
        };
        Ok(Self { connection, request: 0 })
    }

    /// The names below a path. `Ok(None)`: there is no such path.
    pub(super) fn list(&mut self, path: &str) -> io::Result<Option<Vec<String>>> {
        let Some(bytes) = self.ask(DIRECTORY, path)? else { return Ok(None) };
        let names = bytes.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        Ok(Some(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()))
    }

    /// The value of a path. `Ok(None)`: there is no such path.
    pub(super) fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        let bytes = self.ask(READ, path)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn ask(&mut self, kind: u32, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.request = self.request.wrapping_add(1);
        let length = u32::try_from(path.len().saturating_add(1)).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut message = Vec::with_capacity(HEADER.saturating_add(path.len()));
        for number in [kind, self.request, 0, length] {
            message.extend(number.to_le_bytes());
        }
        message.extend(path.as_bytes());
        message.push(0);
        // In one piece: the kernel's device takes a message as one write.
        self.connection.write_all(&message)?;
        loop {
            let [answered, request, _, length] = self.header()?;
            if length > PAYLOAD_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut payload = vec![0; usize::try_from(length).unwrap_or(0)];
            self.connection.read_exact(&mut payload)?;
            // A late answer to a request that was given up.
            if request != self.request {
                continue;
            }
            return match answered {
                ERROR if payload.starts_with(b"ENOENT") => Ok(None),
                ERROR if payload.starts_with(b"EACCES") => Err(io::ErrorKind::PermissionDenied.into()),
                _ if answered == kind => Ok(Some(payload)),
                _ => Err(io::Error::other(format!(
                    "xenstore answered {}",
                    String::from_utf8_lossy(&payload).trim_end_matches('\0')
                ))),
            };
        }
    }

    fn header(&mut self) -> io::Result<[u32; 4]> {
        let mut bytes = [0; HEADER];
        self.connection.read_exact(&mut bytes)?;
        let mut numbers = [0; 4];
        for (number, part) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
            *number = u32::from_le_bytes(part.try_into().unwrap_or_default());
        }
        Ok(numbers)
    }

    #[cfg(test)]
    fn on(connection: UnixStream) -> Self {
        Self { connection: File::from(OwnedFd::from(connection)), request: 0 }
    }

    /// One that has these values at these paths.
    #[cfg(test)]
    pub(super) fn of(values: &'static [(&'static str, &'static str)]) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut served = Self::on(theirs);
            while let Ok([kind, request, _, length]) = served.header() {
                let mut path = vec![0; length as usize];
                served.connection.read_exact(&mut path).unwrap();
                let path = std::str::from_utf8(&path).unwrap().trim_end_matches('\0');
                let below = |(at, _): &(&'static str, &str)| {
                    at.strip_prefix(path)?.strip_prefix('/')?.split('/').next()
                };
                let value = values.iter().find(|(at, _)| *at == path).map(|(_, value)| (*value).to_owned());
                let mut names: Vec<&str> = values.iter().filter_map(below).collect();
                names.dedup();
                let answer = match kind {
                    READ => value,
                    _ => (!names.is_empty()).then(|| names.join("\0") + "\0"),
                };
                let (kind, payload) =
                    answer.map_or((ERROR, "ENOENT\0".to_owned()), |payload| (kind, payload));
                for number in [kind, request, 0, u32::try_from(payload.len()).unwrap()] {
                    served.connection.write_all(&number.to_le_bytes()).unwrap();
                }
                served.connection.write_all(payload.as_bytes()).unwrap();
            }
        });
        Self::on(ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// A store that gives these answers, one after the other: type, offset to the request's number, payload.
    fn store(answers: Vec<(u32, u32, &'static [u8])>) -> Store {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut served = Store::on(theirs);
            for (kind, off, payload) in answers {
                let [_, request, _, length] = served.header().unwrap();
                let mut path = vec![0; length as usize];
                served.connection.read_exact(&mut path).unwrap();
                assert_eq!(path.last(), Some(&0));
                for number in [kind, request.wrapping_sub(off), 0, u32::try_from(payload.len()).unwrap()] {
                    served.connection.write_all(&number.to_le_bytes()).unwrap();
                }
                served.connection.write_all(payload).unwrap();
            }
        });
        Store::on(ours)
    }

    #[test]
    fn values_lists_and_what_is_not_there_are_told_apart() {
        let mut store = store(vec![
            (READ, 0, b"web-1"),
            (DIRECTORY, 0, b"0\x001\x0017\x00"),
            (ERROR, 0, b"ENOENT\0"),
            (ERROR, 0, b"EACCES\0"),
            (ERROR, 0, b"EINVAL\0"),
        ]);
        assert_eq!(store.read("/local/domain/1/name").unwrap().as_deref(), Some("web-1"));
        assert_eq!(store.list("/local/domain").unwrap().unwrap(), ["0", "1", "17"]);
        assert_eq!(store.read("/nothing").unwrap(), None);
        assert_eq!(store.read("/secret").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(store.read("/odd").unwrap_err().to_string().contains("EINVAL"));
    }

    #[test]
    fn an_answer_longer_than_the_protocol_allows_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for number in [READ, 1, 0, u32::MAX] {
            theirs.write_all(&number.to_le_bytes()).unwrap();
        }
        assert_eq!(Store::on(ours).read("/x").unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
