//! `birthmark profile build FILE…`: profiles of kernels out of their files, with no guest booted.
//!
//! For a provisioning pipeline: what a guest says of itself is trusted only at its birth, and a profile that is made of the
//! distribution's own kernel needs no such trust. It is the same, byte for byte.

use crate::args::ProfileBuildArgs;
use crate::output::{Output, Progress};
use crate::{Outcome, files, profiles};
use anyhow::{Context, bail};
use guest_profiles::kernel_file::{self, LayoutSource};
use guest_profiles::linux::WANTED;
use guest_profiles::{Profile, Store};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(super) fn build(args: &ProfileBuildArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let mut kernels: Vec<PathBuf> = Vec::new();
    for path in &args.files {
        kernels.extend(kernel_file::find(path)?);
    }
    let place = Place::new(args, kernels.len())?;
    let mut rows: Vec<Value> = Vec::new();
    for path in &kernels {
        let progress = Progress::spinner(&format!("Reading {}", path.display()));
        let kernel = kernel_file::read(path, &WANTED)?;
        drop(progress);
        let profile = &kernel.profile;
        let written = place.put(profile)?;
        let layouts = match kernel.layouts {
            LayoutSource::Btf => "btf",
            LayoutSource::Dwarf => "dwarf",
        };
        if out.json {
            rows.push(json!({
                "kernel": path.display().to_string(),
                "release": profile.release,
                "build_id": profile.build_id,
                "banner": kernel.banner,
                "layouts": layouts,
                "digest": profile.digest(),
                "file": written.display().to_string(),
            }));
        } else {
            out.field("Profile", profile.release.as_str())?;
            out.field("Of", path.display().to_string())?;
            out.field("Layouts", layouts)?;
            out.field("Digest", profile.digest())?;
            out.field("Written", written.display().to_string())?;
        }
    }
    if out.json {
        out.json(&rows)?;
    }
    Ok(Outcome::Done)
}

/// Where profiles go.
enum Place {
    /// The host's store, or another directory that is laid out like it.
    Store(Store),
    /// One file.
    File { path: PathBuf, replace: bool },
}

impl Place {
    fn new(args: &ProfileBuildArgs, kernels: usize) -> anyhow::Result<Self> {
        let Some(path) = &args.output else { return Ok(Self::Store(profiles::store())) };
        if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Ok(Self::Store(Store::new(vec![path.clone()])));
        }
        if kernels > 1 {
            bail!(
                "{kernels} kernels were given, and {} is no directory: it can hold one profile",
                path.display()
            );
        }
        if !args.force {
            files::must_not_exist(path)?;
        }
        Ok(Self::File { path: path.clone(), replace: args.force })
    }

    /// Writes a profile, and says where.
    fn put(&self, profile: &Profile) -> anyhow::Result<PathBuf> {
        match self {
            Self::Store(store) => {
                let added = store.add(profile);
                Ok(added.with_context(|| format!("Cannot store the profile of {}", profile.release))?.path)
            }
            Self::File { path, replace } => {
                files::write(path, &content(profile, path)?, 0o644, *replace)?;
                Ok(path.clone())
            }
        }
    }
}

/// What a file of this name holds: one line of JSON, compressed if the name ends in `.xz`.
fn content(profile: &Profile, path: &Path) -> anyhow::Result<Vec<u8>> {
    if path.extension().is_some_and(|ending| ending == "xz") {
        return Ok(guest_profiles::store::pack(profile)?);
    }
    let mut json = profile.to_json();
    json.push(b'\n');
    Ok(json)
}
