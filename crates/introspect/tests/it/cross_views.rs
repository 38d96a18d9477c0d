//! What is taken off one list, or off several, is still seen by another, and is told as hidden.
//!
//! The guest is stopped and the object is unlinked in its memory as a rootkit in its kernel would do it, so that the same is
//! tried on every kernel and on every view. Then everything is put back.

use crate::opened::Opened;
use facts::{Module, Problem, Process, Snapshot, Text, rule};
use introspect::Options;
use testkit::{Activity, GuestSpec, Kernel, Need, Spawn};
use vmi_core::{AddressSpace, Budget, Gva, Look};

/// Index of the thread group's list in ``struct pid`` (``PIDTYPE_TGID``).
const THREAD_GROUP: u64 = 1;

/// A stopped guest whose kernel memory is changed from outside.
struct Patched {
    opened: Opened,
    /// What was there before, newest last.
    undo: Vec<(u64, u64)>,
}

impl Patched {
    fn new(opened: Opened) -> Self {
        Self { opened, undo: Vec::new() }
    }

    fn stop(&self) {
        self.opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    }

    fn go_on(&self) {
        self.opened.guest.qmp(&serde_json::json!({"execute": "cont"})).unwrap();
    }

    fn offset(&self, record: &str, path: &str) -> u64 {
        self.opened.kernel.profile().field(record, path).unwrap().offset
    }

    fn symbol(&self, name: &str) -> u64 {
        self.opened.kernel.symbol(name).unwrap().0
    }

    fn physical(&self, at: u64) -> u64 {
        let memory = &*self.opened.vm.memory;
        let look = Look::begin(memory, Budget::default()).unwrap();
        let space = AddressSpace::new(&look, self.opened.kernel.root(), self.opened.kernel.levels());
        space.translate(Gva(at)).unwrap().at.0
    }

    fn peek(&self, at: u64) -> u64 {
        let bytes = self.opened.guest.peek_physical(self.physical(at), 8).unwrap();
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    fn poke(&mut self, at: u64, value: u64) {
        self.undo.push((at, self.peek(at)));
        self.opened.guest.poke_physical(self.physical(at), &value.to_le_bytes()).unwrap();
    }

    fn put_back(&mut self) {
        while let Some((at, value)) = self.undo.pop() {
            self.opened.guest.poke_physical(self.physical(at), &value.to_le_bytes()).unwrap();
        }
    }

    /// ``list_del_init()``.
    fn unlink(&mut self, node: u64) {
        let (next, previous) = (self.peek(node), self.peek(node + 8));
        self.poke(previous, next);
        self.poke(next + 8, previous);
        self.poke(node, node);
        self.poke(node + 8, node);
    }

    /// Takes a process off one view.
    fn hide_process(&mut self, task: u64, view: &str) {
        match view {
            "task_list" => self.unlink(task + self.offset("task_struct", "tasks")),
            "cgroup" => self.unlink(task + self.offset("task_struct", "cg_list")),
            "pid_table" => {
                // What detach_pid() does: the number leads to no task any more.
                let pid = self.peek(task + self.offset("task_struct", "thread_pid"));
                self.poke(pid + self.offset("pid", "tasks") + THREAD_GROUP * 8, 0);
            }
            other => panic!("no such view: {other}"),
        }
    }

    /// Takes a module off one view.
    fn hide_module(&mut self, module: u64, view: &str) {
        match view {
            "module_list" => self.unlink(module + self.offset("module", "list")),
            "sysfs" => {
                let set = self.peek(self.symbol("module_kset"));
                let head = set + self.offset("kset", "list");
                let entry = self.offset("module_kobject", "kobj.entry");
                let mut at = self.peek(head);
                while self.peek(at - entry + self.offset("module_kobject", "mod")) != module {
                    at = self.peek(at);
                    assert_ne!(at, head, "the module has an object");
                }
                self.unlink(at);
            }
            "module_tree" => {
                let tree = self.symbol("mod_tree");
                let (node, size) = (
                    self.offset("mod_tree_node", "node.node"),
                    self.opened.kernel.profile().size("rb_node").unwrap(),
                );
                for which in 0..2 {
                    let mut open =
                        vec![self.peek(tree + self.offset("mod_tree_root", "root.tree") + which * 8)];
                    while let Some(at) = open.pop().filter(|at| *at != 0) {
                        open.push(self.peek(at + self.offset("rb_node", "rb_left")));
                        open.push(self.peek(at + self.offset("rb_node", "rb_right")));
                        open.retain(|at| *at != 0);
                        let owner = at - node - which * size + self.offset("mod_tree_node", "mod");
                        if self.peek(owner) == module {
                            self.poke(owner, 0);
                        }
                    }
                }
            }
            other => panic!("no such view: {other}"),
        }
    }

    /// A look that searches memory too.
    fn scan(&self) -> Snapshot {
        let options = Options { scan: true, ..Options::default() };
        let Opened { vm, kernel, .. } = &self.opened;
        let snapshot = introspect::snapshot(&*vm.memory, kernel, &vm.vm, &options).unwrap();
        assert_eq!(snapshot.problems, []);
        snapshot
    }

    fn look(&self) -> Snapshot {
        let snapshot = self.opened.snapshot().unwrap();
        assert_eq!(snapshot.problems, []);
        snapshot
    }
}

fn process(snapshot: &Snapshot, pid: u32) -> Option<&Process> {
    let mut found = snapshot.processes.iter().filter(|process| process.pid == pid);
    let first = found.next();
    assert!(found.next().is_none(), "pid {pid} is listed twice");
    first
}

fn module<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s Module> {
    snapshot.modules.iter().find(|module| module.name == name)
}

/// The views of `all` in each combination that leaves at least one, with what it leaves.
fn combinations<'v>(all: &[&'v str]) -> Vec<(Vec<&'v str>, Vec<&'v str>)> {
    (1..(1_u32 << all.len()) - 1)
        .map(|bits| {
            let (taken, left): (Vec<_>, Vec<_>) =
                all.iter().enumerate().partition(|(index, _)| bits >> index & 1 == 1);
            let names = |views: Vec<(usize, &&'v str)>| views.into_iter().map(|(_, name)| *name).collect();
            (names(taken), names(left))
        })
        .collect()
}

/// The one finding there is: its rule and the views that saw and missed the object, in any order.
fn finding(snapshot: &Snapshot) -> (String, Vec<Text>, Vec<Text>) {
    let findings = attest::cross_views(snapshot, &attest::Policy::default());
    let [finding] = findings.as_slice() else { panic!("{findings:#?}") };
    (finding.rule.clone(), finding.views_seen.clone(), finding.views_missing.clone())
}

fn sorted(views: &[&str]) -> Vec<Text> {
    let mut views: Vec<Text> = views.iter().copied().map(Text::from).collect();
    views.sort();
    views
}

fn check(kernel: Kernel) {
    if !testkit::require(&[Need::Guest(kernel)]) {
        return;
    }
    let opened = Opened::boot(GuestSpec::new(kernel).memory_mib(256)).unwrap();
    let victim = opened.guest.spawn(Spawn { exe: "/usr/bin/victim".into(), ..Spawn::default() }).unwrap();
    let spinning = Spawn { exe: "/usr/bin/spin".into(), activity: Activity::Spin, ..Spawn::default() };
    let spinning = opened.guest.spawn(spinning).unwrap();
    opened.guest.load_module("dummy").unwrap();
    let mut guest = Patched::new(opened);
    guest.stop();
    let clean = guest.look();
    assert_eq!(attest::cross_views(&clean, &attest::Policy::default()), []);
    let views = ["task_list", "pid_table", "cgroup"];
    assert_eq!(clean.views.processes, views);

    let task = process(&clean, victim.pid).unwrap().task.0;
    for (taken, left) in combinations(&views) {
        taken.iter().for_each(|view| guest.hide_process(task, view));
        let snapshot = guest.look();
        let seen = process(&snapshot, victim.pid).unwrap_or_else(|| panic!("hidden by {taken:?}"));
        assert_eq!(seen.views, left, "hidden from {taken:?}");
        assert_eq!((seen.exe.as_deref(), seen.task.0), (Some("/usr/bin/victim"), task));
        assert_eq!(finding(&snapshot), (rule::PROCESS_HIDDEN.to_owned(), sorted(&left), sorted(&taken)));
        guest.put_back();
        assert_eq!(guest.look().processes, clean.processes);
    }

    // Memory that is no process's any more, as what a reset has left: it is told of, and no process. With credentials or signals it is one.
    let (cred, signal) = (guest.offset("task_struct", "real_cred"), guest.offset("task_struct", "signal"));
    let place = clean.processes.iter().find(|process| process.pid == victim.pid).unwrap().task;
    for (cleared, is_one) in [(vec![cred], true), (vec![signal], true), (vec![cred, signal], false)] {
        guest.hide_process(task, "task_list");
        cleared.iter().for_each(|member| guest.poke(task + member, 0));
        let snapshot = guest.opened.snapshot().unwrap();
        assert_eq!(process(&snapshot, victim.pid).is_some(), is_one, "{:?}", snapshot.problems);
        let is_told = |problem: &Problem| problem.location == format!("task_struct {place}");
        assert_eq!(snapshot.problems.iter().any(is_told), !is_one, "{:?}", snapshot.problems);
        // Nobody hides by that: then the table is not all there is.
        let blind = attest::blind_tables(&snapshot);
        assert_eq!(blind.iter().any(|blind| blind.table == attest::Table::Processes), !is_one);
        // Also where only the memory that tasks are allocated from has it.
        ["pid_table", "cgroup"].iter().for_each(|view| guest.hide_process(task, view));
        let options = Options { scan: true, ..Options::default() };
        let Opened { vm, kernel, .. } = &guest.opened;
        let searched = introspect::snapshot(&*vm.memory, kernel, &vm.vm, &options).unwrap();
        assert_eq!(process(&searched, victim.pid).is_some(), is_one, "{:?}", searched.problems);
        assert_eq!(searched.problems.iter().any(is_told), !is_one, "{:?}", searched.problems);
        guest.put_back();
        assert_eq!(guest.look().processes, clean.processes);
    }

    // Off all lists there are, and asleep: only the memory that tasks are allocated from has it.
    let searched = guest.scan();
    let in_all = |views: &[Text]| views.iter().any(|view| view == "slab");
    assert!(searched.processes.iter().all(|process| in_all(&process.views)), "{:#?}", searched.processes);
    assert_eq!(searched.processes.len(), clean.processes.len(), "free memory is no process");
    views.iter().for_each(|view| guest.hide_process(task, view));
    assert!(process(&guest.look(), victim.pid).is_none());
    let snapshot = guest.scan();
    let seen = process(&snapshot, victim.pid).expect("its memory is there");
    assert_eq!((&seen.views, seen.task.0), (&["slab"].into(), task));
    assert_eq!(finding(&snapshot).2, sorted(&views));
    guest.put_back();

    // Off all lists there are, and still given time by the scheduler.
    let task = process(&clean, spinning.pid).unwrap().task.0;
    views.iter().for_each(|view| guest.hide_process(task, view));
    guest.go_on();
    let seen = (0..100).find_map(|_| process(&guest.opened.snapshot().unwrap(), spinning.pid).cloned());
    guest.stop();
    let seen = seen.expect("the process runs, and no view has it");
    assert_eq!((seen.views, seen.task.0), (["run_queue"].into(), task));
    guest.put_back();

    let views = ["module_list", "module_tree", "sysfs"];
    assert_eq!(clean.views.modules, views);
    let at = module(&clean, "dummy").unwrap().module.0;
    for (taken, left) in combinations(&views) {
        taken.iter().for_each(|view| guest.hide_module(at, view));
        let snapshot = guest.look();
        let seen = module(&snapshot, "dummy").unwrap_or_else(|| panic!("hidden by {taken:?}"));
        assert_eq!(seen.views, left, "hidden from {taken:?}");
        assert_eq!(finding(&snapshot), (rule::MODULE_HIDDEN.to_owned(), sorted(&left), sorted(&taken)));
        guest.put_back();
        assert_eq!(guest.look().modules, clean.modules);
    }
    views.iter().for_each(|view| guest.hide_module(at, view));
    assert!(module(&guest.look(), "dummy").is_none());
    let snapshot = guest.scan();
    let seen = module(&snapshot, "dummy").expect("its memory is there");
    assert_eq!((seen.views.as_slice(), seen.module.0), (["address_range".into()].as_slice(), at));
    assert_eq!(finding(&snapshot).2, sorted(&views));
    guest.put_back();
}

macro_rules! kernels {
    ($($test:ident: $kernel:expr;)*) => {
        const CHECKED: &[Kernel] = &[$($kernel),*];
        $(
            #[test]
            fn $test() {
                check($kernel);
            }
        )*
    };
}

kernels! {
    what_is_taken_off_any_view_of_5_10_is_seen_by_another_and_told: Kernel::V5_10;
    what_is_taken_off_any_view_of_6_1_is_seen_by_another_and_told: Kernel::V6_1;
    what_is_taken_off_any_view_of_6_1_in_real_time_is_seen_by_another_and_told: Kernel::V6_1_RT;
    what_is_taken_off_any_view_of_6_12_is_seen_by_another_and_told: Kernel::V6_12;
    what_is_taken_off_any_view_of_6_12_in_real_time_is_seen_by_another_and_told: Kernel::V6_12_RT;
    what_is_taken_off_any_view_of_7_is_seen_by_another_and_told: Kernel::V7;
    what_is_taken_off_any_view_of_7_for_real_machines_is_seen_by_another_and_told: Kernel::V7_AMD64;
    what_is_taken_off_any_view_of_7_of_backports_is_seen_by_another_and_told: Kernel::V7_BACKPORTS;
}

#[test]
fn the_views_of_every_kernel_that_ci_has_are_tried() {
    for kernel in Kernel::SAMPLE {
        assert!(CHECKED.contains(&kernel), "{}", kernel.name);
    }
}

#[test]
#[ignore = "kernels that CI does not have: `cargo xtask matrix` runs it"]
fn what_is_taken_off_any_view_of_the_other_kernels_of_the_lab_is_seen_by_another_and_told() {
    for kernel in Kernel::ALL.into_iter().filter(|kernel| !CHECKED.contains(kernel)) {
        match testkit::prepare(kernel) {
            Ok(_) => check(kernel),
            // The archive does not have it any more, or not now: the matrix tells that too.
            Err(error) => testkit::skipped(&format!("kernel {}: {error:#}", kernel.name)),
        }
    }
}
