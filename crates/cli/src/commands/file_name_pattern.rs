//! Patterns of names as fnmatch(3) has them with `FNM_CASEFOLD` and nothing else: `*`, `?`, `[a-z]`, `[!a-z]` and `\`; what
//! `ss` finds unix sockets by. A `/` and a `.` at the beginning are characters like others.

use std::iter::Peekable;
use std::str::Chars;

/// Longest pattern, in bytes. What it costs to match is at most this times the length of the text.
const LENGTH_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Any characters.
    Any,
    /// Any one character.
    One,
    /// This character, in small letters.
    Char(char),
    /// One character in one of the ranges, or in none.
    Set { negated: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn takes(&self, character: char) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Char(own) => *own == character,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&character)) != *negated
            }
        }
    }
}

/// One pattern.
#[derive(Clone, Debug)]
pub(crate) struct FileNamePattern(Vec<Token>);

impl FileNamePattern {
    /// `Err` says what is wrong with it.
    pub(super) fn parse(source: &str) -> Result<Self, String> {
        if source.len() > LENGTH_MAX {
            return Err(format!("a pattern has more than {LENGTH_MAX} bytes"));
        }
        let mut tokens = Vec::new();
        let mut rest = source.chars().peekable();
        while let Some(character) = rest.next() {
            tokens.push(match character {
                '*' => Token::Any,
                '?' => Token::One,
                '[' => match set(&mut rest.clone())? {
                    Some((token, length)) => {
                        rest.nth(length - 1);
                        token
                    }
                    // As the C library has it.
                    None => Token::Char('['),
                },
                '\\' => {
                    Token::Char(small(rest.next().ok_or_else(|| format!("`{source}` ends with a `\\`"))?))
                }
                other => Token::Char(small(other)),
            });
        }
        Ok(Self(tokens))
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().map(small).collect();
        let (mut token, mut at) = (0, 0);
        // Where to go on when it does not match: behind the last `*`, with one character more for it.
        let mut again: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(token), text.get(at)) {
                (Some(Token::Any), _) => {
                    token += 1;
                    again = Some((token, at));
                    continue;
                }
                (Some(own), Some(character)) if own.takes(*character) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            match again {
                Some((behind, from)) if from < text.len() => {
                    token = behind;
                    at = from + 1;
                    again = Some((behind, at));
                }
                _ => return false,
            }
        }
    }
}

/// What is between `[` and `]`, and how many characters that is with the `]`. `None`: there is no `]`.
fn set(rest: &mut Peekable<Chars<'_>>) -> Result<Option<(Token, usize)>, String> {
    let length = rest.clone().count();
    let negated = rest.next_if(|character| matches!(character, '!' | '^')).is_some();
    let mut ranges = Vec::new();
    loop {
        let Some(first) = rest.next() else { return Ok(None) };
        match first {
            ']' if !ranges.is_empty() => break,
            '[' if matches!(rest.peek(), Some(':' | '.' | '=')) => {
                return Err("classes such as `[:alpha:]` are no part of a pattern here".to_owned());
            }
            _ => {}
        }
        let Some(first) = unescaped(first, rest) else { return Ok(None) };
        let mut ahead = rest.clone();
        let last = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(last)) if last != ']' => {
                *rest = ahead;
                let Some(last) = unescaped(last, rest) else { return Ok(None) };
                last
            }
            _ => first,
        };
        ranges.push((small(first), small(last)));
    }
    Ok(Some((Token::Set { negated, ranges }, length - rest.clone().count())))
}

fn unescaped(character: char, rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    if character == '\\' { rest.next() } else { Some(character) }
}

/// In small letters, where that is one character.
fn small(character: char) -> char {
    let mut small = character.to_lowercase();
    match (small.next(), small.next()) {
        (Some(one), None) => one,
        _ => character,
    }
}

#[cfg(test)]
mod tests {
    use super::FileNamePattern;

    fn matches(pattern: &str, text: &str) -> bool {
        FileNamePattern::parse(pattern).unwrap().matches(text)
    }

    #[test]
    fn a_pattern_is_what_the_c_library_has() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", ".a/b"),
            ("/run/*", "/run/a/b"),
            ("/RUN/?.sock", "/run/A.sock"),
            ("a*b*c", "a-b-b-c"),
            ("**a", "ba"),
            ("[abc]", "B"),
            ("[a-c]x", "bX"),
            ("[!a-c]", "d"),
            ("[^a-c]", "/"),
            ("[]]", "]"),
            ("[!]]", "a"),
            ("[a-]", "-"),
            ("[\\]a]", "]"),
            ("[a", "[a"),
            ("[", "["),
            ("\\*", "*"),
            ("\\a", "a"),
            ("]", "]"),
            ("Ä*", "äb"),
        ] {
            assert!(matches(pattern, text), "{pattern}: {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("?", ""),
            ("*a", "ab"),
            ("/run", "/run/a"),
            ("[!a-c]", "B"),
            ("[a-c]", "-"),
            ("[]", "]"),
            ("a*b*c", "a-c-b"),
            ("\\*", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern}: {text}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (pattern, wrong) in
            [("a\\", "ends with"), ("[[:alpha:]]", "classes"), (&"a".repeat(5000), "4096")]
        {
            let error = FileNamePattern::parse(pattern).unwrap_err();
            assert!(error.contains(wrong), "{pattern}: {error}");
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_both_lengths() {
        assert!(!matches(&"*a".repeat(2000), &"a".repeat(1999)));
        assert!(!matches(&format!("{}b", "*a".repeat(2000)), &"a".repeat(100_000)));
    }
}
