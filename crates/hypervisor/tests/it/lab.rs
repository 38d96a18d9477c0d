//! What the tests stand on: real QEMU processes that end with the test, and a thread without privileges.

use nix::sys::signal::Signal;
use nix::unistd::Uid;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Says why a test was not run; with `BIRTHMARK_TESTS=all` that is a failure.
pub fn skip(why: &str) {
    assert!(std::env::var("BIRTHMARK_TESTS").as_deref() != Ok("all"), "not run: {why}");
    println!("skipped: {why}");
}

/// A line of `/proc/PID/status` that is in kB, as bytes.
pub fn rss(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{key}:"))).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Runs `check` in a thread with the user id of `nobody` and no capabilities. `false`, with a message, when this process
/// may not do that.
pub fn as_nobody(check: impl FnOnce() + Send) -> bool {
    if !Uid::effective().is_root() {
        skip("only root can become nobody");
        return false;
    }
    std::thread::scope(|scope| {
        let nobody = scope.spawn(|| {
            // SAFETY: the system call itself, unlike the C function, changes this thread alone, and touches no memory.
            let result = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(result, 0);
            check();
        });
        if let Err(panic) = nobody.join() {
            std::panic::resume_unwind(panic);
        }
    });
    true
}

/// A paused QEMU with a QMP socket. Ends when dropped, and when the test process dies.
pub struct Qemu {
    child: Child,
    pub folder: TempDir,
    qmp: Option<(BufReader<UnixStream>, UnixStream)>,
}

impl Qemu {
    /// Starts QEMU with these options added. `None`, with a message, when there is no QEMU here or it may not be read.
    pub fn start(options: &[&str]) -> Option<Self> {
        Self::start_in(options, false)
    }

    /// The same, optionally in a network namespace of its own.
    pub fn start_in(options: &[&str], own_network: bool) -> Option<Self> {
        if !Uid::effective().is_root() {
            skip("reading another process needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-S", "-nodefaults", "-display", "none"]).args(options);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        // SAFETY: prctl and unshare are async-signal-safe system calls.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                if own_network {
                    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
                }
                Ok(())
            });
        }
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                skip(&format!("qemu-system-x86_64: {error}"));
                return None;
            }
        };
        let mut qemu = Self { child, folder, qmp: None };
        qemu.take_monitor();
        Some(qemu)
    }

    /// Takes the monitor, again if it was let go of.
    pub fn take_monitor(&mut self) {
        let socket = self.folder.path().join("qmp");
        let deadline = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline && self.child.try_wait().unwrap().is_none() => {
                    std::thread::yield_now()
                }
                Err(error) => panic!("QEMU did not come up: {error}"),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        // The greeting comes when the machine is complete.
        reader.read_line(&mut String::new()).unwrap();
        self.qmp = Some((reader, stream));
        self.command("qmp_capabilities", json!({}));
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One QMP command.
    pub fn command(&mut self, name: &str, arguments: Value) -> Value {
        let (reader, stream) = self.qmp.as_mut().unwrap();
        writeln!(stream, "{}", json!({"execute": name, "arguments": arguments})).unwrap();
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).unwrap() > 0, "QEMU closed its monitor");
            let answer: Value = serde_json::from_str(&line).unwrap();
            assert!(answer.get("error").is_none(), "{name}: {answer}");
            if let Some(value) = answer.get("return") {
                return value.clone();
            }
        }
    }

    /// One command of the human monitor.
    pub fn human(&mut self, line: &str) -> String {
        self.command("human-monitor-command", json!({"command-line": line})).as_str().unwrap().to_owned()
    }

    /// Lets go of the monitor, so that another client can have it.
    pub fn release_monitor(&mut self) {
        self.qmp = None;
    }

    /// Writes guest memory the hard way: QEMU itself says where a guest-physical address is in its own memory.
    pub fn poke(&mut self, gpa: u64, bytes: &[u8]) {
        let answer = self.human(&format!("gpa2hva {gpa:#x}"));
        let address = answer.trim().rsplit_once(" is ").unwrap_or_else(|| panic!("{answer}")).1;
        let address = u64::from_str_radix(address.trim_start_matches("0x"), 16).unwrap();
        let mem = fs::OpenOptions::new().write(true).open(format!("/proc/{}/mem", self.pid())).unwrap();
        mem.write_all_at(bytes, address).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
