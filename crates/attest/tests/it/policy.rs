//! What is done about a finding, by rule.

use attest::{Action, Mode, Policy, RulePolicy};
use facts::{Severity, rule};

#[test]
fn what_a_rule_does_not_say_comes_from_the_defaults() {
    let policy: Policy = serde_json::from_str(
        r#"{"action": "quarantine", "confirmations": 3, "rules": {"process.unknown": {"mode": "monitor"}}}"#,
    )
    .unwrap();
    let unknown = policy.decide(rule::PROCESS_UNKNOWN);
    assert_eq!((unknown.mode, unknown.action, unknown.confirmations), (Mode::Monitor, Action::Quarantine, 3));
    assert!(!unknown.quarantines());
    assert!(policy.decide(rule::MODULE_UNKNOWN).quarantines());
    assert_eq!(policy.decide("rule.of.tomorrow").severity, Severity::Medium);
}

#[test]
fn an_empty_policy_alerts_after_two_looks() {
    let policy: Policy = serde_json::from_str("{}").unwrap();
    assert_eq!(policy, Policy::default());
    let decision = policy.decide(rule::KERNEL_CHANGED);
    assert_eq!((decision.action, decision.confirmations), (Action::Alert, 2));
    assert_eq!(decision.severity, Severity::Critical);
}

#[test]
fn what_is_foreign_quarantines_in_a_learned_policy_and_what_is_missing_alerts() {
    let policy = Policy::learned();
    for rule in [rule::PROCESS_UNKNOWN, rule::PROCESS_CHANGED, rule::LISTENER_UNKNOWN, rule::MODULE_UNKNOWN] {
        assert!(policy.decide(rule).quarantines(), "{rule}");
    }
    for rule in [rule::PROCESS_MISSING, rule::GUEST_BLIND] {
        assert!(!policy.decide(rule).quarantines(), "{rule}");
    }
}

#[test]
fn a_rule_can_never_be_confirmed_by_one_look() {
    let mut policy = Policy { confirmations: 1, ..Policy::default() };
    policy.rules.insert("a".to_owned(), RulePolicy { confirmations: Some(0), ..RulePolicy::default() });
    assert_eq!(policy.decide("a").confirmations, 2);
    assert_eq!(policy.decide("b").confirmations, 2);
}
