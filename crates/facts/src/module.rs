//! One loadable kernel module of a guest.

use crate::{Address, Text};
use serde::{Deserialize, Serialize};

/// Life of a module (`enum module_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleState {
    /// In use.
    Live,
    /// Its init function runs.
    Loading,
    /// Its exit function runs.
    Unloading,
    /// It is being put together, or taken apart; `lsmod` does not show it.
    Unformed,
}

/// One module, as in `/proc/modules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Name.
    pub name: String,
    /// Bytes of kernel memory its text and data take.
    pub size: Option<u64>,
    /// Reference count, the kernel's own base reference not counted.
    pub references: Option<u32>,
    /// State.
    pub state: Option<ModuleState>,
    /// Views in which it was seen.
    pub views: Vec<Text>,
    /// Address of its `struct module`.
    pub module: Address,
}
