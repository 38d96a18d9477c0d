//! Which VMs run: asked every interval, told when it changes.

use crate::events::{Event, VmRef};
use crate::look::{Job, nics};
use crate::run::Shared;
use crate::trust::Match;
use facts::Vm;
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// VMs are not listed more often than this, however short the interval: a list reads all of `/proc`.
pub(crate) const LEAST_INTERVAL: Duration = Duration::from_millis(250);

/// Lists the VMs once and starts to look at those that are new.
pub(crate) fn discover(shared: &Shared, told: &mut Option<String>) {
    let listed = match shared.engine.list() {
        Ok(listed) => listed,
        Err(error) => {
            // Not knowing is not the same as there being none: everything stays as it is.
            problem(shared, told, error.to_string());
            return;
        }
    };
    if listed.problems.is_empty() {
        *told = None;
    } else {
        problem(shared, told, listed.problems.join("; "));
    }
    let vms: Vec<Vm> = listed.vms.into_iter().filter(|vm| shared.config.only.include(&vm.name)).collect();
    let changes = shared.registry.update(vms);
    for vm in &changes.gone {
        shared.sink.emit(&Event::VmGone { vm: VmRef::from(vm) });
    }
    for (vm, gone) in changes.appeared {
        let service = match shared.trust().find(&vm, Timestamp::now()) {
            _ if shared.learning(&vm).is_some() => None,
            Match::One(certificate) => Some(certificate.service.clone()),
            Match::None | Match::NotNow(_) | Match::Ambiguous(_) => None,
        };
        shared.sink.emit(&Event::VmAppeared { vm: VmRef::from(&vm), service });
        ensure(shared, &vm);
        shared.queue.push(Instant::now(), Job::new(shared, vm, gone));
    }
}

/// Mends what somebody else undid, and follows VMs in quarantine to the devices they have now.
pub(crate) fn keep(shared: &Shared) {
    let events = shared.keeper().settle(false);
    for event in &events {
        shared.sink.emit(event);
    }
    for record in shared.registry.all() {
        ensure(shared, &record.vm);
    }
}

/// A VM that should be cut off is, at the devices it has now.
fn ensure(shared: &Shared, vm: &Vm) {
    let event = shared.keeper().ensure(vm, || nics(shared, vm));
    if let Some(event) = event {
        shared.sink.emit(&event);
    }
}

fn problem(shared: &Shared, told: &mut Option<String>, reason: String) {
    if told.as_ref() != Some(&reason) {
        shared.sink.emit(&Event::HostProblem { reason: reason.clone() });
        *told = Some(reason);
    }
}
