//! A connection that is used all the time, so that the moment it dies can be told.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Time between two questions.
const INTERVAL: Duration = Duration::from_millis(1);
/// Longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// One byte there, one byte back, once a millisecond. Ends when dropped.
pub(super) struct Pulse {
    state: Arc<State>,
}

struct State {
    answers: AtomicU64,
    last: Mutex<Instant>,
    stop: AtomicBool,
}

impl Pulse {
    /// Connects, in the network namespace of the calling thread.
    pub(super) fn start(address: &str) -> Result<Self> {
        let peer: SocketAddr = address.parse()?;
        let stream = TcpStream::connect_timeout(&peer, PATIENCE)
            .with_context(|| format!("No connection to the guest's {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        let state = Arc::new(State {
            answers: AtomicU64::new(0),
            last: Mutex::new(Instant::now()),
            stop: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || beat(stream, &shared));
        Ok(Self { state })
    }

    pub(super) fn answers(&self) -> u64 {
        self.state.answers.load(Ordering::Relaxed)
    }

    /// When the last answer came.
    pub(super) fn last_answer(&self) -> Instant {
        *self.state.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How long there has been none.
    pub(super) fn silence(&self) -> Duration {
        self.last_answer().elapsed()
    }

    pub(super) fn wait_for_answers(&self, answers: u64) -> Result<()> {
        wait(|| self.answers() >= answers, "The guest stopped answering")
    }

    pub(super) fn wait_for_silence(&self, silence: Duration) -> Result<()> {
        wait(|| self.silence() >= silence, "The connection is still alive")
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether a connection can be made, and used, within `patience`.
pub(super) fn connects(address: &str, patience: Duration) -> bool {
    let Ok(peer) = address.parse() else { return false };
    let Ok(mut stream) = TcpStream::connect_timeout(&peer, patience) else { return false };
    let mut answer = [0];
    stream.set_read_timeout(Some(patience)).is_ok()
        && stream.write_all(b"?").is_ok()
        && stream.read_exact(&mut answer).is_ok()
}

fn beat(mut stream: TcpStream, state: &State) {
    let mut answer = [0];
    let mut asked = false;
    while !state.stop.load(Ordering::Relaxed) {
        // One question at a time: what is not answered is sent again by TCP, not by us.
        if !asked && stream.write_all(b".").is_err() {
            return;
        }
        asked = true;
        if stream.read_exact(&mut answer).is_ok() {
            asked = false;
            state.answers.fetch_add(1, Ordering::Relaxed);
            *state.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
            std::thread::sleep(INTERVAL);
        }
    }
}

fn wait(done: impl Fn() -> bool, otherwise: &str) -> Result<()> {
    let started = Instant::now();
    while !done() {
        ensure!(started.elapsed() < PATIENCE, "{otherwise} (waited {} s)", PATIENCE.as_secs());
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}
