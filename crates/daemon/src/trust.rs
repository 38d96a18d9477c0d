//! Which certificates may be used, and which of them is for a VM.
//!
//! Certificates are verified once, when they are read; whether their time has come or is over is asked again at every look,
//! so the next certificate of a service can be put in place before its time. A file that is refused is told and passed over:
//! it never stops the others. The highest serial of each service is kept on disk, so that an old certificate stays refused
//! after a restart; it counts from the first instant of its validity on.
//!
//! A `trust.toml` beside the keys narrows what they may sign. One that cannot be understood lets no certificate in.

use crate::events::Event;
use crate::store;
use attest::{Certificate, PublicKey, TrustPolicy, VerifyOptions, verify};
use facts::Vm;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most bytes read of a certificate or key. What is longer is refused by its reader.
const MAX_FILE: u64 = 32 << 20;
/// Most files taken from one directory.
const MAX_FILES: usize = 10_000;

/// Limits of the keys of a directory.
const POLICY: &str = "trust.toml";

/// The certificates that may be used.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// By service, then the highest serial first.
    certificates: Vec<Usable>,
    /// The highest serial that was ever used, by service.
    highest: BTreeMap<String, u64>,
}

#[derive(Clone, Debug)]
struct Usable {
    certificate: Arc<Certificate>,
    /// First instant at which it no longer holds.
    until: Timestamp,
}

impl Usable {
    fn has_begun(&self, now: Timestamp) -> bool {
        self.certificate.validity.not_before <= now
    }
}

/// What is for a VM.
#[derive(Clone, Debug)]
pub enum Match {
    /// This one.
    One(Arc<Certificate>),
    /// None.
    None,
    /// This one, at another time: its own is to come, or over.
    NotNow(Arc<Certificate>),
    /// Several services claim it.
    Ambiguous(Vec<String>),
}

impl Trust {
    /// Reads keys and certificates. `serials` is the file with the highest serials; it is read and written. Never
    /// fails: what cannot be used is in the events.
    pub fn load(certificates: &[PathBuf], keys: &[PathBuf], serials: &Path) -> (Self, Vec<Event>) {
        let mut events = Vec::new();
        let mut refuse = |path: &Path, reason: String| {
            events.push(Event::CertificateRefused { path: path.to_owned(), reason });
        };
        let mut trusted = Vec::new();
        for path in files(keys, &["pub", "pem"], &mut refuse) {
            let key = read(&path).map_err(|error| error.to_string()).and_then(|bytes| {
                PublicKey::from_pem(&String::from_utf8_lossy(&bytes)).map_err(|error| chain(&error))
            });
            match key {
                Ok(key) => trusted.push(key),
                Err(reason) => refuse(&path, reason),
            }
        }
        let policy = match policy(keys) {
            Ok(policy) => policy,
            Err((path, reason)) => {
                refuse(
                    &path,
                    format!("No certificate is used, since the limits of the keys are unknown: {reason}"),
                );
                return (Self::default(), events);
            }
        };
        let mut highest: BTreeMap<String, u64> = match store::read(serials) {
            Ok(highest) => highest,
            Err(error) => {
                let reason =
                    format!("The serials seen so far cannot be read, so no certificate is used: {error}");
                refuse(serials, reason);
                return (Self::default(), events);
            }
        };
        let now = Timestamp::now();
        let options = VerifyOptions { highest_serials: highest.clone(), trust: policy, early: true };
        let mut found: BTreeMap<String, Vec<(PathBuf, Usable)>> = BTreeMap::new();
        for path in files(certificates, &[], &mut refuse) {
            let verified = read(&path)
                .map_err(|error| error.to_string())
                .and_then(|bytes| verify(&bytes, &trusted, now, &options).map_err(|refusal| chain(&refusal)));
            match verified {
                Ok(verified) => {
                    let until = verified.holds_until;
                    let certificate = Arc::new(verified.statement.predicate);
                    let of_service = found.entry(certificate.service.clone()).or_default();
                    of_service.push((path, Usable { certificate, until }));
                }
                Err(reason) => refuse(&path, reason),
            }
        }
        let before = highest.clone();
        let mut usable = Vec::new();
        for (service, mut of_service) in found {
            of_service.sort_by_key(|(_, one)| std::cmp::Reverse(one.certificate.serial));
            let mut last = None;
            let mut replaced = false;
            for (path, one) in of_service {
                let serial = one.certificate.serial;
                if replaced || last == Some(serial) {
                    let how = if last == Some(serial) { "the same" } else { "a higher" };
                    refuse(
                        &path,
                        format!("Another file holds a certificate of this service with {how} serial"),
                    );
                    continue;
                }
                last = Some(serial);
                if one.has_begun(now) {
                    replaced = true;
                    let known = highest.entry(service.clone()).or_default();
                    *known = serial.max(*known);
                }
                usable.push((path, one));
            }
        }
        if before != highest
            && let Err(error) = store::write(serials, &highest)
        {
            refuse(serials, format!("The highest serials could not be kept: {error}"));
        }
        let mut certificates = Vec::new();
        for (path, one) in usable {
            let (service, serial) = (one.certificate.service.clone(), one.certificate.serial);
            events.push(Event::CertificateLoaded { path, service, serial });
            certificates.push(one);
        }
        (Self { certificates, highest }, events)
    }

    /// Uses the given certificates, verified by the caller.
    #[must_use]
    pub fn of(mut certificates: Vec<Certificate>) -> Self {
        certificates.sort_by(|a, b| a.service.cmp(&b.service).then_with(|| b.serial.cmp(&a.serial)));
        let usable = |certificate: Certificate| {
            let until = certificate.validity.not_after;
            Usable { certificate: Arc::new(certificate), until }
        };
        Self { certificates: certificates.into_iter().map(usable).collect(), highest: BTreeMap::new() }
    }

    /// The certificate for a VM at a time: of each service the highest serial whose time has come.
    #[must_use]
    pub fn find(&self, vm: &Vm, now: Timestamp) -> Match {
        let mut fitting: Vec<&Usable> = Vec::new();
        let mut not_now = None;
        let of_one_service = |a: &Usable, b: &Usable| a.certificate.service == b.certificate.service;
        for of_service in self.certificates.chunk_by(of_one_service) {
            let current = of_service.iter().find(|one| one.has_begun(now));
            let Some(one) = current.or(of_service.last()) else { continue };
            if !one.certificate.selector.selects(vm) {
                continue;
            }
            if current.is_some() && now < one.until {
                fitting.push(one);
            } else {
                not_now = Some(one);
            }
        }
        match (fitting.as_slice(), not_now) {
            ([one], _) => Match::One(Arc::clone(&one.certificate)),
            ([], Some(one)) => Match::NotNow(Arc::clone(&one.certificate)),
            ([], None) => Match::None,
            (several, _) => {
                Match::Ambiguous(several.iter().map(|one| one.certificate.service.clone()).collect())
            }
        }
    }

    /// The serial that the next certificate of a service would have.
    #[must_use]
    pub fn next_serial(&self, service: &str) -> u64 {
        let here = self.certificates().filter(|one| one.service == service).map(|one| one.serial);
        here.chain(self.highest.get(service).copied()).max().unwrap_or(0).saturating_add(1)
    }

    /// The certificates, those whose time is to come included.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.certificates.iter().map(|one| one.certificate.as_ref())
    }
}

/// What the directories of keys say about them. `Err`: the file, and why it cannot be used.
fn policy(keys: &[PathBuf]) -> Result<TrustPolicy, (PathBuf, String)> {
    let mut found: Option<TrustPolicy> = None;
    for path in keys.iter().filter(|path| path.is_dir()).map(|directory| directory.join(POLICY)) {
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err((path, error.to_string())),
        };
        let parsed = toml::from_str(&String::from_utf8_lossy(&text));
        let policy = parsed.map_err(|error| (path.clone(), error.to_string().trim().replace('\n', " ")))?;
        if found.replace(policy).is_some() {
            return Err((path, "another directory of keys has limits too, and only one may".to_owned()));
        }
    }
    Ok(found.unwrap_or_default())
}

/// Files of a list of files and directories. From a directory those with one of `endings` are taken (any, if there are
/// none), hidden ones excepted.
fn files(paths: &[PathBuf], endings: &[&str], refuse: &mut dyn FnMut(&Path, String)) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                refuse(path, error.to_string());
                continue;
            }
        };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|file| {
                let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
                let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
                !hidden && file.is_file() && (endings.is_empty() || endings.contains(&ending))
            })
            .take(MAX_FILES)
            .collect();
        found.sort();
        all.extend(found);
    }
    all
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
