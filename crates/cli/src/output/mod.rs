//! The only place that prints. Standard output carries the answer, standard error everything about it.
//!
//! A reader that goes away (`birthmark ps web-1 | head -1`) is no error: the rest is dropped in silence and the exit
//! status is what it would have been. Colours and narrow tables are for a terminal only, and colours not with `NO_COLOR`.
//! Every piece of text is a [`Cell`] and thereby safe; errors and notes are made safe here.

mod json;
mod sanitize;
mod table;

pub(crate) use table::{Cell, Paint, Surface, Table};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;
use unicode_width::UnicodeWidthStr;

/// Width of a terminal that does not tell.
const USUAL_WIDTH: usize = 80;
/// Column in which the values of [`Output::field`] begin.
const VALUE_AT: usize = 14;

/// Standard output and standard error of this command.
pub(crate) struct Output {
    out: BufWriter<Pipe<io::Stdout>>,
    surface: Surface,
    /// Whether `--json` was given.
    pub(crate) json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let width =
            terminal.then(|| terminal_size::terminal_size().map_or(USUAL_WIDTH, |(width, _)| width.0.into()));
        let colour = terminal && wants_colour();
        let out = BufWriter::new(Pipe { inner: io::stdout(), gone: false });
        Self { out, surface: Surface { width, colour }, json }
    }

    /// Prints JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        json::write(&mut self.out, value).context(FAILED)
    }

    /// Prints JSON on one line.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        json::write_line(&mut self.out, value).context(FAILED)
    }

    /// Prints a table.
    pub(crate) fn table(&mut self, table: &Table) -> anyhow::Result<()> {
        for line in table.lines(self.surface) {
            writeln!(self.out, "{}", line.trim_end()).context(FAILED)?;
        }
        Ok(())
    }

    /// Prints one line of one or more pieces.
    pub(crate) fn line(&mut self, cells: &[Cell]) -> anyhow::Result<()> {
        let mut line = String::new();
        for cell in cells {
            cell.write(usize::MAX, table::Keep::Beginning, self.surface.colour, &mut line);
        }
        writeln!(self.out, "{}", line.trim_end()).context(FAILED)
    }

    /// Prints `Label        value`.
    pub(crate) fn field(&mut self, label: &str, value: impl Into<Cell>) -> anyhow::Result<()> {
        let gap = " ".repeat(VALUE_AT.saturating_sub(label.width()).max(1));
        self.line(&[Cell::new(label).paint(Paint::Dim), Cell::new(gap), value.into()])
    }

    /// Hands on what was printed so far: for output that goes on for as long as somebody watches.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        self.out.flush().context(FAILED)
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_unread(&self) -> bool {
        self.out.get_ref().gone
    }

    /// Ends the output: what is still buffered is written.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        self.out.flush().context(FAILED)
    }
}

const FAILED: &str = "Cannot write the output";

/// Prints one line about something that is no error on standard error.
pub(crate) fn note(text: &str) {
    to_stderr(&format!("birthmark: {}", sanitize::sanitize(text)));
}

/// Prints the one line of an error: its chain joined with `: `, and what to do about it.
pub(crate) fn error(error: &anyhow::Error, advice: Option<&str>) {
    let advice = advice.map(|advice| format!(" ({advice})")).unwrap_or_default();
    note(&format!("{error:#}{advice}"));
}

/// Prints text of `clap` (help, version), which knows no guest.
pub(crate) fn help(text: &str) {
    let mut out = Pipe { inner: io::stdout(), gone: false };
    // When the reader is gone or the disk is full there is nobody to tell.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn to_stderr(line: &str) {
    // Nobody is left to tell that telling failed.
    let _ = writeln!(io::stderr(), "{line}");
}

/// <https://no-color.org>: set and not empty means no.
fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Says on a terminal's standard error that something takes its time, until it is dropped. Shows nothing elsewhere.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Work of unknown length.
    pub(crate) fn spinner(what: &str) -> Self {
        let bar = Self::bar(None);
        bar.set_message(sanitize::sanitize(what).into_owned());
        // What is not shown needs no thread that turns it.
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self(bar)
    }

    /// Work of `steps` steps.
    pub(crate) fn steps(what: &str, steps: u64) -> Self {
        let bar = Self::bar(Some(steps));
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(sanitize::sanitize(what).into_owned());
        Self(bar)
    }

    pub(crate) fn step(&self) {
        self.0.inc(1);
    }

    fn bar(length: Option<u64>) -> ProgressBar {
        if !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        length.map_or_else(ProgressBar::new_spinner, ProgressBar::new)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A writer whose reader may go away.
struct Pipe<W> {
    inner: W,
    gone: bool,
}

impl<W: Write> Pipe<W> {
    /// `result`, unless it says that the reader is gone.
    fn forgiving(&mut self, result: io::Result<usize>, length: usize) -> io::Result<usize> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(length)
            }
            result => result,
        }
    }
}

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gone {
            return Ok(bytes.len());
        }
        let result = self.inner.write(bytes);
        self.forgiving(result, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gone {
            return Ok(());
        }
        let result = self.inner.flush().map(|()| 0);
        self.forgiving(result, 0).map(|_| ())
    }
}
