//! Starts QEMU so that it cannot outlive the test: killed when the test process ends, however it ends.

use anyhow::{Context, Result, anyhow};
use nix::libc;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};

/// A program to start.
pub(crate) struct Start {
    pub(crate) program: &'static str,
    pub(crate) arguments: Vec<OsString>,
    /// Name of the network namespace to run in.
    pub(crate) namespace: Option<String>,
    pub(crate) stderr: File,
}

/// Starts it from a thread that lives as long as this process does: the kernel sends the parent-death signal when the
/// *thread* that started the child ends, and the thread of a test ends long before a guest that tests share.
pub(crate) fn start(start: Start) -> Result<Child> {
    type Order = (Start, Sender<Result<Child>>);
    static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox): (Sender<Order>, Receiver<Order>) = channel();
        std::thread::spawn(move || {
            for (order, answer) in inbox {
                // A caller that is gone needs no answer; its child is killed with the process.
                let _ = answer.send(start_here(order));
            }
        });
        Mutex::new(orders)
    });
    let (answer, result) = channel();
    let lost = || anyhow!("The thread that starts processes has ended");
    starter.lock().map_err(|_| lost())?.send((start, answer)).map_err(|_| lost())?;
    result.recv().map_err(|_| lost())?
}

fn start_here(start: Start) -> Result<Child> {
    let namespace = match &start.namespace {
        Some(name) => {
            let path = format!("/run/netns/{name}");
            Some(File::open(&path).with_context(|| format!("Cannot open the network namespace {path}"))?)
        }
        None => None,
    };
    let parent = std::process::id();
    let mut command = Command::new(start.program);
    command.args(&start.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(start.stderr);
    let enter = move || {
        // SAFETY: plain system calls on integers; nothing is allocated or locked between fork and exec.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // The parent may have died before the line above.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            if let Some(namespace) = &namespace
                && libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `enter` only makes async-signal-safe system calls.
    unsafe { command.pre_exec(enter) };
    command.spawn().with_context(|| format!("Cannot start {} (is it installed?)", start.program))
}
