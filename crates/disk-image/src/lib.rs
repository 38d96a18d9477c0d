//! What is in an image that VMs start from, with nothing booted and nothing mounted.
//!
//! [`Image::open`] makes a read-only file [`Tree`] of a directory, a tar archive, a raw disk or a qcow2 with ext2, ext3 or ext4 in
//! it; [`inventory()`] says what of the tree can run: programs and scripts with their digests and packages, what systemd starts,
//! what it listens on, and the kernel's modules.
//!
//! - `disk/`: bytes by offset: a file, a partition, a qcow2; partition tables; file systems by their content
//! - `tree/`: the file tree, and where it is from
//! - `inventory/`: what of a tree can run
//! - `rpm/`: RPM's database
//!
//! An image is hostile: it may come from anywhere. Every offset is checked, every list is bounded, and a path never leaves the tree:
//! a symbolic link is followed inside it only. No root is needed, no kernel driver of the host parses anything of an image, and
//! nothing is ever written to it.

mod disk;
mod error;
mod inventory;
mod open;
pub mod rpm;
mod tree;

pub use error::Error;
pub use inventory::{
    Accounts, Inventory, KernelFiles, Listen, Package, Packages, Program, ProgramKind, Service, Socket,
    inventory,
};
pub use open::{Image, ImageDigest, ImageKind};
pub use tree::{Kind, Node, Tree};
