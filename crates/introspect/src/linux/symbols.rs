//! What a found kernel says about itself: symbols (kallsyms) and layouts (BTF), both from its own memory.
//!
//! This is also where the claim that led here is proved to be the kernel's own: ``vmcoreinfo_data`` must lead back to
//! the page that [`super::locate`] started from.

use super::kernel::{Identity, Kernel};
use super::locate::Found;
use crate::Error;
use guest_profiles::linux::WANTED;
use guest_profiles::{Btf, Kallsyms, KallsymsTables, KallsymsValues, Profile, ProfileIdentity, build_id};
use std::collections::BTreeMap;
use vmi_core::{AddressSpace, Gva, ReadError};

/// Most symbols a kernel may claim. Debian 6.12 has about 220,000.
const SYMBOLS_MAX: u32 = 4 << 20;
/// Most bytes of compressed names; Debian 6.12 has about 3 MiB.
const NAMES_MAX: u64 = 64 << 20;
/// Most bytes of type information; Debian 6.12 has about 6 MiB.
const BTF_MAX: u64 = 64 << 20;
/// Most bytes of ELF notes; a kernel has a few hundred.
const NOTES_MAX: u64 = 64 << 10;
/// Most bytes of the token table: 256 tokens; a kernel has about 1 KiB.
const TOKENS_MAX: u64 = 64 << 10;
/// Bytes of ``u16 kallsyms_token_index[256]``.
const TOKEN_INDEX_BYTES: usize = 512;
/// Where the kernel image and its modules are mapped; symbols below are per-CPU offsets, which KASLR leaves alone.
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// Reads the symbols and layouts of `found`.
pub(super) fn kernel(space: &AddressSpace<'_, '_>, found: Found) -> Result<Kernel, Error> {
    let release = found.vmcoreinfo.osrelease.clone();
    let symbols = resolve(space, &found)?;
    let contradicted =
        |reason: String| Error::Contradicted { at: found.vmcoreinfo_at, release: release.clone(), reason };
    let read = |what: &'static str, source| Error::Read { what, release: release.clone(), source };
    let profile_error = |what, source| Error::Profile { what, release: release.clone(), source };

    let owned = symbols
        .get("vmcoreinfo_data")
        .and_then(|pointer| space.pointer(Gva(*pointer)).ok())
        .and_then(|page| space.translate(page).ok());
    match owned {
        Some(owned) if owned.at == found.vmcoreinfo_at => {}
        Some(owned) => return Err(contradicted(format!("the kernel's own VMCOREINFO is at {}", owned.at))),
        None => return Err(contradicted("the kernel does not know it".to_owned())),
    }

    let btf_bytes = section(space, &symbols, "__start_BTF", "__stop_BTF", BTF_MAX)
        .ok_or_else(|| Error::Unsupported {
            release: release.clone(),
            missing: vec!["type information (CONFIG_DEBUG_INFO_BTF)".to_owned()],
        })?
        .map_err(|error| read("type information", error))?;
    let notes = match section(space, &symbols, "__start_notes", "__stop_notes", NOTES_MAX) {
        Some(notes) => Some(notes.map_err(|error| read("ELF notes", error))?),
        None => None,
    };
    let btf = Btf::parse(&btf_bytes).map_err(|error| profile_error("type information", error))?;
    // The note is what the linker wrote. Some stable kernels have garbage in VMCOREINFO's BUILD-ID (facts/vmi.md 4.2).
    let build_id = notes.as_deref().and_then(|notes| build_id(notes).ok());

    let slide = found.vmcoreinfo.kerneloffset.unwrap_or(0);
    let linked = symbols
        .iter()
        .map(|(name, at)| (name.clone(), if *at >= START_KERNEL_MAP { at.wrapping_sub(slide) } else { *at }))
        .collect();
    let identity = ProfileIdentity { release: release.clone(), build_id: build_id.clone() };
    let profile = Profile::from_btf(&btf, &WANTED, linked, identity)
        .map_err(|error| profile_error("type information", error))?;

    let identity = Identity {
        banner: symbol_text(space, &symbols, "linux_banner", 512),
        btf_digest: Some(profile.btf_digest.clone()),
        build_id,
        release,
    };
    Kernel::new(found, profile, slide, identity)
}

/// Finds the wanted symbols among all of the kernel's.
fn resolve(space: &AddressSpace<'_, '_>, found: &Found) -> Result<BTreeMap<String, u64>, Error> {
    let info = &found.vmcoreinfo;
    let release = &info.osrelease;
    let read = |source| Error::Read { what: "symbol table", release: release.clone(), source };
    let table = |name: &str| {
        info.symbols.get(name).copied().map(Gva).ok_or_else(|| Error::Unsupported {
            release: release.clone(),
            missing: vec![format!("{name} in VMCOREINFO (a kernel before 6.0, or without CONFIG_KALLSYMS)")],
        })
    };
    let names_at = table("kallsyms_names")?;
    let tokens_at = table("kallsyms_token_table")?;
    let index_at = table("kallsyms_token_index")?;
    let offsets_at = table("kallsyms_offsets")?;
    let count = space.u32(table("kallsyms_num_syms")?).map_err(read)?;
    let damaged =
        |reason: String| Error::Contradicted { at: found.vmcoreinfo_at, release: release.clone(), reason };
    if count == 0 || count > SYMBOLS_MAX {
        return Err(damaged(format!("it claims {count} symbols")));
    }
    // In every kernel the names are followed by the markers and then the token table (scripts/kallsyms.c), so the
    // distance bounds the names from above.
    let span = |from: Gva, to: Gva, max: u64| {
        to.0.checked_sub(from.0)
            .filter(|len| *len <= max)
            .and_then(|len| usize::try_from(len).ok())
            .ok_or_else(|| damaged(format!("its symbol tables at {from} and {to} are out of order")))
    };
    let names = space.bytes(names_at, span(names_at, tokens_at, NAMES_MAX)?).map_err(read)?;
    let tokens = space.bytes(tokens_at, span(tokens_at, index_at, TOKENS_MAX)?).map_err(read)?;
    let index = space.bytes(index_at, TOKEN_INDEX_BYTES).map_err(read)?;
    let offsets =
        space.bytes(offsets_at, usize::try_from(count).unwrap_or(0).saturating_mul(4)).map_err(read)?;
    let base = match info.symbols.get("kallsyms_relative_base") {
        Some(at) => Some(space.u64(Gva(*at)).map_err(read)?),
        None => None,
    };
    let stext =
        info.symbols.get("_stext").copied().ok_or_else(|| damaged("it does not name _stext".to_owned()))?;
    let tables = KallsymsTables {
        num_syms: count,
        names: &names,
        token_table: &tokens,
        token_index: &index,
        values: KallsymsValues::Offsets { bytes: &offsets, address: offsets_at.0, relative_base: base },
    };
    Kallsyms::new(tables, stext)
        .and_then(|kallsyms| kallsyms.resolve(WANTED.symbols))
        .map_err(|source| Error::Profile { what: "symbol table", release: release.clone(), source })
}

/// The bytes between two symbols. `None` when the kernel has no such section.
fn section(
    space: &AddressSpace<'_, '_>,
    symbols: &BTreeMap<String, u64>,
    start: &str,
    stop: &str,
    max: u64,
) -> Option<Result<Vec<u8>, ReadError>> {
    let start = *symbols.get(start)?;
    let len = symbols.get(stop)?.checked_sub(start).filter(|len| *len > 0 && *len <= max)?;
    Some(space.bytes(Gva(start), usize::try_from(len).ok()?))
}

fn symbol_text(
    space: &AddressSpace<'_, '_>,
    symbols: &BTreeMap<String, u64>,
    name: &str,
    max: usize,
) -> Option<String> {
    let text = space.c_string(Gva(*symbols.get(name)?), max).ok()?;
    let text = String::from_utf8_lossy(&text);
    Some(text.trim_end().to_owned()).filter(|text| !text.is_empty())
}
