//! Facts as the words and numbers that tables show.

use facts::{
    ExeState, Hypervisor, ModuleState, Process, ProcessState, ProfileOrigin, ProfileSource, Severity,
    Verdict, Vm, VmState,
};
use std::net::IpAddr;

use crate::output::{Cell, Paint};

/// Bytes in the largest unit that leaves no rest below a tenth: `512 MiB`, `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut shown = (bytes, 0, "B");
    for (unit, shift) in UNITS.iter().zip([10_u32, 20, 30, 40, 50]) {
        if bytes >> shift == 0 {
            break;
        }
        let rest = bytes & (1_u64 << shift).wrapping_sub(1);
        // Tenths, rounded down: `rest` is below 2^50, so that ten times as much still fits.
        shown = (bytes >> shift, rest.saturating_mul(10) >> shift, unit);
    }
    match shown {
        (whole, 0, unit) => format!("{whole} {unit}"),
        (whole, tenths, unit) => format!("{whole}.{tenths} {unit}"),
    }
}

pub(crate) fn hypervisor(hypervisor: Hypervisor) -> &'static str {
    match hypervisor {
        Hypervisor::Kvm => "kvm",
        Hypervisor::QemuTcg => "qemu-tcg",
        Hypervisor::Xen => "xen",
        Hypervisor::Image => "image",
    }
}

pub(crate) fn vm_state(state: VmState) -> &'static str {
    match state {
        VmState::Running => "running",
        VmState::Paused => "paused",
        VmState::Image => "image",
    }
}

/// A VM in a few words: `web-1 (pid 4711, kvm, 512 MiB)`.
pub(crate) fn vm(vm: &Vm) -> String {
    let mut words: Vec<String> = Vec::new();
    words.extend(vm.pid.map(|pid| format!("pid {pid}")));
    words.extend(vm.domid.map(|domid| format!("domain {domid}")));
    words.push(hypervisor(vm.hypervisor).to_owned());
    words.extend(vm.memory_bytes.map(size));
    format!("{} ({})", vm.name, words.join(", "))
}

/// Where a profile came from, and what the guest's memory says to it.
pub(crate) fn profile(origin: &ProfileOrigin) -> Cell {
    let agrees = if origin.contradictions.is_empty() { "agrees with" } else { "CONTRADICTS" };
    let text = match (origin.source, &origin.stored) {
        (ProfileSource::Store, Some(path)) => format!("stored, {path}; the guest's memory {agrees} it"),
        (ProfileSource::Store, None) => "stored".to_owned(),
        (ProfileSource::Guest, Some(path)) => {
            format!("the guest's own memory, which {agrees} {path} of another version of birthmark")
        }
        (ProfileSource::Guest, None) => "the guest's own memory; none of this kernel is stored".to_owned(),
    };
    let paint = if origin.contradictions.is_empty() { Paint::Plain } else { Paint::Red };
    Cell::new(text).paint(paint)
}

/// The letter of `ps` and `/proc/PID/status`.
pub(crate) fn process_state(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Running => "R",
        ProcessState::Sleeping => "S",
        ProcessState::DiskSleep => "D",
        ProcessState::Stopped => "T",
        ProcessState::TracingStop => "t",
        ProcessState::Dead => "X",
        ProcessState::Zombie => "Z",
        ProcessState::Parked => "P",
        ProcessState::Idle => "I",
        ProcessState::New => "N",
    }
}

/// The executable with what became of it, as `/proc/PID/exe` would say it.
pub(crate) fn executable(process: &Process) -> Cell {
    match (&process.exe, process.exe_state) {
        (_, Some(ExeState::None)) => Cell::new("-"),
        (Some(exe), Some(ExeState::Deleted)) => Cell::new(format!("{exe} (deleted)")).paint(Paint::Yellow),
        (Some(exe), Some(ExeState::Memfd)) => Cell::new(format!("{exe} (memfd)")).paint(Paint::Red),
        (None, Some(ExeState::Memfd)) => Cell::new("(memfd)").paint(Paint::Red),
        (exe, _) => Cell::known(exe.as_ref()),
    }
}

pub(crate) fn module_state(state: ModuleState) -> &'static str {
    match state {
        ModuleState::Live => "live",
        ModuleState::Loading => "loading",
        ModuleState::Unloading => "unloading",
        ModuleState::Unformed => "unformed",
    }
}

pub(crate) fn severity(severity: Severity) -> Cell {
    match severity {
        Severity::Info => Cell::new("info"),
        Severity::Low => Cell::new("low"),
        Severity::Medium => Cell::new("medium").paint(Paint::Yellow),
        Severity::High => Cell::new("high").paint(Paint::Red),
        Severity::Critical => Cell::new("critical").paint(Paint::Red),
    }
}

pub(crate) fn verdict(verdict: Verdict) -> Cell {
    match verdict {
        Verdict::Conforms => Cell::new("conforms").paint(Paint::Green),
        Verdict::Drifted => Cell::new("drifted").paint(Paint::Red),
        Verdict::Uncertified => Cell::new("uncertified").paint(Paint::Yellow),
        Verdict::Unreadable => Cell::new("unreadable").paint(Paint::Red),
    }
}

/// `127.0.0.1:80`, `[::]:443`, `*` for a port that is not known. `None`: there is no address.
pub(crate) fn end(address: Option<IpAddr>, port: Option<u16>) -> Option<String> {
    let port = port.map_or_else(|| "*".to_owned(), |port| port.to_string());
    address.map(|address| match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    })
}

/// `1 finding`, `2 findings`.
pub(crate) fn count(number: usize, one: &str) -> String {
    count_of(number, one, &format!("{one}s"))
}

/// The same of words that make their plural otherwise.
pub(crate) fn count_of(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// A name that serde gives to a value of an enum without data (`time-wait`, `inet6`).
pub(crate) fn serde_name(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_short_number_with_its_unit() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (512 << 20, "512 MiB"),
            (3 << 29, "1.5 GiB"),
            ((1 << 30) + 1, "1 GiB"),
            (u64::MAX, "16383.9 PiB"),
        ];
        for (bytes, shown) in sizes {
            assert_eq!(size(bytes), shown);
        }
    }
}
