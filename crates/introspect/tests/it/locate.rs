//! Every way to the kernel of a real guest, and what is done with what the guest says of itself.

use crate::opened::{Opened, PATIENT};
use facts::ProfileSource;
use guest_profiles::{Outline, Profile, Stored};
use introspect::{Hint, Kernel, Pulse, Sources};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use testkit::{Backing, GuestSpec, Kernel as LabKernel, Need, PagingLevels};
use vmi_core::{Access, AddressSpace, Budget, Gpa, GuestMemory, Look, MemoryError, Region};

fn opened(kernel: LabKernel, spec: impl FnOnce(GuestSpec) -> GuestSpec) -> Option<Opened> {
    testkit::require(&[Need::Guest(kernel)])
        .then(|| Opened::boot(spec(GuestSpec::new(kernel).memory_mib(256))).unwrap())
}

/// Where a symbol of the guest's kernel is in physical memory.
fn physical(opened: &Opened, symbol: &str) -> Gpa {
    let look = Look::begin(&*opened.vm.memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, opened.kernel.root(), opened.kernel.levels());
    space.translate(opened.kernel.symbol(symbol).unwrap()).unwrap().at
}

/// Makes the kernel's description of itself unreadable, as a kernel without CONFIG_VMCORE_INFO has none.
pub fn without_vmcoreinfo(opened: &Opened) {
    let look = Look::begin(&*opened.vm.memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, opened.kernel.root(), opened.kernel.levels());
    let page = space.pointer(opened.kernel.symbol("vmcoreinfo_data").unwrap()).unwrap();
    let page = space.translate(page).unwrap().at;
    opened.guest.poke_physical(page.0, b"XXXXXXXXXX").unwrap();
}

fn is_the_same(found: &Kernel, opened: &Opened) {
    let known = &opened.kernel;
    assert_eq!((found.root(), found.levels()), (known.root(), known.levels()));
    assert_eq!(found.profile(), known.profile());
    assert_eq!(found.symbol("init_task"), known.symbol("init_task"));
    let look = |kernel| {
        introspect::snapshot(&*opened.vm.memory, kernel, opened.facts(), &introspect::Options::default())
            .unwrap()
    };
    opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    let (one, other) = (look(found), look(known));
    opened.guest.qmp(&serde_json::json!({"execute": "cont"})).unwrap();
    assert!(!one.processes.is_empty());
    assert_eq!(one.processes, other.processes);
    assert_eq!(one.sockets, other.sockets);
    assert_eq!(one.kernel, other.kernel);
}

#[test]
fn registers_lead_to_a_kernel_that_does_not_describe_itself() {
    for (kernel, levels) in [(LabKernel::V6_1, PagingLevels::Four), (LabKernel::V6_12, PagingLevels::Five)] {
        let Some(opened) = opened(kernel, |spec| spec.levels(levels)) else { return };
        without_vmcoreinfo(&opened);
        let asked = Cell::new(0);
        let registers = || {
            asked.set(asked.get() + 1);
            opened.vm.registers().unwrap()
        };
        let sources = Sources { registers: &registers, ..Sources::default() };
        let found = introspect::locate_with(&*opened.vm.memory, &sources, PATIENT).unwrap();
        assert_eq!(asked.get(), 1);
        is_the_same(&found, &opened);
        assert!(found.is_current(&*opened.vm.memory).unwrap());
    }
}

#[test]
fn page_tables_in_memory_lead_to_a_kernel_that_does_not_describe_itself() {
    for (kernel, levels) in [(LabKernel::V6_1, PagingLevels::Five), (LabKernel::V6_12, PagingLevels::Four)] {
        let Some(opened) = opened(kernel, |spec| spec.levels(levels)) else { return };
        without_vmcoreinfo(&opened);
        let found = introspect::locate(&*opened.vm.memory, PATIENT).unwrap();
        is_the_same(&found, &opened);
    }
}

#[test]
fn vcpus_that_are_all_in_user_mode_with_page_table_isolation_lead_to_the_kernel() {
    let spec = |spec: GuestSpec| spec.kernel_parameter("pti=on").vcpus(2);
    let Some(opened) = opened(LabKernel::V6_1, spec) else { return };
    without_vmcoreinfo(&opened);
    // Work, so that user mode is where both vCPUs are nearly always.
    let spin = testkit::Spawn { activity: testkit::Activity::Spin, ..testkit::Spawn::default() };
    let spinning = opened.guest.spawn_many(4, spin).unwrap();
    // The user half of any process: the page behind the kernel's root, as CR3 has it in user mode.
    let in_user_mode = |vcpu: &vmi_core::Registers| vcpu.cr3 & 0x1000 != 0;
    let caught = (0..5000)
        .map(|_| opened.vm.registers().unwrap())
        .find(|vcpus| vcpus.len() == 2 && vcpus.iter().all(in_user_mode));
    spinning.iter().for_each(|process| opened.guest.kill(process.pid).unwrap());
    let caught = caught.expect("the vCPUs were never both in user mode");
    let registers = || caught.clone();
    let sources = Sources { registers: &registers, ..Sources::default() };
    let found = introspect::locate_with(&*opened.vm.memory, &sources, PATIENT).unwrap();
    is_the_same(&found, &opened);
}

#[test]
fn a_hint_spares_the_search_and_does_not_fit_another_boot() {
    let Some(first) = opened(LabKernel::V6_1, |spec| spec) else { return };
    let written = first.kernel.hint(&*first.vm.memory).unwrap();
    let json = written.to_json();
    let hint = Hint::from_json(&json).unwrap();
    assert_eq!(hint, written);
    let found = Kernel::resume(&*first.vm.memory, hint.clone()).unwrap().unwrap();
    is_the_same(&found, &first);
    let second = opened(LabKernel::V6_1, |spec| spec).unwrap();
    assert!(Kernel::resume(&*second.vm.memory, hint).unwrap().is_none());
    for damaged in [&json[..json.len() - 1], b"", b"{}", b"[1]"] {
        assert_eq!(Hint::from_json(damaged), None);
    }
}

#[test]
fn a_stored_profile_is_used_and_a_guest_that_contradicts_it_is_told() {
    let Some(opened) = opened(LabKernel::V6_1, |spec| spec) else { return };
    let stored = |profile: Profile| Stored { profile: Arc::new(profile), path: "/store/p".into() };
    let own = opened.kernel.profile().clone();
    let profiles = |release: &str| {
        assert_eq!(release, opened.kernel.release());
        vec![stored(own.clone())]
    };
    let sources = Sources { profiles: &profiles, ..Sources::default() };
    let locate = || introspect::locate_with(&*opened.vm.memory, &sources, PATIENT).unwrap();
    let look = |kernel: &Kernel| {
        introspect::snapshot(&*opened.vm.memory, kernel, opened.facts(), &introspect::Options::default())
            .unwrap()
    };
    let clean = look(&locate());
    assert_eq!(clean.kernel.profile.source, ProfileSource::Store);
    assert_eq!(clean.kernel.profile.contradictions, [""; 0]);

    // One byte in the strings of the type information: enough to lie about where a member is.
    let end = physical(&opened, "__stop_BTF");
    opened.guest.poke_physical(end.0 - 3, b"~").unwrap();
    let altered = look(&locate());
    let [contradiction] = altered.kernel.profile.contradictions.as_slice() else {
        panic!("{:?}", altered.kernel.profile)
    };
    assert!(contradiction.contains(own.btf_digest.as_deref().unwrap()), "{contradiction}");
    assert_eq!(altered.kernel.profile.source, ProfileSource::Store);
    assert_ne!(altered.kernel.btf_digest, clean.kernel.btf_digest);
    assert_eq!(altered.processes.len(), clean.processes.len());

    // A profile of another build is nobody's.
    let mut other = own.clone();
    other.build_id = Some("00".repeat(20));
    let profiles = |_: &str| vec![stored(other.clone())];
    let sources = Sources { profiles: &profiles, ..Sources::default() };
    let kernel = introspect::locate_with(&*opened.vm.memory, &sources, PATIENT).unwrap();
    assert_eq!(look(&kernel).kernel.profile.source, ProfileSource::Guest);
}

/// Memory that says whether all of it was searched: that asks for what is populated, or reads every page.
#[derive(Debug)]
struct Counted<'m> {
    memory: &'m dyn GuestMemory,
    reads: AtomicU64,
}

impl GuestMemory for Counted<'_> {
    fn regions(&self) -> &[Region] {
        self.memory.regions()
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
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

#[test]
fn the_kernel_of_a_stored_profile_is_found_without_a_search_unless_it_has_handed_over() {
    let cells = [
        (LabKernel::V5_10, PagingLevels::Four, Backing::Anonymous),
        (LabKernel::V6_12, PagingLevels::Five, Backing::Memfd),
        (LabKernel::V7, PagingLevels::Four, Backing::Memfd),
    ];
    for (kernel, levels, backing) in cells {
        let mapped = matches!(backing, Backing::Memfd);
        let Some(opened) = opened(kernel, |spec| spec.levels(levels).backing(backing)) else { return };
        let own = Stored { profile: Arc::new(opened.kernel.profile().clone()), path: "/store/p".into() };
        let mut other = opened.kernel.profile().clone();
        other.build_id = Some("00".repeat(20));
        let profiles = |_: &str| vec![own.clone()];
        let known = || -> Box<dyn Iterator<Item = Outline>> {
            Box::new([&other, &*own.profile].map(Outline::from).into_iter())
        };
        let memory = Counted { memory: &*opened.vm.memory, reads: AtomicU64::new(0) };
        let search = || {
            let sources = Sources { profiles: &profiles, known: &known, ..Sources::default() };
            memory.reads.store(0, Ordering::Relaxed);
            let found = introspect::locate_with(&memory, &sources, PATIENT).unwrap();
            let known = &opened.kernel;
            assert_eq!((found.root(), found.levels()), (known.root(), known.levels()));
            assert_eq!(found.symbol("init_task"), known.symbol("init_task"));
            assert_eq!(found.profile_origin().source, ProfileSource::Store);
            memory.reads.load(Ordering::Relaxed)
        };
        let direct = search();
        if mapped {
            // The kernel has at least 50 MiB, and a search looks at each of its pages.
            opened.guest.poke_physical(physical(&opened, "kexec_in_progress").0, &[1]).unwrap();
            let searched = search();
            assert!(searched > direct + 10_000, "{}: {searched} reads, and {direct}", kernel.name);
            opened.guest.poke_physical(physical(&opened, "kexec_in_progress").0, &[0]).unwrap();
            opened.guest.poke_physical(physical(&opened, "panic_cpu").0, &[0; 4]).unwrap();
            assert!(search() > direct + 10_000, "{}", kernel.name);
        }
        assert!(direct < 10_000, "{}: {direct} reads", kernel.name);
    }
}

#[test]
fn a_first_look_shows_what_was_proved_and_never_what_was_only_guessed() {
    for (kernel, backing) in [(LabKernel::V5_10, Backing::Anonymous), (LabKernel::V6_12, Backing::Memfd)] {
        let mapped = matches!(backing, Backing::Memfd);
        let Some(opened) = opened(kernel, |spec| spec.backing(backing)) else { return };
        let own = Stored { profile: Arc::new(opened.kernel.profile().clone()), path: "/store/p".into() };
        let profiles = |_: &str| vec![own.clone()];
        let known = || -> Box<dyn Iterator<Item = Outline>> {
            Box::new(std::iter::once(Outline::from(&*own.profile)))
        };
        let sources = Sources { profiles: &profiles, known: &known, ..Sources::default() };
        let options = introspect::Options { budget: PATIENT, ..introspect::Options::default() };
        let look = || introspect::first_look(&*opened.vm.memory, &sources, PATIENT, opened.facts(), &options);
        let (found, snapshot) = look().unwrap();
        assert!(found.is_same_boot(&opened.kernel));
        assert_eq!(found.profile_origin().source, ProfileSource::Store);
        assert_eq!(found.profile_origin().contradictions, [""; 0]);
        assert_eq!(snapshot.kernel.profile, *found.profile_origin());
        assert_eq!(snapshot.kernel.btf_digest, own.profile.btf_digest);
        assert_eq!(snapshot.problems, []);
        let pids = |snapshot: &facts::Snapshot| -> Vec<u32> {
            snapshot.processes.iter().map(|process| process.pid).collect()
        };
        assert_eq!(pids(&snapshot), pids(&opened.snapshot().unwrap()));

        // What an altered guest says of itself is not what was guessed: it is told, as a look after the search tells it.
        if !mapped {
            continue;
        }
        rename_in_btf(&opened, "real_parent", "fake_parent");
        let (found, snapshot) = look().unwrap();
        assert_eq!(found.profile_origin().contradictions.len(), 1, "{:?}", found.profile_origin());
        assert_eq!(snapshot.kernel.profile, *found.profile_origin());
        assert_ne!(snapshot.kernel.btf_digest, own.profile.btf_digest);
        // A kernel that has handed over is not taken for its profile, whatever was begun with it.
        opened.guest.poke_physical(physical(&opened, "kexec_in_progress").0, &[1]).unwrap();
        let (found, snapshot) = look().unwrap();
        assert!(found.is_same_boot(&opened.kernel));
        assert_eq!(snapshot.kernel.profile, *found.profile_origin());
        // And where nothing is proved there is no look.
        without_vmcoreinfo(&opened);
        let state = physical(&opened, "system_state");
        opened.guest.poke_physical(state.0, &[0; 4]).unwrap();
        assert!(look().is_err());
    }
}

#[test]
fn a_guest_before_its_kernel_is_booting_and_not_broken() {
    let Some(opened) = opened(LabKernel::V6_1, |spec| spec) else { return };
    without_vmcoreinfo(&opened);
    // Registers as a vCPU has them after reset.
    let reset = || vec![vmi_core::Registers { cr0: 0x6000_0010, cr3: 0, cr4: 0, idt: vmi_core::Gva(0) }];
    let sources = Sources { registers: &reset, ..Sources::default() };
    let error = introspect::locate_with(&*opened.vm.memory, &sources, PATIENT).unwrap_err();
    assert!(matches!(error, introspect::Error::NotYet { .. }), "{error}");
    assert!(error.may_be_booting());
}

/// A piece of text that is in the guest's type information, end included, becomes another of the same length.
fn rename_in_btf(opened: &Opened, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let look = Look::begin(&*opened.vm.memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, opened.kernel.root(), opened.kernel.levels());
    let at = |symbol: &str| opened.kernel.symbol(symbol).unwrap();
    let len = usize::try_from(at("__stop_BTF").0 - at("__start_BTF").0).unwrap();
    let bytes = space.bytes(at("__start_BTF"), len).unwrap();
    let whole = [b"\0", from.as_bytes(), b"\0"].concat();
    let place = bytes.windows(whole.len()).position(|window| window == whole).unwrap() + 1;
    opened.guest.poke_physical(physical(opened, "__start_BTF").0 + place as u64, to.as_bytes()).unwrap();
}

#[test]
fn a_kernel_that_lacks_what_is_needed_is_named_with_all_that_is_missing() {
    let Some(opened) = opened(LabKernel::V6_1, |spec| spec) else { return };
    let locate = || introspect::locate(&*opened.vm.memory, PATIENT).unwrap_err();
    rename_in_btf(&opened, "real_parent", "fake_parent");
    rename_in_btf(&opened, "ehash_mask", "ehash_sack");
    match locate() {
        introspect::Error::Unsupported { release, missing } => {
            assert_eq!(release, opened.kernel.release());
            assert_eq!(missing, ["task_struct.real_parent", "inet_hashinfo.ehash_mask"]);
        }
        other => panic!("{other:?}"),
    }
    // No type information at all.
    opened.guest.poke_physical(physical(&opened, "__start_BTF").0, &[0; 24]).unwrap();
    let error = locate();
    let introspect::Error::Profile { what: "type information", release, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(release, opened.kernel.release());
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("magic"), "{source}");
    assert!(!error.may_be_booting());
}

#[test]
fn what_a_previous_kernel_left_in_memory_is_not_taken_for_the_one_that_runs() {
    if !testkit::require(&[Need::Guest(LabKernel::V6_1), Need::Guest(LabKernel::V6_12)]) {
        return;
    }
    // Each is kept out of the part of memory that the other runs in, as with a kexec into a reserved region.
    let boot = |kernel, reserved: &str| {
        let spec = GuestSpec::new(kernel).memory_mib(512).kernel_parameter(format!("memmap={reserved}"));
        Opened::boot(spec).unwrap()
    };
    let previous = boot(LabKernel::V6_1, "240M$16M");
    let running = boot(LabKernel::V6_12, "256M$256M");
    assert_ne!(previous.kernel.root(), running.kernel.root());
    previous.guest.poke_physical(physical(&previous, "kexec_in_progress").0, &[1]).unwrap();
    previous.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();

    let mut left = 0;
    let free: Vec<_> = {
        let regions = running.vm.memory.regions().to_vec();
        let used: Vec<_> =
            regions.iter().flat_map(|region| running.vm.memory.populated(*region).unwrap()).collect();
        previous
            .vm
            .memory
            .regions()
            .iter()
            .flat_map(|region| previous.vm.memory.populated(*region).unwrap())
            .flat_map(|extent| {
                (0..extent.len / 4096).filter_map(move |page| extent.start.element(page, 4096))
            })
            // The running kernel keeps out of its second half, where QEMU has put its initramfs before it ran.
            .filter(|page| {
                let unused = || !used.iter().any(|extent| extent.contains(*page, 4096));
                page.0 >= 256 << 20 || (page.0 >= 1 << 20 && unused())
            })
            .collect()
    };
    let mut bytes = [0; 4096];
    for page in free {
        previous.vm.memory.read(page, &mut bytes).unwrap();
        running.guest.poke_physical(page.0, &bytes).unwrap();
        left += 1;
    }
    assert!(left > 10_000, "only {left} pages of the previous kernel are left");

    // Both describe themselves and hold together: memory that stands still cannot tell, and says so. A stored profile of the
    // previous one's build changes nothing: that kernel says that it has handed over.
    let memory = &*running.vm.memory;
    let stored = Outline::from(previous.kernel.profile());
    let known = || -> Box<dyn Iterator<Item = Outline>> { Box::new(std::iter::once(stored.clone())) };
    let by_memory = Sources { known: &known, ..Sources::default() };
    let command = |name| running.guest.qmp(&serde_json::json!({ "execute": name })).unwrap();
    command("stop");
    match introspect::locate_with(memory, &by_memory, PATIENT).unwrap_err() {
        introspect::Error::Ambiguous { first, second } => {
            let mut found = [first, second];
            let mut expected = [previous.kernel.root(), running.kernel.root()];
            found.sort();
            expected.sort();
            assert_eq!(found, expected);
        }
        other => panic!("{other:?}"),
    }
    // The registers can.
    let registers = || running.vm.registers().unwrap();
    let sources = Sources { registers: &registers, ..Sources::default() };
    is_the_same(&introspect::locate_with(memory, &sources, PATIENT).unwrap(), &running);
    // So can the clocks, once anything runs. Work, so that the guest does not idle for longer than they are watched.
    command("cont");
    let spin = testkit::Spawn { activity: testkit::Activity::Spin, ..testkit::Spawn::default() };
    let spinning = running.guest.spawn(spin).unwrap();
    is_the_same(&introspect::locate_with(memory, &by_memory, PATIENT).unwrap(), &running);

    // After a reset nothing says that the previous one has ended. Its clock tells, to a stored profile and to a hint alike.
    running.guest.poke_physical(physical(&previous, "kexec_in_progress").0, &[0]).unwrap();
    let hint = previous.kernel.hint(&*previous.vm.memory).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(previous.kernel.is_current(memory).unwrap(), "it holds together");
    assert!(Kernel::resume(memory, hint).unwrap().is_none());
    is_the_same(&introspect::locate_with(memory, &by_memory, PATIENT).unwrap(), &running);
    // And to whoever was looking at it all the time.
    let mut pulse = Pulse::default();
    assert!(pulse.holds(&previous.kernel, memory).unwrap());
    let began = Instant::now();
    while pulse.holds(&previous.kernel, memory).unwrap() {
        assert!(began.elapsed() < Duration::from_secs(30), "a kernel that stands still is never doubted");
        std::thread::sleep(Duration::from_millis(200));
    }
    running.guest.kill(spinning.pid).unwrap();
}
