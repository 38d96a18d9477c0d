//! A kernel in full, for other tools: all its type information and all its symbols, where a profile has the few that we use.
//!
//! Read from memory once and thrown away: some 6 MiB of types and as much of the symbol table.

use super::image::{KernelImage, START_KERNEL_MAP};
use super::kernel::Kernel;
use super::type_information::TypeInformation;
use crate::Error;
use guest_profiles::Kallsyms;
use std::collections::BTreeMap;
use vmi_core::{AddressSpace, Budget, GuestMemory, Look};

/// Most symbols. Debian 6.12 has about 220,000.
const SYMBOLS_MAX: usize = 4 << 20;
/// Most bytes of the banner.
const BANNER_MAX: usize = 512;

/// All that a kernel says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The whole BTF.
    pub btf: Vec<u8>,
    /// Every symbol at its link address. Of several with one name (static ones) the global one, else the first.
    pub symbols: BTreeMap<String, u64>,
    /// ``linux_banner`` with its newline and the NUL behind it.
    pub banner: Vec<u8>,
}

impl Kernel {
    /// Reads it. `Err` also for a kernel without BTF.
    pub fn describe(&self, memory: &dyn GuestMemory, budget: Budget) -> Result<Description, Error> {
        let look = Look::begin(memory, budget)?;
        let space = AddressSpace::new(&look, self.root(), self.levels());
        let read = |what| move |source| Error::Read { what, release: self.release().to_owned(), source };
        let lacks = |what: &str| Error::Unsupported {
            release: self.release().to_owned(),
            missing: vec![what.to_owned()],
        };
        let at = |name: &str| self.symbol(name).map(|at| at.0);
        let btf = TypeInformation::of(&space, &at, self.release())
            .ok_or_else(|| lacks("type information (CONFIG_DEBUG_INFO_BTF)"))?
            .into_bytes()?;
        let banner_at = self.symbol("linux_banner").ok_or_else(|| lacks("symbol linux_banner"))?;
        let mut banner = space.c_string(banner_at, BANNER_MAX).map_err(read("banner"))?;
        banner.push(0);
        let image = KernelImage::find(&space)
            .map_err(read("kernel image"))?
            .ok_or_else(|| lacks("mapped kernel image"))?;
        let stext = self.symbol("_stext").ok_or_else(|| lacks("symbol _stext"))?;
        let symbols = image
            .symbols(&space, stext.0, &|kallsyms| self.all_symbols(kallsyms))
            .map_err(read("kernel image"))?
            .map_err(|source| Error::Profile {
                what: "symbol table",
                release: self.release().to_owned(),
                source,
            })?;
        Ok(Description { btf, symbols, banner })
    }

    /// Every symbol at its link address.
    fn all_symbols(&self, kallsyms: &Kallsyms<'_>) -> Result<BTreeMap<String, u64>, guest_profiles::Error> {
        let mut all: BTreeMap<String, (bool, u64)> = BTreeMap::new();
        for symbol in kallsyms.iter().take(SYMBOLS_MAX) {
            let symbol = symbol?;
            // Symbols below are per-CPU offsets, which KASLR leaves alone.
            let at = match symbol.address {
                at if at >= START_KERNEL_MAP => at.wrapping_sub(self.boot.slide),
                at => at,
            };
            let global = symbol.kind.is_ascii_uppercase();
            match all.get(&symbol.name) {
                Some((known_global, _)) if *known_global || !global => {}
                _ => {
                    all.insert(symbol.name, (global, at));
                }
            }
        }
        Ok(all.into_iter().map(|(name, (_, at))| (name, at)).collect())
    }
}
