//! What is different between two certificates, entry by entry.
//!
//! Entries of a list are matched by what they are about (a program, a listener), so that one with another user is *changed*
//! and not one removed and one added. The order of entries means nothing and is no difference.
//!
//! One cause is one change: the update of a package (`diff/packages.rs`) or of the kernel is told once, with all that it brings.
//! Must never leave out what no cause explains.

mod packages;

use crate::certificate::{Certificate, KernelIdentity, ModuleEntry, ProcessEntry};
use crate::describe;
use crate::text::{all as joined, json as json_text, safe};
use packages::Updates;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Only the first has it.
    Removed,
    /// Only the second has it.
    Added,
    /// Both have it, and it differs.
    Changed,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `processes`, `listeners`, `policy`, …
    pub section: String,
    /// What happened.
    pub change: ChangeKind,
    /// The entry in a few words; the name of the field outside lists.
    pub entry: String,
    /// What differs in it: `names: + nc`. Empty for what was added or removed as a whole.
    pub details: Vec<String>,
    /// Paths of the files that it stands for, when it is about more than one entry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub covers: Vec<String>,
    /// Why no ordinary update explains it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
}

impl Change {
    fn new(section: &str, change: ChangeKind, entry: &str, details: Vec<String>) -> Self {
        let (section, entry) = (section.to_owned(), safe(entry));
        Self { section, change, entry, details, covers: Vec::new(), alarm: None }
    }
}

/// The differences from `old` to `new`, by section.
#[must_use]
pub fn diff(old: &Certificate, new: &Certificate) -> Vec<Change> {
    let mut changes = Vec::new();
    fields(&mut changes, "certificate", &head(old), &head(new));
    fields(&mut changes, "selector", &value(&old.selector), &value(&new.selector));
    kernels(&mut changes, old, new);
    let updates = Updates::between(old, new);
    changes.extend(updates.changes());
    let told = pairs(&old.processes, &new.processes, program).into_iter();
    tell(
        &mut changes,
        "processes",
        told.filter(|(old, new)| !updates.explain(*old, *new)),
        describe::process,
    );
    lists(&mut changes, "listeners", &old.listeners, &new.listeners, describe::listener, |entry| {
        format!("{} {:?} {:?} {:?} {:?}", entry.protocol, entry.family, entry.address, entry.port, entry.path)
    });
    match (&old.flows, &new.flows) {
        (None, None) => {}
        (None, Some(_)) => changes.push(whole("flows", ChangeKind::Added, "flows are judged")),
        (Some(_), None) => changes.push(whole("flows", ChangeKind::Removed, "flows are judged")),
        (Some(_), Some(_)) => {}
    }
    let (old_flows, new_flows) =
        (old.flows.clone().unwrap_or_default(), new.flows.clone().unwrap_or_default());
    let by_program = |entry: &crate::FlowEntry| format!("{} {} {:?}", entry.protocol, entry.cidr, entry.port);
    lists(&mut changes, "egress flows", &old_flows.egress, &new_flows.egress, describe::flow, by_program);
    lists(&mut changes, "ingress flows", &old_flows.ingress, &new_flows.ingress, describe::flow, by_program);
    lists(&mut changes, "raw sockets", &old.raw_sockets, &new.raw_sockets, describe::raw_socket, |entry| {
        format!("{:?} {:?}", entry.family, entry.protocol)
    });
    if let Some(kind) = match (&old.ebpf, &new.ebpf) {
        (None, Some(_)) => Some(ChangeKind::Added),
        (Some(_), None) => Some(ChangeKind::Removed),
        _ => None,
    } {
        changes.push(whole("ebpf", kind, "eBPF programs are judged"));
    }
    let (old_ebpf, new_ebpf) = (old.ebpf.clone().unwrap_or_default(), new.ebpf.clone().unwrap_or_default());
    lists(&mut changes, "ebpf", &old_ebpf, &new_ebpf, describe::ebpf, describe::ebpf);
    fields(&mut changes, "policy", &value(&old.policy), &value(&new.policy));
    changes
}

/// Kernels and their modules. An update of the kernel changes both, and is one change.
fn kernels(changes: &mut Vec<Change>, old: &Certificate, new: &Certificate) {
    let module = |entry: &ModuleEntry| entry.name.as_str().to_owned();
    let kernels = pairs(&old.guest.kernels, &new.guest.kernels, |kernel| kernel.release.clone());
    let modules = pairs(&old.modules, &new.modules, module);
    let gone: Vec<&KernelIdentity> = kernels.iter().filter_map(|(old, _)| *old).collect();
    let come: Vec<&KernelIdentity> = kernels.iter().filter_map(|(_, new)| *new).collect();
    if gone.is_empty() || come.is_empty() {
        tell(changes, "kernels", kernels.into_iter(), describe::kernel);
        tell(changes, "modules", modules.into_iter(), module);
        return;
    }
    let releases = |kernels: &[&KernelIdentity]| joined(kernels.iter().map(|kernel| &kernel.release));
    let entry = match (releases(&gone), releases(&come)) {
        (old, new) if old == new => old,
        (old, new) => format!("{old} → {new}"),
    };
    let mut all = Vec::new();
    match (gone.as_slice(), come.as_slice()) {
        ([old], [new]) => all.extend(details(&value(old), &value(new))),
        _ => {
            all.extend(gone.iter().map(|kernel| format!("kernels: - {}", json_text(&value(kernel)))));
            all.extend(come.iter().map(|kernel| format!("kernels: + {}", json_text(&value(kernel)))));
        }
    }
    for (mark, names) in [
        ('-', modules.iter().filter_map(|(old, _)| old.map(module)).collect::<Vec<_>>()),
        ('+', modules.iter().filter_map(|(_, new)| new.map(module)).collect()),
    ] {
        if !names.is_empty() {
            all.push(safe(&format!("modules: {mark} {}", joined(names))));
        }
    }
    changes.push(Change::new("kernels", ChangeKind::Changed, &entry, all));
}

/// What an entry for a process is about.
fn program(entry: &ProcessEntry) -> String {
    let names: Vec<_> = entry.names.iter().map(|name| name.as_str()).collect();
    let container = entry.container.is_some();
    format!("{:?} {:?} {} {container} {names:?}", entry.executable, entry.exe_state, entry.kernel_thread)
}

/// The members that are no lists of entries.
fn head(certificate: &Certificate) -> Value {
    serde_json::json!({
        "service": certificate.service,
        "serial": certificate.serial,
        "supersedes": certificate.supersedes,
        "validity": certificate.validity,
        "arch": certificate.guest.arch,
    })
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

fn whole(section: &str, change: ChangeKind, entry: &str) -> Change {
    Change::new(section, change, entry, Vec::new())
}

/// Compares two objects member by member.
fn fields(changes: &mut Vec<Change>, section: &str, old: &Value, new: &Value) {
    let details = details(old, new);
    if !details.is_empty() {
        changes.push(Change::new(section, ChangeKind::Changed, section, details));
    }
}

/// Compares two lists of entries. `key` says what an entry is about.
fn lists<T: Serialize + PartialEq>(
    changes: &mut Vec<Change>,
    section: &str,
    old: &[T],
    new: &[T],
    describe: impl Fn(&T) -> String,
    key: impl Fn(&T) -> String,
) {
    tell(changes, section, pairs(old, new, key).into_iter(), describe);
}

/// An entry before and after; never neither.
type Pair<'a, T> = (Option<&'a T>, Option<&'a T>);

/// The entries of two lists that are not in both, those about the same thing together: first what the old list has, in its order.
fn pairs<'a, T: PartialEq>(old: &'a [T], new: &'a [T], key: impl Fn(&T) -> String) -> Vec<Pair<'a, T>> {
    let mut added: Vec<Option<&T>> = new.iter().map(Some).collect();
    let mut about: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, entry) in new.iter().enumerate() {
        about.entry(key(entry)).or_default().push(index);
    }
    let mut take = |entry: &T, fits: &dyn Fn(&T) -> bool| {
        let same = about.get(&key(entry))?;
        let mut slots = same.iter().copied();
        let index = slots.find(|index| added.get(*index).is_some_and(|slot| slot.is_some_and(fits)))?;
        added.get_mut(index)?.take()
    };
    let removed: Vec<&T> =
        old.iter().filter(|entry| take(entry, &|other| other == *entry).is_none()).collect();
    let mut pairs: Vec<Pair<'a, T>> =
        removed.into_iter().map(|entry| (Some(entry), take(entry, &|_| true))).collect();
    pairs.extend(added.into_iter().flatten().map(|entry| (None, Some(entry))));
    pairs
}

/// Tells of each pair.
fn tell<'a, T: Serialize + 'a>(
    changes: &mut Vec<Change>,
    section: &str,
    pairs: impl Iterator<Item = Pair<'a, T>>,
    describe: impl Fn(&T) -> String,
) {
    for pair in pairs {
        match pair {
            (Some(old), Some(new)) => {
                let details = details(&value(old), &value(new));
                changes.push(Change::new(section, ChangeKind::Changed, &describe(old), details));
            }
            (Some(old), None) => changes.push(whole(section, ChangeKind::Removed, &describe(old))),
            (None, Some(new)) => changes.push(whole(section, ChangeKind::Added, &describe(new))),
            (None, None) => {}
        }
    }
}

/// The members of two objects that differ, in words.
fn details(old: &Value, new: &Value) -> Vec<String> {
    let names: BTreeSet<&String> =
        [old, new].into_iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys).collect();
    let mut all = Vec::new();
    for name in names {
        let (old, new) = (old.get(name).unwrap_or(&Value::Null), new.get(name).unwrap_or(&Value::Null));
        if old == new {
            continue;
        }
        match (old, new) {
            (Value::Array(old), Value::Array(new)) => {
                let gone = old
                    .iter()
                    .filter(|item| !new.contains(item))
                    .map(|item| format!("- {}", json_text(item)));
                let come = new
                    .iter()
                    .filter(|item| !old.contains(item))
                    .map(|item| format!("+ {}", json_text(item)));
                all.extend(gone.chain(come).map(|item| format!("{name}: {item}")));
            }
            (Value::Object(_), Value::Object(_)) => {
                all.extend(details(old, new).into_iter().map(|detail| format!("{name}.{detail}")));
            }
            _ => all.push(format!("{name}: {} → {}", json_text(old), json_text(new))),
        }
    }
    all
}
