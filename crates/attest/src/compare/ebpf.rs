//! eBPF programs: those that are loaded against those that may be.
//!
//! A certificate without a list of them was made before they were known, or for a kernel that does not say where they are: it
//! says nothing of them, and nothing is found. A program that is loaded ten times is one cause.

use super::draft::{Draft, Drafts, Patch, cause, unknown_fact};
use crate::certificate::{Certificate, EbpfEntry};
use crate::text::{list, shown};
use facts::{EbpfProgram, Snapshot, rule};
use std::collections::BTreeMap;

pub(super) fn compare(certificate: &Certificate, snapshot: &Snapshot, drafts: &mut Drafts<'_>) {
    let (Some(allowed), Some(programs)) = (&certificate.ebpf, &snapshot.ebpf_programs) else { return };
    let mut unknown: BTreeMap<EbpfEntry, Vec<&EbpfProgram>> = BTreeMap::new();
    let mut unread: BTreeMap<&str, usize> = BTreeMap::new();
    for program in programs {
        match EbpfEntry::of(program) {
            Ok(seen) if allowed.iter().any(|entry| entry.allows(&seen)) => {}
            Ok(seen) => unknown.entry(seen).or_default().push(program),
            Err(fact) => {
                let count = unread.entry(fact).or_default();
                *count = count.saturating_add(1);
            }
        }
    }
    for (fact, count) in unread {
        drafts.add(rule::GUEST_BLIND, &cause("ebpf", [fact]), || unknown_fact("eBPF program", fact, count));
    }
    for (entry, programs) in unknown {
        let name = entry.name.as_ref().and_then(|name| name.as_literal()).unwrap_or_default();
        let tag = entry.tag.as_deref().unwrap_or_default();
        drafts.add(rule::EBPF_UNKNOWN, &cause("ebpf", [entry.kind.as_str(), name, tag]), || {
            let subject = subject(&entry);
            Draft::new(
                subject.clone(),
                format!("The {subject} is loaded, and the certificate does not allow it"),
            )
            .expected("only certified eBPF programs")
            .seen(subject)
            .with("attached_to", attached_to(&programs))
            .with("programs", list(programs.iter().map(|program| program.program)))
            .with("pids", list(programs.iter().flat_map(|program| &program.processes)))
            .views(programs.iter().flat_map(|program| &program.views))
            .allow_with(Patch::default().add("/ebpf/-", &entry))
        });
    }
}

/// Where they are attached: `cgroup /system.slice, kprobe_multi vfs_read`.
pub(super) fn attached_to(programs: &[&EbpfProgram]) -> String {
    let places = programs.iter().flat_map(|program| &program.attached_to).map(|place| {
        let first = place.sites.as_ref().and_then(|sites| sites.first.first());
        let target = place.target.as_ref().or(first).map_or("?", String::as_str);
        format!("{} {}", shown(&place.kind), shown(target))
    });
    list(places)
}

/// `eBPF program sd_devices (cgroup_device, tag 0123456789abcdef)`.
fn subject(entry: &EbpfEntry) -> String {
    let name = entry.name.as_ref().and_then(|name| name.as_literal()).map_or("without a name", |name| name);
    let tag = entry.tag.as_deref().unwrap_or("any");
    format!("eBPF program {} ({}, tag {})", shown(name), shown(&entry.kind), shown(tag))
}
