//! What a finding of each rule means: how bad it is, what is done about it, and after how many looks.
//!
//! A certificate may state all of it or nothing: what it leaves out is taken from its defaults, then from the table
//! here. Must never let one look be enough: a race in a running guest is not drift (invariant 8).

use facts::{Severity, rule};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The fewest looks in a row that make drift of a running guest.
pub const LEAST_CONFIRMATIONS: u32 = 2;

/// What is done about a confirmed finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Tell.
    Alert,
    /// Tell, and cut the VM off.
    Quarantine,
}

/// Whether the action is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Findings are told, and no action is taken.
    Monitor,
    /// The action is taken.
    Enforce,
}

/// What a certificate says about one rule. What is `None` is taken from [`Policy`]'s defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulePolicy {
    /// How bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// What is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Looks in a row that must agree, at least [`LEAST_CONFIRMATIONS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmations: Option<u32>,
    /// Whether the action is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

/// The policy of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// For rules that say nothing themselves.
    #[serde(default = "enforce")]
    pub mode: Mode,
    /// For rules that say nothing themselves.
    #[serde(default = "alert")]
    pub action: Action,
    /// For rules that say nothing themselves.
    #[serde(default = "least_confirmations")]
    pub confirmations: u32,
    /// By the rule's name. Names of rules that this program does not know are kept and mean nothing.
    #[serde(default)]
    pub rules: BTreeMap<String, RulePolicy>,
}

fn enforce() -> Mode {
    Mode::Enforce
}

fn alert() -> Action {
    Action::Alert
}

fn least_confirmations() -> u32 {
    LEAST_CONFIRMATIONS
}

impl Default for Policy {
    /// Alert only, after two looks.
    fn default() -> Self {
        Self {
            mode: enforce(),
            action: alert(),
            confirmations: least_confirmations(),
            rules: BTreeMap::new(),
        }
    }
}

/// What holds for one rule, with every default filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// How bad.
    pub severity: Severity,
    /// What is done.
    pub action: Action,
    /// After how many looks in a row that agree.
    pub confirmations: u32,
    /// Whether it is done.
    pub mode: Mode,
}

impl Decision {
    /// Whether a confirmed finding cuts the VM off.
    #[must_use]
    pub fn quarantines(&self) -> bool {
        self.action == Action::Quarantine && self.mode == Mode::Enforce
    }
}

impl Policy {
    /// The policy that a learned certificate starts with, every rule spelled out for the person who approves it. What
    /// shows that something foreign runs cuts the VM off; what shows that something is gone or could not be read tells.
    #[must_use]
    pub fn learned() -> Self {
        let rules = RULES
            .iter()
            .map(|(rule, severity, action)| {
                let policy =
                    RulePolicy { severity: Some(*severity), action: Some(*action), ..RulePolicy::default() };
                ((*rule).to_owned(), policy)
            })
            .collect();
        Self { rules, ..Self::default() }
    }

    /// What holds for a rule. A rule nobody knows is of medium severity.
    #[must_use]
    pub fn decide(&self, rule: &str) -> Decision {
        let stated = self.rules.get(rule).cloned().unwrap_or_default();
        let usual = RULES
            .iter()
            .find(|(name, ..)| *name == rule)
            .map_or(Severity::Medium, |(_, severity, _)| *severity);
        Decision {
            severity: stated.severity.unwrap_or(usual),
            action: stated.action.unwrap_or(self.action),
            confirmations: stated.confirmations.unwrap_or(self.confirmations).max(LEAST_CONFIRMATIONS),
            mode: stated.mode.unwrap_or(self.mode),
        }
    }
}

/// The rules that this program knows.
pub(crate) fn rule_names() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(name, ..)| *name)
}

/// Each rule with its usual severity, and the action that a learned certificate proposes.
const RULES: [(&str, Severity, Action); 19] = [
    (rule::PROCESS_UNKNOWN, Severity::High, Action::Quarantine),
    (rule::PROCESS_CHANGED, Severity::Critical, Action::Quarantine),
    (rule::PROCESS_MISSING, Severity::Medium, Action::Alert),
    (rule::PROCESS_IDENTITY, Severity::High, Action::Quarantine),
    (rule::PROCESS_HIDDEN, Severity::Critical, Action::Quarantine),
    (rule::PROCESS_COMMAND_LINE, Severity::Medium, Action::Alert),
    (rule::PROCESS_FILELESS, Severity::Critical, Action::Quarantine),
    (rule::PROCESS_PARENT, Severity::Medium, Action::Alert),
    (rule::PROCESS_COUNT, Severity::Medium, Action::Alert),
    (rule::LISTENER_UNKNOWN, Severity::High, Action::Quarantine),
    (rule::FLOW_UNKNOWN, Severity::High, Action::Alert),
    (rule::SOCKET_RAW, Severity::High, Action::Quarantine),
    (rule::MODULE_UNKNOWN, Severity::Critical, Action::Quarantine),
    (rule::EBPF_UNKNOWN, Severity::High, Action::Alert),
    (rule::SOCKET_HIDDEN, Severity::Critical, Action::Quarantine),
    (rule::MODULE_HIDDEN, Severity::Critical, Action::Quarantine),
    (rule::EBPF_HIDDEN, Severity::Critical, Action::Quarantine),
    (rule::KERNEL_CHANGED, Severity::Critical, Action::Quarantine),
    (rule::GUEST_BLIND, Severity::High, Action::Alert),
];
