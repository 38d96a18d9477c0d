//! Real Debian kernels, as they lie in memory: the symbol table is found in the image without any help, and the symbols
//! and types that come out of it must lead to what the image is known to hold.

use guest_profiles::kallsyms::{Encoding, Values};
use guest_profiles::{Btf, Kallsyms, KallsymsTables, Profile, ProfileIdentity, Wanted, WantedType};

use crate::kernels::{Vmlinux, vmlinuxes};

/// `__START_KERNEL` of `arch/x86/include/asm/page_types.h` with Debian's `CONFIG_PHYSICAL_START`.
const STEXT: u64 = 0xffff_ffff_8100_0000;

/// Where the tables are, as offsets in the file.
struct Places {
    count: u32,
    names: usize,
    token_table: usize,
    token_index: usize,
    offsets: usize,
    relative_base: usize,
}

fn u32_at(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(image[at..at + 4].try_into().unwrap())
}

fn u64_at(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

/// Offsets of the 256 tokens in a table that starts here, and the table's size.
fn token_offsets(table: &[u8]) -> (Vec<u16>, usize) {
    let mut offsets = Vec::new();
    let mut at = 0;
    while offsets.len() < 256 {
        offsets.push(u16::try_from(at).unwrap());
        at += table[at..].iter().position(|&byte| byte == 0).unwrap() + 1;
    }
    (offsets, at)
}

/// Token 48 is "0", token 49 "1" and so on: the digits are never used up by the compression. The index that follows the
/// table repeats where each token starts, which proves the find.
fn find(image: &[u8]) -> Places {
    let digits = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
    let (token_table, token_index) = image
        .windows(digits.len())
        .enumerate()
        .filter(|(_, window)| window == digits)
        .find_map(|(at, _)| {
            let mut start = at;
            for _ in 0..48 {
                start = image[..start - 1].iter().rposition(|&byte| byte == 0)? + 1;
                if at - start > 4096 {
                    return None;
                }
            }
            // The first token may be preceded by padding of the same byte that ends a token.
            let (offsets, size) = token_offsets(&image[start..]);
            let index: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
            let index_at = (start + size).next_multiple_of(8);
            (image[index_at..index_at + 512] == index).then_some((start, index_at))
        })
        .expect("a token table");
    // Markers: the offset of every 256th name, ascending from zero. Between them and the token table there may be the
    // order by name (6.2, and 6.1 of Debian), 3 bytes per symbol.
    let step = |at: usize| u32_at(image, at + 4).wrapping_sub(u32_at(image, at));
    let ascends = |at: &usize| (0x200..0x4000).contains(&step(*at));
    let markers_at = (0..token_table / 8)
        .rev()
        .map(|index| index * 8)
        .find(|&at| u32_at(image, at) == 0 && (at..).step_by(4).take(64).all(|at| ascends(&at)))
        .expect("markers");
    let last = (markers_at..).step_by(4).find(|at| !ascends(at)).unwrap();
    let markers = u32::try_from((last - markers_at) / 4 + 1).unwrap();
    // Names: the number of symbols stands before them.
    let end = markers_at - u32_at(image, last) as usize;
    let names = (end - 64 * 1024..=end)
        .rev()
        .find(|&names| names % 8 == 0 && u32_at(image, names - 8).div_ceil(256) == markers)
        .expect("names");
    let count = u32_at(image, names - 8);
    let table = (count as usize * 4).next_multiple_of(8);
    // Since 6.4 the offsets come after the token index, before that they come first.
    let (offsets, relative_base) = if u64_at(image, names - 16) == STEXT {
        (names - 16 - table, names - 16)
    } else {
        (token_index + 512, token_index + 512 + table)
    };
    Places { count, names, token_table, token_index, offsets, relative_base }
}

fn tables<'a>(kernel: &'a Vmlinux, places: &Places) -> KallsymsTables<'a> {
    let image = &kernel.image;
    KallsymsTables {
        num_syms: places.count,
        names: &image[places.names..places.token_table],
        token_table: &image[places.token_table..places.token_index],
        token_index: &image[places.token_index..places.token_index + 512],
        values: Values::Offsets {
            bytes: &image[places.offsets..places.offsets + places.count as usize * 4],
            address: kernel.address(places.offsets),
            relative_base: Some(u64_at(image, places.relative_base)),
        },
    }
}

const WANTED: Wanted = Wanted {
    types: &[WantedType { name: "task_struct", members: &["comm", "pid", "tasks"] }],
    enums: &[],
    symbols: &["init_task"],
};

#[test]
fn symbols_and_types_of_a_debian_kernel_lead_to_its_banner_its_btf_and_its_first_task() {
    for kernel in vmlinuxes() {
        let places = find(&kernel.image);
        let kallsyms = Kallsyms::new(tables(&kernel, &places), STEXT).unwrap();
        // 5.10, 6.1 and 6.12 of x86-64 all are.
        assert_eq!(kallsyms.encoding(), Encoding::AbsolutePercpu, "{}", kernel.from);
        let names = ["linux_banner", "__start_BTF", "__stop_BTF", "init_task", "_stext", "no_such_symbol"];
        let symbols = kallsyms.resolve(&names).unwrap();
        eprintln!("{}: {} symbols, {symbols:#x?}", kernel.from, kallsyms.len());
        assert!(!symbols.contains_key("no_such_symbol"));
        assert_eq!(symbols["_stext"], STEXT);
        assert!(kernel.at(symbols["linux_banner"]).starts_with(b"Linux version "), "{}", kernel.from);
        let (btf_at, btf) = kernel.section(".BTF");
        assert_eq!((symbols["__start_BTF"], symbols["__stop_BTF"]), (btf_at, btf_at + btf.len() as u64));

        let btf = Btf::parse(btf).unwrap();
        let identity = ProfileIdentity { release: "real".to_owned(), build_id: None };
        let profile = Profile::from_btf(&btf, &WANTED, symbols, identity).unwrap();
        let comm = profile.field("task_struct", "comm").unwrap();
        let swapper = kernel.at(profile.symbol("init_task").unwrap() + comm.offset);
        assert!(swapper.starts_with(b"swapper\0"), "{}", kernel.from);
    }
}

#[test]
fn every_symbol_of_a_debian_kernel_decodes_and_the_ends_of_the_text_are_in_order() {
    for kernel in vmlinuxes() {
        let places = find(&kernel.image);
        let kallsyms = Kallsyms::new(tables(&kernel, &places), STEXT).unwrap();
        let symbols: Vec<_> = kallsyms.iter().map(Result::unwrap).collect();
        assert_eq!(symbols.len(), kallsyms.len() as usize);
        assert!(symbols.iter().all(|symbol| symbol.kind.is_ascii_alphabetic() && symbol.name.is_ascii()));
        let sorted = symbols.is_sorted_by_key(|symbol| symbol.address);
        assert!(sorted, "{}: the kernel keeps its table in order of addresses", kernel.from);
        let text_end = symbols.iter().find(|symbol| symbol.name == "_etext").unwrap().address;
        let functions = symbols.iter().filter(|symbol| (STEXT..text_end).contains(&symbol.address)).count();
        assert!(functions > 20_000, "{}: only {functions} functions", kernel.from);
    }
}
