//! A large guest: what a busy server has, fifty programs of a hundred processes, each with four sockets of its own.

use crate::command::{SocketSpec, Spawn, UnixType};
use crate::{Guest, GuestSpec, Kernel};
use anyhow::Result;

/// Processes of the programs, kernel threads and the first process not counted.
pub const PROCESSES: usize = 5_000;
/// Sockets of these processes.
pub const SOCKETS: usize = 20_000;

/// Programs of each kind, and how many workers each has besides its first process.
const PROGRAMS: [u16; 3] = [17, 17, 16];
const WORKERS: u32 = 99;

/// A guest that has room for them, and can say in time what it has.
#[must_use]
pub fn spec(kernel: Kernel) -> GuestSpec {
    GuestSpec::new(kernel).memory_mib(2048).wide_port()
}

/// Fills a guest of [`spec`]. What `ss` asks the kernel for is loaded before, so that its answers are part of the truth.
pub fn fill(guest: &Guest) -> Result<()> {
    for module in ["tcp_diag", "udp_diag", "unix_diag"] {
        guest.load_module(module)?;
    }
    let stream = SocketSpec::UnixPair { unix_type: UnixType::Stream };
    let kinds = [
        (
            "web",
            vec![
                SocketSpec::TcpPair { ip: "127.0.0.1".parse()? },
                SocketSpec::UdpBind { address: "[::1]:0".parse()? },
            ],
        ),
        (
            "store",
            vec![
                SocketSpec::TcpListen { address: "[::]:0".parse()? },
                SocketSpec::UdpConnect { address: "127.0.0.1:9".parse()? },
                stream.clone(),
            ],
        ),
        ("bus", vec![stream, SocketSpec::UnixPair { unix_type: UnixType::Dgram }]),
    ];
    let mut uid = 1000;
    for ((kind, sockets), programs) in kinds.into_iter().zip(PROGRAMS) {
        for number in 0..programs {
            uid += 1;
            let name = format!("{kind}-{number}");
            guest.spawn(Spawn {
                exe: format!("/usr/sbin/{name}"),
                args: vec![name.clone(), "--config".into(), format!("/etc/{kind}/{name}.conf")],
                uid: Some(uid),
                gid: Some(uid),
                cgroup: Some(format!("/system.slice/{name}.service")),
                workers: WORKERS,
                sockets: sockets.clone(),
                ..Spawn::default()
            })?;
        }
    }
    Ok(())
}
