//! What varies from run to run in a text, and what must never be written down: templates for arguments and paths.
//!
//! A part is left open when it is the pid of the process, or looks as if a program had made it up (a UUID, the end of a
//! `mkstemp` name, a long run of hexadecimal digits). A secret becomes `**`, whatever it looks like. All of it is told to the
//! person who reviews the certificate. Must never let a secret through because its form is new: what follows a telling name
//! is left out unseen.

use crate::pattern::Pattern;

/// A template and what a reviewer has to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Generalised {
    pub(crate) template: Pattern,
    /// A part that looks made up was left open.
    pub(crate) generated: bool,
    /// A secret was left out.
    pub(crate) redacted: bool,
}

/// Directories whose files come and go.
const TEMPORARY: [&str; 4] = ["/tmp/", "/var/tmp/", "/dev/shm/", "/run/user/"];
/// Words that announce a secret, in lower case without `-` and `_`.
const TELLING: [&str; 9] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
];
/// How well-known tokens begin.
const TOKENS: [&str; 8] =
    ["ghp_", "gho_", "github_pat_", "glpat-", "xoxb-", "AKIA", "sk_live_", "eyJhbGciOi"];
/// Characters from which on a run of letters and digits is taken for a key.
const KEY_LENGTH: usize = 32;

/// Whether the file lies where files come and go.
pub(crate) fn is_temporary(path: &str) -> bool {
    TEMPORARY.iter().any(|directory| path.starts_with(directory))
}

/// The template of a path.
pub(crate) fn path(text: &str, pids: &[u32]) -> Generalised {
    let (template, generated) = open(text, pids);
    Generalised { template, generated, redacted: false }
}

/// Templates of an argument vector.
pub(crate) fn arguments(args: &[String], pid: u32) -> Vec<Generalised> {
    let mut secret_follows = false;
    args.iter()
        .enumerate()
        .map(|(index, arg)| {
            let expected = std::mem::replace(&mut secret_follows, announces(arg));
            // What follows `--password` is its value, unless it is the next option.
            let secret = (expected && !arg.starts_with('-')) || (index > 0 && is_token(arg));
            if secret {
                return Generalised { template: pattern("**", arg), generated: false, redacted: true };
            }
            if let Some(public) = public_part(arg) {
                let (template, generated) = open(public.0, &[pid]);
                let template = format!("{template}**{}", Pattern::literal(public.1));
                return Generalised { template: pattern(&template, arg), generated, redacted: true };
            }
            let (template, generated) = open(arg, &[pid]);
            Generalised { template, generated, redacted: false }
        })
        .collect()
}

/// The arguments with secrets replaced, to be shown.
pub(crate) fn redacted(args: &[String]) -> Vec<String> {
    let templates = arguments(args, 0);
    args.iter()
        .zip(templates)
        .map(|(arg, one)| match one.redacted {
            true => public_part(arg).map_or_else(
                || "[redacted]".to_owned(),
                |(before, after)| format!("{before}[redacted]{after}"),
            ),
            false => arg.clone(),
        })
        .collect()
}

fn pattern(template: &str, text: &str) -> Pattern {
    Pattern::parse(template).unwrap_or_else(|_| Pattern::literal(text))
}

/// Whether the next argument is a secret: an option (or the word of a command) with a telling name and no value.
fn announces(arg: &str) -> bool {
    arg.starts_with('-') && !arg.contains('=') && tells(arg)
}

fn tells(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_lowercase();
    TELLING.iter().any(|word| plain.contains(word))
}

fn is_token(text: &str) -> bool {
    // Hexadecimal digits alone are more often a digest or the id of a container than a key.
    let key = |text: &str| {
        text.len() >= KEY_LENGTH
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'_' | b'='))
            && text.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            && mixed(text)
    };
    TOKENS.iter().any(|token| text.starts_with(token)) || key(text)
}

/// What may be shown in front of a secret and behind it: of `name=SECRET` with a telling name, of `scheme://user:SECRET@host`.
fn public_part(arg: &str) -> Option<(&str, &str)> {
    if let Some(at) = arg.find('=') {
        let (name, value) = arg.split_at_checked(at)?;
        let (_, value) = value.split_at_checked(1)?;
        if tells(name) || is_token(value) {
            return arg.split_at_checked(at.saturating_add(1)).map(|(before, _)| (before, ""));
        }
    }
    let authority = arg.find("://")?.saturating_add(3);
    let rest = arg.get(authority..)?;
    let end = rest.find('/').unwrap_or(rest.len());
    let at = rest.get(..end)?.rfind('@')?;
    let colon = rest.get(..at)?.find(':')?;
    let before = arg.get(..authority.saturating_add(colon).saturating_add(1))?;
    Some((before, rest.get(at..)?))
}

/// The text with pids as `#` and made-up words as `*`; whether there was such a word.
fn open(text: &str, pids: &[u32]) -> (Pattern, bool) {
    let mut template = String::new();
    let mut generated = false;
    let mut rest = text;
    while !rest.is_empty() {
        let is_word = |c: char| c.is_ascii_alphanumeric();
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let length = if word > 0 { word } else { rest.find(is_word).unwrap_or(rest.len()) };
        let Some((part, after)) = rest.split_at_checked(length) else { break };
        if word > 0 && part.parse().is_ok_and(|number: u32| pids.contains(&number)) {
            template.push('#');
        } else if word > 0 && looks_generated(part) {
            template.push('*');
            generated = true;
        } else {
            template.push_str(Pattern::literal(part).as_str());
        }
        rest = after;
    }
    (pattern(&template, text), generated)
}

/// Whether no person would have chosen the word: hexadecimal digits of a hash or UUID, or letters of both cases in turns.
pub(crate) fn looks_generated(word: &str) -> bool {
    let hexadecimal = word.len() >= 8
        && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && word.bytes().any(|b| b.is_ascii_digit())
        && word.bytes().any(|b| b.is_ascii_alphabetic());
    hexadecimal || ((6..KEY_LENGTH).contains(&word.len()) && changes(word) >= 3) || is_long_key(word)
}

fn is_long_key(word: &str) -> bool {
    word.len() >= KEY_LENGTH && mixed(word)
}

/// How often digits, small and capital letters take turns, a capital at the start of a word not counted.
fn changes(word: &str) -> usize {
    let kind = |b: u8| if b.is_ascii_digit() { 0 } else { 1 + u8::from(b.is_ascii_uppercase()) };
    let turns = word.as_bytes().windows(2).filter(|pair| match pair {
        [a, b] => kind(*a) != kind(*b),
        _ => false,
    });
    // `CamelCase` takes turns too: there, digits are at the end if anywhere, and each part is a word of three letters.
    let camel = word
        .split(|c: char| c.is_ascii_uppercase())
        .skip(1)
        .all(|part| part.trim_end_matches(|c: char| c.is_ascii_digit()).len() >= 2);
    if camel && !word.trim_end_matches(|c: char| c.is_ascii_digit()).contains(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    turns.count()
}

/// Letters and digits both, as in keys and not in words.
fn mixed(text: &str) -> bool {
    text.bytes().filter(u8::is_ascii_digit).count() >= 3
        && text.bytes().filter(u8::is_ascii_alphabetic).count() >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates(args: &[&str]) -> Vec<String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        arguments(&args, 4711).iter().map(|one| one.template.as_str().to_owned()).collect()
    }

    #[test]
    fn what_a_run_makes_up_is_left_open_and_what_a_person_wrote_is_not() {
        assert_eq!(
            templates(&[
                "x",
                "/run/x.4711.pid",
                "--id=6f2d1a38-2f0e-4c1c-9f0b-1b1a52f6b001",
                "/tmp/tmp.aB3xY9Qz"
            ]),
            ["x", "/run/x.#.pid", "--id=*-2f0e-4c1c-9f0b-*", "/tmp/tmp.*"]
        );
        for word in [
            "systemd",
            "NetworkManager",
            "sshd",
            "org",
            "x86",
            "amd64",
            "Xorg",
            "python3",
            "cafe",
            "ModemManager",
        ] {
            assert!(!looks_generated(word), "{word}");
        }
        for word in ["aB3xY9", "kQzRtW", "0a1b2c3d4e", "3c3c3c3c3c3c3c3c", "PfXq8a"] {
            assert!(looks_generated(word), "{word}");
        }
        assert_eq!(
            templates(&["nginx", "#*\\", "-c", "/etc/nginx.conf"]),
            ["nginx", "\\#\\*\\\\", "-c", "/etc/nginx.conf"]
        );
    }

    #[test]
    fn no_secret_gets_into_a_template_or_a_finding() {
        let cases: [&[&str]; 7] = [
            &["x", "--password=SECRET"],
            &["x", "--db-passwd", "SECRET"],
            &["x", "API_TOKEN=SECRET"],
            &["x", "postgres://me:SECRET@db/x"],
            &["x", "--api-key", "SECRET", "rest"],
            &["x", "ghp_SECRET"],
            &["x", "--opt=AKIASECRET"],
        ];
        for args in cases {
            let said = templates(args).join(" ");
            assert!(said.contains("**") && !said.contains("SECRET"), "{said}");
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            let shown = redacted(&args).join(" ");
            assert!(shown.contains("[redacted]") && !shown.contains("SECRET"), "{shown}");
            let fits = arguments(&args, 1).iter().zip(&args).all(|(one, arg)| one.template.matches(arg));
            assert!(fits, "{args:?} does not fit its own template");
        }
        assert_eq!(templates(&["x", "postgres://me:SECRET@db/x"]), ["x", "postgres://me:**@db/x"]);
        assert_eq!(templates(&["x", "--token", "--verbose"]), ["x", "--token", "--verbose"]);
        assert_eq!(templates(&["x", "https://host/a:b@c"]), ["x", "https://host/a:b@c"]);
    }
}
