//! Who signs: a key in a file or in the environment, or a program that has the key elsewhere (a KMS, an HSM).
//!
//! The program is run without a shell, is given the bytes to sign on its standard input, and prints the signature. What it
//! prints is checked against its public key before it is used. A key must never be taken from the command line itself,
//! where every user of the host could read it.

use crate::args::KeyArgs;
use crate::files;
use anyhow::{Context, bail};
use attest::dsse::Envelope;
use attest::{PrivateKey, PublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Most bytes of a key file.
pub(crate) const KEY_LIMIT: usize = 64 * 1024;
/// Most bytes that a signing program may print.
const PRINTED_MAX: u64 = 4096;
/// Bytes of an Ed25519 signature.
const SIGNATURE: usize = 64;

/// Who signs.
pub(crate) enum Signer {
    Key(Box<PrivateKey>),
    Program { program: PathBuf, key: Box<PublicKey> },
}

impl Signer {
    /// Who is named; `None` when nobody is.
    pub(crate) fn named(args: &KeyArgs) -> anyhow::Result<Option<Self>> {
        if let (Some(program), Some(key)) = (&args.signer, &args.signer_key) {
            let key = Box::new(public_key(key)?);
            return Ok(Some(Self::Program { program: program.clone(), key }));
        }
        let Some(named) = &args.key else { return Ok(None) };
        let text = match named.strip_prefix("env:") {
            Some(name) => std::env::var(name)
                .with_context(|| format!("Cannot sign with the environment variable {name}"))?,
            None => {
                let bytes = files::read(Path::new(named), "private key", KEY_LIMIT)
                    .context("No certificate can be signed (`birthmark keygen -o FILE` makes a key)")?;
                String::from_utf8_lossy(&bytes).into_owned()
            }
        };
        let key = PrivateKey::from_pem(&text).with_context(|| format!("Cannot sign with the key {named}"))?;
        Ok(Some(Self::Key(Box::new(key))))
    }

    /// The same, where somebody has to sign.
    pub(crate) fn required(args: &KeyArgs) -> anyhow::Result<Self> {
        Self::named(args)?
            .context("Nobody signs: give --key FILE, or --signer PROGRAM with --signer-key FILE")
    }

    /// Id of the key that signs.
    pub(crate) fn key_id(&self) -> String {
        match self {
            Self::Key(key) => key.public().id().to_owned(),
            Self::Program { key, .. } => key.id().to_owned(),
        }
    }

    pub(crate) fn sign(&self, envelope: &mut Envelope) -> anyhow::Result<()> {
        match self {
            Self::Key(key) => Ok(envelope.sign(key)?),
            Self::Program { program, key } => {
                let signature = run(program, envelope.to_be_signed())?;
                envelope
                    .add(key, &signature)
                    .with_context(|| format!("What {} printed is of no use", program.display()))
            }
        }
    }
}

/// Reads a public key.
pub(crate) fn public_key(path: &Path) -> anyhow::Result<PublicKey> {
    let bytes = files::read(path, "public key", KEY_LIMIT)?;
    PublicKey::from_pem(&String::from_utf8_lossy(&bytes))
        .with_context(|| format!("Cannot use the public key {}", path.display()))
}

/// What the program makes of the bytes: a signature, if it does what it should.
fn run(program: &Path, bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("The signing program {} failed", program.display());
    let mut child =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(failed)?;
    let mut stdin = child.stdin.take().with_context(failed)?;
    // On a thread of its own: a program that prints before it has read everything must not wait for us.
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let mut printed = Vec::new();
    let stdout = child.stdout.take().with_context(failed)?;
    stdout.take(PRINTED_MAX).read_to_end(&mut printed).with_context(failed)?;
    let status = child.wait().with_context(failed)?;
    if !status.success() {
        bail!("{}: {status}", failed());
    }
    // A program that knows the digest already need not read what it signs.
    drop(writer.join());
    if printed.len() == SIGNATURE {
        return Ok(printed);
    }
    let text = String::from_utf8_lossy(&printed);
    STANDARD
        .decode(text.trim())
        .with_context(|| format!("{}: what it printed is neither 64 bytes nor base64", failed()))
}
