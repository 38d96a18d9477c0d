//! Which keys are trusted, and which certificate is for a VM.

use crate::args::TrustArgs;
use crate::files;
use anyhow::{Context, bail};
use attest::dsse::ENVELOPE_LIMIT;
use attest::{PublicKey, Verified, VerifyOptions};
use facts::Vm;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Most bytes of a key file.
pub(crate) const KEY_LIMIT: usize = 64 * 1024;
/// Most files taken from a directory.
const FILES_MAX: usize = 10_000;

/// A certificate that passed every check, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Trusted {
    pub(crate) path: PathBuf,
    pub(crate) verified: Verified,
}

/// The keys given, else those of the configuration directory. A key that cannot be read is an error: without it a good
/// certificate would be called a bad one.
pub(crate) fn keys(args: &TrustArgs) -> anyhow::Result<Vec<PublicKey>> {
    let paths = if args.trusted_keys.is_empty() {
        entries(&args.config_dir.join("trusted-keys"), &["pub", "pem"])?
    } else {
        args.trusted_keys.clone()
    };
    paths
        .iter()
        .map(|path| {
            let bytes = files::read(path, "public key", KEY_LIMIT)?;
            PublicKey::from_pem(&String::from_utf8_lossy(&bytes))
                .with_context(|| format!("Cannot use the public key {}", path.display()))
        })
        .collect()
}

/// Reads and verifies one certificate.
pub(crate) fn verify(path: &Path, keys: &[PublicKey]) -> anyhow::Result<Trusted> {
    let bytes = files::read(path, "certificate", ENVELOPE_LIMIT)?;
    let verified = attest::verify(&bytes, keys, Timestamp::now(), &VerifyOptions::default())
        .with_context(|| format!("The certificate {} is refused", path.display()))?;
    Ok(Trusted { path: path.to_owned(), verified })
}

/// The certificate of the configuration directory that selects the VM: of one service the one with the highest serial.
/// `None` when none does. When none does but one was refused, that is an error: it might have been the one.
pub(crate) fn find(args: &TrustArgs, keys: &[PublicKey], vm: &Vm) -> anyhow::Result<Option<Trusted>> {
    let directory = args.config_dir.join("certificates");
    let mut refused = Vec::new();
    let mut best: BTreeMap<String, Trusted> = BTreeMap::new();
    for path in entries(&directory, &["json"])? {
        match verify(&path, keys) {
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
            Some(error) => {
                Err(error.context(format!("No certificate of {} is for {}", directory.display(), vm.name)))
            }
            None => Ok(None),
        },
    }
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
