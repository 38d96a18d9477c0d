//! The control socket.

use crate::world::{ENFORCE, MONITOR, Shared, Site, snapshot, vm, wait_until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn web() -> (Site, Shared) {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    (site, host)
}

#[test]
fn status_vms_and_findings_are_told() {
    let (site, host) = web();
    host.drift("web", "/tmp/evil");
    let running = site.start(&host, ENFORCE);
    running.wait_for("vm.quarantined", |_| true);
    let (code, status) = running.client().get("/v1/status");
    assert_eq!(code, 200);
    assert_eq!(status["mode"], "enforce");
    assert_eq!(status["vms"], 1);
    assert_eq!(status["certificates"][0]["service"], "web");
    assert_eq!(status["quarantines"][0]["vm_name"], "web");
    assert_eq!(status["quarantines"][0]["state"], "applied");
    let (_, vms) = running.client().get("/v1/vms");
    assert_eq!(vms[0]["name"], "web");
    assert_eq!(vms[0]["verdict"], "drifted");
    assert_eq!(vms[0]["kernel"], "6.1.0-test");
    assert_eq!(vms[0]["elapsed_us"], 42);
    let device = &vms[0]["quarantine"]["devices"][0];
    assert_eq!(device["interface"], "tap0");
    assert_eq!(device["rules"]["state"], "cut");
    assert_eq!(device["rules"]["from_packets"], 3);
    let (_, findings) = running.client().get("/v1/findings");
    let unknown = findings.as_array().unwrap().iter().find(|one| one["rule"] == "process.unknown").unwrap();
    assert_eq!((&unknown["state"], &unknown["accepted"]), (&"confirmed".into(), &false.into()));
    assert_eq!(unknown["vm"]["name"], "web");
}

#[test]
fn a_finding_that_only_one_of_several_siblings_has_stands_out() {
    let (site, host) = (Site::new(), Shared::default());
    site.certify_all("web*", "web", &snapshot(&vm("web", 1)), "web.json");
    for (index, name) in ["web", "web-2", "web-3"].into_iter().enumerate() {
        host.run(&vm(name, 1 + u32::try_from(index).unwrap()), &format!("tap{index}"));
    }
    host.drift("web", "/opt/update");
    host.drift("web-2", "/opt/update");
    host.drift("web-3", "/tmp/evil");
    let running = site.start(&host, MONITOR);
    let seen = || -> Vec<(String, u64, u64)> {
        let (_, findings) = running.client().get("/v1/findings");
        let unknown = findings.as_array().unwrap().iter().filter(|one| one["rule"] == "process.unknown");
        let row = |one: &serde_json::Value| {
            let siblings = &one["siblings"];
            let number = |name: &str| siblings[name].as_u64().unwrap();
            (one["vm"]["name"].as_str().unwrap().to_owned(), number("sharing"), number("watched"))
        };
        unknown.map(row).collect()
    };
    let wanted = [("web".to_owned(), 2, 3), ("web-2".to_owned(), 2, 3), ("web-3".to_owned(), 1, 3)].to_vec();
    wait_until("three findings", || seen() == wanted);
}

#[test]
fn a_released_vm_is_not_cut_off_again_for_the_same_findings_until_they_close() {
    let (site, host) = web();
    host.drift("web", "/tmp/evil");
    let running = site.start(&host, ENFORCE);
    running.wait_for("vm.quarantined", |_| true);
    let (code, released) = running.client().post("/v1/vms/web/release");
    assert_eq!((code, &released["event"]), (200, &"vm.released".into()), "{released}");
    assert!(!released["accepted"].as_array().unwrap().is_empty());
    assert!(!host.is_cut("tap0"));
    let looks = host.looks("web");
    wait_until("more looks", || host.looks("web") >= looks + 5);
    assert!(!host.is_cut("tap0"), "cut off again for what was accepted");
    assert_eq!(running.client().get("/v1/findings").1[0]["accepted"], true);

    // Not after a restart either.
    running.stop();
    let running = site.start(&host, ENFORCE);
    running.wait_for("finding.confirmed", |_| true);
    let looks = host.looks("web");
    wait_until("more looks", || host.looks("web") >= looks + 5);
    assert!(!host.is_cut("tap0"), "a restart forgot what was accepted");

    // When the finding closes and comes back, it is a new one.
    host.conform("web");
    running.wait_for("finding.closed", |_| true);
    host.drift("web", "/tmp/evil");
    wait_until("the second quarantine", || host.is_cut("tap0"));
}

#[test]
fn another_finding_cuts_a_released_vm_off_again() {
    let (site, host) = web();
    host.drift("web", "/tmp/evil");
    let running = site.start(&host, ENFORCE);
    running.wait_for("vm.quarantined", |_| true);
    running.client().post("/v1/vms/web/release");
    host.drift("web", "/tmp/worse");
    wait_until("the second quarantine", || host.is_cut("tap0"));
}

#[test]
fn an_operator_cuts_off_and_restores_by_name_or_id() {
    let (site, host) = web();
    let running = site.start(&host, MONITOR);
    running.wait_for("vm.verdict", |_| true);
    let (code, done) = running.client().post("/v1/vms/web/quarantine");
    assert_eq!((code, &done["event"], &done["cause"]), (200, &"vm.quarantined".into(), &"operator".into()));
    assert!(host.is_cut("tap0"));
    running.wait_for("vm.quarantined", |event| event["cause"] == "operator");
    assert_eq!(running.client().post("/v1/vms/uuid%3Aweb/release").0, 200);
    assert!(!host.is_cut("tap0"));
    running.wait_for("vm.released", |_| true);
}

#[test]
fn a_vm_that_ended_can_still_be_released() {
    let (site, host) = web();
    let running = site.start(&host, MONITOR);
    running.wait_for("vm.verdict", |_| true);
    running.client().post("/v1/vms/web/quarantine");
    host.lock().vms.clear();
    running.wait_for("vm.gone", |_| true);
    assert_eq!(running.client().post("/v1/vms/web/release").0, 200);
    assert!(!host.is_cut("tap0"));
}

#[test]
fn what_cannot_be_done_is_told_with_the_reason() {
    let (site, host) = web();
    host.run(&vm("island", 2), "x");
    host.lock().nics.insert("island".into(), vec![]);
    let mut twin = vm("web", 3);
    twin.id = "uuid:twin".into();
    host.lock().vms.insert("twin".into(), (twin, crate::world::Face::Ends));
    let running = site.start(&host, MONITOR);
    running.wait_for("vm.appeared", |event| event["vm"]["id"] == "uuid:twin");
    for (path, code, words) in [
        ("/v1/vms/nobody/quarantine", 404, "No VM \"nobody\""),
        ("/v1/vms/nobody/release", 404, "not in quarantine"),
        ("/v1/vms/web/quarantine", 409, "2 VMs are named"),
        ("/v1/vms/island/quarantine", 409, "no network device"),
        ("/v1/nothing", 404, "no such request"),
    ] {
        let (status, answer) = running.client().post(path);
        assert_eq!(status, code, "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{path}: {answer}");
    }
    running.stop();
    let running = site.start(&host, "");
    running.wait_for("vm.appeared", |_| true);
    wait_until("the VMs", || running.client().get("/v1/vms").1.as_array().unwrap().len() == 3);
    let (status, answer) = running.client().post("/v1/vms/uuid:web/quarantine");
    assert_eq!(status, 409);
    assert!(answer["error"].as_str().unwrap().contains("not enabled"), "{answer}");
}

#[test]
fn the_socket_and_its_directory_are_closed_to_others() {
    let (site, host) = web();
    let running = site.start(&host, MONITOR);
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(running.socket.parent().unwrap()), 0o750);
    assert_eq!(mode(&running.socket), 0o660);
    let socket = running.socket.clone();
    running.stop();
    assert!(!socket.exists());
}

#[test]
fn another_user_may_read_but_not_change() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var("BIRTHMARK_TESTS").as_deref() != Ok("all"), "cannot run: not root");
        eprintln!("skipped: not root");
        return;
    }
    let (site, host) = web();
    let running = site.start(&host, MONITOR);
    running.wait_for("vm.verdict", |_| true);
    for path in [site.dir.path(), running.socket.parent().unwrap(), &running.socket] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let as_nobody = |method: &str, path: &str| {
        let output = Command::new("setpriv")
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "perl",
                "-MIO::Socket::UNIX",
                "-e",
                ASK,
            ])
            .args([running.socket.as_os_str(), method.as_ref(), path.as_ref()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(as_nobody("GET", "/v1/status").starts_with("HTTP/1.1 200"));
    let answer = as_nobody("POST", "/v1/vms/web/quarantine");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("Only root"), "{answer}");
    assert!(as_nobody("POST", "/v1/vms/web/release").starts_with("HTTP/1.1 403"));
    assert!(!host.is_cut("tap0"));
}

/// One request from another process, since a user id belongs to a process. Perl is part of every Debian.
const ASK: &str = r#"
    my $socket = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect: $!";
    print $socket "$ARGV[1] $ARGV[2] HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    print while <$socket>;
"#;
