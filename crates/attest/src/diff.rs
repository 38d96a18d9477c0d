//! What is different between two certificates, entry by entry.
//!
//! Entries of a list are matched by what they are about (a program, a listener), so that one with another user is *changed*
//! and not one removed and one added. The order of entries means nothing and is no difference.

use crate::certificate::Certificate;
use crate::describe;
use crate::text::{json as json_text, safe};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

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
}

/// The differences from `old` to `new`, by section.
#[must_use]
pub fn diff(old: &Certificate, new: &Certificate) -> Vec<Change> {
    let mut changes = Vec::new();
    fields(&mut changes, "certificate", &head(old), &head(new));
    fields(&mut changes, "selector", &value(&old.selector), &value(&new.selector));
    lists(&mut changes, "kernels", &old.guest.kernels, &new.guest.kernels, describe::kernel, |kernel| {
        kernel.release.clone()
    });
    lists(&mut changes, "processes", &old.processes, &new.processes, describe::process, |entry| {
        let names: Vec<_> = entry.names.iter().map(|name| name.as_str()).collect();
        let container = entry.container.is_some();
        format!("{:?} {:?} {} {container} {names:?}", entry.executable, entry.exe_state, entry.kernel_thread)
    });
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
    let module = |entry: &crate::ModuleEntry| entry.name.as_str().to_owned();
    lists(&mut changes, "modules", &old.modules, &new.modules, module, module);
    lists(&mut changes, "files", &old.files, &new.files, describe::file_entry, |entry| entry.path.clone());
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
    Change { section: section.to_owned(), change, entry: safe(entry), details: Vec::new() }
}

/// Compares two objects member by member.
fn fields(changes: &mut Vec<Change>, section: &str, old: &Value, new: &Value) {
    let details = details(old, new);
    if !details.is_empty() {
        let entry = section.to_owned();
        changes.push(Change { section: section.to_owned(), change: ChangeKind::Changed, entry, details });
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
    let mut added: Vec<&T> = new.iter().collect();
    let mut removed: Vec<&T> = Vec::new();
    for entry in old {
        match added.iter().position(|other| *other == entry) {
            Some(same) => drop(added.remove(same)),
            None => removed.push(entry),
        }
    }
    for entry in removed {
        let about = key(entry);
        match added.iter().position(|other| key(other) == about) {
            Some(index) => {
                let other = added.remove(index);
                changes.push(Change {
                    section: section.to_owned(),
                    change: ChangeKind::Changed,
                    entry: safe(&describe(entry)),
                    details: details(&value(entry), &value(other)),
                });
            }
            None => changes.push(whole(section, ChangeKind::Removed, &describe(entry))),
        }
    }
    changes.extend(added.into_iter().map(|entry| whole(section, ChangeKind::Added, &describe(entry))));
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
