//! Cuts devices off with nftables, by the `nft` command.
//!
//! A child process keeps the GPL libraries of nftables out of this program, and a script is something an operator can
//! read and repeat by hand. All devices of a VM in one network namespace go into one script, which the kernel takes as one
//! transaction. Afterwards the tables are listed again: only what the kernel says is reported as in place.
//!
//! Known limit: `nft flush ruleset` by somebody else removes our tables as well (the `owner, persist` table flags that
//! would stop it take netlink of our own and Linux 6.9). [`crate::Quarantine::check`] finds and mends that.

use crate::namespace::inside;
use crate::{Cut, Dropped, Enforce, Error, InterfaceName, Place, Policy, Status, rules};
use facts::Nic;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Longest run of `nft`. It takes milliseconds; it waits while others change rules.
const LIMIT: Duration = Duration::from_secs(10);
/// Most bytes read of what `nft` writes. A table of ours is a few kilobytes.
const MAX_OUTPUT: u64 = 4 << 20;
/// Most bytes of an error message that are passed on.
const MAX_MESSAGE: usize = 400;
/// Where distributions put it; tried before `PATH`, which a service manager may not have set.
const USUAL: [&str; 4] = ["/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft", "/usr/local/sbin/nft"];

/// The nftables backend.
#[derive(Clone, Debug)]
pub struct Nftables {
    nft: PathBuf,
}

impl Nftables {
    /// Finds `nft` in the usual places, then in `PATH`.
    pub fn find() -> Result<Self, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = USUAL.iter().map(PathBuf::from);
        let others = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join("nft"));
        usual.chain(others).find(|nft| nft.is_file()).map(Self::at).ok_or(Error::NftMissing)
    }

    /// Uses the given binary.
    #[must_use]
    pub fn at(nft: PathBuf) -> Self {
        Self { nft }
    }

    /// Runs a script and returns what it printed. The calling thread is in the right namespace already.
    fn run(&self, arguments: &[&str], script: &str, namespace: &str) -> Result<Output, Error> {
        let mut child = Command::new(&self.nft)
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => Error::NftMissing,
                _ => Error::NftStart { path: self.nft.clone(), source },
            })?;
        let timeout = || Error::NftTimeout { namespace: namespace.to_owned(), seconds: LIMIT.as_secs() };
        let io_failed = |source| Error::NftStart { path: self.nft.clone(), source };
        let output = exchange(&mut child, script).map_err(io_failed)?.ok_or_else(timeout)?;
        if output.message.contains("Operation not permitted") || output.message.contains("you must be root") {
            return Err(Error::Permission { namespace: namespace.to_owned() });
        }
        Ok(output)
    }

    /// Runs a script that must succeed.
    fn change(&self, script: &str, namespace: &str) -> Result<(), Error> {
        let output = self.run(&["-f", "-"], script, namespace)?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::NftFailed {
            namespace: namespace.to_owned(),
            status: output.status,
            message: one_line(&output.message),
        })
    }

    /// How one device of the current thread's namespace stands.
    fn read_back(&self, place: &Place) -> Result<Status, Error> {
        if place.is_present() { self.read_table(place) } else { Ok(Status::Absent) }
    }

    /// The same, from the table alone: whether the device exists is not asked.
    fn read_table(&self, place: &Place) -> Result<Status, Error> {
        let table = rules::table(&place.interface);
        let output = self.run(&["-j", "list", "table", "netdev", &table], "", &place.namespace)?;
        if output.status.success() {
            return parse(&output.text, &place.interface);
        }
        if output.message.contains("No such file or directory") {
            return Ok(Status::Open);
        }
        Err(Error::NftFailed {
            namespace: place.namespace.clone(),
            status: output.status,
            message: one_line(&output.message),
        })
    }

    /// Cuts off devices that share a namespace.
    fn apply_together(&self, cuts: &[&Cut], policy: &Policy) -> Result<(), Error> {
        let Some(first) = cuts.first() else { return Ok(()) };
        let namespace = &first.place.namespace;
        // From about Linux 6.16 on, the kernel accepts rules for a device that does not exist and binds them when one of
        // that name appears, whoever it belongs to. So it is asked first, and again when the rules are read back.
        let (present, absent): (Vec<&Cut>, Vec<&Cut>) =
            cuts.iter().copied().partition(|cut| cut.place.is_present());
        let script = |start: fn(&InterfaceName) -> String| -> String {
            let all = present.iter().map(|cut| (&cut.place.interface, cut.counted));
            all.map(|(device, counted)| start(device) + &rules::cut(device, policy, counted)).collect()
        };
        if !present.is_empty() {
            match self.change(&script(rules::fresh), namespace) {
                Err(Error::NftFailed { message, .. }) if message.contains("File exists") => {
                    self.change(&script(rules::gone), namespace)?;
                }
                done => done?,
            }
        }
        match absent.first() {
            None => Ok(()),
            Some(cut) => Err(cut.place.absent()),
        }
    }

    /// Reads back that devices of one namespace are cut off.
    fn prove_together(&self, cuts: &[&Cut]) -> Result<(), Error> {
        for cut in cuts {
            let interface = cut.place.interface.to_string();
            match self.read_back(&cut.place)? {
                Status::Cut { .. } => {}
                Status::Broken { missing } => return Err(Error::NotInPlace { interface, what: missing }),
                Status::Open => return Err(Error::NotInPlace { interface, what: "the table is missing" }),
                Status::Absent => return Err(cut.place.absent()),
            }
        }
        Ok(())
    }

    fn remove_together(&self, places: &[&Place]) -> Result<(), Error> {
        let Some(first) = places.first() else { return Ok(()) };
        let namespace = &first.namespace;
        inside(first, || {
            let script: String = places.iter().map(|place| rules::gone(&place.interface)).collect();
            self.change(&script, namespace)?;
            for place in places {
                if self.read_table(place)? != Status::Open {
                    return Err(Error::StillThere { interface: place.interface.to_string() });
                }
            }
            Ok(())
        })
    }
}

impl Enforce for Nftables {
    fn locate(&self, nic: &Nic) -> Result<Place, Error> {
        Place::of(nic)
    }

    fn apply(&self, cuts: &[Cut], policy: &Policy) -> Result<Instant, Error> {
        let groups = by_namespace(cuts, |cut| cut.place.inode);
        let each = |work: &(dyn Fn(&[&Cut]) -> Result<(), Error> + Sync)| {
            let mut outcome = Ok(());
            for group in groups.values() {
                if let Some(first) = group.first() {
                    outcome = inside(&first.place, || work(group)).and(outcome);
                }
            }
            outcome
        };
        let applied = each(&|group| self.apply_together(group, policy));
        let in_place = Instant::now();
        applied?;
        each(&|group| self.prove_together(group))?;
        Ok(in_place)
    }

    fn remove(&self, places: &[Place]) -> Result<(), Error> {
        let mut failure = None;
        for group in by_namespace(places, |place| place.inode).values() {
            match self.remove_together(group) {
                // The rules of a namespace end with it.
                Ok(()) | Err(Error::NamespaceGone { .. }) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn status(&self, place: &Place) -> Result<Status, Error> {
        inside(place, || self.read_back(place))
    }
}

fn by_namespace<T>(items: &[T], inode: impl Fn(&T) -> u64) -> BTreeMap<u64, Vec<&T>> {
    let mut groups: BTreeMap<u64, Vec<&T>> = BTreeMap::new();
    for item in items {
        groups.entry(inode(item)).or_default().push(item);
    }
    groups
}

/// What a run of `nft` left.
struct Output {
    status: ExitStatus,
    text: Vec<u8>,
    message: String,
}

/// Feeds a child and reads what it writes. `None`: it was killed because it did not end in time.
fn exchange(child: &mut Child, script: &str) -> io::Result<Option<Output>> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let (ended, end) = mpsc::channel::<()>();
    let (text, message, killed) = thread::scope(|scope| {
        let watchdog = scope.spawn(move || {
            let late = end.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
            // The child is not waited for before this thread has ended, so the pid is still its own.
            late && kill(pid, Signal::SIGKILL).is_ok()
        });
        let writer = scope.spawn(move || {
            // A child that ends early closes the pipe; its status tells why.
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(script.as_bytes());
            }
        });
        let errors = scope.spawn(move || read_all(stderr));
        let text = read_all(stdout);
        let message = errors.join().unwrap_or_default();
        let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        drop(ended);
        let _ = writer.join();
        (text, message, watchdog.join().unwrap_or(false))
    });
    let status = child.wait()?;
    let message = String::from_utf8_lossy(&message).into_owned();
    Ok((!killed).then_some(Output { status, text, message }))
}

fn read_all(stream: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let _ = stream.take(MAX_OUTPUT).read_to_end(&mut bytes);
    }
    bytes
}

/// What a person needs of a message of several lines with carets under them.
fn one_line(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().filter(|word| !word.starts_with('^')).collect();
    words.join(" ").chars().take(MAX_MESSAGE).collect()
}

/// Reads the JSON of `nft -j list table`: both chains must hook the device with a policy of drop, both counters must be
/// there. nft 1.0.6 does not list the device of a chain; where it is listed it must be ours.
fn parse(text: &[u8], interface: &InterfaceName) -> Result<Status, Error> {
    let listing: Value = serde_json::from_slice(text)
        .map_err(|source| Error::NftOutput { interface: interface.to_string(), source })?;
    let objects = listing.get("nftables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let named = |kind: &str, name: &str| {
        objects
            .iter()
            .filter_map(|object| object.get(kind))
            .find(|object| object.get("name").and_then(Value::as_str) == Some(name))
    };
    let hooked = |chain: &str, hook: &str| {
        named("chain", chain).is_some_and(|chain| {
            let is = |key: &str, value: &str| chain.get(key).and_then(Value::as_str) == Some(value);
            let device = match chain.get("dev") {
                None => true,
                Some(Value::String(name)) => name == interface.as_str(),
                Some(Value::Array(names)) => {
                    names.iter().any(|name| name.as_str() == Some(interface.as_str()))
                }
                Some(_) => false,
            };
            is("hook", hook) && is("policy", "drop") && device
        })
    };
    let counter = |name: &str| {
        let counter = named("counter", name)?;
        Some((counter.get("packets")?.as_u64()?, counter.get("bytes")?.as_u64()?))
    };
    if !hooked(rules::FROM_GUEST, "ingress") {
        return Ok(Status::Broken { missing: "the chain for what the guest sends is missing" });
    }
    if !hooked(rules::TO_GUEST, "egress") {
        return Ok(Status::Broken { missing: "the chain for what is sent to the guest is missing" });
    }
    let (Some((from_packets, from_bytes)), Some((to_packets, to_bytes))) =
        (counter(rules::DROPPED_FROM), counter(rules::DROPPED_TO))
    else {
        return Ok(Status::Broken { missing: "a counter is missing" });
    };
    Ok(Status::Cut { dropped: Dropped { from_packets, from_bytes, to_packets, to_bytes } })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "netdev", "name": "birthmark_v0", "handle": 3}},
        {"counter": {"family": "netdev", "name": "dropped_from", "table": "birthmark_v0", "packets": 7, "bytes": 70}},
        {"counter": {"family": "netdev", "name": "dropped_to", "table": "birthmark_v0", "packets": 9, "bytes": 90}},
        {"chain": {"name": "from_guest", "type": "filter", "hook": "ingress", "prio": -500, "policy": "drop"}},
        {"chain": {"name": "to_guest", "type": "filter", "hook": "egress", "prio": -500, "policy": "drop"}}]}"#;

    fn v0() -> InterfaceName {
        InterfaceName::new("v0").unwrap()
    }

    #[test]
    fn a_complete_listing_is_a_cut_with_its_counters() {
        let dropped = Dropped { from_packets: 7, from_bytes: 70, to_packets: 9, to_bytes: 90 };
        assert_eq!(parse(LISTED.as_bytes(), &v0()).unwrap(), Status::Cut { dropped });
    }

    #[test]
    fn a_listing_without_a_chain_a_policy_or_a_counter_is_broken() {
        for (from, to) in [
            ("\"from_guest\"", "\"other\""),
            ("\"egress\"", "\"ingress\""),
            ("\"policy\": \"drop\"", "\"policy\": \"accept\""),
            ("\"dropped_to\"", "\"x\""),
            ("\"hook\": \"ingress\"", "\"hook\": \"ingress\", \"dev\": \"v1\""),
        ] {
            let text = LISTED.replacen(from, to, 1);
            assert!(matches!(parse(text.as_bytes(), &v0()).unwrap(), Status::Broken { .. }), "{from}");
        }
    }

    #[test]
    fn a_listing_that_is_not_json_is_an_error() {
        assert!(parse(b"table netdev", &v0()).is_err());
    }

    #[test]
    fn a_missing_binary_is_told_with_what_to_install() {
        let nft = Nftables::at(PathBuf::from("/nonexistent/nft"));
        let message = nft.change("", "/proc/self/ns/net").unwrap_err().to_string();
        assert!(message.contains("install the nftables package"), "{message}");
    }

    #[test]
    fn a_failing_binary_is_told_with_its_status() {
        let nft = Nftables::at(PathBuf::from("/bin/false"));
        assert!(matches!(nft.change("", "/proc/self/ns/net"), Err(Error::NftFailed { .. })));
    }
}
