//! Files of images, by the packages that they are from: an update of a package is one change, however many files it has.
//!
//! A package is told by its name and by the versions that its files carry. A file is explained by a version that was not there before,
//! or that is not there any more. What no version explains is told file by file, and so is what should worry: contents that changed
//! while the package kept its version. What a certificate says of packages is what the image said of itself; this is for reading
//! only, and nothing is judged by it.

use super::{Change, ChangeKind, Pair, pairs};
use crate::certificate::{Certificate, FileEntry, Presence, ProcessEntry};
use crate::text::{all, shown};
use crate::{Capabilities, Identity, describe};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use facts::ExeState;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of the digest of a page.
const PAGE_DIGEST: usize = 32;

/// What happened to the files and their packages.
pub(super) struct Updates<'a> {
    packages: BTreeMap<&'a str, Package<'a>>,
    /// Files that no package explains.
    alone: Vec<Pair<'a, FileEntry>>,
    /// What a package or a line of its own explains: the files at each path, before and after.
    files: BTreeMap<&'a str, Pair<'a, FileEntry>>,
    /// Programs that come or go with a package and are allowed nothing special.
    programs: BTreeMap<&'a str, BTreeSet<(&'static str, &'a str)>>,
    /// All of them.
    told: BTreeSet<(&'static str, &'a str)>,
}

/// One package.
#[derive(Default)]
struct Package<'a> {
    old: BTreeSet<&'a str>,
    new: BTreeSet<&'a str>,
    files: Vec<Pair<'a, FileEntry>>,
}

impl<'a> Updates<'a> {
    pub(super) fn between(old: &'a Certificate, new: &'a Certificate) -> Self {
        let mut packages: BTreeMap<&str, Package<'_>> = BTreeMap::new();
        for (name, version) in old.files.iter().filter_map(package) {
            packages.entry(name).or_default().old.insert(version);
        }
        for (name, version) in new.files.iter().filter_map(package) {
            packages.entry(name).or_default().new.insert(version);
        }
        let (mut alone, mut files) = (Vec::new(), BTreeMap::new());
        for pair in pairs(&old.files, &new.files, |entry| entry.path.clone()) {
            let (before, after) = (pair.0.and_then(package), pair.1.and_then(package));
            let is_new = |(name, version): (&'a str, &'a str)| {
                packages.get(name).is_some_and(|package| !package.old.contains(version)).then_some(name)
            };
            let is_gone = |(name, version): (&'a str, &'a str)| {
                let gone = packages.get(name).is_some_and(|package| !package.new.contains(version));
                (gone && pair.1.is_none()).then_some(name)
            };
            let because = after.and_then(is_new).or_else(|| before.and_then(is_gone));
            if let Some(entry) = pair.1.or(pair.0) {
                files.insert(entry.path.as_str(), pair);
            }
            match because.and_then(|name| packages.get_mut(name)) {
                Some(package) => package.files.push(pair),
                None => alone.push(pair),
            }
        }
        packages.retain(|_, package| package.old != package.new || !package.files.is_empty());
        let mut updates = Self { packages, alone, files, programs: BTreeMap::new(), told: BTreeSet::new() };
        updates.find_programs(old, new);
        updates
    }

    /// What comes and goes with a package and is told there in one line.
    fn find_programs(&mut self, old: &'a Certificate, new: &'a Certificate) {
        let mut packaged = BTreeMap::new();
        for (name, package) in &self.packages {
            let paths = package.files.iter().filter_map(|pair| pair.1.or(pair.0));
            packaged.extend(paths.map(|entry| (entry.path.as_str(), *name)));
        }
        for pair in pairs(&old.processes, &new.processes, super::program) {
            let (mark, entry, file): (_, &ProcessEntry, _) = match pair {
                (Some(entry), None) => ("-", entry, 0),
                (None, Some(entry)) => ("+", entry, 1),
                _ => continue,
            };
            let Some(path) = literal(entry) else { continue };
            let (Some((path, pair)), Some(name)) = (self.files.get_key_value(path), packaged.get(path))
            else {
                continue;
            };
            let only = match (file, pair) {
                (0, (Some(file), None)) | (1, (None, Some(file))) => file,
                _ => continue,
            };
            if is_plain(entry) && entry.sha256 == [only.sha256.as_str()] {
                self.programs.entry(*name).or_default().insert((mark, *path));
                self.told.insert((mark, *path));
            }
        }
    }

    /// Whether the change of an entry for a process is only that of its file, and told with it.
    pub(super) fn explain(&self, old: Option<&ProcessEntry>, new: Option<&ProcessEntry>) -> bool {
        let Some(path) = new.or(old).and_then(literal) else { return false };
        match (old, new) {
            (Some(old), Some(new)) => {
                let Some((Some(before), Some(after))) = self.files.get(path) else { return false };
                let same = ProcessEntry { sha256: old.sha256.clone(), ..new.clone() } == *old;
                same && old.sha256 == [before.sha256.as_str()] && new.sha256 == [after.sha256.as_str()]
            }
            _ => {
                let mark = if new.is_some() { "+" } else { "-" };
                let entry = new.or(old);
                entry.is_some_and(is_plain) && self.told.contains(&(mark, path))
            }
        }
    }

    /// The changes, what should worry first.
    pub(super) fn changes(&self) -> Vec<Change> {
        let mut changes: Vec<Change> = self.alone.iter().filter_map(alone).collect();
        changes.sort_by_key(|change| change.alarm.is_none());
        let none = BTreeSet::new();
        let packages = self.packages.iter();
        changes
            .extend(packages.map(|(name, one)| one.change(name, self.programs.get(name).unwrap_or(&none))));
        changes
    }
}

impl Package<'_> {
    fn change(&self, name: &str, programs: &BTreeSet<(&'static str, &str)>) -> Change {
        let (old, new) = (all(&self.old), all(&self.new));
        let (change, versions) = match (self.old.is_empty(), self.new.is_empty()) {
            (true, _) => (ChangeKind::Added, new),
            (_, true) => (ChangeKind::Removed, old),
            _ => (ChangeKind::Changed, format!("{old} → {new}")),
        };
        let count = self.files.len();
        let entry = format!("{name} {versions}: {count} file{}", if count == 1 { "" } else { "s" });
        let mut details = Vec::new();
        for mark in ["-", "+"] {
            let paths = |wanted: &dyn Fn(&Pair<'_, FileEntry>) -> bool| -> BTreeSet<&str> {
                let wanted = self.files.iter().filter(|pair| wanted(pair));
                wanted.filter_map(|pair| pair.1.or(pair.0)).map(|entry| entry.path.as_str()).collect()
            };
            let programs: BTreeSet<&str> =
                programs.iter().filter(|(of, _)| *of == mark).map(|(_, path)| *path).collect();
            if !programs.is_empty() {
                details.push(describe_paths("programs", mark, &programs));
            }
            // Of a package that comes or goes as a whole every file does.
            if change == ChangeKind::Changed {
                let files = match mark {
                    "-" => paths(&|pair| pair.1.is_none()),
                    _ => paths(&|pair| pair.0.is_none()),
                };
                let files: BTreeSet<&str> = files.difference(&programs).copied().collect();
                if !files.is_empty() {
                    details.push(describe_paths("files", mark, &files));
                }
            }
        }
        let mut covers: Vec<String> =
            self.files.iter().filter_map(|pair| pair.1.or(pair.0)).map(|entry| entry.path.clone()).collect();
        covers.sort();
        Change { covers, ..Change::new("packages", change, &entry, details) }
    }
}

fn describe_paths(what: &str, mark: &str, paths: &BTreeSet<&str>) -> String {
    crate::text::safe(&format!("{what}: {mark} {}", all(paths)))
}

/// A file that no package explains.
fn alone(pair: &Pair<'_, FileEntry>) -> Option<Change> {
    let change = |kind, entry: &FileEntry, details, alarm: Option<String>| {
        Some(Change { alarm, ..Change::new("files", kind, &describe::file_entry(entry), details) })
    };
    let kept = |entry: &FileEntry, what: &str| {
        entry
            .package
            .as_ref()
            .map(|package| format!("{what}, and its package is {} before and after", shown(package)))
    };
    match *pair {
        (Some(old), Some(new)) => {
            let contents = old.sha256 != new.sha256;
            let alarm = match (&old.package, &new.package) {
                (None, _) => None,
                _ if !contents => None,
                (Some(_), None) => Some("its contents changed, and it is of no package any more".to_owned()),
                (Some(one), Some(other)) if one == other => kept(new, "its contents changed"),
                (Some(_), Some(_)) => Some("its contents changed, and no package did".to_owned()),
            };
            change(ChangeKind::Changed, old, differences(old, new), alarm)
        }
        (Some(old), None) => change(ChangeKind::Removed, old, Vec::new(), kept(old, "it is gone")),
        (None, Some(new)) => change(ChangeKind::Added, new, Vec::new(), kept(new, "it is new")),
        (None, None) => None,
    }
}

/// What differs between two states of a file, without the digests of all its pages.
fn differences(old: &FileEntry, new: &FileEntry) -> Vec<String> {
    let mut details = Vec::new();
    if old.package != new.package {
        let name = |entry: &FileEntry| entry.package.as_deref().map_or_else(|| "none".to_owned(), shown);
        details.push(format!("package: {} → {}", name(old), name(new)));
    }
    if old.sha256 != new.sha256 {
        details.push(format!("sha256: {} → {}", old.sha256, new.sha256));
    }
    if old.size != new.size {
        details.push(format!("size: {} → {}", old.size, new.size));
    }
    if old.pages != new.pages {
        let decode = |pages: &Option<String>| STANDARD.decode(pages.as_ref()?).ok();
        details.push(match (decode(&old.pages), decode(&new.pages)) {
            (Some(old), Some(new)) => {
                let (old, new) = (old.chunks(PAGE_DIGEST), new.chunks(PAGE_DIGEST));
                let total = old.len().max(new.len());
                let same = old.zip(new).filter(|(old, new)| old == new).count();
                format!("pages: {} of {total} differ", total.saturating_sub(same))
            }
            _ => "pages: only one of both has digests of them".to_owned(),
        });
    }
    details
}

/// Name and version of the package that a file is from.
fn package(entry: &FileEntry) -> Option<(&str, &str)> {
    let package = entry.package.as_deref()?;
    Some(package.split_once('=').unwrap_or((package, "")))
}

/// The path of an entry that is about one program.
fn literal(entry: &ProcessEntry) -> Option<&str> {
    entry.executable.as_ref()?.as_literal()
}

/// Whether an entry allows what every program of an image is allowed, and no more: that root runs it.
fn is_plain(entry: &ProcessEntry) -> bool {
    let all = Capabilities::from_mask(u64::MAX);
    let root = Identity { uid: 0, euid: 0, gid: 0, egid: 0, capabilities: all };
    entry.names.is_empty()
        && entry.args.is_none()
        && entry.parents.is_none()
        && entry.container.is_none()
        && entry.exe_state == ExeState::Present
        && entry.presence == Presence::Allowed
        && entry.identities == [root]
}
