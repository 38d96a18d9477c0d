//! Certificates: which are used, and that a bad one stops nobody.

use crate::world::{ENFORCE, Shared, Site, snapshot, vm};
use attest::PrivateKey;
use daemon::{Event, Match, Trust};
use jiff::Timestamp;
use std::fs;

fn load(site: &Site) -> (Trust, Vec<Event>) {
    Trust::load(&[site.path("certificates")], &[site.path("trusted.pub")], &site.path("serials.json"))
}

fn refusals(events: &[Event]) -> Vec<(String, String)> {
    let refusal = |event: &Event| match event {
        Event::CertificateRefused { path, reason } => {
            Some((path.file_name().unwrap().to_string_lossy().into_owned(), reason.clone()))
        }
        _ => None,
    };
    events.iter().filter_map(refusal).collect()
}

fn serial(trust: &Trust) -> Option<u64> {
    match trust.find(&vm("web", 1), Timestamp::now()) {
        Match::One(certificate) => Some(certificate.serial),
        Match::None | Match::Ambiguous(_) => None,
    }
}

#[test]
fn the_highest_serial_of_a_service_is_used_and_remembered() {
    let site = Site::new();
    let newer = site.certify("web", 7, &snapshot(&vm("web", 1)), "newer.json");
    let (trust, _) = load(&site);
    assert_eq!(serial(&trust), Some(7));
    fs::remove_file(newer).unwrap();
    let (trust, events) = load(&site);
    assert_eq!(serial(&trust), None, "serial 1 was rolled back to");
    assert!(refusals(&events)[0].1.contains("serial 7"), "{events:?}");
}

#[test]
fn what_is_damaged_or_signed_by_a_stranger_is_refused_and_the_rest_is_used() {
    let mut site = Site::new();
    let altered = site.certify("other", 1, &snapshot(&vm("other", 1)), "altered.json");
    let text = fs::read_to_string(&altered).unwrap();
    let payload = text.find("payload\"").unwrap() + 20;
    let mut bytes = text.into_bytes();
    bytes[payload] = if bytes[payload] == b'A' { b'B' } else { b'A' };
    fs::write(&altered, bytes).unwrap();
    fs::write(site.path("certificates").join("empty.json"), "").unwrap();
    fs::write(site.path("certificates").join("noise.json"), [0xff; 100]).unwrap();
    site.key = PrivateKey::generate().unwrap();
    site.certify("third", 1, &snapshot(&vm("third", 1)), "stranger.json");
    let (trust, events) = load(&site);
    assert_eq!(serial(&trust), Some(1));
    let mut refused: Vec<String> = refusals(&events).into_iter().map(|(file, _)| file).collect();
    refused.sort();
    assert_eq!(refused, ["altered.json", "empty.json", "noise.json", "stranger.json"]);
}

#[test]
fn a_private_key_or_a_missing_path_is_refused() {
    let site = Site::new();
    fs::write(site.path("trusted.pub"), site.key.to_pem().unwrap()).unwrap();
    let (trust, events) = load(&site);
    assert_eq!(serial(&trust), None);
    assert!(refusals(&events)[0].1.contains("private key"), "{events:?}");
    let (_, events) = Trust::load(&[site.path("none")], &[], &site.path("serials.json"));
    assert_eq!(refusals(&events).len(), 1);
}

#[test]
fn damaged_serials_let_no_certificate_in() {
    let site = Site::new();
    fs::write(site.path("serials.json"), "{").unwrap();
    let (trust, events) = load(&site);
    assert_eq!(serial(&trust), None);
    assert_eq!(refusals(&events)[0].0, "serials.json");
}

#[test]
fn two_services_for_one_vm_are_ambiguous() {
    let site = Site::new();
    site.certify("web-too", 1, &snapshot(&vm("web", 1)), "too.json");
    let (trust, _) = load(&site);
    assert!(matches!(trust.find(&vm("web", 1), Timestamp::now()),
        Match::Ambiguous(services) if services == ["web", "web-too"]));
    let host = Shared::default();
    host.run(&vm("web", 1), "tap0");
    let running = site.start(&host, ENFORCE);
    running.wait_for("certificate.ambiguous", |event| event["services"][1] == "web-too");
    running.wait_for("vm.verdict", |event| event["verdict"] == "uncertified");
}

#[test]
fn a_certificate_whose_time_is_over_is_used_no_longer() {
    let site = Site::new();
    let (trust, _) = load(&site);
    let later = Timestamp::now() + jiff::ToSpan::hours(2);
    assert!(matches!(trust.find(&vm("web", 1), later), Match::None));
}
