//! Which certificates may be used, and which of them is for a VM.
//!
//! Certificates are verified once, when they are read; whether their time is over is asked again at every look. A file
//! that is refused is told and passed over: it never stops the others. The highest serial of each service is kept on
//! disk, so that an old certificate stays refused after a restart.

use crate::events::Event;
use crate::store;
use attest::{Certificate, PublicKey, VerifyOptions, verify};
use facts::Vm;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most bytes read of a certificate or key. What is longer is refused by its reader.
const MAX_FILE: u64 = 32 << 20;
/// Most files taken from one directory.
const MAX_FILES: usize = 10_000;

/// The certificates that may be used.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    certificates: Vec<Arc<Certificate>>,
}

/// What is for a VM.
#[derive(Clone, Debug)]
pub enum Match {
    /// This one.
    One(Arc<Certificate>),
    /// None.
    None,
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
        let mut options = match store::read(serials) {
            Ok(highest_serials) => VerifyOptions { highest_serials },
            Err(error) => {
                let reason =
                    format!("The serials seen so far cannot be read, so no certificate is used: {error}");
                refuse(serials, reason);
                return (Self::default(), events);
            }
        };
        let mut best: BTreeMap<String, (PathBuf, Certificate)> = BTreeMap::new();
        for path in files(certificates, &[], &mut refuse) {
            let verified = read(&path).map_err(|error| error.to_string()).and_then(|bytes| {
                verify(&bytes, &trusted, Timestamp::now(), &options).map_err(|refusal| chain(&refusal))
            });
            match verified {
                Ok(verified) => {
                    let certificate = verified.certificate().clone();
                    let older = best
                        .get(&certificate.service)
                        .is_some_and(|(_, other)| other.serial >= certificate.serial);
                    if older {
                        let reason = "Another file holds a certificate of this service with the same or a higher serial";
                        refuse(&path, reason.into());
                    } else if let Some((path, _)) =
                        best.insert(certificate.service.clone(), (path, certificate))
                    {
                        refuse(
                            &path,
                            "Another file holds a certificate of this service with a higher serial".into(),
                        );
                    }
                }
                Err(reason) => refuse(&path, reason),
            }
        }
        let before = options.highest_serials.clone();
        for (service, (_, certificate)) in &best {
            let highest = options.highest_serials.entry(service.clone()).or_default();
            *highest = certificate.serial.max(*highest);
        }
        if before != options.highest_serials
            && let Err(error) = store::write(serials, &options.highest_serials)
        {
            refuse(serials, format!("The highest serials could not be kept: {error}"));
        }
        let mut certificates = Vec::new();
        for (path, certificate) in best.into_values() {
            let (service, serial) = (certificate.service.clone(), certificate.serial);
            events.push(Event::CertificateLoaded { path, service, serial });
            certificates.push(Arc::new(certificate));
        }
        (Self { certificates }, events)
    }

    /// Uses the given certificates, verified by the caller.
    #[must_use]
    pub fn of(certificates: Vec<Certificate>) -> Self {
        Self { certificates: certificates.into_iter().map(Arc::new).collect() }
    }

    /// The certificate for a VM at a time.
    #[must_use]
    pub fn find(&self, vm: &Vm, now: Timestamp) -> Match {
        let holds = |certificate: &Certificate| {
            certificate.validity.not_before <= now && now < certificate.validity.not_after
        };
        let mut fitting = self
            .certificates
            .iter()
            .filter(|certificate| holds(certificate) && certificate.selector.selects(vm));
        match (fitting.next(), fitting.next()) {
            (None, _) => Match::None,
            (Some(one), None) => Match::One(Arc::clone(one)),
            (Some(one), Some(two)) => {
                let all = [one, two].into_iter().chain(fitting).map(|one| one.service.clone());
                Match::Ambiguous(all.collect::<BTreeSet<_>>().into_iter().collect())
            }
        }
    }

    /// The certificates.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.certificates.iter().map(AsRef::as_ref)
    }
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
