//! `birthmark list`: the VMs of this host.

use super::words;
use crate::Outcome;
use crate::output::{self, Cell, Output, Table};
use anyhow::{Context, bail};

/// Prints the VMs. What could not be seen is told; if nothing else was seen, it is the error.
pub(crate) fn list(out: &mut Output) -> anyhow::Result<Outcome> {
    let listing = hypervisor::list().context("Cannot list the VMs of this host")?;
    if out.json {
        out.json(&listing.vms)?;
    } else {
        let mut table = Table::new(&["NAME", ">PID", "HYPERVISOR", ">MEMORY", ">VCPUS", "STATE", "ID"]);
        for vm in &listing.vms {
            table.row([
                Cell::new(&vm.name),
                Cell::some(vm.pid.or(vm.domid)),
                Cell::new(words::hypervisor(vm.hypervisor)),
                Cell::known(vm.memory_bytes.map(words::size)),
                Cell::known(vm.vcpus),
                Cell::new(words::vm_state(vm.state)),
                Cell::new(&vm.id),
            ]);
        }
        out.table(&table)?;
    }
    let mut problems = listing.problems.iter().map(|problem| match problem.pid {
        Some(pid) => format!("pid {pid}: {}", problem.detail),
        None => problem.detail.clone(),
    });
    if listing.vms.is_empty() {
        if let Some(first) = problems.next() {
            match problems.count() {
                0 => bail!("No VM of this host could be seen: {first}"),
                more => bail!("No VM of this host could be seen: {first} (and {more} more problems)"),
            }
        }
        if !out.json {
            output::note("No VM runs on this host");
        }
    }
    problems.for_each(|problem| output::note(&problem));
    Ok(Outcome::Done)
}
