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
    let places = seen.attached_to.iter().filter(|place| place.kind != "socket").map(as_told);
    differ(
        found,
        &what("places"),
        guest.places.iter().map(expected).collect(),
        places.collect::<BTreeSet<_>>(),
    );
    let (table, views) =
        seen.views.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    differ(found, &what("first view"), "program_table", table);
    let mut expected = Vec::new();
    let places = |link: bool| guest.places.iter().any(|place| place.link.is_some() == link);
    expected.extend(places(true).then_some("link"));
    expected.extend(places(false).then_some("attachment"));
    expected.extend((!guest.processes.is_empty()).then_some("descriptor"));
    differ(found, &what("further views"), expected, views.iter().map(String::as_str).collect());
}

/// Kind, target, way and link.
type Told = (String, Option<String>, Option<String>, Option<u32>);

/// The guest says less of some: of XDP not which kind, of a perf event not of which system, and where it has a link nothing.
fn as_told(place: &EbpfAttachment) -> Told {
    let EbpfAttachment { kind, target, attach_type, link } = place.clone();
    match kind.as_str() {
        "xdp" => {
            assert_eq!(attach_type.as_deref(), Some("xdpgeneric"));
            (kind, target, None, link)
        }
        "perf_event" => {
            let target = target.unwrap();
            let function = target.strip_prefix("kprobes:").unwrap_or_else(|| panic!("{target}")).to_owned();
            (kind, link.is_none().then_some(function), attach_type, link)
        }
        _ => (kind, target, attach_type, link),
    }
}

fn expected(place: &Place) -> Told {
    let kinds =
        [(1, "raw_tracepoint"), (3, "cgroup"), (5, "netns"), (6, "xdp"), (7, "perf_event"), (11, "tcx")];
    let ways = [
        (0, "cgroup_inet_ingress"),
        (1, "cgroup_inet_egress"),
        (6, "cgroup_device"),
        (17, "flow_dissector"),
        (36, "sk_lookup"),
        (46, "tcx_ingress"),
        (47, "tcx_egress"),
    ];
    let way = place.attach_type.map(|number| word(&ways, number).to_owned());
    (word(&kinds, place.kind).to_owned(), place.target.clone(), way, place.link)
}

fn kind(number: u32) -> &'static str {
    word(
        &[
            (1, "socket_filter"),
            (2, "kprobe"),
            (3, "sched_cls"),
            (6, "xdp"),
            (8, "cgroup_skb"),
            (15, "cgroup_device"),
            (17, "raw_tracepoint"),
            (22, "flow_dissector"),
            (30, "sk_lookup"),
        ],
        number,
    )
}

fn word(words: &[(u32, &'static str)], number: u32) -> &'static str {
    words.iter().find(|(known, _)| *known == number).map_or("?", |(_, word)| word)
}
