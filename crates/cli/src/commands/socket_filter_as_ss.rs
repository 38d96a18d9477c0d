//! Runs the real `ss` in a full Debian and compares which sockets each of its options and expressions chooses with which ones
//! they choose here, out of a snapshot of the same quiet minute.
//!
//! Sockets are told apart by what `ss -e` prints and no other has: the cookie, for a unix socket its inode, for a netlink socket
//! protocol and port. Only sockets count that are there, in the same state, before and after all of it.

use super::socket_filter::Choice;
use super::socket_host::NETLINK;
use clap::Parser;
use facts::{Family, Snapshot, Socket};
use hypervisor::Target;
use introspect::Options;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use testkit::{Filter, Guest, Need, SocketSpec, Spawn, UnixType, debian};
use vmi_core::Budget;

/// A line of arguments, for both.
#[derive(Clone, Copy, Debug)]
enum Line {
    /// We take `ours` as `ss` takes `theirs`.
    Taken {
        ours: &'static str,
        theirs: &'static str,
    },
    Refused(&'static str),
}

impl Line {
    fn ours(&self) -> &'static str {
        let (Self::Taken { ours: line, .. } | Self::Refused(line)) = self;
        line
    }

    fn theirs(&self) -> &'static str {
        let (Self::Taken { theirs: line, .. } | Self::Refused(line)) = self;
        line
    }
}

/// What `birthmark sockets` has behind its target.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    choice: Choice,
}

/// Lines that `ss` and we take alike. A part between `'` is one argument.
const ALIKE: &[&str] = &[
    // Kinds, families, and what waits.
    "-a",
    "-l",
    "-ta",
    "-tl",
    "-ua",
    "-ul",
    "-wa",
    "-wl",
    "-xa",
    "-xl",
    "-0a",
    "-4a",
    "-6a",
    "-4l",
    "-6l",
    "-tua",
    "-tuwxa",
    "-4ta",
    "-6ua",
    "-4xa",
    "-t4xl",
    "-t6xa",
    "-al",
    "-la",
    "-a -f inet",
    "-a -f inet6",
    "-a -f unix",
    "-a -f link",
    "-a -f netlink",
    "-ta -f inet6",
    "-a -A tcp",
    "-a -A udp,raw",
    "-a -A inet",
    "-a -A u_str,unix_dgram",
    "-a -A unix_seqpacket",
    "-a -A packet,u_seq",
    "-a -A all,!tcp",
    "-a -A inet,!udp -4",
    "-a -A netlink",
    // States.
    "-tux state established",
    "-tux state listening",
    "-tux state connected",
    "-tux state synchronized",
    "-tux state bucket",
    "-tuwx state big",
    "-tuwx state all",
    "-tuwx state closed",
    "-tuwx state unconnected",
    "-tuwx state close",
    "-t state syn-sent",
    "-t state syn-recv",
    "-t state syn-rcv",
    "-t state fin-wait-1",
    "-t state fin-wait-2",
    "-t state time-wait",
    "-t state close-wait",
    "-t state last-ack",
    "-t state closing",
    "-t state ESTABLISHED",
    "-tuwx exclude established",
    "-tux exclude listening exclude closed",
    "-tux excl bucket excl unconnected",
    "-tux state connected exclude established",
    "-tuwx exclude bucket state time-wait",
    "-t state established state listening",
    "-t state time-wait state syn-recv sport = :4711",
    "-tl state established",
    "-ta state established",
    "-A all,!raw state listening",
    "state established -t",
    "-0 state unconnected",
    "-0 state established",
    // Ports.
    "-tua sport = :22",
    "-tua sport = 22",
    "-tua sport :22",
    "-tua sport 22",
    "-tua sport == :22",
    "-tua sport eq :22",
    "-tua sport != :22",
    "-tua sport ne :22",
    "-tua sport neq 22",
    "-tua sport < :1024",
    "-tua sport lt :1024",
    "-tua sport <= :80",
    "-tua sport le :80",
    "-tua sport leq 80",
    "-tua sport > :80",
    "-tua sport gt :80",
    "-tua sport >= :4711",
    "-tua sport ge :4711",
    "-tua sport geq 4711",
    "-tua sport > :65535",
    "-tua sport < :0",
    "-tua sport <= :65535",
    "-tua sport = :0x1267",
    "-tua sport = 011147",
    "-tua sport = *",
    "-tua sport = :*",
    "-tua dport = :4711",
    "-tua dport != :4711",
    "-tua dport = :0",
    "-tua dport > :0",
    "-tua dport < :5000",
    "-tua dport 4711",
    "-wa sport = :1",
    "-wa sport > :1",
    "-tua sport = :53",
    "-tua sport = inet::4711",
    "-tua sport = inet6:4711",
    "-tua sport != inet6::4711",
    "-tua not sport = inet::4711",
    // Addresses.
    "-tua src 127.0.0.1",
    "-tua src = 127.0.0.1",
    "-tua src == 127.0.0.1",
    "-tua src 127.0.0.1:4711",
    "-tua src 127.0.0.1:*",
    "-tua src 127.0.0.0/8",
    "-tua src 127.0.0.0/8:4711",
    "-tua src 127/8",
    "-tua src 127.0",
    "-tua src 127.0.0.0/31",
    "-tua src 10.0.0.0/8",
    "-tua src 0.0.0.0",
    "-tua src 0.0.0.0/0",
    "-tua src *",
    "-tua src *:*",
    "-tua src *:22",
    "-tua src :22",
    "-tua src any",
    "-tua src all:22",
    "-tua src default",
    "-tua src [::1]",
    "-tua src [::1]:4711",
    "-tua src [::1]:*",
    "-tua src [::1/128]:4711",
    "-tua src [::/0]",
    "-tua src ::/0",
    "-tua src [::]",
    "-tua src [::]:22",
    "-tua src fe80::/10",
    "-tua src [127.0.0.1]:4711",
    "-tua dst 127.0.0.1",
    "-tua dst 127.0.0.1:4711",
    "-tua dst [::1]:4711",
    "-tua dst 127.0.0.0/8",
    "-tua dst :4711",
    "-tua dst *:0",
    "-tua dst 0.0.0.0",
    "-tua dst 0.0.0.0/0",
    "-tua dst [::]",
    "-tua not dst 127.0.0.0/8",
    "-tua not src [::1]",
    "-tua src [::ffff:127.0.0.1]",
    "-tua src [::ffff:0:0/96]",
    "-tua dst [::ffff:127.0.0.1]",
    "-6ta src ::/0",
    "-4ta src *:4711",
    "-6ta src [::1]:4711",
    "-tua src inet:127.0.0.1",
    "-tua src inet:*:4711",
    "-tua src inet6:[::1]:4711",
    "-tua src inet6:*",
    "-tua not src inet:127.0.0.1",
    "-tua src inet:127.0.0.1 or dst 127.0.0.1",
    // Unix sockets by their names.
    "-xa src /run/Lab.sock",
    "-xa src /RUN/lab.sock",
    "-xa src /run/lab.*",
    "-xa src /run/*",
    "-xa src *",
    "-xa src *lab*",
    "-xa src @lab*",
    "-xa src /run/[Ll]ab.sock",
    "-xa src /run/[!a-k]ab.sock",
    "-xa src /run/?ab.sock",
    "-xa src /run/la\\b.sock",
    "-xa src [",
    "-xa src :22",
    "-a src unix:/run/lab*",
    "-a src unix:*",
    "-a src unix:@lab/*",
    "-xa not src /run/*",
    "-a not src unix:/run/*",
    "-xa src /run/lab* or src @*",
    "-a src unix:/run/lab* or src @lab*",
    "-ta src unix:/run/*",
    "-a -f unix src /run/lab.seq",
    "-x state listening src /run/lab*",
    // Packet and netlink sockets.
    "-0a src ip",
    "-0a src IPv4",
    "-0a src all",
    "-0a src *",
    "-0a src 0x800",
    "-0a src *:lo",
    "-0a src all:1",
    "-0a src :lo",
    "-a src link:ip",
    "-a src link:*:lo",
    "-0a sport = lo",
    "-0a not src ip",
    "-a -f netlink src rtnl",
    "-a -f netlink src 0",
    "-a -f netlink src rtnl:kernel",
    "-a -f netlink src genl:*",
    "-a src netlink:uevent",
    "-a src netlink:uevent:0",
    "-a src netlink:*:1",
    "-a src netlink::kernel",
    "-a -f netlink sport = kernel",
    "-a not src netlink:rtnl",
    // Interfaces and control groups.
    "-tua dev lo",
    "-tua dev = lo",
    "-tua dev eq 1",
    "-tua dev != lo",
    "-tua not dev lo",
    "-tua dev 0",
    "-0a dev lo",
    "-0a dev != lo",
    "-tua cgroup /system.slice/ssh.service",
    "-tua cgroup = /sys/fs/cgroup/system.slice/ssh.service",
    "-tua cgroup != /system.slice/ssh.service",
    "-tua cgroup /sys/fs/cgroup",
    "-tua cgroup /sys/fs/cgroup/system.slice/",
    "-tua not cgroup /",
    // Marks, and ports that the kernel chose.
    "-tua fwmark = 0x80002a01",
    "-tua fwmark 0x80002a01",
    "-tua fwmark == 2147494401",
    "-tua fwmark eq 020000025001",
    "-tua fwmark != 0x80002a01",
    "-tua fwmark = 0x1/0xff",
    "-tua fwmark = 0x2a01/0xff",
    "-tua fwmark = 0x2a00/0xff00",
    "-tua fwmark = 0",
    "-tua fwmark = 0/0",
    "-tua not fwmark = 1/0xff",
    "-tua fwmark = 1/0xff and sport = :45454",
    "-wa fwmark = 0",
    "-tua autobound",
    "-ta autobound",
    "-ua autobound",
    "-wa autobound",
    "-tl autobound",
    "-tua autobound and dst 127.0.0.1",
    "-tua autobound sport = :45454",
    "-tua ( autobound or sport = :22 )",
    "-t state time-wait autobound",
    "-xa autobound",
    "-xa not autobound",
    "-0a autobound",
    "-0a not autobound",
    "-a -f netlink autobound",
    "-a -f netlink not autobound",
    "-a autobound",
    // Together.
    "-tua sport = :22 or sport = :80",
    "-tua sport = :22 | sport = :80",
    "-tua sport = :22 || sport = :80",
    "-tua src 127.0.0.1 and sport = :4711",
    "-tua src 127.0.0.1 & sport = :4711",
    "-tua src 127.0.0.1 && sport = :4711",
    "-tua src 127.0.0.1 sport = :4711",
    "-tua src 127.0.0.1 sport = :4711 dst 127.0.0.1",
    "-tua not sport = :22",
    "-tua ! sport = :22",
    "-tua not not sport = :22",
    "-tua not sport = :22 and not sport = :80",
    "-tua not sport = :22 sport = :80",
    "-tua ( sport = :22 )",
    "-tua ( ( sport = :22 ) )",
    "-tua ( sport = :22 or sport = :80 ) and src [::]",
    "-tua ( sport = :22 or dport = :4711 ) ( src 127.0.0.1 or src [::1] )",
    "-tua not ( sport = :22 or sport = :80 )",
    "-tua ! ( src 127.0.0.0/8 | src [::1] )",
    "-tua src 127.0.0.1 and ( sport < :1024 or ( dport = :4711 and not dev lo ) )",
    "-tua sport = :22 and src [::] or sport = :4711",
    "-tua 'sport = :22 or sport = :80'",
    "-tua '( sport = :22' 'or sport = :80 )'",
    "-t state established '( dport = :4711 or sport = :4711 )' and not dst 10.0.0.0/8",
    "-t state established ( dport = :4711 or sport = :4711 ) dst 127/8",
    "-tua sport ge :22 and sport le :80",
    "-tua sport gt 22 sport lt 5000 not sport eq 80",
];

/// Lines that need the names of services, which every host of ours need not have.
const OF_SERVICES: &[&str] = &[
    "-tua sport = :ssh",
    "-tua sport = ssh",
    "-tua sport != :http",
    "-tua sport < :http",
    "-tua src :ssh",
    "-tua src [::]:ssh",
    "-tua src *:http",
    "-t state listening ( sport = :ssh or sport = :http )",
];

/// Lines that `ss` takes otherwise than its manual has it, and with what it takes them so: we take the first as `ss` the second.
const AS_THE_MANUAL: &[(&str, &str)] = &[
    // `and` binds closer than `or`.
    (
        "-tua sport = :22 or sport = :4711 and src [::1]",
        "-tua sport = :22 or ( sport = :4711 and src [::1] )",
    ),
    ("-tua sport = :22 or sport = :80 src 0.0.0.0", "-tua sport = :22 or ( sport = :80 src 0.0.0.0 )"),
    // States choose raw sockets too, and the kernel that `ss` leaves them to does not look at them (`raw_diag_dump`).
    ("-tuwx state established", "-tux state established"),
    ("-wl state established", "-xu state synchronized exclude established"),
    // `ss` asks for the last family only.
    ("-46ta", "-ta"),
    // `ss` does not look at the type of packet sockets. Here those of one type are of one protocol.
    ("-a -A packet_dgram", "-0a src ip"),
    ("-a -A p_raw", "-0a not src ip"),
    // Who has asked for a port that the kernel gives, and who has another that it did not ask for (the server's end of a connection).
    ("-tua not autobound", "-tua sport < :32768 or sport > :60999 or ( sport = :45454 and dport = :0 )"),
    // What is not in a network of IPv4 is all the rest: `ss` compares the first bits of IPv6 too, and without any bits none.
    ("-tua not dst 0.0.0.0", "-tua dst ::/0 or not dst 0.0.0.0"),
    ("-tua not src 0.0.0.0/0", "-tua src ::/0 and not src [::ffff:0:0/96]"),
];

/// Lines that neither takes.
const REFUSED: &[&str] = &[
    "-ta sport",
    "-ta sport =",
    "-ta ( sport = :22",
    "-ta sport = :22 )",
    "-ta sport = :22 or",
    "-ta or sport = :22",
    "-ta not",
    "-ta ( )",
    "-ta established",
    "-ta state",
    "-ta state up",
    "-ta exclude up",
    "-ta src > 127.0.0.1",
    "-ta src 10.0.0.0/33",
    "-ta src [::1",
    "-ta src [::1/129]",
    "-ta src 1.2.3.4.5",
    "-ta src 256.0.0.1",
    "-4ta src [::1]",
    "-ta src inet6:127.0.0.1",
    "-ta sport = :no-such-service",
    "-ta sport > :no-such-service",
    "-ta sport ? :22",
    "-ta dev",
    "-ta dev > lo",
    "-ta fwmark",
    "-ta fwmark x",
    "-ta fwmark = 1/",
    "-ta fwmark > 1",
    "-ta autobound = 1",
    "-0a src no-such-protocol",
    "-a src netlink:no-such-protocol",
    "-a src netlink:rtnl:x",
    "-a src vsock:x",
    "-a -f nothing",
    "-a -A nothing",
    "-a -A tcp,",
    "-y",
];

/// In how many parts all is asked.
const PARTS: usize = 3;
/// How many different sets each of them chooses at least.
const DIFFERENT: usize = 40;

/// What a look may cost: an emulated guest on a busy machine is slow, and that is not what is tested.
const BUDGET: Budget = Budget { time: Duration::from_secs(60), bytes: 64 << 30 };

/// Sockets by what `ss` prints and no other has, with what it prints.
type Printed = BTreeMap<String, String>;

#[test]
fn each_option_and_expression_chooses_what_the_real_ss_chooses() {
    if !testkit::require(&[Need::Debian]) {
        return;
    }
    let guest = debian::boot().unwrap();
    let vm = hypervisor::open(&Target::Pid(guest.pid())).unwrap();
    let kernel = introspect::locate(&*vm.memory, BUDGET).unwrap();
    debian::succeed(&guest, PREPARE).unwrap();
    let lines = lines();
    let look = || {
        let options = Options { budget: BUDGET, ..Options::default() };
        introspect::snapshot(&*vm.memory, &kernel, &vm.vm, &options).unwrap()
    };
    // Some states last a minute, in which not all is asked on every machine.
    for part in lines.chunks(lines.len().div_ceil(PARTS)) {
        ask_and_compare(&guest, part, &look);
    }
}

/// Asks these lines, first and last whether all is still there.
fn ask_and_compare(guest: &Guest, part: &[Line], look: &dyn Fn() -> Snapshot) {
    let all = [Line::Taken { ours: "-a", theirs: "-a" }];
    let lines = [&all, part, &all].concat();
    let mut lacking = Vec::new();
    // On a busy machine it takes as long as some states last.
    for _ in 0..3 {
        let client = furnish(guest);
        let theirs = ask(guest, &lines);
        let snapshot = look();
        let ours = sockets(&snapshot);
        let steady = steady(&theirs, &ours);
        guest.kill(client).unwrap();
        lacking = lacks(&steady);
        if lacking.is_empty() {
            compare(&lines, &theirs, &ours, &steady);
            return;
        }
    }
    panic!("there is nothing long enough of {lacking:?}");
}

/// All that is asked.
fn lines() -> Vec<Line> {
    let alike = |line: &&'static str| Line::Taken { ours: line, theirs: line };
    let mut lines: Vec<Line> = ALIKE.iter().map(alike).collect();
    lines.extend(AS_THE_MANUAL.iter().map(|(ours, theirs)| Line::Taken { ours, theirs }));
    if std::fs::read_to_string("/etc/services").is_ok_and(|text| text.contains("ssh")) {
        lines.extend(OF_SERVICES.iter().map(alike));
    } else {
        testkit::skipped("names of services: this host has no /etc/services");
    }
    lines.extend(REFUSED.iter().map(|line| Line::Refused(line)));
    lines
}

/// The sockets that were there all the time, with what `ss` prints of them.
fn steady(theirs: &[Result<Printed, String>], ours: &BTreeMap<String, &Socket>) -> Printed {
    let (before, after) =
        (theirs.first().unwrap().as_ref().unwrap(), theirs.last().unwrap().as_ref().unwrap());
    let mut both = before.clone();
    // What `ss` itself opens is gone when it ends.
    both.retain(|key, line| after.get(key) == Some(line));
    let unseen: Vec<&String> = both.keys().filter(|key| !ours.contains_key(*key)).collect();
    assert!(unseen.is_empty(), "`ss` has them all the time, and we do not: {unseen:?}");
    both
}

fn compare(
    lines: &[Line],
    theirs: &[Result<Printed, String>],
    ours: &BTreeMap<String, &Socket>,
    steady: &Printed,
) {
    let mut wrong = Vec::new();
    let mut sets = BTreeSet::new();
    for (line, theirs) in lines.iter().zip(theirs) {
        match (line, theirs, choose(line.ours(), ours)) {
            (Line::Taken { ours, .. }, Ok(theirs), Ok(chosen)) => {
                let theirs: BTreeSet<&String> =
                    theirs.keys().filter(|key| steady.contains_key(*key)).collect();
                let chosen: BTreeSet<&String> =
                    chosen.iter().filter(|key| steady.contains_key(key.as_str())).copied().collect();
                for key in theirs.symmetric_difference(&chosen) {
                    let who = if theirs.contains(key) { "ss" } else { "we" };
                    wrong.push(format!("{ours}: only {who} choose {key} {}", steady[*key]));
                }
                sets.insert(theirs);
            }
            (Line::Refused(_), Err(_), Err(_)) => {}
            (line, theirs, chosen) => {
                wrong.push(format!("{line:?}: ss: {:?}, we: {:?}", theirs.as_ref().err(), chosen.err()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Lines that all choose the same would show nothing.
    assert!(sets.len() > DIFFERENT, "only {} different sets were chosen", sets.len());
}

/// Names of services as hosts have them and no names of hosts, so that nobody waits for a name server; and cookies: a socket has
/// none before it is asked for, and `ss` asks.
const PREPARE: &str = "printf 'ssh 22/tcp\\nhttp 80/tcp\\n' >/etc/services
printf 'hosts: files\\nservices: files\\n' >/etc/nsswitch.conf
ss -aHe >/dev/null";

/// Starts a process with sockets of each kind and in each state that lasts. Gives its pid.
fn furnish(guest: &Guest) -> u32 {
    debian::succeed(guest, "rm -f /run/lab.sock /run/lab.seq /run/Lab.dgram").unwrap();
    let [v4, v6] = ["127.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let port = |ip: IpAddr, port: u16| SocketAddr::new(ip, port);
    let mut sockets = vec![
        SocketSpec::TcpMarked { address: port(v4, 45454), mark: 0x8000_2a01 },
        SocketSpec::TcpMapped,
        SocketSpec::UdpConnect { address: port(v6, 5353) },
        SocketSpec::UdpOnInterface { address: port(v4, 5354), interface: "lo".to_owned() },
        SocketSpec::Raw { v6: false, protocol: 1 },
        SocketSpec::Raw { v6: true, protocol: 58 },
        SocketSpec::Packet { ethertype: 3, cooked: false },
        SocketSpec::Packet { ethertype: 0x800, cooked: true },
        SocketSpec::Capture { filter: Filter::Classic, interface: Some("lo".to_owned()) },
        SocketSpec::Netlink { protocol: 0, groups: 1 },
        SocketSpec::Netlink { protocol: 16, groups: 0 },
        SocketSpec::UnixListen { path: "/run/lab.sock".to_owned(), unix_type: UnixType::Stream },
        SocketSpec::UnixListen { path: "/run/lab.seq".to_owned(), unix_type: UnixType::Seqpacket },
        SocketSpec::UnixListen { path: "/run/Lab.dgram".to_owned(), unix_type: UnixType::Dgram },
        SocketSpec::UnixListen { path: "@lab/abstract".to_owned(), unix_type: UnixType::Stream },
        SocketSpec::UnixConnect { path: "/run/lab.sock".to_owned(), unix_type: UnixType::Stream },
        SocketSpec::UnixConnect { path: "/run/Lab.dgram".to_owned(), unix_type: UnixType::Dgram },
        SocketSpec::UnixPair { unix_type: UnixType::Dgram },
    ];
    for ip in [v4, v6] {
        sockets.extend([
            SocketSpec::TcpListen { address: port(ip, 4711) },
            SocketSpec::TcpConnect { address: port(ip, 4711) },
            SocketSpec::UdpBind { address: port(ip, 4711) },
            SocketSpec::TcpHalfClosed { ip },
            SocketSpec::TcpOrphan { ip },
            SocketSpec::TcpSynSent { ip },
            SocketSpec::TcpSynReceived { ip },
            SocketSpec::TcpTimeWait { ip },
        ]);
    }
    let client = Spawn { exe: "/usr/local/bin/client".to_owned(), sockets, ..Spawn::default() };
    guest.spawn(client).unwrap().pid
}

/// What the comparison could not have missed because the guest had nothing of it.
fn lacks(steady: &Printed) -> Vec<&'static str> {
    let wanted = [
        "tcp LISTEN",
        "tcp ESTAB",
        "tcp SYN-SENT",
        "tcp SYN-RECV",
        "tcp FIN-WAIT-1",
        "tcp FIN-WAIT-2",
        "tcp TIME-WAIT",
        "tcp CLOSE-WAIT",
        "udp ESTAB",
        "udp UNCONN",
        // Raw sockets, as `ss` calls them.
        "??? UNCONN",
        "icmp6 UNCONN",
        "u_str LISTEN",
        "u_str ESTAB",
        "u_dgr UNCONN",
        "u_dgr ESTAB",
        "u_seq LISTEN",
        "p_raw UNCONN",
        "p_dgr UNCONN",
        "nl UNCONN",
    ];
    wanted.into_iter().filter(|wanted| !steady.values().any(|line| line == wanted)).collect()
}

fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').zip([false, true].into_iter().cycle());
    parts
        .flat_map(|(part, quoted)| match quoted {
            true => vec![part.to_owned()],
            false => part.split_whitespace().map(str::to_owned).collect(),
        })
        .collect()
}

/// What `ss` in the guest answers to each line; `Err` is how it refuses. One script, because each command is a while.
fn ask(guest: &Guest, lines: &[Line]) -> Vec<Result<Printed, String>> {
    let mut script = String::new();
    for line in lines {
        let words: Vec<String> = words(line.theirs()).iter().map(|word| format!("'{word}'")).collect();
        writeln!(script, "ss -HOne {} 2>&1; echo \"# $?\"", words.join(" ")).unwrap();
    }
    let output = debian::succeed(guest, &script).unwrap();
    let mut answers = Vec::new();
    let mut printed = Vec::new();
    for line in output.lines() {
        match line.strip_prefix("# ") {
            None => printed.push(line),
            Some("0") => answers.push(Ok(std::mem::take(&mut printed).into_iter().map(keyed).collect())),
            Some(_) => answers.push(Err(std::mem::take(&mut printed).join("\n"))),
        }
    }
    assert_eq!(answers.len(), lines.len(), "{output}");
    answers
}

/// What in a line of `ss` no other has, and its words for kind and state.
fn keyed(line: &str) -> (String, String) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let before = |word: &dyn Fn(&str) -> bool, back: usize| {
        words.iter().position(|one| word(one)).and_then(|at| words.get(at.checked_sub(back)?))
    };
    let cookie = words.iter().find_map(|word| word.strip_prefix("sk:")).map(|cookie| format!("sk {cookie}"));
    let netlink = || before(&|word| word.starts_with("sk="), 2).map(|end| format!("netlink {end}"));
    let unix = || {
        before(&|word| ["<->", "-->", "<--", "---"].contains(&word), 3).map(|inode| format!("unix {inode}"))
    };
    let key = cookie.or_else(netlink).or_else(unix);
    (key.unwrap_or_else(|| panic!("not a line of ss: {line}")), words[..2.min(words.len())].join(" "))
}

/// Sockets of the guest's first network namespace by the same keys.
fn sockets(snapshot: &Snapshot) -> BTreeMap<String, &Socket> {
    let init = snapshot.processes.iter().find(|process| process.pid == 1).unwrap();
    let here = snapshot.sockets.iter().filter(|socket| socket.net_namespace == init.namespaces.net);
    here.filter_map(|socket| Some((key(socket)?, socket))).collect()
}

fn key(socket: &Socket) -> Option<String> {
    match socket.family {
        Family::Unix => Some(format!("unix {}", socket.inode.unwrap_or(0))),
        Family::Netlink => {
            let name = socket.protocol.as_deref()?;
            let known = NETLINK.iter().find(|(_, _, ours)| *ours == name);
            let protocol = known.map_or_else(|| name.to_owned(), |(number, ..)| number.to_string());
            Some(format!("netlink {protocol}:{}", socket.netlink.as_ref()?.port.cast_signed()))
        }
        _ => socket.cookie.map(|cookie| format!("sk {cookie:x}")),
    }
}

/// Which of the sockets `birthmark sockets` shows.
fn choose<'s>(line: &str, sockets: &'s BTreeMap<String, &Socket>) -> Result<Vec<&'s String>, String> {
    let words = std::iter::once("sockets".to_owned()).chain(words(line));
    let line = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
    let selection = line.choice.selection()?;
    let shown = sockets.iter().filter(|(_, socket)| selection.shows(socket, &BTreeMap::new()));
    Ok(shown.map(|(key, _)| key).collect())
}
