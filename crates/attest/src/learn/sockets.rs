//! Listeners, raw sockets and flows seen.
//!
//! Left open are UDP ports that the kernel chose (and TCP ones that differ between looks), addresses of interfaces, made-up
//! names and pids in the path of a unix socket. Who may come in is left open too: a listener cannot know its clients. Whom
//! the guest calls is certified address by address, up to a number that a person still reads.

use super::draft::Noted;
use super::pairs;
use super::sightings::{Look, Sightings};
use crate::certificate::{AddressRule, ListenerEntry, PortRule, RawSocketEntry};
use crate::flow::{Cidr, FlowEntry, Flows};
use crate::generalise;
use crate::pattern::Pattern;
use crate::reading::{Direction, Endpoint, Owners, Role, Serving, Unknown, role};
use facts::{Family, Socket, Text};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most peers of one kind of flow that are certified one by one.
const PEERS: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sockets {
    #[serde(with = "pairs")]
    listeners: BTreeMap<ListenerKey, Seen>,
    #[serde(with = "pairs")]
    raw: BTreeMap<(Family, Option<String>), Seen>,
    #[serde(with = "pairs")]
    flows: BTreeMap<FlowKey, Peers>,
}

/// With whom one kind of flow was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Peers(#[serde(with = "pairs")] BTreeMap<Cidr, Sightings>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    owners: BTreeSet<String>,
    sightings: Sightings,
    generated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct ListenerKey {
    protocol: String,
    family: Family,
    address: Option<AddressRule>,
    port: Option<PortRule>,
    path: Option<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct FlowKey {
    direction: Direction,
    protocol: String,
    port: u16,
    owners: BTreeSet<String>,
}

impl Sockets {
    /// Adds one socket. `Err`: a fact that a certificate needs is unknown, and the socket is left out.
    pub(super) fn add(
        &mut self,
        look: Look,
        socket: &Socket,
        owners: &Owners<'_>,
        serving: Option<&Serving<'_>>,
    ) -> Result<(), Unknown> {
        let role = role(socket)?;
        let owned = || -> Result<BTreeSet<String>, Unknown> {
            Ok(owners.of(socket)?.into_iter().map(str::to_owned).collect())
        };
        match (role, serving) {
            (Role::Other, _) | (Role::Connection, None) => {}
            (Role::Listener(endpoint), _) => {
                let owners = owned()?;
                let (key, generated) = listener_key(&endpoint, &socket.processes);
                let seen = self.listeners.entry(key).or_default();
                seen.owners.extend(owners);
                seen.sightings.add(look);
                seen.generated |= generated;
            }
            (Role::Raw, _) => {
                let owners = owned()?;
                let seen = self
                    .raw
                    .entry((socket.family, socket.protocol.as_ref().map(Text::to_string)))
                    .or_default();
                seen.owners.extend(owners);
                seen.sightings.add(look);
            }
            (Role::Connection, Some(serving)) => {
                let Some(connection) = serving.connection(socket)? else { return Ok(()) };
                let owners = owned()?;
                // On its way in or out: nobody can be named for it, and nobody will have to be.
                if owners.is_empty() && connection.may_be_ownerless {
                    return Ok(());
                }
                let cidr = match connection.direction {
                    Direction::Egress => Cidr::host(connection.peer),
                    Direction::Ingress => Cidr::any_like(connection.peer),
                };
                let key = FlowKey {
                    direction: connection.direction,
                    protocol: connection.protocol.to_owned(),
                    port: connection.port,
                    owners,
                };
                self.flows.entry(key).or_default().0.entry(cidr).or_default().add(look);
            }
        }
        Ok(())
    }

    /// How many different things were seen.
    pub(super) fn len(&self) -> usize {
        let flows: usize = self.flows.values().map(|peers| peers.0.len()).sum();
        self.listeners.len().saturating_add(self.raw.len()).saturating_add(flows)
    }

    pub(super) fn listeners(&self, looks: usize) -> Vec<(ListenerEntry, Noted)> {
        let mut merged: BTreeMap<ListenerKey, Seen> = BTreeMap::new();
        for (key, seen) in &self.listeners {
            let mut key = key.clone();
            let chosen = key.port.is_some_and(|port| PortRule::EPHEMERAL.covers(port.first));
            if chosen && seen.sightings.looks < looks {
                key.port = Some(PortRule::EPHEMERAL);
            }
            let all = merged.entry(key).or_default();
            all.owners.extend(seen.owners.iter().cloned());
            all.sightings.merge(&seen.sightings);
            all.generated |= seen.generated;
        }
        merged
            .into_iter()
            .map(|(key, seen)| {
                let open = key.port == Some(PortRule::EPHEMERAL);
                let mut noted = Noted::new(seen.sightings, "it listened");
                if open {
                    noted.review("its port was chosen by the kernel, so the whole range is allowed");
                }
                if seen.generated {
                    noted.review("part of its path looks made up and was left open");
                }
                (finish_listener(key, templates(&seen.owners)), noted)
            })
            .collect()
    }

    pub(super) fn raw_sockets(&self) -> Vec<(RawSocketEntry, Noted)> {
        let entry = |((family, protocol), seen): (&(Family, Option<String>), &Seen)| {
            let mut noted = Noted::new(seen.sightings.clone(), "it was open");
            noted.review("it sees packets that are not its own");
            let (family, protocol) = (*family, protocol.clone());
            (RawSocketEntry { family, protocol, processes: templates(&seen.owners) }, noted)
        };
        self.raw.iter().map(entry).collect()
    }

    /// The flows, and notes for egress and ingress.
    pub(super) fn flows(&self) -> (Flows, [Vec<Noted>; 2]) {
        let mut flows = Flows::default();
        let mut notes = [Vec::new(), Vec::new()];
        for (key, peers) in &self.flows {
            let [egress, ingress] = &mut notes;
            let (entries, notes) = match key.direction {
                Direction::Egress => (&mut flows.egress, egress),
                Direction::Ingress => (&mut flows.ingress, ingress),
            };
            for (cidr, noted) in networks(key.direction, &peers.0) {
                entries.push(FlowEntry {
                    protocol: key.protocol.clone(),
                    cidr,
                    port: PortRule::exactly(key.port),
                    processes: templates(&key.owners),
                });
                notes.push(noted);
            }
        }
        (flows, notes)
    }
}

/// The networks to certify: each peer, or everybody when there were too many.
fn networks(direction: Direction, peers: &BTreeMap<Cidr, Sightings>) -> Vec<(Cidr, Noted)> {
    let everybody = [Cidr::ANY_V4, Cidr::ANY_V6];
    if direction == Direction::Ingress || peers.len() <= PEERS {
        let noted = |(cidr, sightings): (&Cidr, &Sightings)| {
            let mut noted = Noted::new(sightings.clone(), "it was connected");
            if cidr.is_everything() {
                noted.review("anybody may connect: name the networks if they are known");
            }
            (*cidr, noted)
        };
        return peers.iter().map(noted).collect();
    }
    let mut merged: BTreeMap<Cidr, Sightings> = BTreeMap::new();
    for (cidr, sightings) in peers {
        if let Some(wide) = everybody.into_iter().find(|wide| wide.holds(*cidr)) {
            merged.entry(wide).or_default().merge(sightings);
        }
    }
    merged
        .into_iter()
        .map(|(cidr, sightings)| {
            let mut noted = Noted::new(sightings, "it had many peers");
            noted.review("it had more than 16 peers, so any is allowed: name the networks if they are known");
            (cidr, noted)
        })
        .collect()
}

fn templates(owners: &BTreeSet<String>) -> Vec<Pattern> {
    owners.iter().map(|owner| Pattern::literal(owner)).collect()
}

/// What is certified of an endpoint, with what varies left open; whether something looked made up.
fn listener_key(endpoint: &Endpoint<'_>, pids: &[u32]) -> (ListenerKey, bool) {
    let port = endpoint
        .port
        .map(|port| if endpoint.is_ephemeral_udp() { PortRule::EPHEMERAL } else { PortRule::exactly(port) });
    let address = endpoint.address.map(|address| {
        if AddressRule::Interface.covers(address) {
            AddressRule::Interface
        } else {
            AddressRule::Exactly(address)
        }
    });
    let path = endpoint.path.map(|path| generalise::path(path, pids));
    let generated = path.as_ref().is_some_and(|path| path.generated);
    let key = ListenerKey {
        protocol: endpoint.protocol.to_owned(),
        family: endpoint.family,
        address,
        port: port.filter(|_| endpoint.path.is_none()),
        path: path.map(|path| path.template),
    };
    (key, generated)
}

/// The smallest listener entry that allows this endpoint for these owners.
pub(crate) fn listener_entry(
    endpoint: &Endpoint<'_>,
    pids: &[u32],
    owners: &BTreeSet<&str>,
) -> ListenerEntry {
    let (key, _) = listener_key(endpoint, pids);
    finish_listener(key, owners.iter().map(|owner| Pattern::literal(owner)).collect())
}

fn finish_listener(key: ListenerKey, processes: Vec<Pattern>) -> ListenerEntry {
    let ListenerKey { protocol, family, address, port, path } = key;
    ListenerEntry { protocol, family, address, port, path, processes }
}
