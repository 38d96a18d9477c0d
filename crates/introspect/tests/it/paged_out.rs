//! Pages that the hypervisor's pager keeps: unknown, told as problems, and no end of the look.

use crate::opened::{Opened, PATIENT};
use facts::Snapshot;
use introspect::{Kernel, Options, Sources};
use testkit::{GuestSpec, Need, Spawn};
use vmi_core::{Access, AddressSpace, Budget, Gpa, GuestMemory, Gva, Look, MemoryError, PAGE_SIZE, Region};

/// Memory of which one page is with a pager.
#[derive(Debug)]
struct PagedOut<'m> {
    memory: &'m dyn GuestMemory,
    page: Gpa,
}

impl GuestMemory for PagedOut<'_> {
    fn regions(&self) -> &[Region] {
        self.memory.regions()
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        let end = at.0 + buf.len() as u64;
        if at.0 < self.page.0 + PAGE_SIZE && self.page.0 < end {
            return Err(MemoryError::PagedOut { at: self.page });
        }
        self.memory.read(at, buf)
    }

    fn populated(&self, within: Region) -> Result<Vec<Region>, MemoryError> {
        self.memory.populated(within)
    }

    fn access(&self) -> Access {
        self.memory.access()
    }

    fn begin_look(&self) -> Result<(), MemoryError> {
        self.memory.begin_look()
    }
}

fn page_of(opened: &Opened, at: Gva) -> Gpa {
    let look = Look::begin(&*opened.vm.memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, opened.kernel.root(), opened.kernel.levels());
    space.translate(at).unwrap().at.page_base()
}

fn look(opened: &Opened, memory: &dyn GuestMemory, kernel: &Kernel) -> Snapshot {
    let options = Options { budget: PATIENT, ..Options::default() };
    introspect::snapshot(memory, kernel, opened.facts(), &options).unwrap()
}

#[test]
fn a_process_on_a_page_that_is_paged_out_is_a_problem_and_the_others_are_seen() {
    if !testkit::require(&[Need::Guest(testkit::Kernel::V6_1)]) {
        return;
    }
    let opened = Opened::boot(GuestSpec::new(testkit::Kernel::V6_1).memory_mib(256)).unwrap();
    let victim = opened.guest.spawn(Spawn { exe: "/usr/bin/victim".into(), ..Spawn::default() }).unwrap();
    opened.guest.spawn_many(5, Spawn::default()).unwrap();
    opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    let memory = &*opened.vm.memory;
    let clean = look(&opened, memory, &opened.kernel);
    assert_eq!(clean.problems, []);
    let task = clean.processes.iter().find(|process| process.pid == victim.pid).unwrap().task;

    let partial = PagedOut { memory, page: page_of(&opened, Gva(task.0)) };
    let seen = look(&opened, &partial, &opened.kernel);
    assert!(seen.problems.iter().any(|problem| problem.detail.contains("paged out")), "{:?}", seen.problems);
    // Nothing that was read became another thing: each row is one that there is, but what is unknown in it.
    for process in &seen.processes {
        let known = clean.processes.iter().find(|known| known.pid == process.pid);
        assert_eq!(known.map(|known| (&known.name, known.task)), Some((&process.name, process.task)));
    }
    assert!(seen.processes.len() * 2 > clean.processes.len(), "{} are left", seen.processes.len());

    // The kernel's description of itself: it is found by its page tables, behind it.
    let description = {
        let look = Look::begin(memory, PATIENT).unwrap();
        let space = AddressSpace::new(&look, opened.kernel.root(), opened.kernel.levels());
        space.pointer(opened.kernel.symbol("vmcoreinfo_data").unwrap()).unwrap()
    };
    let partial = PagedOut { memory, page: page_of(&opened, description) };
    let found = introspect::locate_with(&partial, &Sources::default(), PATIENT).unwrap();
    assert_eq!(found.symbol("init_task"), opened.kernel.symbol("init_task"));
    let seen = look(&opened, &partial, &found);
    assert_eq!(seen.processes.len(), clean.processes.len());
}
