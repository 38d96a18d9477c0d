//! From a look to a quarantine, on a host that is not there.

use crate::world::{ENFORCE, Face, MONITOR, Shared, Site, process, snapshot, vm, wait_until};
use std::time::Duration;

fn web() -> (Site, Shared) {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    (site, host)
}

#[test]
fn a_conforming_vm_is_looked_at_and_left_alone() {
    let (site, host) = web();
    let running = site.start(&host, ENFORCE);
    let verdict = running.wait_for("vm.verdict", |_| true);
    assert_eq!(verdict["verdict"], "conforms");
    assert_eq!(verdict["look"]["elapsed_us"], 42);
    wait_until("five looks", || host.looks("web") >= 5);
    assert!(!host.is_cut("tap0"));
    assert!(running.events("finding.opened").is_empty());
    assert_eq!(running.wait_for("vm.appeared", |_| true)["service"], "web");
}

#[test]
fn drift_is_confirmed_by_a_second_look_and_cut_off() {
    let (site, host) = web();
    let running = site.start(&host, ENFORCE);
    running.wait_for("vm.verdict", |event| event["verdict"] == "conforms");
    host.drift("web", "/tmp/evil");
    let cut = running.wait_for("vm.quarantined", |_| true);
    assert!(host.is_cut("tap0"));
    assert_eq!(host.lock().cut["tap0"].management()[0].to_string(), "10.0.0.0/29");
    let confirmed =
        running.wait_for("finding.confirmed", |event| event["finding"]["rule"] == "process.unknown");
    assert_eq!(confirmed["finding"]["confirmations"], 2);
    assert!(confirmed["seconds_to_confirm"].as_f64().unwrap() > 0.0);
    assert_eq!(cut["cause"], "findings");
    assert_eq!(cut["devices"][0], "tap0");
    assert!(cut["findings"].as_array().unwrap().contains(&confirmed["finding"]["id"]));
    assert!(cut["seconds_to_rule"].as_f64().unwrap() >= 0.001, "a confirmation takes a second look");
    assert!(cut["seconds_to_apply"].as_f64().unwrap() > 0.0);
    running.wait_for("vm.verdict", |event| event["verdict"] == "drifted");

    // It is cut off once, and stays so when the finding closes.
    host.conform("web");
    running.wait_for("finding.closed", |event| event["rule"] == "process.unknown");
    running.wait_for("vm.verdict", |event| {
        event["verdict"] == "conforms" && event["time"].as_str() > cut["time"].as_str()
    });
    assert!(host.is_cut("tap0"));
    assert_eq!(running.events("vm.quarantined").len(), 1);
}

#[test]
fn the_confirming_look_does_not_wait_for_the_interval() {
    let (site, host) = web();
    let running = site.start(&host, &ENFORCE.replace("[quarantine]", "only = []\n[quarantine]"));
    running.wait_for("vm.verdict", |_| true);
    running.stop();
    let text = site.config_text(ENFORCE).replace("\"20ms\"", "\"1h\"");
    let config = daemon::Config::parse(&text, std::path::Path::new("t")).unwrap();
    host.drift("web", "/tmp/evil");
    let daemon = daemon::Daemon::start(config, Box::new(host.clone()), Box::new(host.clone())).unwrap();
    wait_until("the quarantine, long before the interval is over", || host.is_cut("tap0"));
    daemon.stop();
}

#[test]
fn what_one_look_sees_and_the_next_does_not_is_dismissed() {
    let (site, host) = web();
    let good = snapshot(&vm("web", 1));
    let mut race = good.clone();
    race.processes.push(process(777, "/bin/short-lived"));
    host.show("web", Face::Flicker(vec![race, good]));
    let running = site.start(&host, ENFORCE);
    wait_until("many looks", || host.looks("web") >= 20);
    running.wait_for("finding.dismissed", |event| event["rule"] == "process.unknown");
    assert!(running.events("finding.confirmed").is_empty());
    assert!(!host.is_cut("tap0"));
}

#[test]
fn a_guest_that_makes_up_findings_cannot_make_the_daemon_look_all_the_time() {
    let (site, host) = web();
    let good = snapshot(&vm("web", 1));
    let new_each_time = (0..500).map(|number| {
        let mut one = good.clone();
        one.processes.push(process(1000 + number, &format!("/tmp/{number}")));
        one
    });
    host.show("web", Face::Flicker(new_each_time.collect()));
    let text = site.config_text(MONITOR).replace("\"20ms\"", "\"1h\"");
    let config = daemon::Config::parse(&text, std::path::Path::new("t")).unwrap();
    let daemon = daemon::Daemon::start(config, Box::new(host.clone()), Box::new(host.clone())).unwrap();
    wait_until("the second look", || host.looks("web") >= 2);
    // Nothing can be waited for that must not happen; ten confirmation delays are long enough to see it.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(host.looks("web"), 2);
    daemon.stop();
}

#[test]
fn monitor_mode_and_a_disabled_quarantine_only_tell() {
    for mode in [MONITOR, "", "[quarantine]\nmode = \"enforce\"\n"] {
        let (site, host) = web();
        host.drift("web", "/tmp/evil");
        let running = site.start(&host, mode);
        running.wait_for("finding.confirmed", |_| true);
        let looks = host.looks("web");
        wait_until("two more looks", || host.looks("web") >= looks + 2);
        assert!(!host.is_cut("tap0"), "{mode:?}");
    }
}

#[test]
fn an_unreadable_vm_is_told_once_and_the_others_go_on() {
    let (site, host) = web();
    host.run(&vm("mail", 2), "tap1");
    site.certify("mail", 1, &snapshot(&vm("mail", 2)), "mail.json");
    host.show("mail", Face::Unreadable("It is encrypted".into()));
    let running = site.start(&host, ENFORCE);
    let event = running.wait_for("vm.unreadable", |_| true);
    assert_eq!(event["reason"], "It is encrypted");
    running.wait_for("vm.verdict", |event| event["verdict"] == "unreadable" && event["vm"]["name"] == "mail");
    wait_until("more looks at both", || host.looks("web") >= 5 && host.looks("mail") >= 5);
    assert_eq!(running.events("vm.unreadable").len(), 1);
    assert!(!host.is_cut("tap1"));
    host.conform("mail");
    running.wait_for("vm.verdict", |event| event["verdict"] == "conforms" && event["vm"]["name"] == "mail");
}

#[test]
fn a_vm_that_boots_is_no_alarm_until_it_was_once_looked_at() {
    let (site, host) = web();
    host.show("web", Face::Booting("no kernel yet".into()));
    let running = site.start(&host, ENFORCE);
    let event = running.wait_for("vm.booting", |_| true);
    assert_eq!(event["reason"], "no kernel yet");
    wait_until("more looks", || host.looks("web") >= 4);
    assert_eq!(running.events("vm.booting").len(), 1);
    assert!(running.events("vm.verdict").is_empty());
    host.conform("web");
    running.wait_for("vm.verdict", |event| event["verdict"] == "conforms");
    host.show("web", Face::Booting("no kernel any more".into()));
    running.wait_for("vm.unreadable", |event| event["reason"] == "no kernel any more");
    running.wait_for("vm.verdict", |event| event["verdict"] == "unreadable");
}

#[test]
fn a_vm_that_ends_in_the_middle_of_a_look_is_gone_and_the_daemon_goes_on() {
    let (site, host) = web();
    host.run(&vm("mail", 2), "tap1");
    let running = site.start(&host, ENFORCE);
    running.wait_for("vm.appeared", |event| event["vm"]["name"] == "web");
    host.show("web", Face::Ends);
    let looks = host.looks("web");
    wait_until("a look at a VM that ended", || host.looks("web") > looks);
    host.lock().vms.remove("web");
    assert_eq!(running.wait_for("vm.gone", |_| true)["vm"]["name"], "web");
    // It comes back as another process.
    host.run(&vm("web", 9), "tap0");
    running.wait_for("vm.appeared", |event| event["vm"]["pid"] == 9);
    running.wait_for("vm.verdict", |event| event["vm"]["pid"] == 9 && event["verdict"] == "conforms");
}

#[test]
fn a_vm_without_certificate_is_uncertified_and_not_looked_at() {
    let (site, host) = web();
    host.run(&vm("stranger", 2), "tap1");
    let running = site.start(&host, ENFORCE);
    let verdict = running.wait_for("vm.verdict", |event| event["vm"]["name"] == "stranger");
    assert_eq!(verdict["verdict"], "uncertified");
    assert_eq!(host.looks("stranger"), 0);
}

#[test]
fn only_the_named_vms_are_watched() {
    let (site, host) = web();
    host.run(&vm("stranger", 2), "tap1");
    let running = site.start(&host, &format!("only = [\"we*\"]\n{ENFORCE}"));
    running.wait_for("vm.verdict", |event| event["vm"]["name"] == "web");
    assert!(running.events("vm.appeared").iter().all(|event| event["vm"]["name"] == "web"));
}

#[test]
fn a_quarantine_that_fails_is_told_once_and_tried_again() {
    let (site, host) = web();
    host.lock().refuse = true;
    host.drift("web", "/tmp/evil");
    let running = site.start(&host, ENFORCE);
    let failed = running.wait_for("quarantine.failed", |_| true);
    assert!(failed["reason"].as_str().unwrap().contains("nftables"), "{failed}");
    let looks = host.looks("web");
    wait_until("more looks", || host.looks("web") >= looks + 5);
    assert_eq!(running.events("quarantine.failed").len(), 1);
    host.lock().refuse = false;
    wait_until("the next try", || host.is_cut("tap0"));
}

#[test]
fn quarantines_stay_when_the_daemon_ends_and_come_back_when_it_starts() {
    let (site, host) = web();
    host.drift("web", "/tmp/evil");
    let running = site.start(&host, ENFORCE);
    running.wait_for("vm.quarantined", |_| true);
    running.stop();
    assert!(host.is_cut("tap0"));
    assert_eq!(crate::world::events(&site.path("findings.jsonl"), "daemon.stopped").len(), 1);

    // While no daemon runs, the rules are lost and the VM restarts with another device.
    host.lock().cut.clear();
    host.run(&vm("web", 2), "tap5");
    let running = site.start(&host, MONITOR);
    wait_until("the new device to be cut off", || host.is_cut("tap5"));
    running.wait_for("vm.quarantined", |event| event["cause"] == "journal" && event["devices"][0] == "tap5");
    wait_until("the old device to be restored", || !host.is_cut("tap0"));
}

#[test]
fn rules_that_somebody_removes_are_put_back() {
    let (site, host) = web();
    host.drift("web", "/tmp/evil");
    let running = site.start(&host, ENFORCE);
    running.wait_for("vm.quarantined", |_| true);
    host.lock().cut.clear();
    running.wait_for("quarantine.restored", |event| event["vm"]["name"] == "web");
    assert!(host.is_cut("tap0"));
}

#[test]
fn what_came_and_went_between_two_looks_is_counted() {
    let (site, host) = web();
    // At each look five more tasks were made since the one before, and one of them is there.
    let looks = (0..2000_u32).map(|number| {
        let mut one = snapshot(&vm("web", 1));
        one.taken_at = format!("2026-11-24T00:00:00.{number:06}Z");
        one.activity.forks = Some(100 + 5 * u64::from(number));
        one.processes.push(process(1000 + number, "/tmp/evil"));
        one
    });
    host.show("web", Face::Flicker(looks.collect()));
    let running = site.start(&host, MONITOR);
    let confirmed = running.wait_for("finding.confirmed", |_| true);
    let look = &confirmed["look"];
    assert_eq!(look["turnover"]["created"], 5);
    assert_eq!(look["turnover"]["unseen"], 4);
    assert!(look["turnover"]["since"].as_str() < look["taken_at"].as_str());
    let opened = running.wait_for("finding.opened", |_| true);
    assert_eq!(opened["look"]["turnover"], serde_json::Value::Null, "there was no look before the first");

    let vms = || running.client().get("/v1/vms").1[0].clone();
    let looks = |vm: &serde_json::Value| vm["looks"].as_u64().unwrap();
    wait_until("ten looks", || looks(&vms()) >= 10);
    let vm = vms();
    assert_eq!(vm["turnover"]["unseen"], 4);
    assert_eq!(vm["unseen"].as_u64().unwrap(), 4 * (looks(&vm) - 1));
}
