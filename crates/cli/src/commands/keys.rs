//! `birthmark keygen`: a pair of keys.

use crate::Outcome;
use crate::args::KeygenArgs;
use crate::files;
use crate::output::Output;
use attest::PrivateKey;
use serde_json::json;
use std::path::PathBuf;

/// Makes a pair. Neither file is ever replaced: a key that is gone cannot be made again.
pub(crate) fn keygen(args: &KeygenArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let mut public_path = args.output.clone().into_os_string();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    files::must_not_exist(&args.output)?;
    files::must_not_exist(&public_path)?;
    let key = PrivateKey::generate()?;
    let public = key.public();
    files::write(&args.output, key.to_pem()?.as_bytes(), 0o600, false)?;
    files::write(&public_path, public.to_pem()?.as_bytes(), 0o644, false)?;
    let (private, public_file) = (args.output.display().to_string(), public_path.display().to_string());
    if out.json {
        out.json(&json!({ "private_key": private, "public_key": public_file, "key_id": public.id() }))?;
    } else {
        out.field("Private key", format!("{private} (keep it secret)"))?;
        out.field("Public key", format!("{public_file} (give it to those who verify)"))?;
        out.field("Key id", public.id())?;
    }
    Ok(Outcome::Done)
}
