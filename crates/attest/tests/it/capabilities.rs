//! Capability sets by name.

use attest::Capabilities;
use proptest::prelude::*;

#[test]
fn names_are_those_of_the_kernel() {
    let some = Capabilities::from_mask(1 | 1 << 10 | 1 << 40 | 1 << 63);
    assert_eq!(some.names(), ["cap_chown", "cap_net_bind_service", "cap_checkpoint_restore", "cap_63"]);
    assert_eq!(Capabilities::from_mask(0x1ff_ffff_ffff).names(), ["all"]);
    assert_eq!(Capabilities::default().to_string(), "none");
}

#[test]
fn beyond_is_what_is_not_allowed() {
    let root = Capabilities::from_mask(0x1ff_ffff_ffff);
    let few = Capabilities::from_mask(0b11);
    assert!(few.beyond(root).is_empty());
    assert_eq!(few.beyond(Capabilities::from_mask(0b01)).names(), ["cap_dac_override"]);
    assert_eq!(root.beyond(few).names().len(), 39);
}

#[test]
fn an_unknown_name_is_refused() {
    for json in [r#"["cap_fly"]"#, r#"["cap_64"]"#, r#"[1]"#, r#""all""#, r#"["CAP_CHOWN"]"#] {
        assert!(serde_json::from_str::<Capabilities>(json).is_err(), "{json}");
    }
}

proptest! {
    #[test]
    fn every_mask_survives_json(mask: u64) {
        let capabilities = Capabilities::from_mask(mask);
        let json = serde_json::to_string(&capabilities).unwrap();
        prop_assert_eq!(serde_json::from_str::<Capabilities>(&json).unwrap(), capabilities);
    }
}
