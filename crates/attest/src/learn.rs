//! Makes a birth certificate from looks at a VM that is known to be good.
//!
//! **Presence.** A program is *required* when its absence should raise an alarm: it was seen in every snapshot, and it is the
//! first process or a direct child of it, which is what an init system starts. A login shell that was open all the time is
//! not a service. Kernel threads are never required: they come and go with load. All else that was seen is *allowed*.
//!
//! **What varies is left open**, as little as possible: numbers in the names of kernel threads, all kworkers, the number
//! of processes of a program, UDP ports that the kernel chose (and TCP ones that differ between the snapshots), interface
//! addresses, and the owner's pid in the path of a unix socket. Nothing about a run gets in: no pid, no address.
//!
//! A snapshot in which something is unknown is refused: what it hides would be missing in the certificate. Must never
//! invent a fact, and never sign.

use crate::Error;
use crate::blind::blind_tables;
use crate::certificate::{
    AddressRule, Certificate, Count, Guest, Identity, KernelIdentity, ListenerEntry, ModuleEntry, PortRule,
    Presence, ProcessEntry, RawSocketEntry, SchemaVersion, Selector, Statement, Validity,
};
use crate::pattern::Pattern;
use crate::policy::Policy;
use crate::reading::{Endpoint, Owners, Role, Standing, Unknown, identity, name_template, role, standing};
use crate::text::shown;
use facts::{ExeState, Family, Process, Snapshot, Socket};
use std::collections::{BTreeMap, BTreeSet};

/// What cannot be seen in a snapshot.
#[derive(Clone, Debug)]
pub struct LearnOptions {
    /// Name of the service.
    pub service: String,
    /// 1 for the first certificate of a service, then one more each time.
    pub serial: u64,
    /// When it holds.
    pub validity: Validity,
    /// Which VMs it is for. `None`: those named like the ones learned from.
    pub selector: Option<Selector>,
    /// SHA-256 of the image the VMs start from, lower-case hex, where known.
    pub image_sha256: Option<String>,
    /// Learn also from a snapshot in which something is unknown; what is unknown is left out.
    pub accept_unknown: bool,
}

/// Learns from one or more snapshots, of one VM or of several of the same service.
pub fn certify(snapshots: &[Snapshot], options: &LearnOptions) -> Result<Statement, Error> {
    let first = snapshots.first().ok_or(Error::NoSnapshot)?;
    let mut learner =
        Learner { looks: snapshots.len(), strict: !options.accept_unknown, ..Learner::default() };
    for (index, snapshot) in snapshots.iter().enumerate() {
        learner.look(index, snapshot)?;
    }
    let names: BTreeSet<_> = snapshots.iter().map(|snapshot| Pattern::literal(&snapshot.vm.name)).collect();
    let selector = options
        .selector
        .clone()
        .unwrap_or_else(|| Selector { names: names.into_iter().collect(), uuids: Vec::new() });
    let certificate = Certificate {
        schema: SchemaVersion::CURRENT,
        serial: options.serial,
        service: options.service.clone(),
        validity: options.validity,
        selector,
        guest: Guest { arch: first.kernel.arch.clone(), kernels: learner.kernels.into_iter().collect() },
        processes: learner.programs.entries(learner.looks),
        listeners: listeners(learner.listeners, learner.looks),
        raw_sockets: raw_sockets(learner.raw),
        modules: learner.modules.into_iter().map(|name| ModuleEntry { name }).collect(),
        policy: Policy::learned(),
    };
    Ok(Statement::new(certificate, options.image_sha256.as_deref()))
}

#[derive(Default)]
struct Learner {
    looks: usize,
    strict: bool,
    kernels: BTreeSet<KernelIdentity>,
    programs: Programs,
    listeners: BTreeMap<ListenerKey, Seen>,
    raw: BTreeMap<(Family, Option<String>), BTreeSet<String>>,
    modules: BTreeSet<Pattern>,
}

#[derive(Default)]
struct Seen {
    owners: BTreeSet<String>,
    looks: BTreeSet<usize>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ListenerKey {
    protocol: String,
    family: Family,
    address: Option<AddressRule>,
    port: Option<PortRule>,
    path: Option<Pattern>,
}

impl Learner {
    fn look(&mut self, index: usize, snapshot: &Snapshot) -> Result<(), Error> {
        if let Some(first) = snapshot.kernel.profile.contradictions.first() {
            return Err(Error::KernelContradicted {
                index,
                vm: snapshot.vm.name.clone(),
                first: shown(first),
            });
        }
        if let Some(blind) = blind_tables(snapshot).first().filter(|_| self.strict) {
            return Err(Error::TableUnknown {
                index,
                vm: snapshot.vm.name.clone(),
                table: blind.table,
                count: blind.problems.len(),
                location: shown(blind.problems.first().map_or("the table", |p| &p.location)),
                detail: shown(blind.problems.first().map_or("it is empty", |p| &p.detail)),
            });
        }
        let kernel = &snapshot.kernel;
        let unknown = |object: String, Unknown(fact): Unknown| Error::FactUnknown {
            index,
            vm: snapshot.vm.name.clone(),
            object,
            fact,
        };
        // Never left out: a certificate that names no kernel certifies nothing.
        let btf_digest =
            kernel.btf_digest.clone().ok_or_else(|| unknown("kernel".to_owned(), Unknown("btf_digest")))?;
        self.kernels.insert(KernelIdentity {
            release: kernel.release.clone(),
            build_id: kernel.build_id.clone(),
            btf_digest,
        });
        for process in &snapshot.processes {
            match self.programs.add(index, process) {
                Err(fact) if self.strict => {
                    let object = format!("process {} (pid {})", shown(&process.name), process.pid);
                    return Err(unknown(object, fact));
                }
                Err(_) | Ok(()) => {}
            }
        }
        let owners = Owners::new(snapshot);
        for socket in &snapshot.sockets {
            match self.socket(index, socket, &owners) {
                Err(fact) if self.strict => {
                    return Err(unknown(format!("socket at {}", socket.sock), fact));
                }
                Err(_) | Ok(()) => {}
            }
        }
        self.modules.extend(snapshot.modules.iter().map(|module| Pattern::literal(&module.name)));
        Ok(())
    }

    fn socket(&mut self, index: usize, socket: &Socket, owners: &Owners<'_>) -> Result<(), Unknown> {
        let role = role(socket)?;
        if role == Role::Other {
            return Ok(());
        }
        let owners = owners.of(socket)?.into_iter().map(str::to_owned);
        if let Role::Listener(endpoint) = role {
            let seen = self.listeners.entry(listener_key(&endpoint, &socket.processes)).or_default();
            seen.owners.extend(owners);
            seen.looks.insert(index);
        } else {
            self.raw.entry((socket.family, socket.protocol.clone())).or_default().extend(owners);
        }
        Ok(())
    }
}

/// What is certified of an endpoint, with what varies left open.
fn listener_key(endpoint: &Endpoint<'_>, pids: &[u32]) -> ListenerKey {
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
    let path = endpoint.path.map(|path| path_template(path, pids));
    ListenerKey {
        protocol: endpoint.protocol.to_owned(),
        family: endpoint.family,
        address,
        port: port.filter(|_| endpoint.path.is_none()),
        path,
    }
}

/// The path with every number that is the pid of an owner left open.
fn path_template(path: &str, pids: &[u32]) -> Pattern {
    let mut template = String::new();
    let mut rest = path;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let length =
            if digits > 0 { digits } else { rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()) };
        let (part, after) = rest.split_at(length);
        if digits > 0 && part.parse().is_ok_and(|number: u32| pids.contains(&number)) {
            template.push('#');
        } else {
            template.push_str(Pattern::literal(part).as_str());
        }
        rest = after;
    }
    Pattern::parse(&template).unwrap_or_else(|_| Pattern::literal(path))
}

/// The smallest listener entry that allows this endpoint for these owners.
pub(crate) fn listener_entry(
    endpoint: &Endpoint<'_>,
    pids: &[u32],
    owners: &BTreeSet<&str>,
) -> ListenerEntry {
    let key = listener_key(endpoint, pids);
    finish_listener(key, owners.iter().map(|owner| Pattern::literal(owner)).collect())
}

fn finish_listener(key: ListenerKey, processes: Vec<Pattern>) -> ListenerEntry {
    let ListenerKey { protocol, family, address, port, path } = key;
    ListenerEntry { protocol, family, address, port, path, processes }
}

fn listeners(seen: BTreeMap<ListenerKey, Seen>, looks: usize) -> Vec<ListenerEntry> {
    let mut merged: BTreeMap<ListenerKey, BTreeSet<String>> = BTreeMap::new();
    for (mut key, seen) in seen {
        let chosen = key.port.is_some_and(|port| PortRule::EPHEMERAL.covers(port.first));
        if chosen && seen.looks.len() < looks {
            key.port = Some(PortRule::EPHEMERAL);
        }
        merged.entry(key).or_default().extend(seen.owners);
    }
    merged
        .into_iter()
        .map(|(key, owners)| {
            finish_listener(key, owners.iter().map(|owner| Pattern::literal(owner)).collect())
        })
        .collect()
}

fn raw_sockets(seen: BTreeMap<(Family, Option<String>), BTreeSet<String>>) -> Vec<RawSocketEntry> {
    seen.into_iter()
        .map(|((family, protocol), owners)| RawSocketEntry {
            family,
            protocol,
            processes: owners.iter().map(|owner| Pattern::literal(owner)).collect(),
        })
        .collect()
}

/// Programs seen, told apart by executable and name, so that two tools in one binary (or two scripts of one interpreter)
/// are two entries, each with its own identities.
#[derive(Default)]
pub(crate) struct Programs {
    programs: BTreeMap<ProgramKey, Program>,
    kernel_threads: Program,
    /// Processes that were just ending: by then nothing but the name and the identity is left of a program.
    dying: BTreeMap<Pattern, BTreeSet<Identity>>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ProgramKey {
    executable: Option<Pattern>,
    /// [`ExeState`] by its place in the enumeration, for the order.
    exe_state: u8,
    in_container: bool,
    name: Pattern,
}

#[derive(Default)]
struct Program {
    names: BTreeSet<Pattern>,
    identities: BTreeSet<Identity>,
    looks: BTreeSet<usize>,
    started_by_init: bool,
}

impl Programs {
    /// Adds one process. `Err`: a fact that a certificate needs is unknown, and the process is left out.
    pub(crate) fn add(&mut self, look: usize, process: &Process) -> Result<(), Unknown> {
        let name = name_template(process);
        let program = match standing(process)? {
            Standing::Gone => return Ok(()),
            Standing::Dying => {
                self.dying.entry(name).or_default().insert(identity(process)?);
                return Ok(());
            }
            // No certificate can allow it.
            Standing::FalseKernelThread => return Err(Unknown("kernel_thread")),
            Standing::KernelThread => {
                let identity = identity(process)?;
                self.kernel_threads.identities.insert(identity);
                &mut self.kernel_threads
            }
            running @ (Standing::Program(..) | Standing::Leaderless) => {
                let (path, state) = match running {
                    Standing::Program(path, state) => (path, state),
                    _ => (None, ExeState::None),
                };
                let identity = identity(process)?;
                let key = ProgramKey {
                    executable: path.map(Pattern::literal),
                    exe_state: state as u8,
                    in_container: process.container.is_some(),
                    name: name.clone(),
                };
                let program = self.programs.entry(key).or_default();
                program.identities.insert(identity);
                program
            }
        };
        program.names.insert(name);
        program.looks.insert(look);
        program.started_by_init |= process.pid == 1 || process.ppid == Some(1);
        Ok(())
    }

    /// A program that was only seen while it ended is an entry of its own, without an executable.
    fn add_the_dying(&mut self) {
        for (name, identities) in std::mem::take(&mut self.dying) {
            let covers =
                |known: &Pattern| *known == name || name.as_literal().is_some_and(|name| known.matches(name));
            let covered = self
                .programs
                .values()
                .chain([&self.kernel_threads])
                .flat_map(|program| &program.names)
                .any(covers);
            if !covered {
                let key = ProgramKey {
                    executable: None,
                    exe_state: ExeState::None as u8,
                    in_container: false,
                    name: name.clone(),
                };
                let program = self.programs.entry(key).or_default();
                program.names.insert(name);
                program.identities.extend(identities);
            }
        }
    }

    /// The entries, kernel threads last. `looks`: how many snapshots there were; 0 for entries that are only allowed.
    pub(crate) fn entries(mut self, looks: usize) -> Vec<ProcessEntry> {
        self.add_the_dying();
        let mut entries: Vec<_> = self
            .programs
            .into_iter()
            .map(|(key, program)| {
                let required = looks > 0 && program.looks.len() == looks && program.started_by_init;
                ProcessEntry {
                    executable: key.executable,
                    exe_state: exe_state(key.exe_state),
                    kernel_thread: false,
                    names: program.names.into_iter().collect(),
                    args: None,
                    identities: program.identities.into_iter().collect(),
                    count: Count { min: u32::from(required), max: None },
                    presence: if required { Presence::Required } else { Presence::Allowed },
                    container: key.in_container.then(|| Pattern::parse("*").ok()).flatten(),
                }
            })
            .collect();
        if !self.kernel_threads.names.is_empty() {
            entries.push(ProcessEntry {
                executable: None,
                exe_state: ExeState::None,
                kernel_thread: true,
                names: self.kernel_threads.names.into_iter().collect(),
                args: None,
                identities: self.kernel_threads.identities.into_iter().collect(),
                count: Count::default(),
                presence: Presence::Allowed,
                container: None,
            });
        }
        entries
    }
}

fn exe_state(index: u8) -> ExeState {
    [ExeState::Present, ExeState::Deleted, ExeState::Memfd]
        .into_iter()
        .find(|state| *state as u8 == index)
        .unwrap_or(ExeState::None)
}
