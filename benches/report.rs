//! The table at the end of a run: each row beside its raw copy, out of what criterion measured in this run.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// What a row is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// First column of DESIGN section 5.
    pub reach: Duration,
    /// Second column.
    pub aim: Duration,
}

/// One row: a bench, and the bench that copies the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    what: String,
    bench: String,
    raw: Option<String>,
    goal: Option<Goal>,
}

/// All rows of a run.
#[derive(Debug)]
pub struct Report {
    started: SystemTime,
    home: PathBuf,
    notes: Vec<String>,
    rows: Vec<Row>,
}

impl Report {
    /// For a run that starts now and has criterion write to `home`.
    #[must_use]
    pub fn new(home: PathBuf) -> Self {
        Self { started: SystemTime::now(), home, notes: Vec::new(), rows: Vec::new() }
    }

    /// Adds a line above the table.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Adds a row. `bench` and `raw` are criterion's ids, `group/function`.
    pub fn row(&mut self, what: &str, bench: &str, raw: Option<&str>, goal: Option<Goal>) {
        let raw = raw.map(str::to_owned);
        self.rows.push(Row { what: what.to_owned(), bench: bench.to_owned(), raw, goal });
    }

    /// Median of a bench in this run, in nanoseconds. `None` when it did not run.
    fn median(&self, bench: &str) -> Option<f64> {
        let path = self.home.join(bench).join("new").join("estimates.json");
        let measured = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
        if measured < self.started {
            return None;
        }
        let estimates: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        estimates.get("median")?.get("point_estimate")?.as_f64()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        writeln!(f, "\n{:<58} {:>10} {:>10} {:>7}  reach / aim", "what", "median", "raw copy", "ratio")?;
        for row in &self.rows {
            let Some(median) = self.median(&row.bench) else { continue };
            let raw = row.raw.as_deref().and_then(|raw| self.median(raw));
            let ratio = raw.map_or(String::new(), |raw| format!("{:.1}", median / raw));
            let goal = row.goal.map_or(String::new(), |goal| {
                let (reach, aim) = (goal.reach.as_secs_f64() * 1e9, goal.aim.as_secs_f64() * 1e9);
                let met = match () {
                    () if median <= aim => "aim met",
                    () if median <= reach => "reached",
                    () => "NOT reached",
                };
                format!("{} / {}: {met}", time(reach), time(aim))
            });
            writeln!(
                f,
                "{:<58} {:>10} {:>10} {:>7}  {goal}",
                row.what,
                time(median),
                raw.map_or(String::new(), time),
                ratio
            )?;
        }
        Ok(())
    }
}

/// Bytes with a unit.
#[must_use]
pub fn size(bytes: u64) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes >> 10)
    } else {
        format!("{:.1} MiB", bytes as f64 / 1048576.0)
    }
}

/// Nanoseconds with a unit, three digits.
fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "µs"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}
