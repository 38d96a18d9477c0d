//! Network namespaces for one test: a "host" with a bridge, and machines that hang on it by veth pairs.
//!
//! A namespace is held by a process that dies with the test's thread, so nothing is left behind whatever happens. The
//! host-side end of a machine's veth pair plays the tap: the hooks that the rules use sit in the generic device path
//! and do not know one from the other.

use facts::Nic;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, socket};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Tells whether these tests can run here. With `BIRTHMARK_TESTS=all` they must.
pub fn available() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if quarantine::Nftables::find().is_err() {
        "nft is not installed"
    } else if Command::new("ip").arg("-V").output().is_err() {
        "ip is not installed"
    } else {
        return true;
    };
    assert!(std::env::var("BIRTHMARK_TESTS").as_deref() != Ok("all"), "cannot run: {missing}");
    eprintln!("skipped: {missing}");
    false
}

/// A network namespace and the process that holds it.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    pub fn new() -> Self {
        Self::held_by(&["unshare", "--net", "sleep", "600"])
    }

    /// A second process in the same namespace.
    pub fn another_holder(&self) -> Self {
        Self::held_by(&["nsenter", &format!("--net={}", self.path()), "sleep", "600"])
    }

    fn held_by(command: &[&str]) -> Self {
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(command)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let namespace = Self { holder };
        // `sleep` runs once the namespace is made and entered.
        let comm = format!("/proc/{}/comm", namespace.holder.id());
        wait_until("the namespace", || fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n"));
        assert_ne!(namespace.inode(), fs::metadata("/proc/self/ns/net").unwrap().ino());
        namespace
    }

    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    pub fn inode(&self) -> u64 {
        fs::metadata(self.path()).unwrap().ino()
    }

    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Runs a command inside.
    pub fn run(&self, command: &str) -> String {
        let output = self.try_run(command);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn try_run(&self, command: &str) -> std::process::Output {
        Command::new("nsenter")
            .arg(format!("--net={}", self.path()))
            .args(command.split_whitespace())
            .output()
            .unwrap()
    }

    /// Runs code inside; sockets made there stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A bridge (`10.77.0.1`, `fd77::1`) with machines on it: `10.77.0.N`, `fd77::N`.
#[derive(Debug)]
pub struct Lab {
    pub host: Namespace,
    pub guest: Namespace,
    pub peer: Namespace,
    pub manager: Namespace,
}

impl Lab {
    /// Guest is `.2` on `tap0`, peer `.3`, manager `.9`.
    pub fn new() -> Self {
        let host = Namespace::new();
        host.run("ip link add br0 type bridge stp_state 0 mcast_snooping 0");
        host.run("ip addr add 10.77.0.1/24 dev br0");
        host.run("ip -6 addr add fd77::1/64 dev br0 nodad");
        host.run("ip link set br0 up");
        let machine = |device: &str, number: u32| {
            let machine = Namespace::new();
            host.run(&format!("ip link add {device} type veth peer name eth0 netns {}", machine.pid()));
            host.run(&format!("ip link set {device} master br0 up"));
            machine.run("ip link set lo up");
            machine.run(&format!("ip addr add 10.77.0.{number}/24 dev eth0"));
            machine.run(&format!("ip -6 addr add fd77::{number}/64 dev eth0 nodad"));
            machine.run("ip link set eth0 up");
            machine
        };
        let (guest, peer, manager) = (machine("tap0", 2), machine("peer0", 3), machine("mgmt0", 9));
        Self { host, guest, peer, manager }
    }

    pub fn nic(&self, interface: &str) -> Nic {
        Nic { interface: interface.into(), namespace: self.host.path() }
    }

    /// Every machine has to ask for link addresses again.
    pub fn forget_neighbours(&self) {
        for machine in [&self.host, &self.guest, &self.peer, &self.manager] {
            machine.run("ip neigh flush all");
        }
    }
}

/// Sends bare IPv4 frames out of `eth0` of one machine to that of another, with a VLAN tag or without.
pub fn send_frames(
    from: &Namespace,
    to: &Namespace,
    source: [u8; 4],
    target: [u8; 4],
    tagged: bool,
    count: u64,
) {
    let hardware = |machine: &Namespace| machine.inside(|| eth0().addr().unwrap());
    let mut frame = [hardware(to), hardware(from)].concat();
    if tagged {
        frame.extend([0x81, 0x00, 0x00, 0x05]);
    }
    frame.extend([0x08, 0x00]);
    // Version and length of header, total length 20, time to live 64, protocol 253 (for experiments), no checksum.
    frame.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0]);
    frame.extend(source);
    frame.extend(target);
    frame.resize(64, 0);
    from.inside(|| {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).unwrap();
        bind(socket.as_raw_fd(), &eth0()).unwrap();
        for _ in 0..count {
            send(socket.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
        }
    });
}

/// Link address of `eth0` in the current namespace.
fn eth0() -> LinkAddr {
    nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter(|one| one.interface_name == "eth0")
        .find_map(|one| one.address?.as_link_addr().copied())
        .unwrap()
}

/// Waits for a condition, at most ten seconds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
