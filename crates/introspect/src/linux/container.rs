//! Which container a control group belongs to, by the names that container runtimes give their groups.
//!
//! The names are what the runtimes' own tools go by, and only root of the guest can make such a group: they say what the
//! guest claims, like everything that is read from it.

use facts::{ContainerRuntime, Text};

/// Hex digits of a container id.
const ID: usize = 64;

/// A container, and who made it where its name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: Text,
    pub(crate) runtime: Option<ContainerRuntime>,
}

/// The innermost container in a path.
pub(crate) fn container(path: &str) -> Option<Container> {
    let mut directories = path.rsplit('/').filter(|name| !name.is_empty()).peekable();
    while let Some(directory) = directories.next() {
        let parent = directories.peek().copied().unwrap_or_default();
        if let Some(found) = by_id(directory, parent).or_else(|| by_name(directory, parent)) {
            return Some(found);
        }
    }
    None
}

/// Runtimes that name containers by 64 hex digits: `docker-<id>.scope`, `cri-containerd-<id>.scope`, `/docker/<id>`,
/// `kubepods-…:cri-containerd:<id>`.
fn by_id(directory: &str, parent: &str) -> Option<Container> {
    let name = directory.strip_suffix(".scope").unwrap_or(directory);
    let (prefix, id) = name.split_at_checked(name.len().checked_sub(ID)?)?;
    if !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let maker = match prefix {
        "" => parent,
        prefix => prefix.strip_suffix(['-', ':'])?.rsplit(':').next()?,
    };
    // The process that watches over a container is outside of it.
    if maker.ends_with("-conmon") {
        return None;
    }
    let runtime = match maker {
        "docker" => Some(ContainerRuntime::Docker),
        "cri-containerd" | "nerdctl" | "containerd" => Some(ContainerRuntime::Containerd),
        "crio" => Some(ContainerRuntime::CriO),
        "libpod" | "libpod_parent" => Some(ContainerRuntime::Podman),
        _ => None,
    };
    Some(Container { id: id.into(), runtime })
}

/// Runtimes whose containers have names: `lxc.payload.<name>`, `/lxc/<name>`, `machine-<name>.scope`,
/// `systemd-nspawn@<name>.service`.
fn by_name(directory: &str, parent: &str) -> Option<Container> {
    let made = |name: &str, runtime| {
        (!name.is_empty()).then(|| Container { id: unescape(name).into(), runtime: Some(runtime) })
    };
    if let Some(name) = directory.strip_prefix("lxc.payload.") {
        return made(name, ContainerRuntime::Lxc);
    }
    if matches!(parent, "lxc" | "lxc.payload") {
        return made(directory, ContainerRuntime::Lxc);
    }
    if let Some(name) =
        directory.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service"))
    {
        return made(name, ContainerRuntime::SystemdNspawn);
    }
    let machine = directory.strip_prefix("machine-").and_then(|rest| rest.strip_suffix(".scope"))?;
    // Virtual machines of libvirt are registered the same way, and their processes are no container.
    let is_vm = parent == "machine.slice" && machine.starts_with("qemu\\x2d");
    if is_vm { None } else { made(machine, ContainerRuntime::SystemdNspawn) }
}

/// Names of units have `\x2d` for `-` (systemd.unit(5), "String Escaping for Inclusion in Unit Names").
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("\\x") {
        let (before, escape) = rest.split_at(at);
        bytes.extend_from_slice(before.as_bytes());
        match escape.get(2..4).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = escape.get(4..).unwrap_or_default();
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = escape.get(2..).unwrap_or_default();
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::container;
    use facts::ContainerRuntime::{Containerd, CriO, Docker, Lxc, Podman, SystemdNspawn};

    #[test]
    fn a_container_is_found_whatever_runtime_named_the_group() {
        let id = "0123456789abcdef".repeat(4);
        for (path, runtime) in [
            (format!("/system.slice/docker-{id}.scope"), Some(Docker)),
            (format!("/docker/{id}"), Some(Docker)),
            (format!("/docker/{id}/init.scope"), Some(Docker)),
            (format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"), Some(Containerd)),
            (
                format!("/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{id}"),
                Some(Containerd),
            ),
            (format!("/system.slice/nerdctl-{id}.scope"), Some(Containerd)),
            (format!("/kubepods.slice/crio-{id}.scope/container"), Some(CriO)),
            (format!("/machine.slice/libpod-{id}.scope/container"), Some(Podman)),
            (format!("/libpod_parent/libpod-{id}"), Some(Podman)),
            (format!("/kubepods/burstable/pod17/{id}"), None),
        ] {
            let found = container(&path).unwrap();
            assert_eq!((found.id.as_str(), found.runtime), (id.as_str(), runtime), "{path}");
        }
        for (path, name, runtime) in [
            ("/lxc.payload.web/system.slice/ssh.service", "web", Lxc),
            ("/lxc/web", "web", Lxc),
            ("/machine.slice/machine-web\\x2d1.scope/payload", "web-1", SystemdNspawn),
            ("/machine.slice/systemd-nspawn@web.service/payload", "web", SystemdNspawn),
        ] {
            let found = container(path).unwrap();
            assert_eq!((found.id.as_str(), found.runtime), (name, Some(runtime)), "{path}");
        }
    }

    #[test]
    fn a_name_that_only_resembles_one_is_none() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            "/",
            "",
            "/system.slice/ssh.service",
            "/lxc.monitor.web",
            "/lxc.payload.",
            "/machine.slice/machine-qemu\\x2d1\\x2dweb.scope",
            "/machine.slice/machine-.scope",
            &format!("/x{id}"),
            &format!("/docker-{}", &id[1..]),
            &format!("/machine.slice/libpod-conmon-{id}.scope"),
            &format!("/kubepods.slice/crio-conmon-{id}.scope"),
            &format!("/docker-{}.scope", "ü".repeat(32)),
        ] {
            assert_eq!(container(path), None, "{path}");
        }
    }
}
