//! Volatility's symbol files on a real guest: a stock Volatility sees with ours what we see, and we see with one what we see
//! without.

use crate::run::{Ran, birthmark};
use crate::signed::text;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use testkit::{Guest, GuestSpec, Kernel, Need, SocketSpec, Spawn, volatility};

fn with_store(store: &Path, args: &[&str]) -> Ran {
    let ran = birthmark(args).env("BIRTHMARK_PROFILES", store).env("BIRTHMARK_HINTS", "").output();
    ran.unwrap().into()
}

fn processes(rows: &[Value]) -> BTreeSet<(u32, String)> {
    let row = |row: &Value| {
        (u32::try_from(row["pid"].as_u64().unwrap()).unwrap(), row["name"].as_str().unwrap().to_owned())
    };
    rows.iter().map(row).collect()
}

#[test]
fn a_stock_volatility_lists_the_same_processes_and_its_files_lead_to_the_same_tables() {
    // Volatility knows no page tables of five levels.
    if !testkit::require(&[Need::Guest(Kernel::V6_12), Need::Root, Need::Volatility]) {
        return;
    }
    let guest = Guest::boot(GuestSpec::new(Kernel::V6_12).memory_mib(160)).unwrap();
    let address = "0.0.0.0:8080".parse().unwrap();
    guest
        .spawn(Spawn {
            exe: "/usr/sbin/server".into(),
            comm: Some("a server".into()),
            sockets: vec![SocketSpec::TcpListen { address }],
            uid: Some(33),
            ..Spawn::default()
        })
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (symbols, work, store) =
        (dir.path().join("symbols"), dir.path().join("work"), dir.path().join("profiles"));
    for directory in [&symbols, &work] {
        fs::create_dir(directory).unwrap();
    }
    let image = dir.path().join("guest.core");
    let file = text(&symbols.join("guest.json.xz"));
    let core = text(&image);
    guest.dump_elf(&image).unwrap();
    drop(guest);
    let ours = with_store(&store, &["snapshot", &core, "--json"]).json();
    let rows = ours["processes"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["name"] == "a server"), "{ours}");

    // Made of the image alone, used by a program that is not ours.
    let ran = with_store(&store, &["profile", "export", "--isf", &core, "-o", &file, "--json"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let told = ran.json();
    assert!(told["types"].as_u64() > Some(50_000) && told["symbols"].as_u64() > Some(50_000), "{told}");
    let theirs: BTreeSet<_> = volatility::pslist(&image, &symbols, &work).unwrap().into_iter().collect();
    assert_eq!(theirs, processes(rows));

    // The other way: such a file is all that the host has of this kernel.
    let ran = with_store(&store, &["profile", "import", &file, "--json"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let ran = with_store(&store, &["audit", &core]);
    assert!(ran.stdout.contains("stored, ") && ran.stdout.contains("agrees with it"), "{ran:?}");
    let by_file = with_store(&store, &["snapshot", &core, "--json"]).json();
    let profile = &by_file["kernel"]["profile"];
    assert_eq!(
        (&profile["source"], &profile["contradictions"]),
        (&json!("store"), &Value::Null),
        "{profile}"
    );
    for table in ["processes", "sockets", "modules", "problems"] {
        assert_eq!(by_file[table], ours[table], "{table}");
    }
    let ran = with_store(&store, &["profile", "verify", &file, "--target", &core]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
}
