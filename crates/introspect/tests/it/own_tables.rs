//! What a kernel and its modules say of themselves, entry by entry against the guest's own `/proc/kallsyms` and
//! `/sys/kernel/btf`: every symbol of the kernel (with and without VMCOREINFO's help), of a module, and a module's types.

use crate::opened::{Opened, PATIENT};
use guest_profiles::kallsyms_search::search;
use guest_profiles::{Kallsyms, KallsymsTables, KallsymsValues, VmcoreInfo, Wanted, WantedType, btf_digest};
use std::fmt::Write as _;
use testkit::{GuestSpec, Kernel as LabKernel, Need};
use vmi_core::{AddressSpace, Gva, Look};

/// A module with types of its own, and its symbols.
const MODULE: &str = "vsock";
const VSOCK: Wanted = Wanted {
    types: &[
        WantedType { name: "vsock_sock", members: &["sk", "local_addr", "remote_addr", "bound_table"] },
        WantedType { name: "sockaddr_vm", members: &[] },
        WantedType { name: "list_head", members: &[] },
    ],
    enums: &[],
    symbols: &["vsock_bind_table", "vsock_connected_table", "init_task"],
};

/// The symbol table as `/proc/kallsyms` prints it.
fn printed(tables: KallsymsTables<'_>, stext: u64) -> (String, u32) {
    let kallsyms = Kallsyms::new(tables, stext).unwrap();
    let mut text = String::new();
    for symbol in kallsyms.iter() {
        let symbol = symbol.unwrap();
        writeln!(text, "{:016x} {} {}", symbol.address, symbol.kind, symbol.name).unwrap();
    }
    (text, kallsyms.len())
}

/// The whole mapped image, zeros where nothing is mapped.
fn image(space: &AddressSpace<'_, '_>, start: Gva) -> Vec<u8> {
    let mut image = Vec::new();
    let mut page = [0; 4096];
    for number in 0..(96 << 20 >> 12) {
        let at = start.element(number, 4096).unwrap();
        if space.read(at, &mut page).is_err() {
            page.fill(0);
        }
        image.extend_from_slice(&page);
    }
    image
}

fn guest_says(opened: &Opened, script: &str) -> String {
    let output = opened.guest.run(&["sh", "-c", script]).unwrap();
    assert_eq!(output.status, Some(0), "{script}: {}", output.stderr);
    output.stdout
}

fn symbols_are_those_of_proc(opened: &Opened) {
    // Lines with a bracket are of modules and of what was compiled at run time.
    let digest = guest_says(opened, "busybox grep -v '\\[' /proc/kallsyms | busybox sha256sum");
    let expected = format!("sha256:{}", digest.split_whitespace().next().unwrap());
    let same = |text: &str, how: &str| {
        if btf_digest(text.as_bytes()) == expected {
            return;
        }
        let theirs = guest_says(opened, "busybox grep -v '\\[' /proc/kallsyms");
        let (ours, theirs): (Vec<_>, Vec<_>) = (text.lines().collect(), theirs.lines().collect());
        let first = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
        panic!("{how}: {} symbols for {}, the first that differ: {first:?}", ours.len(), theirs.len());
    };

    let look = Look::begin(&*opened.vm.memory, PATIENT).unwrap();
    let space = AddressSpace::new(&look, opened.kernel.root(), opened.kernel.levels());
    let stext = opened.kernel.symbol("_stext").unwrap().0;
    let page = space.pointer(opened.kernel.symbol("vmcoreinfo_data").unwrap()).unwrap();
    let info = VmcoreInfo::parse(&space.c_string(page, 4096).unwrap()).unwrap();
    let at = |name: &str| info.symbols.get(name).copied().map(Gva);
    // Since 6.0 VMCOREINFO says where the tables are.
    if let (Some(count), Some(names), Some(tokens), Some(index), Some(offsets)) = (
        at("kallsyms_num_syms"),
        at("kallsyms_names"),
        at("kallsyms_token_table"),
        at("kallsyms_token_index"),
        at("kallsyms_offsets"),
    ) {
        let num_syms = space.u32(count).unwrap();
        let between =
            |from: Gva, to: Gva| space.bytes(from, usize::try_from(to.0 - from.0).unwrap()).unwrap();
        let values = space.bytes(offsets, num_syms as usize * 4).unwrap();
        let tables = KallsymsTables {
            num_syms,
            names: &between(names, tokens),
            token_table: &between(tokens, index),
            token_index: &space.bytes(index, 512).unwrap(),
            values: KallsymsValues::Offsets {
                bytes: &values,
                address: offsets.0,
                relative_base: at("kallsyms_relative_base").map(|at| space.u64(at).unwrap()),
            },
        };
        same(&printed(tables, stext).0, "by VMCOREINFO");
    }

    let start = opened.kernel.symbol("_text").unwrap();
    let image = image(&space, start);
    let found = search(&image, start.0).unwrap();
    let tables = found
        .tables(&image)
        .into_iter()
        .find(|tables| Kallsyms::new(*tables, stext).is_ok())
        .expect("one place of the addresses fits");
    let (text, count) = printed(tables, stext);
    assert!(count > 50_000);
    same(&text, "in the image");
}

fn module_is_as_the_guest_has_it(opened: &Opened) {
    let memory = &*opened.vm.memory;
    assert_eq!(opened.kernel.module_symbols(memory, MODULE, PATIENT).unwrap(), None, "it is not loaded yet");
    opened.guest.load_module("vsock_loopback").unwrap();

    let listed = guest_says(opened, &format!("busybox grep -F '[{MODULE}]' /proc/kallsyms"));
    let mut expected: Vec<_> = listed
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let (address, kind, name) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let kind = kind.chars().next().unwrap().to_ascii_lowercase();
            (u64::from_str_radix(address, 16).unwrap(), kind, name.to_owned())
        })
        .collect();
    let symbols = opened.kernel.module_symbols(memory, MODULE, PATIENT).unwrap().unwrap();
    let mut ours: Vec<_> =
        symbols.into_iter().map(|symbol| (symbol.address.0, symbol.kind, symbol.name)).collect();
    expected.sort();
    ours.sort();
    assert!(expected.len() > 50, "{expected:?}");
    assert_eq!(ours, expected);

    // Modules have types of their own since 5.11.
    if !opened.kernel.profile().has("btf_module", "btf") {
        let error = opened.kernel.module_types(memory, MODULE, PATIENT).unwrap_err();
        let introspect::Error::Unsupported { missing, .. } = error else { panic!("{error}") };
        assert!(missing.contains(&"symbol btf_modules".to_owned()), "{missing:?}");
        return;
    }
    assert_eq!(opened.kernel.module_types(memory, "nobody", PATIENT).unwrap(), None);
    let types = opened.kernel.module_types(memory, MODULE, PATIENT).unwrap().unwrap();
    let digest = guest_says(opened, &format!("busybox sha256sum /sys/kernel/btf/{MODULE}"));
    assert_eq!(btf_digest(&types), format!("sha256:{}", digest.split_whitespace().next().unwrap()));

    let profile = opened.kernel.module_profile(memory, MODULE, &VSOCK, PATIENT).unwrap().unwrap();
    // ``struct sock`` is the kernel's, and first in ``struct vsock_sock`` (include/net/af_vsock.h).
    let sk = profile.field("vsock_sock", "sk").unwrap();
    assert_eq!((sk.offset, Some(sk.size)), (0, opened.kernel.profile().size("sock").ok().or(Some(sk.size))));
    let local = profile.field("vsock_sock", "local_addr").unwrap();
    assert!(local.offset >= sk.size, "{local:?}");
    assert_eq!(local.size, profile.size("sockaddr_vm").unwrap());
    assert_eq!(profile.types["list_head"], opened.kernel.profile().types["list_head"]);
    let table = |name: &str| expected.iter().find(|(_, _, known)| known == name).map(|(at, ..)| *at);
    for name in ["vsock_bind_table", "vsock_connected_table"] {
        assert_eq!(profile.optional_symbol(name), table(name), "{name}");
        assert!(table(name).is_some());
    }
    // The kernel's symbols are not a module's.
    assert_eq!(profile.optional_symbol("init_task"), None);

    // A kernel whose types were altered meanwhile is no base for a module's.
    let look = Look::begin(memory, PATIENT).unwrap();
    let space = AddressSpace::new(&look, opened.kernel.root(), opened.kernel.levels());
    let end = space.translate(opened.kernel.symbol("__stop_BTF").unwrap()).unwrap().at;
    opened.guest.poke_physical(end.0 - 3, b"~").unwrap();
    let error = opened.kernel.module_profile(memory, MODULE, &VSOCK, PATIENT).unwrap_err();
    assert!(matches!(error, introspect::Error::TypesChanged { .. }), "{error}");
}

#[test]
fn every_symbol_and_every_type_of_a_kernel_and_its_module_is_as_the_guest_lists_it() {
    // The absolute-percpu form with both orders of the tables.
    for kernel in [LabKernel::V5_10, LabKernel::V6_1, LabKernel::V6_12, LabKernel::V7] {
        if !testkit::require(&[Need::Guest(kernel)]) {
            continue;
        }
        let opened = Opened::boot(GuestSpec::new(kernel).memory_mib(256)).unwrap();
        symbols_are_those_of_proc(&opened);
        module_is_as_the_guest_has_it(&opened);
    }
}
