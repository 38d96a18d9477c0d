//! Templates for names and paths: text in which a part that varies is left open.
//!
//! `#` stands for one decimal number, `*` for any run of characters without a `/`, `**` for any run at all; `\` makes
//! the next character ordinary. That is little on purpose: a person must see at a glance what a signed template lets
//! through. Nothing else is special, so `/usr/bin/[` is simply a path. Matching is bounded by the product of both
//! lengths, whatever the guest's text is. Must never backtrack, and never match part of a text.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// Longest template, in bytes: the kernel's longest path (4,096) with every byte replaced (3 bytes) or escaped (2), and some.
pub const PATTERN_LIMIT: usize = 32 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// This character.
    Char(char),
    /// One decimal digit.
    Digit,
    /// Any further decimal digits.
    Digits,
    /// Any characters but `/`.
    Segment,
    /// Any characters.
    Anything,
}

/// One template. Equality and order are those of its text.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    /// The ordinary characters it starts with; the whole of it when `rest` is empty.
    prefix: String,
    rest: Vec<Token>,
}

impl Pattern {
    /// Parses a template. `Err` says why: too long, or a `\` at the end.
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        if source.len() > PATTERN_LIMIT {
            return Err(PatternError::TooLong { bytes: source.len() });
        }
        let mut prefix = String::new();
        let mut rest = Vec::new();
        let mut chars = source.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '#' => rest.extend([Token::Digit, Token::Digits]),
                '*' if chars.peek() == Some(&'*') => {
                    chars.next();
                    rest.push(Token::Anything);
                }
                '*' => rest.push(Token::Segment),
                c => {
                    let c = if c == '\\' { chars.next().ok_or(PatternError::OpenEscape)? } else { c };
                    if rest.is_empty() { prefix.push(c) } else { rest.push(Token::Char(c)) }
                }
            }
        }
        Ok(Self { source: source.to_owned(), prefix, rest })
    }

    /// The template that matches exactly this text.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        Self { source: escape(text), prefix: text.to_owned(), rest: Vec::new() }
    }

    /// The template in which every run of decimal digits of `text` is a `#`.
    #[must_use]
    pub fn with_numbers(text: &str) -> Self {
        let mut source = String::with_capacity(text.len());
        let mut after_digit = false;
        for c in text.chars() {
            if !c.is_ascii_digit() {
                source.push_str(&escape(c.encode_utf8(&mut [0; 4])));
            } else if !after_digit {
                source.push('#');
            }
            after_digit = c.is_ascii_digit();
        }
        Self::parse(&source).unwrap_or_else(|_| Self::literal(text))
    }

    /// Whether the whole of `text` fits.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some(text) = text.strip_prefix(self.prefix.as_str()) else { return false };
        match self.rest.as_slice() {
            [] => text.is_empty(),
            [Token::Anything] => true,
            rest => simulate(rest, text),
        }
    }

    /// The one text it matches, when it leaves nothing open.
    #[must_use]
    pub fn as_literal(&self) -> Option<&str> {
        self.rest.is_empty().then_some(self.prefix.as_str())
    }

    /// How many characters of a text it determines: the fewer, the more it lets through.
    #[must_use]
    pub fn determines(&self) -> usize {
        let fixed = self.rest.iter().filter(|token| matches!(token, Token::Char(_) | Token::Digit)).count();
        self.prefix.chars().count().saturating_add(fixed)
    }

    /// The template as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

/// Runs all possibilities at once: `states[i]` says that the text so far may have used up the first `i` tokens.
fn simulate(tokens: &[Token], text: &str) -> bool {
    let mut states = vec![false; tokens.len().saturating_add(1)];
    if let Some(first) = states.first_mut() {
        *first = true;
    }
    skip_optional(tokens, &mut states);
    for c in text.chars() {
        let mut next = vec![false; states.len()];
        let mut alive = false;
        for (index, token) in tokens.iter().enumerate() {
            if !states.get(index).copied().unwrap_or(false) {
                continue;
            }
            let target = match *token {
                Token::Char(wanted) => (c == wanted).then_some(index.saturating_add(1)),
                Token::Digit => c.is_ascii_digit().then_some(index.saturating_add(1)),
                Token::Digits => c.is_ascii_digit().then_some(index),
                Token::Segment => (c != '/').then_some(index),
                Token::Anything => Some(index),
            };
            if let Some(state) = target.and_then(|target| next.get_mut(target)) {
                *state = true;
                alive = true;
            }
        }
        if !alive {
            return false;
        }
        skip_optional(tokens, &mut next);
        states = next;
    }
    states.last().copied().unwrap_or(false)
}

/// Tokens that may match nothing let the state after them be reached without a character.
fn skip_optional(tokens: &[Token], states: &mut [bool]) {
    for (index, token) in tokens.iter().enumerate() {
        let optional = matches!(token, Token::Digits | Token::Segment | Token::Anything);
        if optional
            && states.get(index).copied().unwrap_or(false)
            && let Some(after) = states.get_mut(index.saturating_add(1))
        {
            *after = true;
        }
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '#' | '*' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.source.cmp(&other.source)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Why a text is no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Longer than any path.
    #[error("A template of {bytes} bytes is longer than {PATTERN_LIMIT}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Nothing follows the last `\`.
    #[error("A template ends in a \\ that makes nothing ordinary")]
    OpenEscape,
}
