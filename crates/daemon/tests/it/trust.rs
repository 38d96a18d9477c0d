//! Certificates: which are used, and that a bad one stops nobody.

use crate::world::{ENFORCE, Shared, Site, snapshot, vm};
use attest::PrivateKey;
use daemon::{Event, Match, Trust};
use jiff::{Timestamp, ToSpan};
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
        Match::None | Match::NotNow(_) | Match::Ambiguous(_) => None,
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
    let later = Timestamp::now() + 2.hours();
    assert!(matches!(trust.find(&vm("web", 1), later), Match::NotNow(_)));
}

#[test]
fn the_next_certificate_takes_over_when_its_time_comes_and_not_before() {
    let site = Site::new();
    let now = Timestamp::now();
    site.certify_from(now + 30.minutes(), "web", 2, &snapshot(&vm("web", 1)), "next.json");
    let at = |trust: &Trust, minutes: i64| match trust.find(&vm("web", 1), now + minutes.minutes()) {
        Match::One(certificate) => Some(certificate.serial),
        _ => None,
    };
    let (trust, events) = load(&site);
    assert_eq!(refusals(&events), []);
    assert_eq!(
        (at(&trust, 0), at(&trust, 29), at(&trust, 31), at(&trust, 140)),
        (Some(1), Some(1), Some(2), Some(2))
    );
    assert_eq!(at(&trust, 160), None, "the older one is not taken up again");
    // It is not remembered as seen before it holds: the present one must not become a rollback.
    let (trust, _) = load(&site);
    assert_eq!(at(&trust, 0), Some(1));
    // Alone, it says why it is not used.
    fs::remove_file(site.path("certificates").join("web.json")).unwrap();
    let (trust, _) = load(&site);
    assert!(matches!(trust.find(&vm("web", 1), now), Match::NotNow(certificate) if certificate.serial == 2));
}

#[test]
fn what_keys_may_sign_is_taken_from_beside_them_and_a_misspelt_limit_lets_nothing_in() {
    let site = Site::new();
    let keys = site.path("keys");
    fs::create_dir(&keys).unwrap();
    fs::copy(site.path("trusted.pub"), keys.join("a.pub")).unwrap();
    let id = site.key.public().id().to_owned();
    let with = |limits: &str| {
        fs::write(keys.join("trust.toml"), limits).unwrap();
        let (trust, events) = Trust::load(
            &[site.path("certificates")],
            std::slice::from_ref(&keys),
            &site.path("serials.json"),
        );
        (serial(&trust), refusals(&events).pop().map(|(_, reason)| reason).unwrap_or_default())
    };
    assert_eq!(with("").0, Some(1));
    assert_eq!(with(&format!("[keys.{id}]\nservices = [\"web\"]\n")).0, Some(1));
    let (serial, reason) = with(&format!("[keys.{id}]\nservices = [\"db-*\"]\n"));
    assert!(serial.is_none() && reason.contains("only for db-*"), "{reason}");
    let (serial, reason) = with("threshold = 2\n");
    assert!(serial.is_none() && reason.contains("needs the signatures of 2"), "{reason}");
    let (serial, reason) = with(&format!("[revoked]\nkeys = [\"{id}\"]\n"));
    assert!(serial.is_none() && reason.contains("revoked"), "{reason}");
    let (serial, reason) = with("treshold = 2\n");
    assert!(serial.is_none() && reason.contains("treshold"), "{reason}");
    // The limit of a key ends a certificate that was in use.
    let soon = Timestamp::now() + 10.minutes();
    fs::write(keys.join("trust.toml"), format!("[keys.{id}]\nnot_after = \"{soon}\"\n")).unwrap();
    let (trust, _) = Trust::load(&[site.path("certificates")], &[keys], &site.path("serials.json"));
    assert!(matches!(trust.find(&vm("web", 1), Timestamp::now()), Match::One(_)));
    assert!(matches!(trust.find(&vm("web", 1), soon), Match::NotNow(_)));
}

#[test]
fn a_clock_before_every_certificate_is_told_as_such() {
    let site = Site::new();
    fs::remove_file(site.path("certificates").join("web.json")).unwrap();
    site.certify_from(Timestamp::now() + 1.hour(), "web", 1, &snapshot(&vm("web", 1)), "web.json");
    let host = Shared::default();
    host.run(&vm("web", 1), "tap0");
    let running = site.start(&host, ENFORCE);
    running.wait_for("vm.verdict", |event| event["verdict"] == "uncertified");
    let (_, vms) = running.client().get("/v1/vms");
    let problem = vms[0]["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("not valid before") && problem.contains("clock says"), "{problem}");
}
