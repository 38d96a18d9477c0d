//! What is shown alike on every host of the lab, whatever its hypervisor: snapshots that equal the guest's `/proc`, audits,
//! and the daemon's whole line from drift to quarantine and back.

use facts::{ConsistencyMode, Snapshot, Verdict};
use serde_json::Value;
use std::time::{Duration, Instant};
use testkit::host::{Host, Inner};
use testkit::{Activity, SocketSpec, Spawn};

#[path = "../../../introspect/tests/it/equal.rs"]
mod equal;
#[path = "../../../introspect/tests/it/equal_ebpf.rs"]
mod equal_ebpf;
#[path = "../../../introspect/tests/it/equal_sockets.rs"]
mod equal_sockets;

/// The snapshot of a guest has every row that its own `/proc` has, and no other.
pub fn snapshot_equals_truth(host: &Host, guest: &Inner<'_>, target: &str) -> Snapshot {
    let (truth, snapshot) = guest
        .steady(|| host.json::<Snapshot>(&format!("birthmark snapshot {target} --json")))
        .unwrap_or_else(|error| panic!("{target}: {error:?}"));
    assert_eq!(equal::differences(&truth, &snapshot), [""; 0], "{target}");
    snapshot
}

/// The report of an audit and its exit status, against the certificate that [`certify`] made.
fn audit(host: &Host, target: &str) -> (Option<i32>, Value) {
    let ran = host.run(&format!(
        "cd /run/{target}.d && birthmark audit {target} --certificate good.json --trusted-key key.pub --json"
    ));
    let ran = ran.unwrap();
    let report = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    (ran.status, report)
}

/// A guest stands while it is looked at, which then sees what its `/proc` does, and runs after that.
pub fn paused_look_equals_truth(host: &Host, guest: &Inner<'_>) {
    let name = guest.name();
    let snapshot = snapshot_equals_truth(host, guest, &format!("{name} --pause 10000"));
    assert_eq!(snapshot.consistency.mode, ConsistencyMode::Paused, "{name}");
    let stood = snapshot.consistency.paused_us.unwrap();
    assert!((1..10_000_000).contains(&stood), "{name}: {stood} us");
}

/// A look that pauses a guest, stopped in its middle, and the guard of its pause.
pub struct StoppedLook<'h> {
    host: &'h Host,
    pid: String,
    guard: String,
}

impl<'h> StoppedLook<'h> {
    pub fn begin(host: &'h Host, guest: &Inner<'_>, limit_ms: u64) -> Self {
        let name = guest.name();
        let pids = host.succeed(&format!(
            "while :; do\n\
               birthmark snapshot {name} --json --pause {limit_ms} </dev/null >/run/look.json 2>/run/look.err & look=$!\n\
               guard= state=\n\
               while [ -z \"$guard\" ] && [ \"$state\" != Z ]; do\n\
                 read -r guard _ </proc/$look/task/$look/children\n\
                 read -r _ _ state _ </proc/$look/stat\n\
               done\n\
               [ -n \"$guard\" ] && kill -STOP $look && break\n\
               wait $look || {{ cat /run/look.err; exit 1; }}\n\
             done\n\
             echo $look $guard"
        ));
        let pids = pids.unwrap();
        let (pid, guard) = pids.trim().split_once(' ').unwrap();
        Self { host, pid: pid.to_owned(), guard: guard.to_owned() }
    }

    /// Kills the look; how many seconds later its guard has done its work, by the clock of the host that both run on.
    pub fn kill(&self) -> f64 {
        let Self { host, pid, guard } = self;
        let clock = host.succeed(&format!(
            "read -r before _ </proc/uptime\nkill -KILL {pid}\nstate=\n\
             while [ -d /proc/{guard} ] && [ \"$state\" != Z ]; do read -r _ _ state _ </proc/{guard}/stat; done\n\
             read -r after _ </proc/uptime\necho $before $after"
        ));
        let clock = clock.unwrap();
        let (before, after) = clock.trim().split_once(' ').unwrap();
        after.parse::<f64>().unwrap() - before.parse::<f64>().unwrap()
    }
}

/// Waits until a guest stands, or does not.
pub fn wait_until(stands: impl Fn() -> bool, wanted: bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while stands() != wanted {
        assert!(Instant::now() < deadline, "it never stands: {wanted}");
    }
}

/// A pause is over when the look is killed, and when its time is.
pub fn a_pause_ends_when_the_look_is_killed_and_at_the_deadline(
    host: &Host,
    guest: &Inner<'_>,
    stands: impl Fn() -> bool,
) {
    // It runs again at once, and long before its ten seconds are over.
    let look = StoppedLook::begin(host, guest, 10_000);
    let began = Instant::now();
    wait_until(&stands, true);
    let seconds = look.kill();
    let stood = began.elapsed();
    assert!(!stands());
    assert!(seconds < 1.0, "it stood for {seconds} s more");
    assert!(stood < Duration::from_secs(10), "the guard's deadline may have been what ended it: {stood:?}");
    guest.truth().unwrap();

    // While the look still goes on.
    let look = StoppedLook::begin(host, guest, 1500);
    wait_until(&stands, true);
    wait_until(&stands, false);
    guest.truth().unwrap();
    host.succeed(&format!("kill -CONT {}", look.pid)).unwrap();
    host.wait_for(&format!("! kill -0 {}", look.pid)).unwrap();
    let told = host.succeed("cat /run/look.err").unwrap();
    assert!(told.contains("longer than the 1500 ms"), "{told}");
    let snapshot: Snapshot = host.json("cat /run/look.json").unwrap();
    let stood = snapshot.consistency.paused_us.unwrap();
    assert_eq!(snapshot.consistency.mode, ConsistencyMode::Live);
    assert!((1_500_000..5_000_000).contains(&stood), "{stood} us");
}

fn listener(exe: &str, port: u16) -> Spawn {
    Spawn {
        exe: exe.into(),
        sockets: vec![SocketSpec::TcpListen { address: ([0, 0, 0, 0], port).into() }],
        activity: Activity::Echo,
        ..Spawn::default()
    }
}

/// A web server is started in the guest and certified, by a certificate and a key in `/run/NAME.d`; the guest conforms.
fn certify(host: &Host, guest: &Inner<'_>) {
    let name = guest.name();
    guest.spawn(listener("/usr/sbin/webserver", 80)).unwrap();
    host.succeed(&format!(
        "mkdir -p /run/{name}.d/certificates && cd /run/{name}.d && birthmark keygen -o key && \
         birthmark certify {name} --service web --selector 'name=*' --key key -o good.json && cp good.json certificates/"
    ))
    .unwrap();
    let (status, report) = audit(host, name);
    assert_eq!((status, &report["verdict"]), (Some(0), &serde_json::json!(Verdict::Conforms)), "{report}");
}

/// A rogue program in the guest is drift for `audit`.
fn drift_is_told(host: &Host, guest: &Inner<'_>) {
    let (status, report) = audit(host, guest.name());
    assert_eq!((status, &report["verdict"]), (Some(1), &serde_json::json!(Verdict::Drifted)), "{report}");
    for rule in ["process.unknown", "socket.listener.unknown"] {
        let findings = report["findings"].as_array().unwrap();
        assert!(findings.iter().any(|finding| finding["rule"] == rule), "{rule}: {report}");
    }
}

/// A web server is certified and conforms; a rogue program is drift.
pub fn audit_tells_drift(host: &Host, guest: &Inner<'_>) {
    certify(host, guest);
    let rogue = guest.spawn(listener("/tmp/rogue", 4444)).unwrap();
    drift_is_told(host, guest);
    guest.kill(rogue.pid).unwrap();
}

/// A way of a guest to the network.
pub struct Way<'a> {
    /// The network device on the host that is to be cut.
    pub device: &'a str,
    /// The guest's interface behind it, and its address.
    pub interface: &'a str,
    pub address: &'a str,
}

impl Way<'_> {
    /// What must succeed on the host, whose bridge has only this one of the guest's ways meanwhile. Nothing is done in the guest for it:
    /// a program that runs there is one that the daemon sees. The host asks anew where the address is.
    fn reached(&self, ways: &[Way<'_>]) -> String {
        let Self { device, address, .. } = self;
        let mut script = String::new();
        if let [_, _, ..] = ways {
            for other in ways.iter().map(|way| way.device).filter(|other| other != device) {
                script += &format!("ip link set {other} nomaster; ");
            }
            script += &format!("ip link set {device} master br0; ip neigh flush to {address}; ");
        }
        script + &format!("test \"$(echo hello | timeout 5 nc {address} 80 | head -c 5)\" = hello")
    }
}

/// The same as [`audit_tells_drift`]; and the daemon sees it, cuts the guest off on every way that it has, and lets it back on the network
/// when it is released. The daemon runs until [`end_daemon`].
pub fn drift_is_found_and_cut_off(host: &Host, guest: &Inner<'_>, ways: &[Way<'_>]) {
    let name = guest.name();
    for way in ways {
        guest.net_up(way.interface, &format!("{}/24", way.address), None).unwrap();
    }
    certify(host, guest);

    let config = format!(
        "interval = '1s'\nconfirm_after = '5ms'\nstate_dir = '/run/{name}.d/state'\nfindings = '/run/{name}.d/findings'\n\
         socket = '/run/{name}.d/sock'\ncertificates = '/run/{name}.d/certificates'\n\
         trusted_keys = ['/run/{name}.d/key.pub']\nonly = ['{name}']\n\
         [quarantine]\nenabled = true\nmode = 'enforce'\n"
    );
    host.succeed(&format!("cat >/run/{name}.d/config <<'END'\n{config}END")).unwrap();
    host.start(&format!("{name}.d/daemon"), &format!("birthmarkd --config /run/{name}.d/config")).unwrap();
    let event = |kind: &str| {
        format!("cd /run/{name}.d && grep -q '\"{kind}\"' findings || {{ cat findings daemon.log; false; }}")
    };
    host.wait_for(&event("conforms")).unwrap();
    for way in ways {
        host.wait_for(&way.reached(ways)).unwrap();
    }

    let rogue = guest.spawn(listener("/tmp/rogue", 4444)).unwrap();
    host.wait_for(&event("vm.quarantined")).unwrap();
    let rules = host.succeed("nft list ruleset").unwrap();
    for way in ways {
        for hook in ["ingress", "egress"] {
            assert!(rules.contains(&format!("hook {hook} device \"{}\"", way.device)), "{rules}");
        }
        let status = host.run(&way.reached(ways)).unwrap().status;
        assert_ne!(status, Some(0), "a guest in quarantine must not be reached at {}", way.device);
    }
    drift_is_told(host, guest);

    guest.kill(rogue.pid).unwrap();
    host.succeed(&format!("birthmark release {name} --socket /run/{name}.d/sock")).unwrap();
    for way in ways {
        host.wait_for(&way.reached(ways)).unwrap();
    }
    let rules = host.succeed("nft list ruleset").unwrap();
    assert!(!ways.iter().any(|way| rules.contains(way.device)), "{rules}");
}

/// The daemon notices that the guest ended, and goes on.
pub fn its_end_is_told(host: &Host, name: &str) {
    host.wait_for(&format!("grep -q '\"vm.gone\"' /run/{name}.d/findings")).unwrap();
    host.succeed(&format!("birthmark status --socket /run/{name}.d/sock")).unwrap();
}

/// The next guest has a daemon of its own.
pub fn end_daemon(host: &Host) {
    host.succeed("kill $(pidof birthmarkd)").unwrap();
    // Asked from outside: one that has ended is there until the host's agent, which runs this, has time for it.
    host.wait_for("! pidof birthmarkd").unwrap();
}
