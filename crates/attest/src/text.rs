//! Guest text in sentences: control characters made visible, length bounded.
//!
//! A process may call itself anything, escape sequences for the operator's terminal included, and messages end up on
//! terminals, as evidence does.

/// Most characters of one guest string in a sentence.
const LIMIT: usize = 200;
/// Most items of one list in the evidence.
const ITEMS: usize = 32;

/// The text, safe to print and of bounded length.
pub(crate) fn shown(text: &str) -> String {
    let mut safe = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == LIMIT {
            safe.push('…');
            break;
        }
        if misleads(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// The text, safe to print, whole: for a page from which nothing may be missing.
pub(crate) fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if misleads(c) { safe.extend(c.escape_unicode()) } else { safe.push(c) }
    }
    safe
}

/// All items with commas.
pub(crate) fn all<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// Control characters, and the marks that change the direction of text.
fn misleads(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON text in which nothing misleads: such characters only occur within strings, where JSON has an escape for them.
pub(crate) fn json(value: &serde_json::Value) -> String {
    value.to_string().chars().fold(String::new(), |mut text, c| {
        if misleads(c) {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
        text
    })
}

/// Up to 32 items with commas, then how many more there are.
pub(crate) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let mut items = items.into_iter();
    let some: Vec<_> = items.by_ref().take(ITEMS).map(|item| item.to_string()).collect();
    match items.count() {
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}
