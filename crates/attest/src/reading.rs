//! What one row of a snapshot means: the reading that learning and comparison share.
//!
//! Both must read a snapshot in the same way, or a VM would not conform to the certificate that was learned from it. A
//! fact that is `None` comes out as *unknown* here, with its name; nobody downstream sees a default in its place.

use crate::certificate::Identity;
use crate::pattern::Pattern;
use crate::{Capabilities, PortRule};
use facts::{ExeState, Family, Process, ProcessState, Snapshot, Socket, SocketState};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A fact that is not known, by its name in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unknown(pub(crate) &'static str);

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing<'s> {
    /// The kernel's own.
    KernelThread,
    /// A kernel thread by its flag that has an executable: no kernel thread has.
    FalseKernelThread,
    /// Runs a program. No path: it never had one.
    Program(Option<&'s str>, ExeState),
    /// A program that has given up its memory while other threads of the process may still run.
    Leaderless,
    /// Has given up its memory and is alone: on its way to become a zombie. No instruction of any program can run in it
    /// again, but the kernel's can.
    Dying,
    /// A zombie: nothing of it can ever run again.
    Gone,
}

pub(crate) fn standing(process: &Process) -> Result<Standing<'_>, Unknown> {
    if process.kernel_thread {
        let has_file = process.exe.is_some() || !matches!(process.exe_state, None | Some(ExeState::None));
        return Ok(if has_file { Standing::FalseKernelThread } else { Standing::KernelThread });
    }
    match (process.exe_state, process.exe.as_deref()) {
        (None, _) => Err(Unknown("exe_state")),
        (Some(ExeState::Present | ExeState::Deleted), None) => Err(Unknown("exe")),
        (Some(ExeState::None), _) => {
            // The leader of a group may end (and give up its memory) while its other threads run on, so it is only dead
            // when it is alone.
            let state = process.state.ok_or(Unknown("state"))?;
            let alone = process.threads.ok_or(Unknown("threads"))? <= 1;
            Ok(match (alone, state) {
                (false, _) => Standing::Leaderless,
                (true, ProcessState::Zombie | ProcessState::Dead) => Standing::Gone,
                (true, _) => Standing::Dying,
            })
        }
        (Some(state), path) => Ok(Standing::Program(path, state)),
    }
}

/// Whether it is between two programs: the kernel replaces what makes a program one after the other, and no instruction of either
/// runs. Other threads run on until the old program is given up, so it must be alone.
pub(crate) fn is_executing(process: &Process) -> bool {
    process.executing == Some(true) && process.threads == Some(1)
}

/// As whom it runs.
pub(crate) fn identity(process: &Process) -> Result<Identity, Unknown> {
    Ok(Identity {
        uid: process.uid.ok_or(Unknown("uid"))?,
        euid: process.euid.ok_or(Unknown("euid"))?,
        gid: process.gid.ok_or(Unknown("gid"))?,
        egid: process.egid.ok_or(Unknown("egid"))?,
        capabilities: Capabilities::from_mask(
            process.capabilities_effective.ok_or(Unknown("capabilities_effective"))?.0,
        ),
    })
}

/// The name with its varying part left open.
pub(crate) fn name_template(process: &Process) -> Pattern {
    let name = process.name.as_str();
    let fixed = |template: &str| Pattern::parse(template).unwrap_or_else(|_| Pattern::literal(name));
    if process.kernel_thread {
        // Workers are named after CPU, pool and queue, and come and go by the second.
        if name.starts_with("kworker/") { fixed("kworker/**") } else { Pattern::with_numbers(name) }
    } else if name.starts_with('(') && name.ends_with(')') {
        // systemd names a child after the program it is about to start.
        fixed("(**)")
    } else {
        Pattern::literal(name)
    }
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role<'s> {
    /// Waits for anyone to come.
    Listener(Endpoint<'s>),
    /// Sees raw packets.
    Raw,
    /// Has a peer.
    Connection,
    /// Nothing yet, or nothing that leaves the guest.
    Other,
}

/// Where a listener waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint<'s> {
    pub(crate) protocol: &'s str,
    pub(crate) family: Family,
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: Option<u16>,
    pub(crate) path: Option<&'s str>,
}

impl Endpoint<'_> {
    /// Whether the kernel chose the port: a UDP client that has sent something and has no peer.
    pub(crate) fn is_ephemeral_udp(&self) -> bool {
        self.protocol.starts_with("udp") && self.port.is_some_and(|port| PortRule::EPHEMERAL.covers(port))
    }
}

pub(crate) fn role(socket: &Socket) -> Result<Role<'_>, Unknown> {
    let internet = matches!(socket.family, Family::Inet | Family::Inet6);
    let kind = socket.kind.as_deref();
    if matches!(socket.family, Family::Packet | Family::Xdp) || (internet && kind == Some("raw")) {
        return Ok(Role::Raw);
    }
    let protocol = socket.protocol.as_deref();
    let listens = match socket.state {
        Some(SocketState::Listen) => true,
        // Bound without a peer. Whether a datagram socket of another family is reachable is a later question.
        Some(SocketState::Unconnected | SocketState::Close) if internet => {
            match protocol.ok_or(Unknown("protocol"))? {
                "udp" | "udplite" => socket.local_port.ok_or(Unknown("local_port"))? != 0,
                _ => false,
            }
        }
        Some(_) => false,
        None if internet || socket.family == Family::Unix => return Err(Unknown("state")),
        None => false,
    };
    if !listens {
        let connected = internet && socket.remote_port.is_some_and(|port| port != 0);
        return Ok(if connected { Role::Connection } else { Role::Other });
    }
    let endpoint = Endpoint {
        protocol: protocol.ok_or(Unknown("protocol"))?,
        family: socket.family,
        address: socket.local_address,
        port: socket.local_port,
        path: socket.path.as_deref(),
    };
    if internet {
        endpoint.address.ok_or(Unknown("local_address"))?;
        endpoint.port.ok_or(Unknown("local_port"))?;
    }
    if socket.family == Family::Unix {
        endpoint.path.ok_or(Unknown("path"))?;
    }
    Ok(Role::Listener(endpoint))
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    /// The guest.
    Egress,
    /// Its peer.
    Ingress,
}

impl Direction {
    /// As a certificate names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// A connection that leaves the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection<'s> {
    pub(crate) direction: Direction,
    pub(crate) protocol: &'s str,
    pub(crate) peer: IpAddr,
    /// The port at the end that serves.
    pub(crate) port: u16,
    /// Whether it may be held by nobody: not accepted yet, or on its way out.
    pub(crate) may_be_ownerless: bool,
}

/// Where the guest serves, which tells the two directions of a connection apart.
pub(crate) struct Serving<'s>(BTreeSet<(&'s str, u16)>);

impl<'s> Serving<'s> {
    pub(crate) fn new(snapshot: &'s Snapshot) -> Self {
        let listens = |socket: &'s Socket| match role(socket) {
            Ok(Role::Listener(endpoint)) => Some((endpoint.protocol, endpoint.port?)),
            _ => None,
        };
        Self(snapshot.sockets.iter().filter_map(listens).collect())
    }

    /// What a socket of [`Role::Connection`] connects; `None` when it stays inside the guest.
    pub(crate) fn connection(&self, socket: &'s Socket) -> Result<Option<Connection<'s>>, Unknown> {
        let protocol = socket.protocol.as_deref().ok_or(Unknown("protocol"))?;
        let peer = socket.remote_address.ok_or(Unknown("remote_address"))?.to_canonical();
        let local_address = socket.local_address.ok_or(Unknown("local_address"))?.to_canonical();
        let local_port = socket.local_port.ok_or(Unknown("local_port"))?;
        let remote_port = socket.remote_port.ok_or(Unknown("remote_port"))?;
        if peer.is_loopback() || peer == local_address {
            return Ok(None);
        }
        let accepted = socket.state == Some(SocketState::SynRecv) || self.0.contains(&(protocol, local_port));
        let open = matches!(
            socket.state,
            Some(SocketState::Established | SocketState::SynSent | SocketState::CloseWait)
        );
        let (direction, port) =
            if accepted { (Direction::Ingress, local_port) } else { (Direction::Egress, remote_port) };
        Ok(Some(Connection { direction, protocol, peer, port, may_be_ownerless: accepted || !open }))
    }
}

/// The process that started another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parent<'s> {
    /// It has none: the first process.
    None,
    /// Its executable; its name in brackets for a kernel thread.
    Program(Cow<'s, str>),
    /// It is ending, and the first process (or whoever stands in for it) is about to adopt its children.
    Dying,
    /// It ended while the guest was read.
    Vanished,
}

/// Finds the programs behind pids.
pub(crate) struct Owners<'s> {
    by_pid: Vec<(u32, &'s Process)>,
    /// Place of the one found last: most processes have the same parent as the one before.
    last: Cell<usize>,
}

impl<'s> Owners<'s> {
    pub(crate) fn new(snapshot: &'s Snapshot) -> Self {
        let mut by_pid: Vec<_> = snapshot.processes.iter().map(|process| (process.pid, process)).collect();
        by_pid.sort_by_key(|(pid, _)| *pid);
        // A guest that shows one pid twice must not make it a matter of chance whose it is.
        by_pid.dedup_by_key(|(pid, _)| *pid);
        Self { by_pid, last: Cell::new(0) }
    }

    /// The program of the first process.
    pub(crate) fn first_program(&self) -> Option<&'s str> {
        match standing(self.by_pid(1)?) {
            Ok(Standing::Program(path, ExeState::Present)) => path,
            _ => None,
        }
    }

    fn by_pid(&self, pid: u32) -> Option<&'s Process> {
        let at = |index: usize| self.by_pid.get(index).filter(|(found, _)| *found == pid);
        let found = at(self.last.get()).or_else(|| {
            let index = self.by_pid.binary_search_by_key(&pid, |(pid, _)| *pid).ok()?;
            self.last.set(index);
            at(index)
        });
        found.map(|(_, process)| *process)
    }

    pub(crate) fn parent(&self, process: &Process) -> Result<Parent<'s>, Unknown> {
        let pid = process.ppid.ok_or(Unknown("ppid"))?;
        if pid == 0 {
            return Ok(Parent::None);
        }
        let Some(parent) = self.by_pid(pid) else { return Ok(Parent::Vanished) };
        Ok(match standing(parent)? {
            Standing::KernelThread => Parent::Program(Cow::Owned(format!("[{}]", parent.name))),
            Standing::Program(Some(path), _) => Parent::Program(Cow::Borrowed(path)),
            Standing::Program(None, _) | Standing::FalseKernelThread | Standing::Leaderless => {
                Parent::Program(Cow::Borrowed(&parent.name))
            }
            Standing::Dying => Parent::Dying,
            Standing::Gone => Parent::Vanished,
        })
    }

    /// Executables of the processes that hold the socket. None: the kernel holds it. Zombies hold nothing.
    pub(crate) fn of(&self, socket: &Socket) -> Result<BTreeSet<&'s str>, Unknown> {
        if socket.processes.is_empty() && socket.ownership.is_none() {
            return Err(Unknown("ownership"));
        }
        let mut owners = BTreeSet::new();
        let mut passing = BTreeSet::new();
        for pid in &socket.processes {
            let process = self.by_pid(*pid).ok_or(Unknown("processes"))?;
            let owners = if is_executing(process) { &mut passing } else { &mut owners };
            match standing(process)? {
                Standing::Program(path, _) => owners.insert(path.unwrap_or(process.name.as_str())),
                Standing::KernelThread | Standing::FalseKernelThread => owners.insert(process.name.as_str()),
                Standing::Leaderless => owners.insert(process.name.as_str()),
                Standing::Dying | Standing::Gone => false,
            };
        }
        // What is about to be closed still leads to the sockets of the old program after the new one is in its place.
        Ok(if owners.is_empty() { passing } else { owners })
    }
}
