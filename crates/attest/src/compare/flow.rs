//! Flows: with whom the guest speaks. Judged only when the certificate lists them.
//!
//! What stays inside the guest is no flow. A connection that nobody holds because it was not accepted yet, or is on its
//! way out, is judged by peer and port alone; one that is open and held by nobody is the kernel's.

use super::draft::{Draft, Drafts, Patch, cause, unknown_fact};
use super::socket::{allows_owners, evidence, family_text, owners_text};
use crate::PortRule;
use crate::flow::{Cidr, FlowEntry, Flows};
use crate::pattern::Pattern;
use crate::reading::{Connection, Direction, Owners, Role, Serving, Unknown, role};
use crate::text::{list, shown};
use facts::{Family, Snapshot, Socket, rule};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

pub(super) fn compare(flows: &Flows, snapshot: &Snapshot, owners: &Owners<'_>, drafts: &mut Drafts<'_>) {
    let index = Index::new(flows);
    let serving = Serving::new(snapshot);
    let mut groups: BTreeMap<Kind<'_>, Vec<(IpAddr, &Socket)>> = BTreeMap::new();
    let mut unknown: BTreeMap<(&'static str, Family), Vec<&Socket>> = BTreeMap::new();
    for socket in snapshot.sockets.iter().filter(|socket| role(socket) == Ok(Role::Connection)) {
        let judged = serving.connection(socket).and_then(|connection| {
            let Some(connection) = connection else { return Ok(()) };
            let held_by = owners.of(socket)?;
            if let Some(novelty) = index.novelty(&connection, &held_by) {
                let kind = Kind::new(novelty, &connection, held_by);
                groups.entry(kind).or_default().push((connection.peer, socket));
            }
            Ok(())
        });
        if let Err(Unknown(fact)) = judged {
            unknown.entry((fact, socket.family)).or_default().push(socket);
        }
    }
    for (kind, sockets) in groups {
        drafts.add(rule::FLOW_UNKNOWN, &kind.cause(), || kind.draft(flows, &sockets));
    }
    for ((fact, family), sockets) in unknown {
        let name = family_text(family);
        drafts.add(rule::GUEST_BLIND, &cause("flows", [&name, fact]), || {
            let draft = unknown_fact(&format!("{name} connections"), fact, sockets.len());
            evidence(draft, sockets.iter().copied())
        });
    }
}

/// What is new about a flow, which is what a person would have to agree to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Novelty {
    /// The program may speak at this port, with others.
    Peer,
    /// It may speak in this direction, at other ports.
    Port,
    /// It may only speak in the other direction.
    Direction,
    /// Another program may speak with this peer at this port.
    Program,
    /// Nothing like it is certified.
    Flow,
}

impl Novelty {
    fn name(self) -> &'static str {
        match self {
            Self::Peer => "new peer",
            Self::Port => "new port",
            Self::Direction => "new direction",
            Self::Program => "new program",
            Self::Flow => "new flow",
        }
    }
}

struct Index<'c> {
    flows: &'c Flows,
    /// Entries with one port by direction, protocol and port.
    by_port: HashMap<(Direction, &'c str, u16), Vec<&'c FlowEntry>>,
    /// Entries with a range of ports.
    ranges: Vec<(Direction, &'c FlowEntry)>,
}

impl<'c> Index<'c> {
    fn new(flows: &'c Flows) -> Self {
        let mut new = Self { flows, by_port: HashMap::new(), ranges: Vec::new() };
        for direction in [Direction::Egress, Direction::Ingress] {
            for entry in of(flows, direction) {
                let PortRule { first, last } = entry.port;
                if first == last {
                    new.by_port.entry((direction, &entry.protocol, first)).or_default().push(entry);
                } else {
                    new.ranges.push((direction, entry));
                }
            }
        }
        new
    }

    /// What is new about a connection; `None` when it is certified.
    fn novelty(&self, connection: &Connection<'_>, held_by: &BTreeSet<&str>) -> Option<Novelty> {
        let Connection { direction, protocol, peer, port, may_be_ownerless } = *connection;
        let exact = self.by_port.get(&(direction, protocol, port)).map(Vec::as_slice).unwrap_or_default();
        let ranges = self
            .ranges
            .iter()
            .filter(|(of, entry)| *of == direction && entry.protocol == protocol && entry.port.covers(port));
        let held = |entry: &FlowEntry| {
            (held_by.is_empty() && may_be_ownerless) || allows_owners(&entry.processes, held_by)
        };
        let (mut same_program, mut same_peer) = (false, false);
        for entry in exact.iter().copied().chain(ranges.map(|(_, entry)| *entry)) {
            match (entry.cidr.contains(peer), held(entry)) {
                (true, true) => return None,
                (false, true) => same_program = true,
                (true, false) => same_peer = true,
                (false, false) => {}
            }
        }
        let knows = |direction| of(self.flows, direction).iter().any(held);
        let opposite = match direction {
            Direction::Egress => Direction::Ingress,
            Direction::Ingress => Direction::Egress,
        };
        Some(if same_program {
            Novelty::Peer
        } else if knows(direction) {
            Novelty::Port
        } else if knows(opposite) {
            Novelty::Direction
        } else if same_peer {
            Novelty::Program
        } else {
            Novelty::Flow
        })
    }
}

fn of(flows: &Flows, direction: Direction) -> &[FlowEntry] {
    match direction {
        Direction::Egress => &flows.egress,
        Direction::Ingress => &flows.ingress,
    }
}

/// Connections that one decision would allow. A new peer of a known flow is a decision of its own: to be told once more
/// when the next one comes. Else the port is what is decided on, whoever the peers are.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'s> {
    novelty: Novelty,
    direction: Direction,
    protocol: &'s str,
    port: u16,
    peer: Option<IpAddr>,
    owners: BTreeSet<&'s str>,
}

impl<'s> Kind<'s> {
    fn new(novelty: Novelty, connection: &Connection<'s>, owners: BTreeSet<&'s str>) -> Self {
        let Connection { direction, protocol, port, peer, .. } = *connection;
        let peer = (novelty == Novelty::Peer).then_some(peer);
        Self { novelty, direction, protocol, port, peer, owners }
    }

    fn cause(&self) -> super::draft::Cause {
        let port = self.port.to_string();
        let peer = self.peer.map(|peer| peer.to_string()).unwrap_or_default();
        let parts = [self.novelty.name(), self.direction.name(), self.protocol, &port, &peer];
        cause("flow", parts.into_iter().chain(self.owners.iter().copied()))
    }

    fn draft(&self, flows: &Flows, sockets: &[(IpAddr, &Socket)]) -> Draft {
        let peers: BTreeSet<IpAddr> = sockets.iter().map(|(peer, _)| *peer).collect();
        let who = owners_text(&self.owners);
        let (protocol, port) = (shown(self.protocol), self.port);
        let some = list(&peers);
        let what = match self.direction {
            Direction::Egress => format!("{who} connects to {some} at {protocol} port {port}"),
            Direction::Ingress => format!("{some} connects to {who} at {protocol} port {port}"),
        };
        let allowed: BTreeSet<String> = of(flows, self.direction)
            .iter()
            .filter(|entry| allows_owners(&entry.processes, &self.owners))
            .map(|entry| format!("{} {} port {}", entry.protocol, entry.cidr, entry.port))
            .collect();
        let direction = self.direction.name();
        let expected = match allowed.is_empty() {
            true => format!("no {direction} flow of {who}"),
            false => format!("{direction} flows of {who}: {}", list(&allowed)),
        };
        let message = format!(
            "{what}, and the certificate does not allow it ({}); certified is {expected}",
            self.novelty.name()
        );
        let draft = Draft::new(format!("{direction} flow {protocol} {port} of {who}"), message)
            .expected(expected)
            .seen(what)
            .with("change", self.novelty.name())
            .with("peers", some)
            .allow_with(self.patch(&peers));
        evidence(draft, sockets.iter().map(|(_, socket)| *socket))
    }

    fn patch(&self, peers: &BTreeSet<IpAddr>) -> Patch {
        let path = format!("/flows/{}/-", self.direction.name());
        let networks: BTreeSet<Cidr> = peers.iter().map(|peer| Cidr::host(*peer)).collect();
        if networks.len() > super::PROPOSAL_LIMIT {
            return Patch::default();
        }
        networks.into_iter().fold(Patch::default(), |patch, cidr| {
            let entry = FlowEntry {
                protocol: self.protocol.to_owned(),
                cidr,
                port: PortRule::exactly(self.port),
                processes: self.owners.iter().map(|owner| Pattern::literal(owner)).collect(),
            };
            patch.add(&path, &entry)
        })
    }
}
