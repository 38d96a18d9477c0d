//! `birthmark profile show WHAT`: what is in a profile.

use super::{is_current, subject};
use crate::Outcome;
use crate::args::ProfileArg;
use crate::output::{Cell, Output, Paint, Table};
use guest_profiles::{Field, FieldKind};
use serde_json::{Value, json};

pub(super) fn show(args: &ProfileArg, out: &mut Output) -> anyhow::Result<Outcome> {
    let subject::Subject { profile, from } = subject::find(&args.what)?;
    if out.json {
        let content: Value = serde_json::from_slice(&profile.to_json())?;
        out.json(&json!({
            "from": from,
            "digest": profile.digest(),
            "current": is_current(&profile),
            "profile": content,
        }))?;
        return Ok(Outcome::Done);
    }
    out.field("Profile", Cell::new(&profile.release).paint(Paint::Bold))?;
    out.field("From", from)?;
    out.field("Digest", profile.digest())?;
    out.field("Build id", profile.build_id.as_deref().unwrap_or("unknown"))?;
    out.field("BTF", profile.btf_digest.as_deref().unwrap_or("unknown: the layouts are from elsewhere"))?;
    if let Some(banner) = &profile.banner {
        out.field("Banner", banner)?;
    }
    let usable = if is_current(&profile) { "yes" } else { "no: another version of birthmark made it" };
    out.field("Usable", usable)?;
    out.line(&[])?;
    let mut table = Table::new(&["SYMBOL", ">ADDRESS"]);
    for (name, address) in &profile.symbols {
        table.row([Cell::new(name), Cell::new(format!("{address:#x}"))]);
    }
    out.table(&table)?;
    out.line(&[])?;
    let mut table = Table::new(&["TYPE", ">OFFSET", ">SIZE", "MEMBER", "KIND"]);
    for (name, layout) in &profile.types {
        let size = layout.size.to_string();
        table.row([
            Cell::new(name).paint(Paint::Bold),
            Cell::default(),
            Cell::new(size),
            Cell::default(),
            Cell::default(),
        ]);
        for (member, field) in &layout.members {
            table.row([
                Cell::default(),
                Cell::new(place(field)),
                Cell::new(field.size.to_string()),
                Cell::new(member),
                Cell::new(kind(&field.kind)),
            ]);
        }
    }
    out.table(&table)?;
    Ok(Outcome::Done)
}

/// The offset, with the bits of a bitfield: `24:3`.
fn place(field: &Field) -> String {
    match field.bits {
        Some(bits) => format!("{}:{}", field.offset, bits.shift),
        None => field.offset.to_string(),
    }
}

/// A member's type in the words of C.
fn kind(kind: &FieldKind) -> String {
    match kind {
        FieldKind::Integer { signed: true } => "signed".to_owned(),
        FieldKind::Integer { signed: false } => "unsigned".to_owned(),
        FieldKind::Pointer { target, .. } => format!("{} *", target.as_deref().unwrap_or("void")),
        FieldKind::Array { count, element, .. } => format!("{}[{count}]", self::kind(element)),
        FieldKind::Record { name } => format!("struct {}", name.as_deref().unwrap_or("{…}")),
        FieldKind::Enum { name, .. } => format!("enum {}", name.as_deref().unwrap_or("{…}")),
        FieldKind::Other => "other".to_owned(),
    }
}
