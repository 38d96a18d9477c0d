//! What this host lets us do, for `birthmark doctor`.

use crate::{LayoutOrigin, Target, kvm, list, open};
use facts::{Hypervisor, Vm};
use std::error::Error;
use std::fs;
use std::fs::File;
use vmi_core::Access;

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What, in a few words.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it, when something should be done.
    pub advice: Option<String>,
}

/// Checks everything that finding and reading guests needs. Opens each VM's memory and closes it again.
#[must_use]
pub fn host_checks() -> Vec<Check> {
    let mut checks = vec![kvm_device(), privileges(), ptrace_scope(), memory_slots()];
    match list() {
        Ok(listing) => {
            checks.push(Check {
                name: "virtual machines".to_owned(),
                ok: listing.problems.is_empty(),
                detail: format!("{} found", listing.vms.len()),
                advice: listing.problems.first().map(|problem| problem.detail.clone()),
            });
            let readable = listing.vms.iter().filter_map(|vm| {
                let (ok, detail, advice) = match open(&target_of(vm)?) {
                    Ok(opened) => {
                        let size = opened.memory.size() >> 20;
                        let how = match opened.memory.access() {
                            Access::Mapped if vm.hypervisor == Hypervisor::Xen => {
                                "read through foreign mappings"
                            }
                            Access::Mapped => "shared with the host: read by mapping it",
                            Access::PerCall => "private to the VMM: read through /proc/PID/mem",
                        };
                        let said = match opened.layout {
                            LayoutOrigin::Slots => ", laid out as the kernel's memory slots say",
                            LayoutOrigin::Monitor => ", laid out as QEMU's monitor says",
                            LayoutOrigin::Rules => ", laid out by the rules of its machine",
                            LayoutOrigin::Hypervisor | LayoutOrigin::Image => "",
                        };
                        (true, format!("{size} MiB, {how}{said}"), opened.notes.first().cloned())
                    }
                    Err(error) => (false, error.to_string(), None),
                };
                Some(Check { name: format!("memory of {}", vm.name), ok, detail, advice })
            });
            checks.extend(readable);
        }
        Err(error) => checks.push(Check {
            name: "virtual machines".to_owned(),
            ok: false,
            detail: error.to_string(),
            advice: Some("Mount /proc".to_owned()),
        }),
    }
    checks
}

fn target_of(vm: &Vm) -> Option<Target> {
    vm.pid.map(Target::Pid).or_else(|| vm.domid.map(Target::Xen))
}

fn kvm_device() -> Check {
    let (ok, detail, advice) = match File::open("/dev/kvm") {
        Ok(_) => (true, "/dev/kvm can be opened".to_owned(), None),
        Err(error) => {
            let advice =
                "Only guests under software emulation can run here; load kvm_intel or kvm_amd".to_owned();
            (false, format!("/dev/kvm: {error}"), Some(advice))
        }
    };
    Check { name: "KVM".to_owned(), ok, detail, advice }
}

/// Not having them is no fault: layouts are exact without them too, of the machines whose rules are known.
fn memory_slots() -> Check {
    let (detail, advice) = match kvm::slots_check() {
        Ok(()) => {
            ("the kernel's own can be read, so the layout of every KVM guest is exact".to_owned(), None)
        }
        Err(error) => {
            let why = error.source().map_or_else(String::new, |source| format!(": {source}"));
            let detail = format!("{error}{why}; layouts are by the rules of the machine and QEMU's monitor");
            let advice = "To read them: CAP_BPF and CAP_PERFMON, a kernel from 5.8 on with BTF, no lockdown";
            (detail, Some(advice.to_owned()))
        }
    };
    Check { name: "memory slots".to_owned(), ok: true, detail, advice }
}

/// Capability numbers of include/uapi/linux/capability.h.
const NEEDED: &[(u32, &str)] =
    &[(1, "CAP_DAC_OVERRIDE"), (19, "CAP_SYS_PTRACE"), (40, "CAP_CHECKPOINT_RESTORE")];

fn privileges() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    // CAP_SYS_ADMIN (21) stands in for the newer one.
    let has = |bit: u32| effective >> bit & 1 == 1 || (bit == 40 && effective >> 21 & 1 == 1);
    let missing: Vec<&str> = NEEDED.iter().filter(|(bit, _)| !has(*bit)).map(|(_, name)| *name).collect();
    let ok = missing.is_empty();
    Check {
        name: "privileges".to_owned(),
        ok,
        detail: if ok {
            "all that reading guests of any user needs".to_owned()
        } else {
            format!("without {}", missing.join(", "))
        },
        advice: (!ok).then(|| "Run as root to read guests of other users".to_owned()),
    }
}

fn ptrace_scope() -> Check {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    let (ok, detail, advice) = match scope.as_deref().map(str::trim) {
        None => (true, "no Yama restriction in this kernel".to_owned(), None),
        Some("3") => (
            false,
            "kernel.yama.ptrace_scope is 3: nobody may attach, so anonymous guest memory cannot be read"
                .to_owned(),
            Some(
                "Reboot with kernel.yama.ptrace_scope below 3, or give guests shared memory (memfd)"
                    .to_owned(),
            ),
        ),
        Some(scope) => {
            (true, format!("kernel.yama.ptrace_scope is {scope}: enough with CAP_SYS_PTRACE"), None)
        }
    };
    Check { name: "ptrace".to_owned(), ok, detail, advice }
}
