//! The names of views that a row was seen in.
//!
//! A table of thousands of rows has few such lists, so rows share them: to copy one is to count it, and a row that is thrown away gives
//! back nothing. In JSON it is a list of strings like any other.

use crate::Text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Names, in an order that means something. None at all costs no memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Names(Option<Arc<[Text]>>);

impl Names {
    /// These names with one more at their end. Rows that share them keep what they have.
    #[must_use]
    pub fn with(&self, name: Text) -> Self {
        self.iter().cloned().chain([name]).collect()
    }
}

impl Deref for Names {
    type Target = [Text];

    fn deref(&self) -> &[Text] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl FromIterator<Text> for Names {
    fn from_iter<I: IntoIterator<Item = Text>>(names: I) -> Self {
        let mut names = names.into_iter().peekable();
        Self(names.peek().is_some().then(|| names.collect()))
    }
}

impl<const N: usize> From<[&'static str; N]> for Names {
    fn from(names: [&'static str; N]) -> Self {
        names.into_iter().map(Text::new_static).collect()
    }
}

impl<'a> IntoIterator for &'a Names {
    type Item = &'a Text;
    type IntoIter = std::slice::Iter<'a, Text>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl From<Vec<Text>> for Names {
    fn from(names: Vec<Text>) -> Self {
        names.into_iter().collect()
    }
}

impl<T> PartialEq<Vec<T>> for Names
where
    Text: PartialEq<T>,
{
    fn eq(&self, other: &Vec<T>) -> bool {
        **self == **other
    }
}

impl<T> PartialEq<&[T]> for Names
where
    Text: PartialEq<T>,
{
    fn eq(&self, other: &&[T]) -> bool {
        **self == **other
    }
}

impl<T, const N: usize> PartialEq<[T; N]> for Names
where
    Text: PartialEq<T>,
{
    fn eq(&self, other: &[T; N]) -> bool {
        **self == *other
    }
}

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Text>::deserialize(deserializer)?.into_iter().collect())
    }
}
