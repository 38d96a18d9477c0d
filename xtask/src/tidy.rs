//! The house rules that no compiler checks: ARCHITECTURE.md says why each of them is there.

use crate::run::root;
use crate::{hosts, matrix};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates a crate may use (DESIGN section 2). Dev-dependencies are free: tests may see everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("facts", &[]),
    ("vmi-core", &[]),
    ("guest-profiles", &[]),
    ("disk-image", &[]),
    ("hypervisor", &["facts", "vmi-core"]),
    ("introspect", &["facts", "vmi-core", "guest-profiles"]),
    ("attest", &["facts"]),
    ("quarantine", &["facts"]),
    ("daemon", &["facts", "vmi-core", "guest-profiles", "hypervisor", "introspect", "attest", "quarantine"]),
    (
        "cli",
        &[
            "facts",
            "vmi-core",
            "disk-image",
            "guest-profiles",
            "hypervisor",
            "introspect",
            "attest",
            "quarantine",
        ],
    ),
    ("testkit", &["facts", "vmi-core", "guest-profiles"]),
];

/// Crates that may contain `unsafe`.
const UNSAFE: &[&str] = &["hypervisor", "testkit"];
/// Crates that may print.
const PRINTING: &[&str] = &["cli", "testkit"];
/// Names that say nothing about what is in a file.
const NAMELESS: &[&str] = &["utils.rs", "util.rs", "common.rs", "helpers.rs", "misc.rs"];
/// A file with more lines has more than one job.
const LINES_MAX: usize = 800;

pub(crate) fn run() -> Result<()> {
    let mut faults = Vec::new();
    let crates = root().join("crates");
    for (name, allowed) in ARROWS {
        let manifest = crates.join(name).join("Cargo.toml");
        arrows(&read(&manifest)?, name, allowed, &mut faults);
    }
    for entry in fs::read_dir(&crates).with_context(|| format!("{} could not be listed", crates.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !ARROWS.iter().any(|(known, _)| *known == name) {
            faults.push(format!("crates/{name}: tidy does not know what it may depend on"));
        }
        if !read(&root().join("ARCHITECTURE.md"))?.contains(&format!("crates/{name}")) {
            faults.push(format!("ARCHITECTURE.md does not say what crates/{name} is for"));
        }
        for file in rust_files(&crates.join(&name))? {
            source(&name, &file, &mut faults)?;
        }
    }
    for file in rust_files(&root().join("xtask"))?.into_iter().chain(rust_files(&root().join("benches"))?) {
        source("xtask", &file, &mut faults)?;
    }
    for needed in
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE-MIT", "LICENSE-APACHE", "deny.toml"]
    {
        if !root().join(needed).is_file() {
            faults.push(format!("{needed} is missing"));
        }
    }
    let document = read(&root().join(matrix::DOCUMENT))?;
    support_matrix(&document, &mut faults);
    if hosts::splice(&document)? != document {
        faults.push(format!(
            "{}: its part about real hypervisors is not what docs/lab-results say: `cargo xtask matrix --hosts`",
            matrix::DOCUMENT
        ));
    }
    if faults.is_empty() {
        eprintln!("tidy: all house rules hold");
        return Ok(());
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    bail!("{} house rules are broken", faults.len())
}

/// The `[dependencies]` and `[build-dependencies]` of a manifest must stay inside `allowed`.
fn arrows(manifest: &str, name: &str, allowed: &[&str], faults: &mut Vec<String>) {
    let mut shipped = false;
    for line in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            shipped = line.contains("dependencies") && !line.contains("dev-dependencies");
            continue;
        }
        let key: String =
            line.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
        let ours = ARROWS.iter().any(|(known, _)| *known == key);
        if shipped && ours && !allowed.contains(&key.as_str()) {
            faults.push(format!("crates/{name} must not depend on {key}"));
        }
    }
}

/// The matrix is what was run, not what somebody wrote, and no kernel of the lab is left out of it.
fn support_matrix(text: &str, faults: &mut Vec<String>) {
    if !text.starts_with(matrix::GENERATED) {
        faults.push(format!("{}: its first line does not say that it is generated", matrix::DOCUMENT));
    }
    for kernel in testkit::Kernel::ALL {
        if !text.contains(&format!("| `{}` |", kernel.name)) {
            faults.push(format!("{}: the kernel {} is missing", matrix::DOCUMENT, kernel.name));
        }
    }
}

fn source(name: &str, file: &Path, faults: &mut Vec<String>) -> Result<()> {
    let text = read(file)?;
    let shown = file.strip_prefix(root()).unwrap_or(file).display();
    let base = file.file_name().unwrap_or_default().to_string_lossy();
    if NAMELESS.contains(&base.as_ref()) {
        faults.push(format!("{shown}: a name that says nothing"));
    }
    if !text.starts_with("//!") && !text.starts_with("#!") {
        faults.push(format!("{shown}: its first lines do not say what it is for (//!)"));
    }
    if text.lines().count() > LINES_MAX {
        faults.push(format!("{shown}: more than {LINES_MAX} lines"));
    }
    let shipped = file.components().any(|part| part.as_os_str() == "src");
    if !shipped {
        return Ok(());
    }
    let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    for line in code {
        let has_unsafe = line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
        if has_unsafe && !UNSAFE.contains(&name) && name != "xtask" {
            faults.push(format!("{shown}: unsafe code belongs in {}", UNSAFE.join(" or ")));
        }
        let prints = ["println!", "eprintln!", "print!(", "eprint!("].iter().any(|word| line.contains(word));
        if prints && !PRINTING.contains(&name) && name != "xtask" && !line.contains("// daemon:") {
            faults.push(format!("{shown}: only the command line prints"));
        }
    }
    Ok(())
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("{} could not be listed", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("{} could not be read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{arrows, support_matrix};

    #[test]
    fn a_wrong_arrow_is_a_fault_and_a_dev_dependency_is_none() {
        let manifest = "[dependencies]\nfacts.workspace = true\nhypervisor.workspace = true\n\n\
                        [dev-dependencies]\ntestkit.workspace = true\n";
        let mut faults = Vec::new();
        arrows(manifest, "attest", &["facts"], &mut faults);
        assert_eq!(faults, ["crates/attest must not depend on hypervisor"]);
    }

    #[test]
    fn a_matrix_written_by_hand_or_without_a_kernel_is_a_fault() {
        let mut faults = Vec::new();
        support_matrix("# Support matrix\n| `6.1-cloud` |\n", &mut faults);
        assert_eq!(faults.len(), testkit::Kernel::ALL.len(), "{faults:?}");
        assert!(!faults.iter().any(|fault| fault.contains("6.1-cloud")));
    }
}
