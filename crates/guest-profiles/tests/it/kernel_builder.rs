//! Writes kernel files that are as real ones, but small: a vmlinux with a symbol table, notes, a banner and BTF, and what kernels
//! are wrapped in.

use std::io::{Read, Write};

use guest_profiles::kallsyms::Encoding;
use guest_profiles::{Wanted, WantedType};
use lzma_rust2::{LzmaOptions, LzmaWriter, XzOptions, XzWriter};

use crate::btf_builder::BtfBuilder;
use crate::kallsyms_builder;

/// Where the kernel is linked.
pub const TEXT: u64 = 0xffff_ffff_8100_0000;
pub const RELEASE: &str = "6.1.0-built";
pub const BANNER: &str = "Linux version 6.1.0-built (nobody@nowhere) #1 SMP";
pub const BUILD_ID: [u8; 20] = [0xa5; 20];
/// File offset of the one segment.
const SEGMENT: usize = 64 + 56;

pub const WANTED: Wanted = Wanted {
    types: &[WantedType { name: "task_struct", members: &["comm", "pid"] }],
    enums: &[],
    symbols: &["_stext", "init_task", "init_net", "no_such_symbol"],
};

/// The BTF that is in the built kernel.
pub fn btf() -> Vec<u8> {
    let mut btf = BtfBuilder::new();
    let int = btf.int("int", 4, true);
    let char = btf.int("char", 1, true);
    let comm = btf.array(char, 16);
    btf.structure("task_struct", 64, &[("pid", int, 64), ("comm", comm, 128)]);
    btf.build()
}

/// A vmlinux, stripped as in a bzImage: its symbols are in its own table only.
pub fn vmlinux() -> Vec<u8> {
    let mut image = b"text".repeat(16);
    let mut symbols: Vec<(u64, String)> = vec![(TEXT, "T_stext".to_owned())];
    let mut place = |image: &mut Vec<u8>, names: &[&str], bytes: &[u8]| {
        image.resize(image.len().next_multiple_of(8), 0);
        symbols.push((TEXT + image.len() as u64, names[0].to_owned()));
        image.extend_from_slice(bytes);
        symbols.extend(names.get(1).map(|name| (TEXT + image.len() as u64, (*name).to_owned())));
    };
    place(&mut image, &["Rlinux_banner"], format!("{BANNER}\n\0").as_bytes());
    let mut note = Vec::new();
    for word in [4, 20, 3] {
        note.extend_from_slice(&u32::to_le_bytes(word));
    }
    note.extend_from_slice(b"GNU\0");
    note.extend_from_slice(&BUILD_ID);
    place(&mut image, &["R__start_notes", "R__stop_notes"], &note);
    place(&mut image, &["R__start_BTF", "R__stop_BTF"], &btf());
    place(&mut image, &["Dinit_task"], &[7; 64]);
    // More than two markers' worth.
    symbols.extend((0..600).map(|index| (TEXT + 0x10_0000 + index, format!("tfiller_{index}"))));
    symbols.push((TEXT + 0x20_0000, "Binit_net".to_owned()));
    let symbols: Vec<_> = symbols.iter().map(|(address, name)| (*address, name.as_str())).collect();
    image.resize(image.len().next_multiple_of(8), 0);
    image.extend(kallsyms_tables(&symbols));
    elf(&image)
}

/// The tables as a kernel since 6.4 has them.
fn kallsyms_tables(symbols: &[(u64, &str)]) -> Vec<u8> {
    let built = kallsyms_builder::build(Encoding::AbsolutePercpu, TEXT, symbols);
    let mut bytes = Vec::new();
    let mut table = |table: &[u8]| {
        bytes.extend_from_slice(table);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    };
    table(&built.num_syms.to_le_bytes());
    table(&built.names);
    let mut markers = Vec::new();
    let mut at = 0;
    for index in 0..symbols.len() {
        if index.is_multiple_of(256) {
            markers.extend_from_slice(&u32::try_from(at).unwrap().to_le_bytes());
        }
        at += usize::from(built.names[at]) + 1;
    }
    table(&markers);
    table(&built.token_table);
    table(&built.token_index);
    table(&built.values);
    table(&built.relative_base.unwrap().to_le_bytes());
    bytes
}

/// An ELF file with one segment and no sections.
fn elf(image: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    let half = |bytes: &mut Vec<u8>, value: u16| bytes.extend_from_slice(&value.to_le_bytes());
    let long = |bytes: &mut Vec<u8>, value: u64| bytes.extend_from_slice(&value.to_le_bytes());
    half(&mut bytes, 2);
    half(&mut bytes, 62);
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    for value in [TEXT, 64, 0] {
        long(&mut bytes, value);
    }
    bytes.extend_from_slice(&0_u32.to_le_bytes());
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut bytes, value);
    }
    for value in [1, 5_u32] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    let len = image.len() as u64;
    for value in [SEGMENT as u64, TEXT, 0x100_0000, len, len, 0x1000] {
        long(&mut bytes, value);
    }
    assert_eq!(bytes.len(), SEGMENT);
    bytes.extend_from_slice(image);
    bytes
}

/// What a payload or an archive may be compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    None,
    Gzip,
    Xz,
    Lzma,
    Lz4,
    Zstd,
}

impl Packing {
    pub const ALL: [Self; 6] = [Self::None, Self::Gzip, Self::Xz, Self::Lzma, Self::Lz4, Self::Zstd];

    pub fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::None => bytes.to_vec(),
            Self::Gzip => {
                let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::best());
                let mut packed = Vec::new();
                encoder.read_to_end(&mut packed).unwrap();
                packed
            }
            Self::Xz => {
                let mut options = XzOptions::with_preset(6);
                options.lzma_options.dict_size = 1 << 16;
                options.check_type = lzma_rust2::CheckType::Crc32;
                options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
                let mut writer = XzWriter::new(Vec::new(), options).unwrap();
                writer.write_all(bytes).unwrap();
                writer.finish().unwrap()
            }
            Self::Lzma => {
                let options = LzmaOptions { dict_size: 1 << 16, ..LzmaOptions::with_preset(6) };
                let mut writer = LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
                writer.write_all(bytes).unwrap();
                writer.finish().unwrap()
            }
            Self::Lz4 => {
                // The kernel's build makes blocks of 8 MiB; smaller ones are as good.
                let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
                for block in bytes.chunks(4096) {
                    let block = lz4_flex::block::compress(block);
                    packed.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
                    packed.extend(block);
                }
                packed
            }
            Self::Zstd => {
                ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
            }
        }
    }
}

/// A bzImage around a vmlinux.
pub fn bzimage(packing: Packing, vmlinux: &[u8]) -> Vec<u8> {
    let mut payload = packing.pack(vmlinux);
    // gzip's own trailer has the size; for all others the kernel's build appends it.
    if !matches!(packing, Packing::None | Packing::Gzip) {
        payload.extend_from_slice(&u32::try_from(vmlinux.len()).unwrap().to_le_bytes());
    }
    bzimage_of(&payload)
}

/// A bzImage around any payload.
pub fn bzimage_of(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 1024 + 32];
    bytes[0x1f1] = 1;
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    bytes[0x248..0x24c].copy_from_slice(&32_u32.to_le_bytes());
    bytes[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A package with the given files.
pub fn deb(packing: Packing, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        archive.extend(tar_header(name, content.len()));
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", b"odd".to_vec()),
        ("data.tar.x", packing.pack(&archive)),
    ] {
        let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}

fn tar_header(name: &str, size: usize) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}
