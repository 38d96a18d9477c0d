//! What a found kernel says about itself: symbols (kallsyms) and layouts (BTF), both from its own memory.
//!
//! This is also where what led here is proved to be the running kernel's own. A description in VMCOREINFO: the kernel's
//! pointer ``vmcoreinfo_data`` must lead back to the page that it stands in. Page tables of a vCPU or out of memory: the
//! kernel's own page tables must map themselves and the kernel to the same place, and its banner and its ``utsname`` must
//! name one release.

use super::anchor;
use super::image::{KernelImage, LINKED_AT, START_KERNEL_MAP};
use super::kernel::{Boot, Held, Kernel, KernelProfile};
use super::stored;
use super::type_information::{Ahead, TypeInformation};
use super::vmcoreinfo::Claim;
use crate::{Error, Sources};
use guest_profiles::linux::WANTED;
use guest_profiles::{
    Btf, Kallsyms, KallsymsTables, KallsymsValues, Profile, ProfileIdentity, Stored, VmcoreInfo, build_id,
};
use std::collections::BTreeMap;
use std::thread;
use vmi_core::{AddressSpace, Gpa, Gva, ReadError};

/// Most symbols a kernel may claim. Debian 6.12 has about 220,000.
const SYMBOLS_MAX: u32 = 4 << 20;
/// Most bytes of compressed names; Debian 6.12 has about 3 MiB.
const NAMES_MAX: u64 = 64 << 20;
/// Most bytes of ELF notes; a kernel has a few hundred.
const NOTES_MAX: u64 = 64 << 10;
/// Most bytes of the token table: 256 tokens; a kernel has about 1 KiB.
const TOKENS_MAX: u64 = 64 << 10;
/// Bytes of ``u16 kallsyms_token_index[256]``.
const TOKEN_INDEX_BYTES: usize = 512;
/// Most bytes of the banner.
pub(super) const BANNER_MAX: usize = 512;
/// What the banner starts with (init/version-timestamp.c); the release follows.
pub(super) const BANNER: &str = "Linux version ";
/// ``SYSTEM_BOOTING`` of ``enum system_states`` (include/linux/kernel.h): before there is a first process.
const SYSTEM_BOOTING: u32 = 0;

/// Symbols at their addresses in the running kernel.
pub(super) type Symbols = BTreeMap<String, u64>;

/// What led to a kernel.
#[derive(Debug)]
pub(super) enum Found {
    /// A description of itself that it agrees with.
    Claim(Box<Claim>),
    /// Its image, as page tables map it.
    Image(KernelImage),
}

/// A kernel whose symbols are known and that was proved to be the one that runs.
struct Proved {
    release: String,
    symbols: Symbols,
    root: Gpa,
    vmcoreinfo_at: Option<Gpa>,
    /// How far KASLR moved it, in bytes.
    slide: u64,
    /// The image, where symbols had to be looked for in it: then types will lead to more of them.
    partial: Option<KernelImage>,
}

/// Reads the symbols and layouts of `found`. `Ok` is a kernel that was proved to be the running one. `guessed` is told first what it
/// will be if it is proved, where a stored profile says that.
pub(super) fn kernel(
    space: &AddressSpace<'_, '_>,
    sources: &Sources<'_>,
    found: Found,
    guessed: &dyn Fn(Kernel),
) -> Result<Kernel, Error> {
    let (proved, known, ahead, guess) = match found {
        Found::Claim(claim) => {
            let known = (sources.profiles)(&claim.info.osrelease);
            let guess = guess(space, &claim, &known);
            if let Some(guess) = &guess {
                guessed(guess.clone());
            }
            let (proved, ahead) = by_claim_and_profile(space, &claim, &known);
            (proved?, Some(known), ahead, guess)
        }
        Found::Image(image) => (by_image(space, &image)?, None, None, None),
    };
    let Proved { release, mut symbols, root, vmcoreinfo_at, slide, partial } = proved;
    let read = |what: &'static str, source| Error::Read { what, release: release.clone(), source };
    let profile_error = |what, source| Error::Profile { what, release: release.clone(), source };

    let at = |name: &str| symbols.get(name).copied();
    let build_id = noted_build_id(space, &at).map_err(|error| read("ELF notes", error))?;

    let types = TypeInformation::of(space, &at, &release);
    let mut boot = Boot {
        root,
        levels: space.levels(),
        slide,
        vmcoreinfo_at,
        release: release.clone(),
        banner: at("linux_banner").and_then(|at| text(space, at, BANNER_MAX)),
        build_id: build_id.clone(),
        btf_digest: None,
    };
    let known = known.unwrap_or_else(|| (sources.profiles)(&release));
    let stored = stored::of_build(known, &boot);
    if let Some(types) = &types {
        if stored.is_empty() {
            types.bytes()?;
        }
        boot.btf_digest = Some(types.digest(ahead)?);
    }
    let own = |symbols: &Symbols| {
        let types = types.as_ref().ok_or_else(|| Error::Unsupported {
            release: release.clone(),
            missing: vec!["type information (CONFIG_DEBUG_INFO_BTF) and no stored profile".to_owned()],
        })?;
        let btf_bytes = types.bytes()?;
        let identity = ProfileIdentity { release: release.clone(), build_id: build_id.clone() };
        Btf::parse(btf_bytes)
            .and_then(|btf| Profile::from_btf(&btf, &WANTED, linked(symbols, slide), identity))
            .map(|profile| profile.with_banner(boot.banner.as_deref()))
            .map_err(|error| profile_error("type information", error))
    };
    if let Some(image) = partial {
        let found = anchor::of_types(space, &image, &own(&symbols)?)?;
        symbols.extend(found);
    }
    let own = || own(&symbols);
    let mut held = stored::best(stored, &boot, &linked(&symbols, slide), partial.is_some(), &own);
    if let Some(held) = held.as_ref()
        && let Some(guess) = guess.filter(|guess| guess.is_of(&boot, held))
    {
        return Ok(guess);
    }
    if let Some(held) = held.as_ref().filter(|held| stored::is_current(&held.stored.profile))
        && let Ok(kernel) = Kernel::new(boot.clone(), KernelProfile::of_store(held.clone()))
    {
        return Ok(kernel);
    }
    let profile = KernelProfile::of_guest(own()?, held.take());
    let kernel = Kernel::new(boot, profile)?;
    if vmcoreinfo_at.is_none() {
        names_agree(space, &kernel)?;
    }
    Ok(kernel)
}

/// What [`kernel`] will say of a kernel that describes itself if all that it is asked for agrees with the one stored profile of its
/// build. Nothing is proved by it.
fn guess(space: &AddressSpace<'_, '_>, claim: &Claim, known: &[Stored]) -> Option<Kernel> {
    let slide = claim.info.kerneloffset.unwrap_or(0);
    let of_build = |stored: &&Stored| {
        let profile = &stored.profile;
        let at = |name: &str| profile.optional_symbol(name).map(|linked| linked.wrapping_add(slide));
        stored::is_current(profile)
            && profile.build_id.is_some()
            && profile.btf_digest.is_some()
            && noted_build_id(space, &at).is_ok_and(|found| found == profile.build_id)
    };
    let mut fitting = known.iter().filter(of_build);
    let (Some(stored), None) = (fitting.next(), fitting.next()) else { return None };
    let profile = &stored.profile;
    let banner = profile.optional_symbol("linux_banner")?.wrapping_add(slide);
    let boot = Boot {
        root: claim.root,
        levels: space.levels(),
        slide,
        vmcoreinfo_at: Some(claim.at),
        release: claim.info.osrelease.clone(),
        banner: text(space, banner, BANNER_MAX),
        build_id: profile.build_id.clone(),
        btf_digest: profile.btf_digest.clone(),
    };
    let held = Held { stored: stored.clone(), contradictions: Vec::new() };
    Kernel::new(boot, KernelProfile::of_store(held)).ok()
}

/// The symbols at their link addresses. Those below the kernel's mapping are per-CPU offsets, which KASLR leaves alone.
fn linked(symbols: &Symbols, slide: u64) -> Symbols {
    symbols
        .iter()
        .map(|(name, at)| (name.clone(), if *at >= START_KERNEL_MAP { at.wrapping_sub(slide) } else { *at }))
        .collect()
}

/// The same as [`by_claim`], and beside it the digest of the type information where the stored profiles of its release have it.
/// Those that are of other builds say another place, or the digest disagrees as it would have anyway.
fn by_claim_and_profile(
    space: &AddressSpace<'_, '_>,
    claim: &Claim,
    known: &[Stored],
) -> (Result<Proved, Error>, Option<Ahead>) {
    let slide = claim.info.kerneloffset.unwrap_or(0);
    let at = |name: &str| {
        let linked = known.first()?.profile.optional_symbol(name)?;
        Some(linked.wrapping_add(slide))
    };
    thread::scope(|scope| {
        let ahead = Ahead::begin(scope, space, &at);
        let proved = by_claim(space, claim);
        // A thread that panicked has no answer.
        (proved, ahead.and_then(|ahead| ahead.join().ok()).flatten())
    })
}

/// A kernel that describes itself: its symbols, and the proof that the description is its own.
fn by_claim(space: &AddressSpace<'_, '_>, claim: &Claim) -> Result<Proved, Error> {
    let release = claim.info.osrelease.clone();
    let contradicted =
        |reason: String| Error::Contradicted { at: claim.at, release: release.clone(), reason };
    let stext = claim
        .info
        .symbols
        .get("_stext")
        .copied()
        .ok_or_else(|| contradicted("it does not name _stext".to_owned()))?;
    let image = || -> Result<KernelImage, Error> {
        let read = |source| Error::Read { what: "kernel image", release: release.clone(), source };
        KernelImage::find(space)
            .map_err(read)?
            .ok_or_else(|| contradicted("its page tables map no kernel image".to_owned()))
    };
    let symbols = if claim.info.symbols.contains_key("kallsyms_names") {
        resolve(space, claim, stext)?
    } else {
        // Before 6.0 it does not say where the symbol table is.
        resolve_in_image(space, &image()?, stext)?.map_err(|source| Error::Profile {
            what: "symbol table",
            release: release.clone(),
            source,
        })?
    };
    not_booting(space, &symbols, &format!("Linux {release}"))?;
    let Some(pointer) = symbols.get("vmcoreinfo_data") else {
        // No CONFIG_KALLSYMS_ALL: the kernel cannot say that this is its own. It has led to page tables and is not used
        // further; the image that they map has to prove itself.
        return by_image(space, &image()?);
    };
    let owned = space.pointer(Gva(*pointer)).ok().and_then(|page| space.translate(page).ok());
    match owned {
        Some(owned) if owned.at == claim.at => {}
        Some(owned) => return Err(contradicted(format!("the kernel's own VMCOREINFO is at {}", owned.at))),
        None => return Err(contradicted("the kernel does not know it".to_owned())),
    }
    let slide = claim.info.kerneloffset.unwrap_or(0);
    Ok(Proved { release, symbols, root: claim.root, vmcoreinfo_at: Some(claim.at), slide, partial: None })
}

/// A kernel of which only its mapped image is known.
fn by_image(space: &AddressSpace<'_, '_>, image: &KernelImage) -> Result<Proved, Error> {
    let contradicted = |reason: String| Error::ImageContradicted { at: image.start, reason };
    // The text is the first thing that is mapped in the window, from its first byte (arch/x86/kernel/vmlinux.lds.S).
    let mut symbols = resolve_in_image(space, image, image.start.0)?
        .map_err(|source| Error::ImageSymbols { at: image.start, source })?;
    not_booting(space, &symbols, "its kernel")?;
    // One of them may be there by chance: some kernels have init_task among their text (7.2).
    let has_data =
        ["init_task", "init_top_pgt", "linux_banner"].iter().all(|name| symbols.contains_key(*name));
    let partial = (!has_data).then_some(*image);
    if partial.is_some() {
        anchor::of_image(space, image, &mut symbols)
            .map_err(|source| Error::Image { root: space.root(), source })?;
    }
    let symbol = |name: &str| {
        symbols.get(name).copied().map(Gva).ok_or_else(|| contradicted(format!("it has no symbol {name}")))
    };
    let banner = symbols.get("linux_banner").and_then(|at| text(space, *at, BANNER_MAX)).unwrap_or_default();
    let release = banner
        .strip_prefix(BANNER)
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| contradicted(format!("its banner is {banner:?}")))?
        .to_owned();

    let (table, text) = (symbol("init_top_pgt")?, symbol("linux_banner")?);
    let place = |space: &AddressSpace<'_, '_>, at: Gva| {
        space.translate(at).map(|found| found.at).map_err(|source| Error::Read {
            what: "page tables",
            release: release.clone(),
            source,
        })
    };
    let root = place(space, table)?;
    let own = AddressSpace::new(space.look(), root, space.levels());
    if place(&own, table)? != root || place(&own, text)? != place(space, text)? {
        return Err(contradicted(format!("its page tables at {root} map something else")));
    }
    let slide = image.start.0.wrapping_sub(LINKED_AT);
    Ok(Proved { release, symbols, root, vmcoreinfo_at: None, slide, partial })
}

/// Whether ``init_uts_ns`` has the release that the banner has.
fn names_agree(space: &AddressSpace<'_, '_>, kernel: &Kernel) -> Result<(), Error> {
    let at = kernel
        .symbol("init_uts_ns")
        .zip(kernel.profile().field("uts_namespace", "name.release").ok())
        .and_then(|(namespace, release)| namespace.checked_add(release.offset));
    let found = at.and_then(|at| space.c_string(at, 65).ok()).unwrap_or_default();
    if found == kernel.release().as_bytes() {
        return Ok(());
    }
    let reason = format!(
        "its banner names release {}, and its utsname {}",
        kernel.release(),
        String::from_utf8_lossy(&found)
    );
    Err(Error::ImageContradicted { at: kernel.symbol("_text").unwrap_or_default(), reason })
}

/// Finds the wanted symbols in the tables that VMCOREINFO names.
fn resolve(space: &AddressSpace<'_, '_>, claim: &Claim, stext: u64) -> Result<Symbols, Error> {
    let info: &VmcoreInfo = &claim.info;
    let release = &info.osrelease;
    let read = |source| Error::Read { what: "symbol table", release: release.clone(), source };
    let table = |name: &str| {
        info.symbols.get(name).copied().map(Gva).ok_or_else(|| Error::Unsupported {
            release: release.clone(),
            missing: vec![format!("{name} in VMCOREINFO (a kernel without CONFIG_KALLSYMS)")],
        })
    };
    let names_at = table("kallsyms_names")?;
    let tokens_at = table("kallsyms_token_table")?;
    let index_at = table("kallsyms_token_index")?;
    let offsets_at = table("kallsyms_offsets")?;
    let count = space.u32(table("kallsyms_num_syms")?).map_err(read)?;
    let damaged = |reason: String| Error::Contradicted { at: claim.at, release: release.clone(), reason };
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

/// Finds the wanted symbols in a table that has to be looked for. Inner `Err`: there is none that can be read.
fn resolve_in_image(
    space: &AddressSpace<'_, '_>,
    image: &KernelImage,
    stext: u64,
) -> Result<Result<Symbols, guest_profiles::Error>, Error> {
    image
        .symbols(space, stext, &|kallsyms| kallsyms.resolve(WANTED.symbols))
        .map_err(|source| Error::Image { root: space.root(), source })
}

/// `Err(NotYet)` while the kernel has no processes: nothing that it says of itself needs to hold together before.
fn not_booting(space: &AddressSpace<'_, '_>, symbols: &Symbols, kernel: &str) -> Result<(), Error> {
    let state = symbols.get("system_state").and_then(|at| space.u32(Gva(*at)).ok());
    if state == Some(SYSTEM_BOOTING) {
        return Err(Error::NotYet { what: format!("{kernel} has not started its first process") });
    }
    Ok(())
}

/// Where the bytes between two symbols are, and how many. `None` when the kernel has no such section, or it claims more than `max`.
pub(super) fn span(
    at: &dyn Fn(&str) -> Option<u64>,
    start: &str,
    stop: &str,
    max: u64,
) -> Option<(Gva, u64)> {
    let start = at(start)?;
    let len = at(stop)?.checked_sub(start).filter(|len| *len > 0 && *len <= max)?;
    Some((Gva(start), len))
}

/// The build id that a kernel's notes have. `None`: they have none. `at` tells where a symbol is. The note is what the linker wrote;
/// some stable kernels have garbage in VMCOREINFO's BUILD-ID (facts/vmi.md 4.2).
fn noted_build_id(
    space: &AddressSpace<'_, '_>,
    at: &dyn Fn(&str) -> Option<u64>,
) -> Result<Option<String>, ReadError> {
    let Some((start, len)) = span(at, "__start_notes", "__stop_notes", NOTES_MAX) else { return Ok(None) };
    let notes = space.bytes(start, usize::try_from(len).unwrap_or(usize::MAX))?;
    Ok(build_id(&notes).ok())
}

/// A text of at most `max` bytes. `None`: there is none.
fn text(space: &AddressSpace<'_, '_>, at: u64, max: usize) -> Option<String> {
    let text = space.c_string(Gva(at), max).ok()?;
    let text = String::from_utf8_lossy(&text);
    Some(text.trim_end().to_owned()).filter(|text| !text.is_empty())
}
