//! What was learned from a VM, held against the image that such VMs start from.
//!
//! An image says what could run, a VM what does run. Together they make a narrow certificate whose programs carry the digests of
//! their files; what runs and is no file of the image came from somewhere else, and is told to the person who signs. Must never take
//! a digest for a program that need not be that file: one in a container, one whose file was replaced, one whose path is left open.

use crate::certificate::{FileEntry, KernelIdentity, ModuleEntry, ProcessEntry, Subject};
use crate::learn::{Draft, Note};
use crate::text::shown;
use facts::ExeState;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of an image.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What it is known by.
    pub subject: Subject,
    /// Its executable files.
    pub files: Vec<FileEntry>,
    /// Its kernels. Empty: its VMs get theirs from elsewhere.
    pub kernels: Vec<KernelIdentity>,
    /// The modules of its kernels. Empty: as above.
    pub modules: Vec<ModuleEntry>,
    /// What else is to be known of it, in sentences.
    pub about: Vec<String>,
}

/// What the image says of a program that ran.
enum Found<'a> {
    File(&'a FileEntry),
    /// Why no file of it is known to be the program.
    Not(&'static str),
    /// It never had a file; that is told by itself.
    NoFile,
}

impl Draft {
    /// The draft with what the image tells. The image must be the one that the VMs started from, as it was then.
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Self {
        let Origin { subject, files, kernels, modules, about } = origin;
        let by_path: BTreeMap<&str, &FileEntry> =
            files.iter().map(|file| (file.path.as_str(), file)).collect();
        let mut used = BTreeSet::new();
        let mut programs = 0_usize;
        for (index, entry) in self.statement.predicate.processes.iter_mut().enumerate() {
            let path = format!("/processes/{index}");
            match find(entry, &by_path) {
                Found::File(file) => {
                    entry.sha256 = vec![file.sha256.clone()];
                    used.insert(file.path.as_str());
                    programs = programs.saturating_add(1);
                    let of = file.package.as_deref().map_or("no package".to_owned(), shown);
                    let why = format!("; its file in the image is of {of}");
                    note(&mut self.notes, &path, |note| note.why.push_str(&why));
                }
                Found::Not(why) => {
                    programs = programs.saturating_add(1);
                    note(&mut self.notes, &path, |note| note.review.push(why.to_owned()));
                }
                Found::NoFile => {}
            }
        }
        let certificate = &mut self.statement.predicate;
        for (index, kernel) in certificate.guest.kernels.iter().enumerate() {
            if !kernels.is_empty() && !kernels.contains(kernel) {
                let why = "the image has no such kernel".to_owned();
                note(&mut self.notes, &format!("/guest/kernels/{index}"), |note| note.review.push(why));
            }
        }
        for (index, module) in certificate.modules.iter().enumerate() {
            if !modules.is_empty() && !modules.contains(module) {
                let why = "the kernels of the image have no such module".to_owned();
                note(&mut self.notes, &format!("/modules/{index}"), |note| note.review.push(why));
            }
        }
        let digests: Vec<_> =
            subject.digest.iter().map(|(algorithm, hex)| format!("{algorithm} {hex}")).collect();
        self.about.push(format!(
            "Held against the image with {}: {} of {programs} programs that ran have files in it, {} of its {} files that could run did not.",
            digests.join(", "),
            certificate.processes.iter().filter(|entry| !entry.sha256.is_empty()).count(),
            files.len().saturating_sub(used.len()),
            files.len(),
        ));
        if kernels.is_empty() {
            self.about
                .push("No kernel was found in the image, so that of the VMs is from elsewhere.".to_owned());
        }
        self.about.extend(about);
        certificate.files = files;
        self.statement.subject.retain(|known| known.name != subject.name);
        self.statement.subject.push(subject);
        self
    }
}

fn find<'a>(entry: &ProcessEntry, files: &BTreeMap<&str, &'a FileEntry>) -> Found<'a> {
    if entry.kernel_thread || matches!(entry.exe_state, ExeState::Memfd | ExeState::None) {
        return Found::NoFile;
    }
    if entry.container.is_some() {
        return Found::Not("it runs in a container, whose files are not those of the image");
    }
    let Some(path) = entry.executable.as_ref().and_then(|executable| executable.as_literal()) else {
        return Found::Not("its path is left open, so it is not known which file of the image it is");
    };
    match files.get(path) {
        None => Found::Not("it is NOT in the image"),
        Some(_) if entry.exe_state == ExeState::Deleted => Found::Not(
            "its file was replaced or removed after it had started, so it need not be that of the image",
        ),
        Some(file) => Found::File(file),
    }
}

/// Changes the note on an entry.
fn note(notes: &mut Vec<Note>, path: &str, change: impl FnOnce(&mut Note)) {
    if let Some(note) = notes.iter_mut().find(|note| note.path == path) {
        return change(note);
    }
    let why = "it is in the draft".to_owned();
    let mut new = Note { path: path.to_owned(), why, looks: None, vms: None, review: Vec::new() };
    change(&mut new);
    notes.push(new);
}
