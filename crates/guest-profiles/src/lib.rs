//! Where things are in one kernel build.
//!
//! Bytes in, layouts and addresses out: the readers here take byte slices that somebody else copied out of a guest (or
//! read from a file) and never see memory themselves. Every such byte is hostile: the readers check each offset, bound
//! each recursion and each list, and allocate in proportion to what they were handed at most.
//!
//! - [`btf`]: type layouts from the kernel's own BTF
//! - [`kallsyms`]: symbol addresses from the kernel's own compressed symbol table
//! - [`kallsyms_search`]: the symbol table of a kernel image that does not tell where it is
//! - [`kernel_file`]: bzImage, vmlinux and Debian packages, with no guest booted
//! - [`system_map`](system_map()): the symbols of a kernel that carries none
//! - [`vmcoreinfo`]: the hints that a kernel leaves for crash dumpers
//! - [`elf_notes`]: the GNU build id
//! - [`isf`]: Volatility's symbol files, both ways
//! - [`linux`]: the types and symbols that the engine asks for
//! - [`store`]: the profiles that a host keeps
//! - [`profile`]: what the engine keeps of one kernel build, and what the walkers ask

pub mod btf;
pub mod elf_notes;
mod error;
pub mod isf;
pub mod kallsyms;
pub mod kallsyms_search;
pub mod kernel_file;
pub mod layout;
mod le;
pub mod linux;
pub mod profile;
pub mod store;
mod system_map;
pub mod vmcoreinfo;

pub use btf::Btf;
pub use elf_notes::build_id;
pub use error::Error;
pub use kallsyms::{Kallsyms, Tables as KallsymsTables, Values as KallsymsValues};
pub use kallsyms_search::{Found as FoundKallsyms, search as search_kallsyms};
pub use kernel_file::{KernelFile, LayoutSource};
pub use layout::{Bits, Field, FieldKind, Layout};
pub use profile::{BtfDigest, Outline, Profile, ProfileIdentity, Wanted, WantedEnum, WantedType, btf_digest};
pub use store::{Store, Stored};
pub use system_map::system_map;
pub use vmcoreinfo::VmcoreInfo;
