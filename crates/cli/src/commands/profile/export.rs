//! `birthmark profile export WHAT -o FILE`: a profile as a file, to be given to other hosts.
//!
//! `FILE.xz` is compressed, as the store keeps it; any other name gets one line of JSON.

use super::subject;
use crate::Outcome;
use crate::args::ProfileExportArgs;
use crate::files;
use crate::output::Output;
use serde_json::json;

pub(super) fn export(args: &ProfileExportArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    if !args.force {
        files::must_not_exist(&args.output)?;
    }
    let subject::Subject { profile, from } = subject::find(&args.what)?;
    let bytes = if args.output.extension().is_some_and(|ending| ending == "xz") {
        guest_profiles::store::pack(&profile)?
    } else {
        let mut json = profile.to_json();
        json.push(b'\n');
        json
    };
    files::write(&args.output, &bytes, 0o644, args.force)?;
    if out.json {
        out.json(&json!({
            "file": args.output.display().to_string(),
            "from": from,
            "release": profile.release,
            "digest": profile.digest(),
            "bytes": bytes.len(),
        }))?;
    } else {
        out.field("Profile", args.output.display().to_string())?;
        out.field("Of", format!("{}, from {from}", profile.release))?;
        out.field("Digest", profile.digest())?;
    }
    Ok(Outcome::Done)
}
