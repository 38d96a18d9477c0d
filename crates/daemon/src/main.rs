//! `birthmarkd --config FILE`: the daemon, in the foreground.
//!
//! Exit status: 0 after SIGTERM or SIGINT, 2 with one line on standard error when it cannot start. Quarantines stay in
//! place when it ends. SIGHUP reads certificates and keys again.

use anyhow::Context;
use clap::Parser;
use daemon::{Config, Control, Daemon, LiveEngine};
use quarantine::Nftables;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Looks at every VM of this host, tells drift from its birth certificate, and cuts off what drifts.
#[derive(Debug, Parser)]
#[command(name = "birthmarkd", version)]
struct Args {
    /// Configuration (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    start_log();
    match run(&args.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "birthmarkd: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The log goes to standard error, at level info or as `BIRTHMARK_LOG` says (`debug`, `daemon=trace,info`).
fn start_log() {
    let filter: Targets = std::env::var("BIRTHMARK_LOG")
        .ok()
        .filter(|wanted| !wanted.is_empty())
        .and_then(|wanted| wanted.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(filter);
    tracing_subscriber::registry().with(lines).init();
}

fn run(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    let nft = match Nftables::find() {
        Ok(nft) => nft,
        Err(error) if config.quarantine.enabled => return Err(error.into()),
        // Only needed to release what an earlier configuration cut off; that says so when it comes to it.
        Err(_) => Nftables::at("/usr/sbin/nft".into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("Cannot start the runtime of the control socket")?;
    runtime.block_on(async {
        // Before anything is started, so that no signal is missed.
        let mut terminate = signal(SignalKind::terminate()).context("Cannot watch for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("Cannot watch for SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("Cannot watch for SIGHUP")?;
        let engine = LiveEngine::new(config.profiles.clone());
        let daemon = Daemon::start(config, Box::new(engine), Box::new(nft))?;
        let control = Control::bind(&daemon)?;
        tracing::info!("ready");
        let end = async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = hangup.recv() => daemon.reload(),
                }
            }
        };
        control.serve(end).await?;
        tracing::info!("ending; quarantines stay in place");
        daemon.stop();
        Ok(())
    })
}
