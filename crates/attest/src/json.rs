//! Strict JSON for signed documents.
//!
//! Two readers of one document must never see different things, and JSON with a duplicate key is exactly that: some
//! parsers take the first, some the last. serde's derive refuses duplicates of the fields it knows, but not those of
//! maps and of fields it ignores, so a first pass looks at every object of the document. Nesting is limited by
//! serde_json (128 levels), size by the caller. Must never be lenient.

use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// Most keys of an object that are compared with each other; beyond, they are hashed. Most objects have a few, and that is
/// quicker.
const FEW: usize = 16;

/// Parses a whole document, refusing duplicate keys at every level and anything after its end.
pub(crate) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    unambiguous(bytes)?;
    serde_json::from_slice(bytes)
}

/// The first of the two passes: whether the bytes are one JSON document without duplicate keys.
pub(crate) fn unambiguous(bytes: &[u8]) -> Result<(), serde_json::Error> {
    serde_json::from_slice::<Unambiguous>(bytes).map(|Unambiguous| ())
}

/// Any JSON value without duplicate keys. Holds nothing: it is only there to be parsed.
struct Unambiguous;

impl<'de> de::Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Unambiguous;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_unit<E>(self) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unambiguous, A::Error> {
        while items.next_element::<Unambiguous>()?.is_some() {}
        Ok(Unambiguous)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Unambiguous, A::Error> {
        let mut keys = Keys::default();
        while let Some(Key(key)) = members.next_key()? {
            if let Err(key) = keys.add(key) {
                return Err(de::Error::custom(format_args!("duplicate key {key:?}")));
            }
            members.next_value::<Unambiguous>()?;
        }
        Ok(Unambiguous)
    }
}

/// The keys of one object so far.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    /// `Err`: the object has it already.
    fn add(&mut self, key: Cow<'de, str>) -> Result<(), Cow<'de, str>> {
        if self.few.contains(&key) || self.many.contains(&key) {
            return Err(key);
        }
        if self.few.len() < FEW {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
        Ok(())
    }
}

/// A key, borrowed from the document unless it is written with escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> de::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyText)
    }
}

struct KeyText;

impl<'de> Visitor<'de> for KeyText {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Borrowed(key)))
    }

    fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Owned(key.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_comes_twice_is_found_in_small_and_in_big_objects_however_it_is_written() {
        for size in [1, 2, FEW - 1, FEW, FEW + 1, 3 * FEW] {
            let members: Vec<String> = (0..size).map(|number| format!("\"k{number}\": {number}")).collect();
            let object = |more: &str| format!("[{{ {}{more} }}]", members.join(", "));
            unambiguous(object("").as_bytes()).unwrap();
            for twice in 0..size {
                for again in [format!("k{twice}"), format!("\\u006b{twice}")] {
                    let error = unambiguous(object(&format!(", \"{again}\": 0")).as_bytes()).unwrap_err();
                    assert!(error.to_string().contains(&format!("duplicate key \"k{twice}\"")), "{error}");
                }
            }
        }
    }
}
