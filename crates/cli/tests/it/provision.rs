//! `certify --image`: from an image to a certificate, to a VM that conforms to it.

use crate::run::{birthmark, run};
use crate::signed::{Signer, text};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::{Guest, GuestSpec, Kernel, Need, SocketSpec, Spawn, require};

/// A root file system with one program, of `web 1.0`, and a unit that runs it as a user.
fn root(of: &Path) -> PathBuf {
    let root = of.join("root");
    let file = |name: &str, mode: u32, content: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    file("usr/bin/web", 0o755, b"\x7fELF and the rest");
    file("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\nwww:x:33:33::/:/bin/sh\n");
    file(
        "usr/lib/systemd/system/web.service",
        0o644,
        b"[Service]\nExecStart=/usr/bin/web\nUser=www\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n",
    );
    file(
        "usr/lib/systemd/system/web.socket",
        0o644,
        b"[Socket]\nListenStream=80\nListenStream=%t/web.sock\n",
    );
    file("var/lib/dpkg/status", 0o644, b"Package: web\nStatus: install ok installed\nVersion: 1.0\n");
    file("var/lib/dpkg/info/web.list", 0o644, b"/usr/bin/web\n");
    file("usr/lib/modules/x.ko", 0o644, b"");
    root
}

fn certify(image: &Path, kernel: &Path, output: &Path, more: &[&str]) -> crate::run::Ran {
    let (image, kernel, output) = (text(image), text(kernel), text(output));
    let mut args = vec!["certify", "--image", &image, "--kernel", &kernel, "--service", "web", "-o", &output];
    args.extend(more);
    run(args)
}

#[test]
fn an_image_without_a_kernel_or_of_another_day_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (root, output) = (text(&root(dir.path())), text(&dir.path().join("draft")));
    let certify = |more: &[&str]| {
        let mut args = vec!["certify", "--image", &root, "--service", "web", "-o", &output];
        args.extend(more);
        run(args)
    };
    assert!(certify(&[]).error().contains("--kernel"));
    let old = birthmark(["certify", "--image", &root, "--service", "web", "-o", &output])
        .env("SOURCE_DATE_EPOCH", "1000")
        .output()
        .unwrap();
    let said = crate::run::Ran::from(old);
    assert!(said.error().contains("SOURCE_DATE_EPOCH") && said.error().contains("--not-before"), "{said:?}");
    assert!(certify(&["--partition", "1"]).error().contains("no disk"));
    let none = run(["certify", "--image", "/no/such/image", "--service", "web", "-o", &output]);
    assert!(none.error().contains("/no/such/image"));
    for needs_a_vm in [&["--flows"][..], &["--learn", "1m"], &["--scan"], &["--accept-unknown"]] {
        let ran = certify(needs_a_vm);
        assert!(ran.error().contains("TARGET"), "{ran:?}");
    }
    // An image that is of no use is told before anybody waits for a VM to be observed.
    let ran = run(["certify", "--image", "/no/such/image", "no-such-vm", "--service", "web", "-o", &output]);
    assert!(ran.error().contains("/no/such/image"), "{ran:?}");
    assert!(!Path::new(&output).exists());
}

#[test]
fn the_same_image_gives_the_same_bytes_and_all_that_it_tells_is_in_them() {
    if !require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let kernel = testkit::prepare(Kernel::V6_1).unwrap().vmlinuz;
    let signer = Signer::new();
    let dir = signer.dir.path();
    let root = root(dir);
    let key = text(&signer.path("key"));
    for name in ["one", "two"] {
        let ran = certify(&root, &kernel, &dir.join(name), &["--key", &key]);
        assert_eq!(ran.status, Some(0), "{ran:?}");
    }
    assert_eq!(fs::read(dir.join("one")).unwrap(), fs::read(dir.join("two")).unwrap());
    let verified = run(["verify", &text(&dir.join("one")), "--trusted-key", &signer.public()]);
    assert_eq!(verified.status, Some(0), "{verified:?}");

    let ran = certify(&root, &kernel, &dir.join("draft"), &["--not-before", "2026-01-01T00:00:00Z"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let draft: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("draft")).unwrap()).unwrap();
    let statement = &draft["statement"];
    let predicate = &statement["predicate"];
    assert_eq!(predicate["validity"]["notBefore"], "2026-01-01T00:00:00Z");
    assert_eq!(statement["subject"][1]["name"], "image");
    assert_eq!(statement["subject"][1]["digest"]["dirHash"].as_str().unwrap().len(), 64);
    assert!(predicate["guest"]["kernels"][0]["release"].as_str().unwrap().starts_with("6.1."));
    let web = &predicate["processes"][0];
    assert_eq!(
        (web["executable"].as_str(), web["presence"].as_str()),
        (Some("/usr/bin/web"), Some("allowed"))
    );
    assert_eq!(web["identities"][1]["uid"], 33);
    assert_eq!(web["identities"][1]["capabilities"][0], "cap_net_bind_service");
    assert_eq!(web["sha256"], serde_json::json!([predicate["files"][0]["sha256"]]));
    assert_eq!(predicate["files"][0]["package"], "web=1.0");
    assert_eq!(predicate["files"][0]["pages"].as_str().unwrap().len(), 44);
    let places: Vec<_> = predicate["listeners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|listener| (listener["address"].as_str(), listener["port"].as_u64(), listener["path"].as_str()))
        .collect();
    assert_eq!(
        places,
        [
            (Some("0.0.0.0"), Some(80), None),
            (Some("::"), Some(80), None),
            (None, None, Some("/run/web.sock"))
        ]
    );
    assert_eq!(predicate["modules"][0]["name"], "x");
    assert_eq!(predicate["policy"]["rules"]["socket.listener.unknown"]["action"], "alert");
    assert_eq!(predicate["policy"]["rules"]["process.unknown"]["action"], "quarantine");
    let page = fs::read_to_string(dir.join("draft.review.txt")).unwrap();
    assert!(page.contains("Nothing has booted from it") && page.contains("web=1.0"), "{page}");
}

#[test]
fn an_updated_package_is_one_difference_and_a_file_that_changed_under_its_package_stands_out() {
    if !require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let kernel = testkit::prepare(Kernel::V6_1).unwrap().vmlinuz;
    let dir = tempfile::tempdir().unwrap();
    let root = root(dir.path());
    let draft = |name: &str| {
        let path = dir.path().join(name);
        let ran = certify(&root, &kernel, &path, &["--not-before", "2026-01-01T00:00:00Z"]);
        assert_eq!(ran.status, Some(0), "{ran:?}");
        text(&path)
    };
    let born = draft("born");
    fs::write(root.join("usr/bin/web"), b"\x7fELF and another rest").unwrap();
    let status = b"Package: web\nStatus: install ok installed\nVersion: 1.0+deb12u1\n";
    fs::write(root.join("var/lib/dpkg/status"), status).unwrap();
    let updated = draft("updated");
    let ran = run(["diff", &born, &updated]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), "~ packages: web 1.0 → 1.0+deb12u1: 1 file\n"));
    let json = run(["diff", "--json", &born, &updated]).json();
    assert_eq!(json.as_array().unwrap().len(), 1, "{json:#}");
    assert_eq!(json[0]["covers"], serde_json::json!(["/usr/bin/web"]));

    fs::write(root.join("usr/bin/web"), b"\x7fELF and a third rest").unwrap();
    let changed = draft("changed");
    let ran = run(["diff", &updated, &changed]);
    let first = "! files: /usr/bin/web of web=1.0+deb12u1\n    its contents changed, and its package is web=1.0+deb12u1 before";
    assert!(ran.stdout.starts_with(first), "{ran:?}");
    let page = run(["review", &changed, "--since", &born]);
    assert!(page.stdout.contains("Different from serial 1 of web (1)"), "{page:?}");
    assert!(page.stdout.contains("~ packages: web 1.0 → 1.0+deb12u1: 1 file"), "{page:?}");
    let json = run(["review", "--json", &changed, "--since", &updated]).json();
    assert!(json["changes"][0]["alarm"].is_string(), "{json:#}");
}

/// Runs the shell example for this kernel, and this root if there is one.
fn provision(signer: &Signer, kernel: &Path, root: Option<&Path>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/provision-shell/provision.sh");
    let output = Command::new(script)
        .args([kernel, &signer.path("key"), &signer.path("out")])
        .args(root)
        .env("BIRTHMARK", env!("CARGO_BIN_EXE_birthmark"))
        .env("BIRTHMARK_PROFILES", "")
        .env("BIRTHMARK_STATE_DIR", signer.path("state"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_vm_of_an_image_conforms_to_the_certificate_that_the_shell_example_made_of_it() {
    let tools = ["mkfs.ext4", "qemu-img", "busybox"].map(Need::Program);
    let needs = [&tools[..], &[Need::Guest(Kernel::V6_1), Need::Root]].concat();
    if !require(&needs) {
        return;
    }
    let signer = Signer::new();
    let root = signer.path("root");
    let files = testkit::prepare(Kernel::V6_1).unwrap();
    testkit::unpack_root(&files, &root).unwrap();
    provision(&signer, &files.vmlinuz, Some(&root));

    let guest = Guest::boot(GuestSpec::new(Kernel::V6_1).name("web-1")).unwrap();
    let audit = || {
        let target = format!("pid:{}", guest.pid());
        let certificate = text(&signer.path("out/web.json"));
        run(["audit", "--json", &target, "--certificate", &certificate, "--trusted-key", &signer.public()])
    };
    let ran = audit();
    let report = ran.json();
    assert_eq!(
        (ran.status, report["verdict"].as_str()),
        (Some(0), Some("conforms")),
        "{:#}",
        report["findings"]
    );
    assert!(report["snapshot"]["processes"].as_array().unwrap().len() > 10);

    // What no image tells is a finding, and what was not in the image is another.
    let address = "0.0.0.0:4444".parse().unwrap();
    guest
        .spawn(Spawn {
            exe: "/tmp/rogue".into(),
            sockets: vec![SocketSpec::TcpListen { address }],
            ..Spawn::default()
        })
        .unwrap();
    let report = audit().json();
    let rules: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|finding| finding["rule"].as_str())
        .collect();
    assert!(rules.contains(&"process.unknown") && rules.contains(&"socket.listener.unknown"), "{rules:?}");
}

#[test]
fn what_is_learned_of_a_vm_carries_the_digests_of_its_image_and_what_is_not_in_the_image_needs_an_eye() {
    if !require(&[Need::Guest(Kernel::V6_1), Need::Root]) {
        return;
    }
    let signer = Signer::new();
    let root = signer.path("root");
    let files = testkit::prepare(Kernel::V6_1).unwrap();
    testkit::unpack_root(&files, &root).unwrap();
    fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
    let status = "Package: agent\nStatus: install ok installed\nVersion: 1:2.0-4\n";
    fs::write(root.join("var/lib/dpkg/status"), status).unwrap();
    fs::write(root.join("var/lib/dpkg/info/agent.list"), "/init\n").unwrap();
    let guest = Guest::boot(GuestSpec::new(Kernel::V6_1).name("web-1")).unwrap();
    guest.spawn(Spawn { exe: "/opt/rogue".into(), ..Spawn::default() }).unwrap();
    let (target, image, kernel) = (format!("pid:{}", guest.pid()), text(&root), text(&files.vmlinuz));
    let draft = signer.path("draft");
    let output = text(&draft);
    let args = ["certify", "--json", &target, "--image", &image, "--kernel", &kernel, "--service", "web"];
    let ran = run([&args[..], &["-o", &output]].concat());
    let told = ran.json();
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let draft: serde_json::Value = serde_json::from_slice(&fs::read(&draft).unwrap()).unwrap();
    let predicate = &draft["statement"]["predicate"];
    let sha256sum = Command::new("sha256sum").arg(root.join("init")).output().unwrap();
    let digest = String::from_utf8(sha256sum.stdout).unwrap()[..64].to_owned();
    let agent: Vec<_> = predicate["processes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["executable"] == "/init")
        .collect();
    assert!(!agent.is_empty(), "{predicate:#}");
    assert!(agent.iter().all(|entry| entry["sha256"] == serde_json::json!([digest])), "{agent:#?}");
    assert_eq!(told["files"], predicate["files"].as_array().unwrap().len());
    assert_eq!(draft["statement"]["subject"].as_array().unwrap().last().unwrap()["name"], "image");
    let page = run(["review", &output]).stdout;
    assert!(page.contains("of agent=1:2.0-4"), "{page}");
    let eyes: Vec<&str> = page.lines().filter(|line| line.contains("NOT in the image")).collect();
    assert!(eyes.len() == 1 && eyes[0].contains("! /opt/rogue"), "{page}");
    assert!(!page.contains("no such kernel") && !page.contains("no such module"), "{page}");

    // What was learned before (by the daemon, say) is held against the image in the same way.
    let (before, again) = (text(&signer.path("before")), text(&signer.path("again")));
    assert_eq!(run(["certify", &target, "--service", "web", "-o", &before]).status, Some(0));
    let hold = |service: &str| {
        let learned = ["certify", "--learned", &before, "--image", &image, "--kernel", &kernel];
        run([&learned[..], &["--service", service, "-o", &again]].concat())
    };
    assert!(hold("mail").error().contains("\"web\""));
    assert_eq!(hold("web").status, Some(0));
    let page = run(["review", &again]).stdout;
    assert!(
        page.contains("of agent=1:2.0-4") && page.contains("! /opt/rogue as rogue: it is NOT in"),
        "{page}"
    );

    // Signed, the VM conforms to it, and it may do nothing that it did not do.
    let signed = text(&signer.path("signed"));
    assert_eq!(run(["sign", &output, "--key", &text(&signer.path("key")), "-o", &signed]).status, Some(0));
    let audit =
        || run(["audit", "--json", &target, "--certificate", &signed, "--trusted-key", &signer.public()]);
    assert_eq!(audit().json()["verdict"], "conforms");
    guest.spawn(Spawn { exe: "/bin/busybox2".into(), ..Spawn::default() }).unwrap();
    assert_eq!(audit().json()["findings"][0]["rule"], "process.unknown");
}

#[test]
fn the_shell_example_makes_a_root_of_busybox_when_it_is_given_none() {
    let tools = ["mkfs.ext4", "qemu-img", "busybox"].map(Need::Program);
    if !require(&[&tools[..], &[Need::Guest(Kernel::V6_1)]].concat()) {
        return;
    }
    let signer = Signer::new();
    let kernel = testkit::prepare(Kernel::V6_1).unwrap().vmlinuz;
    provision(&signer, &kernel, None);
    let shown = run(["show", &text(&signer.path("out/web.json")), "--trusted-key", &signer.public()]);
    assert!(shown.stdout.contains("/bin/busybox"), "{shown:?}");
}

/// What Packer says of a template.
fn packer(dir: &Path, template: &str, arguments: &[&str]) -> String {
    fs::write(dir.join("web.pkr.hcl"), template).unwrap();
    let output = Command::new("packer")
        .args(arguments)
        .arg("web.pkr.hcl")
        .current_dir(dir)
        .env("HOME", dir)
        .env("CHECKPOINT_DISABLE", "1")
        .env("BIRTHMARK_PROFILES", "")
        .env("BIRTHMARK_STATE_DIR", dir.join("state"))
        .env("PATH", format!("{}:{}", dir.display(), std::env::var("PATH").unwrap()))
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

/// The template without what only a newer Packer, or the network, can tell. Debian's Packer is 1.6, which has its plugins built in.
fn template() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/provision-packer/web.pkr.hcl");
    let text = fs::read_to_string(path).unwrap();
    let (before, block) = text.split_once("\npacker {\n").unwrap();
    let (_, after) = block.split_once("\n}\n").unwrap();
    let checksum = after.lines().find(|line| line.contains("iso_checksum")).unwrap();
    format!("{before}\n{}", after.replace(checksum, "  iso_checksum = \"none\""))
}

#[test]
fn the_packer_example_is_a_template_that_packer_takes() {
    if !require(&[Need::Program("packer"), Need::Program("qemu-system-x86_64")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    packer(dir.path(), &template(), &["validate", "-var", "key=/secret/key"]);
    let said = packer(dir.path(), &template(), &["inspect"]);
    assert!(said.contains("qemu.web") && said.contains("shell-local"), "{said}");
}

#[test]
fn what_packer_runs_when_it_has_built_an_image_certifies_it() {
    if !require(&[Need::Program("packer"), Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let signer = Signer::new();
    let dir = signer.dir.path();
    // The image is there already: a directory of the name that the build would have given it.
    let root = root(dir);
    fs::create_dir(root.join("boot")).unwrap();
    let kernel = testkit::prepare(Kernel::V6_1).unwrap();
    fs::copy(kernel.vmlinuz, root.join("boot/vmlinuz-6.1.0-test")).unwrap();
    fs::create_dir(dir.join("output")).unwrap();
    std::os::unix::fs::symlink("../root", dir.join("output/web.qcow2")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_birthmark"), dir.join("birthmark")).unwrap();
    // In place of a VM that takes minutes: a builder that does nothing, and no one to set it up.
    let template = template();
    let (before, rest) = template.split_once("source \"qemu\" \"web\" {").unwrap();
    let (_, rest) = rest.split_once("\n}\n").unwrap();
    let (build, rest) = rest.split_once("  provisioner").unwrap();
    let (_, rest) = rest.split_once("\n  }\n").unwrap();
    let (certify, _) = rest.split_once("  # The digest in").unwrap();
    let build = build.replace("source.qemu.web", "source.null.web");
    let template =
        format!("{before}source \"null\" \"web\" {{\n  communicator = \"none\"\n}}\n{build}{certify}}}\n");
    let key = format!("key={}", signer.path("key").display());
    packer(dir, &template, &["build", "-var", &key, "-var", "serial=3"]);
    let verified = run(["verify", &text(&dir.join("output/web.json")), "--trusted-key", &signer.public()]);
    assert!(verified.stdout.contains("web, serial 3"), "{verified:?}");
}

#[test]
fn the_disk_of_a_full_debian_tells_its_packages_units_and_kernel_the_same_each_time() {
    if !require(&[Need::Debian]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = text(&testkit::debian::disk().unwrap());
    let draft = |name: &str| {
        let output = text(&dir.path().join(name));
        let args = ["certify", "--image", &image, "--service", "web", "-o", &output];
        let ran = run(args.into_iter().chain(["--not-before", "2026-01-01T00:00:00Z"]));
        assert_eq!(ran.status, Some(0), "{ran:?}");
        fs::read(output).unwrap()
    };
    let first = draft("one");
    assert!(first == draft("two"), "the same image gave other bytes");
    let draft: serde_json::Value = serde_json::from_slice(&first).unwrap();
    let statement = &draft["statement"];
    let predicate = &statement["predicate"];
    let subjects = statement["subject"].as_array().unwrap();
    let names: Vec<_> = subjects.iter().map(|subject| subject["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["kernel", "image"]);

    // dpkg's word, as the disk has it.
    let files = predicate["files"].as_array().unwrap();
    let package = |path: &str| {
        let file = files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("no {path}"));
        file["package"].as_str().unwrap_or_default().split('=').next().unwrap().to_owned()
    };
    for (path, of) in [
        ("/usr/sbin/nginx", "nginx"),
        ("/usr/sbin/sshd", "openssh-server"),
        ("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"),
        ("/usr/lib/systemd/systemd", "systemd"),
        ("/usr/sbin/runc", "runc"),
        ("/usr/sbin/lab-metrics", "lab-metrics"),
    ] {
        assert_eq!(package(path), of, "{path}");
    }
    let without = files.iter().filter(|file| file["package"].is_null()).count();
    assert!(files.len() > 700 && without * 10 < files.len(), "{without} of {} have no package", files.len());

    // The units: as whom a service runs, and what systemd listens on for one.
    let entry = |path: &str| {
        let entries = predicate["processes"].as_array().unwrap();
        entries.iter().find(|entry| entry["executable"] == path).unwrap_or_else(|| panic!("no {path}"))
    };
    let networkd = entry("/usr/lib/systemd/systemd-networkd")["identities"].as_array().unwrap();
    let users = networkd.iter().filter(|identity| identity["uid"] != 0).collect::<Vec<_>>();
    assert!(
        !users.is_empty() && users[0]["capabilities"].to_string().contains("cap_net_admin"),
        "{networkd:#?}"
    );
    let listeners = predicate["listeners"].as_array().unwrap();
    assert!(
        listeners.iter().any(|listener| listener["path"] == "/run/dbus/system_bus_socket"),
        "{listeners:#?}"
    );

    // The kernel of the disk, as a look at a VM finds it.
    let release = predicate["guest"]["kernels"][0]["release"].as_str().unwrap();
    assert!(release.starts_with("6.1.") && release.ends_with("-cloud-amd64"), "{release}");
    let modules = predicate["modules"].as_array().unwrap();
    assert!(modules.iter().any(|module| module["name"] == "virtio_net"), "{} modules", modules.len());
}
