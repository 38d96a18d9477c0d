//! Tables: one line per row, columns aligned, made narrower for a terminal and never for a pipe.
//!
//! Own code because a guest fills these cells. A cell is sanitised when it is made. The last column is never padded and
//! no column is padded beyond [`PADDED_MAX`], so that one process with a megabyte of arguments costs a megabyte of output
//! and not a megabyte per row. Must never wrap (rows are lines: `grep` and `head` work on them) and never drop a column.

use super::sanitize::sanitize;
use std::fmt::Write;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Space between columns.
const GAP: &str = "  ";
/// Cells wider than this are not what other rows are aligned with.
const PADDED_MAX: usize = 64;
/// A terminal column is not made narrower than this.
const NARROWEST: usize = 6;

/// How a cell stands out on a terminal with colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Paint {
    #[default]
    Plain,
    Bold,
    Dim,
    Red,
    Yellow,
    Green,
}

impl Paint {
    /// SGR parameters; `None` for nothing at all.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bold => Some("1"),
            Self::Dim => Some("2"),
            Self::Red => Some("1;31"),
            Self::Yellow => Some("33"),
            Self::Green => Some("32"),
        }
    }
}

/// A piece of text, safe to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    /// Makes any text safe.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self { text: sanitize(text.as_ref()).into_owned(), paint: Paint::Plain }
    }

    pub(crate) fn paint(self, paint: Paint) -> Self {
        Self { paint, ..self }
    }

    /// What is known, or `?` for what is not.
    pub(crate) fn known(value: Option<impl ToString>) -> Self {
        value.map_or_else(|| Self::new("?").paint(Paint::Dim), |value| Self::new(value.to_string()))
    }

    /// What there is, or `-` where there is no such thing.
    pub(crate) fn some(value: Option<impl ToString>) -> Self {
        value.map_or_else(|| Self::new("-"), |value| Self::new(value.to_string()))
    }

    fn width(&self) -> usize {
        self.text.width()
    }

    /// Appends the text, `…` at its end when it had to be cut to `limit`. Gives the columns it takes.
    pub(super) fn write(&self, limit: usize, colour: bool, line: &mut String) -> usize {
        let (text, width) = cut(&self.text, limit);
        let cut_off = text.len() < self.text.len();
        match self.paint.code().filter(|_| colour) {
            Some(code) => {
                // Writing to a String cannot fail.
                let _ = write!(line, "\x1b[{code}m{text}{}\x1b[0m", if cut_off { "…" } else { "" });
            }
            None => {
                line.push_str(text);
                if cut_off {
                    line.push('…');
                }
            }
        }
        if cut_off { width.saturating_add(1) } else { width }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// The longest beginning that fits, room for `…` included when something is left out, and its width.
fn cut(text: &str, limit: usize) -> (&str, usize) {
    let whole = text.width();
    if whole <= limit {
        return (text, whole);
    }
    let room = limit.saturating_sub(1);
    let mut width = 0_usize;
    for (at, c) in text.char_indices() {
        let next = width.saturating_add(c.width().unwrap_or(0));
        if next > room {
            return (text.get(..at).unwrap_or_default(), width);
        }
        width = next;
    }
    (text, width)
}

/// On which side of a column its text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// What the output is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Surface {
    /// Columns of the terminal; `None`: unlimited.
    pub(crate) width: Option<usize>,
    /// Whether colours are wanted.
    pub(crate) colour: bool,
}

/// A table with a header.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A `>` before a title sets the column to the right.
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        let columns = titles
            .iter()
            .map(|title| title.strip_prefix('>').map_or((*title, Align::Left), |title| (title, Align::Right)))
            .collect();
        Self { columns, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// One string per line, without newlines.
    pub(crate) fn lines(&self, surface: Surface) -> impl Iterator<Item = String> {
        let header: Vec<Cell> =
            self.columns.iter().map(|(title, _)| Cell::new(title).paint(Paint::Bold)).collect();
        let widths = self.widths(surface.width);
        let first = self.line(&header, &widths, surface);
        let rest = self.rows.iter().map(move |row| self.line(row, &widths, surface));
        std::iter::once(first).chain(rest)
    }

    fn line(&self, cells: &[Cell], widths: &[usize], surface: Surface) -> String {
        let mut line = String::new();
        let last = widths.len().saturating_sub(1);
        for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let align = self.columns.get(index).map_or(Align::Left, |(_, align)| *align);
            let limit = if surface.width.is_some() { *width } else { usize::MAX };
            let padding = " ".repeat(width.saturating_sub(cell.width()));
            if align == Align::Right {
                line.push_str(&padding);
            }
            let written = cell.write(limit, surface.colour, &mut line);
            if index < last {
                if align == Align::Left {
                    line.push_str(&" ".repeat(width.saturating_sub(written)));
                }
                line.push_str(GAP);
            }
        }
        line
    }

    /// Width of each column: what its widest cell needs, and on a terminal less for the widest ones until all fit.
    fn widths(&self, terminal: Option<usize>) -> Vec<usize> {
        let last = self.columns.len().saturating_sub(1);
        let most = terminal.unwrap_or(PADDED_MAX);
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (title, align))| {
                let cells = self.rows.iter().filter_map(|row| row.get(index)).map(Cell::width);
                let fitting = cells.filter(|width| *width <= PADDED_MAX || terminal.is_some());
                let widest = fitting.max().unwrap_or(0).min(most).max(title.width());
                // Unlimited, and nothing comes after it: no padding on its right, so its width only matters on its left.
                if index == last && terminal.is_none() && *align == Align::Left { 0 } else { widest }
            })
            .collect();
        let Some(terminal) = terminal else { return widths };
        let room = terminal.saturating_sub(GAP.len().saturating_mul(last));
        while widths.iter().sum::<usize>() > room {
            let widest = widths.iter_mut().max_by_key(|width| **width);
            match widest.filter(|width| **width > NARROWEST) {
                Some(width) => *width = width.saturating_sub(1),
                None => break,
            }
        }
        widths
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIPE: Surface = Surface { width: None, colour: false };

    fn sample() -> Table {
        let mut table = Table::new(&[">PID", "NAME", "ARGS"]);
        table.row([Cell::new("1"), Cell::new("init"), Cell::new("/sbin/init splash and some more words")]);
        table.row([Cell::new("214"), Cell::new("a\x1b[31m"), Cell::new("")]);
        table
    }

    #[test]
    fn columns_are_aligned_and_nothing_is_cut_in_a_pipe() {
        let lines: Vec<String> = sample().lines(PIPE).collect();
        assert_eq!(
            lines,
            [
                "PID  NAME         ARGS",
                "  1  init         /sbin/init splash and some more words",
                "214  a\\u{1b}[31m  ",
            ]
        );
    }

    #[test]
    fn a_terminal_gets_lines_that_fit_with_a_mark_where_text_is_cut() {
        let lines: Vec<String> = sample().lines(Surface { width: Some(32), colour: false }).collect();
        assert!(lines.iter().all(|line| line.width() <= 32), "{lines:#?}");
        assert_eq!(lines[1], "  1  init         /sbin/init sp…");
    }

    #[test]
    fn wide_characters_count_twice() {
        let mut table = Table::new(&["NAME", "X"]);
        table.row([Cell::new("日本語日本語"), Cell::new("1")]);
        table.row([Cell::new("abc"), Cell::new("2")]);
        let lines: Vec<String> = table.lines(PIPE).collect();
        assert_eq!(lines[1], "日本語日本語  1");
        assert_eq!(lines[2], "abc           2");
    }

    #[test]
    fn one_huge_cell_does_not_make_the_other_rows_huge() {
        let mut table = Table::new(&["NAME", "X"]);
        table.row([Cell::new("n".repeat(100_000)), Cell::new("1")]);
        table.row([Cell::new("abc"), Cell::new("2")]);
        let lines: Vec<String> = table.lines(PIPE).collect();
        assert_eq!(lines[1].len(), 100_003);
        assert_eq!(lines[2], "abc   2");
    }

    #[test]
    fn colour_comes_only_when_it_is_wanted_and_is_always_ended() {
        let mut table = Table::new(&["A"]);
        table.row([Cell::new("red").paint(Paint::Red)]);
        assert!(table.lines(PIPE).all(|line| !line.contains('\x1b')));
        let lines: Vec<String> = table.lines(Surface { width: Some(80), colour: true }).collect();
        assert_eq!(lines[1], "\x1b[1;31mred\x1b[0m");
    }

    proptest! {
        #[test]
        fn every_line_fits_a_terminal_that_is_not_too_narrow(
            rows in prop::collection::vec(prop::array::uniform3(any::<String>()), 0..8),
            width in 24_usize..200,
        ) {
            let mut table = Table::new(&["A", ">B", "C"]);
            for row in rows {
                table.row(row.map(Cell::new));
            }
            for line in table.lines(Surface { width: Some(width), colour: false }) {
                prop_assert!(line.width() <= width, "{line:?}");
                prop_assert!(!line.contains(['\n', '\x1b']));
            }
        }
    }
}
