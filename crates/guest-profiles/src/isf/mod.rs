//! Volatility 3's intermediate symbol format (ISF), both ways.
//!
//! [`write()`] gives a whole kernel (every type of its BTF, every symbol) as a file with which a stock Volatility works;
//! [`read()`] takes the few types and symbols that we use out of such a file, whoever made it. The format is that of
//! `volatility3/schemas/schema-6.2.0.json` (Volatility 3 2.28), and names are given as dwarf2json 0.9 gives them.

mod file;
mod globals;
mod guard;
mod read;
mod write;

pub use file::{pack, read_file};
pub use read::read;
pub use write::{Kernel, write};

/// How the names of untagged types begin in this format.
const UNTAGGED: &str = "unnamed_";
