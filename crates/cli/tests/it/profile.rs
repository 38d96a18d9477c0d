//! `birthmark profile`, and what `audit` says of where a profile came from.

use crate::run::{Ran, birthmark, run};
use crate::signed::text;
use hypervisor::Target;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::{Guest, GuestSpec, Kernel, Need};
use vmi_core::{AddressSpace, Budget, Gpa, Look};

/// Runs the command with a store of these directories, and with no hints: each run finds the kernel anew.
fn with_store(store: &[&Path], args: &[&str]) -> Ran {
    let paths = std::env::join_paths(store).unwrap();
    birthmark(args).env("BIRTHMARK_PROFILES", paths).env("BIRTHMARK_HINTS", "").output().unwrap().into()
}

/// Where a symbol of the guest's kernel is in its physical memory.
fn physical(guest: &Guest, symbol: &str) -> Gpa {
    let vm = hypervisor::open(&Target::Pid(guest.pid())).unwrap();
    let kernel =
        introspect::locate(&*vm.memory, Budget { time: Duration::from_secs(60), ..Budget::default() })
            .unwrap();
    let look = Look::begin(&*vm.memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, kernel.root(), kernel.levels());
    space.translate(kernel.symbol(symbol).unwrap()).unwrap().at
}

/// The profiles of a store. Beside them there is but the list of what tells their kernels.
fn files(store: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(store)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    let before = all.len();
    all.retain(|path| path.file_name().is_none_or(|name| name != "outlines.json"));
    assert!(before == 0 || before == all.len() + 1, "{all:?}");
    all
}

#[test]
fn a_kernel_certified_is_a_kernel_stored_and_what_contradicts_it_is_found() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1), Need::Root]) {
        return;
    }
    let guest = Guest::boot(GuestSpec::new(Kernel::V6_1).memory_mib(256)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("profiles");
    let here: &[&Path] = &[&store];
    let vm = format!("pid:{}", guest.pid());
    let (key, file) = (text(&dir.path().join("key")), text(&dir.path().join("c.json")));
    let public = format!("{key}.pub");
    let audit = ["audit", &vm, "--certificate", &file, "--trusted-key", &public];
    let audit_json = [audit.as_slice(), &["--json"]].concat();

    // Before its birth certificate nothing is known of it.
    let ran = with_store(here, &["audit", &vm]);
    assert!(ran.stdout.contains("the guest's own memory; none of this kernel is stored"), "{ran:?}");
    let ran = with_store(here, &["profile", "list", "--json"]);
    assert_eq!((ran.status, ran.json()), (Some(0), json!([])), "{ran:?}");
    assert!(!store.exists());

    // With it, the host knows its kernel.
    assert_eq!(run(["keygen", "-o", &key]).status, Some(0));
    let certify = ["certify", &vm, "--service", "web", "--key", &key, "-o", &file, "--json"];
    let ran = with_store(here, &certify);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let stored = PathBuf::from(ran.json()["stored_profile"].as_str().unwrap());
    assert_eq!(files(&store), std::slice::from_ref(&stored));
    let rows = with_store(here, &["profile", "list", "--json"]).json();
    let release = rows[0]["release"].as_str().unwrap().to_owned();
    assert_eq!((&rows[0]["current"], &rows[0]["path"]), (&json!(true), &json!(stored)));
    let ran = with_store(here, &audit);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("the guest's memory agrees with it"), "{ran:?}");
    let profile = |report: &Value| report["snapshot"]["kernel"]["profile"].clone();
    let clean = profile(&with_store(here, &audit_json).json());
    assert_eq!((&clean["source"], &clean["stored"]), (&json!("store"), &json!(stored)), "{clean}");
    assert_eq!(clean["digest"], rows[0]["digest"]);

    // A provisioning pipeline makes the very same of the kernel's file, with no guest.
    let built = dir.path().join("built");
    let vmlinuz = text(&guest.kernel().vmlinuz);
    let ran = with_store(&[&built], &["profile", "build", &vmlinuz, "--json"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!((&ran.json()[0]["digest"], &ran.json()[0]["layouts"]), (&rows[0]["digest"], &json!("btf")));
    assert_eq!(fs::read(&files(&built)[0]).unwrap(), fs::read(&stored).unwrap());

    // It can be shown, checked, handed out and taken in.
    let ran = with_store(here, &["profile", "verify", &release, "--target", &vm]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let shown = with_store(here, &["profile", "show", &release]);
    assert!(shown.stdout.contains("init_task") && shown.stdout.contains("task_struct"), "{shown:?}");
    let digest = rows[0]["digest"].as_str().unwrap();
    assert_eq!(with_store(here, &["profile", "show", digest, "--json"]).json()["digest"], digest);
    let other = dir.path().join("other");
    for (what, name) in [(release.as_str(), "a.json"), (&vm, "b.json.xz")] {
        let out = text(&dir.path().join(name));
        let ran = with_store(here, &["profile", "export", what, "-o", &out, "--json"]);
        assert_eq!((ran.status, &ran.json()["digest"]), (Some(0), &rows[0]["digest"]), "{ran:?}");
        assert!(
            with_store(here, &["profile", "export", what, "-o", &out]).error().contains("exists already")
        );
        let ran = with_store(&[&other], &["profile", "import", &out, "--json"]);
        assert_eq!(ran.json()[0]["known"], name == "b.json.xz", "{ran:?}");
    }
    assert_eq!(fs::read(&files(&other)[0]).unwrap(), fs::read(&stored).unwrap());

    // A damaged file is told, and the guest's own memory is still there.
    let whole = fs::read(&stored).unwrap();
    fs::write(&stored, &whole[..whole.len() - 9]).unwrap();
    let ran = with_store(here, &audit);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(
        ran.stderr.contains("a stored profile is passed over") && ran.stdout.contains("own memory"),
        "{ran:?}"
    );
    assert_eq!(with_store(here, &["profile", "verify"]).status, Some(1));
    fs::write(&stored, &whole).unwrap();
    assert_eq!(with_store(here, &["profile", "verify"]).status, Some(0));

    // One of another version of the program may not lead the walks, but the guest is still held against it.
    let json = text(&dir.path().join("a.json"));
    let old = fs::read_to_string(&json).unwrap().replace(r#""wanted":"sha256:"#, r#""wanted":"older:"#);
    fs::write(&json, old).unwrap();
    let aged = dir.path().join("aged");
    assert_eq!(with_store(&[&aged], &["profile", "import", &json]).status, Some(0));
    let ran = with_store(&[&aged], &audit);
    assert!(ran.stdout.contains("own memory, which agrees with"), "{ran:?}");
    assert!(ran.stdout.contains("of another version of birthmark"), "{ran:?}");
    assert_eq!(with_store(&[&aged], &["profile", "verify"]).status, Some(1));

    // One letter in a name of its type information.
    let at = physical(&guest, "__stop_BTF").0 - 3;
    let before = guest.peek_physical(at, 1).unwrap();
    guest.poke_physical(at, b"~").unwrap();
    for place in [&store, &aged] {
        let ran = with_store(&[place], &audit_json);
        assert_eq!(ran.status, Some(1), "{ran:?}");
        let report = ran.json();
        let rules: Vec<_> = report["findings"].as_array().unwrap().iter().map(|one| &one["rule"]).collect();
        // The certificate pins the type information, and the store has it.
        assert_eq!(rules, ["kernel.changed", "kernel.changed"], "{report}");
        assert_eq!(profile(&report)["contradictions"].as_array().unwrap().len(), 1);
    }
    let ran = with_store(here, &audit);
    assert!(ran.stdout.contains("the guest's memory CONTRADICTS it"), "{ran:?}");
    let ran = with_store(here, &["profile", "verify", &release, "--target", &vm]);
    assert!(ran.status == Some(1) && ran.stdout.contains("NOT good"), "{ran:?}");
    let again = text(&dir.path().join("again.json"));
    let ran = with_store(here, &["certify", &vm, "--service", "web", "--key", &key, "-o", &again]);
    assert!(ran.error().contains("contradicts the stored profile"), "{ran:?}");
    guest.poke_physical(at, &before).unwrap();
    assert_eq!(with_store(here, &audit).status, Some(0));

    // Another build id, so that no stored profile is of its build: the certificate knows better.
    let notes = physical(&guest, "__start_notes").0;
    let bytes = guest.peek_physical(notes, 512).unwrap();
    let note = bytes.windows(4).position(|name| name == b"GNU\0").unwrap();
    let id = notes + u64::try_from(note).unwrap() + 4;
    let before = guest.peek_physical(id, 1).unwrap();
    guest.poke_physical(id, &[!before[0]]).unwrap();
    let ran = with_store(here, &audit_json);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let report = ran.json();
    assert_eq!(report["findings"][0]["rule"], "kernel.changed", "{report}");
    assert_eq!((&profile(&report)["source"], &profile(&report)["stored"]), (&json!("guest"), &Value::Null));
    let ran = with_store(here, &["profile", "verify", &release, "--target", &vm]);
    assert!(ran.stdout.contains("it is of another kernel"), "{ran:?}");
}

#[test]
fn what_names_no_profile_is_an_error_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let none: &[&Path] = &[dir.path()];
    let missing = with_store(none, &["profile", "show", "6.1.0-nobody"]);
    assert!(missing.error().contains("6.1.0-nobody is no profile's file, no stored profile and no VM"));
    let missing = with_store(none, &["profile", "show", "sha256:0123"]);
    assert!(missing.error().contains("No stored profile has a digest that begins with sha256:0123"));
    let file = text(&dir.path().join("p.json"));
    fs::write(&file, r#"{"schema":"birthmark.profile/v1","release":7}"#).unwrap();
    for args in [["profile", "show", &file], ["profile", "import", &file]] {
        let ran = with_store(none, &args);
        assert!(ran.error().contains("invalid type: integer `7`"), "{ran:?}");
    }
    assert!(with_store(none, &["profile", "verify", "--target", "x"]).error().contains("WHAT"));
    let listed = with_store(none, &["profile", "list"]);
    assert_eq!(listed.status, Some(0));
    assert!(listed.stderr.contains("There is no stored profile in"), "{listed:?}");
    assert_eq!(with_store(none, &["profile", "verify", "--json"]).json()["good"], true);
    assert_eq!(birthmark(["profile", "import", &file]).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_profile_is_built_of_a_directory_and_of_a_file_and_goes_where_it_is_told() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let kernel = testkit::kernels::cached_or_fetch(Kernel::V6_1).unwrap();
    let package = kernel.vmlinuz.parent().unwrap().parent().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), text(&dir.path().join("one.json")));
    let build = |rest: &[&str]| with_store(&[&store], &[&["profile", "build"], rest].concat());

    let ran = build(&[&text(package), "-o", &out]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stdout.contains(&kernel.release) && ran.stdout.contains(&out), "{ran:?}");
    assert!(!store.exists());
    let one: Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(one["release"], kernel.release);
    assert!(build(&[&text(package), "-o", &out]).error().contains("exists already"));

    let other = format!("{}/", text(&dir.path().join("other")));
    assert_eq!(build(&[&text(&kernel.vmlinuz), "-o", &other]).status, Some(0));
    assert_eq!(files(Path::new(&other)).len(), 1);
    let ran = with_store(&[Path::new(&other)], &["profile", "show", &kernel.release, "--json"]);
    assert_eq!(ran.json()["profile"], one);

    let twice = [&text(package), &text(&kernel.vmlinuz), "-o", &out, "--force"];
    assert!(build(&twice).error().starts_with("2 kernels were given"));
}

#[test]
fn a_file_that_is_no_kernel_is_one_line_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vmlinuz");
    fs::write(&file, "no kernel").unwrap();
    for path in [text(&file), text(dir.path())] {
        let ran = with_store(&[dir.path()], &["profile", "build", &path]);
        let expected = format!(
            "Kernel file {} cannot be read: It is neither a bzImage, a vmlinux for x86-64 nor a Debian package: it starts \
             with 6e 6f 20 6b 65 72 6e 65",
            file.display()
        );
        assert_eq!(ran.error(), expected);
    }
}
