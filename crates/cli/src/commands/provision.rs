//! `birthmark certify --image`: a certificate out of an image that nothing has booted from, and what an image tells of a VM that
//! has.
//!
//! What an image tells is what could run, not what will: everything is allowed and nothing is required, and the rules for what no image
//! tells (listeners, identities) only alert. docs/birth-certificate.md says what comes from where. The same image gives the
//! same bytes: the clock is asked for one thing only, to refuse a certificate that would not hold today.

use crate::args::CertifyArgs;
use anyhow::{Context, bail};
use attest::{
    Action, AddressRule, Capabilities, Certificate, Count, Draft, FileEntry, Identity, KernelIdentity,
    ListenerEntry, ModuleEntry, Note, Origin, Pattern, Policy, PortRule, Presence, ProcessEntry,
    SchemaVersion, Statement, Subject, Validity,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use disk_image::{Image, ImageDigest, Inventory, Listen, Program, ProgramKind, Service, Socket};
use facts::{ExeState, Family, rule};
use guest_profiles::kernel_file::{self, KernelFile};
use guest_profiles::{Profile, linux::WANTED};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Most bytes of a kernel image.
const KERNEL_MAX: u64 = 512 << 20;
/// Most bytes of all page digests in base64, so that the certificate stays below the limit of verification.
const PAGES_MAX: usize = 6 << 20;
/// The first process, by the paths that the kernel tries (`kernel_init`).
const INIT: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/init"];

/// A draft, and the profiles of the kernels in it.
pub(crate) struct Provisioned {
    pub(crate) draft: Draft,
    pub(crate) profiles: Vec<Profile>,
}

pub(crate) fn draft(args: &CertifyArgs, path: &Path) -> anyhow::Result<Provisioned> {
    let failed = || format!("Cannot certify {}", path.display());
    let image = Image::open(path, args.partition).with_context(failed)?;
    let inventory = disk_image::inventory(&image.tree).with_context(failed)?;
    let validity = validity(args, &inventory).with_context(failed)?;
    let digest = image.digest().with_context(failed)?;
    let mut notes = Notes::default();
    let kernels =
        kernels(args, &image, &inventory, &mut notes).and_then(at_least_one).with_context(failed)?;
    let modules = modules(&kernels, &inventory);
    let kernels = identities_of_kernels(&kernels).with_context(failed)?;
    let processes = processes(&image, &inventory, &mut notes);
    let listeners = listeners(&image, &inventory, &mut notes);
    let files = files(&inventory, &mut notes);
    let mut policy = Policy::learned();
    for rule in [rule::LISTENER_UNKNOWN, rule::SOCKET_RAW, rule::PROCESS_IDENTITY] {
        policy.rules.entry(rule.to_owned()).or_default().action = Some(Action::Alert);
    }
    let profiles: Vec<Profile> = kernels.iter().map(|(_, profile)| profile.clone()).collect();
    let certificate = Certificate {
        schema: SchemaVersion::CURRENT,
        serial: args.serial,
        supersedes: None,
        service: args.service.clone(),
        validity,
        selector: args.selector().unwrap_or_default(),
        guest: attest::Guest {
            arch: "x86_64".to_owned(),
            kernels: kernels.into_iter().map(|(identity, _)| identity).collect(),
        },
        processes,
        listeners,
        flows: None,
        raw_sockets: Vec::new(),
        modules,
        files,
        // What an image loads is known only when it runs.
        ebpf: None,
        policy,
    };
    let mut about = vec![
        format!("Made from an image ({}, {} {}).", image.kind.name(), digest.algorithm, digest.hex),
        "Nothing has booted from it: what may run is known, and not what must run, what else listens and as whom it runs.".to_owned(),
    ];
    about.append(&mut notes.about);
    let mut statement = Statement::new(certificate, None);
    statement.subject.push(subject(digest));
    Ok(Provisioned { draft: Draft::new(statement, about, notes.of_entries), profiles })
}

/// What an image tells of VMs that are learned from. A kernel need not be in it.
pub(crate) fn origin(args: &CertifyArgs, path: &Path) -> anyhow::Result<Origin> {
    let failed = || format!("Cannot hold a VM against {}", path.display());
    let image = Image::open(path, args.partition).with_context(failed)?;
    let inventory = disk_image::inventory(&image.tree).with_context(failed)?;
    let subject = subject(image.digest().with_context(failed)?);
    let mut notes = Notes::default();
    let kernels = kernels(args, &image, &inventory, &mut notes).with_context(failed)?;
    let modules = modules(&kernels, &inventory);
    let kernels = identities_of_kernels(&kernels).with_context(failed)?;
    let kernels = kernels.into_iter().map(|(identity, _)| identity).collect();
    let files = files(&inventory, &mut notes);
    Ok(Origin { subject, files, kernels, modules, about: notes.about })
}

fn subject(digest: ImageDigest) -> Subject {
    let digest = BTreeMap::from([(digest.algorithm.to_owned(), digest.hex)]);
    Subject { name: "image".to_owned(), digest }
}

/// What is told to the person who signs.
#[derive(Default)]
struct Notes {
    about: Vec<String>,
    of_entries: Vec<Note>,
}

impl Notes {
    fn entry(&mut self, path: String, why: String, review: Vec<String>) {
        self.of_entries.push(Note { path, why, looks: None, vms: None, review });
    }
}

fn validity(args: &CertifyArgs, inventory: &Inventory) -> anyhow::Result<Validity> {
    let (not_before, from) = match (args.not_before, std::env::var("SOURCE_DATE_EPOCH")) {
        (Some(time), _) => (time, "--not-before"),
        (None, Ok(text)) => {
            let seconds =
                text.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?} and no number"))?;
            (Timestamp::from_second(seconds).context("SOURCE_DATE_EPOCH is no time")?, "SOURCE_DATE_EPOCH")
        }
        (None, Err(_)) => (
            Timestamp::from_second(inventory.newest).context("The newest file of the image has no time")?,
            "the newest file of the image",
        ),
    };
    let not_after = args.valid_for.after(not_before)?;
    // That of the operator may be for another day.
    if args.not_before.is_none() && not_after <= Timestamp::now() {
        bail!(
            "It would hold from {not_before} ({from}) to {not_after}, which is over: give --not-before or a longer --valid-for"
        );
    }
    Ok(Validity { not_before, not_after })
}

fn kernels(
    args: &CertifyArgs,
    image: &Image,
    inventory: &Inventory,
    notes: &mut Notes,
) -> anyhow::Result<Vec<KernelFile>> {
    if let Some(path) = &args.kernel {
        return Ok(vec![kernel_file::read(path, &WANTED)?]);
    }
    let mut found = Vec::new();
    let mut failed = None;
    for path in inventory.kernels.iter().filter_map(|kernel| kernel.image.as_ref()) {
        let bytes = image.tree.read(path, KERNEL_MAX)?;
        match kernel_file::parse(&bytes, &WANTED) {
            Ok(kernel) => found.push(kernel),
            Err(error) => {
                let error =
                    anyhow::Error::new(error).context(format!("The kernel {path} of the image is of no use"));
                notes.about.push(format!("{error:#}."));
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// Kernels, which a certificate cannot be without.
fn at_least_one(kernels: Vec<KernelFile>) -> anyhow::Result<Vec<KernelFile>> {
    if kernels.is_empty() {
        bail!("There is no kernel in it, in /boot or /lib/modules: say with --kernel which one its VMs run");
    }
    Ok(kernels)
}

fn identities_of_kernels(kernels: &[KernelFile]) -> anyhow::Result<Vec<(KernelIdentity, Profile)>> {
    let identity = |kernel: &KernelFile| {
        let profile = &kernel.profile;
        let btf_digest = profile.btf_digest.clone().with_context(|| {
            format!("The kernel {} has no type information of its own (CONFIG_DEBUG_INFO_BTF), by which it could be known in a VM", profile.release)
        })?;
        let (release, build_id) = (profile.release.clone(), profile.build_id.clone());
        Ok((KernelIdentity { release, build_id, btf_digest }, profile.clone()))
    };
    kernels.iter().map(identity).collect()
}

/// The modules of these kernels; those whose release is not known are of any.
fn modules(kernels: &[KernelFile], inventory: &Inventory) -> Vec<ModuleEntry> {
    let of =
        |release: &str| release.is_empty() || kernels.iter().any(|kernel| kernel.profile.release == release);
    let names: BTreeSet<&String> = inventory
        .kernels
        .iter()
        .filter(|files| of(&files.release))
        .flat_map(|files| &files.modules)
        .collect();
    names.into_iter().map(|name| ModuleEntry { name: Pattern::literal(name) }).collect()
}

fn identity(uid: u32, gid: u32, capabilities: Capabilities) -> Identity {
    Identity { uid, euid: uid, gid, egid: gid, capabilities }
}

/// What a service's user may do.
fn rights(service: &Service, full: bool) -> Option<Identity> {
    let all = Capabilities::from_mask(u64::MAX);
    if full {
        return Some(identity(0, 0, all));
    }
    let (uid, gid) = service.user?;
    if uid == 0 {
        return Some(identity(uid, gid, all));
    }
    let ambient = serde_json::to_value(&service.ambient).and_then(serde_json::from_value).unwrap_or_default();
    Some(identity(uid, gid, ambient))
}

fn processes(image: &Image, inventory: &Inventory, notes: &mut Notes) -> Vec<ProcessEntry> {
    let all = Capabilities::from_mask(u64::MAX);
    let mut of_services: BTreeMap<&str, (BTreeSet<Identity>, BTreeSet<&str>)> = BTreeMap::new();
    for service in &inventory.services {
        for (path, full) in &service.commands {
            let known = of_services.entry(program_of(image, inventory, path)).or_default();
            known.0.extend(rights(service, *full));
            known.1.insert(&service.unit);
        }
    }
    let mut entries = Vec::new();
    for program in inventory.programs.iter().filter(|program| program.kind == ProgramKind::Elf) {
        let mut identities = BTreeSet::from([identity(0, 0, all)]);
        identities.extend(set_id(program));
        let mut why = "it is in the image".to_owned();
        if let Some((of_units, units)) = of_services.get(program.path.as_str()) {
            identities.extend(of_units.iter().cloned());
            let units: Vec<_> = units.iter().copied().collect();
            why = format!("systemd starts it: {}", units.join(", "));
        }
        if let Some(package) = package(program) {
            why = format!("{why} (package {package})");
        }
        notes.entry(format!("/processes/{}", entries.len()), why, Vec::new());
        entries.push(ProcessEntry {
            executable: Some(Pattern::literal(&program.path)),
            exe_state: ExeState::Present,
            kernel_thread: false,
            names: Vec::new(),
            args: None,
            sha256: vec![program.sha256.clone()],
            identities: identities.into_iter().collect(),
            parents: None,
            count: Count::default(),
            presence: Presence::Allowed,
            container: None,
        });
    }
    let why = "the kernel's own, which no image tells the names of".to_owned();
    notes.entry(format!("/processes/{}", entries.len()), why, Vec::new());
    entries.push(ProcessEntry {
        executable: None,
        exe_state: ExeState::None,
        kernel_thread: true,
        names: Pattern::parse("**").into_iter().collect(),
        args: None,
        sha256: Vec::new(),
        identities: vec![identity(0, 0, all)],
        parents: None,
        count: Count::default(),
        presence: Presence::Allowed,
        container: None,
    });
    notes.about.extend(inventory.notes.iter().cloned());
    entries
}

/// As whom a set-id program runs when root starts it.
fn set_id(program: &Program) -> Option<Identity> {
    let (set_uid, set_gid) = (program.mode & 0o4000 != 0, program.mode & 0o2000 != 0);
    let euid = if set_uid { program.uid } else { 0 };
    let egid = if set_gid { program.gid } else { 0 };
    let capabilities = if euid == 0 { Capabilities::from_mask(u64::MAX) } else { Capabilities::default() };
    (set_uid || set_gid).then_some(Identity { uid: 0, euid, gid: 0, egid, capabilities })
}

/// The program that a process has which runs this file: of a script it is the interpreter.
fn program_of<'i>(image: &'i Image, inventory: &'i Inventory, path: &'i str) -> &'i str {
    let index = inventory.programs.binary_search_by(|program| program.path.as_str().cmp(path));
    match index.ok().and_then(|index| inventory.programs.get(index)).map(|program| &program.kind) {
        Some(ProgramKind::Script { interpreter }) => image.tree.resolve(interpreter).unwrap_or(path),
        _ => path,
    }
}

fn package(program: &Program) -> Option<String> {
    program.package.as_ref().map(|package| format!("{}={}", package.name, package.version))
}

fn files(inventory: &Inventory, notes: &mut Notes) -> Vec<FileEntry> {
    let mut pages: Vec<String> =
        inventory.programs.iter().map(|program| STANDARD.encode(program.pages.concat())).collect();
    if pages.iter().map(String::len).sum::<usize>() > PAGES_MAX {
        notes
            .about
            .push(format!("Digests of pages would take more than {PAGES_MAX} bytes and are left out."));
        pages.iter_mut().for_each(String::clear);
    }
    let entry = |(program, pages): (&Program, String)| FileEntry {
        path: program.path.clone(),
        sha256: program.sha256.clone(),
        size: program.size,
        package: package(program),
        pages: (!pages.is_empty()).then_some(pages),
    };
    inventory.programs.iter().zip(pages).map(entry).collect()
}

fn listeners(image: &Image, inventory: &Inventory, notes: &mut Notes) -> Vec<ListenerEntry> {
    let init = INIT.iter().find_map(|path| image.tree.resolve(path));
    let mut entries: Vec<ListenerEntry> = Vec::new();
    for socket in &inventory.sockets {
        let service = inventory.services.iter().find(|service| service.unit == socket.service);
        let commands = service.into_iter().flat_map(|service| &service.commands);
        let holders: BTreeSet<&str> =
            init.into_iter().chain(commands.map(|(path, _)| program_of(image, inventory, path))).collect();
        let holders: Vec<Pattern> = holders.into_iter().map(Pattern::literal).collect();
        for entry in socket.listens.iter().flat_map(|listen| listens(listen, socket, &holders)) {
            if !entries.contains(&entry) {
                let path = format!("/listeners/{}", entries.len());
                notes.entry(path, format!("{} of systemd listens there", socket.unit), Vec::new());
                entries.push(entry);
            }
        }
    }
    entries
}

/// What a line of a socket unit makes (`systemd.socket(5)`). A datagram socket of the unix family does not listen.
fn listens(listen: &Listen, socket: &Socket, holders: &[Pattern]) -> Vec<ListenerEntry> {
    let (place, protocol, unix) = match listen {
        Listen::Stream(place) => (place, "tcp", true),
        Listen::SequentialPacket(place) => (place, "tcp", true),
        Listen::Datagram(place) => (place, "udp", false),
    };
    let new = |family, protocol: &str| ListenerEntry {
        protocol: protocol.to_owned(),
        family,
        address: None,
        port: None,
        path: None,
        processes: holders.to_vec(),
    };
    if place.starts_with(['/', '@', '%']) {
        let path = specifiers(place, &socket.unit).filter(|_| unix);
        return path
            .map(|path| ListenerEntry { path: Some(path), ..new(Family::Unix, "unix") })
            .into_iter()
            .collect();
    }
    let at = |address: AddressRule, family, port| ListenerEntry {
        address: Some(address),
        port: Some(PortRule::exactly(port)),
        ..new(family, protocol)
    };
    if let Ok(port) = place.parse::<u16>() {
        // One socket for both families, or one for each: `BindIPv6Only=`.
        return vec![
            at(AddressRule::Exactly(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), Family::Inet, port),
            at(AddressRule::Exactly(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), Family::Inet6, port),
        ];
    }
    match place.parse::<SocketAddr>() {
        Ok(SocketAddr::V4(v4)) => vec![at(AddressRule::Exactly((*v4.ip()).into()), Family::Inet, v4.port())],
        Ok(SocketAddr::V6(v6)) => vec![at(AddressRule::Exactly((*v6.ip()).into()), Family::Inet6, v6.port())],
        // vsock, a device, a name: whoever needs it accepts it when it is seen.
        Err(_) => Vec::new(),
    }
}

/// A path with systemd's specifiers (`systemd.unit(5)`): `%t` is `/run`, and any other part is left open.
fn specifiers(place: &str, unit: &str) -> Option<Pattern> {
    let mut template = String::new();
    let mut rest = place;
    while let Some((before, after)) = rest.split_once('%') {
        template.push_str(Pattern::literal(before).as_str());
        let mut letters = after.chars();
        match letters.next() {
            Some('t') => template.push_str("/run"),
            Some('%') => template.push('%'),
            Some('n') => template.push_str(Pattern::literal(unit).as_str()),
            Some(_) => template.push('*'),
            None => return None,
        }
        rest = letters.as_str();
    }
    template.push_str(Pattern::literal(rest).as_str());
    Pattern::parse(&template).ok()
}
