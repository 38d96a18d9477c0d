//! What a loaded module says of itself: its symbols (``struct module.kallsyms``) and its types (its split BTF, on the kernel's
//! list ``btf_modules``). For what is defined in a module and so in neither table of the kernel itself, such as the sockets of a
//! family that is a module.
//!
//! A module is code that somebody loaded: its tables are as hostile as everything else, and bounded.

use super::kernel::Kernel;
use super::layout::Resolver;
use super::list;
use super::type_information::TypeInformation;
use crate::Error;
use crate::session::{Session, member};
use guest_profiles::{Btf, Profile, ProfileIdentity, Wanted, btf_digest};
use std::collections::BTreeMap;
use vmi_core::{Budget, GuestMemory, Gva, Look, ReadError};

/// ``MODULE_NAME_LEN`` (include/linux/module.h): 64 minus the size of a long.
const NAME_MAX: usize = 56;
/// ``KSYM_NAME_LEN`` of 6.1 and later.
const SYMBOL_NAME_MAX: usize = 512;
/// Most symbols of one module; the largest of Debian's have some ten thousand.
const SYMBOLS_MAX: u32 = 1 << 18;
/// Bytes of ``Elf64_Sym``: name (4), info, other, section (2), value (8) and size (8).
const SYMBOL: u64 = 24;
/// Where ``st_value`` stands in it.
const VALUE: u64 = 8;
/// Most bytes of one module's type information; the largest of Debian's have some hundred KiB.
const BTF_MAX: u64 = 16 << 20;

/// A symbol of a loaded module, as `/proc/kallsyms` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleSymbol {
    /// Address in the running guest.
    pub address: Gva,
    /// Type as `nm` prints it, in lower case: whether it is exported is not told by its case.
    pub kind: char,
    /// Name.
    pub name: String,
}

/// Offsets in bytes of what leads to a module's symbols.
struct SymbolLayout {
    list: u64,
    name: u64,
    kallsyms: u64,
    symtab: u64,
    num_symtab: u64,
    strtab: u64,
    typetab: u64,
}

impl SymbolLayout {
    fn resolve(kernel: &Kernel) -> Result<Self, Error> {
        let mut resolver = Resolver::new(kernel.profile());
        let layout = Self {
            list: resolver.offset("module", "list"),
            name: resolver.offset("module", "name"),
            kallsyms: resolver.offset("module", "kallsyms"),
            symtab: resolver.offset("mod_kallsyms", "symtab"),
            num_symtab: resolver.offset("mod_kallsyms", "num_symtab"),
            strtab: resolver.offset("mod_kallsyms", "strtab"),
            typetab: resolver.offset("mod_kallsyms", "typetab"),
        };
        complete(kernel, resolver, "modules").map(|()| layout)
    }
}

/// Offsets in bytes of what leads to a module's types. Before 5.11 modules have none.
struct TypeLayout {
    list: u64,
    btf: u64,
    data: u64,
    data_size: u64,
    name: u64,
}

impl TypeLayout {
    fn resolve(kernel: &Kernel) -> Result<Self, Error> {
        let mut resolver = Resolver::new(kernel.profile());
        let layout = Self {
            list: resolver.offset("btf_module", "list"),
            btf: resolver.offset("btf_module", "btf"),
            data: resolver.offset("btf", "data"),
            data_size: resolver.offset("btf", "data_size"),
            name: resolver.offset("btf", "name"),
        };
        complete(kernel, resolver, "btf_modules").map(|()| layout)
    }
}

/// `Err` when the kernel lacks any of what was asked of `resolver`, or the symbol of the list that is to be walked: then whether
/// a module is on it is not known.
fn complete(kernel: &Kernel, mut resolver: Resolver<'_>, list: &str) -> Result<(), Error> {
    if kernel.symbol(list).is_none() {
        resolver.lacks(format!("symbol {list}"));
    }
    let missing = resolver.into_missing();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Unsupported { release: kernel.release().to_owned(), missing })
}

impl Kernel {
    /// Symbols of the loaded module `name`, in the order of its table. `Ok(None)`: no such module is loaded.
    pub fn module_symbols(
        &self,
        memory: &dyn GuestMemory,
        name: &str,
        budget: Budget,
    ) -> Result<Option<Vec<ModuleSymbol>>, Error> {
        let look = Look::begin(memory, budget)?;
        let layout = SymbolLayout::resolve(self)?;
        let modules = Modules { session: &Session::new(&look, self) };
        modules.symbols(&layout, name).map_err(|source| read("symbols of a module", self, source))
    }

    /// Bytes of the type information of the loaded module `name`, as `/sys/kernel/btf/NAME` has them. `Ok(None)`: it is not
    /// loaded, or has none.
    pub fn module_types(
        &self,
        memory: &dyn GuestMemory,
        name: &str,
        budget: Budget,
    ) -> Result<Option<Vec<u8>>, Error> {
        let look = Look::begin(memory, budget)?;
        let layout = TypeLayout::resolve(self)?;
        let modules = Modules { session: &Session::new(&look, self) };
        modules.types(&layout, name).map_err(|source| read("type information of a module", self, source))
    }

    /// Layouts and symbols that `wanted` names, of the loaded module `name`: types of its own, and the kernel's where it has
    /// none of that name. Symbols are at their addresses in the running guest, because a module has no link addresses; of
    /// several symbols with one name none is taken. `Ok(None)`: it is not loaded, or has no type information.
    ///
    /// `Err(TypesChanged)` when the kernel's type information is not what it was when the kernel was located: a module's
    /// types are numbered from where the kernel's end.
    pub fn module_profile(
        &self,
        memory: &dyn GuestMemory,
        name: &str,
        wanted: &Wanted,
        budget: Budget,
    ) -> Result<Option<Profile>, Error> {
        let release = || self.release().to_owned();
        let damaged = |source| Error::Profile { what: "type information", release: release(), source };
        let Some(own) = self.module_types(memory, name, budget)? else { return Ok(None) };
        let Some(listed) = self.module_symbols(memory, name, budget)? else { return Ok(None) };
        let base = {
            let look = Look::begin(memory, budget)?;
            let session = Session::new(&look, self);
            let at = |symbol: &str| self.symbol(symbol).map(|at| at.0);
            TypeInformation::of(&session.space, &at, self.release())
                .ok_or_else(|| Error::Unsupported {
                    release: release(),
                    missing: vec!["type information (CONFIG_DEBUG_INFO_BTF)".to_owned()],
                })?
                .into_bytes()?
        };
        if self.boot.btf_digest.as_ref().is_some_and(|digest| *digest != btf_digest(&base)) {
            return Err(Error::TypesChanged { release: release() });
        }
        let base = Btf::parse(&base).map_err(damaged)?;
        let btf = Btf::parse_split(&base, &own).map_err(damaged)?;
        let mut found: BTreeMap<String, Option<u64>> = BTreeMap::new();
        for ModuleSymbol { address, name, .. } in listed {
            let same = |known: Option<u64>| known.filter(|at| *at == address.0);
            found.entry(name).and_modify(|at| *at = same(*at)).or_insert(Some(address.0));
        }
        let symbols = found.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
        let identity = ProfileIdentity { release: release(), build_id: None };
        Profile::from_btf(&btf, wanted, symbols, identity).map(Some).map_err(damaged)
    }
}

/// A look at modules.
struct Modules<'s, 'a> {
    session: &'s Session<'a>,
}

fn read(what: &'static str, kernel: &Kernel, source: ReadError) -> Error {
    match source {
        ReadError::Memory(error) => Error::Memory(error),
        source => Error::Read { what, release: kernel.release().to_owned(), source },
    }
}

impl Modules<'_, '_> {
    fn symbols(&self, layout: &SymbolLayout, name: &str) -> Result<Option<Vec<ModuleSymbol>>, ReadError> {
        let space = &self.session.space;
        let name_of = |module: Gva| member(module, layout.name);
        let Some(module) = self.named("modules", layout.list, name_of, name)? else { return Ok(None) };
        let table = space.pointer(member(module, layout.kallsyms)?)?;
        if table.is_null() {
            return Ok(Some(Vec::new()));
        }
        let count = space.u32(member(table, layout.num_symtab)?)?.min(SYMBOLS_MAX);
        let symtab = space.pointer(member(table, layout.symtab)?)?;
        let strtab = space.pointer(member(table, layout.strtab)?)?;
        let typetab = space.pointer(member(table, layout.typetab)?)?;
        let mut symbols = Vec::new();
        for index in 0..u64::from(count) {
            let no_address = || ReadError::NotAnAddress { at: symtab, len: u64::from(count) * SYMBOL };
            let symbol = symtab.element(index, SYMBOL).ok_or_else(no_address)?;
            let text = member(strtab, u64::from(space.u32(symbol)?))?;
            let text = space.c_string(text, SYMBOL_NAME_MAX)?;
            // The first symbol of every table, and some debugging ones, have no name and are not listed.
            if text.is_empty() {
                continue;
            }
            symbols.push(ModuleSymbol {
                address: Gva(space.u64(member(symbol, VALUE)?)?),
                kind: char::from(space.u8(member(typetab, index)?)?).to_ascii_lowercase(),
                name: String::from_utf8_lossy(&text).into_owned(),
            });
        }
        Ok(Some(symbols))
    }

    fn types(&self, layout: &TypeLayout, name: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let space = &self.session.space;
        let btf_of = |entry: Gva| space.pointer(member(entry, layout.btf)?);
        let name_of = |entry: Gva| member(btf_of(entry)?, layout.name);
        let Some(entry) = self.named("btf_modules", layout.list, name_of, name)? else { return Ok(None) };
        let btf = btf_of(entry)?;
        let data = space.pointer(member(btf, layout.data)?)?;
        let size = u64::from(space.u32(member(btf, layout.data_size)?)?);
        if size > BTF_MAX {
            return Err(ReadError::NotAnAddress { at: data, len: size });
        }
        space.bytes(data, usize::try_from(size).unwrap_or(0)).map(Some)
    }

    /// The object on the list `symbol`, whose node is `node` bytes into it, that has this name.
    fn named(
        &self,
        symbol: &str,
        node: u64,
        name_of: impl Fn(Gva) -> Result<Gva, ReadError>,
        name: &str,
    ) -> Result<Option<Gva>, ReadError> {
        let Some(head) = self.session.kernel.symbol(symbol) else { return Ok(None) };
        for at in list::list(self.session, symbol, head)? {
            let Some(object) = at.checked_sub(node) else { continue };
            match name_of(object).and_then(|at| self.session.space.c_string(at, NAME_MAX)) {
                Ok(found) if found == name.as_bytes() => return Ok(Some(object)),
                Err(error) if error.ends_the_look() => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }
}
