//! The whole line on a real guest: drift, a confirmed finding, a dead connection, a killed daemon, a release, and a VM
//! that ends while it is watched; and a guest that is learned.

use crate::client::Client;
use crate::program::{Guarded, start_with};
use crate::world::{Site, events, snapshot, vm, wait_until, wait_up_to};
use hypervisor::Target;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use testkit::net::NetNs;
use testkit::vmm::{MapForm, Mapped, Vmm, VmmSpec};
use testkit::{Activity, Guest, GuestSpec, Kernel, Need, Nic, SocketSpec, Spawn, Transport};
use vmi_core::Budget;

const TAP: &str = "tap-real";
const SERVICE: &str = "10.78.0.2:80";
const MANAGED: &str = "10.78.1.2:80";

#[test]
fn a_vm_whose_memory_is_its_own_is_unreadable_and_said_to_be_so_once() {
    if !testkit::require(&[Need::Root]) || !Vmm::can_start() {
        return;
    }
    let spec = VmmSpec::new("firecracker", (512 << 20, 0), Mapped::Anonymous, MapForm::ZeroPage);
    let vmm = Vmm::start(&VmmSpec { private: true, ..spec }).unwrap();
    let name = format!("pid-{}", vmm.pid());
    let site = Site::new();
    // One that it could have, if it could be read.
    site.certify("sealed", 1, &snapshot(&vm(&name, 1)), "sealed.json");
    let text =
        site.config_text(&format!("only = [\"{name}\"]\n[quarantine]\nenabled = true\nmode = \"enforce\"\n"));
    let _daemon = start_with(&site, &text);
    let all = |kind: &str| events(&site.path("findings.jsonl"), kind);
    wait_until("its verdict", || all("vm.verdict").iter().any(|event| event["verdict"] == "unreadable"));
    let told = all("vm.unreadable");
    let [event] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(event["vm"]["name"], name.as_str());
    assert!(event["reason"].as_str().unwrap().contains("(guest_memfd, descriptor"), "{event}");

    let client = Client::new(&site.path("run/d.sock"));
    let (_, vms) = client.get("/v1/vms");
    assert_eq!((&vms[0]["name"], &vms[0]["verdict"]), (&name.into(), &"unreadable".into()), "{vms}");
    assert!(vms[0]["problem"].as_str().unwrap().contains("guest_memfd"), "{vms}");
}

struct Stage {
    site: Site,
    guest: Guest,
    network: NetNs,
}

impl Stage {
    fn set(kernel: Kernel) -> Self {
        let network = NetNs::new().unwrap();
        network.bridge("br0", "10.78.0.1/24").unwrap();
        network.ip(&["address", "add", "10.78.1.1/24", "dev", "br0"]).unwrap();
        network.tap(TAP, Some("br0")).unwrap();
        let nic =
            Nic { tap: TAP.into(), namespace: Some(network.name().into()), mac: "52:54:00:00:00:02".into() };
        let uuid = "0b5f3f2c-6a43-4d0f-9d0e-0d9f9b1a7c11";
        let guest = Guest::boot(GuestSpec::new(kernel).name("real").uuid(uuid).nic(nic)).unwrap();
        guest.net_up("eth0", "10.78.0.2/24", None).unwrap();
        guest.net_up("eth0", "10.78.1.2/24", None).unwrap();
        guest
            .spawn(Spawn {
                exe: "/usr/sbin/webserver".into(),
                sockets: vec![SocketSpec::TcpListen { address: "0.0.0.0:80".parse().unwrap() }],
                activity: Activity::Echo,
                ..Spawn::default()
            })
            .unwrap();
        let site = Site::new();
        let stage = Self { site, guest, network };
        stage.certify();
        stage
    }

    fn certify(&self) {
        let opened = hypervisor::open(&Target::Pid(self.guest.pid())).unwrap();
        let kernel = introspect::locate(
            &*opened.memory,
            Budget { time: Duration::from_secs(60), ..Budget::default() },
        )
        .unwrap();
        let good =
            introspect::snapshot(&*opened.memory, &kernel, &opened.vm, &introspect::Options::default())
                .unwrap();
        assert_eq!(good.problems, []);
        self.site.certify("real", 1, &good, "real.json");
    }

    fn start(&self) -> Guarded {
        let text = self.site.config_text(
            "only = [\"real\"]\n[quarantine]\nenabled = true\nmode = \"enforce\"\nmanagement = [\"10.78.1.0/24\"]\n",
        );
        start_with(&self.site, &text)
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        events(&self.site.path("findings.jsonl"), kind)
    }

    fn client(&self) -> Client {
        Client::new(&self.site.path("run/d.sock"))
    }

    fn rules(&self) -> String {
        let output = self.network.command("nft").args(["list", "ruleset"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn connect(&self, address: &str, patience: Duration) -> Option<TcpStream> {
        let peer: SocketAddr = address.parse().unwrap();
        let mut stream = self.network.enter(|| TcpStream::connect_timeout(&peer, patience)).unwrap().ok()?;
        answers(&mut stream, patience).then_some(stream)
    }
}

/// Whether a byte comes back.
fn answers(stream: &mut TcpStream, patience: Duration) -> bool {
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(b"?").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

const PATIENT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);

#[test]
fn a_real_guest_that_drifts_is_cut_off_through_a_kill_and_released() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1), Need::Network, Need::Program("nft")]) {
        return;
    }
    let stage = Stage::set(Kernel::V6_1);
    let daemon = stage.start();
    wait_until("a verdict", || stage.events("vm.verdict").iter().any(|event| event["verdict"] == "conforms"));
    let mut world = stage.connect(SERVICE, PATIENT).expect("the world reaches a guest that conforms");
    let mut managed = stage.connect(MANAGED, PATIENT).expect("management reaches it too");
    assert!(stage.events("finding.confirmed").is_empty(), "connections to a certified listener are no drift");

    let rogue = stage.guest.listen("/tmp/rogue", Transport::Tcp, "0.0.0.0:4444".parse().unwrap()).unwrap();
    wait_until("the quarantine", || !stage.events("vm.quarantined").is_empty());
    // It may be cut off before it comes to open its socket.
    let confirmed = || stage.events("finding.confirmed");
    for rule in ["process.unknown", "socket.listener.unknown"] {
        wait_until(rule, || confirmed().iter().any(|event| event["finding"]["rule"] == rule));
    }
    assert!(confirmed().iter().all(|event| event["finding"]["confirmations"].as_u64() >= Some(2)));
    assert_eq!(stage.events("vm.quarantined")[0]["devices"][0], TAP);
    let rules = stage.rules();
    for hook in ["hook ingress device \"tap-real\"", "hook egress device \"tap-real\""] {
        assert!(rules.contains(hook), "{rules}");
    }
    assert!(!answers(&mut world, SHORT), "an established connection must be dead");
    assert!(stage.connect(SERVICE, SHORT).is_none(), "a new one must not come through");
    assert!(answers(&mut managed, PATIENT), "management must still get answers");

    // A daemon that is killed lifts nothing and loses nothing.
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    assert!(stage.connect(SERVICE, SHORT).is_none());
    let mut daemon = stage.start();
    let (status, body) = stage.client().get("/v1/status");
    assert_eq!(status, 200, "{body}");
    assert!(body["quarantines"].to_string().contains("real"), "{body}");
    assert!(stage.connect(SERVICE, SHORT).is_none());
    // It knows the findings that the killed one told, and tells none of them as new.
    let ids =
        |kind| stage.events(kind).iter().map(|event| event["finding"]["id"].to_string()).collect::<Vec<_>>();
    wait_until("what is still open", || ids("finding.still_open").len() >= 2);
    let confirmed = ids("finding.confirmed");
    for id in ids("finding.still_open") {
        assert_eq!(confirmed.iter().filter(|told| **told == id).count(), 1, "{id} was told as new again");
    }

    // Released: with the cause gone it stays released.
    stage.guest.kill(rogue.pid).unwrap();
    let (status, body) = stage.client().post("/v1/vms/real/release");
    assert_eq!(status, 200, "{body}");
    assert!(stage.connect(SERVICE, PATIENT).is_some(), "the world reaches it again");
    assert!(!stage.rules().contains("tap-real"));

    // A VM that ends while it is watched: the daemon says so and goes on.
    drop(stage.guest);
    wait_until("the end of the VM", || !events(&stage.site.path("findings.jsonl"), "vm.gone").is_empty());
    assert_eq!(Client::new(&stage.site.path("run/d.sock")).get("/v1/status").0, 200);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit_code(), Some(0));
}

#[test]
fn a_real_guest_is_learned_conforms_to_what_was_learned_and_drifts_from_it() {
    if !testkit::require(&[Need::Guest(Kernel::V6_12)]) {
        return;
    }
    let guest = Guest::boot(GuestSpec::new(Kernel::V6_12).name("learned")).unwrap();
    let site = Site::new();
    let start = |more: &str| start_with(&site, &site.config_text(&format!("only = [\"learned\"]\n{more}")));
    let client = || Client::new(&site.path("run/d.sock"));
    let told = |kind| events(&site.path("findings.jsonl"), kind);

    let mut daemon = start("[[learn]]\nservice = \"learned\"\nvms = [\"learned\"]\nflows = true\n");
    let looks = || client().get("/v1/vms").1[0]["learning"]["looks"].as_u64();
    wait_until("fifty looks that were learned from", || looks() >= Some(50));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit_code(), Some(0));
    assert!(told("finding.opened").is_empty());
    let draft = std::fs::read(told("learning.draft")[0]["path"].as_str().unwrap()).unwrap();
    let draft = attest::Draft::parse(&draft).unwrap();
    std::fs::write(site.path("certificates/learned.json"), draft.statement.sign(&site.key).unwrap()).unwrap();

    let _daemon = start("");
    wait_until("a verdict", || told("vm.verdict").iter().any(|event| event["verdict"] != "uncertified"));
    assert_eq!(told("vm.verdict").last().unwrap()["verdict"], "conforms");
    let all_looks = || client().get("/v1/vms").1[0]["looks"].as_u64();
    wait_until("fifty looks", || all_looks() >= Some(50));
    assert!(told("finding.confirmed").is_empty(), "{:?}", told("finding.confirmed"));
    guest.listen("/tmp/rogue", Transport::Tcp, "0.0.0.0:4444".parse().unwrap()).unwrap();
    wait_until("drift", || told("vm.verdict").iter().any(|event| event["verdict"] == "drifted"));
    assert!(told("finding.confirmed").iter().any(|event| event["finding"]["rule"] == "process.unknown"));
}

#[test]
fn a_finding_keeps_its_id_over_real_reboots_with_the_daemon_running_and_without() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let uuid = "4b0d4d0f-9d0e-4d9f-9b1a-7c110b5f3f2c";
    let mut guest = Guest::boot(GuestSpec::new(Kernel::V6_1).name("reboots").uuid(uuid)).unwrap();
    let site = Site::new();
    let opened = hypervisor::open(&Target::Pid(guest.pid())).unwrap();
    let kernel = introspect::locate(&*opened.memory, Budget::default()).unwrap();
    let options = introspect::Options::default();
    let good = introspect::snapshot(&*opened.memory, &kernel, &opened.vm, &options).unwrap();
    site.certify("reboots", 1, &good, "reboots.json");
    drop(opened);
    let config =
        site.config_text("only = [\"reboots\"]\n").replace("boot_grace = \"0s\"", "boot_grace = \"4s\"");
    let start = || start_with(&site, &config);
    let told = |kind| events(&site.path("findings.jsonl"), kind);
    let of = |events: Vec<Value>, rule: &str| -> Vec<Value> {
        let about = |event: &Value| event["finding"]["rule"] == rule || event["rule"] == rule;
        events.into_iter().filter(about).collect()
    };
    let unknown = |kind| of(told(kind), "process.unknown");
    let rogue = |guest: &Guest| {
        guest.listen("/tmp/rogue", Transport::Tcp, "0.0.0.0:4444".parse().unwrap()).unwrap();
    };
    let mut daemon = start();
    // A look that searches all memory for a kernel that is not there yet is followed by ten times as long a rest.
    let wait_until =
        |what: &str, condition: &dyn Fn() -> bool| wait_up_to(Duration::from_secs(90), what, condition);
    wait_until("a verdict", &|| told("vm.verdict").iter().any(|event| event["verdict"] == "conforms"));
    rogue(&guest);
    let listening = || of(told("finding.confirmed"), "socket.listener.unknown");
    wait_until("the findings", &|| unknown("finding.confirmed").len() == 1 && listening().len() == 1);
    let first = unknown("finding.confirmed")[0].clone();

    // The daemon watches the reboot: what ran is gone and its finding closed, and the next boot's is the same one again.
    guest.reset().unwrap();
    wait_until("its end", &|| unknown("finding.closed").len() == 1);
    assert_eq!(unknown("finding.closed")[0]["id"], first["finding"]["id"]);
    rogue(&guest);
    wait_until("them again", &|| unknown("finding.confirmed").len() == 2 && listening().len() == 2);
    let second = unknown("finding.confirmed")[1].clone();
    assert_eq!(second["finding"]["id"], first["finding"]["id"]);
    let place = |event: &Value| event["finding"]["evidence"]["tasks"].clone();
    assert_ne!(place(&second), place(&first), "it is another process, at another place");
    let ids: std::collections::BTreeSet<_> =
        listening().iter().map(|event| event["finding"]["id"].to_string()).collect();
    assert_eq!(ids.len(), 1, "{:#?}", listening());

    // It reboots while no daemon runs: to the next one the finding never went away, and it is not told as new.
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit_code(), Some(0));
    guest.reset().unwrap();
    rogue(&guest);
    let daemon = start();
    wait_until("what is still open", &|| unknown("finding.still_open").len() == 1);
    let still = unknown("finding.still_open")[0].clone();
    assert_eq!(still["finding"]["id"], first["finding"]["id"]);
    assert_eq!(still["since"], unknown("finding.opened")[1]["look"]["taken_at"]);
    assert_ne!(place(&still), place(&second));
    assert_eq!((unknown("finding.opened").len(), unknown("finding.confirmed").len()), (2, 2));
    assert_eq!(unknown("finding.closed").len(), 1);
    // Its end is told by the same id.
    drop(daemon);
    guest.reset().unwrap();
    let _daemon = start();
    wait_until("its end", &|| unknown("finding.closed").len() == 2);
    assert_eq!(unknown("finding.closed")[1]["id"], first["finding"]["id"]);
    wait_until("it to conform", &|| told("vm.verdict").last().unwrap()["verdict"] == "conforms");
    // A reboot by itself is no drift: no rule but those about the rogue was confirmed.
    let rules: std::collections::BTreeSet<_> =
        told("finding.confirmed").iter().map(|event| event["finding"]["rule"].to_string()).collect();
    assert_eq!(rules.len(), 2, "{rules:?}");
}
