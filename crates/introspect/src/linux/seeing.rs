//! Which of a table's views have an object, as the names that a row shows.
//!
//! A table has few views, so the lists of their names are made once, and all rows that have the same share one.

use facts::{Names, Text};

/// The lists of names that the views of one table can give.
pub(super) struct Seeing(Vec<Names>);

impl Seeing {
    /// Of `views`, in the order in which rows have them. There are a handful.
    pub(super) fn new(views: &[&'static str]) -> Self {
        let has = |seen: usize, view: usize| seen >> view & 1 != 0;
        let names = |seen| views.iter().enumerate().filter(move |(view, _)| has(seen, *view));
        let names = |seen| names(seen).map(|(_, name)| Text::new_static(name)).collect();
        Self((0..1 << views.len()).map(names).collect())
    }

    /// The names of the views that are `seen`, of those that [`Self::new`] was given.
    pub(super) fn names(&self, seen: &[bool]) -> Names {
        let seen = seen.iter().rev().fold(0, |bits, seen| bits << 1 | usize::from(*seen));
        self.0.get(seen).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Seeing;

    #[test]
    fn every_list_of_names_is_of_what_was_seen_in_the_order_of_the_views() {
        let seeing = Seeing::new(&["one", "two", "three"]);
        assert_eq!(seeing.names(&[false, false, false]), [""; 0]);
        assert_eq!(seeing.names(&[true, false, true]), ["one", "three"]);
        assert_eq!(seeing.names(&[false, true, false]), ["two"]);
        assert_eq!(seeing.names(&[true, true, true]), ["one", "two", "three"]);
    }
}
