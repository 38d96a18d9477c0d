//! Type information and symbol table of a guest's kernel, copied out of it once, so that their readers can be timed alone.

use crate::guests::{BUDGET, Subject};
use anyhow::{Context, Result};
use guest_profiles::{KallsymsTables, KallsymsValues, VmcoreInfo};
use vmi_core::{AddressSpace, Gva, Look};

/// The bytes that `introspect` reads of a kernel it has never seen.
#[derive(Debug)]
pub struct KernelTables {
    /// BTF.
    pub btf: Vec<u8>,
    /// Address of `_stext`.
    pub stext: u64,
    count: u32,
    names: Vec<u8>,
    tokens: Vec<u8>,
    index: Vec<u8>,
    offsets: Vec<u8>,
    offsets_at: u64,
    relative_base: Option<u64>,
}

impl KernelTables {
    /// Copies them.
    pub fn read(subject: &Subject) -> Result<Self> {
        let look = Look::begin(subject.memory(), BUDGET)?;
        let space = AddressSpace::new(&look, subject.kernel.root(), subject.kernel.levels());
        let symbol = |name: &str| subject.kernel.symbol(name).with_context(|| format!("No symbol {name}"));
        let page = space.pointer(symbol("vmcoreinfo_data")?)?;
        let info = VmcoreInfo::parse(&space.bytes(page, 4096)?)?;
        let told = |name: &str| {
            info.symbols.get(name).copied().with_context(|| format!("VMCOREINFO does not name {name}"))
        };
        let between = |from: u64, to: u64| -> Result<Vec<u8>> {
            let len = usize::try_from(to.checked_sub(from).context("Tables are out of order")?)?;
            Ok(space.bytes(Gva(from), len)?)
        };
        let (names_at, tokens_at) = (told("kallsyms_names")?, told("kallsyms_token_table")?);
        let (index_at, offsets_at) = (told("kallsyms_token_index")?, told("kallsyms_offsets")?);
        let count = space.u32(Gva(told("kallsyms_num_syms")?))?;
        let relative_base = match told("kallsyms_relative_base") {
            Ok(at) => Some(space.u64(Gva(at))?),
            Err(_) => None,
        };
        Ok(Self {
            btf: between(symbol("__start_BTF")?.0, symbol("__stop_BTF")?.0)?,
            stext: told("_stext")?,
            count,
            names: between(names_at, tokens_at)?,
            tokens: between(tokens_at, index_at)?,
            index: space.bytes(Gva(index_at), 512)?,
            offsets: space.bytes(Gva(offsets_at), usize::try_from(count)? * 4)?,
            offsets_at,
            relative_base,
        })
    }

    /// The symbol table as its reader takes it.
    #[must_use]
    pub fn kallsyms(&self) -> KallsymsTables<'_> {
        KallsymsTables {
            num_syms: self.count,
            names: &self.names,
            token_table: &self.tokens,
            token_index: &self.index,
            values: KallsymsValues::Offsets {
                bytes: &self.offsets,
                address: self.offsets_at,
                relative_base: self.relative_base,
            },
        }
    }

    /// All bytes of the symbol table.
    #[must_use]
    pub fn kallsyms_bytes(&self) -> Vec<u8> {
        [&self.names, &self.tokens, &self.index, &self.offsets].into_iter().flatten().copied().collect()
    }
}
