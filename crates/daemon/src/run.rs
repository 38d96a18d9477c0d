//! The daemon as a whole: its shared state, its threads, and how it starts, reloads and ends.

use crate::config::Config;
use crate::discovery::{self, LEAST_INTERVAL};
use crate::engine::Engine;
use crate::events::{Event, Sink};
use crate::keeper::Keeper;
use crate::learning::{self, Learning};
use crate::look::Job;
use crate::memory;
use crate::registry::Registry;
use crate::schedule::Queue;
use crate::trust::Trust;
use anyhow::Context;
use facts::Vm;
use jiff::Timestamp;
use quarantine::{Enforce, Journal, Quarantine};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the rules in place are compared with the journal.
const KEEP_INTERVAL: Duration = Duration::from_secs(2);
/// How long the end of the daemon waits for looks that are under way.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) registry: Registry,
    pub(crate) sink: Sink,
    pub(crate) queue: Queue<Job>,
    pub(crate) started: Timestamp,
    learning: Vec<Learning>,
    keeper: Mutex<Keeper>,
    trust: RwLock<Arc<Trust>>,
    stopping: Mutex<bool>,
    stop: Condvar,
}

impl Shared {
    pub(crate) fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a VM is learned for, if it is; the first that fits.
    pub(crate) fn learning(&self, vm: &Vm) -> Option<&Learning> {
        self.learning.iter().find(|learning| learning.includes(vm))
    }

    fn load_trust(&self) {
        let serials = self.config.state_dir.join("serials.json");
        let (trust, events) = Trust::load(&self.config.certificates, &self.config.trusted_keys, &serials);
        *self.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
        for event in &events {
            self.sink.emit(event);
        }
    }

    /// Waits, and tells whether the daemon goes on.
    fn goes_on_after(&self, wait: Duration) -> bool {
        let stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopping, _) = self
            .stop
            .wait_timeout_while(stopping, wait, |stopping| !*stopping)
            .unwrap_or_else(PoisonError::into_inner);
        !*stopping
    }
}

/// A running daemon. Ends with [`Daemon::stop`] or when dropped; quarantines stay in place.
#[derive(Debug)]
pub struct Daemon {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Daemon {
    /// Takes the state directory, puts every quarantine of the journal in place again, and starts to look.
    pub fn start(
        config: Config,
        engine: Box<dyn Engine>,
        enforcer: Box<dyn Enforce>,
    ) -> anyhow::Result<Self> {
        let state_dir = &config.state_dir;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .with_context(|| format!("Cannot make the state directory {}", state_dir.display()))?;
        for directory in
            [memory::DIRECTORY, learning::DIRECTORY, learning::KEPT].map(|name| state_dir.join(name))
        {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .with_context(|| format!("Cannot make the directory {}", directory.display()))?;
        }
        let journal = Journal::open(&state_dir.join("quarantine"))?;
        let quarantine = Quarantine::new(journal, enforcer)?;
        let accepted = state_dir.join("accepted.json");
        let keeper = Keeper::new(quarantine, &config.quarantine, accepted.clone())
            .with_context(|| format!("Cannot read {}", accepted.display()))?;
        let sink = Sink::open(&config.findings)
            .with_context(|| format!("Cannot append to {}", config.findings.display()))?;
        let workers = config.workers;
        let started = Timestamp::now();
        learning::forget_others(state_dir, &config.learn)
            .with_context(|| format!("Cannot tidy {}", state_dir.join(learning::KEPT).display()))?;
        let mut learning = Vec::new();
        for of in &config.learn {
            let (learned, problem) = Learning::new(of.clone(), state_dir, started)?;
            learning.push(learned);
            problem.iter().for_each(|event| sink.emit(event));
        }
        let shared = Arc::new(Shared {
            config,
            engine,
            registry: Registry::default(),
            sink,
            queue: Queue::new(),
            started,
            learning,
            keeper: Mutex::new(keeper),
            trust: RwLock::default(),
            stopping: Mutex::new(false),
            stop: Condvar::new(),
        });
        let mut daemon = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        let events = shared.keeper().settle(true);
        let version = env!("CARGO_PKG_VERSION");
        shared.sink.emit(&Event::DaemonStarted { version, pid: std::process::id() });
        for event in &events {
            shared.sink.emit(event);
        }
        shared.load_trust();
        daemon.spawn("discovery", |shared| {
            let interval = shared.config.interval.max(LEAST_INTERVAL);
            let mut told = None;
            loop {
                discovery::discover(shared, &mut told);
                if !shared.goes_on_after(interval) {
                    return;
                }
            }
        })?;
        daemon.spawn("keeper", |shared| {
            while shared.goes_on_after(KEEP_INTERVAL) {
                discovery::keep(shared);
            }
        })?;
        for number in 0..workers {
            daemon.spawn(&format!("look-{number}"), |shared| {
                while let Some(mut job) = shared.queue.pop() {
                    if let Some(due) = job.run(shared) {
                        shared.queue.push(due, job);
                    }
                }
            })?;
        }
        Ok(daemon)
    }

    /// Reads certificates and keys again, and opens the findings file again.
    pub fn reload(&self) {
        if let Err(error) = self.shared.sink.reopen() {
            tracing::error!(%error, "the findings file cannot be opened again; the old one is used");
        }
        self.shared.load_trust();
    }

    /// Ends all looking. Quarantines stay in place.
    pub fn stop(mut self) {
        self.end();
        self.shared.sink.emit(&Event::DaemonStopped);
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    fn end(&mut self) {
        *self.shared.stopping.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.stop.notify_all();
        self.shared.queue.close();
        // A look is bounded, but finding a kernel may take seconds, and nothing of it is lost by leaving it: what has to
        // survive is on disk before it is done.
        let limit = Instant::now().checked_add(STOP_LIMIT);
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && limit.is_some_and(|limit| Instant::now() < limit) {
                thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("a thread of the daemon had panicked");
            }
        }
        let trust = self.shared.trust();
        for learning in &self.shared.learning {
            for event in learning.finish(trust.next_serial(learning.service())) {
                self.shared.sink.emit(&event);
            }
        }
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce(&Shared) + Send + 'static) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&shared))
            .with_context(|| format!("Cannot start thread {name}"))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}
