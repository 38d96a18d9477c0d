//! `birthmark profile import FILE…`: puts profiles into the store.

use super::subject;
use crate::args::ProfileImportArgs;
use crate::output::Output;
use crate::{Outcome, profiles};
use anyhow::Context;
use serde_json::{Value, json};

pub(super) fn import(args: &ProfileImportArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let store = profiles::store();
    let mut rows: Vec<Value> = Vec::new();
    for path in &args.files {
        let profile = subject::read(path)?;
        let added =
            store.add(&profile).with_context(|| format!("Cannot store the profile {}", path.display()))?;
        let stored = added.path.display().to_string();
        if out.json {
            rows.push(json!({
                "file": path.display().to_string(),
                "release": profile.release,
                "digest": profile.digest(),
                "stored": stored,
                "known": added.known,
                "replaced": added.replaced.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            }));
        } else {
            let known = if added.known { " (was there already)" } else { "" };
            out.field("Profile", format!("{}{known}", profile.release))?;
            out.field("Stored", stored)?;
            for replaced in &added.replaced {
                out.field("Replaced", replaced.display().to_string())?;
            }
        }
    }
    if out.json {
        out.json(&rows)?;
    }
    Ok(Outcome::Done)
}
