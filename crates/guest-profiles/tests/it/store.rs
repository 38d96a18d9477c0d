//! The store of profiles: what goes in comes out, what is damaged or open to others does not, and no two kernels are one.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest_profiles::store::{pack, unpack};
use guest_profiles::{Btf, Error, Outline, Profile, ProfileIdentity, Store, linux};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::btf_builder::BtfBuilder;

/// A profile of a made-up kernel whose `task_struct` has its list at `tasks_at` bytes.
fn profile(release: &str, build_id: &str, tasks_at: u32) -> Profile {
    let mut btf = BtfBuilder::new();
    let int = btf.int("int", 4, false);
    let pointer = btf.pointer(int);
    let list = btf.structure("list_head", 16, &[("next", pointer, 0), ("prev", pointer, 64)]);
    btf.structure("task_struct", 256, &[("pid", int, 0), ("tasks", list, tasks_at * 8)]);
    let identity = ProfileIdentity { release: release.to_owned(), build_id: Some(build_id.to_owned()) };
    let symbols = [("init_task".to_owned(), 0xffff_ffff_8200_0000)].into();
    Profile::from_btf(&Btf::parse(&btf.build()).unwrap(), &linux::WANTED, symbols, identity).unwrap()
}

fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(vec![directory.path().join("own"), directory.path().join("shipped")]);
    (directory, store)
}

fn file_names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn only_refusal(store: &Store) -> String {
    let found = store.all();
    assert_eq!(found.profiles, [], "nothing but a refusal is expected");
    let [error] = found.refused.as_slice() else { panic!("{:?}", found.refused) };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[test]
fn what_is_put_in_comes_out_shared_and_is_there_for_everybody_to_read() {
    let (_directory, store) = store();
    assert_eq!(store.of_release("6.1.0-9-amd64").profiles, []);
    assert!(!store.has_release("6.1.0-9-amd64"));
    let one = profile("6.1.0-9-amd64", "ab", 64);
    let added = store.add(&one).unwrap();
    assert!(!added.known);
    let name = added.path.file_name().unwrap().to_str().unwrap();
    let digest = one.digest();
    assert_eq!(name, format!("6.1.0-9-amd64_{}.json.xz", &digest["sha256:".len()..][..16]));
    assert_eq!(fs::metadata(&added.path).unwrap().permissions().mode() & 0o777, 0o644);

    let found = store.of_release("6.1.0-9-amd64");
    let [stored] = found.profiles.as_slice() else { panic!("{found:?}") };
    assert_eq!((&*stored.profile, &stored.path), (&one, &added.path));
    let again = store.of_release("6.1.0-9-amd64").profiles;
    assert!(Arc::ptr_eq(&stored.profile, &again[0].profile), "two VMs of one kernel share one profile");
    assert!(store.has_release("6.1.0-9-amd64"));
    assert_eq!(store.of_release("6.1.0-9").profiles, []);

    assert!(store.add(&one).unwrap().known);
    let names = file_names(added.path.parent().unwrap());
    assert_eq!(names, [name, "outlines.json"], "no temporary file is left");
}

#[test]
fn two_kernels_with_one_garbage_build_id_stay_two_and_what_only_knows_more_takes_the_place() {
    let (directory, store) = store();
    let release = "6.1.115-custom";
    let (one, other) = (profile(release, "00000000", 64), profile(release, "00000000", 128));
    let first = store.add(&one).unwrap();
    let second = store.add(&other).unwrap();
    assert_eq!(second.replaced, Vec::<PathBuf>::new());
    let found: Vec<_> = store.of_release(release).profiles;
    assert_eq!(found.len(), 2);
    assert!([&one, &other].iter().all(|known| found.iter().any(|stored| *stored.profile == **known)));

    // The same build, asked for one symbol more, as a newer version would.
    let mut more = one.clone();
    more.symbols.insert("modules".to_owned(), 0xffff_ffff_8210_0000);
    let third = store.add(&more).unwrap();
    assert_eq!(third.replaced, [first.path]);
    // Types, build id and release alike, but a symbol elsewhere: another build, and nobody's place is taken.
    let mut moved = one.clone();
    moved.symbols.insert("init_task".to_owned(), 0xffff_ffff_8300_0000);
    assert_eq!(store.add(&moved).unwrap().replaced, Vec::<PathBuf>::new());
    let names = file_names(&directory.path().join("own"));
    assert_eq!(names.iter().filter(|name| name.ends_with(".json.xz")).count(), 3);
}

#[test]
fn shipped_profiles_are_found_and_never_written() {
    let (directory, store) = store();
    let shipped = Store::new(vec![directory.path().join("shipped")]);
    let one = profile("6.12.1", "ab", 64);
    shipped.add(&one).unwrap();
    assert_eq!(store.of_release("6.12.1").profiles.len(), 1);
    let mut more = one.clone();
    more.symbols.insert("modules".to_owned(), 0xffff_ffff_8210_0000);
    let added = store.add(&more).unwrap();
    assert!(added.path.starts_with(directory.path().join("own")));
    assert_eq!(added.replaced, Vec::<PathBuf>::new());
    assert_eq!(store.of_release("6.12.1").profiles.len(), 2);
    let nowhere = Store::new(Vec::new());
    assert!(matches!(nowhere.add(&one), Err(Error::StoreNone)));
    assert_eq!(nowhere.all().profiles, []);
}

#[test]
fn a_release_that_is_a_path_stays_in_its_directory() {
    let (directory, store) = store();
    let release = "../../etc/passwd_\n";
    let added = store.add(&profile(release, "ab", 64)).unwrap();
    assert_eq!(added.path.parent().unwrap(), directory.path().join("own"));
    assert_eq!(store.of_release(release).profiles.len(), 1);
    for release in ["", &"x".repeat(65)] {
        assert!(matches!(store.add(&profile(release, "ab", 64)), Err(Error::StoreRelease { .. })));
        assert_eq!(store.of_release(release).profiles, []);
    }
}

#[test]
fn a_damaged_file_is_named_and_the_others_are_used() {
    let (_directory, store) = store();
    let path = store.add(&profile("6.1.0", "ab", 64)).unwrap().path;
    let whole = fs::read(&path).unwrap();
    for damage in [&whole[..whole.len() / 2], &whole[1..], b"", b"{}"] {
        fs::write(&path, damage).unwrap();
        let refusal = only_refusal(&store);
        assert!(refusal.contains(path.to_str().unwrap()), "{refusal}");
    }
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&path, &flipped).unwrap();
    assert!(only_refusal(&store).contains("compression is damaged"));

    // Whole, but not what the name says.
    fs::write(&path, pack(&profile("6.1.0", "cd", 64)).unwrap()).unwrap();
    assert!(only_refusal(&store).contains("is not what its name says"));
    let other = store.add(&profile("6.1.0", "ef", 64)).unwrap();
    let found = store.of_release("6.1.0");
    assert_eq!(found.profiles.iter().map(|stored| &stored.path).collect::<Vec<_>>(), [&other.path]);
    assert_eq!(found.refused.len(), 1);
    fs::write(&path, &whole).unwrap();
    assert_eq!(store.of_release("6.1.0").profiles.len(), 2, "a file that is mended is read again");
}

#[test]
fn what_others_could_have_written_is_refused() {
    let (directory, store) = store();
    let own = directory.path().join("own");
    let path = store.add(&profile("6.1.0", "ab", 64)).unwrap().path;
    fs::set_permissions(&path, Permissions::from_mode(0o646)).unwrap();
    assert!(only_refusal(&store).contains("mode 0646: others could have written it"));
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&own, Permissions::from_mode(0o1777)).unwrap();
    assert!(only_refusal(&store).contains("mode 1777: others could have written it"));
    assert!(matches!(store.add(&profile("6.1.1", "ab", 64)), Err(Error::StoreOpenToOthers { .. })));
    fs::set_permissions(&own, Permissions::from_mode(0o755)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert!(only_refusal(&store).contains("belongs to user 65534"));
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    }
    assert_eq!(store.all().profiles.len(), 1);

    // Neither links nor pipes nor directories are followed, read or waited for.
    let away = directory.path().join("away");
    fs::rename(&path, &away).unwrap();
    symlink(&away, &path).unwrap();
    only_refusal(&store);
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(only_refusal(&store).contains("no regular file"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(only_refusal(&store).contains("no regular file"));
}

#[test]
fn a_bomb_is_not_unpacked() {
    // 64 MiB of spaces are about 10 KB of xz.
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    for _ in 0..64 {
        std::io::Write::write_all(&mut writer, &vec![b' '; 1 << 20]).unwrap();
    }
    let bomb = writer.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    assert!(matches!(unpack(&bomb), Err(Error::ProfileTooLarge { .. })));
    // A window larger than ours would ever need takes no memory either.
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    options.lzma_options.dict_size = 64 << 20;
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    std::io::Write::write_all(&mut writer, &profile("6.1.0", "ab", 64).to_json()).unwrap();
    assert!(matches!(unpack(&writer.finish().unwrap()), Err(Error::StoreUnpack { unpacked: 0, .. })));
}

#[test]
fn equal_profiles_give_equal_bytes_and_a_real_kernels_has_a_few_kilobytes() {
    for (from, btf) in crate::kernels::real_btfs() {
        let identity = ProfileIdentity { release: "real".to_owned(), build_id: Some("ab".repeat(20)) };
        let symbols = linux::WANTED
            .symbols
            .iter()
            .zip((0..).map(|number: u64| 0xffff_ffff_8200_0000 + number * 0x1_2c40))
            .map(|(name, at)| ((*name).to_owned(), at))
            .collect();
        let profile =
            Profile::from_btf(&Btf::parse(&btf).unwrap(), &linux::WANTED, symbols, identity).unwrap();
        let packed = pack(&profile).unwrap();
        eprintln!("{from}: {} bytes of JSON, {} bytes packed", profile.to_json().len(), packed.len());
        assert!(packed.len() < 16 << 10, "{from}: {} bytes", packed.len());
        assert_eq!(packed, pack(&profile).unwrap());
        assert_eq!(unpack(&packed).unwrap(), profile);
    }
}

#[test]
fn the_digest_of_what_is_wanted_does_not_depend_on_the_order() {
    use guest_profiles::{Wanted, WantedType};
    const ONE: Wanted = Wanted {
        types: &[WantedType { name: "a", members: &["x", "y"] }, WantedType { name: "b", members: &[] }],
        enums: &[],
        symbols: &["s", "t"],
    };
    const OTHER: Wanted = Wanted {
        types: &[
            WantedType { name: "b", members: &[] },
            WantedType { name: "a", members: &["y"] },
            WantedType { name: "a", members: &["x"] },
        ],
        enums: &[],
        symbols: &["t", "s"],
    };
    const MORE: Wanted = Wanted { symbols: &["s", "t", "u"], ..ONE };
    assert_eq!(ONE.digest(), OTHER.digest());
    assert_ne!(ONE.digest(), MORE.digest());
}

proptest! {
    #[test]
    fn an_altered_file_gives_the_same_profile_or_none(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let profile = profile("6.1.0", "ab", 64);
        let mut packed = pack(&profile).unwrap();
        let at = at.index(packed.len());
        packed[at] ^= 1 << bit;
        if let Ok(read) = unpack(&packed) {
            prop_assert_eq!(read, profile);
        }
    }
}

#[test]
fn what_tells_a_kernel_is_read_without_the_rest_and_what_cannot_be_read_is_left_out() {
    let (_directory, store) = store();
    let (one, other) = (profile("6.1.0-9-amd64", "ab", 64), profile("6.1.0-10-amd64", "cd", 64));
    let path = store.add(&one).unwrap().path;
    store.add(&other).unwrap();
    let mut outlines: Vec<Outline> = store.outlines().collect();
    outlines.sort_by(|a, b| a.build_id.cmp(&b.build_id));
    assert_eq!(outlines, [Outline::from(&one), Outline::from(&other)]);

    fs::write(&path, b"not a profile").unwrap();
    fs::remove_file(path.with_file_name("outlines.json")).unwrap();
    assert_eq!(store.outlines().collect::<Vec<_>>(), [Outline::from(&other)]);
}

/// A profile with what an outline has, and a symbol that it has not.
fn telling(release: &str, build_id: &str, root: u64) -> Profile {
    let mut profile = profile(release, build_id, 64);
    profile.symbols.insert("init_top_pgt".to_owned(), root);
    profile
}

#[test]
fn the_list_of_outlines_says_what_the_profiles_do_and_counts_for_no_other_file() {
    let (directory, store) = store();
    let own = directory.path().join("own");
    let list = own.join("outlines.json");
    let (one, other) =
        (telling("6.1.0-9-amd64", "ab", 0xffff_ffff_8260_a000), telling("6.1.0-10-amd64", "cd", 1 << 40));
    let sorted = || {
        let mut all: Vec<Outline> = store.outlines().collect();
        all.sort_by(|a, b| a.build_id.cmp(&b.build_id));
        all
    };
    let expected = [Outline::from(&one), Outline::from(&other)];
    assert_eq!(expected[0].symbols.keys().collect::<Vec<_>>(), ["init_top_pgt"]);
    let path = store.add(&one).unwrap().path;
    store.add(&other).unwrap();
    assert_eq!(sorted(), expected);
    let text = fs::read_to_string(&list).unwrap();
    assert_eq!(fs::metadata(&list).unwrap().permissions().mode() & 0o777, 0o644);

    // It is the list that is read, so a damaged profile is still known by it, and what it leads to has to prove itself.
    fs::write(&path, b"not a profile").unwrap();
    assert_eq!(sorted(), expected);
    fs::remove_file(&path).unwrap();
    assert_eq!(sorted(), expected[1..], "an entry without its file is no kernel");
    store.add(&one).unwrap();
    assert_eq!(fs::read_to_string(&list).unwrap(), text);

    // Old, damaged, missing, or what others could have written: the profiles themselves are read.
    fs::write(&list, text.replace("6.1.0-9-amd64_", "6.1.0-8-amd64_").replace("\"ab\"", "\"ef\"")).unwrap();
    assert_eq!(sorted(), expected);
    for damaged in ["{", "[]", "{\"a\": 1}"] {
        fs::write(&list, damaged).unwrap();
        assert_eq!(sorted(), expected, "{damaged}");
    }
    fs::write(&list, text.replace("\"ab\"", "\"ef\"")).unwrap();
    assert_ne!(sorted(), expected, "otherwise the next line proves nothing");
    fs::set_permissions(&list, Permissions::from_mode(0o666)).unwrap();
    assert_eq!(sorted(), expected);
    fs::remove_file(&list).unwrap();
    symlink("/etc/hostname", &list).unwrap();
    assert_eq!(sorted(), expected);
}
