//! Makes text safe to print: nothing that a guest chose reaches the terminal as a command.
//!
//! A process may call itself anything. Escape sequences move the cursor, hide lines and set the clipboard; marks of
//! writing direction and invisible characters make one name look like another. All of these are shown as escapes.
//! Everything that is printed goes through here or through [`super::json`], which asks the same question.

use std::borrow::Cow;
use std::fmt::Write;
use unicode_width::UnicodeWidthChar;

/// Most marks in a row that stand on one character (accents): what a language needs, and no tower that covers other lines.
const MARKS_MAX: usize = 4;

/// Whether a character is never printed as it is: controls (C0, C1, DEL), line and paragraph separators, marks of writing
/// direction, and characters that take no room and show nothing (Unicode's `Default_Ignorable_Code_Point` and some of its `Cf`).
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' // soft hyphen
            | '\u{34f}' // combining grapheme joiner
            | '\u{61c}' // Arabic letter mark
            | '\u{115f}'..='\u{1160}' | '\u{3164}' | '\u{ffa0}' // Hangul fillers
            | '\u{17b4}'..='\u{17b5}' // Khmer inherent vowels
            | '\u{180b}'..='\u{180f}' // Mongolian variation selectors and vowel separator
            | '\u{200b}'..='\u{200f}' // zero width, left-to-right and right-to-left marks
            | '\u{2028}'..='\u{202e}' // separators, embeddings and overrides
            | '\u{2060}'..='\u{206f}' // invisible operators, isolates
            | '\u{fe00}'..='\u{fe0f}' // variation selectors
            | '\u{feff}' // byte order mark
            | '\u{fff0}'..='\u{fffb}' // not assigned, interlinear annotations
            | '\u{1bca0}'..='\u{1bca3}' // shorthand format controls
            | '\u{1d173}'..='\u{1d17a}' // musical symbols for beams and slurs
            | '\u{e0000}'..='\u{e0fff}') // tags, more variation selectors
}

/// The text with every unsafe character shown as an escape: `\n`, `\t`, `\r`, else `\u{1b}`.
pub(crate) fn sanitize(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    let mut marks = 0_usize;
    let mut safe = String::with_capacity(text.len().saturating_add(16));
    for c in text.chars() {
        marks = if c.width() == Some(0) { marks.saturating_add(1) } else { 0 };
        match c {
            '\n' => safe.push_str("\\n"),
            '\t' => safe.push_str("\\t"),
            '\r' => safe.push_str("\\r"),
            c if is_unsafe(c) || marks > MARKS_MAX => {
                // Writing to a String cannot fail.
                let _ = write!(safe, "{}", c.escape_unicode());
            }
            c => safe.push(c),
        }
    }
    if safe.len() == text.len() { Cow::Borrowed(text) } else { Cow::Owned(safe) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_escape_sequence_is_shown_and_not_sent() {
        assert_eq!(sanitize("ssh\x1b[2Jd"), "ssh\\u{1b}[2Jd");
        assert_eq!(sanitize("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(sanitize("a\nb\tc\r\x7f\0"), "a\\nb\\tc\\r\\u{7f}\\u{0}");
    }

    #[test]
    fn marks_of_writing_direction_are_shown() {
        assert_eq!(sanitize("gpj.\u{202e}exe"), "gpj.\\u{202e}exe");
        assert_eq!(sanitize("a\u{2066}b\u{200d}c\u{feff}"), "a\\u{2066}b\\u{200d}c\\u{feff}");
    }

    #[test]
    fn a_tower_of_marks_is_shown_as_what_it_is_beyond_the_fourth() {
        let tower = format!("x{}y", "\u{301}".repeat(6));
        assert_eq!(sanitize(&tower), format!("x{}\\u{{301}}\\u{{301}}y", "\u{301}".repeat(4)));
        assert_eq!(sanitize("\u{301}\u{302}a\u{303}"), "\u{301}\u{302}a\u{303}");
    }

    #[test]
    fn ordinary_text_of_any_script_stays_as_it_is() {
        for text in ["/usr/sbin/nginx", "größe", "日本語", "имя", "C:\\x", "e\u{301}"] {
            assert!(matches!(sanitize(text), Cow::Borrowed(same) if same == text));
        }
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_ever_left(text in any::<String>()) {
            prop_assert!(!sanitize(&text).chars().any(is_unsafe));
        }
    }
}
