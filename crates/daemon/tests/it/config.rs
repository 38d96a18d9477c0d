//! The configuration: what is understood, and that every mistake names file, line and key.

use daemon::{Config, Mode};
use std::path::Path;
use std::time::Duration;

const LEAST: &str = "certificates = \"/c\"\ntrusted_keys = [\"/k\"]\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/birthmark/d.toml")).map_err(|error| error.to_string())
}

#[test]
fn the_example_that_is_shipped_is_understood() {
    let text = include_str!("../../../../packaging/birthmarkd.toml");
    let config = parse(text).unwrap();
    assert!(config.quarantine.enabled);
    assert_eq!(config.quarantine.mode, Mode::Monitor);
    assert_eq!(config.quarantine.management.management().len(), 1);
}

#[test]
fn what_is_left_out_has_a_careful_default() {
    let config = parse(LEAST).unwrap();
    assert_eq!(config.interval, Duration::from_secs(1));
    assert_eq!(config.confirmations, 2);
    assert_eq!(config.socket, Path::new("/run/birthmark/birthmarkd.sock"));
    assert!(!config.quarantine.enabled);
    assert_eq!(config.quarantine.mode, Mode::Monitor);
    assert!(config.only.include("anything"));
}

#[test]
fn everything_can_be_said() {
    let config = parse(
        "interval = \"50ms\"\nconfirm_after = \"2ms\"\nconfirmations = 3\nstate_dir = \"/s\"\nfindings = \"-\"\n\
         socket = \"/run/x.sock\"\ncertificates = [\"/a\", \"/b\"]\ntrusted_keys = \"/k\"\nonly = [\"web-*\", \"db#\"]\n\
         workers = 4\n[quarantine]\nenabled = true\nmode = \"enforce\"\nmanagement = [\"10.0.0.0/29\", \"fd00::1\"]\n",
    )
    .unwrap();
    assert_eq!(config.interval, Duration::from_millis(50));
    assert_eq!(config.certificates.len(), 2);
    assert!(config.only.include("web-1") && config.only.include("db1"));
    assert!(!config.only.include("mail"));
    assert_eq!(config.quarantine.mode, Mode::Enforce);
    let learn =
        |service: &str| format!("[[learn]]\nservice = \"{service}\"\nvms = [\"web-*\"]\nflows = true\n");
    let config = parse(&format!("{LEAST}{}{}", learn("web"), learn("db"))).unwrap();
    assert!(config.learn.len() == 2 && config.learn[0].flows && config.learn[0].vms[0].matches("web-1"));
    for (services, words) in [(["web", "web"], "twice"), (["web", ""], "cannot be called \"\"")] {
        let message = parse(&format!("{LEAST}{}{}", learn(services[0]), learn(services[1]))).unwrap_err();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn every_mistake_names_file_line_and_key() {
    for (text, line, key, words) in [
        ("intervall = \"1s\"", 3, "intervall", "unknown field"),
        ("interval = \"soon\"", 3, "interval", "not a time"),
        ("interval = 1", 3, "interval", "expected a string"),
        ("interval = \"0ms\"", 3, "interval", "between 1ms and 1h"),
        ("interval = \"-1s\"", 3, "interval", "not negative"),
        ("interval = \"2h\"", 3, "interval", "between 1ms and 1h"),
        ("confirmations = 1", 3, "confirmations", "not between 2 and 100"),
        ("workers = 0", 3, "workers", "not between 1 and 256"),
        ("only = ['a\\']", 3, "only", "\\"),
        ("only = \"web\"", 3, "only", "sequence"),
        ("[quarantine]\nmode = \"enforced\"", 4, "mode", "unknown variant"),
        ("[quarantine]\nenable = true", 4, "enable", "unknown field"),
        ("[quarantine]\nmanagement = [\"10.0.0.1/29\"]", 4, "management", "10.0.0.0/29"),
        ("[quarantine]\nmanagement = [\"0.0.0.0/0\"]", 4, "management", "from 1 to 32"),
        ("[[learn]]\nservice = \"web\"\nvms = []", 5, "vms", "have to be named"),
        ("[[learn]]\nservice = \"web\"\nvms = [\"w\"]\nlong = \"1h\"", 6, "long", "unknown field"),
        ("interval = \"1s\"\ninterval = \"2s\"", 4, "interval", "duplicate key"),
    ] {
        let message = parse(&format!("{LEAST}{text}\n")).unwrap_err();
        assert!(message.starts_with(&format!("/etc/birthmark/d.toml, line {line}")), "{text}: {message}");
        assert!(message.contains(&format!("key \"{key}\"")), "{text}: {message}");
        assert!(message.contains(words), "{text}: {message}");
        assert!(!message.contains('\n'), "{text}: {message}");
    }
}

#[test]
fn what_is_no_toml_or_lacks_a_key_is_refused() {
    assert!(parse("certificates = \"/c").unwrap_err().contains("line 1"));
    assert!(parse("\0").is_err());
    let message = parse("certificates = \"/c\"\n").unwrap_err();
    assert!(message.contains("trusted_keys"), "{message}");
    assert!(parse("certificates = \"\"\ntrusted_keys = \"/k\"").unwrap_err().contains("not empty"));
}
