//! A kernel without CONFIG_KALLSYMS_ALL: a real guest whose symbol table is rewritten in memory, so that it has the functions
//! and section markers that such a kernel lists and nothing else. Its tables must be those found with all symbols.

use crate::opened::Opened;
use guest_profiles::VmcoreInfo;
use guest_profiles::linux::WANTED;
use introspect::{Kernel, Options, Sources};
use std::collections::BTreeMap;
use testkit::{GuestSpec, Kernel as LabKernel, Need, PagingLevels, SocketSpec, Spawn};
use vmi_core::{AddressSpace, Budget, Gva, Look};

/// Data symbols that one anchor leads to, or that the image shows. What else the full table has is used for what is then said
/// to be unknown, or for what namespaces lead to as well (tables of TCP since 6.1 and of UDP since 6.2).
const FOUND: [&str; 10] = [
    "init_net",
    "init_pid_ns",
    "init_task",
    "init_top_pgt",
    "init_uts_ns",
    "linux_banner",
    "modules",
    "net_namespace_list",
    "nl_table",
    "raw_v4_hashinfo",
];

/// Renames every symbol that is no function and no section marker, in the guest's memory.
fn hide_data_symbols(opened: &Opened) {
    let look = Look::begin(&*opened.vm.memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, opened.kernel.root(), opened.kernel.levels());
    let page = space.pointer(opened.kernel.symbol("vmcoreinfo_data").unwrap()).unwrap();
    let info = VmcoreInfo::parse(&space.c_string(page, 4096).unwrap()).unwrap();
    let at = |name: &str| Gva(info.symbols[name]);
    let count = space.u32(at("kallsyms_num_syms")).unwrap();
    let (names_at, tokens_at) = (at("kallsyms_names"), at("kallsyms_token_table"));
    let mut names = space.bytes(names_at, usize::try_from(tokens_at.0 - names_at.0).unwrap()).unwrap();
    let table = space.bytes(tokens_at, 64 << 10).unwrap();
    let tokens: Vec<&[u8]> = table.split(|byte| *byte == 0).take(256).collect();
    // A symbol becomes a local function of as many tokens.
    let code = |wanted: &dyn Fn(&[u8]) -> bool| {
        u8::try_from(tokens.iter().position(|token| wanted(token)).unwrap()).unwrap()
    };
    let function = code(&|token| token.len() > 1 && token[0] == b't');
    let letter = code(&|token| token == b"x");

    let (mut start, mut hidden) = (0, 0);
    for _ in 0..count {
        let mut len = usize::from(names[start]);
        start += 1;
        if len & 0x80 != 0 {
            len = (len & 0x7f) | usize::from(names[start]) << 7;
            start += 1;
        }
        let codes = &mut names[start..start + len];
        let name: Vec<u8> = codes.iter().flat_map(|code| tokens[usize::from(*code)]).copied().collect();
        let marker = name[1..].starts_with(b"__start_") || name[1..].starts_with(b"__stop_");
        // Linux 7.2 lists some data as text.
        let data = WANTED.symbols.iter().any(|data| !data.starts_with('_') && name[1..] == *data.as_bytes());
        if (data || !b"tTwW".contains(&name[0])) && !marker {
            codes.fill(letter);
            codes[0] = function;
            hidden += 1;
        }
        start += len;
    }
    assert!(hidden > 10_000, "only {hidden} of {count} symbols are data");
    let place = space.translate(names_at).unwrap().at;
    opened.guest.poke_physical(place.0, &names).unwrap();
}

/// Has `look` see the guest while it stands and a page of its image has a copy of the pointer to the netlink tables, as stacks have
/// that lie in what the kernel's start gave back.
fn with_a_stray_copy(opened: &Opened, look: impl FnOnce()) {
    let memory = Look::begin(&*opened.vm.memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&memory, opened.kernel.root(), opened.kernel.levels());
    let [tables, data] = ["nl_table", "init_task"].map(|name| opened.kernel.symbol(name).unwrap());
    opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    let mut pages = (data.0 & !0xfff..).step_by(4096).take(4096).map(Gva);
    let page = pages.find(|page| space.bytes(*page, 4096).is_ok_and(|bytes| bytes == [0; 4096])).unwrap();
    let place = space.translate(page).unwrap().at.0;
    opened.guest.poke_physical(place, &space.u64(tables).unwrap().to_le_bytes()).unwrap();
    look();
    opened.guest.poke_physical(place, &[0; 8]).unwrap();
    opened.guest.qmp(&serde_json::json!({"execute": "cont"})).unwrap();
}

fn look(opened: &Opened, kernel: &Kernel) -> facts::Snapshot {
    introspect::snapshot(&*opened.vm.memory, kernel, opened.facts(), &Options::default()).unwrap()
}

/// Processes and modules but for the views that they were seen in.
fn without_views(snapshot: &facts::Snapshot) -> (Vec<facts::Process>, Vec<facts::Module>) {
    let processes = snapshot.processes.iter().cloned().map(|process| facts::Process {
        views: facts::Names::default(),
        started_at: None,
        ..process
    });
    let modules =
        snapshot.modules.iter().cloned().map(|module| facts::Module { views: Vec::new(), ..module });
    (processes.collect(), modules.collect())
}

#[test]
fn a_kernel_without_data_symbols_gives_the_same_tables_through_one_anchor() {
    let cells = [
        (LabKernel::V6_1, PagingLevels::Four),
        (LabKernel::V6_12, PagingLevels::Five),
        (LabKernel::V7, PagingLevels::Four),
    ];
    for (kernel, levels) in cells {
        if !testkit::require(&[Need::Guest(kernel)]) {
            continue;
        }
        let opened = Opened::boot(GuestSpec::new(kernel).memory_mib(256).levels(levels)).unwrap();
        let spawn = |sockets| opened.guest.spawn(Spawn { sockets, ..Spawn::default() }).unwrap();
        spawn(vec![
            SocketSpec::TcpListen { address: "0.0.0.0:8080".parse().unwrap() },
            SocketSpec::UdpBind { address: "[::]:5353".parse().unwrap() },
        ]);
        hide_data_symbols(&opened);
        let locate = || introspect::locate(&*opened.vm.memory, crate::opened::PATIENT).unwrap();

        // Nothing leads to the head of a list without elements: no module is known, and that is said.
        let without_modules = look(&opened, &locate());
        assert!(without_modules.modules.is_empty());
        let [problem] = without_modules.problems.as_slice() else { panic!("{:?}", without_modules.problems) };
        assert_eq!((problem.kind, problem.location.as_str()), (facts::ProblemKind::Profile, "modules"));
        opened.guest.load_module("dummy").unwrap();

        with_a_stray_copy(&opened, || {
            let found = locate();
            assert_eq!(found.symbol("nl_table"), opened.kernel.symbol("nl_table"), "{}", kernel.name);
        });
        let by_description = locate();
        crate::locate::without_vmcoreinfo(&opened);
        let registers = || opened.vm.registers().unwrap();
        let sources = Sources { registers: &registers, ..Sources::default() };
        let by_registers =
            introspect::locate_with(&*opened.vm.memory, &sources, crate::opened::PATIENT).unwrap();

        for found in [by_description, by_registers] {
            assert_eq!((found.root(), found.levels()), (opened.kernel.root(), opened.kernel.levels()));
            assert_eq!(found.profile().types, opened.kernel.profile().types);
            let all: BTreeMap<_, _> = opened.kernel.profile().symbols.clone();
            for name in FOUND {
                assert!(found.profile().symbols.contains_key(name), "{}: {name} is not found", kernel.name);
            }
            let elsewhere: Vec<_> =
                found.profile().symbols.iter().filter(|(name, at)| all.get(*name) != Some(at)).collect();
            assert!(elsewhere.is_empty(), "{}: {elsewhere:#x?}", kernel.name);
            opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
            let (one, other) = (look(&opened, &found), look(&opened, &opened.kernel));
            opened.guest.qmp(&serde_json::json!({"execute": "cont"})).unwrap();
            assert!(!one.processes.is_empty() && !one.sockets.is_empty() && !one.modules.is_empty());
            assert_eq!(without_views(&one), without_views(&other));
            assert_eq!(one.sockets, other.sockets);
            assert_eq!(one.problems, other.problems);
            assert!(found.is_current(&*opened.vm.memory).unwrap());
        }
    }
}
