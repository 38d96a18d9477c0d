//! Learning mode: a draft comes out, and nothing is done to the VM meanwhile.

use crate::world::{ENFORCE, Face, Running, Shared, Site, process, snapshot, vm, wait_until};
use attest::{Draft, Pattern};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const LEARN: &str = "[[learn]]\nservice = \"web\"\nvms = [\"web*\"]\n";

fn learn() -> String {
    format!("{ENFORCE}{LEARN}")
}

/// The drafts of all runs, the oldest first.
fn drafts(site: &Site) -> Vec<PathBuf> {
    let entries = fs::read_dir(site.path("state/drafts")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut drafts: Vec<PathBuf> = paths.filter(|path| path.extension().unwrap() == "draft").collect();
    drafts.sort();
    drafts
}

fn read(path: &PathBuf) -> Draft {
    Draft::parse(&fs::read(path).unwrap()).unwrap()
}

fn status(running: &Running, name: &str) -> Value {
    let (_, vms) = running.client().get("/v1/vms");
    vms.as_array().unwrap().iter().find(|vm| vm["name"] == name).cloned().unwrap_or_default()
}

#[test]
fn a_vm_that_is_learned_is_not_acted_on_and_conforms_to_its_draft_once_that_is_signed() {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    // Drift, by the certificate that there is, and worth a quarantine.
    host.drift("web", "/opt/new");
    let running = site.start(&host, &learn());
    let told = running.wait_for("learning.draft", |_| true);
    wait_until("many looks", || host.looks("web") > 10);
    let vm_status = status(&running, "web");
    assert_eq!((&vm_status["verdict"], &vm_status["certificate"]), (&"uncertified".into(), &Value::Null));
    assert_eq!(vm_status["learning"]["service"], "web");
    assert_eq!(vm_status["learning"]["draft"], told["path"]);
    running.stop();
    assert!(!host.is_cut("tap0"));
    let events = |kind| crate::world::events(&site.path("findings.jsonl"), kind);
    assert!(events("finding.opened").is_empty());
    assert_eq!(events("learning.draft").len(), 1);

    let [path] = <[PathBuf; 1]>::try_from(drafts(&site)).unwrap();
    assert_eq!(told["path"], path.to_str().unwrap());
    let draft = read(&path);
    let page = fs::read_to_string(told["review_page"].as_str().unwrap()).unwrap();
    assert_eq!(page, attest::review(&draft), "the page is about the draft beside it");
    let certificate = &draft.statement.predicate;
    assert_eq!((certificate.service.as_str(), certificate.serial), ("web", 2));
    assert_eq!(certificate.selector.names, [Pattern::parse("web*").unwrap()]);
    let looks = host.looks("web");
    assert!(draft.about[0].contains(&format!("{looks} looks")), "the last look is in it: {:?}", draft.about);

    fs::write(site.path("certificates/next.json"), draft.statement.sign(&site.key).unwrap()).unwrap();
    let running = site.start(&host, ENFORCE);
    let verdict = running.wait_for("vm.verdict", |event| event["verdict"] != "uncertified");
    assert_eq!(verdict["verdict"], "conforms");
}

#[test]
fn siblings_teach_one_draft_and_other_vms_are_held_against_theirs() {
    let (site, host) = (Site::new(), Shared::default());
    let mail = vm("mail", 7);
    site.certify("mail", 1, &snapshot(&mail), "mail.json");
    for (name, pid, device) in [("web-1", 1, "tap0"), ("web-2", 2, "tap1"), ("mail", 7, "tap2")] {
        host.run(&vm(name, pid), device);
    }
    host.drift("web-2", "/opt/only-here");
    host.drift("mail", "/tmp/evil");
    let running = site.start(&host, &learn());
    running.wait_for("vm.quarantined", |event| event["vm"]["name"] == "mail");
    wait_until("looks at both", || host.looks("web-1") > 3 && host.looks("web-2") > 3);
    running.stop();
    assert!(!host.is_cut("tap0") && !host.is_cut("tap1"));
    let [path] = <[PathBuf; 1]>::try_from(drafts(&site)).unwrap();
    let draft = read(&path);
    let of = |exe: &str| {
        let literal = Pattern::literal(exe);
        let mut entries = draft.statement.predicate.processes.iter();
        let index = entries.position(|entry| entry.executable.as_ref() == Some(&literal)).unwrap();
        draft.notes.iter().find(|note| note.path == format!("/processes/{index}")).unwrap()
    };
    assert_eq!(of("/usr/sbin/sshd").vms, Some(2));
    assert_eq!(of("/opt/only-here").vms, Some(1));
    assert!(of("/opt/only-here").review.iter().any(|what| what.contains("one of 2 VMs only")));
}

#[test]
fn a_look_in_which_something_is_hidden_or_unknown_teaches_nothing() {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    let mut hidden = snapshot(&vm("web", 1));
    hidden.views.processes = vec!["task_list".into(), "pid_table".into()];
    let mut unknown = snapshot(&vm("web", 1));
    unknown.processes.push(facts::Process { uid: None, ..process(77, "/usr/bin/sudo") });
    for (face, words) in [(hidden, "hidden"), (unknown, "uid")] {
        host.show("web", Face::Snapshot(Box::new(face)));
        let running = site.start(&host, &learn());
        let looks = host.looks("web");
        wait_until("looks", || host.looks("web") > looks + 3);
        let vm_status = status(&running, "web");
        assert!(vm_status["problem"].as_str().unwrap().contains(words), "{vm_status}");
        assert_eq!(vm_status["learning"]["looks"], 0);
        running.stop();
        assert!(drafts(&site).is_empty());
    }
}

/// Runs the daemon for a few looks.
fn observe(site: &Site, host: &Shared, config: &str) {
    let running = site.start(host, config);
    let looks = host.looks("web");
    wait_until("looks", || host.looks("web") > looks + 3);
    running.stop();
}

#[test]
fn learning_goes_on_over_a_restart_of_the_daemon() {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    host.drift("web", "/opt/only-in-the-first-run");
    observe(&site, &host, &learn());
    let first = host.looks("web");
    host.conform("web");
    observe(&site, &host, &learn());
    let looks = host.looks("web");
    assert!(looks > first);
    let [path] = <[PathBuf; 1]>::try_from(drafts(&site)).unwrap();
    let draft = read(&path);
    assert!(draft.about[0].contains(&format!("{looks} looks")), "{:?} and not {looks}", draft.about);
    let literal = Pattern::literal("/opt/only-in-the-first-run");
    let processes = &draft.statement.predicate.processes;
    assert!(processes.iter().any(|entry| entry.executable.as_ref() == Some(&literal)));
    assert_eq!(crate::world::events(&site.path("findings.jsonl"), "learning.draft").len(), 2);

    // Who takes the block out has ended the observation: the next one is another.
    site.start(&host, ENFORCE).stop();
    assert!(fs::read_dir(site.path("state/learning")).unwrap().next().is_none());
    let before = host.looks("web");
    observe(&site, &host, &learn());
    let [_, second] = <[PathBuf; 2]>::try_from(drafts(&site)).unwrap();
    assert!(read(&second).about[0].contains(&format!("{} looks", host.looks("web") - before)));
}

#[test]
fn what_was_learned_and_cannot_be_understood_is_told_and_put_aside_and_learning_starts_anew() {
    let with_flows = format!("{}flows = true\n", learn());
    type Damage = fn(&str) -> String;
    let cases: [(&str, Damage, &str); 5] = [
        ("no JSON", |text| text[..text.len() / 2].to_owned(), "EOF"),
        ("another version", |text| text.replace("learning/v1", "learning/v2"), "schema"),
        ("another service", |text| text.replace("\"service\": \"web\"", "\"service\": \"mail\""), "mail"),
        ("a count of another kind", |text| text.replacen("\"looks\": ", "\"looks\": -", 1), "invalid value"),
        ("other settings", str::to_owned, "flows"),
    ];
    for (case, damage, words) in cases {
        let (site, host) = (Site::new(), Shared::default());
        host.run(&vm("web", 1), "tap0");
        observe(&site, &host, &learn());
        let before = host.looks("web");
        let file = site.path("state/learning/web.json");
        let damaged = damage(&fs::read_to_string(&file).unwrap());
        fs::write(&file, &damaged).unwrap();
        let config = if case == "other settings" { with_flows.clone() } else { learn() };
        observe(&site, &host, &config);
        let problems = crate::world::events(&site.path("findings.jsonl"), "learning.problem");
        let [problem] = problems.as_slice() else { panic!("{case}: {problems:?}") };
        let reason = problem["reason"].as_str().unwrap();
        assert!(reason.contains(words) && reason.contains("starts anew"), "{case}: {reason}");
        assert_eq!(problem["path"], file.to_str().unwrap());
        assert_eq!(fs::read_to_string(file.with_extension("aside")).unwrap(), damaged);
        // The draft of before is still there, and the new one is of what was seen since.
        let [old, new] = <[PathBuf; 2]>::try_from(drafts(&site)).unwrap();
        assert!(read(&old).about[0].contains(&format!("{before} looks")), "{case}");
        assert!(read(&new).about[0].contains(&format!("{} looks", host.looks("web") - before)), "{case}");
    }
}

#[test]
fn what_cannot_be_kept_is_told_once_and_the_draft_is_written_all_the_same() {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    fs::create_dir_all(site.path("state")).unwrap();
    host.show("web", Face::Booting("not yet".into()));
    let running = site.start(&host, &learn());
    running.wait_for("vm.booting", |_| true);
    fs::remove_dir(site.path("state/learning")).unwrap();
    host.conform("web");
    running.wait_for("learning.draft", |_| true);
    let problem = running.wait_for("learning.problem", |_| true);
    assert!(problem["reason"].as_str().unwrap().contains("begin anew"), "{problem}");
    let looks = host.looks("web");
    wait_until("more looks", || host.looks("web") > looks + 3);
    assert_eq!(running.events("learning.problem").len(), 1);
    fs::create_dir(site.path("state/learning")).unwrap();
    running.stop();
    assert!(site.path("state/learning/web.json").exists());
    assert_eq!(drafts(&site).len(), 1);
}

#[test]
fn a_draft_that_cannot_be_written_is_told_once_and_tried_again() {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    fs::create_dir_all(site.path("state")).unwrap();
    host.show("web", Face::Booting("not yet".into()));
    let running = site.start(&host, &learn());
    running.wait_for("vm.booting", |_| true);
    fs::remove_dir(site.path("state/drafts")).unwrap();
    host.conform("web");
    let problem = running.wait_for("learning.problem", |_| true);
    assert!(problem["reason"].as_str().unwrap().contains("could not be written"), "{problem}");
    let looks = host.looks("web");
    wait_until("more looks", || host.looks("web") > looks + 3);
    assert_eq!(running.events("learning.problem").len(), 1);
    fs::create_dir(site.path("state/drafts")).unwrap();
    running.wait_for("learning.draft", |_| true);
}

#[test]
fn a_vm_that_was_cut_off_before_stays_so_while_it_is_learned_and_an_operator_may_still_act() {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    host.drift("web", "/tmp/evil");
    let running = site.start(&host, ENFORCE);
    running.wait_for("vm.quarantined", |_| true);
    running.stop();
    let running = site.start(&host, &learn());
    running.wait_for("learning.draft", |_| true);
    assert!(host.is_cut("tap0"));
    assert_eq!(running.client().post("/v1/vms/web/release").0, 200);
    let looks = host.looks("web");
    wait_until("more looks", || host.looks("web") > looks + 3);
    assert!(!host.is_cut("tap0"));
}
