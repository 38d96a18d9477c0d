//! `birthmark profile list`: the stored profiles.

use super::{is_current, told_by};
use crate::output::{self, Cell, Output, Paint, Table};
use crate::{Outcome, profiles};
use serde_json::{Value, json};

pub(super) fn list(out: &mut Output) -> anyhow::Result<Outcome> {
    let store = profiles::store();
    let found = store.all();
    if out.json {
        let rows: Vec<Value> = found
            .profiles
            .iter()
            .map(|stored| {
                let profile = &stored.profile;
                json!({
                    "release": profile.release,
                    "build_id": profile.build_id,
                    "btf_digest": profile.btf_digest,
                    "banner": profile.banner,
                    "digest": profile.digest(),
                    "current": is_current(profile),
                    "path": stored.path.display().to_string(),
                })
            })
            .collect();
        out.json(&rows)?;
    } else {
        let mut table = Table::new(&["RELEASE", "USE", "DIGEST", "BUILD", "FILE"]);
        for stored in &found.profiles {
            let profile = &stored.profile;
            let digest = profile.digest();
            table.row([
                Cell::new(&profile.release).paint(Paint::Bold),
                if is_current(profile) {
                    Cell::new("yes")
                } else {
                    Cell::new("other version").paint(Paint::Yellow)
                },
                Cell::new(digest.get(..23).unwrap_or(&digest)),
                Cell::known(told_by(profile).map(str::to_owned)),
                Cell::new(stored.path.display().to_string()),
            ]);
        }
        out.table(&table)?;
        if found.profiles.is_empty() && found.refused.is_empty() {
            let places: Vec<String> =
                store.directories().iter().map(|path| path.display().to_string()).collect();
            output::note(&format!(
                "There is no stored profile in {}: kernels are read out of their guests' own memory",
                places.join(" or ")
            ));
        }
    }
    let refused = found.refused.len();
    for error in found.refused {
        output::note(&format!("{:#}", anyhow::Error::new(error)));
    }
    Ok(if refused == 0 { Outcome::Done } else { Outcome::Findings })
}
