//! Tables: one line per row, columns aligned, made narrower for a terminal and never for a pipe.
//!
//! Own code because a guest fills these cells. A cell is sanitised when it is made. The last column is never padded and
//! no column is padded beyond [`PADDED_MAX`], so that one process with a megabyte of arguments costs a megabyte of output
//! and not a megabyte per row. Must never wrap (rows are lines: `grep` and `head` work on them), never leave out anything
//! in a pipe, and never cut a number: half a number is another number.
//!
//! A terminal that is too narrow gets shorter text, then fewer columns, which a `…` at the end of the header tells.

use super::sanitize::sanitize;
use std::fmt::Write;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Space between columns.
const GAP: &str = "  ";
/// Cells wider than this are not what other rows are aligned with.
const PADDED_MAX: usize = 64;
/// Text of a terminal's column is not cut below this while there are columns that can be left out instead.
const COMFORTABLE: usize = 8;
/// Text is not cut below this while columns on the right can be left out instead.
const NARROWEST: usize = 6;
/// The same of the title over a column of numbers.
const TITLE: usize = 4;
/// What ends a header that lacks columns.
const LACKS: &str = " …";

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
        width(&self.text)
    }

    /// Appends the text. Where it had to be cut to `limit`, `…` stands for its end, or for its beginning. Gives the columns it takes.
    pub(super) fn write(&self, limit: usize, keep: Keep, colour: bool, line: &mut String) -> usize {
        let (text, width) = cut(&self.text, limit, keep);
        let is_cut = text.len() < self.text.len();
        let (before, after) = match keep {
            Keep::Beginning if is_cut => ("", "…"),
            Keep::End if is_cut => ("…", ""),
            _ => ("", ""),
        };
        // Writing to a String cannot fail.
        let _ = match self.paint.code().filter(|_| colour) {
            Some(code) => write!(line, "\x1b[{code}m{before}{text}{after}\x1b[0m"),
            None => write!(line, "{before}{text}{after}"),
        };
        if is_cut { width.saturating_add(1) } else { width }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// Columns of a terminal that a text takes: those of its characters, since terminals differ in what they join.
fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).fold(0, usize::saturating_add)
}

/// The longest beginning or end that fits, room for `…` included when something is left out, and its width.
fn cut(text: &str, limit: usize, keep: Keep) -> (&str, usize) {
    let whole = width(text);
    if whole <= limit {
        return (text, whole);
    }
    let room = limit.saturating_sub(1);
    let mut taken = 0_usize;
    match keep {
        Keep::Beginning => {
            for (at, c) in text.char_indices() {
                let next = taken.saturating_add(c.width().unwrap_or(0));
                if next > room {
                    return (text.get(..at).unwrap_or_default(), taken);
                }
                taken = next;
            }
        }
        Keep::End => {
            let mut from = text.len();
            for (at, c) in text.char_indices().rev() {
                let width = c.width().unwrap_or(0);
                let next = taken.saturating_add(width);
                if next > room {
                    break;
                }
                taken = next;
                // A mark without the character that it stands on would stand on something else.
                if width > 0 {
                    from = at;
                }
            }
            return (text.get(from..).unwrap_or_default(), taken);
        }
    }
    (text, taken)
}

/// What is kept of a text that must be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Beginning,
    End,
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

#[derive(Clone, Copy, Debug)]
struct Column {
    title: &'static str,
    align: Align,
    keep: Keep,
    comfortable: usize,
}

/// A table with a header.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    /// Titles of columns that a narrow terminal can do without, the most dispensable first.
    spare: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A `>` before a title makes it a column of numbers: set to the right, and never cut.
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        let column = |title: &&'static str| {
            let (title, align) =
                title.strip_prefix('>').map_or((*title, Align::Left), |title| (title, Align::Right));
            Column { title, align, keep: Keep::Beginning, comfortable: COMFORTABLE }
        };
        Self { columns: titles.iter().map(column).collect(), spare: &[], rows: Vec::new() }
    }

    /// Columns of which the end says more than the beginning, as of paths, and what they need to say it.
    pub(crate) fn ending(mut self, titles: &[&str], comfortable: usize) -> Self {
        for column in self.columns.iter_mut().filter(|column| titles.contains(&column.title)) {
            *column = Column { keep: Keep::End, comfortable, ..*column };
        }
        self
    }

    /// Columns that a terminal can do without where others would be cut too short, the most dispensable first.
    pub(crate) fn spare(mut self, titles: &'static [&'static str]) -> Self {
        self.spare = titles;
        self
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
            self.columns.iter().map(|column| Cell::new(column.title).paint(Paint::Bold)).collect();
        let widths = match surface.width {
            // Nobody reads what is narrower still.
            Some(terminal) => self.fitted(terminal.max(NARROWEST)),
            None => self.natural(PADDED_MAX, false).into_iter().map(Some).collect(),
        };
        let mut first = self.line(&header, &widths, surface);
        if widths.contains(&None) {
            first.push_str(LACKS);
        }
        let rest = self.rows.iter().map(move |row| self.line(row, &widths, surface));
        std::iter::once(first).chain(rest)
    }

    fn line(&self, cells: &[Cell], widths: &[Option<usize>], surface: Surface) -> String {
        let mut line = String::new();
        let last = widths.iter().rposition(Option::is_some).unwrap_or(0);
        for (index, ((cell, width), column)) in cells.iter().zip(widths).zip(&self.columns).enumerate() {
            let Some(width) = *width else { continue };
            let limit = if surface.width.is_some() { width } else { usize::MAX };
            if column.align == Align::Right {
                line.push_str(&" ".repeat(width.saturating_sub(cell.width())));
            }
            let written = cell.write(limit, column.keep, surface.colour, &mut line);
            if index < last {
                if column.align == Align::Left {
                    line.push_str(&" ".repeat(width.saturating_sub(written)));
                }
                line.push_str(GAP);
            }
        }
        line
    }

    /// What the widest cell of each column needs, or its title. Cells beyond `most` count as `most`, or not at all.
    fn natural(&self, most: usize, all_count: bool) -> Vec<usize> {
        let last = self.columns.len().saturating_sub(1);
        let columns = self.columns.iter().enumerate();
        columns
            .map(|(index, column)| {
                let widest = self.widest_cell(index, most, all_count).max(column.title.width());
                // Nothing comes after it: no padding on its right, so its width only matters on its left.
                if index == last && !all_count && column.align == Align::Left { 0 } else { widest }
            })
            .collect()
    }

    fn widest_cell(&self, index: usize, most: usize, all_count: bool) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(index)).map(Cell::width);
        cells.filter(|width| *width <= most || all_count).max().unwrap_or(0).min(most)
    }

    /// The width of each column on a terminal, `None` for one that is left out.
    fn fitted(&self, terminal: usize) -> Vec<Option<usize>> {
        let natural = self.natural(terminal, true);
        // Numbers are not cut, and their titles only a little.
        let numbers: Vec<Option<usize>> = (0..self.columns.len())
            .map(|index| self.columns.get(index).filter(|column| column.align == Align::Right).map(|_| index))
            .map(|index| index.map(|index| self.widest_cell(index, terminal, true).max(TITLE)))
            .collect();
        let floor = |index: usize, text: usize| numbers.get(index).copied().flatten().unwrap_or(text);
        let comfortable = |index: usize| {
            let text = self.columns.get(index).map_or(COMFORTABLE, |column| column.comfortable);
            floor(index, text)
        };
        for left_out in 0..=self.spare.len() {
            let dispensable = self.spare.get(..left_out).unwrap_or_default();
            let mut widths: Vec<Option<usize>> = natural
                .iter()
                .zip(&self.columns)
                .map(|(width, column)| (!dispensable.contains(&column.title)).then_some(*width))
                .collect();
            if narrow(&mut widths, terminal, comfortable) {
                return widths;
            }
            if left_out == self.spare.len() {
                // Nothing more can be left out in comfort.
                if !narrow(&mut widths, terminal, |index| floor(index, NARROWEST)) {
                    end_at(&mut widths, terminal);
                }
                return widths;
            }
        }
        natural.into_iter().map(Some).collect()
    }
}

/// Takes from the widest columns until all fit. False: they do not, with each at its floor.
fn narrow(widths: &mut [Option<usize>], terminal: usize, floor: impl Fn(usize) -> usize) -> bool {
    loop {
        let shown = widths.iter().flatten().count();
        let gaps = GAP.len().saturating_mul(shown.saturating_sub(1));
        let lacks = if shown < widths.len() { LACKS.width() } else { 0 };
        let room = terminal.saturating_sub(gaps).saturating_sub(lacks);
        if widths.iter().flatten().sum::<usize>() <= room {
            return true;
        }
        let above = widths.iter_mut().enumerate().filter_map(|(index, width)| {
            let width = width.as_mut()?;
            (*width > floor(index)).then_some(width)
        });
        match above.max_by_key(|width| **width) {
            Some(width) => *width = width.saturating_sub(1),
            None => return false,
        }
    }
}

/// Leaves out what is beyond the end of the terminal. The first column stays.
fn end_at(widths: &mut [Option<usize>], terminal: usize) {
    let room = terminal.saturating_sub(LACKS.width());
    let mut used = 0_usize;
    for slot in widths.iter_mut() {
        let Some(width) = *slot else { continue };
        let before = if used == 0 { 0 } else { used.saturating_add(GAP.len()) };
        if before.saturating_add(width) <= room {
            used = before.saturating_add(width);
        } else if used == 0 {
            *slot = Some(room);
            used = room;
        } else {
            *slot = None;
            used = room;
        }
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
        assert_eq!(lines[0], "PID  NAME         ARGS");
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

    /// Rows as `sockets` has them.
    fn wide() -> Table {
        let mut table = Table::new(&["PROTO", ">SEND-Q", "LOCAL", ">NETNS", "NOTES"])
            .ending(&["LOCAL"], 15)
            .spare(&["SEND-Q", "NETNS"]);
        for local in ["127.0.0.1:36235", "[::ffff:127.0.0.1]:36235"] {
            table.row(["tcp6", "128", local, "4026531840", "not accepted yet"].map(Cell::new));
        }
        table
    }

    #[test]
    fn a_narrow_terminal_keeps_ports_and_whole_numbers_and_says_that_columns_are_left_out() {
        let at = |width| wide().lines(Surface { width: Some(width), colour: false }).collect::<Vec<_>>();
        assert_eq!(
            at(60),
            [
                "PROTO  SEND-Q  LOCAL                  NETNS  NOTES",
                "tcp6      128  127.0.0.1:36235   4026531840  not accepted y…",
                "tcp6      128  …27.0.0.1]:36235  4026531840  not accepted y…",
            ]
        );
        assert_eq!(
            at(50),
            [
                "PROTO  SEN…  LOCAL                 NETNS  NOTES",
                "tcp6    128  127.0.0.1:36235  4026531840  not acc…",
                "tcp6    128  …7.0.0.1]:36235  4026531840  not acc…",
            ]
        );
        assert_eq!(
            at(40),
            [
                "PROTO  LOCAL            NOTES …",
                "tcp6   127.0.0.1:36235  not accepted …",
                "tcp6   …7.0.0.1]:36235  not accepted …",
            ]
        );
        assert_eq!(at(20), ["PROTO  LOCAL …", "tcp6   …36235", "tcp6   …36235"]);
    }

    #[test]
    fn what_is_cut_at_its_beginning_never_begins_with_a_mark_of_another_character() {
        assert_eq!(cut("abce\u{301}fg", 4, Keep::End), ("e\u{301}fg", 3));
        assert_eq!(cut("abce\u{301}fg", 3, Keep::End), ("fg", 2));
        assert_eq!(cut("日本語", 4, Keep::End), ("語", 2));
        assert_eq!(cut("日本語", 4, Keep::Beginning), ("日", 2));
        assert_eq!(cut("日本語", 0, Keep::End), ("", 0));
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
            width in 6_usize..200,
        ) {
            let mut table = Table::new(&["A", ">B", "C"]).ending(&["C"], 10).spare(&["A"]);
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
