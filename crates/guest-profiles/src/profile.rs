//! What the engine keeps of one kernel build, and what its walkers ask.
//!
//! A profile is made once per build out of BTF and a symbol table, and holds only the types, members and symbols that
//! a [`Wanted`] table names: a few kilobytes of JSON that can be stored, compared and pinned by digest. Symbols are at
//! their link addresses, so that two boots of one kernel have the same profile.
//!
//! What a kernel does not have is absent, and asking for it is an error with its name: walkers choose between kernel
//! variants by [`Profile::has`], never by version. A profile may come from a file that somebody altered, so nothing
//! here trusts its numbers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::btf::{Btf, Kind, TypeId};
use crate::error::Error;
use crate::layout::{Field, FieldKind, Layout};

const SCHEMA: &str = "birthmark.profile/v1";
/// Largest profile read. Those of real kernels have tens of kilobytes.
const MAX_JSON: usize = 8 * 1024 * 1024;
/// Deepest dotted path.
const MAX_STEPS: usize = 16;

/// The members of one type that an engine needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedType {
    /// Tag of a struct or union, or name of a typedef of one. A struct goes before a union before a typedef.
    pub name: &'static str,
    /// Paths; a path brings along what is on its way and below it. Empty: all members.
    pub members: &'static [&'static str],
}

/// The values of one enum that an engine needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedEnum {
    /// Tag of the enum; empty: whichever untagged enum has the value.
    pub name: &'static str,
    /// Names of values. Empty: all of a tagged enum's.
    pub values: &'static [&'static str],
}

/// Everything that an engine needs of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Types. The same name may come more than once: the members add up.
    pub types: &'static [WantedType],
    /// Enums.
    pub enums: &'static [WantedEnum],
    /// Symbols.
    pub symbols: &'static [&'static str],
}

impl Wanted {
    /// `sha256:` and the digest of what is asked for, whatever the order it stands in. A profile that answers another table
    /// than the walkers' must not lead them: what it lacks may only never have been asked for.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for wanted in self.types {
            lines.extend(wanted.members.iter().map(|member| format!("type {}.{member}", wanted.name)));
            if wanted.members.is_empty() {
                lines.push(format!("type {}", wanted.name));
            }
        }
        for wanted in self.enums {
            lines.extend(wanted.values.iter().map(|value| format!("enum {}.{value}", wanted.name)));
            if wanted.values.is_empty() {
                lines.push(format!("enum {}", wanted.name));
            }
        }
        lines.extend(self.symbols.iter().map(|name| format!("symbol {name}")));
        lines.sort();
        lines.dedup();
        sha256(lines.join("\n").as_bytes())
    }
}

/// Which build the profile is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileIdentity {
    /// As `uname -r` prints it.
    pub release: String,
    /// GNU build id of vmlinux in lower-case hexadecimal, if known.
    pub build_id: Option<String>,
}

/// Layouts and symbols of one kernel build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    schema: String,
    /// As `uname -r` prints it.
    pub release: String,
    /// GNU build id of vmlinux in lower-case hexadecimal, if known.
    pub build_id: Option<String>,
    /// `sha256:` and the digest of the whole BTF in lower-case hexadecimal. `None`: the layouts are from elsewhere (DWARF,
    /// Volatility's format).
    pub btf_digest: Option<String>,
    /// The line `Linux version …`, without the newline. Only of a profile without a build id: then it is what tells the
    /// build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub banner: Option<String>,
    /// [`Wanted::digest`] of the table that it answers.
    pub wanted: String,
    /// Wanted types by name.
    pub types: BTreeMap<String, Layout>,
    /// Wanted enums by tag; the untagged ones share the empty tag.
    pub enums: BTreeMap<String, BTreeMap<String, i64>>,
    /// Wanted symbols at link addresses; per-CPU symbols before 6.15 are offsets in the per-CPU area.
    #[serde(serialize_with = "write_addresses", deserialize_with = "read_addresses")]
    pub symbols: BTreeMap<String, u64>,
}

impl Profile {
    /// Takes what `wanted` names out of a kernel's BTF and its symbols. `symbols` are at link addresses: whoever read
    /// them out of a running kernel has taken the KASLR offset off (not off per-CPU offsets, which do not move).
    pub fn from_btf(
        btf: &Btf<'_>,
        wanted: &Wanted,
        symbols: BTreeMap<String, u64>,
        identity: ProfileIdentity,
    ) -> Result<Self, Error> {
        let ProfileIdentity { release, build_id } = identity;
        let records = wanted
            .types
            .iter()
            .flat_map(|wanted| [Kind::Struct, Kind::Union, Kind::Typedef].map(|kind| (kind, wanted.name)));
        let enums =
            wanted.enums.iter().flat_map(|wanted| [Kind::Enum, Kind::Enum64].map(|kind| (kind, wanted.name)));
        let found = btf.find_all(records.chain(enums).filter(|(_, name)| !name.is_empty()))?;
        let symbols =
            symbols.into_iter().filter(|(name, _)| wanted.symbols.contains(&name.as_str())).collect();
        Ok(Self {
            schema: SCHEMA.to_owned(),
            release,
            build_id,
            btf_digest: Some(sha256(btf.as_bytes())),
            banner: None,
            wanted: wanted.digest(),
            types: layouts(btf, wanted.types, &found)?,
            enums: enum_values(btf, wanted.enums, &found)?,
            symbols,
        })
    }

    /// A profile whose layouts are from elsewhere than BTF. `types` and `symbols` are those that `wanted` names.
    pub(crate) fn without_btf(
        wanted: &Wanted,
        identity: ProfileIdentity,
        banner: Option<String>,
        types: BTreeMap<String, Layout>,
        enums: BTreeMap<String, BTreeMap<String, i64>>,
        symbols: BTreeMap<String, u64>,
    ) -> Self {
        let ProfileIdentity { release, build_id } = identity;
        let (schema, wanted) = (SCHEMA.to_owned(), wanted.digest());
        Self { schema, release, build_id, btf_digest: None, banner, wanted, types, enums, symbols }
    }

    /// With the banner, where there is no build id that tells the build.
    #[must_use]
    pub fn with_banner(mut self, banner: Option<&str>) -> Self {
        self.banner = if self.build_id.is_none() { banner.map(str::to_owned) } else { None };
        self
    }

    /// Reads what [`Profile::to_json`] wrote.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        if json.len() > MAX_JSON {
            return Err(Error::ProfileTooLarge { len: json.len(), limit: MAX_JSON });
        }
        let profile: Self =
            serde_json::from_slice(json).map_err(|source| Error::ProfileJson { schema: SCHEMA, source })?;
        if profile.schema != SCHEMA {
            return Err(Error::ProfileSchema { found: profile.schema, expected: SCHEMA });
        }
        Ok(profile)
    }

    /// Canonical JSON: one line, keys in a fixed order. Equal profiles give equal bytes.
    #[expect(clippy::expect_used, reason = "maps with string keys, strings and integers always serialize")]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a profile serializes")
    }

    /// `sha256:` and the digest of [`Profile::to_json`] in lower-case hexadecimal.
    pub fn digest(&self) -> String {
        sha256(&self.to_json())
    }

    /// Where another profile says something else of what both know, one sentence each: addresses of symbols, sizes of types,
    /// places of members. What only one of them has is no disagreement, and neither are names of types, which DWARF and BTF
    /// give differently. `own` and `theirs` are what the sentences call the two: `the stored profile`.
    #[must_use]
    pub fn disagreements(&self, own: &str, other: &Self, theirs: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (name, at) in &self.symbols {
            if let Some(there) = other.symbols.get(name).filter(|there| *there != at) {
                found.push(format!("{name} is at {there:#x} in {theirs} and at {at:#x} in {own}"));
            }
        }
        for (name, layout) in &self.types {
            let Some(there) = other.types.get(name) else { continue };
            if there.size != layout.size {
                found.push(format!(
                    "struct {name} has {} bytes in {theirs} and {} in {own}",
                    there.size, layout.size
                ));
            }
            for (member, field) in &layout.members {
                let place = |field: &Field| (field.offset, field.size, field.bits);
                if let Some(there) = there.members.get(member).filter(|there| place(there) != place(field)) {
                    found.push(format!(
                        "{member} of struct {name} is {} bytes at {} in {theirs} and {} bytes at {} in {own}",
                        there.size, there.offset, field.size, field.offset
                    ));
                }
            }
        }
        found
    }

    /// A member by path: `pid`, or through embedded records `__sk_common.skc_daddr`. The offset is from the start of
    /// the type asked. Embedded records with a tag are looked up in the profile by that tag; untagged ones need no entry.
    pub fn field(&self, name: &str, member: &str) -> Result<Field, Error> {
        let missing = || Error::NoMember {
            release: self.release.clone(),
            name: name.to_owned(),
            member: member.to_owned(),
        };
        let mut layout = self.layout(name)?;
        let mut rest = member;
        let mut base: u64 = 0;
        for _ in 0..MAX_STEPS {
            if let Some(field) = layout.members.get(rest) {
                let offset = base.checked_add(field.offset).ok_or_else(|| self.overflow(name, member))?;
                return Ok(Field { offset, ..field.clone() });
            }
            // The longest stored path that the rest starts with, to go on in the record that it ends at.
            let (path, below) = rest
                .rmatch_indices('.')
                .filter_map(|(dot, _)| Some((rest.get(..dot)?, rest.get(dot + 1..)?)))
                .find(|(path, _)| layout.members.contains_key(*path))
                .ok_or_else(missing)?;
            let field = layout.members.get(path).ok_or_else(missing)?;
            let FieldKind::Record { name: embedded } = &field.kind else {
                return Err(Error::NotRecord {
                    release: self.release.clone(),
                    name: name.to_owned(),
                    member: path.to_owned(),
                });
            };
            layout = self.layout(embedded.as_deref().ok_or_else(missing)?)?;
            base = base.checked_add(field.offset).ok_or_else(|| self.overflow(name, member))?;
            rest = below;
        }
        Err(missing())
    }

    /// Whether [`Profile::field`] would answer. For choosing between kernel variants.
    pub fn has(&self, name: &str, member: &str) -> bool {
        self.field(name, member).is_ok()
    }

    /// Size of a type in bytes.
    pub fn size(&self, name: &str) -> Result<u64, Error> {
        Ok(self.layout(name)?.size)
    }

    /// Link address of a symbol.
    pub fn symbol(&self, name: &str) -> Result<u64, Error> {
        self.optional_symbol(name)
            .ok_or_else(|| Error::NoSymbol { release: self.release.clone(), name: name.to_owned() })
    }

    /// Link address of a symbol that not every kernel has.
    pub fn optional_symbol(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).copied()
    }

    /// Value of an enum's name; the enum's tag is empty for untagged enums.
    pub fn enum_value(&self, name: &str, value: &str) -> Result<i64, Error> {
        self.enums.get(name).and_then(|values| values.get(value)).copied().ok_or_else(|| Error::NoEnumValue {
            release: self.release.clone(),
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }

    fn layout(&self, name: &str) -> Result<&Layout, Error> {
        self.types
            .get(name)
            .ok_or_else(|| Error::NoType { release: self.release.clone(), name: name.to_owned() })
    }

    fn overflow(&self, name: &str, member: &str) -> Error {
        Error::OffsetOverflow {
            release: self.release.clone(),
            name: name.to_owned(),
            member: member.to_owned(),
        }
    }
}

type Found<'w> = BTreeMap<(Kind, &'w str), TypeId>;

fn layouts(
    btf: &Btf<'_>,
    wanted: &[WantedType],
    found: &Found<'_>,
) -> Result<BTreeMap<String, Layout>, Error> {
    let mut types: BTreeMap<String, Layout> = BTreeMap::new();
    for wanted in wanted {
        for kind in [Kind::Struct, Kind::Union, Kind::Typedef] {
            let Some(&id) = found.get(&(kind, wanted.name)) else { continue };
            if !matches!(btf.kind(btf.resolve(id)?)?, Kind::Struct | Kind::Union) {
                continue;
            }
            let keep = |path: &str| {
                wanted.members.is_empty() || wanted.members.iter().any(|wanted| on_the_way(path, wanted))
            };
            let layout = btf.layout(id, &keep)?;
            match types.get_mut(wanted.name) {
                Some(known) => known.members.extend(layout.members),
                None => {
                    types.insert(wanted.name.to_owned(), layout);
                }
            }
            break;
        }
    }
    Ok(types)
}

/// Whether one path is the other, or leads to it.
pub(crate) fn on_the_way(path: &str, wanted: &str) -> bool {
    let below =
        |longer: &str, shorter: &str| longer.strip_prefix(shorter).is_some_and(|rest| rest.starts_with('.'));
    path == wanted || below(path, wanted) || below(wanted, path)
}

fn enum_values(
    btf: &Btf<'_>,
    wanted: &[WantedEnum],
    found: &Found<'_>,
) -> Result<BTreeMap<String, BTreeMap<String, i64>>, Error> {
    let mut enums: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    let mut take = |id: TypeId, wanted: &WantedEnum| -> Result<(), Error> {
        for (name, value) in btf.enum_values(id)? {
            let asked =
                wanted.values.contains(&name) || (wanted.values.is_empty() && !wanted.name.is_empty());
            // A value beyond i64 is absent rather than wrong.
            if let (true, Ok(value)) = (asked, i64::try_from(value)) {
                enums.entry(wanted.name.to_owned()).or_default().entry(name.to_owned()).or_insert(value);
            }
        }
        Ok(())
    };
    for wanted in wanted.iter().filter(|wanted| !wanted.name.is_empty()) {
        for kind in [Kind::Enum, Kind::Enum64] {
            if let Some(&id) = found.get(&(kind, wanted.name)) {
                take(id, wanted)?;
            }
        }
    }
    let untagged: Vec<&WantedEnum> = wanted.iter().filter(|wanted| wanted.name.is_empty()).collect();
    if !untagged.is_empty() {
        for id in btf.ids() {
            if matches!(btf.kind(id)?, Kind::Enum | Kind::Enum64) && btf.name(id)?.is_empty() {
                for wanted in &untagged {
                    take(id, wanted)?;
                }
            }
        }
    }
    Ok(enums)
}

/// What tells a kernel's image in memory: a part of a [`Profile`] that is read much faster, and proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// As [`Profile::build_id`].
    pub build_id: Option<String>,
    /// Those of [`Profile::symbols`] that are named in [`Outline::SYMBOLS`].
    #[serde(serialize_with = "write_addresses", deserialize_with = "read_addresses")]
    pub symbols: BTreeMap<String, u64>,
}

impl Outline {
    /// The symbols that tell where a kernel's build id is, and what leads on from it.
    pub const SYMBOLS: [&str; 4] = ["__start_notes", "__stop_notes", "init_top_pgt", "vmcoreinfo_data"];

    /// Reads it out of what [`Profile::to_json`] wrote.
    pub(crate) fn from_json(json: &[u8]) -> Result<Self, Error> {
        let mut outline: Self =
            serde_json::from_slice(json).map_err(|source| Error::ProfileJson { schema: SCHEMA, source })?;
        outline.symbols.retain(|name, _| Self::SYMBOLS.contains(&name.as_str()));
        Ok(outline)
    }
}

impl From<&Profile> for Outline {
    fn from(profile: &Profile) -> Self {
        let at = |name: &&str| Some(((*name).to_owned(), profile.optional_symbol(name)?));
        Self { build_id: profile.build_id.clone(), symbols: Self::SYMBOLS.iter().filter_map(at).collect() }
    }
}

/// `sha256:` and the digest of a kernel's whole BTF, as in [`Profile::btf_digest`].
pub fn btf_digest(btf: &[u8]) -> String {
    sha256(btf)
}

/// The same of BTF that comes in pieces, so that nobody has to hold all of it.
#[derive(Debug, Default)]
pub struct BtfDigest(Sha256);

impl BtfDigest {
    /// The next piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// What [`btf_digest`] says of all pieces together.
    #[must_use]
    pub fn finish(self) -> String {
        named(&self.0.finalize())
    }
}

/// `sha256:` and the digest in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    named(&Sha256::digest(bytes))
}

fn named(digest: &[u8]) -> String {
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn write_addresses<S: Serializer>(symbols: &BTreeMap<String, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(symbols.iter().map(|(name, address)| (name, format!("{address:#x}"))))
}

fn read_addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, u64>, D::Error> {
    let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
    texts
        .into_iter()
        .map(|(name, text)| {
            let address = text
                .strip_prefix("0x")
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .and_then(|digits| u64::from_str_radix(digits, 16).ok());
            match address {
                Some(address) => Ok((name, address)),
                None => Err(serde::de::Error::custom(format!("symbol {name} has address {text}, not 0x…"))),
            }
        })
        .collect()
}
