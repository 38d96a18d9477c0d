//! Programs in the hooks of netfilter: ``struct net`` → ``struct nf_hook_entries`` → ``struct bpf_nf_link``
//! (net/netfilter/nf_bpf_link.c). Only a link can put one there, and only for IPv4 and IPv6.

use super::bpf_place::Placed;
use super::layout::Resolver;
use crate::session::{Session, container, member};
use facts::ProblemKind;
use vmi_core::{Gva, ReadError};

/// ``NF_INET_NUMHOOKS`` without that of interfaces; the words are nft's.
const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
/// ``NFPROTO_IPV4`` and ``NFPROTO_IPV6`` in nft's words.
const FAMILIES: [(u8, &str); 2] = [(2, "ip"), (10, "ip6")];
/// ``MAX_HOOK_COUNT``, net/netfilter/core.c.
const ENTRIES_MAX: u16 = 1024;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// In ``struct net``: a pointer for each hook.
    families: [u64; 2],
    /// In ``struct nf_hook_entries``, whose hooks are followed by as many ``struct nf_hook_ops *``.
    count: u64,
    hooks: u64,
    hook_size: u64,
    hook: u64,
    /// In ``struct bpf_nf_link``.
    link: u64,
    operations: u64,
    /// In its ``struct nf_hook_ops``.
    family: u64,
    number: u64,
    priority: u64,
}

impl Layout {
    /// `None`: this kernel has no such links.
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        Some(Self {
            families: [
                resolver.optional("net", "nf.hooks_ipv4")?,
                resolver.optional("net", "nf.hooks_ipv6")?,
            ],
            count: resolver.optional("nf_hook_entries", "num_hook_entries")?,
            hooks: resolver.optional("nf_hook_entries", "hooks")?,
            hook_size: resolver.profile().size("nf_hook_entry").ok()?,
            hook: resolver.optional("nf_hook_entry", "hook")?,
            link: resolver.optional("bpf_nf_link", "link")?,
            operations: resolver.optional("bpf_nf_link", "hook_ops")?,
            family: resolver.optional("nf_hook_ops", "pf")?,
            number: resolver.optional("nf_hook_ops", "hooknum")?,
            priority: resolver.optional("nf_hook_ops", "priority")?,
        })
    }
}

fn layout<'s>(session: &'s Session<'_>) -> Option<&'s Layout> {
    session.kernel.layouts().bpf.as_ref()?.netfilter.as_ref()
}

/// Family and hook, and the priority there, of the link whose ``struct bpf_link`` is at `link`.
pub(super) fn hook(session: &Session<'_>, link: Gva) -> Result<(Option<String>, Option<i32>), ReadError> {
    let Some(layout) = layout(session) else { return Ok((None, None)) };
    let start = container(link, layout.link)?;
    let operations = member(start, layout.operations)?;
    let family = session.space.u8(member(operations, layout.family)?)?;
    let number = session.space.u32(member(operations, layout.number)?)?;
    let priority = session.space.u32(member(operations, layout.priority)?)?.cast_signed();
    let family = FAMILIES.iter().find(|(known, _)| *known == family).map(|(_, word)| *word);
    let hook = usize::try_from(number).ok().and_then(|number| HOOKS.get(number));
    Ok((family.zip(hook).map(|(family, hook)| format!("{family} {hook}")), Some(priority)))
}

/// Adds the links in the hooks of the ``struct net`` at `net`.
pub(super) fn places(session: &Session<'_>, net: Gva, placed: &mut Vec<Placed>) -> Result<(), ReadError> {
    let (Some(layout), Some(runs)) = (layout(session), session.kernel.symbol("nf_hook_run_bpf")) else {
        return Ok(());
    };
    let space = &session.space;
    for family in layout.families {
        for index in 0..HOOKS.len() as u64 {
            let at = member(net, family)?.element(index, 8);
            let entries = space.pointer(at.ok_or(ReadError::NotAnAddress { at: net, len: family })?)?;
            if entries.is_null() {
                continue;
            }
            let count = space.u16(member(entries, layout.count)?)?;
            if count > ENTRIES_MAX {
                session.problem(
                    ProblemKind::Implausible,
                    format_args!("nf_hook_entries {entries}"),
                    format_args!("It claims {count} hooks."),
                );
                continue;
            }
            let hooks = member(entries, layout.hooks)?;
            let element = |array: Gva, index: u16, size: u64| {
                array.element(u64::from(index), size).ok_or(ReadError::NotAnAddress { at: array, len: size })
            };
            let all_operations = element(hooks, count, layout.hook_size)?;
            for index in 0..count {
                let hook = member(element(hooks, index, layout.hook_size)?, layout.hook)?;
                if space.pointer(hook)? == runs {
                    let operations = space.pointer(element(all_operations, index, 8)?)?;
                    let start = operations.checked_sub(layout.operations);
                    placed.extend(start.and_then(|start| start.checked_add(layout.link)).map(Placed::Link));
                }
            }
        }
    }
    Ok(())
}
