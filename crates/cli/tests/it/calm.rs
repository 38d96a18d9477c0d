//! False alarms: a full Debian that does what such machines do all day, held against its certificate 10,000 times, and then
//! upgraded. docs/birth-certificate.md says what an upgrade shows; the list here is that list.

use crate::run::run;
use crate::signed::{Signer, text};
use attest::{
    Certificate, LearnOptions, Learner, Pattern, PublicKey, Tasks, Tracker, Validity, VerifyOptions,
};
use facts::{Finding, Snapshot};
use hypervisor::{OpenedVm, Target};
use introspect::{Kernel, Options};
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;
use testkit::{Guest, Need, debian, require};
use vmi_core::Budget;

/// What a look may cost here: an emulated guest on a busy machine is slow, and that is not what is tested.
const PATIENT: Budget = Budget { time: Duration::from_secs(60), bytes: 64 << 30 };
/// As `birthmark certify` and `birthmark audit` have them.
const AGAIN: Duration = Duration::from_millis(20);
const STANDING_MAX: u32 = 50;

const LOOKS: usize = 10_000;
/// Rounds of the day to learn from: until one teaches nothing new, between these.
const ROUNDS: [usize; 2] = [3, 10];

/// What happens in a day, once and by hand so that it need not be waited for: logins, log rotation, the timers' services, clients.
const DAY: [&str; 7] = [
    "ssh -o BatchMode=yes deployer@localhost 'id; ls -l / >/dev/null; sleep 0.2'",
    "ssh -o BatchMode=yes root@localhost 'uptime; ps aux | sort | head -3'",
    "su - deployer -c 'id; sleep 0.1'",
    "logrotate --force /etc/logrotate.conf",
    "systemctl start logrotate.service systemd-tmpfiles-clean.service dpkg-db-backup.service",
    "su postgres -c 'psql -c \"select count(*) from pg_class\"'",
    "busybox wget -q -O /dev/null http://localhost/",
];

/// A job of every minute, in the name of a user.
const CRON: &str = "echo '* * * * * deployer id >/dev/null; sleep 0.2' >/etc/cron.d/lab";

/// What Debian's timers do every day to keep the packages up to date: there is one to be upgraded, a running service.
const UPGRADE: [&str; 2] = ["systemctl start apt-daily.service", "systemctl start apt-daily-upgrade.service"];

struct Watched {
    guest: Guest,
    vm: OpenedVm,
    kernel: Kernel,
}

impl Watched {
    fn boot() -> Self {
        let guest = debian::boot().unwrap();
        let vm = hypervisor::open(&Target::Pid(guest.pid())).unwrap();
        let kernel = introspect::locate(&*vm.memory, PATIENT).unwrap();
        Self { guest, vm, kernel }
    }

    fn look(&self) -> Snapshot {
        let options = Options { budget: PATIENT, ..Options::default() };
        introspect::snapshot(&*self.vm.memory, &self.kernel, &self.vm.vm, &options).unwrap()
    }

    /// Runs `each` over and over until it returns false, while scripts run in the guest, in turn and again. `each` gets the number of
    /// rounds that are over.
    fn while_it_does(&self, scripts: &[&str], mut each: impl FnMut(usize) -> bool) {
        let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for script in scripts {
                        debian::succeed(&self.guest, script).unwrap();
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
            while each(rounds.load(Ordering::Relaxed)) {}
            over.store(true, Ordering::Relaxed);
        });
    }
}

/// Looks, and the findings that they confirmed, by id.
struct Audits<'c> {
    certificate: &'c Certificate,
    tracker: Tracker,
    last: Option<Tasks>,
    standing: u32,
    looks: usize,
    confirmed: BTreeMap<String, Finding>,
}

impl<'c> Audits<'c> {
    fn new(certificate: &'c Certificate) -> Self {
        let (tracker, confirmed) = (Tracker::default(), BTreeMap::new());
        Self { certificate, tracker, last: None, standing: 0, looks: 0, confirmed }
    }

    /// One more look, as `birthmark audit` takes it.
    fn take(&mut self, snapshot: &Snapshot) {
        let stood = self.last.as_mut().is_some_and(|last| last.is_same_moment(snapshot));
        if stood && self.standing < STANDING_MAX {
            self.standing += 1;
            sleep(AGAIN);
            return;
        }
        self.standing = 0;
        self.looks += 1;
        let findings = attest::compare(self.certificate, snapshot);
        let progress = self.tracker.feed(findings, &self.certificate.policy, snapshot.consistency.mode);
        for finding in progress.confirmed() {
            self.confirmed.insert(finding.id.clone(), finding);
        }
        self.last = (!progress.pending.is_empty()).then(|| Tasks::of(snapshot));
        if self.last.is_some() {
            sleep(AGAIN);
        }
    }
}

/// What is learned of the guest in rounds of its day, held against the image it was born from and signed.
fn learned(watched: &Watched, signer: &Signer) -> Certificate {
    let options = LearnOptions {
        service: "debian".to_owned(),
        serial: 1,
        validity: Validity {
            not_before: "2020-01-01T00:00:00Z".parse().unwrap(),
            not_after: "9000-01-01T00:00:00Z".parse().unwrap(),
        },
        selector: None,
        image_sha256: None,
        accept_unknown: false,
        flows: false,
    };
    let mut learner = Learner::new(&options);
    let mut known = None;
    let mut rounds = 0;
    watched.while_it_does(&DAY, |over| {
        // Some looks meet a race and teach nothing.
        if learner.look(&watched.look()).is_err() {
            sleep(AGAIN);
        }
        if over == rounds {
            return true;
        }
        rounds = over;
        let now = learner.draft(&options).unwrap().statement;
        let news = known.replace(now.clone()) != Some(now);
        (news || rounds < ROUNDS[0]) && rounds < ROUNDS[1]
    });
    let draft = signer.path("learned");
    fs::write(&draft, learner.draft(&options).unwrap().to_json().unwrap()).unwrap();
    let (draft, image, key) = (text(&draft), text(&debian::disk().unwrap()), text(&signer.path("key")));
    let output = text(&signer.path("certificate"));
    let args = ["certify", "--learned", &draft, "--image", &image, "--service", "debian", "--key", &key];
    let ran = run([&args[..], &["-o", &output]].concat());
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let key = PublicKey::from_pem(&fs::read_to_string(signer.public()).unwrap()).unwrap();
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    attest::verify(&fs::read(&output).unwrap(), &[key], now, &VerifyOptions::default())
        .unwrap()
        .statement
        .predicate
}

/// What the documentation says of an upgrade: rule, template of what it is about, whether it is always seen.
fn documented() -> Vec<(String, Pattern, bool)> {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/birth-certificate.md");
    let docs = fs::read_to_string(docs).unwrap();
    let (_, table) = docs.split_once("<!-- upgrade -->").unwrap();
    let (table, _) = table.split_once("<!-- end of upgrade -->").unwrap();
    let mut rows = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [rule, about, seen, _] = cells[..] else { panic!("{line}") };
        for template in about.split(", ") {
            let template = Pattern::parse(template.trim_matches('`')).unwrap();
            rows.push((rule.trim_matches('`').to_owned(), template, seen == "always"));
        }
    }
    rows
}

/// What a finding is about: the subject without its kind and its pids.
fn about(finding: &Finding) -> &str {
    let subject = finding.subject.as_str();
    let subject = subject.strip_prefix("process ").unwrap_or(subject);
    subject.rsplit_once(" (").map_or(subject, |(about, _)| about)
}

#[test]
fn a_certified_debian_left_alone_gives_no_finding_in_10_000_looks_and_an_upgrade_those_of_the_docs() {
    if !require(&[Need::Debian]) {
        return;
    }
    let signer = Signer::new();
    let watched = Watched::boot();
    debian::succeed(&watched.guest, CRON).unwrap();
    let certificate = learned(&watched, &signer);

    let mut audits = Audits::new(&certificate);
    watched.while_it_does(&DAY, |_| {
        audits.take(&watched.look());
        audits.looks < LOOKS
    });
    assert_eq!(audits.confirmed.into_values().collect::<Vec<_>>(), [], "after {} looks", audits.looks);

    let mut audits = Audits::new(&certificate);
    watched.while_it_does(&UPGRADE, |rounds| {
        audits.take(&watched.look());
        rounds < 1
    });
    let installed = debian::succeed(&watched.guest, "dpkg-query --show lab-metrics").unwrap();
    assert_eq!(installed.split_whitespace().collect::<Vec<_>>(), ["lab-metrics", "1.1"], "it was upgraded");
    let documented = documented();
    let says = |finding: &Finding, (rule, template, _): &(String, Pattern, bool)| {
        finding.rule == *rule && template.matches(about(finding))
    };
    let found: Vec<&Finding> = audits.confirmed.values().collect();
    let unexplained: Vec<_> =
        found.iter().filter(|finding| !documented.iter().any(|row| says(finding, row))).collect();
    assert!(unexplained.is_empty(), "not in the documentation: {unexplained:#?}");
    for row in documented.iter().filter(|(.., always)| *always) {
        assert!(found.iter().any(|finding| says(finding, row)), "not seen: {row:?} in {found:#?}");
    }
}
