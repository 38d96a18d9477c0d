//! Kernel images and modules of a tree, by release.

use crate::{Kind, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// A kernel in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelFiles {
    /// `uname -r`, by the names of its files.
    pub release: String,
    /// Path of the kernel image.
    pub image: Option<String>,
    /// Names of its modules, as `/proc/modules` has them.
    pub modules: Vec<String>,
}

/// Kernels by release, each with the modules below `/lib/modules/RELEASE`; modules right in `/lib/modules` belong to every kernel.
pub(super) fn read(tree: &Tree) -> Vec<KernelFiles> {
    let mut kernels: BTreeMap<String, (Option<String>, BTreeSet<String>)> = BTreeMap::new();
    let mut of_all = BTreeSet::new();
    for (name, node) in tree.list("/boot") {
        let release = name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("vmlinux-"));
        if let (Some(release), Kind::File) = (release, &node.kind) {
            kernels.entry(release.to_owned()).or_default().0 = Some(format!("/boot/{name}"));
        }
    }
    let modules = ["/lib/modules", "/usr/lib/modules"].iter().find_map(|path| tree.resolve(path));
    let modules = modules.map(|path| format!("{path}/")).unwrap_or_default();
    let files = tree.iter().filter(|(_, node)| node.kind == Kind::File);
    for (path, below) in files.filter_map(|(path, _)| Some((path, path.strip_prefix(&modules)?))) {
        if modules.is_empty() {
            break;
        }
        let module = path.rsplit('/').next().and_then(module_name);
        match (below.split_once('/'), module) {
            (Some((release, _)), Some(module)) => {
                kernels.entry(release.to_owned()).or_default().1.insert(module);
            }
            (None, Some(module)) => {
                of_all.insert(module);
            }
            (Some((release, "vmlinuz")), None) => {
                kernels.entry(release.to_owned()).or_default().0.get_or_insert(path.to_owned());
            }
            _ => {}
        }
    }
    if kernels.is_empty() && !of_all.is_empty() {
        kernels.insert(String::new(), (None, BTreeSet::new()));
    }
    kernels
        .into_iter()
        .map(|(release, (image, modules))| KernelFiles {
            release,
            image,
            modules: modules.union(&of_all).cloned().collect(),
        })
        .collect()
}

/// `virtio_net` of `virtio-net.ko.xz`.
fn module_name(file: &str) -> Option<String> {
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".gz" | ".zst").then(|| name.replace('-', "_"))
}
