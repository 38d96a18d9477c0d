//! Bad input ends in one clear line and exit status 2.

use crate::run::{run, run_as_nobody};
use std::fs;
use std::path::{Path, PathBuf};
use testkit::vmm::{MapForm, Mapped, Vmm, VmmSpec};

struct Images {
    dir: tempfile::TempDir,
}

impl Images {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// The error of looking at a file, which must name it.
fn error_of(path: &Path) -> String {
    let text = path.to_str().unwrap();
    let errors: Vec<String> = ["ps", "sockets", "modules", "snapshot", "audit"]
        .iter()
        .map(|command| {
            let ran = run([command, text]);
            assert_eq!(ran.stdout, "", "{command}");
            ran.error().to_owned()
        })
        .collect();
    assert!(errors.iter().all(|error| error.contains(text)), "{errors:#?}");
    errors[0].clone()
}

/// Noise that looks random and is the same each time (xorshift).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[4]
        })
        .collect()
}

#[test]
fn a_vm_whose_memory_is_its_own_is_unreadable_with_the_reason_and_status_2() {
    if !testkit::require(&[testkit::Need::Root]) || !Vmm::can_start() {
        return;
    }
    let spec = VmmSpec::new("firecracker", (512 << 20, 0), Mapped::Anonymous, MapForm::ZeroPage);
    let vmm = Vmm::start(&VmmSpec { private: true, ..spec }).unwrap();
    let target = format!("pid:{}", vmm.pid());
    let listed: Vec<facts::Vm> = serde_json::from_str(&run(["list", "--json"]).stdout).unwrap();
    assert!(listed.iter().any(|vm| vm.pid == Some(vmm.pid())), "{listed:?}");
    let audit = run(["audit", &target, "--json"]);
    assert_eq!(audit.status, Some(2), "{audit:?}");
    assert!(audit.error().contains("guest_memfd"), "{audit:?}");
    let report: facts::Report = serde_json::from_str(&audit.stdout).unwrap();
    assert_eq!((report.verdict, &report.snapshot), (facts::Verdict::Unreadable, &None));
    assert_eq!((report.vm.pid, report.findings.len()), (Some(vmm.pid()), 0));
    assert!(report.reason.unwrap().contains("protected from this host (guest_memfd"), "{}", audit.stdout);
    // Never an empty table.
    for command in ["snapshot", "ps", "sockets", "modules", "ebpf", "audit"] {
        let ran = run([command, &target]);
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""), "{command}");
        assert!(ran.error().contains("guest_memfd"), "{command}: {ran:?}");
    }
}

#[test]
fn the_vcpus_of_a_vmm_without_a_monitor_are_asked_only_when_told_to() {
    if !testkit::require(&[testkit::Need::Root]) || !Vmm::can_start() {
        return;
    }
    let spec = VmmSpec::new("firecracker", (512 << 20, 0), Mapped::Anonymous, MapForm::ZeroPage);
    let vmm = Vmm::start(&VmmSpec { runs_on: true, ..spec }).unwrap();
    let target = format!("pid:{}", vmm.pid());
    // Its memory has no kernel; only the vCPU tells that none has begun to run.
    assert!(run(["ps", &target]).error().contains("No running Linux kernel found"));
    let told = run(["ps", &target, "--vcpu-page"]);
    assert!(told.error().contains("no vCPU runs an operating system's kernel"), "{told:?}");
}

#[test]
fn a_vm_that_does_not_exist_is_an_error_that_says_where_to_look() {
    let ran = run(["ps", "no-such-vm"]);
    assert!(ran.error().contains("No VM `no-such-vm` is on this host"), "{ran:?}");
    assert!(ran.error().contains("birthmark list"), "{ran:?}");
    assert!(run(["ps", "uuid:00000000-0000-0000-0000-00000000dead"]).error().contains("dead"));
    assert!(run(["ps", "pid:4194304"]).error().contains("4194304"));
    assert!(run(["ps", "xen:3"]).error().contains("xen:3"));
}

#[test]
fn a_process_that_is_no_vmm_is_an_error() {
    let ran = run(["ps", &format!("pid:{}", std::process::id())]);
    assert!(ran.error().contains("is no VMM"), "{ran:?}");
}

#[test]
fn an_image_that_does_not_exist_is_an_error() {
    assert!(error_of(Path::new("/no/such/image")).contains("No such file or directory"));
}

#[test]
fn an_image_of_zeros_is_an_error_and_no_empty_table() {
    let images = Images::new();
    assert!(error_of(&images.file("zeros", &vec![0; 4 << 20])).contains("are zero"));
}

#[test]
fn an_image_without_linux_is_an_error_and_no_empty_table() {
    let images = Images::new();
    assert!(error_of(&images.file("noise", &noise(4 << 20))).contains("No running Linux kernel"));
}

#[test]
fn a_kernel_that_is_only_claimed_is_an_error() {
    // What a search for a kernel finds first, and nothing behind it.
    let mut bytes = noise(4 << 20);
    let claim = b"OSRELEASE=6.1.0-1-amd64\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff82a13440\nNUMBER(phys_base)=0\n";
    bytes[0x10_0000..0x10_0000 + claim.len()].copy_from_slice(claim);
    let images = Images::new();
    error_of(&images.file("claim", &bytes));
}

#[test]
fn an_empty_file_and_a_text_are_no_images() {
    let images = Images::new();
    assert!(error_of(&images.file("empty", b"")).contains("empty"));
    assert!(error_of(&images.file("text", b"hello\n")).contains("no memory image"));
}

#[test]
fn a_truncated_image_is_an_error() {
    // A LiME header that promises 16 MiB, and half of them.
    let mut bytes = Vec::new();
    bytes.extend(0x4C69_4D45_u32.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(0xff_ffff_u64.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.resize(bytes.len() + (8 << 20), 7);
    let images = Images::new();
    assert!(error_of(&images.file("cut.lime", &bytes)).contains("truncated"));
}

#[test]
fn an_elf_file_that_is_no_core_is_an_error() {
    error_of(Path::new(env!("CARGO_BIN_EXE_birthmark")));
}

#[test]
fn a_directory_is_no_image() {
    let images = Images::new();
    assert!(error_of(images.dir.path()).contains("no regular file"));
}

#[test]
fn a_file_that_may_not_be_read_is_an_error_that_says_so() {
    if !testkit::require(&[testkit::Need::Root]) {
        return;
    }
    let images = Images::new();
    let path = images.file("secret", &[1; 4096]);
    fs::set_permissions(images.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let ran = run_as_nobody(["ps", path.to_str().unwrap()]);
    assert!(ran.error().contains("Permission denied"), "{ran:?}");
}

#[test]
fn an_unreadable_audit_still_gives_a_program_its_report() {
    let images = Images::new();
    let path = images.file("zeros", &vec![0; 4 << 20]);
    let ran = run(["audit", "--json", path.to_str().unwrap()]);
    ran.error();
    let report = ran.json();
    assert_eq!(report["schema"], "birthmark.report/v1");
    assert_eq!(report["verdict"], "unreadable");
    assert_eq!(report["vm"]["hypervisor"], "image");
    assert!(report["snapshot"].is_null());
}

#[test]
fn a_hostile_name_in_an_error_cannot_break_out_of_its_line() {
    let ran = run(["ps", "web\n\x1b[2Jok\u{202e}"]);
    let line = ran.error();
    assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
}
