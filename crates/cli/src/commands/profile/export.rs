//! `birthmark profile export WHAT -o FILE`: a profile as a file, to be given to other hosts.
//!
//! `FILE.xz` is compressed, as the store keeps it; any other name gets one line of JSON. `--isf` writes the whole kernel of a VM as
//! Volatility's symbol file: a profile would not do, it has only what we use.

use super::subject;
use crate::Outcome;
use crate::args::ProfileExportArgs;
use crate::files;
use crate::guest::Guest;
use crate::output::{Output, Progress};
use anyhow::Context;
use guest_profiles::{Btf, isf};
use hypervisor::Target;
use serde_json::json;

pub(super) fn export(args: &ProfileExportArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    if !args.force {
        files::must_not_exist(&args.output)?;
    }
    if args.isf {
        return symbol_file(args, out);
    }
    let subject::Subject { profile, from } = subject::find(&args.what)?;
    let bytes = if packed(args) {
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

fn packed(args: &ProfileExportArgs) -> bool {
    args.output.extension().is_some_and(|ending| ending == "xz")
}

fn symbol_file(args: &ProfileExportArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let target: Target = args.what.parse().with_context(|| format!("{} is no VM or image", args.what))?;
    let mut guest = Guest::open(&target)?;
    let release = guest.kernel()?.release().to_owned();
    let description = guest.describe()?;
    let btf = Btf::parse(&description.btf)
        .with_context(|| format!("Cannot read the type information of {}", args.what))?;
    let symbols = &description.symbols;
    let kernel = isf::Kernel { btf: &btf, symbols, banner: &description.banner };
    let bytes = {
        let _progress = Progress::spinner(&format!("Writing {}", args.output.display()));
        if packed(args) {
            isf::pack(|writer| isf::write(writer, &kernel))?
        } else {
            let mut bytes = Vec::new();
            isf::write(&mut bytes, &kernel)?;
            bytes
        }
    };
    files::write(&args.output, &bytes, 0o644, args.force)?;
    if out.json {
        out.json(&json!({
            "file": args.output.display().to_string(),
            "from": guest.vm().name,
            "release": release,
            "types": btf.type_count(),
            "symbols": symbols.len(),
            "bytes": bytes.len(),
        }))?;
    } else {
        out.field("Symbol file", args.output.display().to_string())?;
        out.field("Of", format!("{release}, from {}", guest.vm().name))?;
        out.field("Holds", format!("{} types and {} symbols", btf.type_count(), symbols.len()))?;
    }
    Ok(Outcome::Done)
}
