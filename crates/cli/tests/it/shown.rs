//! What was shown on a lab host, guest by guest: the source of the tables of real hypervisors in docs/support-matrix.md.
//!
//! The results of a run are kept in `docs/lab-results` when `cargo xtask matrix --hosts` asks for them. Every other run is held against
//! what is kept, so the document cannot say what the tests do not show.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// One host and what was shown on it.
pub struct Shown {
    file: PathBuf,
    host: &'static str,
    /// In the order in which they were first told of.
    guests: Vec<(&'static str, Vec<&'static str>)>,
    began: Instant,
}

impl Shown {
    /// `file` is its name in `docs/lab-results`, `host` what it is, in words.
    pub fn on(file: &str, host: &'static str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lab-results").join(file);
        Self { file, host, guests: Vec::new(), began: Instant::now() }
    }

    /// Something was shown on a guest. Words that the document does not explain are refused when it is written.
    #[allow(clippy::print_stderr, reason = "the output of a test tells where its time goes")]
    pub fn that(&mut self, guest: &'static str, what: &[&'static str]) {
        eprintln!("after {:.1?}: {guest}: {}", self.began.elapsed(), what.join(", "));
        match self.guests.iter_mut().find(|(known, _)| *known == guest) {
            Some((_, shown)) => shown.extend(what),
            None => self.guests.push((guest, what.to_vec())),
        }
    }

    /// All of it: kept, or held against what is kept.
    pub fn keep_or_compare(self) {
        let guests: Vec<Value> =
            self.guests.iter().map(|(guest, shown)| json!({"guest": guest, "shown": shown})).collect();
        if std::env::var_os("BIRTHMARK_LAB_RESULTS").is_some() {
            let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
            let result = json!({"host": self.host, "date": date, "guests": guests});
            std::fs::write(&self.file, format!("{result:#}\n")).unwrap();
            return;
        }
        let shown = self.file.display();
        let kept = std::fs::read_to_string(&self.file).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let kept: Value = serde_json::from_str(&kept).unwrap();
        assert_eq!(
            (&kept["host"], &kept["guests"]),
            (&json!(self.host), &json!(guests)),
            "{shown} is of another run: `cargo xtask matrix --hosts` writes it anew"
        );
    }
}
