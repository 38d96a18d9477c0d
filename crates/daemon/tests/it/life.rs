//! The life of a finding goes on over the end of the daemon and of the VM.

use crate::world::{ENFORCE, Face, MONITOR, Running, Shared, Site, process, snapshot, vm, wait_until};
use facts::{Address, Snapshot};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A VM with one confirmed finding, which is returned, and a daemon that was ended after that.
fn drifted(quarantine: &str) -> (Site, Shared, Value) {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    host.drift("web", "/tmp/evil");
    let running = site.start(&host, quarantine);
    let confirmed = running.wait_for("finding.confirmed", |_| true);
    running.stop();
    (site, host, confirmed["finding"].clone())
}

fn file(site: &Site) -> PathBuf {
    site.path("state/findings/uuid%3Aweb.json")
}

/// The guest of another boot: nothing is where it was, and every pid is another one.
fn rebooted(good: &Snapshot) -> Snapshot {
    let mut other = good.clone();
    other.kernel.page_table_root = Address(0x7000);
    other.kernel.kaslr_offset = Address(0x2a00_0000);
    for process in other.processes.iter_mut().filter(|process| process.pid != 1) {
        process.pid += 1000;
        process.task = Address(process.task.0 + 0x10_0000);
    }
    for socket in other.sockets.list() {
        socket.processes.iter_mut().for_each(|pid| *pid += 1000);
    }
    other
}

/// Waits for the finding to be told as still open once more than `before` times, and that it was never told as new again.
fn still_open(running: &Running, finding: &Value, before: usize) -> Value {
    wait_until("finding.still_open", || running.events("finding.still_open").len() > before);
    let told = running.events("finding.still_open").pop().unwrap();
    assert_eq!(told["finding"]["id"], finding["id"]);
    assert_eq!(running.events("finding.opened").len(), 1);
    assert_eq!(running.events("finding.confirmed").len(), 1);
    assert!(running.events("finding.closed").is_empty());
    told
}

#[test]
fn a_finding_that_is_open_when_the_daemon_ends_is_still_open_and_not_new_when_it_starts() {
    let (site, host, finding) = drifted(MONITOR);
    let running = site.start(&host, MONITOR);
    let told = still_open(&running, &finding, 0);
    let opened = &running.events("finding.opened")[0];
    assert_eq!(told["since"], opened["look"]["taken_at"]);
    assert!(told["finding"]["confirmations"].as_u64() > finding["confirmations"].as_u64());
    let looks = host.looks("web");
    wait_until("more looks", || host.looks("web") > looks + 5);
    still_open(&running, &finding, 0);
    assert_eq!(running.events("finding.still_open").len(), 1, "once a run");
    let (_, findings) = running.client().get("/v1/findings");
    assert_eq!(findings[0]["id"], finding["id"]);
    assert_eq!(findings[0]["state"], "confirmed");
    assert_eq!(findings[0]["since"], opened["look"]["taken_at"]);
}

#[test]
fn a_finding_that_went_while_no_daemon_ran_is_closed_by_the_next_one() {
    let (site, host, finding) = drifted(MONITOR);
    host.conform("web");
    let running = site.start(&host, MONITOR);
    let closed = running.wait_for("finding.closed", |_| true);
    assert_eq!(closed["id"], finding["id"]);
    running.wait_for("vm.verdict", |event| event["verdict"] == "conforms");
    wait_until("its file to go", || !file(&site).exists());
    running.stop();
    // And it is new when it comes again.
    host.drift("web", "/tmp/evil");
    let running = site.start(&host, MONITOR);
    wait_until("a second opening", || running.events("finding.opened").len() == 2);
    assert_eq!(running.events("finding.opened")[1]["finding"]["id"], finding["id"]);
}

#[test]
fn what_waits_for_its_confirmation_when_the_daemon_ends_is_confirmed_by_one_look_of_the_next() {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    host.drift("web", "/tmp/evil");
    let slowly = |site: &Site| site.config_text(MONITOR).replace("1ms", "1h").replace("20ms", "1h");
    let start = || {
        let config = daemon::Config::parse(&slowly(&site), std::path::Path::new("t")).unwrap();
        daemon::Daemon::start(config, Box::new(host.clone()), Box::new(host.clone())).unwrap()
    };
    let events = |kind| crate::world::events(&site.path("findings.jsonl"), kind);
    let daemon = start();
    wait_until("the first look to be kept", || file(&site).exists());
    daemon.stop();
    assert_eq!((events("finding.opened").len(), events("finding.confirmed").len()), (1, 0));
    let daemon = start();
    wait_until("its confirmation", || !events("finding.confirmed").is_empty());
    assert_eq!(events("finding.opened").len(), 1);
    assert_eq!(host.looks("web"), 2);
    // When the first look was, only the wall clock knows, which may have jumped.
    assert!(events("finding.confirmed")[0]["seconds_to_confirm"].is_null());
    daemon.stop();
}

#[test]
fn a_guest_that_reboots_keeps_its_findings_and_their_ids() {
    let (site, host, finding) = drifted(MONITOR);
    let running = site.start(&host, MONITOR);
    still_open(&running, &finding, 0);
    // In the same VMM: the guest shows no kernel for a while, and then another boot's.
    let mut other = snapshot(&vm("web", 1));
    other.processes.push(process(444, "/tmp/evil"));
    let other = rebooted(&other);
    host.show("web", Face::Booting("no kernel yet".into()));
    let looks = host.looks("web");
    wait_until("looks at the firmware", || host.looks("web") > looks + 3);
    host.show("web", Face::Snapshot(Box::new(other.clone())));
    let looks = host.looks("web");
    wait_until("looks at the new kernel", || host.looks("web") > looks + 5);
    still_open(&running, &finding, 0);
    let (_, findings) = running.client().get("/v1/findings");
    assert_eq!(findings.as_array().unwrap().len(), 1, "{findings}");
    assert_eq!(findings[0]["evidence"]["pids"], "1444");

    // As a new process, as after `virsh destroy` and `virsh start`.
    host.lock().vms.remove("web");
    running.wait_for("vm.gone", |_| true);
    host.run(&vm("web", 9), "tap0");
    host.show("web", Face::Snapshot(Box::new(other)));
    let told = still_open(&running, &finding, 1);
    assert_eq!(told["vm"]["pid"], 9);
}

#[test]
fn a_file_that_is_damaged_is_told_and_put_aside_and_the_vm_stays_cut_off() {
    let (site, host, finding) = drifted(ENFORCE);
    assert!(host.is_cut("tap0"));
    let other = fs::read_to_string(file(&site)).unwrap().replace("uuid:web", "uuid:mail");
    for (damage, reason) in [("{\"schema\": \"birth", "EOF"), ("{}", "schema"), (&other, "uuid:mail")] {
        let told = crate::world::events(&site.path("findings.jsonl"), "state.problem").len();
        fs::write(file(&site), damage).unwrap();
        let running = site.start(&host, ENFORCE);
        wait_until("state.problem", || running.events("state.problem").len() > told);
        let problem = running.events("state.problem").pop().unwrap();
        assert_eq!(problem["path"], file(&site).to_str().unwrap());
        assert!(problem["reason"].as_str().unwrap().contains(reason), "{problem}");
        assert_eq!(fs::read_to_string(file(&site).with_extension("damaged")).unwrap(), damage);
        wait_until("the finding anew", || running.events("finding.confirmed").len() > told + 1);
        assert_eq!(running.events("finding.confirmed").pop().unwrap()["finding"]["id"], finding["id"]);
        running.stop();
        assert!(host.is_cut("tap0"));
    }
    assert!(crate::world::events(&site.path("findings.jsonl"), "vm.released").is_empty());
}

#[test]
fn a_certificate_that_is_away_for_a_while_does_not_make_its_findings_new() {
    let (site, host, finding) = drifted(MONITOR);
    let config = daemon::Config::parse(&site.config_text(MONITOR), std::path::Path::new("t")).unwrap();
    let daemon = daemon::Daemon::start(config, Box::new(host.clone()), Box::new(host.clone())).unwrap();
    let events = |kind| crate::world::events(&site.path("findings.jsonl"), kind);
    wait_until("finding.still_open", || !events("finding.still_open").is_empty());
    let (place, away) = (site.path("certificates/web.json"), site.path("web.json"));
    fs::rename(&place, &away).unwrap();
    daemon.reload();
    wait_until("no certificate", || {
        events("vm.verdict").last().is_some_and(|event| event["verdict"] == "uncertified")
    });
    fs::rename(&away, &place).unwrap();
    daemon.reload();
    wait_until("the certificate", || {
        events("vm.verdict").last().is_some_and(|event| event["verdict"] == "drifted")
    });
    let looks = host.looks("web");
    wait_until("more looks", || host.looks("web") > looks + 5);
    daemon.stop();
    assert_eq!((events("finding.opened").len(), events("finding.confirmed").len()), (1, 1));
    assert_eq!(events("finding.confirmed")[0]["finding"]["id"], finding["id"]);
}

#[test]
fn what_does_not_change_is_not_written_again() {
    let (site, host, finding) = drifted(MONITOR);
    // Replaced whole, a file is another one each time.
    let inode = || fs::metadata(file(&site)).unwrap().ino();
    let before = inode();
    let running = site.start(&host, MONITOR);
    still_open(&running, &finding, 0);
    let looks = host.looks("web");
    wait_until("more looks", || host.looks("web") > looks + 10);
    assert_eq!(inode(), before);
}

#[test]
fn a_file_that_cannot_be_written_is_told_once_and_stops_nothing() {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    let running = site.start(&host, ENFORCE);
    running.wait_for("vm.verdict", |_| true);
    // Where the directory was is a file: not even root can write below that.
    fs::remove_dir(site.path("state/findings")).unwrap();
    fs::write(site.path("state/findings"), "").unwrap();
    host.drift("web", "/tmp/evil");
    running.wait_for("vm.quarantined", |_| true);
    let problem = running.wait_for("state.problem", |_| true);
    assert!(problem["reason"].as_str().unwrap().contains("could not be written"), "{problem}");
    let looks = host.looks("web");
    wait_until("more looks", || host.looks("web") > looks + 5);
    assert_eq!(running.events("state.problem").len(), 1);
    // It is tried again at each look.
    fs::remove_file(site.path("state/findings")).unwrap();
    fs::create_dir(site.path("state/findings")).unwrap();
    wait_until("the file", || file(&site).exists());
}

#[test]
fn a_vm_that_is_released_before_the_first_look_is_released_for_the_findings_that_it_had() {
    let (site, host, finding) = drifted(ENFORCE);
    host.show("web", Face::Unreadable("not now".into()));
    let running = site.start(&host, ENFORCE);
    running.wait_for("vm.unreadable", |_| true);
    let (status, event) = running.client().post("/v1/vms/web/release");
    assert_eq!((status, &event["accepted"][0]), (200, &finding["id"]));
    host.drift("web", "/tmp/evil");
    let looks = host.looks("web");
    wait_until("more looks", || host.looks("web") > looks + 5);
    assert!(!host.is_cut("tap0"));
}
