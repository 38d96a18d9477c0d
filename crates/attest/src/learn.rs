//! Makes a birth certificate from looks at VMs that are known to be good.
//!
//! **Presence.** A program is *required* when its absence should raise an alarm: it was seen in every look, and it is the
//! first process or a direct child of it, which is what an init system starts. A login shell that was open all the time is
//! not a service. Kernel threads are never required: they come and go with load. All else that was seen is *allowed*.
//!
//! **What varies is left open**, as little as possible: `programs` and `sockets` say what. Nothing about a run gets in: no
//! pid, no address. What was left open, or seen only once, is noted for the person who signs.
//!
//! A snapshot in which something is unknown is refused: what it hides would be missing in the certificate. A look is taken
//! whole or not at all. Must never invent a fact, and never sign.

mod draft;
mod pairs;
mod programs;
mod sightings;
mod sockets;

pub use draft::{DRAFT_SCHEMA, Draft, Note};
pub(crate) use programs::{Programs, parent_template};
pub(crate) use sightings::Look;
pub(crate) use sockets::listener_entry;

use crate::Error;
use crate::blind::blind_tables;
use crate::certificate::{
    Certificate, EbpfEntry, Guest, KernelIdentity, ModuleEntry, SchemaVersion, Selector, Statement, Validity,
};
use crate::pattern::Pattern;
use crate::policy::Policy;
use crate::reading::{Owners, Serving, Unknown};
use crate::text::shown;
use facts::Snapshot;
use serde::{Deserialize, Serialize};
use sockets::Sockets;
use std::collections::{BTreeMap, BTreeSet};

/// Most different things that are learned: beyond this no person reads it, and a guest could fill the host's memory.
const FACTS_MAX: usize = 20_000;

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
    /// Certify flows too.
    pub flows: bool,
}

/// Learns from one or more snapshots, of one VM or of several of the same service.
pub fn certify(snapshots: &[Snapshot], options: &LearnOptions) -> Result<Statement, Error> {
    let mut learner = Learner::new(options);
    for snapshot in snapshots {
        learner.look(snapshot)?;
    }
    learner.draft(options).map(|draft| draft.statement)
}

/// Learns look by look. Its size depends on what is seen, not on how often. It can be stored (it is serde) and goes on where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learner {
    strict: bool,
    flows: bool,
    looks: usize,
    /// Ids of the VMs, each with its number.
    vms: BTreeMap<String, usize>,
    names: BTreeSet<String>,
    arch: String,
    #[serde(with = "pairs")]
    kernels: BTreeMap<KernelIdentity, sightings::Sightings>,
    programs: Programs,
    sockets: Sockets,
    #[serde(with = "pairs")]
    modules: BTreeMap<Pattern, sightings::Sightings>,
    #[serde(with = "pairs")]
    ebpf: BTreeMap<EbpfEntry, sightings::Sightings>,
    /// Some look did not know the eBPF programs: then nothing can be said of them.
    ebpf_unknown: bool,
}

impl Learner {
    /// Has seen nothing.
    #[must_use]
    pub fn new(options: &LearnOptions) -> Self {
        Self::empty(!options.accept_unknown, options.flows)
    }

    fn empty(strict: bool, flows: bool) -> Self {
        Self {
            strict,
            flows,
            looks: 0,
            vms: BTreeMap::new(),
            names: BTreeSet::new(),
            arch: String::new(),
            kernels: BTreeMap::new(),
            programs: Programs::default(),
            sockets: Sockets::default(),
            modules: BTreeMap::new(),
            ebpf: BTreeMap::new(),
            ebpf_unknown: false,
        }
    }

    /// Number of looks taken.
    #[must_use]
    pub fn looks(&self) -> usize {
        self.looks
    }

    /// Takes one look. `Err`: it is not fit to learn from, and nothing of it was taken.
    pub fn look(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        // What is not fit is found out on an empty learner, so that this one stays as it was.
        Self::empty(self.strict, self.flows).take(self.looks, snapshot)?;
        self.take(self.looks, snapshot)
    }

    fn take(&mut self, index: usize, snapshot: &Snapshot) -> Result<(), Error> {
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
        if self.looks > 0 && self.arch != kernel.arch {
            let (one, other) = (self.arch.clone(), kernel.arch.clone());
            return Err(Error::SeveralArchitectures { one, other });
        }
        let known = self.programs.len().saturating_add(self.sockets.len());
        if known.saturating_add(self.modules.len()).saturating_add(self.ebpf.len()) > FACTS_MAX {
            return Err(Error::TooMuchToLearn { limit: FACTS_MAX });
        }
        let next = self.vms.len();
        let vm = *self.vms.entry(snapshot.vm.id.clone()).or_insert(next);
        let look = Look { number: index, vm };
        self.names.insert(snapshot.vm.name.clone());
        self.arch.clone_from(&kernel.arch);
        let identity =
            KernelIdentity { release: kernel.release.clone(), build_id: kernel.build_id.clone(), btf_digest };
        self.kernels.entry(identity).or_default().add(look);
        let owners = Owners::new(snapshot);
        for process in &snapshot.processes {
            match self.programs.add(look, process, &owners) {
                Err(fact) if self.strict => {
                    let object = format!("process {} (pid {})", shown(&process.name), process.pid);
                    return Err(unknown(object, fact));
                }
                Err(_) | Ok(()) => {}
            }
        }
        let serving = self.flows.then(|| Serving::new(snapshot));
        for socket in &snapshot.sockets {
            match self.sockets.add(look, socket, &owners, serving.as_ref()) {
                Err(fact) if self.strict => {
                    return Err(unknown(format!("socket at {}", socket.sock), fact));
                }
                Err(_) | Ok(()) => {}
            }
        }
        for module in &snapshot.modules {
            self.modules.entry(Pattern::literal(&module.name)).or_default().add(look);
        }
        self.ebpf_unknown |= snapshot.ebpf_programs.is_none();
        for program in snapshot.ebpf_programs.iter().flatten() {
            match EbpfEntry::of(program) {
                Ok(entry) => self.ebpf.entry(entry).or_default().add(look),
                Err(fact) if self.strict => {
                    return Err(unknown(format!("eBPF program at {}", program.program), Unknown(fact)));
                }
                Err(_) => {}
            }
        }
        self.looks = self.looks.saturating_add(1);
        Ok(())
    }

    /// What was learned, to be reviewed and signed. The options are those of [`Learner::new`]; only the validity may be
    /// another, since it counts from the end of the observation.
    pub fn draft(&self, options: &LearnOptions) -> Result<Draft, Error> {
        if self.looks == 0 {
            return Err(Error::NoSnapshot);
        }
        let (looks, vms) = (self.looks, self.vms.len());
        let mut notes = Vec::new();
        let mut note = |section: &str, index: usize, noted: draft::Noted| {
            notes.push(noted.finish(format!("/{section}/{index}"), looks, vms));
        };
        let mut kernels = Vec::new();
        for (index, (kernel, seen)) in self.kernels.iter().enumerate() {
            kernels.push(kernel.clone());
            note("guest/kernels", index, draft::Noted::new(seen.clone(), "it ran"));
        }
        let mut processes = Vec::new();
        for (index, (entry, noted)) in self.programs.clone().entries(looks).into_iter().enumerate() {
            processes.push(entry);
            note("processes", index, noted);
        }
        let mut listeners = Vec::new();
        for (index, (entry, noted)) in self.sockets.listeners(looks).into_iter().enumerate() {
            listeners.push(entry);
            note("listeners", index, noted);
        }
        let flows = self.flows.then(|| {
            let (flows, [egress, ingress]) = self.sockets.flows();
            for (section, noted) in [("flows/egress", egress), ("flows/ingress", ingress)] {
                noted.into_iter().enumerate().for_each(|(index, noted)| note(section, index, noted));
            }
            flows
        });
        let mut raw_sockets = Vec::new();
        for (index, (entry, noted)) in self.sockets.raw_sockets().into_iter().enumerate() {
            raw_sockets.push(entry);
            note("raw_sockets", index, noted);
        }
        let mut modules = Vec::new();
        for (index, (name, seen)) in self.modules.iter().enumerate() {
            modules.push(ModuleEntry { name: name.clone() });
            note("modules", index, draft::Noted::new(seen.clone(), "it was loaded"));
        }
        let ebpf = (!self.ebpf_unknown).then(|| self.ebpf.keys().cloned().collect());
        for (index, seen) in self.ebpf.values().enumerate().filter(|_| !self.ebpf_unknown) {
            note("ebpf", index, draft::Noted::new(seen.clone(), "it was loaded"));
        }
        let names = self.names.iter().map(|name| Pattern::literal(name)).collect();
        let certificate = Certificate {
            schema: SchemaVersion::CURRENT,
            serial: options.serial,
            supersedes: None,
            service: options.service.clone(),
            validity: options.validity,
            selector: options.selector.clone().unwrap_or(Selector { names, ..Selector::default() }),
            guest: Guest { arch: self.arch.clone(), kernels },
            processes,
            listeners,
            flows,
            raw_sockets,
            modules,
            files: Vec::new(),
            ebpf,
            policy: Policy::learned(),
        };
        let names: Vec<_> = self.names.iter().map(|name| shown(name)).collect();
        let about = vec![format!("Learned from {looks} looks at {vms} VMs: {}.", names.join(", "))];
        let statement = Statement::new(certificate, options.image_sha256.as_deref());
        Ok(Draft::new(statement, about, notes))
    }
}
