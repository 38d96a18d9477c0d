//! Listeners and raw sockets.

use super::draft::{Draft, Drafts, Patch, cause, unknown_fact};
use crate::certificate::{Certificate, ListenerEntry, PortRule, RawSocketEntry};
use crate::learn::listener_entry;
use crate::pattern::Pattern;
use crate::reading::{Endpoint, Owners, Role, Unknown, role};
use crate::text::{list, shown};
use facts::{Family, Snapshot, Socket, rule};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) fn compare(
    certificate: &Certificate,
    snapshot: &Snapshot,
    owners: &Owners<'_>,
    drafts: &mut Drafts<'_>,
) {
    let listeners = ListenerIndex::new(&certificate.listeners);
    let mut groups = Groups::default();
    for socket in &snapshot.sockets {
        let outcome = role(socket).and_then(|role| match role {
            Role::Other | Role::Connection => Ok(()),
            Role::Listener(endpoint) => {
                let held_by = owners.of(socket)?;
                let verdict = listeners.find(&endpoint, &held_by);
                if verdict != Found::Allowed {
                    groups.listener(endpoint, held_by, verdict, socket);
                }
                Ok(())
            }
            Role::Raw => {
                let held_by = owners.of(socket)?;
                if !certificate.raw_sockets.iter().any(|entry| allows_raw(entry, socket, &held_by)) {
                    groups.raw(held_by, socket);
                }
                Ok(())
            }
        });
        if let Err(Unknown(fact)) = outcome {
            groups.unknown.entry((fact, socket.family)).or_default().push(socket);
        }
    }
    groups.drafts(certificate, drafts);
}

/// Whether an endpoint is certified.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Allowed,
    /// The endpoint is, by this entry, but for other programs.
    ForOthers(usize),
    Nowhere,
}

struct ListenerIndex<'c> {
    entries: &'c [ListenerEntry],
    by_port: HashMap<(&'c str, u16), Vec<usize>>,
    by_path: HashMap<&'c str, Vec<usize>>,
    /// Entries with a range of ports or a template for the path.
    templates: Vec<usize>,
}

impl<'c> ListenerIndex<'c> {
    fn new(entries: &'c [ListenerEntry]) -> Self {
        let mut new =
            Self { entries, by_port: HashMap::new(), by_path: HashMap::new(), templates: Vec::new() };
        for (index, entry) in entries.iter().enumerate() {
            match (&entry.path, entry.port) {
                (Some(path), _) => match path.as_literal() {
                    Some(path) => new.by_path.entry(path).or_default().push(index),
                    None => new.templates.push(index),
                },
                (None, Some(PortRule { first, last })) if first == last => {
                    new.by_port.entry((&entry.protocol, first)).or_default().push(index);
                }
                (None, _) => new.templates.push(index),
            }
        }
        new
    }

    fn find(&self, endpoint: &Endpoint<'_>, held_by: &BTreeSet<&str>) -> Found {
        let exact = match (endpoint.path, endpoint.port) {
            (Some(path), _) => self.by_path.get(path),
            (None, Some(port)) => self.by_port.get(&(endpoint.protocol, port)),
            (None, None) => None,
        };
        let mut found = Found::Nowhere;
        for index in exact.map(Vec::as_slice).unwrap_or_default().iter().chain(&self.templates) {
            let Some(entry) = self.entries.get(*index).filter(|entry| covers(entry, endpoint)) else {
                continue;
            };
            if allows_owners(&entry.processes, held_by) {
                return Found::Allowed;
            }
            if found == Found::Nowhere {
                found = Found::ForOthers(*index);
            }
        }
        found
    }
}

fn covers(entry: &ListenerEntry, endpoint: &Endpoint<'_>) -> bool {
    let address = match (entry.address, endpoint.address) {
        (Some(rule), Some(address)) => rule.covers(address),
        (None, _) => true,
        (Some(_), None) => false,
    };
    let port = match (entry.port, endpoint.port) {
        (Some(rule), Some(port)) => rule.covers(port),
        (None, _) => true,
        (Some(_), None) => false,
    };
    let path = match (&entry.path, endpoint.path) {
        (Some(template), Some(path)) => template.matches(path),
        (None, None) => true,
        _ => false,
    };
    entry.protocol == endpoint.protocol && entry.family == endpoint.family && address && port && path
}

/// Everyone who holds it is allowed to; nobody at all is only right where nobody is certified.
pub(super) fn allows_owners(processes: &[Pattern], held_by: &BTreeSet<&str>) -> bool {
    if held_by.is_empty() {
        return processes.is_empty();
    }
    held_by.iter().all(|owner| processes.iter().any(|template| template.matches(owner)))
}

fn allows_raw(entry: &RawSocketEntry, socket: &Socket, held_by: &BTreeSet<&str>) -> bool {
    entry.family == socket.family
        && entry.protocol.as_ref().is_none_or(|protocol| socket.protocol.as_deref() == Some(protocol))
        && allows_owners(&entry.processes, held_by)
}

/// One new door of one program: its port (on whatever address, in whatever family) or its path.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Door<'s> {
    protocol: &'s str,
    place: String,
    owners: BTreeSet<&'s str>,
}

/// Family, protocol, and who holds it.
type RawKind<'s> = (Family, Option<&'s str>, BTreeSet<&'s str>);

#[derive(Default)]
struct Groups<'s> {
    listeners: BTreeMap<Door<'s>, Vec<(Endpoint<'s>, Found, &'s Socket)>>,
    raw: BTreeMap<RawKind<'s>, Vec<&'s Socket>>,
    unknown: BTreeMap<(&'static str, Family), Vec<&'s Socket>>,
}

impl<'s> Groups<'s> {
    fn listener(
        &mut self,
        endpoint: Endpoint<'s>,
        owners: BTreeSet<&'s str>,
        found: Found,
        socket: &'s Socket,
    ) {
        let place = match (endpoint.path, endpoint.port) {
            (Some(path), _) => path.to_owned(),
            // Chosen by the kernel, and another one each time.
            (None, Some(_)) if endpoint.is_ephemeral_udp() => PortRule::EPHEMERAL.to_string(),
            (None, Some(port)) => port.to_string(),
            (None, None) => "an unnamed place".to_owned(),
        };
        let door = Door { protocol: endpoint.protocol, place, owners };
        self.listeners.entry(door).or_default().push((endpoint, found, socket));
    }

    fn raw(&mut self, owners: BTreeSet<&'s str>, socket: &'s Socket) {
        self.raw.entry((socket.family, socket.protocol.as_deref(), owners)).or_default().push(socket);
    }

    fn drafts(self, certificate: &Certificate, drafts: &mut Drafts<'_>) {
        for (door, sockets) in self.listeners {
            let parts = [door.protocol, &door.place].into_iter().chain(door.owners.iter().copied());
            drafts.add(rule::LISTENER_UNKNOWN, &cause("listener", parts), || {
                listener_draft(&door, &sockets, certificate)
            });
        }
        for ((family, protocol, owners), sockets) in self.raw {
            let name = family_text(family);
            let parts = [&name, protocol.unwrap_or("any")].into_iter().chain(owners.iter().copied());
            drafts.add(rule::SOCKET_RAW, &cause("raw", parts), || {
                raw_draft(family, protocol, &owners, &sockets)
            });
        }
        for ((fact, family), sockets) in self.unknown {
            let name = family_text(family);
            drafts.add(rule::GUEST_BLIND, &cause("sockets", [&name, fact]), || {
                let draft = unknown_fact(&format!("{name} sockets"), fact, sockets.len());
                evidence(draft, sockets.iter().copied())
            });
        }
    }
}

fn listener_draft(
    door: &Door<'_>,
    sockets: &[(Endpoint<'_>, Found, &Socket)],
    certificate: &Certificate,
) -> Draft {
    let owners = owners_text(&door.owners);
    let place = format!("{} {}", shown(door.protocol), shown(&door.place));
    let holders: BTreeSet<String> = sockets
        .iter()
        .filter_map(|(_, found, _)| match found {
            Found::ForOthers(index) => certificate.listeners.get(*index),
            _ => None,
        })
        .map(
            |entry| if entry.processes.is_empty() { "the kernel".to_owned() } else { list(&entry.processes) },
        )
        .collect();
    let expected = match holders.is_empty() {
        true => "no listener there".to_owned(),
        false => format!("held by {}", list(&holders)),
    };
    let message = if holders.is_empty() {
        format!("{owners} listens on {place}, and the certificate allows no listener there")
    } else {
        format!("{owners} listens on {place}, which the certificate allows only when {expected}")
    };
    let endpoints: BTreeSet<String> = sockets.iter().map(|(endpoint, ..)| endpoint_text(endpoint)).collect();
    let draft = Draft::new(format!("listener {place} of {owners}"), message)
        .expected(expected)
        .seen(format!("held by {owners}"))
        .with("endpoints", list(&endpoints))
        .allow_with(listener_patch(door, sockets, certificate));
    evidence(draft, sockets.iter().map(|(_, _, socket)| *socket))
}

fn listener_patch(
    door: &Door<'_>,
    sockets: &[(Endpoint<'_>, Found, &Socket)],
    certificate: &Certificate,
) -> Patch {
    let mut patch = Patch::default();
    let mut proposed: Vec<ListenerEntry> = Vec::new();
    let mut extended: BTreeSet<usize> = BTreeSet::new();
    for (endpoint, found, socket) in sockets {
        match found {
            // An entry for the kernel itself stays one: to add a program to it would take the kernel out.
            Found::ForOthers(index) if !door.owners.is_empty() && has_owners(certificate, *index) => {
                if !extended.insert(*index) {
                    continue;
                }
                let Some(entry) = certificate.listeners.get(*index) else { continue };
                for owner in &door.owners {
                    if !entry.processes.iter().any(|template| template.matches(owner)) {
                        patch =
                            patch.add(&format!("/listeners/{index}/processes/-"), &Pattern::literal(owner));
                    }
                }
            }
            _ => {
                let entry = listener_entry(endpoint, &socket.processes, &door.owners);
                if !proposed.contains(&entry) {
                    patch = patch.add("/listeners/-", &entry);
                    proposed.push(entry);
                }
            }
        }
    }
    patch
}

fn has_owners(certificate: &Certificate, index: usize) -> bool {
    certificate.listeners.get(index).is_some_and(|entry| !entry.processes.is_empty())
}

fn raw_draft(family: Family, protocol: Option<&str>, owners: &BTreeSet<&str>, sockets: &[&Socket]) -> Draft {
    let kind = format!("{} {}", family_text(family), shown(protocol.unwrap_or("of unknown protocol")));
    let holders = owners_text(owners);
    let entry = RawSocketEntry {
        family,
        protocol: protocol.map(str::to_owned),
        processes: owners.iter().map(|owner| Pattern::literal(owner)).collect(),
    };
    let draft = Draft::new(
        format!("raw socket {kind} of {holders}"),
        format!("{holders} holds a raw socket ({kind}), and the certificate does not allow it"),
    )
    .expected("only certified raw sockets")
    .seen(format!("{kind} held by {holders}"))
    .allow_with(Patch::default().add("/raw_sockets/-", &entry));
    evidence(draft, sockets.iter().copied())
}

pub(super) fn evidence<'s>(draft: Draft, sockets: impl Iterator<Item = &'s Socket> + Clone) -> Draft {
    let pids: BTreeSet<u32> = sockets.clone().flat_map(|socket| socket.processes.iter().copied()).collect();
    let namespaces: BTreeSet<u32> = sockets.clone().filter_map(|socket| socket.net_namespace).collect();
    let draft = draft
        .with("socks", list(sockets.clone().map(|socket| socket.sock)))
        .views(sockets.flat_map(|socket| &socket.views));
    let draft = if pids.is_empty() { draft } else { draft.with("pids", list(&pids)) };
    if namespaces.is_empty() { draft } else { draft.with("net_namespaces", list(&namespaces)) }
}

pub(super) fn owners_text(owners: &BTreeSet<&str>) -> String {
    if owners.is_empty() { "no process".to_owned() } else { list(owners.iter().map(|owner| shown(owner))) }
}

fn endpoint_text(endpoint: &Endpoint<'_>) -> String {
    match (endpoint.path, endpoint.address, endpoint.port) {
        (Some(path), ..) => shown(path),
        (None, Some(address), Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
        (None, _, Some(port)) => port.to_string(),
        (None, Some(address), None) => address.to_string(),
        (None, None, None) => "unnamed".to_owned(),
    }
}

/// The family as a snapshot prints it.
pub(super) fn family_text(family: Family) -> String {
    serde_json::to_value(family).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}
