//! Kernel files: each wrapping gives the kernel in it, and what is wrong with a file is said by name, offset and field.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs;

use guest_profiles::kernel_file::{self, KernelFile, LayoutSource};
use guest_profiles::{Btf, Error, Profile, ProfileIdentity, system_map};

use crate::kernel_builder::{
    BANNER, BUILD_ID, Packing, RELEASE, TEXT, WANTED, btf, bzimage, bzimage_of, deb, vmlinux,
};

fn read(bytes: &[u8]) -> Result<KernelFile, Error> {
    kernel_file::parse(bytes, &WANTED)
}

/// The error and all its causes in one line.
fn complaint(bytes: &[u8]) -> String {
    let error = read(bytes).unwrap_err();
    chain(&error)
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn is_the_built_kernel(kernel: &KernelFile) {
    assert_eq!(kernel.banner, BANNER);
    assert_eq!(kernel.layouts, LayoutSource::Btf);
    let build_id: String = BUILD_ID.iter().map(|byte| format!("{byte:02x}")).collect();
    let identity = ProfileIdentity { release: RELEASE.to_owned(), build_id: Some(build_id) };
    let symbols = kernel.profile.symbols.clone();
    assert_eq!(symbols.keys().collect::<Vec<_>>(), ["_stext", "init_net", "init_task"]);
    assert_eq!((symbols["_stext"], symbols["init_net"]), (TEXT, TEXT + 0x20_0000));
    let bytes = btf();
    let expected = Profile::from_btf(&Btf::parse(&bytes).unwrap(), &WANTED, symbols, identity).unwrap();
    assert_eq!(kernel.profile, expected);
}

#[test]
fn a_vmlinux_and_a_bzimage_of_every_compression_give_the_kernel_in_them() {
    let vmlinux = vmlinux();
    is_the_built_kernel(&read(&vmlinux).unwrap());
    for packing in Packing::ALL {
        let image = bzimage(packing, &vmlinux);
        eprintln!("{packing:?}: {} bytes", image.len());
        is_the_built_kernel(&read(&image).unwrap());
    }
}

#[test]
fn a_package_of_every_compression_gives_the_kernel_in_it() {
    let image = bzimage(Packing::Xz, &vmlinux());
    let files: [(&str, &[u8]); 4] = [
        ("./usr/share/doc/linux-image/vmlinuz-is-not-here", b"a text"),
        ("./boot/System.map-6.1.0", b"ffffffffffffffff B The real System.map is elsewhere\n"),
        ("./boot/vmlinuz-6.1.0", &image),
        ("./lib/modules/6.1.0/kernel/fs/fs.ko", b"a module"),
    ];
    for packing in [Packing::None, Packing::Gzip, Packing::Xz, Packing::Zstd] {
        is_the_built_kernel(&read(&deb(packing, &files)).unwrap());
    }
    let without = deb(Packing::Gzip, &files[..2]);
    assert_eq!(complaint(&without), "There is no kernel in the data.tar");
}

#[test]
fn a_directory_gives_the_kernels_in_it_in_boot_and_beside_its_modules() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for (name, content) in [
        ("boot/vmlinuz-6.1.0", "1"),
        ("boot/vmlinuz.old", "2"),
        ("boot/System.map-6.1.0", "3"),
        ("usr/lib/modules/6.2.0/vmlinuz", "4"),
        ("usr/lib/modules/6.2.0/modules.dep", "5"),
    ] {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
    let found = kernel_file::find(root).unwrap();
    assert_eq!(found, [root.join("boot/vmlinuz-6.1.0"), root.join("lib/modules/6.2.0/vmlinuz")]);
    assert_eq!(kernel_file::find(&root.join("usr/lib/modules/6.2.0")).unwrap().len(), 1);
    assert_eq!(kernel_file::find(&found[0]).unwrap(), [found[0].clone()]);
    let empty = kernel_file::find(&root.join("usr/lib")).unwrap_err();
    assert!(chain(&empty).ends_with("It has no vmlinuz or vmlinux in it, in boot, or in lib/modules"));
    assert!(kernel_file::find(&root.join("missing")).is_err());
}

#[test]
fn a_pipe_is_refused_and_never_waited_for() {
    let error = kernel_file::read("/dev/zero".as_ref(), &WANTED).unwrap_err();
    assert_eq!(chain(&error), "Kernel file /dev/zero cannot be read: It is no regular file");
}

#[test]
fn what_is_wrong_with_a_file_is_said_by_field_and_offset() {
    let vmlinux = vmlinux();
    let good = bzimage(Packing::Gzip, &vmlinux);
    let with = |at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        image
    };
    let cases = [
        (
            b"MZ".to_vec(),
            "It is neither a bzImage, a vmlinux for x86-64 nor a Debian package: it starts with 4d 5a",
        ),
        (
            with(0x206, &[7, 2]),
            "bzImage field version at offset 0x206 is 0x207 where at least 0x208 was expected",
        ),
        (
            with(0x24c, &[0xff; 4]),
            &format!(
                "The bzImage payload of 4294967295 bytes at offset 0x420 does not lie within {} bytes",
                good.len()
            ),
        ),
        (
            with(0x420, &[9; 4]),
            "bzImage field payload magic at offset 0x420 is 0x9090909 where that of a compression or of an ELF file \
             was expected",
        ),
        (with(0x420, b"BZh9"), "The data at offset 0x420 is compressed with bzip2, which is not supported"),
        (with(0x420, b"\x89LZO"), "The data at offset 0x420 is compressed with LZO, which is not supported"),
        (
            with(good.len() - 4, &[0xff; 4]),
            &format!(
                "bzImage field uncompressed size at offset {:#x} is 0xffffffff where 1 to 0x6000000 was expected",
                good.len() - 4
            ),
        ),
        (
            bzimage_of(&[Packing::Lz4.pack(&vmlinux), vec![1, 0, 0, 0]].concat()),
            "The legacy LZ4 data at offset 0x420 gives more bytes where 1 were announced",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(complaint(&bytes), *expected);
    }
    let elf = |at: usize, byte: u8| {
        let mut file = vmlinux.clone();
        file[at] = byte;
        complaint(&bzimage(Packing::Zstd, &file))
    };
    assert_eq!(
        elf(18, 183),
        "The vmlinux in the bzImage cannot be read: ELF field e_machine at offset 0x12 is 0xb7 where 0x3e (x86-64) was \
         expected"
    );
}

#[test]
fn damaged_data_is_never_taken_for_a_kernel() {
    let vmlinux = vmlinux();
    // Legacy LZ4 has no checksum.
    for packing in [Packing::Gzip, Packing::Xz, Packing::Zstd] {
        let good = bzimage(packing, &vmlinux);
        for at in (0x420 + 12..good.len() - 8).step_by(97) {
            let mut image = good.clone();
            image[at] ^= 0x10;
            if let Ok(kernel) = read(&image) {
                is_the_built_kernel(&kernel);
            }
        }
    }
}

#[test]
fn a_decompression_bomb_ends_at_what_was_announced() {
    let zeros = vec![0; 1 << 20];
    for packing in [Packing::Gzip, Packing::Xz, Packing::Lz4, Packing::Zstd] {
        let mut payload = packing.pack(&zeros);
        payload.extend_from_slice(&[0, 16, 0, 0]);
        let image = bzimage_of(&payload);
        let complaint = complaint(&image);
        assert!(complaint.ends_with("gives more bytes where 4096 were announced"), "{complaint}");
    }
}

#[test]
fn a_system_map_helps_a_kernel_whose_own_table_has_no_data() {
    let directory = tempfile::tempdir().unwrap();
    let kernel = directory.path().join("vmlinux-6.1.0");
    let map = directory.path().join("System.map-6.1.0");
    // The one name that has a token of its own: its last letter is altered in the token table.
    let mut bytes = vmlinux();
    let token = bytes.windows(5).position(|window| window == b"task\0").unwrap();
    bytes[token + 3] = b'x';
    fs::write(&kernel, &bytes).unwrap();
    let read = || kernel_file::read(&kernel, &WANTED);
    assert!(!read().unwrap().profile.symbols.contains_key("init_task"));
    fs::write(&map, "ffffffffffffffff B The real System.map is in another package\n").unwrap();
    assert!(!read().unwrap().profile.symbols.contains_key("init_task"), "Debian's stub has no symbols");
    fs::write(&map, "ffffffff81000000 T _stext\nffffffff82345678 D init_task\n").unwrap();
    assert_eq!(read().unwrap().profile.symbols["init_task"], 0xffff_ffff_8234_5678);
    fs::write(&map, "ffffffff81200000 T _stext\nffffffff82345678 D init_task\n").unwrap();
    let foreign = chain(&read().unwrap_err());
    assert!(
        foreign.ends_with(
            "System.map-6.1.0 has _stext at 0xffffffff81200000 and the kernel beside it at 0xffffffff81000000: it is \
             another kernel's"
        ),
        "{foreign}"
    );
}

#[test]
fn lines_of_a_system_map_that_are_no_symbols_are_skipped_and_ambiguous_names_are_absent() {
    let text = b"0000000000000000 A fixed_percpu_data\nffffffff81000000 T _stext\n\nnonsense\n\
        ffffffff81000010 t twice\nffffffff81000020 t twice\n+fff T sign\nffffffff81000030 T last";
    let names = ["fixed_percpu_data", "_stext", "twice", "sign", "last", "absent"];
    let expected: BTreeMap<_, _> = [("fixed_percpu_data", 0), ("_stext", TEXT), ("last", TEXT + 0x30)]
        .map(|(name, at)| (name.to_owned(), at))
        .into();
    assert_eq!(system_map(text, &names), expected);
}
