//! Layouts out of DWARF, against pahole: a small kernel is compiled in every way that a compiler writes debug information in, and
//! each member of each type must be where the BTF that pahole makes of the same file has it.

use std::path::{Path, PathBuf};
use std::process::Command;

use guest_profiles::kernel_file::{self, LayoutSource};
use guest_profiles::{Btf, Profile, ProfileIdentity, Wanted, WantedEnum, WantedType};
use testkit::Need;

const fn all(name: &'static str) -> WantedType {
    WantedType { name, members: &[] }
}

const WANTED: Wanted = Wanted {
    types: &[
        all("everything"),
        all("packed"),
        all("onion"),
        all("list"),
        all("atomic_t"),
        all("possible_t"),
        all("tagged_t"),
        all("elsewhere"),
        all("nowhere"),
    ],
    enums: &[
        WantedEnum { name: "state", values: &[] },
        WantedEnum { name: "", values: &["UNTAGGED_SECOND", "OTHER_UNTAGGED"] },
    ],
    symbols: &["_stext", "init_task", "hidden", "linux_banner"],
};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel").join(name)
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

/// Compiles the kernel. Two units, so that one refers to what the other defines.
fn compile(compiler: &str, options: &[&str], directory: &Path) -> PathBuf {
    let mut objects = Vec::new();
    for name in ["types.c", "elsewhere.c"] {
        let object = directory.join(name).with_extension("o");
        let flags =
            ["-c", "-O1", "-ffreestanding", "-fno-pic", "-mcmodel=kernel", "-fno-asynchronous-unwind-tables"];
        run(Command::new(compiler).args(flags).args(options).arg("-o").arg(&object).arg(source(name)));
        objects.push(object);
    }
    let vmlinux = directory.join("vmlinux");
    let flags = ["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=sha1", "-Wl,-e,_stext"];
    run(Command::new("gcc")
        .args(flags)
        .args(options.iter().filter(|option| option.starts_with("-gz")))
        .arg(format!("-Wl,-T,{}", source("kernel.ld").display()))
        .arg("-o")
        .arg(&vmlinux)
        .args(&objects));
    vmlinux
}

/// The types as pahole's BTF has them.
fn by_pahole(vmlinux: &Path, identity: ProfileIdentity) -> Profile {
    let detached = vmlinux.with_extension("btf");
    run(Command::new("pahole")
        .arg("--btf_gen_floats")
        .arg(format!("--btf_encode_detached={}", detached.display()))
        .arg(vmlinux));
    let bytes = std::fs::read(detached).unwrap();
    Profile::from_btf(&Btf::parse(&bytes).unwrap(), &WANTED, std::collections::BTreeMap::new(), identity)
        .unwrap()
}

fn layouts_are_those_of_pahole(compiler: &str, options: &[&str]) {
    eprintln!("{compiler} {options:?}");
    let directory = tempfile::tempdir().unwrap();
    let vmlinux = compile(compiler, options, directory.path());
    let kernel = kernel_file::read(&vmlinux, &WANTED).unwrap();
    assert_eq!(kernel.layouts, LayoutSource::Dwarf);
    let profile = kernel.profile;
    assert_eq!(
        (profile.release.as_str(), profile.build_id.as_ref().map(String::len)),
        ("9.9.9-types", Some(40))
    );
    assert_eq!(profile.symbols.keys().collect::<Vec<_>>(), ["_stext", "hidden", "init_task", "linux_banner"]);
    let identity = ProfileIdentity { release: profile.release.clone(), build_id: profile.build_id.clone() };
    let expected = by_pahole(&vmlinux, identity);
    assert_eq!(profile.types.keys().collect::<Vec<_>>(), expected.types.keys().collect::<Vec<_>>());
    for (name, layout) in &expected.types {
        let found = &profile.types[name];
        assert_eq!(found.size, layout.size, "{name}");
        assert_eq!(
            found.members.keys().collect::<Vec<_>>(),
            layout.members.keys().collect::<Vec<_>>(),
            "{name}"
        );
        for (member, field) in &layout.members {
            assert_eq!(&found.members[member], field, "{name}.{member}");
        }
    }
    assert_eq!(profile.enums, expected.enums);
    assert!(profile.types["everything"].members.len() >= 40, "{}", profile.types["everything"].members.len());
    let bits = profile.field("everything", "c").unwrap().bits.unwrap();
    assert_eq!((bits.width, profile.field("packed", "across").unwrap().bits.unwrap().width), (11, 50));
}

#[test]
fn layouts_out_of_dwarf_are_those_that_pahole_finds() {
    if !testkit::require(&[Need::Program("gcc"), Need::Program("pahole")]) {
        return;
    }
    for options in
        [&["-gdwarf-5"][..], &["-gdwarf-4"], &["-gdwarf-3", "-gstrict-dwarf"], &["-gdwarf-5", "-gz=zlib"]]
    {
        layouts_are_those_of_pahole("gcc", options);
    }
    // Its DWARF 5 has names by index.
    if Command::new("clang").arg("--version").output().is_ok() {
        layouts_are_those_of_pahole("clang", &["-gdwarf-5"]);
    }
}
