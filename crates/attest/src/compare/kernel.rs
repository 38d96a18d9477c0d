//! The kernel and its modules.

use super::draft::{Draft, Drafts, Patch, cause, unknown_fact};
use crate::certificate::{Certificate, KernelIdentity, ModuleEntry};
use crate::pattern::Pattern;
use crate::text::{list, shown};
use facts::{Module, Snapshot, rule};
use std::collections::{BTreeMap, HashSet};

pub(super) fn compare(certificate: &Certificate, snapshot: &Snapshot, drafts: &mut Drafts<'_>) {
    identity(certificate, snapshot, drafts);
    contradictions(snapshot, drafts);
    modules(certificate, snapshot, drafts);
}

fn identity(certificate: &Certificate, snapshot: &Snapshot, drafts: &mut Drafts<'_>) {
    let seen = &snapshot.kernel;
    let guest = &certificate.guest;
    let show = |release: &str, build_id: Option<&str>, btf: &str, arch: &str| {
        format!("{} ({arch}, build id {}, types {btf})", shown(release), build_id.unwrap_or("none"))
    };
    let description = show(
        &seen.release,
        Some(seen.build_id.as_deref().unwrap_or("unknown")),
        seen.btf_digest.as_deref().unwrap_or("unknown"),
        &seen.arch,
    );
    // Known facts that contradict every certified kernel are a change, whatever else is unknown.
    let agrees = |kernel: &&KernelIdentity| {
        seen.arch == guest.arch
            && seen.release == kernel.release
            && seen.btf_digest.as_ref().is_none_or(|digest| *digest == kernel.btf_digest)
            && seen
                .build_id
                .as_ref()
                .is_none_or(|id| kernel.build_id.as_ref().is_none_or(|known| id == known))
    };
    let Some(kernel) = guest.kernels.iter().find(agrees) else {
        let expected = list(
            guest.kernels.iter().map(|k| show(&k.release, k.build_id.as_deref(), &k.btf_digest, &guest.arch)),
        );
        let mut draft = Draft::new(
            "kernel".to_owned(),
            format!("The guest runs kernel {description}; certified is {expected}"),
        )
        .expected(expected)
        .seen(description)
        .with("page_table_root", seen.page_table_root.to_string());
        if let (Some(btf_digest), true) = (seen.btf_digest.clone(), seen.arch == guest.arch) {
            let identity =
                KernelIdentity { release: seen.release.clone(), build_id: seen.build_id.clone(), btf_digest };
            draft = draft.allow_with(Patch::default().add("/guest/kernels/-", &identity));
        }
        drafts.add(rule::KERNEL_CHANGED, &cause("kernel", []), || draft);
        return;
    };
    let unread = match (&seen.btf_digest, &seen.build_id, &kernel.build_id) {
        (None, ..) => "btf_digest",
        (_, None, Some(_)) => "build_id",
        _ => return,
    };
    drafts.add(rule::GUEST_BLIND, &cause("kernel", [unread]), || {
        unknown_fact("kernel", unread, 1).with("kernel", description)
    });
}

/// A guest whose memory says something else of its kernel than the host's stored profile of the same build: somebody
/// altered it, and no certificate can allow that.
fn contradictions(snapshot: &Snapshot, drafts: &mut Drafts<'_>) {
    let profile = &snapshot.kernel.profile;
    let Some(first) = profile.contradictions.first() else { return };
    drafts.add(rule::KERNEL_CHANGED, &cause("profile", []), || {
        Draft::new(
            "kernel profile".to_owned(),
            format!("The guest's memory contradicts the stored profile of its kernel: {}", shown(first)),
        )
        .expected(format!("the stored profile {}", profile.digest))
        .seen(list(profile.contradictions.iter().map(|text| shown(text))))
        .with("page_table_root", snapshot.kernel.page_table_root.to_string())
    });
}

fn modules(certificate: &Certificate, snapshot: &Snapshot, drafts: &mut Drafts<'_>) {
    let literal: HashSet<&str> =
        certificate.modules.iter().filter_map(|entry| entry.name.as_literal()).collect();
    let templates: Vec<&Pattern> = certificate
        .modules
        .iter()
        .map(|entry| &entry.name)
        .filter(|name| name.as_literal().is_none())
        .collect();
    let mut unknown: BTreeMap<&str, Vec<&Module>> = BTreeMap::new();
    for module in &snapshot.modules {
        let name = module.name.as_str();
        if !literal.contains(name) && !templates.iter().any(|template| template.matches(name)) {
            unknown.entry(name).or_default().push(module);
        }
    }
    for (name, modules) in unknown {
        drafts.add(rule::MODULE_UNKNOWN, &cause("module", [name]), || {
            Draft::new(
                format!("module {}", shown(name)),
                format!("The kernel module {} is loaded, and the certificate does not allow it", shown(name)),
            )
            .expected("only certified modules")
            .seen(shown(name))
            .with("modules", list(modules.iter().map(|module| module.module)))
            .views(modules.iter().flat_map(|module| &module.views))
            .allow_with(Patch::default().add("/modules/-", &ModuleEntry { name: Pattern::literal(name) }))
        });
    }
}
