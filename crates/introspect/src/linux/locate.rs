//! Finds the running Linux kernel in physical memory, with nothing known but that memory and, where needed, what the
//! vCPUs' registers say.
//!
//! Four ways, cheapest first, and each ends in the same proof (see [`super::symbols`]): a kernel is believed when its own
//! symbols, page tables and names agree with each other.
//!
//! 1. The kernels of the host's stored profiles, at the places where a kernel can start. One that describes itself there,
//!    has not handed over to another and tells the time of now is taken.
//! 2. VMCOREINFO, in which the kernel describes itself. If two such descriptions hold together, one is a decoy or what a kernel
//!    of before a reset or a kexec left. So may the only one be, if its clock does not tell the time of now.
//! 3. The page tables that the vCPUs use.
//! 4. Page tables found in memory, for images without registers.
//!
//! Where several are left, that one is believed whose clock moves ([`super::clock`]), and none if none or more than one do.

use super::clock;
use super::image::{KernelImage, START_KERNEL_MAP};
use super::kernel::Kernel;
use super::roots::{self, Root};
use super::symbols::{self, Found};
use super::{iomem, known, vmcoreinfo};
use crate::{Error, Sources};
use vmi_core::{AddressSpace, Budget, Gpa, GuestMemory, Look};

pub(crate) fn locate(
    memory: &dyn GuestMemory,
    sources: &Sources<'_>,
    budget: Budget,
) -> Result<Kernel, Error> {
    locate_telling(memory, sources, budget, &|_| {})
}

/// The same. `guessed` is told the kernel of a stored profile as it will be if the proof holds that then begins: for whoever can do
/// something with it meanwhile that counts only if it does.
pub(crate) fn locate_telling(
    memory: &dyn GuestMemory,
    sources: &Sources<'_>,
    budget: Budget,
    guessed: &dyn Fn(Kernel),
) -> Result<Kernel, Error> {
    let look = Look::begin(memory, budget)?;
    if let Some(kernel) = by_profile(&look, sources, guessed)? {
        return Ok(kernel);
    }
    let search = vmcoreinfo::search(memory)?;
    if search.only_zeros {
        return Err(Error::Empty { bytes: memory.size() });
    }
    let mut found = Kernels::default();
    for at in search.candidates {
        found.add(by_claim(&look, sources, at, &|_| {}))?;
    }
    if let [kernel] = found.kernels.as_slice()
        && clock::is_of_now(&look, kernel)
    {
        return Ok(kernel.clone());
    }

    let registers = (sources.registers)();
    let mut running = Kernels::default();
    for root in roots::of_registers(&registers) {
        running.add(by_root(&look, sources, root))?;
    }
    if let [kernel] = running.kernels.as_slice() {
        // A description in memory says more than page tables alone; take it where both are of one kernel.
        let described = found.kernels.into_iter().find(|known| known.root() == kernel.root());
        return Ok(described.unwrap_or_else(|| kernel.clone()));
    }
    if !registers.is_empty() && !registers.iter().any(|vcpu| roots::has_kernel_half(&look, vcpu)) {
        let what =
            "no vCPU runs an operating system's kernel (but firmware, a boot loader or a decompressor)";
        return Err(Error::NotYet { what: what.to_owned() });
    }
    if let Some(refused) = running.refused.take_if(|refused| refused.may_be_booting()) {
        // Where the vCPUs are there is a kernel that has only begun, so what was found is what an earlier one has left.
        return Err(refused);
    }
    if !found.kernels.is_empty() {
        return the_one_that_runs(memory, &found.kernels);
    }

    for root in roots::search(&look)? {
        running.add(by_root(&look, sources, root))?;
    }
    if running.kernels.is_empty() {
        let refused = found.refused.or(running.refused);
        return Err(refused.unwrap_or(Error::NoKernel { searched: search.searched }));
    }
    the_one_that_runs(memory, &running.kernels)
}

/// Of kernels that all hold together, the only one, or the one whose clock moves.
fn the_one_that_runs(memory: &dyn GuestMemory, kernels: &[Kernel]) -> Result<Kernel, Error> {
    match kernels {
        [first, second, ..] => {
            let running = clock::the_one_that_runs(memory, kernels)?;
            running.cloned().ok_or(Error::Ambiguous { first: first.root(), second: second.root() })
        }
        [kernel] => Ok(kernel.clone()),
        [] => Err(Error::NoKernel { searched: 0 }),
    }
}

/// Kernels that hold together, each once, and the best reason why others do not.
#[derive(Default)]
struct Kernels {
    kernels: Vec<Kernel>,
    refused: Option<Error>,
}

impl Kernels {
    /// `Err` when the memory backend failed, or the budget is spent.
    fn add(&mut self, kernel: Result<Option<Kernel>, Error>) -> Result<(), Error> {
        match kernel {
            Ok(Some(kernel)) if self.kernels.iter().all(|known| known.root() != kernel.root()) => {
                self.kernels.push(kernel);
            }
            Ok(_) => {}
            Err(error) if error.ends_the_look() => return Err(error),
            Err(error) => self.refused = Some(worse(self.refused.take(), error)),
        }
        Ok(())
    }
}

/// Of two reasons, the one that says more: a copy of VMCOREINFO in a log fails early, the real one late.
fn worse(before: Option<Error>, now: Error) -> Error {
    match before {
        Some(before) if !matches!(before, Error::Contradicted { .. }) => before,
        _ => now,
    }
}

/// The kernel of one of the host's profiles. `Ok(None)`: there is none that is sure to be the one that runs.
fn by_profile(
    look: &Look<'_>,
    sources: &Sources<'_>,
    guessed: &dyn Fn(Kernel),
) -> Result<Option<Kernel>, Error> {
    let mut known = (sources.known)().peekable();
    if known.peek().is_none() {
        return Ok(None);
    }
    let starts = known::starts(look.memory())?;
    for outline in known {
        let mut found = Kernels::default();
        for at in known::descriptions(look, &starts, &outline)? {
            found.add(by_claim(look, sources, at, guessed))?;
        }
        if !found.kernels.is_empty() {
            let kernel = if found.kernels.len() == 1 { found.kernels.pop() } else { None };
            let Some(kernel) = kernel.filter(|kernel| !known::has_handed_over(look, kernel)) else {
                return Ok(None);
            };
            return Ok(clock::is_of_now(look, &kernel).then_some(kernel));
        }
    }
    Ok(None)
}

/// Follows one claim to the end: page tables, release, symbols, layouts, and the host's memory layout.
fn by_claim(
    look: &Look<'_>,
    sources: &Sources<'_>,
    at: Gpa,
    guessed: &dyn Fn(Kernel),
) -> Result<Option<Kernel>, Error> {
    let claim = vmcoreinfo::believe(look, at)?;
    let space = AddressSpace::new(look, claim.root, claim.levels);
    let kernel = symbols::kernel(&space, sources, Found::Claim(Box::new(claim)), guessed)?;
    iomem::check(&space, &kernel)?;
    Ok(Some(kernel))
}

/// Asks page tables for the kernel that they map. `Ok(None)`: they map none.
fn by_root(look: &Look<'_>, sources: &Sources<'_>, root: Root) -> Result<Option<Kernel>, Error> {
    let space = AddressSpace::new(look, root.at, root.levels);
    let image = match KernelImage::find(&space) {
        Ok(Some(image)) => image,
        Ok(None) => return Ok(None),
        Err(error) => return Err(Error::Image { root: root.at, source: error }),
    };
    if image.start.0 == START_KERNEL_MAP {
        // The first page tables map the whole window; the kernel cuts them down to itself, which is never at its start, before
        // it knows anything (cleanup_highmap(), arch/x86/mm/init_64.c).
        return Err(Error::NotYet { what: "its kernel is still on its first page tables".to_owned() });
    }
    let kernel = symbols::kernel(&space, sources, Found::Image(image), &|_| {})?;
    let space = AddressSpace::new(look, kernel.root(), kernel.levels());
    iomem::check(&space, &kernel)?;
    Ok(Some(kernel))
}
