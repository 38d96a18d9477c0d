//! The configuration: one TOML file, every key documented in `packaging/birthmarkd.toml`.
//!
//! A key that is not known is an error, never ignored: a misspelt `mode` must not leave a host in monitor mode. An
//! error names the file, the line and the key.

use attest::Pattern;
use jiff::SignedDuration;
use quarantine::{Policy, Prefix};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most bytes of a configuration file.
const MAX_FILE: u64 = 1 << 20;

/// Why a configuration is refused. One line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("Cannot read the configuration {path}")]
    Read {
        /// Path as given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in it is wrong.
    #[error("{path}, line {line}{key}: {message}")]
    Content {
        /// Path as given.
        path: String,
        /// Line, from 1.
        line: usize,
        /// `, key "interval"`, or nothing when the line has none.
        key: String,
        /// What is wrong.
        message: String,
    },
}

/// The configuration of `birthmarkd`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Time between two looks at a VM.
    #[serde(default = "one_second", deserialize_with = "duration")]
    pub interval: Duration,
    /// Time between a look that found something and the next, which confirms it or not.
    #[serde(default = "five_milliseconds", deserialize_with = "duration")]
    pub confirm_after: Duration,
    /// How long after a boot that was seen to begin findings wait for their confirmation.
    #[serde(default = "one_minute", deserialize_with = "duration_or_none")]
    pub boot_grace: Duration,
    /// Looks in a row that must agree. A certificate can ask for more, not for less.
    #[serde(default = "two", deserialize_with = "confirmations")]
    pub confirmations: u32,
    /// Where intent and memory of the daemon are kept.
    #[serde(default = "state_dir")]
    pub state_dir: PathBuf,
    /// File that events are appended to as JSON lines; `-` is standard output.
    #[serde(default = "standard_output")]
    pub findings: PathBuf,
    /// Path of the control socket.
    #[serde(default = "socket")]
    pub socket: PathBuf,
    /// Certificates: files, and directories whose files are taken.
    #[serde(deserialize_with = "paths")]
    pub certificates: Vec<PathBuf>,
    /// Public keys (PEM) that certificates must be signed by: files, and directories whose `.pub` and `.pem` are taken.
    #[serde(deserialize_with = "paths")]
    pub trusted_keys: Vec<PathBuf>,
    /// Directories with kernel profiles. Empty: kernels are only read out of their guests' own memory.
    #[serde(default = "profiles")]
    pub profiles: Vec<PathBuf>,
    /// Names of the VMs to look at, with `*` and `?`; empty: all.
    #[serde(default)]
    pub only: Names,
    /// Threads that look at VMs.
    #[serde(default = "two_workers", deserialize_with = "workers")]
    pub workers: usize,
    /// VMs that are learned from, and not held against any certificate.
    #[serde(default, deserialize_with = "learn")]
    pub learn: Vec<Learn>,
    /// What is done about drift.
    #[serde(default)]
    pub quarantine: QuarantineConfig,
}

/// One `[[learn]]` part.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learn {
    /// Service that the VMs are of.
    pub service: String,
    /// Templates for their names, which the draft selects too.
    #[serde(deserialize_with = "some_names")]
    pub vms: Vec<Pattern>,
    /// Whether flows are learned too.
    #[serde(default)]
    pub flows: bool,
}

/// The `[quarantine]` part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuarantineConfig {
    /// Whether the daemon may cut VMs off at all.
    #[serde(default)]
    pub enabled: bool,
    /// Whether it does so by itself, or only when an operator says so.
    #[serde(default)]
    pub mode: Mode,
    /// Networks that a VM in quarantine may still reach and be reached from.
    #[serde(default, deserialize_with = "policy")]
    pub management: Policy,
}

/// Who decides that a VM is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// An operator, by `birthmark quarantine`. Findings are only told.
    #[default]
    Monitor,
    /// The daemon too, where the VM's certificate asks for it.
    Enforce,
}

/// Templates for names, as certificates have them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Names(Vec<Pattern>);

impl Names {
    /// Whether a name matches, or there is no template at all.
    #[must_use]
    pub fn include(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|template| template.matches(name))
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let read = File::open(path)
            .and_then(|file| file.take(MAX_FILE.saturating_add(1)).read_to_string(&mut text))
            .map_err(failed)?;
        if u64::try_from(read).is_ok_and(|read| read > MAX_FILE) {
            return Err(failed(io::Error::other("the file is longer than 1 MiB")));
        }
        Self::parse(&text, path)
    }

    /// Checks the text of a file; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or_default();
            let line = before.matches('\n').count();
            let key = text.lines().nth(line).and_then(|line| line.split_once('='));
            ConfigError::Content {
                path: path.display().to_string(),
                line: line.saturating_add(1),
                key: key.map(|(key, _)| format!(", key {:?}", key.trim())).unwrap_or_default(),
                message: error.message().lines().collect::<Vec<_>>().join(" "),
            }
        })
    }
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn one_minute() -> Duration {
    Duration::from_secs(60)
}

fn five_milliseconds() -> Duration {
    Duration::from_millis(5)
}

fn two() -> u32 {
    2
}

fn two_workers() -> usize {
    2
}

fn state_dir() -> PathBuf {
    "/var/lib/birthmark".into()
}

fn profiles() -> Vec<PathBuf> {
    [guest_profiles::Store::WRITABLE, guest_profiles::Store::SHIPPED].map(PathBuf::from).into()
}

fn standard_output() -> PathBuf {
    "-".into()
}

fn socket() -> PathBuf {
    "/run/birthmark/birthmarkd.sock".into()
}

/// `"50ms"`, `"1s"`, `"1m 30s"`: 1 ms to 1 h.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    between(&String::deserialize(deserializer)?, "1ms", Duration::from_millis(1))
}

/// The same, or `"0s"`.
fn duration_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    between(&String::deserialize(deserializer)?, "0s", Duration::ZERO)
}

fn between<E: de::Error>(text: &str, name_of_least: &str, least: Duration) -> Result<Duration, E> {
    let duration: SignedDuration = text
        .parse()
        .map_err(|_| de::Error::custom(format!("{text:?} is not a time like \"1s\" or \"50ms\"")))?;
    let duration = Duration::try_from(duration).map_err(|_| de::Error::custom("a time is not negative"))?;
    if !(least..=Duration::from_secs(3600)).contains(&duration) {
        return Err(de::Error::custom(format!("{text:?} is not between {name_of_least} and 1h")));
    }
    Ok(duration)
}

fn in_range<E: de::Error>(number: u32, from: u32, to: u32) -> Result<u32, E> {
    if (from..=to).contains(&number) {
        return Ok(number);
    }
    Err(E::custom(format!("{number} is not between {from} and {to}")))
}

fn confirmations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(u32::deserialize(deserializer)?, attest::LEAST_CONFIRMATIONS, 100)
}

fn workers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let number = in_range(u32::deserialize(deserializer)?, 1, 256)?;
    usize::try_from(number).map_err(de::Error::custom)
}

fn some_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Pattern>, D::Error> {
    let names = Vec::<Pattern>::deserialize(deserializer)?;
    if names.is_empty() {
        return Err(de::Error::custom("the VMs to learn from have to be named; [\"*\"] is all of them"));
    }
    Ok(names)
}

/// Services with a name, each once.
fn learn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Learn>, D::Error> {
    let all = Vec::<Learn>::deserialize(deserializer)?;
    let mut services = BTreeSet::new();
    for one in &all {
        quarantine::file_stem(&one.service)
            .map_err(|_| de::Error::custom(format!("a service cannot be called {:?}", one.service)))?;
        if !services.insert(&one.service) {
            return Err(de::Error::custom(format!("service {:?} is there twice", one.service)));
        }
    }
    Ok(all)
}

fn policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Policy, D::Error> {
    let networks = Vec::<Prefix>::deserialize(deserializer)?;
    Policy::with_management(&networks).map_err(de::Error::custom)
}

/// One path or a list of them.
fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    struct Paths;
    impl<'de> Visitor<'de> for Paths {
        type Value = Vec<PathBuf>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path or a list of paths")
        }

        fn visit_str<E: de::Error>(self, path: &str) -> Result<Self::Value, E> {
            if path.is_empty() {
                return Err(E::custom("a path is not empty"));
            }
            Ok(vec![path.into()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut paths = Vec::new();
            while let Some(path) = list.next_element::<PathBuf>()? {
                paths.push(path);
            }
            Ok(paths)
        }
    }
    deserializer.deserialize_any(Paths)
}
