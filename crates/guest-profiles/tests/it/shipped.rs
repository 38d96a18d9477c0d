//! The profiles that are shipped (`profiles/`): each can be used by this version, and is what the kernel's own file gives.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use guest_profiles::linux::WANTED;
use guest_profiles::{Outline, Profile, kernel_file, store};

use crate::kernels::packages;

/// What makes them anew.
const MEND: &str = "`cargo xtask profiles` makes the shipped profiles anew";

fn shipped() -> Vec<(PathBuf, Profile)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../profiles");
    let mut all: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}: {MEND}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "xz"))
        .map(|path| (path.clone(), store::unpack(&fs::read(&path).unwrap()).unwrap()))
        .collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    assert!(!all.is_empty(), "there is no shipped profile: {MEND}");
    all
}

#[test]
fn every_shipped_profile_can_be_used_by_this_version() {
    for (path, profile) in shipped() {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(profile.wanted, WANTED.digest(), "{name} answers another table than linux.rs: {MEND}");
        let digest = profile.digest();
        let digits = &digest["sha256:".len()..][..16];
        assert!(name.ends_with(&format!("_{digits}.json.xz")), "{name} has digest {digest}: {MEND}");
        assert!(profile.build_id.is_some() && profile.btf_digest.is_some(), "{name}");
        let size = fs::metadata(&path).unwrap().len();
        assert!(size < 16 << 10, "{name} has {size} bytes");
    }
}

#[test]
fn the_list_of_shipped_outlines_is_that_of_the_shipped_profiles() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../profiles/outlines.json");
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: {MEND}", path.display()));
    let listed: BTreeMap<String, Outline> = serde_json::from_slice(&text).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let own = shipped().iter().map(|(path, profile)| (name(path), Outline::from(profile))).collect();
    assert!(listed == own, "{MEND}");
    assert!(listed.values().all(|outline| outline.symbols.len() == Outline::SYMBOLS.len()));
}

#[test]
fn a_shipped_profile_is_what_the_kernels_own_file_gives() {
    let shipped = shipped();
    for path in packages().iter().flat_map(|package| kernel_file::find(package).unwrap()) {
        let own = kernel_file::read(&path, &WANTED).unwrap().profile;
        let same =
            |(_, one): &&(PathBuf, Profile)| one.release == own.release && one.build_id == own.build_id;
        match shipped.iter().find(same) {
            Some((file, profile)) => {
                let differ = profile.disagreements("the file", &own, "the kernel");
                assert_eq!(differ, [""; 0], "{}: {MEND}", file.display());
                assert!(*profile == own, "{} is not what {} gives: {MEND}", file.display(), path.display());
            }
            // The lab has what Debian has today; what is shipped is of the day it was made.
            None => eprintln!(
                "skipped: {} is not shipped (newer than the last `cargo xtask profiles`?)",
                own.release
            ),
        }
    }
}
