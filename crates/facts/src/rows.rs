//! The rows of a table in their order, wherever they stand.
//!
//! Several threads read a crowd's table, each a part of it, and what its order is shows when all rows are there. A row is half a kilobyte: to
//! put 20,000 of them behind each other moves as much memory as was read of the guest. So they stay where they were written, and the order
//! is a list of places. Whoever wants a list gets one. In JSON it is a list like any other.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Where a row stands: in which part, and where in that.
pub type Place = (u32, u32);

/// Rows in an order that means something.
#[derive(Clone)]
pub struct Rows<T> {
    /// Rows that stand behind each other. There are none of them where there are others.
    list: Vec<T>,
    apart: Option<Apart<T>>,
}

#[derive(Clone)]
struct Apart<T> {
    parts: Vec<Vec<T>>,
    order: Vec<Place>,
}

impl<T> Apart<T> {
    fn get(&self, (part, row): Place) -> Option<&T> {
        self.parts.get(usize::try_from(part).ok()?)?.get(usize::try_from(row).ok()?)
    }
}

impl<T> Rows<T> {
    /// The rows of `parts` at these places, of which each is named once. A place without a row is none.
    #[must_use]
    pub fn at(parts: Vec<Vec<T>>, order: Vec<Place>) -> Self {
        let mut rows = Self { list: Vec::new(), apart: Some(Apart { parts, order }) };
        rows.retain(|_| true);
        rows
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.apart.as_ref().map_or(self.list.len(), |apart| apart.order.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row at `index` in the order, from 0 on.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        match &self.apart {
            Some(apart) => apart.get(*apart.order.get(index)?),
            None => self.list.get(index),
        }
    }

    /// The rows in their order.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { rows: self, next: 0 }
    }

    /// Keeps those that `keep` wants. None is moved.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        match &mut self.apart {
            Some(apart) => {
                let mut order = std::mem::take(&mut apart.order);
                order.retain(|place| apart.get(*place).is_some_and(&mut keep));
                apart.order = order;
            }
            None => self.list.retain(keep),
        }
    }

    /// The rows behind each other, where they stand from then on, to be changed in any way.
    pub fn list(&mut self) -> &mut Vec<T> {
        if let Some(Apart { parts, order }) = self.apart.take() {
            let rows = |part: Vec<T>| part.into_iter().map(Some).collect();
            let mut parts: Vec<Vec<Option<T>>> = parts.into_iter().map(rows).collect();
            let mut take = |(part, row): Place| {
                let rows = parts.get_mut(usize::try_from(part).ok()?)?;
                rows.get_mut(usize::try_from(row).ok()?)?.take()
            };
            self.list = order.into_iter().filter_map(&mut take).collect();
        }
        &mut self.list
    }
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl<T> From<Vec<T>> for Rows<T> {
    fn from(list: Vec<T>) -> Self {
        Self { list, apart: None }
    }
}

impl<T> FromIterator<T> for Rows<T> {
    fn from_iter<I: IntoIterator<Item = T>>(rows: I) -> Self {
        Self::from(Vec::from_iter(rows))
    }
}

impl<T> IntoIterator for Rows<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(mut self) -> Self::IntoIter {
        std::mem::take(self.list()).into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Rows<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Rows in their order: see [`Rows::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    rows: &'a Rows<T>,
    next: usize,
}

impl<T> Clone for Iter<'_, T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        let row = self.rows.get(self.next)?;
        self.next += 1;
        Some(row)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.rows.len().saturating_sub(self.next);
        (left, Some(left))
    }
}

impl<T> ExactSizeIterator for Iter<'_, T> {}

/// Where they stand makes no difference.
impl<T: PartialEq> PartialEq for Rows<T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other)
    }
}

impl<T: Eq> Eq for Rows<T> {}

impl<T: fmt::Debug> fmt::Debug for Rows<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<T: Serialize> Serialize for Rows<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Rows<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::Rows;

    fn apart() -> Rows<char> {
        Rows::at(
            vec![vec!['d', 'a'], vec![], vec!['b', 'x', 'c']],
            vec![(0, 1), (2, 0), (1, 0), (2, 2), (9, 9), (0, 0)],
        )
    }

    #[test]
    fn rows_come_in_their_order_wherever_they_stand_and_what_no_place_names_is_none() {
        let list = Rows::from(vec!['a', 'b', 'c', 'd']);
        for rows in [apart(), list.clone()] {
            assert_eq!(rows.iter().collect::<String>(), "abcd");
            assert_eq!((rows.len(), rows.is_empty(), rows.iter().len()), (4, false, 4));
            assert_eq!((rows.get(2), rows.get(4)), (Some(&'c'), None));
            assert_eq!(rows.into_iter().collect::<String>(), "abcd");
        }
        assert_eq!(apart(), list);
        assert_ne!(apart(), Rows::from(vec!['a', 'b', 'c']));
        assert!(Rows::<char>::default().is_empty());
    }

    #[test]
    fn what_is_done_to_rows_that_stand_apart_is_done_to_those_of_a_list() {
        let all = Rows::from(vec!['a', 'b', 'c', 'd']);
        for mut rows in [apart(), all] {
            rows.retain(|row| *row != 'b');
            assert_eq!(rows, Rows::from(vec!['a', 'c', 'd']));
            rows.list().push('e');
            assert_eq!(rows.iter().collect::<String>(), "acde");
        }
    }

    #[test]
    fn in_json_rows_are_a_list() {
        let json = serde_json::to_string(&apart()).unwrap();
        assert_eq!(json, r#"["a","b","c","d"]"#);
        assert_eq!(serde_json::from_str::<Rows<char>>(&json).unwrap(), apart());
    }
}
