//! QEMU command lines: names, sizes and machines, in every form that QEMU accepts.

use hypervisor::kvm::cmdline::{Keys, Options, parse_size};
use hypervisor::kvm::machine::{Backend, MachineKind, identity, parse, vcpus};
use proptest::prelude::*;

const EXE: &str = "qemu-system-x86_64";

fn options(line: &str) -> Options {
    Options::parse(&line.split(' ').collect::<Vec<_>>())
}

#[test]
fn an_argument_that_looks_like_an_option_stays_an_argument() {
    let options = Options::parse(&["-append", "-m 9", "-S", "-m", "512", "disk.img", "--name", "web"]);
    assert_eq!(options.values(&["m"]).collect::<Vec<_>>(), ["512"]);
    assert_eq!(options.values(&["append"]).collect::<Vec<_>>(), ["-m 9"]);
    assert_eq!(options.values(&["name"]).collect::<Vec<_>>(), ["web"]);
    assert!(options.has(&["S"]));
}

#[test]
fn a_last_option_without_its_argument_is_no_crash() {
    assert_eq!(Options::parse(&["-m"]).values(&["m"]).collect::<Vec<_>>(), [""]);
    assert!(parse(1, EXE, &Options::parse(&["-m"])).is_ok());
}

#[test]
fn a_doubled_comma_is_a_comma_and_the_last_key_counts() {
    let keys = Keys::parse("guest=a,,b,debug-threads=on,guest=c,,,flag", "guest");
    assert_eq!(keys.get("guest"), Some("c,"));
    assert_eq!(keys.switch("debug-threads"), Some(true));
    assert_eq!(keys.switch("flag"), Some(true));
    assert_eq!(Keys::parse("web,,1", "guest").get("guest"), Some("web,1"));
}

#[test]
fn both_forms_of_a_name_and_of_a_uuid_are_found() {
    let uuid = "0A1B2C3D-0000-1111-2222-333344445555";
    let lower = Some(uuid.to_lowercase());
    assert_eq!(identity(&options(&format!("-name web -uuid {uuid}"))), (Some("web".into()), lower.clone()));
    let by_smbios = options(&format!(
        "-name guest=db,debug-threads=on -smbios type=0,vendor=x -smbios type=1,uuid={uuid}"
    ));
    assert_eq!(identity(&by_smbios), (Some("db".into()), lower));
    assert_eq!(identity(&options("-uuid nonsense -name debug-threads=on")), (None, None));
}

#[test]
fn every_form_of_smp_gives_the_number_of_cpus() {
    for (text, expected) in [
        ("-smp 2", Some(2)),
        ("-smp cpus=3,maxcpus=8", Some(3)),
        ("-smp 4,sockets=2,cores=2", Some(4)),
        ("-smp sockets=2,cores=3,threads=2", Some(12)),
        ("-smp sockets=2,dies=2,clusters=1,cores=2,threads=1", Some(8)),
        ("-smp maxcpus=6", Some(6)),
        ("-smp cpus=many", None),
        ("-smp sockets=4294967295,cores=4294967295", None),
        ("-S", Some(1)),
    ] {
        assert_eq!(vcpus(&options(text)), expected, "{text}");
    }
}

#[test]
fn sizes_are_read_as_qemu_reads_them() {
    const MIB: u64 = 1 << 20;
    for (text, expected) in [
        ("512", Some(512 * MIB)),
        ("512M", Some(512 * MIB)),
        ("512m", Some(512 * MIB)),
        ("4G", Some(4096 * MIB)),
        ("1.5G", Some(1536 * MIB)),
        ("2048k", Some(2 * MIB)),
        ("4096B", Some(4096)),
        ("1T", Some(1 << 40)),
        ("16E", None),
        ("", None),
        ("G", None),
        (".5G", None),
        ("-1", None),
        ("1,5G", None),
        ("99999999999999999999", None),
        ("1é", None),
    ] {
        assert_eq!(parse_size(text, MIB), expected, "{text}");
    }
}

#[test]
fn every_form_of_m_gives_the_ram_size() {
    for (text, expected) in [
        ("-m 512", 512_u64 << 20),
        ("-m 4G", 4 << 30),
        ("-m size=2G,slots=2,maxmem=8G", 2 << 30),
        ("-m 1G,slots=2,maxmem=8G", 1 << 30),
        ("-S", 128 << 20),
    ] {
        assert_eq!(parse(1, EXE, &options(text)).unwrap().ram_size, expected, "{text}");
    }
    for text in ["-m 0", "-m much", "-m 18446744073709551615B"] {
        let error = parse(1, EXE, &options(text)).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn machine_types_are_told_by_all_their_names() {
    let aligned = Some(MachineKind::I440fx { gigabyte_align: true });
    let old = Some(MachineKind::I440fx { gigabyte_align: false });
    for (text, expected) in [
        ("-M q35", Some(MachineKind::Q35)),
        ("-machine type=pc-q35-7.2,accel=kvm", Some(MachineKind::Q35)),
        ("-machine pc-q35-rhel9.2.0", Some(MachineKind::Q35)),
        ("-machine ubuntu-q35", Some(MachineKind::Q35)),
        ("-machine pc", aligned),
        ("-machine pc-i440fx-7.2,usb=off", aligned),
        ("-machine pc-i440fx-focal", aligned),
        ("-machine pc-i440fx-1.7", old),
        ("-machine pc-1.3", old),
        ("-machine pc-i440fx-1.8", aligned),
        ("-M microvm,acpi=off", Some(MachineKind::Microvm)),
        ("-S", aligned),
        ("-machine accel=kvm", aligned),
        ("-M none", None),
        ("-M x-remote", None),
    ] {
        assert_eq!(parse(1, EXE, &options(text)).unwrap().kind, expected, "{text}");
    }
    assert_eq!(parse(1, "qemu-system-aarch64", &options("-M virt")).unwrap().kind, None);
    assert_eq!(parse(1, "qemu-system-aarch64", &options("-S")).unwrap().kind, None);
}

#[test]
fn a_command_line_of_libvirt_gives_its_blocks() {
    let machine = parse(
        1,
        EXE,
        &Options::parse(&[
            "-name", "guest=web,debug-threads=on", "-machine", "pc-q35-7.2,usb=off,dump-guest-core=off,memory-backend=pc.ram",
            "-accel", "kvm", "-m", "size=2097152k",
            "-object", r#"{"qom-type":"memory-backend-memfd","id":"pc.ram","share":true,"x-use-canonical-path-for-ramblock-id":false,"size":2147483648}"#,
            "-object", r#"{"qom-type":"secret","id":"masterKey0"}"#,
        ]),
    )
    .unwrap();
    assert_eq!(machine.ram_size, 2 << 30);
    assert_eq!(machine.blocks.len(), 1);
    assert_eq!((machine.blocks[0].name.as_str(), &machine.blocks[0].backend), ("pc.ram", &Backend::Memfd));
    assert_eq!(machine.ram, [0]);
    assert_eq!(machine.notes, Vec::<String>::new());
}

#[test]
fn numa_nodes_order_the_blocks_and_other_backends_stay_out() {
    let machine = parse(
        1,
        EXE,
        &options(
            "-m 3072 -object memory-backend-ram,id=spare,size=1G -object memory-backend-memfd,id=a,size=1G \
             -object memory-backend-file,id=b,size=2G,mem-path=/x -numa node,nodeid=1,memdev=a -numa node,nodeid=0,memdev=b \
             -device pc-dimm,memdev=spare -numa dist,src=0,dst=1,val=20",
        ),
    )
    .unwrap();
    assert_eq!(machine.blocks.len(), 3);
    assert_eq!(machine.ram, [2, 1]);
    assert_eq!(machine.ram_size, 3 << 30);
    assert_eq!(machine.notes.len(), 1, "{:?}", machine.notes);
    assert!(machine.notes[0].contains("spare"));
}

#[test]
fn a_backend_without_m_gives_the_ram_size() {
    let machine =
        parse(1, EXE, &options("-object memory-backend-ram,id=r,size=768M -machine pc,memory-backend=r"))
            .unwrap();
    assert_eq!(machine.ram_size, 768 << 20);
}

#[test]
fn broken_backends_are_named() {
    for (text, needle) in [
        ("-object memory-backend-ram,size=1G", "it has no id"),
        ("-object memory-backend-ram,id=a", "its size is missing"),
        ("-object memory-backend-ram,id=a,size=none", "its size is missing"),
        ("-numa node,memdev=gone", "no memory backend has this id"),
        ("-machine q35,memory-backend=gone", "no memory backend has this id"),
        ("-machine q35,max-ram-below-4g=x", "max-ram-below-4g"),
        (
            "-object memory-backend-ram,id=a,size=10E -numa node,memdev=a -numa node,memdev=a",
            "do not fit 64 bits",
        ),
    ] {
        let error = parse(7, EXE, &options(text)).unwrap_err().to_string();
        assert!(error.contains(needle) && error.contains("process 7"), "{text}: {error}");
    }
}

#[test]
fn a_confidential_guest_is_known_as_one() {
    let protected = |text: &str| parse(1, EXE, &options(text)).unwrap().protected;
    for (text, told) in [
        (
            "-object sev-guest,id=sev0 -machine q35,confidential-guest-support=sev0",
            "confidential-guest-support=sev0",
        ),
        (
            "-object tdx-guest,id=tdx -M q35,kernel-irqchip=split,confidential-guest-support=tdx",
            "confidential-guest-support=tdx",
        ),
        // Before QEMU 6.0.
        ("-machine q35,memory-encryption=sev0", "memory-encryption=sev0"),
    ] {
        assert_eq!(protected(text), Some(format!("-machine {told}")), "{text}");
    }
    assert_eq!(protected("-machine q35"), None);
}

proptest! {
    #[test]
    fn no_command_line_breaks_the_parser(arguments in prop::collection::vec("(-(m|M|object|smp|numa|name|machine|uuid|smbios|device|accel)|[-a-z0-9,=.{}\":G]{0,30}|\\PC{0,12})", 0..20)) {
        let options = Options::parse(&arguments);
        let _ = parse(1, EXE, &options);
        let _ = vcpus(&options);
        let _ = identity(&options);
    }
}
