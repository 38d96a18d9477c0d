//! The page that a person reads before signing: what is allowed, why, seen how often, and what needs an eye.
//!
//! Plain text, since it has to be read in a terminal, a mail and a merge request. The warnings are about the certificate as
//! it stands, whoever wrote it. Must never leave out an entry: what is not on the page would be signed unread.

use crate::certificate::Certificate;
use crate::describe;
use crate::diff::{ChangeKind, diff};
use crate::generalise::is_temporary;
use crate::learn::{Draft, Note};
use crate::pattern::Pattern;
use crate::policy::{Action, Mode, rule_names};
use crate::text::{all, safe, shown};
use facts::ExeState;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Characters that a template must determine at least; with fewer it is told as one for nearly everything.
const DETERMINES: usize = 2;
/// Ports of a range from which on it is told as a wide one.
const WIDE: u16 = 1024;
/// Days from which on a validity is told as a long one.
const LONG_DAYS: i64 = 2 * 366;

/// Something about a certificate that a person should know before signing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// JSON Pointer of what it is about, in the predicate.
    pub path: String,
    /// One sentence.
    pub text: String,
}

/// What in the certificate lets more through than its writer may have meant.
#[must_use]
pub fn warnings(certificate: &Certificate) -> Vec<Warning> {
    let mut found = Warnings(Vec::new());
    for (kind, templates) in [("names", &certificate.selector.names), ("uuids", &certificate.selector.uuids)]
    {
        found.open(&format!("/selector/{kind}"), "VMs", templates);
    }
    for (index, one) in certificate.selector.metadata.iter().enumerate() {
        found.open(&format!("/selector/metadata/{index}"), "VMs", std::slice::from_ref(&one.value));
    }
    let seconds = certificate.validity.not_after.duration_since(certificate.validity.not_before).as_secs();
    if seconds > LONG_DAYS.saturating_mul(86_400) {
        found.add("/validity", format!("it holds for {} days", seconds / 86_400));
    }
    found.processes(certificate);
    for (index, entry) in certificate.listeners.iter().enumerate() {
        let path = format!("/listeners/{index}");
        found.open(&path, "programs", &entry.processes);
        found.open(&path, "paths", entry.path.as_slice());
        found.ports(&path, entry.port);
    }
    if let Some(flows) = &certificate.flows {
        for (direction, entries) in [("egress", &flows.egress), ("ingress", &flows.ingress)] {
            for (index, entry) in entries.iter().enumerate() {
                let path = format!("/flows/{direction}/{index}");
                if direction == "egress" && entry.cidr.is_everything() {
                    found.add(&path, "it may call anybody at that port".to_owned());
                }
                found.open(&path, "programs", &entry.processes);
                found.ports(&path, Some(entry.port));
            }
        }
    }
    for (index, entry) in certificate.raw_sockets.iter().enumerate() {
        found.open(&format!("/raw_sockets/{index}"), "programs", &entry.processes);
    }
    for (index, entry) in certificate.modules.iter().enumerate() {
        found.open(&format!("/modules/{index}"), "modules", std::slice::from_ref(&entry.name));
    }
    for (index, entry) in certificate.ebpf.iter().flatten().enumerate() {
        let path = format!("/ebpf/{index}");
        if let Some(name) = &entry.name {
            found.open(&path, "names", std::slice::from_ref(name));
        }
        if entry.tag.is_none() {
            found.add(&path, "its instructions may be any".to_owned());
        }
    }
    if certificate.policy.mode == Mode::Monitor {
        found.add(
            "/policy/mode",
            "no action is ever taken, except by rules that say so themselves".to_owned(),
        );
    }
    for rule in certificate.policy.rules.keys().filter(|rule| !rule_names().any(|name| name == rule.as_str()))
    {
        found.add(
            "/policy/rules",
            format!("this program has no rule {:?}, so what is said of it does nothing", shown(rule)),
        );
    }
    found.0
}

struct Warnings(Vec<Warning>);

impl Warnings {
    fn add(&mut self, path: &str, text: String) {
        self.0.push(Warning { path: path.to_owned(), text });
    }

    fn open(&mut self, path: &str, what: &str, templates: &[Pattern]) {
        for template in templates {
            if template.as_literal().is_none() && template.determines() < DETERMINES {
                self.add(path, format!("{:?} matches nearly all {what} there are", template.as_str()));
            }
        }
    }

    fn ports(&mut self, path: &str, port: Option<crate::PortRule>) {
        if let Some(port) = port.filter(|port| port.last.saturating_sub(port.first) >= WIDE) {
            self.add(path, format!("the ports {port} are many"));
        }
    }

    fn processes(&mut self, certificate: &Certificate) {
        for (index, entry) in certificate.processes.iter().enumerate() {
            let path = format!("/processes/{index}");
            self.open(&path, "programs", entry.executable.as_slice());
            if entry.kernel_thread {
                self.open(&path, "kernel threads", &entry.names);
                continue;
            }
            match entry.exe_state {
                ExeState::Present => {}
                ExeState::Deleted => self.add(&path, "its executable need not exist any more".to_owned()),
                ExeState::Memfd => self.add(&path, "it runs from memory, without any file".to_owned()),
                ExeState::None => self.add(&path, "it was only seen ending: by its name alone".to_owned()),
            }
            if entry.executable.as_ref().is_some_and(|executable| is_temporary(executable.as_str())) {
                self.add(&path, "it runs from a directory that many may write to".to_owned());
            }
            let mighty =
                |identity: &&crate::Identity| identity.euid != 0 && identity.capabilities.mask() == u64::MAX;
            if let Some(identity) = entry.identities.iter().find(mighty) {
                self.add(&path, format!("user {} may have every capability there", identity.euid));
            }
        }
    }
}

/// The page about a draft.
#[must_use]
pub fn review(draft: &Draft) -> String {
    page(draft, None)
}

/// The page about a draft that would replace a certificate: what is different is told before everything that it allows.
#[must_use]
pub fn review_since(draft: &Draft, since: &Certificate) -> String {
    page(draft, Some(since))
}

fn page(draft: &Draft, since: Option<&Certificate>) -> String {
    let certificate = &draft.statement.predicate;
    let mut page = Page(String::new());
    page.line(&format!(
        "Birth certificate of {}, serial {}: for review",
        shown(&certificate.service),
        certificate.serial
    ));
    page.line("");
    for sentence in &draft.about {
        page.line(&safe(sentence));
    }
    page.field(
        "Valid",
        &format!("{} to {}", certificate.validity.not_before, certificate.validity.not_after),
    );
    let chosen = certificate.selector.described();
    page.field(
        "For VMs",
        &if chosen.is_empty() { "none by itself".to_owned() } else { safe(&chosen.join(", ")) },
    );
    if let Some(digest) = &certificate.supersedes {
        page.field("Supersedes", &shown(digest));
    }

    let entries = entries(certificate);
    let warnings = warnings(certificate);
    let eyes: Vec<String> = eyes(draft, &entries, &warnings);
    page.title(&format!("Needs your eye ({})", eyes.len()));
    if eyes.is_empty() {
        page.line("  nothing");
    }
    for eye in eyes {
        page.line(&format!("  ! {eye}"));
    }
    if let Some(since) = since {
        page.changes(since, certificate);
    }
    let mut section = "";
    for entry in &entries {
        if entry.section != section {
            section = entry.section;
            page.title(section);
        }
        let note = draft.notes.iter().find(|note| note.path == entry.path);
        page.line(&format!("  {}", entry.text));
        for detail in &entry.details {
            page.line(&format!("      {detail}"));
        }
        if let Some(note) = note {
            page.line(&format!("      why: {}", why(note)));
        }
    }
    if certificate.flows.is_none() {
        page.title("Flows");
        page.line("  not judged: it may speak with anybody");
    }
    page.policy(certificate);
    page.0
}

fn why(note: &Note) -> String {
    let looks = note.looks.map(|looks| format!("; seen in {looks} looks")).unwrap_or_default();
    let vms = note.vms.filter(|vms| *vms > 1).map(|vms| format!(" on {vms} VMs")).unwrap_or_default();
    format!("{}{looks}{vms}", safe(&note.why))
}

/// What to look at, with the name of the entry it is about.
fn eyes(draft: &Draft, entries: &[Entry], warnings: &[Warning]) -> Vec<String> {
    let named = |path: &str| {
        entries
            .iter()
            .find(|entry| entry.path == path)
            .map_or_else(|| path.to_owned(), |entry| entry.text.clone())
    };
    let noted = draft.notes.iter().flat_map(|note| {
        note.review.iter().map(move |text| format!("{}: {}", named(&note.path), safe(text)))
    });
    let warned = warnings.iter().map(|warning| format!("{}: {}", named(&warning.path), warning.text));
    warned.chain(noted).collect()
}

/// One entry as the page shows it.
struct Entry {
    section: &'static str,
    path: String,
    text: String,
    details: Vec<String>,
}

fn entries(certificate: &Certificate) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut add = |section, path: &str, index: usize, text: String, details: Vec<String>| {
        entries.push(Entry { section, path: format!("{path}/{index}"), text, details });
    };
    for (index, kernel) in certificate.guest.kernels.iter().enumerate() {
        let details = vec![format!("types {}", shown(&kernel.btf_digest))];
        add("Kernels", "/guest/kernels", index, describe::kernel(kernel), details);
    }
    let packages: BTreeMap<&str, &str> = certificate
        .files
        .iter()
        .filter_map(|file| Some((file.sha256.as_str(), file.package.as_deref()?)))
        .collect();
    for (index, entry) in certificate.processes.iter().enumerate() {
        let required = match entry.least() {
            0 => "allowed".to_owned(),
            least => format!("REQUIRED, at least {least}"),
        };
        let most = entry.count.max.map(|max| format!(", at most {max}")).unwrap_or_default();
        let mut details = vec![format!("{required}{most}")];
        details
            .extend(entry.identities.iter().map(|identity| format!("as {}", describe::identity(identity))));
        if let Some(args) = &entry.args {
            details.push(format!("arguments: {}", all(args)));
        }
        if let Some(parents) = &entry.parents {
            details.push(format!("started by: {}", all(parents)));
        }
        if let Some(container) = &entry.container {
            details.push(format!("in a container {}", container.as_str()));
        }
        details.extend(entry.sha256.iter().map(|digest| match packages.get(digest.as_str()) {
            Some(package) => format!("sha256 {digest}, of {package}"),
            None => format!("sha256 {digest}"),
        }));
        add("Programs", "/processes", index, describe::process(entry), details);
    }
    for (index, entry) in certificate.listeners.iter().enumerate() {
        add("Listeners", "/listeners", index, describe::listener(entry), Vec::new());
    }
    if let Some(flows) = &certificate.flows {
        for (index, entry) in flows.egress.iter().enumerate() {
            add("Flows out", "/flows/egress", index, describe::flow(entry), Vec::new());
        }
        for (index, entry) in flows.ingress.iter().enumerate() {
            add("Flows in", "/flows/ingress", index, describe::flow(entry), Vec::new());
        }
    }
    for (index, entry) in certificate.raw_sockets.iter().enumerate() {
        add("Raw sockets", "/raw_sockets", index, describe::raw_socket(entry), Vec::new());
    }
    for (index, entry) in certificate.modules.iter().enumerate() {
        add("Kernel modules", "/modules", index, entry.name.as_str().to_owned(), Vec::new());
    }
    for (index, entry) in certificate.files.iter().enumerate() {
        let details = vec![format!("{} bytes, sha256 {}", entry.size, entry.sha256)];
        add(
            "Files of the image (nothing is compared with them)",
            "/files",
            index,
            describe::file_entry(entry),
            details,
        );
    }
    for (index, entry) in certificate.ebpf.iter().flatten().enumerate() {
        add("eBPF programs", "/ebpf", index, describe::ebpf(entry), Vec::new());
    }
    for entry in &mut entries {
        entry.text = safe(&entry.text);
        entry.details.iter_mut().for_each(|detail| *detail = safe(detail));
    }
    entries
}

struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{text}");
    }

    fn field(&mut self, name: &str, value: &str) {
        self.line(&format!("{name:<12}{value}"));
    }

    fn title(&mut self, text: &str) {
        self.line(&format!("\n{text}"));
    }

    fn changes(&mut self, since: &Certificate, now: &Certificate) {
        let changes = diff(since, now);
        let service = shown(&since.service);
        self.title(&format!("Different from serial {} of {service} ({})", since.serial, changes.len()));
        if changes.is_empty() {
            self.line("  nothing");
        }
        for change in &changes {
            let mark = match change.change {
                _ if change.alarm.is_some() => "!",
                ChangeKind::Added => "+",
                ChangeKind::Removed => "-",
                ChangeKind::Changed => "~",
            };
            self.line(&format!("  {mark} {}: {}", change.section, change.entry));
            for detail in change.alarm.iter().chain(&change.details) {
                self.line(&format!("      {detail}"));
            }
        }
    }

    fn policy(&mut self, certificate: &Certificate) {
        self.title("What drift does");
        for rule in rule_names() {
            let decision = certificate.policy.decide(rule);
            let action = match (decision.action, decision.mode) {
                (Action::Quarantine, Mode::Enforce) => "cuts the VM off",
                (Action::Quarantine, Mode::Monitor) => "would cut the VM off, but is only told",
                (Action::Alert, _) => "is told",
            };
            let severity = format!("{:?}", decision.severity).to_lowercase();
            self.line(&format!("  {rule:<26}{severity:<10}{action}, after {} looks", decision.confirmations));
        }
    }
}
