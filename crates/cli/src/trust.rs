//! Which keys are trusted with what, which certificate is for a VM, and which serials were seen before.

use crate::args::TrustArgs;
use crate::files;
use crate::output;
use crate::signing::public_key;
use anyhow::{Context, bail};
use attest::dsse::ENVELOPE_LIMIT;
use attest::{PublicKey, TrustPolicy, Verified, VerifyOptions};
use facts::Vm;
use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Most bytes of `trust.toml` and of the files with serials.
const STATE_LIMIT: usize = 16 << 20;
/// Most files taken from a directory.
const FILES_MAX: usize = 10_000;
/// What birthmarkd remembers, and what `audit` does.
const SERIALS: [&str; 2] = ["serials.json", "audit-serials.json"];

/// Whom to trust with what, and what was seen before.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    keys: Vec<PublicKey>,
    options: VerifyOptions,
    /// Files of serials that may not be read.
    unread: Vec<PathBuf>,
}

/// A certificate that passed every check, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Trusted {
    pub(crate) path: PathBuf,
    pub(crate) verified: Verified,
}

impl Trust {
    /// The keys given, else those of the configuration directory with their limits. A key that cannot be read is an error:
    /// without it a good certificate would be called a bad one.
    pub(crate) fn load(args: &TrustArgs) -> anyhow::Result<Self> {
        let directory = args.config_dir.join("trusted-keys");
        let given = !args.trusted_keys.is_empty();
        let paths = if given { args.trusted_keys.clone() } else { entries(&directory, &["pub", "pem"])? };
        let keys = paths.iter().map(|path| public_key(path)).collect::<anyhow::Result<_>>()?;
        let trust = if given { TrustPolicy::default() } else { policy(&directory.join("trust.toml"))? };
        let (highest_serials, unread) = serials(&args.state_dir)?;
        Ok(Self { keys, options: VerifyOptions { highest_serials, trust, early: false }, unread })
    }

    /// Verifies the bytes of a certificate.
    pub(crate) fn check(&self, envelope: &[u8]) -> Result<Verified, attest::Refusal> {
        attest::verify(envelope, &self.keys, Timestamp::now(), &self.options)
    }

    /// Reads and verifies one certificate.
    pub(crate) fn verify(&self, path: &Path) -> anyhow::Result<Trusted> {
        let bytes = files::read(path, "certificate", ENVELOPE_LIMIT)?;
        let verified =
            self.check(&bytes).with_context(|| format!("The certificate {} is refused", path.display()))?;
        for file in &self.unread {
            output::note(&format!("{} cannot be read: serials seen before are not known", file.display()));
        }
        Ok(Trusted { path: path.to_owned(), verified })
    }

    /// The certificate of the configuration directory that selects the VM: of one service the one with the highest serial.
    /// `None` when none does. When none does but one was refused, that is an error: it might have been the one.
    pub(crate) fn find(&self, args: &TrustArgs, vm: &Vm) -> anyhow::Result<Option<Trusted>> {
        let directory = args.config_dir.join("certificates");
        let mut refused = Vec::new();
        let mut best: BTreeMap<String, Trusted> = BTreeMap::new();
        for path in entries(&directory, &["json"])? {
            match self.verify(&path) {
                Err(error) => refused.push(error),
                Ok(trusted) => {
                    let certificate = trusted.verified.certificate();
                    let newer = best
                        .get(&certificate.service)
                        .is_none_or(|other| other.verified.certificate().serial < certificate.serial);
                    if newer {
                        best.insert(certificate.service.clone(), trusted);
                    }
                }
            }
        }
        // Chosen by serial first: when the newest of a service selects the VM no longer, an older one must not.
        let mut fitting = best.into_values().filter(|one| one.verified.certificate().selector.selects(vm));
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => Ok(Some(one)),
            (Some(one), Some(other)) => bail!(
                "Certificates of several services are for {}: {} and {}; name one with --certificate",
                vm.name,
                one.path.display(),
                other.path.display()
            ),
            (None, _) => match refused.into_iter().next() {
                Some(error) => Err(error.context(format!(
                    "No certificate of {} is for {}",
                    directory.display(),
                    vm.name
                ))),
                None => Ok(None),
            },
        }
    }
}

/// Keeps the serial of a certificate that was used, so that an older one is refused from now on. Who may not write there
/// is told so; the audit goes on.
pub(crate) fn remember(args: &TrustArgs, trusted: &Trusted) {
    let certificate = trusted.verified.certificate();
    if let Err(error) = keep_serial(&args.state_dir, &certificate.service, certificate.serial) {
        output::note(&format!(
            "Serial {} is not remembered, so an older certificate would be accepted: {error:#}",
            certificate.serial
        ));
    }
}

fn keep_serial(directory: &Path, service: &str, serial: u64) -> anyhow::Result<()> {
    let path = directory.join(SERIALS[1]);
    let failed = || format!("Cannot write {}", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(failed)?;
    // Two audits at a time must not forget what the other saw.
    let lock_path = directory.join("audit-serials.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(lock_path);
    let lock = Flock::lock(file.with_context(failed)?, FlockArg::LockExclusive);
    let _lock = lock.map_err(|(_, error)| error).with_context(failed)?;
    let mut seen = read_serials(&path)?;
    if seen.get(service).is_some_and(|known| *known >= serial) {
        return Ok(());
    }
    seen.insert(service.to_owned(), serial);
    files::write(&path, &serde_json::to_vec_pretty(&seen)?, 0o600, true)
}

/// The highest serials that birthmarkd or `audit` has seen, and the files of them that may not be read.
fn serials(directory: &Path) -> anyhow::Result<(BTreeMap<String, u64>, Vec<PathBuf>)> {
    let mut highest: BTreeMap<String, u64> = BTreeMap::new();
    let mut unread = Vec::new();
    for path in SERIALS.map(|name| directory.join(name)) {
        if fs::metadata(&path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
            unread.push(path);
            continue;
        }
        for (service, serial) in read_serials(&path)? {
            let known = highest.entry(service).or_default();
            *known = serial.max(*known);
        }
    }
    Ok((highest, unread))
}

fn read_serials(path: &Path) -> anyhow::Result<BTreeMap<String, u64>> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(BTreeMap::new());
    }
    let bytes = files::read(path, "file of serials seen", STATE_LIMIT)?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("The serials seen before, {}, are damaged", path.display()))
}

/// Limits of the keys of a directory; none when there is no such file.
fn policy(path: &Path) -> anyhow::Result<TrustPolicy> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(TrustPolicy::default());
    }
    let bytes = files::read(path, "limits of keys", STATE_LIMIT)?;
    toml::from_str(&String::from_utf8_lossy(&bytes)).map_err(|error| {
        let line = error.to_string().trim().replace('\n', " ");
        anyhow::anyhow!("The limits of keys {} are not understood: {line}", path.display())
    })
}

/// Files of a directory with one of these endings, by name. A directory that does not exist has none.
fn entries(directory: &Path, endings: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let failed = || format!("Cannot read the directory {}", directory.display());
    let mut paths = Vec::new();
    match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(failed),
        Ok(entries) => {
            for entry in entries {
                let path = entry.with_context(failed)?.path();
                let ending = path.extension().and_then(|ending| ending.to_str());
                if ending.is_some_and(|ending| endings.contains(&ending)) {
                    paths.push(path);
                }
                if paths.len() > FILES_MAX {
                    bail!("{}: it has more than {FILES_MAX} files", failed());
                }
            }
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_serial_is_kept_by_service_and_never_lowered() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        for (service, serial) in [("web", 7), ("web", 5), ("db", 1), ("web", 8)] {
            keep_serial(&state, service, serial).unwrap();
        }
        fs::write(state.join(SERIALS[0]), r#"{"web": 2, "db": 3}"#).unwrap();
        let (highest, unread) = serials(&state).unwrap();
        assert_eq!(highest, BTreeMap::from([("db".to_owned(), 3), ("web".to_owned(), 8)]));
        assert_eq!(unread, Vec::<PathBuf>::new());
        fs::write(state.join(SERIALS[1]), "{").unwrap();
        assert!(serials(&state).unwrap_err().to_string().contains("damaged"));
    }
}
