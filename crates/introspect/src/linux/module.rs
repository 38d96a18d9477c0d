//! Loadable modules: ``struct module`` by the list ``modules`` (what `lsmod` shows).

use super::layout::Resolver;
use super::list;
use crate::session::{Session, member};
use facts::{Address, Module, ModuleState, ProblemKind};
use guest_profiles::FieldKind;
use vmi_core::{Gva, ReadError};

/// Name of this view in [`Module::views`].
const VIEW: &str = "module_list";
/// ``MODULE_NAME_LEN`` (include/linux/module.h): 64 minus the size of a long.
const NAME_MAX: usize = 56;
/// ``MODULE_REF_BASE``, kernel/module/internal.h: the reference the kernel holds itself.
const REF_BASE: u32 = 1;
/// ``MODULE_STATE_UNFORMED``: still being set up, and not shown by the kernel either.
const UNFORMED: u32 = 3;

/// Offsets in ``struct module``, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    list: u64,
    name: u64,
    state: u64,
    references: u64,
    sizes: Vec<u64>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            list: resolver.offset("module", "list"),
            name: resolver.offset("module", "name"),
            state: resolver.offset("module", "state"),
            references: resolver.offset("module", "refcnt"),
            sizes: sizes(resolver),
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

/// Adds all modules on the list.
pub(crate) fn modules(session: &Session<'_>, modules: &mut Vec<Module>) -> Result<(), ReadError> {
    let layout = &session.kernel.layouts().module;
    let Some(head) = session.kernel.symbol("modules") else {
        session.problem(ProblemKind::Profile, "modules", "The kernel has no such symbol.");
        return Ok(());
    };
    for node in list::list(session, "module list", head)? {
        let Some(module) = node.checked_sub(layout.list) else { continue };
        match read(session, module) {
            Ok(Some(facts)) => modules.push(facts),
            Ok(None) => {}
            Err(error) => session.unreadable("module", module, error)?,
        }
    }
    Ok(())
}

fn read(session: &Session<'_>, module: Gva) -> Result<Option<Module>, ReadError> {
    let layout = &session.kernel.layouts().module;
    let space = &session.space;
    // ``enum module_state``, include/linux/module.h.
    let state = match space.u32(member(module, layout.state)?)? {
        0 => Some(ModuleState::Live),
        1 => Some(ModuleState::Loading),
        2 => Some(ModuleState::Unloading),
        UNFORMED => return Ok(None),
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
    Ok(Some(Module {
        name: String::from_utf8_lossy(&name).into_owned(),
        size: Some(size),
        references: references.checked_sub(REF_BASE),
        state,
        views: vec![VIEW.to_owned()],
        module: Address(module.0),
    }))
}
