//! The example in docs/birth-certificate.md and the one in the crate's documentation are what the program makes.
//!
//! `BIRTHMARK_BLESS=1` writes them anew.

use crate::fixture::*;
use attest::PrivateKey;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn blessing() -> bool {
    std::env::var_os("BIRTHMARK_BLESS").is_some()
}

/// The text between the two markers of the page.
fn replace_example(page: &str, name: &str, content: &str) -> String {
    let (start, end) = (format!("<!-- example: {name} -->\n"), "<!-- end of example -->\n");
    let (before, rest) = page.split_once(&start).unwrap_or_else(|| panic!("No example {name}"));
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{start}```json\n{}\n```\n{end}{after}", content.trim_end())
}

#[test]
fn the_example_in_the_documentation_is_what_the_program_makes() {
    let key = PrivateKey::from_pem(crate::keys::PRIVATE).unwrap();
    let statement = String::from_utf8(statement().to_json().unwrap()).unwrap();
    let mut envelope: serde_json::Value =
        serde_json::from_slice(&self::statement().sign(&key).unwrap()).unwrap();
    let payload = envelope["payload"].as_str().unwrap();
    envelope["payload"] = format!("{}…", &payload[..48]).into();
    let flows = certificate_with_everything().flows.unwrap();
    let finding = only(drift(|s| s.processes.push(process(666, "rogue", "/tmp/rogue"))));
    let page_path = path("../../docs/birth-certificate.md");
    let page = std::fs::read_to_string(&page_path).unwrap();
    let mut wanted = replace_example(&page, "statement", &statement);
    wanted = replace_example(&wanted, "envelope", &serde_json::to_string_pretty(&envelope).unwrap());
    wanted = replace_example(&wanted, "flows", &serde_json::to_string_pretty(&flows).unwrap());
    wanted = replace_example(&wanted, "finding", &serde_json::to_string_pretty(&finding).unwrap());
    if blessing() {
        std::fs::write(&page_path, &wanted).unwrap();
    } else {
        assert_eq!(page, wanted, "Run the test again with BIRTHMARK_BLESS=1");
    }
}

#[test]
fn the_documentation_explains_every_field_of_the_certificate_and_every_rule() {
    let page = std::fs::read_to_string(path("../../docs/birth-certificate.md")).unwrap();
    let full = serde_json::to_value(attest::Statement::new(certificate_with_everything(), None)).unwrap();
    let mut names = BTreeSet::new();
    collect(&full, &mut names);
    for rule in full["predicate"]["policy"]["rules"].as_object().unwrap().keys() {
        names.insert(rule.clone());
    }
    let explained =
        |name: &str| page.lines().any(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
    let missing: Vec<_> = names.iter().filter(|name| !explained(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_schema_describes_every_field_of_the_certificate() {
    let schema: serde_json::Value = serde_json::from_str(
        &std::fs::read_to_string(path("../../docs/birth-certificate.schema.json")).unwrap(),
    )
    .unwrap();
    let full = serde_json::to_value(attest::Statement::new(certificate_with_everything(), None)).unwrap();
    let mut missing = Vec::new();
    described(&schema, &schema, &full, "", &mut missing);
    assert!(missing.is_empty(), "{missing:?}");
}

/// Collects the members of a value that its schema has no word for.
fn described(
    root: &serde_json::Value,
    schema: &serde_json::Value,
    value: &serde_json::Value,
    at: &str,
    missing: &mut Vec<String>,
) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    };
    match value {
        serde_json::Value::Array(list) => {
            for item in list {
                described(root, &schema["items"], item, at, missing);
            }
        }
        serde_json::Value::Object(object) => {
            for (name, member) in object {
                let (named, any) = (&schema["properties"][name], &schema["additionalProperties"]);
                let at = format!("{at}/{name}");
                match (named.is_null(), any.is_object()) {
                    (false, _) => described(root, named, member, &at, missing),
                    (true, true) => described(root, any, member, &at, missing),
                    (true, false) => missing.push(at),
                }
            }
        }
        _ => {}
    }
}

fn collect(value: &serde_json::Value, names: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Array(list) => list.iter().for_each(|item| collect(item, names)),
        serde_json::Value::Object(object) => {
            for (name, member) in object {
                names.insert(name.clone());
                collect(member, names);
            }
        }
        _ => {}
    }
}

#[test]
fn the_snapshot_of_the_library_example_is_the_fixture() {
    let file = path("tests/it/data/web.json");
    let wanted = serde_json::to_string_pretty(&web()).unwrap() + "\n";
    if blessing() {
        std::fs::write(&file, &wanted).unwrap();
    } else {
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            wanted,
            "Run the test again with BIRTHMARK_BLESS=1"
        );
    }
}
