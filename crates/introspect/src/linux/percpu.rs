//! Per-CPU variables: where each CPU's copies begin (``__per_cpu_offset``).

use crate::session::Session;
use facts::ProblemKind;
use vmi_core::ReadError;

/// Most CPUs: ``CONFIG_NR_CPUS`` of distributions.
const CPUS_MAX: u32 = 8192;

/// What is added to the address of a per-CPU variable to get each CPU's copy, CPU 0 first. Sums wrap around by design
/// (``SHIFT_PERCPU_PTR``). `None`: it is not known, with a problem of `what` where there is a reason. CPUs that are possible
/// and not there have a place here and need not have memory behind it.
pub(crate) fn areas(session: &Session<'_>, what: &str) -> Result<Option<Vec<u64>>, ReadError> {
    let symbol = |name| session.kernel.symbol(name);
    let (Some(offsets), Some(count)) = (symbol("__per_cpu_offset"), symbol("nr_cpu_ids")) else {
        return Ok(None);
    };
    let Some(count) = session.known(what, count, session.space.u32(count))? else { return Ok(None) };
    if count == 0 || count > CPUS_MAX {
        session.problem(ProblemKind::Implausible, what, format_args!("The kernel claims {count} CPUs."));
        return Ok(None);
    }
    let len = usize::try_from(count).unwrap_or(0).saturating_mul(8);
    let Some(bytes) = session.known(what, offsets, session.space.bytes(offsets, len))? else {
        return Ok(None);
    };
    let (areas, _) = bytes.as_chunks::<8>();
    Ok(Some(areas.iter().map(|area| u64::from_le_bytes(*area)).collect()))
}
