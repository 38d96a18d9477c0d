//! `birthmark profile`: the kernel profiles of this host. What a profile is and whom it is trusted by: docs/profiles.md.

mod build;
mod export;
mod import;
mod list;
mod show;
mod subject;
mod verify;

use crate::Outcome;
use crate::args::ProfileCommand;
use crate::output::Output;
use guest_profiles::{Profile, linux::WANTED};

pub(crate) fn profile(command: &ProfileCommand, out: &mut Output) -> anyhow::Result<Outcome> {
    match command {
        ProfileCommand::Build(args) => build::build(args, out),
        ProfileCommand::List => list::list(out),
        ProfileCommand::Show(args) => show::show(args, out),
        ProfileCommand::Verify(args) => verify::verify(args, out),
        ProfileCommand::Export(args) => export::export(args, out),
        ProfileCommand::Import(args) => import::import(args, out),
    }
}

/// Whether the walkers of this version can be led by a profile.
fn is_current(profile: &Profile) -> bool {
    profile.wanted == WANTED.digest()
}

/// What tells the build, for a table.
fn told_by(profile: &Profile) -> Option<&str> {
    profile.build_id.as_deref().or(profile.banner.as_deref())
}
