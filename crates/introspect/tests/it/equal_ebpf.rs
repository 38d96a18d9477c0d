//! eBPF programs of a snapshot, compared with what the guest's system call `bpf` says of them.

use super::equal::differ;
use facts::{EbpfAttachment, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use testkit::Truth;
use testkit::truth::{Place, Program};

pub fn programs(truth: &Truth, snapshot: &Snapshot, found: &mut Vec<String>) {
    let Some(programs) = &snapshot.ebpf_programs else {
        found.push("the eBPF programs are not known".to_owned());
        return;
    };
    let guest: BTreeMap<u32, &Program> = truth.programs.iter().map(|program| (program.id, program)).collect();
    let ids: Vec<Option<u32>> = programs.iter().map(|program| program.id).collect();
    differ(found, "ids of eBPF programs", guest.keys().copied().map(Some).collect(), ids);
    for seen in programs {
        if let Some(guest) = seen.id.and_then(|id| guest.get(&id)) {
            program(guest, seen, found);
        }
    }
}

fn program(guest: &Program, seen: &facts::EbpfProgram, found: &mut Vec<String>) {
    let what = |field: &str| format!("eBPF program {} {field}", guest.id);
    differ(found, &what("type"), Some(kind(guest.kind)), seen.kind.as_deref());
    differ(found, &what("name"), guest.name.as_str(), seen.name.as_deref().unwrap_or_default());
    differ(found, &what("tag"), Some(&guest.tag), seen.tag.as_ref());
    differ(found, &what("load time"), Some(guest.load_time_ns), seen.loaded_at_ns);
    differ(found, &what("uid"), Some(guest.uid), seen.uid);
    differ(found, &what("instructions"), Some(guest.instruction_bytes / 8), seen.instructions);
    differ(found, &what("machine code"), guest.jited_bytes, seen.jited_bytes.unwrap_or(0));
    differ(found, &what("maps"), Some(&guest.maps), seen.maps.as_ref());
    differ(found, &what("processes"), &guest.processes, &seen.processes);
    // No socket says which program filters it.
    let places: Vec<&EbpfAttachment> =
        seen.attached_to.iter().filter(|place| place.kind != "socket").collect();
    differ(
        found,
        &what("places"),
        guest.places.iter().map(expected).collect(),
        places.iter().map(|place| as_told(place, guest)).collect::<BTreeSet<_>>(),
    );
    let mut expected = vec!["program_table"];
    // All of them were loaded by one who may do everything.
    expected.extend((guest.jited_bytes > 0).then_some(["symbol_list", "symbol_tree"]).into_iter().flatten());
    let places = |is: fn(&Place) -> bool| guest.places.iter().any(is);
    // All places can be asked but those of iterators, which run when they are read, and of structs that the kernel has no list of.
    let says = |place: &Place| place.kind != 4;
    expected.extend(places(|place| place.link.is_some()).then_some("link"));
    expected.extend(places(says).then_some("attachment"));
    expected.extend(guest.pinned.then_some("pin"));
    expected.extend((!guest.processes.is_empty()).then_some("descriptor"));
    differ(found, &what("views"), expected, seen.views.iter().map(facts::Text::as_str).collect());
    differ(found, &what("missing views"), &Vec::new(), &seen.views_missing);
}

/// Kind, target, way, link, places and priority.
type Told = (String, Option<String>, Option<String>, Option<u32>, Option<(u32, Vec<String>)>, Option<i32>);

/// The guest says less of some: of a perf event not of which system, and before 6.6 nothing of one with a link; before 5.13 not
/// which function a tracing link is for, but the program has its name.
fn as_told(place: &EbpfAttachment, guest: &Program) -> Told {
    let EbpfAttachment { kind, mut target, attach_type, link, sites, priority } = place.clone();
    let untold = guest.places.iter().any(|place| place.link == link && place.target.is_none());
    match kind.as_str() {
        "perf_event" => {
            let name = target.as_ref().and_then(|target| target.split_once(':'));
            target = name.filter(|_| !untold).map(|(_, name)| name.to_owned());
        }
        "tracing" if untold => {
            let name = target.take().unwrap();
            assert_eq!(name.get(..15).unwrap_or(&name), guest.name);
        }
        _ => {}
    }
    (kind, target, attach_type, link, sites.map(|sites| (sites.count, sites.first)), priority)
}

fn expected(place: &Place) -> Told {
    let kinds = [
        (1, "raw_tracepoint"),
        (2, "tracing"),
        (3, "cgroup"),
        (4, "iter"),
        (5, "netns"),
        (6, "xdp"),
        (7, "perf_event"),
        (8, "kprobe_multi"),
        (9, "struct_ops"),
        (10, "netfilter"),
        (11, "tcx"),
        (12, "uprobe_multi"),
        (13, "netkit"),
        (14, "sockmap"),
    ];
    let ways = [
        (0, "cgroup_inet_ingress"),
        (1, "cgroup_inet_egress"),
        (6, "cgroup_device"),
        (17, "flow_dissector"),
        (24, "trace_fentry"),
        (25, "trace_fexit"),
        (26, "modify_return"),
        (27, "lsm_mac"),
        (36, "sk_lookup"),
        (38, "sk_skb_verdict"),
        (43, "lsm_cgroup"),
        (46, "tcx_ingress"),
        (47, "tcx_egress"),
        (54, "netkit_primary"),
        (55, "netkit_peer"),
    ];
    let modes = [(1 << 1, "xdpgeneric"), (1 << 2, "xdpdrv")];
    let words = if place.kind == 6 { modes.as_slice() } else { ways.as_slice() };
    let way = place.attach_type.map(|number| word(words, number).to_owned());
    let target = match (place.kind, place.target.as_deref()) {
        (10, Some("2:3")) => Some("ip output".to_owned()),
        (_, target) => target.map(ToOwned::to_owned),
    };
    let kind = word(&kinds, place.kind).to_owned();
    (kind, target, way, place.link, place.sites.clone(), place.priority)
}

fn kind(number: u32) -> &'static str {
    word(
        &[
            (1, "socket_filter"),
            (2, "kprobe"),
            (3, "sched_cls"),
            (5, "tracepoint"),
            (6, "xdp"),
            (7, "perf_event"),
            (8, "cgroup_skb"),
            (14, "sk_skb"),
            (15, "cgroup_device"),
            (17, "raw_tracepoint"),
            (22, "flow_dissector"),
            (26, "tracing"),
            (27, "struct_ops"),
            (29, "lsm"),
            (30, "sk_lookup"),
            (32, "netfilter"),
        ],
        number,
    )
}

fn word(words: &[(u32, &'static str)], number: u32) -> &'static str {
    words.iter().find(|(known, _)| *known == number).map_or("?", |(_, word)| word)
}
