//! `examples/vmi-rs-adapter`: vmi-rs's own page-table walk and readers, on a real guest opened by us, give what ours give.

use crate::opened::Opened;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use testkit::{GuestSpec, Kernel, Need, PagingLevels};
use vmi_core::{AddressSpace, Budget, Gva, Look};

/// The adapter's program, built if `cargo xtask test` has not done so. What it is made of must have been downloaded before.
fn program() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = workspace.join("target/vmi-rs-adapter");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--offline", "--examples"])
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(workspace.join("examples/vmi-rs-adapter"))
        .status()
        .unwrap();
    assert!(built.success());
    target.join("debug/examples/strings")
}

fn strings(opened: &Opened, root: &str, addresses: &[Gva]) -> Output {
    let addresses = addresses.iter().map(|address| format!("{:#x}", address.0));
    Command::new(program())
        .args([&format!("pid:{}", opened.guest.pid()), root])
        .args(addresses)
        .output()
        .unwrap()
}

#[test]
fn vmi_rs_reads_and_translates_on_our_memory_as_we_do() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let opened = Opened::boot(GuestSpec::new(Kernel::V6_1)).unwrap();
    let look = Look::begin(&*opened.vm.memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, opened.kernel.root(), opened.kernel.levels());
    // One in the kernel's image, in pages of 2 MiB, and one that its direct map leads to.
    let banner = opened.kernel.symbol("linux_banner").unwrap();
    let page = space.pointer(opened.kernel.symbol("vmcoreinfo_data").unwrap()).unwrap();
    let expected: String = [banner, page]
        .into_iter()
        .map(|address| {
            let text = String::from_utf8(space.c_string(address, 4096).unwrap()).unwrap();
            format!("{:#x} {:#x} {}\n", address.0, space.translate(address).unwrap().at.0, text.trim_end())
        })
        .collect();
    assert!(expected.contains("Linux version 6.1.") && expected.contains("OSRELEASE=6.1."), "{expected}");

    let root = format!("{:#x}", opened.kernel.root().0);
    let read = strings(&opened, &root, &[banner, page]);
    assert_eq!(String::from_utf8_lossy(&read.stdout), expected, "{read:?}");
    // The same by the page tables that the vCPU runs on, which every process of a kernel without their isolation can be on.
    let read = strings(&opened, "cr3", &[banner, page]);
    assert_eq!(String::from_utf8_lossy(&read.stdout), expected, "{read:?}");

    // An address that leads nowhere is an error of vmi-rs's, and no zeros.
    let nowhere = strings(&opened, &root, &[Gva(0x1000)]);
    assert!(!nowhere.status.success() && nowhere.stdout.is_empty(), "{nowhere:?}");
}

#[test]
fn a_vcpu_with_five_levels_is_refused_as_vmi_rs_would_walk_four() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let opened = Opened::boot(GuestSpec::new(Kernel::V6_1).levels(PagingLevels::Five)).unwrap();
    let read = strings(&opened, "cr3", &[opened.kernel.symbol("linux_banner").unwrap()]);
    assert!(!read.status.success() && read.stdout.is_empty(), "{read:?}");
    assert!(String::from_utf8_lossy(&read.stderr).contains("FiveLevels"), "{read:?}");
}
