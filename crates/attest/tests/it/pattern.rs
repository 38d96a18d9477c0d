//! Templates: what they match, and that matching is bounded.

use attest::{Pattern, PatternError};
use proptest::prelude::*;

#[track_caller]
fn check(template: &str, matching: &[&str], others: &[&str]) {
    let pattern = Pattern::parse(template).unwrap();
    for text in matching {
        assert!(pattern.matches(text), "{template:?} should match {text:?}");
    }
    for text in others {
        assert!(!pattern.matches(text), "{template:?} should not match {text:?}");
    }
}

#[test]
fn a_template_matches_the_whole_text_and_nothing_else() {
    check("", &[""], &["a"]);
    check("/usr/bin/[", &["/usr/bin/["], &["/usr/bin/x", "/usr/bin/[["]);
    check(
        "ksoftirqd/#",
        &["ksoftirqd/0", "ksoftirqd/127"],
        &["ksoftirqd/", "ksoftirqd/0x", "ksoftirqd/a", "ksoftirqd"],
    );
    check("irq/#-virtio#", &["irq/24-virtio0"], &["irq/24-virtio", "irq/-virtio0"]);
    check("/opt/*/run", &["/opt/a/run", "/opt//run"], &["/opt/a/b/run", "/opt/run"]);
    check("/opt/**/run", &["/opt/a/run", "/opt/a/b/run"], &["/opt/run", "/opt/a/run2"]);
    check("kworker/**", &["kworker/", "kworker/0:1-a/b"], &["kworker", "akworker/"]);
    check("*a*a*b", &["aab", "xaxaxb"], &["aaa", "ab"]);
    check("##", &["12", "123"], &["1", ""]);
    check(r"\#\*\\x", &[r"#*\x"], &["1*\\x"]);
    check("***", &["abc"], &[]);
}

#[test]
fn a_template_that_ends_in_an_open_escape_or_is_too_long_is_refused() {
    assert_eq!(Pattern::parse("a\\"), Err(PatternError::OpenEscape));
    assert!(matches!(Pattern::parse(&"a".repeat(40_000)), Err(PatternError::TooLong { bytes: 40_000 })));
    assert!(serde_json::from_str::<Pattern>(r#""a\\""#).is_err());
}

#[test]
fn a_template_with_many_stars_does_not_take_for_ever() {
    let pattern = Pattern::parse(&"*a".repeat(500)).unwrap();
    assert!(!pattern.matches(&"a".repeat(4000).replace("aaaa", "aaa/")));
}

proptest! {
    #[test]
    fn a_literal_matches_its_text_alone_and_survives_json(text in ".*", other in ".*") {
        let literal = Pattern::literal(&text);
        prop_assert_eq!(literal.matches(&other), text == other);
        let json = serde_json::to_string(&literal).unwrap();
        let read: Pattern = serde_json::from_str(&json).unwrap();
        prop_assert!(read.matches(&text));
        prop_assert_eq!(read.as_literal(), Some(text.as_str()));
    }

    #[test]
    fn a_template_with_numbers_matches_its_own_text(text in ".*[0-9]{0,5}.*") {
        prop_assert!(Pattern::with_numbers(&text).matches(&text));
    }

    #[test]
    fn no_template_and_no_text_panics(template in "[a#*/\\\\]{0,40}", text in "[a0/]{0,60}") {
        if let Ok(pattern) = Pattern::parse(&template) {
            let _ = pattern.matches(&text);
        }
    }
}
