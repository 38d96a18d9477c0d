//! Loadable modules: ``struct module`` of every module that any view of the kernel has.
//!
//! The views are the list ``modules`` (what `lsmod` shows), the tree by which the kernel finds the module of a code address
//! (``mod_tree``, since 4.2), and the objects behind `/sys/module` (``module_kset``). A module that takes itself off the list,
//! the oldest trick of a rootkit, is still in the tree: without it the kernel could not print its stack. One that is in none of
//! them is found on request, by a search of the addresses that modules have.

use super::layout::Resolver;
use super::{latch, list};
use crate::session::{Session, container, member};
use facts::{Address, Module, ModuleState, ProblemKind, Text};
use guest_profiles::FieldKind;
use std::collections::BTreeSet;
use vmi_core::{Gva, PAGE_SIZE, ReadError};

/// Names of the views in [`Module::views`].
const LIST: &str = "module_list";
const TREE: &str = "module_tree";
const SYSFS: &str = "sysfs";
const RANGE: &str = "address_range";
/// Most pages that are looked through for modules: 1 GiB, the whole of where they may be (``MODULES_LEN``).
const PAGES_MAX: u64 = (1 << 30) / PAGE_SIZE;
/// [`PAGE_SIZE`] as the length of an array.
const PAGE_BYTES: usize = 4096;
/// ``MODULE_NAME_LEN`` (include/linux/module.h): 64 minus the size of a long.
const NAME_MAX: usize = 56;
/// ``MODULE_REF_BASE``, kernel/module/internal.h: the reference the kernel holds itself.
const REF_BASE: u32 = 1;

/// Offsets in ``struct module``, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    list: u64,
    name: u64,
    state: u64,
    references: u64,
    sizes: Vec<u64>,
    tree: Option<TreeLayout>,
    sysfs: Option<SysfsLayout>,
    range: RangeLayout,
}

/// What a search of the addresses of modules goes by, in bytes.
#[derive(Clone, Debug)]
struct RangeLayout {
    /// In ``mod_tree``, since 5.19: the lowest and the highest address that a module has or had.
    bounds: Option<(u64, u64)>,
    /// In ``struct module``: a pointer to the module itself.
    own: Option<u64>,
}

/// Offsets of the tree of modules, in bytes.
#[derive(Clone, Debug)]
struct TreeLayout {
    latch: latch::Layout,
    /// In ``struct mod_tree_root``.
    root: u64,
    /// In ``struct mod_tree_node``: the module, and the nodes.
    module: u64,
    nodes: u64,
}

/// Offsets of the objects behind `/sys/module`, in bytes.
#[derive(Clone, Debug)]
struct SysfsLayout {
    /// In ``struct kset``.
    list: u64,
    /// From the start of ``struct module_kobject`` to its place in that list, and to the module.
    entry: u64,
    module: u64,
}

impl TreeLayout {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        Some(Self {
            latch: latch::Layout::resolve(resolver)?,
            root: resolver.optional("mod_tree_root", "root")?,
            module: resolver.optional("mod_tree_node", "mod")?,
            nodes: resolver.optional("mod_tree_node", "node")?,
        })
    }
}

impl SysfsLayout {
    fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        Some(Self {
            list: resolver.optional("kset", "list")?,
            entry: resolver.optional("module_kobject", "kobj.entry")?,
            module: resolver.optional("module_kobject", "mod")?,
        })
    }
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            list: resolver.offset("module", "list"),
            name: resolver.offset("module", "name"),
            state: resolver.offset("module", "state"),
            references: resolver.offset("module", "refcnt"),
            sizes: sizes(resolver),
            tree: TreeLayout::resolve(resolver),
            sysfs: SysfsLayout::resolve(resolver),
            range: RangeLayout {
                bounds: resolver
                    .optional("mod_tree_root", "addr_min")
                    .zip(resolver.optional("mod_tree_root", "addr_max")),
                own: resolver.optional("module", "mkobj.mod"),
            },
        }
    }
}

/// Where the sizes are whose sum is the module's: ``mem[]`` by type of memory since 6.4, ``core_layout`` and
/// ``init_layout`` before.
fn sizes(resolver: &mut Resolver<'_>) -> Vec<u64> {
    let Ok(memory) = resolver.profile().field("module", "mem") else {
        return ["core_layout", "init_layout"]
            .iter()
            .map(|part| {
                resolver.offset("module", part).wrapping_add(resolver.offset("module_layout", "size"))
            })
            .collect();
    };
    let FieldKind::Array { count, stride, .. } = memory.kind else {
        resolver.lacks("module.mem as an array".to_owned());
        return Vec::new();
    };
    let size = resolver.offset("module_memory", "size");
    let offset = memory.offset;
    (0..count.min(32))
        .map(|index| offset.wrapping_add(index.wrapping_mul(stride)).wrapping_add(size))
        .collect()
}

/// ``struct module *`` of the modules that each view has. `None`: this kernel has no such view.
struct Views {
    list: BTreeSet<Gva>,
    tree: Option<BTreeSet<Gva>>,
    sysfs: Option<BTreeSet<Gva>>,
}

impl Views {
    fn take(session: &Session<'_>, head: Gva) -> Result<Self, ReadError> {
        let offset = session.kernel.layouts().module.list;
        let nodes = list::list(session, "module list", head)?;
        Ok(Self {
            list: nodes.into_iter().filter_map(|node| node.checked_sub(offset)).collect(),
            tree: tree(session)?,
            sysfs: sysfs(session)?,
        })
    }

    fn each(&self) -> [(&'static str, Option<&BTreeSet<Gva>>); 3] {
        [(LIST, Some(&self.list)), (TREE, self.tree.as_ref()), (SYSFS, self.sysfs.as_ref())]
    }

    fn all(&self) -> BTreeSet<Gva> {
        self.each().into_iter().filter_map(|(_, view)| view).flatten().copied().collect()
    }

    /// The names of the views that have the module, and whether that is all that there are.
    fn of(&self, module: Gva) -> (Vec<&'static str>, bool) {
        let (having, lacking): (Vec<_>, Vec<_>) = self
            .each()
            .into_iter()
            .filter_map(|(name, view)| Some((name, view?.contains(&module))))
            .partition(|(_, has)| *has);
        (having.into_iter().map(|(name, _)| name).collect(), lacking.is_empty())
    }
}

/// Adds all modules that any view has.
///
/// A module that comes or goes is in some of the views for a moment. So where they disagree they are taken a second time:
/// what either time has counts as seen, and what the second has nowhere is gone.
pub(crate) fn modules(session: &Session<'_>, modules: &mut Vec<Module>) -> Result<(), ReadError> {
    let Some(head) = session.kernel.symbol("modules") else {
        session.problem(ProblemKind::Profile, "modules", "The kernel has no such symbol.");
        return Ok(());
    };
    let first = Views::take(session, head)?;
    let mut all = first.all();
    let second = if all.iter().all(|module| first.of(*module).1) {
        None
    } else {
        session.space.look().forget_pages();
        let second = Views::take(session, head)?;
        all = second.all();
        Some(second)
    };
    let range = if session.wants.scan { range(session)? } else { BTreeSet::new() };
    all.extend(&range);
    for module in all {
        let (again, _) = second.as_ref().map(|views| views.of(module)).unwrap_or_default();
        let (once, _) = first.of(module);
        let views =
            [LIST, TREE, SYSFS].into_iter().filter(|view| once.contains(view) || again.contains(view));
        let views = views.chain(range.contains(&module).then_some(RANGE));
        match read(session, module, views.map(Text::from).collect()) {
            Ok(facts) => modules.push(facts),
            Err(error) => session.unreadable("module", module, error)?,
        }
    }
    Ok(())
}

/// Names of the views of modules that the guest's kernel has, in the order of [`Module::views`].
pub(crate) fn views(session: &Session<'_>) -> Vec<Text> {
    let layout = &session.kernel.layouts().module;
    let has = |symbol: &str| session.kernel.symbol(symbol).is_some();
    [
        (true, LIST),
        (layout.tree.is_some() && has("mod_tree"), TREE),
        (layout.sysfs.is_some() && has("module_kset"), SYSFS),
    ]
    .into_iter()
    .filter(|(known, _)| *known)
    .map(|(_, name)| name.into())
    .collect()
}

/// The modules in ``mod_tree``. `None`: this kernel has no such tree.
fn tree(session: &Session<'_>) -> Result<Option<BTreeSet<Gva>>, ReadError> {
    let (Some(layout), Some(root)) =
        (&session.kernel.layouts().module.tree, session.kernel.symbol("mod_tree"))
    else {
        return Ok(None);
    };
    latch::tree(session, layout.latch, "module tree", member(root, layout.root)?, |node| {
        let owner = container(node, layout.nodes)?;
        let module = session.space.pointer(member(owner, layout.module)?)?;
        Ok(Some(module).filter(|module| !module.is_null()))
    })
}

/// The modules that have an object in `/sys/module`; built-in ones have an object and no module. `None`: this kernel has no
/// such set.
fn sysfs(session: &Session<'_>) -> Result<Option<BTreeSet<Gva>>, ReadError> {
    let (Some(layout), Some(symbol)) =
        (&session.kernel.layouts().module.sysfs, session.kernel.symbol("module_kset"))
    else {
        return Ok(None);
    };
    let space = &session.space;
    let Some(set) = session.known("module set", symbol, space.pointer(symbol))? else { return Ok(None) };
    let mut modules = BTreeSet::new();
    for entry in list::list(session, "module set", member(set, layout.list)?)? {
        let Some(object) = entry.checked_sub(layout.entry) else { continue };
        let module = member(object, layout.module).and_then(|at| space.pointer(at));
        modules.extend(session.known("module set", object, module)?.filter(|module| !module.is_null()));
    }
    Ok(Some(modules))
}

/// The modules that are in memory where modules are, whoever knows of them: what has a pointer to itself where ``struct
/// module`` has one (``mkobj.mod``). On request only: all pages of the range are read.
fn range(session: &Session<'_>) -> Result<BTreeSet<Gva>, ReadError> {
    let RangeLayout { bounds, own } = session.kernel.layouts().module.range;
    let symbol = |name| session.kernel.symbol(name);
    let places = match (symbol("mod_tree"), bounds) {
        (Some(tree), Some((min, max))) => tree.checked_add(min).zip(tree.checked_add(max)),
        _ => symbol("module_addr_min").zip(symbol("module_addr_max")),
    };
    let mut modules = BTreeSet::new();
    let (Some((min, max)), Some(own)) = (places, own) else { return Ok(modules) };
    let space = &session.space;
    let Some(min) = session.known("module range", min, space.pointer(min))? else { return Ok(modules) };
    let Some(max) = session.known("module range", max, space.pointer(max))? else { return Ok(modules) };
    // Without a module, the lowest address is above the highest.
    let pages = max.0.saturating_sub(min.page_base().0) / PAGE_SIZE + u64::from(max.0 > min.0);
    if pages > PAGES_MAX {
        session.problem(
            ProblemKind::Implausible,
            format_args!("module range {min}"),
            format_args!("It has {pages} pages, which is more than there are for modules."),
        );
        return Ok(modules);
    }
    let mut page = [0; PAGE_BYTES];
    for number in 0..pages {
        let Some(at) = min.page_base().element(number, PAGE_SIZE) else { break };
        match space.read(at, &mut page) {
            Ok(()) => {}
            Err(error) if error.ends_the_look() => return Err(error),
            Err(_) => continue,
        }
        for (index, word) in (0_u64..).zip(page.as_chunks::<8>().0) {
            let found = at.element(index, 8).and_then(|place| place.checked_sub(own));
            let Some(module) = found.filter(|module| module.0 == u64::from_le_bytes(*word)) else { continue };
            if has_a_name(session, module)? {
                modules.insert(module);
            }
        }
    }
    Ok(modules)
}

/// Whether what seems to be a module says what it is called. Data of modules can have a pointer that leads as far back as a module's
/// to itself does, and has no text there.
fn has_a_name(session: &Session<'_>, module: Gva) -> Result<bool, ReadError> {
    let name = member(module, session.kernel.layouts().module.name)
        .and_then(|name| session.space.c_string(name, NAME_MAX));
    match name {
        Ok(name) => Ok(!name.is_empty() && name.iter().all(u8::is_ascii_graphic)),
        Err(error) if error.ends_the_look() => Err(error),
        Err(_) => Ok(false),
    }
}

fn read(session: &Session<'_>, module: Gva, views: Vec<Text>) -> Result<Module, ReadError> {
    let layout = &session.kernel.layouts().module;
    let space = &session.space;
    // ``enum module_state``, include/linux/module.h.
    let state = match space.u32(member(module, layout.state)?)? {
        0 => Some(ModuleState::Live),
        1 => Some(ModuleState::Loading),
        2 => Some(ModuleState::Unloading),
        3 => Some(ModuleState::Unformed),
        other => {
            session.problem(
                ProblemKind::Implausible,
                format_args!("module {module}"),
                format_args!("Its state is {other}."),
            );
            None
        }
    };
    let name = space.c_string(member(module, layout.name)?, NAME_MAX)?;
    let mut size = 0u64;
    for offset in &layout.sizes {
        size = size.saturating_add(u64::from(space.u32(member(module, *offset)?)?));
    }
    let references = space.u32(member(module, layout.references)?)?;
    Ok(Module {
        name: String::from_utf8_lossy(&name).into_owned(),
        size: Some(size),
        references: references.checked_sub(REF_BASE),
        state,
        views,
        module: Address(module.0),
    })
}
