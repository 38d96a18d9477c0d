//! eBPF programs that hide: on a stopped guest a program is taken off one view, off several and off all but one, as a rootkit in its
//! kernel would do it, and the finding must name those that have it and those that lack it.
//!
//! Runs in the guests of [`crate::tables`], which have a program attached in every way.

use crate::opened::{Opened, PATIENT};
use crate::socket_views::Stopped;
use facts::{EbpfAttachment, EbpfProgram, Snapshot, Text, rule};
use introspect::{Options, Tables};
use std::collections::BTreeSet;

const TABLE: &str = "program_table";
const SYMBOLS: [&str; 2] = ["symbol_list", "symbol_tree"];
const LINK: &str = "link";
const PLACE: &str = "attachment";
const DESCRIPTOR: &str = "descriptor";

/// Programs of the menagerie by their names, and the views that have them.
const PROGRAMS: [(&str, &[&str]); 3] = [
    ("lookup", &[TABLE, SYMBOLS[0], SYMBOLS[1], LINK, PLACE, DESCRIPTOR]),
    ("raw", &[TABLE, SYMBOLS[0], SYMBOLS[1], LINK, PLACE, DESCRIPTOR]),
    ("dissector", &[TABLE, SYMBOLS[0], SYMBOLS[1], PLACE]),
];

/// Changes of memory: where, and what is there then.
type Changes = Vec<(u64, u64)>;

/// One program in a stopped guest.
struct Victim<'s> {
    stopped: &'s Stopped<'s>,
    program: &'s EbpfProgram,
    link: Option<u64>,
    tracer: u64,
}

impl Victim<'_> {
    fn member(&self, object: u64, record: &str, path: &str) -> u64 {
        self.stopped.member(object, record, path)
    }

    fn peek(&self, at: u64) -> u64 {
        self.stopped.peek(at)
    }

    fn symbol(&self, name: &str) -> u64 {
        self.stopped.opened.kernel.symbol(name).unwrap().0
    }

    /// What takes it off the view.
    fn off(&self, view: &str) -> Changes {
        let symbol = self.member(
            self.peek(self.member(self.program.program.0, "bpf_prog", "aux")),
            "bpf_prog_aux",
            "ksym",
        );
        match view {
            TABLE => self.off_the_table("prog_idr", self.program.program.0),
            LINK => self.off_the_table("link_idr", self.link.unwrap()),
            "symbol_list" => off_a_list(self.stopped, self.member(symbol, "bpf_ksym", "lnode")),
            "symbol_tree" => (0..2).flat_map(|which| self.off_the_tree(symbol, which)).collect(),
            PLACE if self.program.kind.as_deref() == Some("raw_tracepoint") => self.off_the_tracepoint(),
            PLACE => self.off_the_namespace(),
            DESCRIPTOR => self.off_the_descriptors(),
            other => panic!("no such view: {other}"),
        }
    }

    /// What ``idr_remove()`` does.
    fn off_the_table(&self, table: &str, object: u64) -> Changes {
        let mut open = vec![self.member(self.symbol(table), "idr", "idr_rt.xa_head")];
        while let Some(at) = open.pop() {
            let value = self.peek(at);
            if value == object {
                return vec![(at, 0)];
            }
            if value & 3 == 2 && value > 4096 {
                let slots = self.member(value - 2, "xa_node", "slots");
                open.extend((0..64).map(|index| slots + index * 8));
            }
        }
        panic!("{object:#x} is not in {table}")
    }

    /// What takes its name out of one of the two trees: its left branch takes its place, and its right branch goes to the end of
    /// the left one. So it is in order, if not in balance.
    fn off_the_tree(&self, symbol: u64, which: u64) -> Changes {
        let size = self.stopped.opened.kernel.profile().size("rb_node").unwrap();
        let node = self.member(symbol, "bpf_ksym", "tnode") + which * size;
        let side = |node: u64, side: &str| self.member(node, "rb_node", side);
        let (left, right) = (self.peek(side(node, "rb_left")), self.peek(side(node, "rb_right")));
        let root = self.member(self.symbol("bpf_tree"), "latch_tree_root", "tree") + which * 8;
        let mut pointer = root;
        let mut open = vec![root];
        while let Some(at) = open.pop() {
            let child = self.peek(at);
            if child == node {
                pointer = at;
            } else if child != 0 {
                open.extend([side(child, "rb_left"), side(child, "rb_right")]);
            }
        }
        assert_eq!(self.peek(pointer), node, "it is in the tree");
        if left == 0 {
            return vec![(pointer, right)];
        }
        let mut last = left;
        while self.peek(side(last, "rb_right")) != 0 {
            last = self.peek(side(last, "rb_right"));
        }
        vec![(pointer, left), (side(last, "rb_right"), right)]
    }

    /// Has what runs the program at its tracepoint be something else. The tracepoint says either the program or its link.
    fn off_the_tracepoint(&self) -> Changes {
        let size = |record: &str| self.stopped.opened.kernel.profile().size(record).unwrap();
        let (mut entry, end) = (self.symbol("__start__bpf_raw_tp"), self.symbol("__stop__bpf_raw_tp"));
        while entry < end {
            let point = self.peek(self.member(entry, "bpf_raw_event_map", "tp"));
            let name = self.peek(self.member(point, "tracepoint", "name"));
            if self.text(name) == self.program.attached_to[0].target.as_deref().unwrap() {
                let mut function = self.peek(self.member(point, "tracepoint", "funcs"));
                loop {
                    let data = self.peek(self.member(function, "tracepoint_func", "data"));
                    if data == self.program.program.0 || Some(data) == self.link {
                        return vec![(self.member(function, "tracepoint_func", "func"), 1)];
                    }
                    function += size("tracepoint_func");
                }
            }
            entry += size("bpf_raw_event_map");
        }
        panic!("{:?} is at no tracepoint", self.program)
    }

    fn text(&self, at: u64) -> String {
        let bytes = (0..8).flat_map(|word| self.peek(at + 8 * word).to_le_bytes());
        String::from_utf8(bytes.take_while(|byte| *byte != 0).collect()).unwrap()
    }

    fn off_the_namespace(&self) -> Changes {
        let first = self.symbol("init_net");
        match self.link {
            Some(link) => {
                let whole = link - self.member(0, "bpf_netns_link", "link");
                off_a_list(self.stopped, self.member(whole, "bpf_netns_link", "node"))
            }
            // A flow dissector is the first of the ways.
            None => {
                let at = self.member(first, "net", "bpf.progs");
                assert_eq!(self.peek(at), self.program.program.0);
                vec![(at, 0)]
            }
        }
    }

    fn off_the_descriptors(&self) -> Changes {
        let files = self.peek(self.member(self.tracer, "task_struct", "files"));
        let table = self.peek(self.member(files, "files_struct", "fdt"));
        let descriptors = self.peek(self.member(table, "fdtable", "fd"));
        let object = self.link.unwrap_or(self.program.program.0);
        let holds = |at: &u64| {
            let file = self.peek(*at);
            file != 0 && self.peek(self.member(file, "file", "private_data")) == object
        };
        let held: Changes =
            (0..64).map(|number| descriptors + number * 8).filter(holds).map(|at| (at, 0)).collect();
        assert_eq!(held.len(), 1, "descriptors of {:?}", self.program.name);
        held
    }
}

/// ``list_del()``.
fn off_a_list(stopped: &Stopped<'_>, node: u64) -> Changes {
    let (next, previous) = (stopped.peek(node), stopped.peek(node + 8));
    vec![(previous, next), (next + 8, previous)]
}

fn look(opened: &Opened) -> Snapshot {
    let tables = Tables { processes: true, sockets: false, modules: false, ebpf: true };
    let options = Options { tables, budget: PATIENT, ..Options::default() };
    introspect::snapshot(&*opened.vm.memory, &opened.kernel, opened.facts(), &options).unwrap()
}

fn of(snapshot: &Snapshot, address: facts::Address) -> Option<&EbpfProgram> {
    let mut found = snapshot.ebpf_programs.as_ref().unwrap().iter().filter(|seen| seen.program == address);
    let first = found.next();
    assert!(found.next().is_none(), "a program is listed twice");
    first
}

/// The views in which a program of which these are left is missed.
fn missed(taken: &[&str], left: &[&str]) -> Vec<Text> {
    let has = |view: &str| left.contains(&view);
    let in_use = [LINK, PLACE, DESCRIPTOR].into_iter().any(has);
    let missed = |view: &&str| match *view {
        TABLE => true,
        // What is attached or held by a link tells of the link.
        LINK => has(PLACE) || has(DESCRIPTOR),
        // What is neither attached nor held may be on its way.
        "symbol_list" | "symbol_tree" => in_use,
        // Who holds a program is free to let go of it, and what is not attached does not run.
        _ => false,
    };
    taken.iter().copied().filter(missed).map(Text::from).collect()
}

/// Stops the guest, tries each program in every combination of views that leaves at least one, and lets the guest go on.
pub fn check(opened: &Opened) {
    opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    let stopped = Stopped::new(opened);
    let clean = look(opened);
    assert_eq!(attest::cross_views(&clean, &attest::Policy::default()), [], "an honest guest hides nothing");
    let programs = clean.ebpf_programs.as_ref().unwrap();
    let named = |name: &str| programs.iter().find(|program| program.name.as_deref() == Some(name)).unwrap();
    let tracer = clean.processes.iter().find(|process| process.exe.as_deref() == Some("/usr/sbin/tracer"));
    let tracer = tracer.unwrap().task.0;
    for (name, views) in PROGRAMS {
        let program = named(name);
        assert_eq!(program.views, views, "{name}");
        let mut victim = Victim { stopped: &stopped, program, link: None, tracer };
        if program.attached_to[0].link.is_some() {
            victim.link = Some(link_of(&victim));
        }
        let off: Vec<Changes> = views.iter().map(|view| victim.off(view)).collect();
        for bits in 1..(1_u32 << views.len()) - 1 {
            let is_taken = |index: &usize| bits >> index & 1 == 1;
            let (taken, left): (Vec<usize>, Vec<usize>) = (0..views.len()).partition(is_taken);
            let changes: Changes = taken.iter().flat_map(|index| off[*index].clone()).collect();
            let snapshot = stopped.with(&changes, || look(opened));
            let view = |index: &usize| views[*index];
            let (taken, left): (Vec<&str>, Vec<&str>) =
                (taken.iter().map(view).collect(), left.iter().map(view).collect());
            told(&snapshot, program, &taken, &left);
        }
        assert_eq!(look(opened).ebpf_programs, clean.ebpf_programs, "{name}: all is put back");
    }
    off_both_names(&stopped, named("leaving"), tracer);
    let with_links = clean.ebpf_programs.iter().flatten().flat_map(|program| &program.attached_to);
    let with_links: BTreeSet<String> =
        with_links.filter(|place| place.link.is_some()).map(|place| place.kind.clone()).collect();
    assert_eq!(off_the_links(&stopped, &clean, tracer), with_links);
    opened.guest.qmp(&serde_json::json!({"execute": "cont"})).unwrap();
}

/// The ``struct bpf_link *`` of a program's link, by its number.
fn link_of(victim: &Victim<'_>) -> u64 {
    let number = victim.program.attached_to.iter().find_map(|place| place.link).unwrap();
    let mut open = vec![victim.member(victim.symbol("link_idr"), "idr", "idr_rt.xa_head")];
    while let Some(at) = open.pop() {
        let value = victim.peek(at);
        if value & 3 == 2 && value > 4096 {
            let slots = victim.member(value - 2, "xa_node", "slots");
            open.extend((0..64).map(|index| slots + index * 8));
        } else if value != 0
            && victim.peek(victim.member(value, "bpf_link", "id")) & 0xffff_ffff == u64::from(number)
        {
            return value;
        }
    }
    panic!("{:?} has no such link", victim.program)
}

/// Takes each link of the guest off the table of links, and then off the descriptors too, so that nothing but the place itself has it:
/// what its programs are attached to is told still, and one finding says that it is not in the table. Gives back the kinds of places
/// that were tried.
fn off_the_links(stopped: &Stopped<'_>, clean: &Snapshot, tracer: u64) -> BTreeSet<String> {
    let mut tried = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    let locked = locked(stopped, tracer);
    let honest = stopped.with(&locked, || look(stopped.opened));
    assert_eq!((&honest.problems, &honest.ebpf_programs), (&clean.problems, &clean.ebpf_programs), "locks");
    for program in clean.ebpf_programs.iter().flatten() {
        let Some(number) = program.attached_to.iter().find_map(|place| place.link) else { continue };
        if !tried.insert(number) {
            continue;
        }
        let mut victim = Victim { stopped, program, link: None, tracer };
        victim.link = Some(link_of(&victim));
        let of_link = |program: &&EbpfProgram| program.attached_to.iter().any(|to| to.link == Some(number));
        let programs: Vec<&EbpfProgram> = clean.ebpf_programs.iter().flatten().filter(of_link).collect();
        let kind = &program.attached_to[0].kind;
        kinds.insert(kind.clone());
        let table = victim.off(LINK);
        unlinked(&stopped.with(&table, || look(stopped.opened)), &programs, &[LINK]);
        // One that is pinned has no descriptor, and an iterator runs when it is read: it has no place.
        if !program.views.iter().any(|view| view == "pin") && kind != "iter" {
            let both = [table, victim.off(DESCRIPTOR)].concat();
            unlinked(&stopped.with(&both, || look(stopped.opened)), &programs, &[LINK, DESCRIPTOR]);
            let snapshot = stopped.with(&[both, locked.clone()].concat(), || look(stopped.opened));
            if is_silent(stopped, kind) {
                doubtful(&snapshot, &programs, tracer);
            } else {
                unlinked(&snapshot, &programs, &[LINK, DESCRIPTOR]);
            }
        }
    }
    kinds
}

/// The snapshot tells where the programs are attached though `taken` has not their link, and a finding tells that.
fn unlinked(snapshot: &Snapshot, programs: &[&EbpfProgram], taken: &[&str]) {
    assert_eq!(snapshot.problems, [], "{programs:?} off {taken:?}");
    for program in programs {
        let what = format!("{program:?} off {taken:?}");
        let seen = of(snapshot, program.program).unwrap_or_else(|| panic!("gone: {what}"));
        let left: Vec<&Text> = program.views.iter().filter(|view| !taken.contains(&view.as_str())).collect();
        assert_eq!(seen.views.iter().collect::<Vec<_>>(), left, "{what}");
        assert_eq!(seen.views_missing, [LINK], "{what}");
        let place = |place: &EbpfAttachment| EbpfAttachment { link: None, ..place.clone() };
        let places = |program: &EbpfProgram| program.attached_to.iter().map(place).collect::<Vec<_>>();
        assert_eq!(places(seen), places(program), "{what}");
    }
    for other in snapshot.ebpf_programs.iter().flatten() {
        let is_one = programs.iter().any(|program| program.program == other.program);
        assert_eq!(other.views_missing.is_empty(), !is_one, "{other:?} off {taken:?}");
    }
    let findings = attest::cross_views(snapshot, &attest::Policy::default());
    assert_eq!(findings.len(), programs.len(), "{findings:#?}");
    for program in programs {
        let at = program.program.to_string();
        let finding = findings.iter().find(|finding| finding.evidence["programs"] == at).unwrap();
        assert_eq!(
            (finding.rule.as_str(), finding.views_missing.as_slice()),
            (rule::EBPF_HIDDEN, [LINK.into()].as_slice())
        );
        let kind = &program.attached_to[0].kind;
        assert!(finding.evidence["attached_to"].contains(kind.as_str()), "{finding:?}");
    }
}

/// Whether places of this kind do not say which link they have.
fn is_silent(stopped: &Stopped<'_>, kind: &str) -> bool {
    let lacks = |record: &str, path: &str| stopped.opened.kernel.profile().field(record, path).is_err();
    match kind {
        "raw_tracepoint" => lacks("bpf_raw_tp_link", "cookie"),
        "tracing" => lacks("bpf_tramp_link", "link") && lacks("bpf_tramp_node", "link"),
        kind => kind == "perf_event",
    }
}

/// What gives the locks under which programs are taken off such places to the task at `owner`.
fn locked(stopped: &Stopped<'_>, owner: u64) -> Changes {
    let kernel = &stopped.opened.kernel;
    let mut locks: Vec<u64> =
        ["tracepoints_mutex", "bpf_event_mutex"].iter().map(|name| kernel.symbol(name).unwrap().0).collect();
    if is_silent(stopped, "tracing") {
        let table = kernel.symbol("trampoline_table").unwrap().0;
        for head in 0..1024 {
            let mut node = stopped.peek(table + 8 * head);
            while node != 0 {
                let trampoline = node - stopped.member(0, "bpf_trampoline", "hlist");
                locks.push(stopped.member(trampoline, "bpf_trampoline", "mutex"));
                node = stopped.peek(node);
            }
        }
    }
    locks.into_iter().map(|lock| (stopped.member(lock, "mutex", "owner|rtmutex.owner"), owner)).collect()
}

/// The snapshot tells where the programs are attached and claims nothing of their links, but it says that it does not know, and that is
/// a finding for each of them.
fn doubtful(snapshot: &Snapshot, programs: &[&EbpfProgram], owner: u64) {
    let at = |program: &&EbpfProgram| format!("bpf_prog (link) {}", program.program);
    let locations: BTreeSet<&str> =
        snapshot.problems.iter().map(|problem| problem.location.as_str()).collect();
    assert_eq!(locations, programs.iter().map(at).collect::<Vec<_>>().iter().map(String::as_str).collect());
    let owner = format!("task_struct {owner:#x} has the lock");
    assert!(
        snapshot.problems.iter().all(|problem| problem.detail.contains(&owner)),
        "{:?}",
        snapshot.problems
    );
    for program in programs {
        let seen = of(snapshot, program.program).unwrap();
        assert_eq!(seen.attached_to.len(), program.attached_to.len(), "{seen:?}");
        assert!(seen.views.iter().any(|view| view == PLACE), "{seen:?}");
    }
    assert!(snapshot.ebpf_programs.iter().flatten().all(|program| program.views_missing.is_empty()));
    let findings = attest::cross_views(snapshot, &attest::Policy::default());
    assert!(findings.iter().all(|finding| finding.rule == rule::GUEST_BLIND), "{findings:#?}");
    let found: BTreeSet<&str> =
        findings.iter().map(|finding| finding.evidence["programs"].as_str()).collect();
    let named: Vec<String> = programs.iter().map(|program| program.program.to_string()).collect();
    assert_eq!(found, named.iter().map(String::as_str).collect());
}

/// The snapshot has the program in the views that are left, and one finding says so, unless it is in all that it must be in.
fn told(snapshot: &Snapshot, program: &EbpfProgram, taken: &[&str], left: &[&str]) {
    let name = &program.name;
    assert_eq!(snapshot.problems, [], "{name:?} off {taken:?}");
    let seen = of(snapshot, program.program).unwrap_or_else(|| panic!("{name:?} is gone off {taken:?}"));
    assert_eq!(seen.views, left, "{name:?} off {taken:?}");
    let missed = missed(taken, left);
    assert_eq!(seen.views_missing, missed, "{name:?} off {taken:?}");
    let known = left.iter().any(|view| [LINK, PLACE, DESCRIPTOR].contains(view));
    assert_eq!(seen.attached_to.is_empty(), !known, "{name:?} off {taken:?}: {seen:?}");
    for other in snapshot.ebpf_programs.iter().flatten().filter(|other| other.program != program.program) {
        assert_eq!(other.views_missing, [""; 0], "{other:?}");
    }
    let findings = attest::cross_views(snapshot, &attest::Policy::default());
    if missed.is_empty() {
        assert_eq!(findings, [], "{name:?} off {taken:?}");
        return;
    }
    let [finding] = findings.as_slice() else { panic!("{name:?} off {taken:?}: {findings:#?}") };
    assert_eq!(finding.rule, rule::EBPF_HIDDEN);
    let set = |views: &[Text]| views.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(set(&finding.views_seen), left.iter().map(|view| Text::from(*view)).collect());
    assert_eq!(set(&finding.views_missing), set(&missed));
    assert_eq!(finding.evidence["programs"], program.program.to_string());
}

/// A program of a kind that a stranger may load has no name if a stranger loaded it: that is no sign of hiding. In one of the two
/// places alone it is.
fn off_both_names(stopped: &Stopped<'_>, program: &EbpfProgram, tracer: u64) {
    let victim = Victim { stopped, program, link: None, tracer };
    let off = SYMBOLS.map(|view| victim.off(view));
    let missing = |changes: &[(u64, u64)]| {
        let snapshot = stopped.with(changes, || look(stopped.opened));
        of(&snapshot, program.program).unwrap().views_missing.clone()
    };
    assert_eq!(missing(&off.concat()), [""; 0]);
    assert_eq!(missing(&off[0]), [SYMBOLS[0]]);
    assert_eq!(missing(&off[1]), [SYMBOLS[1]]);
}
