//! `birthmark profile verify [WHAT] [--target TARGET]`: whether profiles are whole, can be used, and agree with a guest.
//!
//! Digest and schema are checked by reading. With a target the profile is held against that guest's memory: same build,
//! then type information and symbols. Exit status 1 when something is not as it should be.

use super::{is_current, subject};
use crate::Outcome;
use crate::args::ProfileVerifyArgs;
use crate::guest::Guest;
use crate::output::{self, Cell, Output, Paint};
use crate::profiles;
use guest_profiles::Stored;
use serde_json::{Value, json};
use std::sync::Arc;

/// A profile that was read, and what is wrong with it.
struct Checked {
    from: String,
    release: String,
    digest: String,
    problems: Vec<String>,
}

pub(super) fn verify(args: &ProfileVerifyArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let (mut checked, mut damaged) = (Vec::new(), Vec::new());
    match (&args.what, &args.target) {
        (Some(what), target) => {
            let found = subject::find(what)?;
            let stored = Stored { profile: Arc::clone(&found.profile), path: found.from.into() };
            let mut one = check(&stored);
            if let Some(target) = target {
                let held = Guest::open(target)?.hold_against(&stored)?;
                one.problems.extend(held);
            }
            checked.push(one);
        }
        // The command line refuses a target without a profile.
        (None, _) => {
            let found = profiles::store().all();
            checked.extend(found.profiles.iter().map(check));
            damaged.extend(found.refused.into_iter().map(|error| format!("{:#}", anyhow::Error::new(error))));
        }
    }
    let good = damaged.is_empty() && checked.iter().all(|one| one.problems.is_empty());
    if out.json {
        let rows: Vec<Value> = checked
            .iter()
            .map(|one| {
                json!({
                    "from": one.from,
                    "release": one.release,
                    "digest": one.digest,
                    "good": one.problems.is_empty(),
                    "problems": one.problems,
                })
            })
            .collect();
        out.json(&json!({ "good": good, "profiles": rows, "damaged": damaged }))?;
    } else {
        for one in &checked {
            let verdict = if one.problems.is_empty() {
                Cell::new("good").paint(Paint::Green)
            } else {
                Cell::new("NOT good").paint(Paint::Red)
            };
            let (from, release) = (Cell::new(&one.from), Cell::new(format!(" ({}): ", one.release)));
            out.line(&[from, release, verdict])?;
            for problem in &one.problems {
                out.line(&[Cell::new("  "), Cell::new(problem)])?;
            }
        }
        damaged.iter().for_each(|problem| output::note(problem));
        if checked.is_empty() && damaged.is_empty() {
            output::note("There is no stored profile to verify");
        }
    }
    Ok(if good { Outcome::Done } else { Outcome::Findings })
}

fn check(stored: &Stored) -> Checked {
    let profile = &stored.profile;
    let mut problems = Vec::new();
    if !is_current(profile) {
        problems.push("another version of birthmark made it: make or import it again".to_owned());
    }
    if profile.build_id.is_none() && profile.banner.is_none() {
        problems.push("it has neither build id nor banner, so it fits no guest".to_owned());
    }
    Checked {
        from: stored.path.display().to_string(),
        release: profile.release.clone(),
        digest: profile.digest(),
        problems,
    }
}
