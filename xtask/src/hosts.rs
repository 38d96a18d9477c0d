//! The part of `docs/support-matrix.md` about real hypervisors, written from what the tests on the lab's hosts have shown.
//!
//! Those tests keep their results in `docs/lab-results` when they are run from here, and hold every other run against them
//! (`crates/cli/tests/it/shown.rs`). Tidy holds the document against the results.

use crate::run::{cargo, root, step};
use crate::setup;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::fmt::Write;
use std::fs;

/// From here on the document is this part.
const HEADING: &str = "\n## Real hypervisors\n";
/// The results, from the workspace's root, in the document's order, and the test that each is of.
const RESULTS: [(&str, &str); 3] = [
    ("docs/lab-results/kvm.json", "real_kvm::guests_of_a_real_kvm_are_found_read_audited_and_cut_off"),
    ("docs/lab-results/xen.json", "real_xen::domains_of_a_real_xen_are_found_read_audited_and_cut_off"),
    ("docs/lab-results/xen-hvm.json", "real_xen::a_domain_with_an_emulated_pc_is_found_and_read"),
];
/// What can be shown, in the order of the columns, and what it means.
const COLUMNS: [(&str, &str); 14] = [
    ("list", "`birthmark list` has it with name, UUID, memory and vCPUs"),
    ("metadata", "what libvirt says of it is listed, and is a target"),
    ("slots", "where its memory is was told by the kernel's memory slots"),
    ("snapshot", "every process, socket and module equals the guest's own `/proc`"),
    ("pause", "the same while it stands (`--pause`), and it runs after that"),
    (
        "pause ends",
        "its pause ends at the deadline and when the look is killed, and an operator's pause is left alone",
    ),
    (
        "registers",
        "its vCPU's page tables have the kernel where the kernel's own have it. On KVM by the registers that QEMU's monitor tells, by the \
         notes of a small core dump and by the page that KVM shares with QEMU, or by that page alone where libvirt has the monitor. \
         On Xen by the hypervisor's word, of PVH and HVM the interrupt table too, and where nothing in memory can be searched for",
    ),
    ("balloon", "*snapshot* again after it gave a quarter of its memory back, which is told as holes"),
    (
        "libxenctrl",
        "listed, paused and asked for the same registers through the host's libxenctrl, loaded where Xen refuses our own commands",
    ),
    ("audit", "it conforms to its certificate, and with a rogue program it does not"),
    ("daemon", "`birthmarkd` finds the rogue program"),
    (
        "quarantine",
        "and cuts the guest off at its tap or vif, and lets it back on the network when it is released",
    ),
    ("end", "and tells when the guest has ended"),
    (
        "locked down",
        "*snapshot* again on a host whose kernel lets nobody read it, so the machine's rules tell where memory is",
    ),
];

#[derive(Debug, Deserialize)]
struct Host {
    host: String,
    date: String,
    guests: Vec<Guest>,
}

#[derive(Debug, Deserialize)]
struct Guest {
    guest: String,
    shown: Vec<String>,
}

/// Runs the tests, which keep their results.
pub(crate) fn run() -> Result<()> {
    setup::with_kernels(&[])?;
    for (path, test) in RESULTS {
        let path = root().join(path);
        fs::create_dir_all(path.parent().unwrap_or(root()))?;
        let mut run = cargo();
        run.args(["test", "--package", "cli", "--test", "it", "--", "--exact", "--nocapture", test]);
        step(run.env("BIRTHMARK_TESTS", "all").env("BIRTHMARK_LAB_RESULTS", "write"))?;
        ensure!(path.is_file(), "{test} has left no {}", path.display());
    }
    Ok(())
}

/// The document with this part as the results are now.
pub(crate) fn splice(document: &str) -> Result<String> {
    let before = document.split_once(HEADING).map_or(document, |(before, _)| before);
    Ok(format!("{}\n{}", before.trim_end(), section(&read()?)?))
}

fn read() -> Result<Vec<Host>> {
    let one = |(path, _): (&str, &str)| {
        let text = fs::read_to_string(root().join(path))
            .with_context(|| format!("{path} could not be read: `cargo xtask matrix --hosts` writes it"))?;
        serde_json::from_str(&text).with_context(|| format!("{path} has another form"))
    };
    RESULTS.into_iter().map(one).collect()
}

fn section(hosts: &[Host]) -> Result<String> {
    let mut text = format!(
        "{HEADING}\nWhat the tests on the lab's hosts show, which are emulated machines (facts of the hypervisor are real, times are \
         not). CI runs them all, and a run that shows anything else than this fails (`crates/cli/tests/it/real_kvm.rs`, \
         `real_xen.rs`); `cargo xtask matrix --hosts` writes it. A `-` was not tried there.\n\n"
    );
    for (column, meaning) in COLUMNS {
        writeln!(text, "- *{column}*: {meaning}")?;
    }
    let mut last = "";
    for host in hosts {
        if host.host != last {
            let columns = COLUMNS.map(|(column, _)| column).join(" | ");
            writeln!(text, "\n{} ({}):\n", host.host, host.date)?;
            writeln!(text, "| guest | {columns} |\n|{}", " --- |".repeat(COLUMNS.len() + 1))?;
        }
        last = &host.host;
        for guest in &host.guests {
            if let Some(unknown) =
                guest.shown.iter().find(|one| !COLUMNS.iter().any(|(column, _)| column == one))
            {
                bail!("{}: nobody knows what `{unknown}` means", guest.guest);
            }
            let cell = |(column, _): (&str, &str)| {
                if guest.shown.iter().any(|one| one == column) { "yes" } else { "-" }
            };
            writeln!(text, "| {} | {} |", guest.guest, COLUMNS.map(cell).join(" | "))?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{Guest, HEADING, Host, section};

    fn host(name: &str, guest: &str, shown: &[&str]) -> Host {
        let shown = shown.iter().map(|one| (*one).to_owned()).collect();
        let guests = vec![Guest { guest: guest.to_owned(), shown }];
        Host { host: name.to_owned(), date: "2026-11-28".to_owned(), guests }
    }

    #[test]
    fn a_host_is_a_table_and_only_what_was_shown_is_a_yes() {
        let hosts =
            [host("KVM", "memfd", &["list", "audit"]), host("Xen", "PV", &[]), host("Xen", "HVM", &["end"])];
        let text = section(&hosts).unwrap();
        assert!(text.starts_with(HEADING), "{text}");
        assert!(
            text.contains("| memfd | yes | - | - | - | - | - | - | - | - | yes | - | - | - | - |"),
            "{text}"
        );
        assert!(
            text.contains("| PV | - | - | - | - | - | - | - | - | - | - | - | - | - | - |\n| HVM | - | - |"),
            "{text}"
        );
        assert_eq!(text.matches("\nXen (2026-11-28):").count(), 1, "{text}");
    }

    #[test]
    fn a_word_that_is_not_explained_is_refused() {
        let refused = section(&[host("KVM", "memfd", &["everything"])]).unwrap_err();
        assert!(refused.to_string().contains("`everything`"), "{refused}");
    }
}
