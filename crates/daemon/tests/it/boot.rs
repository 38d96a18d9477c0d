//! A VM that is reset keeps its memory, and one that comes up is not yet what it will be: neither is drift.

use crate::world::{ENFORCE, Face, Shared, Site, process, snapshot, vm, wait_until};
use daemon::{Boots, Outcome, Watch};
use facts::{Address, Process, Snapshot};
use std::time::{Duration, Instant};

const GRACE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// One VM that is looked at, by a clock of its own.
struct Watched {
    certificate: attest::Certificate,
    watch: Watch,
    boots: Boots,
    now: Instant,
    /// What init has used of the CPU.
    cpu: u64,
}

impl Watched {
    fn new() -> Self {
        let site = Site::new();
        site.certify("web", 1, &snapshot(&vm("web", 1)), "web.json");
        let bytes = std::fs::read(site.path("certificates/web.json")).unwrap();
        let now = jiff::Timestamp::now();
        let verified = attest::verify(&bytes, &[site.key.public()], now, &attest::VerifyOptions::default());
        let mut watched = Self {
            certificate: verified.unwrap().certificate().clone(),
            watch: Watch::default(),
            boots: Boots::default(),
            now: Instant::now(),
            cpu: 5_000_000,
        };
        assert!(watched.look(|_| ()).confirmed.is_empty());
        watched
    }

    /// A look, a moment after the last one, at the good guest with a change.
    fn look(&mut self, change: impl FnOnce(&mut Snapshot)) -> Outcome {
        self.now += LOOK;
        let vm = vm("web", 1);
        let mut seen = snapshot(&vm);
        for process in &mut seen.processes {
            process.cpu_time_ns = Some(self.cpu);
        }
        change(&mut seen);
        let belief = self.boots.take(&seen, self.now, GRACE);
        self.watch.take(&vm, &seen, &self.certificate, 2, &belief, self.now, self.now)
    }
}

fn evil(snapshot: &mut Snapshot) {
    snapshot.processes.push(Process { cpu_time_ns: Some(1_000_000), ..process(666, "/tmp/evil") });
}

fn rules(outcome: &Outcome) -> Vec<&str> {
    outcome.confirmed.iter().map(|finding| finding.rule.as_str()).collect()
}

#[test]
fn what_is_seen_where_nothing_runs_is_confirmed_when_something_has_run() {
    let mut web = Watched::new();
    for _ in 0..100 {
        let outcome = web.look(evil);
        assert!(outcome.confirmed.is_empty() && outcome.grounds.is_empty());
        assert_eq!(outcome.pending.len(), 1);
        assert!(outcome.events.is_empty(), "it is not even told yet: {:?}", outcome.events);
    }
    web.cpu += 100_000;
    assert_eq!(rules(&web.look(evil)), ["process.unknown"]);
}

#[test]
fn in_a_guest_in_which_something_runs_two_looks_are_enough() {
    let mut web = Watched::new();
    web.cpu += 1;
    let first = web.look(evil);
    assert_eq!((first.confirmed.len(), first.pending.len(), first.events.len()), (0, 1, 1));
    web.cpu += 1;
    assert_eq!(rules(&web.look(evil)), ["process.unknown"]);
}

#[test]
fn a_process_that_was_seen_to_be_born_has_run() {
    let mut web = Watched::new();
    let born = |seen: &mut Snapshot| {
        evil(seen);
        seen.processes.last_mut().unwrap().start_time_ns = Some(1000);
    };
    web.look(born);
    let outcome = web.look(born);
    assert_eq!(rules(&outcome), ["process.unknown"], "though the guest is idle again");
    // One among them that was not makes all of them doubtful.
    let mut web = Watched::new();
    let both = |seen: &mut Snapshot| {
        born(seen);
        seen.processes.push(Process {
            cpu_time_ns: Some(1),
            start_time_ns: Some(u64::MAX),
            ..process(667, "/tmp/evil")
        });
    };
    web.look(both);
    assert!(web.look(both).confirmed.is_empty());
}

#[test]
fn nobody_hides_for_long_by_standing_still_or_by_writing_nonsense_for_the_time_that_was_used() {
    let mut web = Watched::new();
    let started = web.now;
    while web.now - started < Duration::from_secs(29) {
        web.now += Duration::from_secs(1);
        // A number that no process can have used in a second is no sign of life, and neither is one that goes back.
        let nonsense = web.look(|seen| {
            evil(seen);
            seen.processes[0].cpu_time_ns = Some(u64::MAX / 2);
        });
        assert!(nonsense.confirmed.is_empty());
        assert!(web.look(evil).confirmed.is_empty());
    }
    web.now += Duration::from_secs(3);
    assert_eq!(rules(&web.look(evil)), ["process.unknown"]);
}

#[test]
fn where_no_cpu_time_is_known_nothing_is_doubted() {
    let mut web = Watched::new();
    let blind = |seen: &mut Snapshot| {
        evil(seen);
        seen.processes.iter_mut().for_each(|process| process.cpu_time_ns = None);
    };
    web.look(blind);
    assert_eq!(rules(&web.look(blind)), ["process.unknown"]);
}

#[test]
fn a_boot_has_its_grace_in_which_nothing_is_confirmed_and_nothing_closed_but_another_kernel_is_told_at_once()
{
    let mut web = Watched::new();
    let look = |web: &mut Watched, change: &dyn Fn(&mut Snapshot)| {
        web.cpu += 1;
        web.look(|seen| change(seen))
    };
    look(&mut web, &evil);
    assert_eq!(rules(&look(&mut web, &evil)), ["process.unknown"]);
    // It boots again: at another place, and with a program of its initramfs.
    let booted = |seen: &mut Snapshot| {
        seen.kernel.page_table_root = Address(0x7000);
        seen.kernel.kaslr_offset = Address(0x20_0000);
    };
    let early = |seen: &mut Snapshot| {
        booted(seen);
        seen.processes.push(Process { cpu_time_ns: Some(1), ..process(90, "/usr/bin/udevadm") });
        seen.processes.retain(|process| process.pid != 20);
    };
    for _ in 0..50 {
        assert_eq!(rules(&look(&mut web, &early)), ["process.unknown"], "only what was open before");
    }
    let other_kernel = |seen: &mut Snapshot| {
        early(seen);
        seen.kernel.btf_digest = Some(format!("sha256:{}", "00".repeat(32)));
    };
    look(&mut web, &other_kernel);
    assert!(rules(&look(&mut web, &other_kernel)).contains(&"kernel.changed"));
    look(&mut web, &booted);
    // When it has come up, what is gone closes, and what is still there is told.
    web.now += GRACE;
    let up = |seen: &mut Snapshot| {
        booted(seen);
        seen.processes.push(Process { cpu_time_ns: Some(1), ..process(91, "/opt/new") });
    };
    look(&mut web, &up);
    let outcome = look(&mut web, &up);
    assert_eq!(rules(&outcome), ["process.unknown"]);
    assert!(outcome.confirmed[0].message.contains("/opt/new"), "{:?}", outcome.confirmed);
}

#[test]
fn who_boots_again_and_again_has_no_grace_any_more() {
    let mut web = Watched::new();
    let mut graces = 0;
    for boot in 1..9_u64 {
        let rebooted = |seen: &mut Snapshot| {
            evil(seen);
            seen.kernel.page_table_root = Address(0x1000 * (boot + 1));
        };
        for _ in 0..3 {
            web.cpu += 1;
            web.look(rebooted);
        }
        web.cpu += 1;
        let outcome = web.look(rebooted);
        graces += usize::from(outcome.confirmed.is_empty());
        web.now += GRACE;
        if !outcome.confirmed.is_empty() {
            break;
        }
    }
    assert_eq!(graces, 5);
}

#[test]
fn a_vm_that_boots_under_the_eyes_of_the_daemon_is_not_cut_off_for_how_it_comes_up() {
    let (site, host) = (Site::new(), Shared::default());
    host.run(&vm("web", 1), "tap0");
    host.show("web", Face::Booting("no kernel yet".into()));
    let config = site.config_text(ENFORCE).replace("boot_grace = \"0s\"", "boot_grace = \"2s\"");
    let config = daemon::Config::parse(&config, std::path::Path::new("t")).unwrap();
    let daemon = daemon::Daemon::start(config, Box::new(host.clone()), Box::new(host.clone())).unwrap();
    let events = |kind| crate::world::events(&site.path("findings.jsonl"), kind);
    wait_until("the boot", || !events("vm.booting").is_empty());
    host.drift("web", "/usr/lib/udev/initramfs-only");
    let looks = host.looks("web");
    wait_until("looks at it", || host.looks("web") > looks + 10);
    host.conform("web");
    wait_until("more looks", || host.looks("web") > looks + 20);
    assert!(events("finding.opened").is_empty() && !host.is_cut("tap0"));
    // What is there when it has come up is what it is.
    host.drift("web", "/tmp/evil");
    wait_until("the quarantine", || host.is_cut("tap0"));
    daemon.stop();
}
