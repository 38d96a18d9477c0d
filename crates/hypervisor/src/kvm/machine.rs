//! What QEMU's command line says of the machine: its type, its RAM, the blocks the RAM is made of.
//!
//! A *block* is one run of host memory that QEMU allocates for the guest: the whole RAM by default, or one per
//! `-object memory-backend-…`. How blocks are laid out in the guest is `layout`'s job, where they are in the host process
//! is `locate`'s.

use super::cmdline::{Keys, Options, parse_size};
use crate::Error;

const MIB: u64 = 1 << 20;

/// Machine types with a known layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineKind {
    /// `pc`, `pc-i440fx-*`, `isapc`. `gigabyte_align` is false for versions up to 1.7.
    I440fx {
        /// Whether the split is moved down to 3 GiB.
        gigabyte_align: bool,
    },
    /// `q35`, `pc-q35-*`.
    Q35,
    /// `microvm`.
    Microvm,
}

/// How QEMU allocates a block, which tells what its mapping looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `memory-backend-ram`: anonymous, private or shared.
    Ram,
    /// `memory-backend-memfd`.
    Memfd,
    /// `memory-backend-file` and `memory-backend-shm`, with its path (a file or a folder) where one is given.
    File {
        /// `mem-path`.
        path: Option<String>,
    },
    /// The machine's own RAM without a backend object: anonymous, or a file in `-mem-path`.
    Default,
    /// A block that only the monitor told of: any of the above.
    Told,
}

/// One block of host memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Name of the block: the object's id, or `pc.ram`.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// How it is allocated.
    pub backend: Backend,
}

/// The machine as the command line describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Type as given, `pc` when none is.
    pub name: String,
    /// What that means; `None` when the layout of the type is not known.
    pub kind: Option<MachineKind>,
    /// RAM present from the start, in bytes (without DIMMs and other plugged memory).
    pub ram_size: u64,
    /// RAM and what can be plugged in besides, in bytes (`-m maxmem`); `ram_size` when not given.
    pub max_size: u64,
    /// Slots for plugged memory (`-m slots`).
    pub slots: u64,
    /// Whether memory devices are on the command line, which only the monitor can place.
    pub memory_devices: bool,
    /// `max-ram-below-4g`, 0 when not given.
    pub max_ram_below_4g: u64,
    /// Every block that QEMU allocates, in the order it does so.
    pub blocks: Vec<Block>,
    /// The blocks that make up the RAM, as indices into `blocks`, in guest order.
    pub ram: Vec<usize>,
    /// Why the guest's memory cannot be read, when the machine is a confidential one.
    pub protected: Option<String>,
    /// What the command line says that the rules cannot place, in sentences.
    pub notes: Vec<String>,
}

/// Reads the machine off QEMU's command line. `pid` and `exe` (base name of the executable) are for what it says itself.
pub fn parse(pid: u32, exe: &str, options: &Options) -> Result<Machine, Error> {
    let machine = options.merged(&["machine", "M"], "type");
    let name = machine.get("type").unwrap_or("pc").to_owned();
    let mut blocks = backends(pid, options)?;
    let given_size = ram_size(pid, options)?;
    let default_size = given_size.unwrap_or(128 * MIB);
    let mut notes = notes(options);
    let memory_devices = options
        .values(&["device"])
        .any(|value| Keys::parse(value, "driver").get("driver").is_some_and(is_memory_device));

    let nodes = numa_backends(options);
    let main = machine.get("memory-backend");
    let find = |id: &str, blocks: &[Block]| blocks.iter().position(|block| block.name == id);
    let (ram, ram_size) = if !nodes.is_empty() {
        let mut ram = Vec::new();
        for node in &nodes {
            ram.push(
                find(node, &blocks).ok_or_else(|| bad(pid, "numa", node, "no memory backend has this id"))?,
            );
        }
        let sum = ram
            .iter()
            .filter_map(|&index| blocks.get(index))
            .try_fold(0_u64, |sum, block| sum.checked_add(block.size));
        let sum = sum.ok_or_else(|| {
            bad(pid, "numa", &nodes.join(","), "the sizes of its backends do not fit 64 bits")
        })?;
        (ram, sum)
    } else if let Some(id) = main {
        let index =
            find(id, &blocks).ok_or_else(|| bad(pid, "machine", id, "no memory backend has this id"))?;
        let size = blocks.get(index).map_or(0, |block| block.size);
        (vec![index], size)
    } else {
        // QEMU makes the objects first and its own RAM after them.
        let block_name = if name == "microvm" { "microvm.ram" } else { "pc.ram" };
        blocks.push(Block { name: block_name.to_owned(), size: default_size, backend: Backend::Default });
        (vec![blocks.len().saturating_sub(1)], default_size)
    };
    if let Some(given) = given_size
        && given != ram_size
    {
        notes.push(format!("-m gives {given:#x} bytes, the memory backends of the machine {ram_size:#x}"));
    }
    let max_ram_below_4g = match machine.get("max-ram-below-4g") {
        Some(text) => {
            parse_size(text, 1).ok_or_else(|| bad(pid, "machine", text, "max-ram-below-4g is no size"))?
        }
        None => 0,
    };
    Ok(Machine {
        kind: kind(&name, exe),
        name,
        ram_size,
        max_size: max_size(pid, options)?.unwrap_or(ram_size),
        slots: options.merged(&["m"], "size").get("slots").and_then(|text| text.parse().ok()).unwrap_or(0),
        memory_devices,
        max_ram_below_4g,
        blocks,
        ram,
        protected: protection(&machine),
        notes,
    })
}

fn bad(pid: u32, option: &'static str, value: &str, why: &'static str) -> Error {
    Error::QemuOption { pid, option, value: value.chars().take(200).collect(), why }
}

fn kind(name: &str, exe: &str) -> Option<MachineKind> {
    let x86 = exe.contains("x86_64") || exe.contains("i386") || !exe.starts_with("qemu-system-");
    if !x86 {
        return None;
    }
    match name {
        "microvm" => Some(MachineKind::Microvm),
        "pc" | "isapc" | "ubuntu" => Some(MachineKind::I440fx { gigabyte_align: true }),
        _ if name == "q35" || name.starts_with("pc-q35") || name.ends_with("-q35") => Some(MachineKind::Q35),
        _ if name.starts_with("pc-") => {
            // hw/i386/pc_piix.c: gigabyte_align is off for machines up to 1.7.
            let version = name.trim_start_matches("pc-").trim_start_matches("i440fx-");
            let old = version.starts_with("0.")
                || version
                    .strip_prefix("1.")
                    .is_some_and(|minor| minor.parse::<u32>().is_ok_and(|minor| minor <= 7));
            Some(MachineKind::I440fx { gigabyte_align: !old })
        }
        _ => None,
    }
}

/// `-m 512`, `-m 4G`, `-m size=4G,slots=2,maxmem=8G`. `None` when not given (QEMU: 128 MiB).
fn ram_size(pid: u32, options: &Options) -> Result<Option<u64>, Error> {
    let keys = options.merged(&["m"], "size");
    let Some(text) = keys.get("size") else { return Ok(None) };
    let size = parse_size(text, MIB).filter(|&size| size > 0);
    let size = size.ok_or_else(|| bad(pid, "m", text, "it is no size"))?;
    // softmmu/vl.c: rounded up to 8 KiB.
    let rounded =
        size.checked_next_multiple_of(8192).ok_or_else(|| bad(pid, "m", text, "it is too large"))?;
    Ok(Some(rounded))
}

/// `-m maxmem=8G`.
fn max_size(pid: u32, options: &Options) -> Result<Option<u64>, Error> {
    let keys = options.merged(&["m"], "size");
    let Some(text) = keys.get("maxmem") else { return Ok(None) };
    parse_size(text, 1).map(Some).ok_or_else(|| bad(pid, "m", text, "maxmem is no size"))
}

fn backends(pid: u32, options: &Options) -> Result<Vec<Block>, Error> {
    let mut blocks = Vec::new();
    for value in options.values(&["object"]) {
        let keys = Keys::parse(value, "qom-type");
        let backend = match keys.get("qom-type") {
            Some("memory-backend-ram") => Backend::Ram,
            Some("memory-backend-memfd") => Backend::Memfd,
            Some("memory-backend-file") => {
                Backend::File { path: keys.get("mem-path").map(ToOwned::to_owned) }
            }
            Some("memory-backend-shm") => Backend::File { path: None },
            _ => continue,
        };
        let name = keys.get("id").ok_or_else(|| bad(pid, "object", value, "it has no id"))?;
        let size = keys.get("size").and_then(|text| parse_size(text, 1)).filter(|&size| size > 0);
        let size = size.ok_or_else(|| bad(pid, "object", value, "its size is missing or is none"))?;
        blocks.push(Block { name: name.to_owned(), size, backend });
    }
    Ok(blocks)
}

/// Backends of the NUMA nodes that have one, by node number.
fn numa_backends(options: &Options) -> Vec<String> {
    let mut nodes: Vec<(u64, String)> = Vec::new();
    let mut next = 0_u64;
    for value in options.values(&["numa"]) {
        let keys = Keys::parse(value, "type");
        if keys.get("type") != Some("node") {
            continue;
        }
        let id = keys.get("nodeid").and_then(|text| text.parse().ok()).unwrap_or(next);
        next = next.saturating_add(1);
        if let Some(backend) = keys.get("memdev") {
            nodes.push((id, backend.to_owned()));
        }
    }
    nodes.sort_by_key(|(id, _)| *id);
    nodes.into_iter().map(|(_, backend)| backend).collect()
}

fn protection(machine: &Keys) -> Option<String> {
    ["confidential-guest-support", "memory-encryption"]
        .iter()
        .find_map(|key| machine.get(key).map(|value| format!("-machine {key}={value}")))
}

fn is_memory_device(driver: &str) -> bool {
    matches!(driver, "pc-dimm" | "nvdimm" | "virtio-mem-pci" | "virtio-pmem-pci")
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    for value in options.values(&["device"]) {
        let keys = Keys::parse(value, "driver");
        if let Some(driver) = keys.get("driver").filter(|driver| is_memory_device(driver)) {
            let backend = keys.get("memdev").unwrap_or("?");
            notes.push(format!(
                "Memory device {driver} (backend {backend}) is plugged in; only the monitor can place it"
            ));
        }
    }
    for file in options.values(&["readconfig"]) {
        notes.push(format!("QEMU also read options from {file}, which were not looked at"));
    }
    notes
}

/// Number of virtual CPUs that `-smp` gives: 1 without it, `None` when it cannot be understood (hw/core/machine-smp.c).
#[must_use]
pub fn vcpus(options: &Options) -> Option<u32> {
    let keys = options.merged(&["smp"], "cpus");
    let number = |key: &str| keys.get(key).map(str::parse::<u32>);
    for key in ["cpus", "maxcpus"] {
        match number(key) {
            Some(Ok(count)) if count > 0 => return Some(count),
            Some(Ok(_)) | None => {}
            Some(Err(_)) => return None,
        }
    }
    let levels = ["drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads"];
    levels.iter().try_fold(1_u32, |product, key| match number(key) {
        Some(Ok(count)) => product.checked_mul(count.max(1)),
        Some(Err(_)) => None,
        None => Some(product),
    })
}

/// The name and UUID that the command line gives.
#[must_use]
pub fn identity(options: &Options) -> (Option<String>, Option<String>) {
    let name = options
        .merged(&["name"], "guest")
        .get("guest")
        .filter(|name| !name.is_empty())
        .map(ToOwned::to_owned);
    let uuid = options.values(&["uuid"]).last().map(ToOwned::to_owned).or_else(|| {
        options
            .values(&["smbios"])
            .map(|value| Keys::parse(value, "file"))
            .filter(|keys| keys.get("type") == Some("1"))
            .find_map(|keys| keys.get("uuid").map(ToOwned::to_owned))
    });
    (name, uuid.and_then(|text| normal_uuid(&text)))
}

/// Lower case with hyphens; `None` when it is no UUID.
#[must_use]
pub fn normal_uuid(text: &str) -> Option<String> {
    let digits: String =
        text.chars().filter(|&character| character != '-').collect::<String>().to_ascii_lowercase();
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut at = 0;
    let parts: Option<Vec<&str>> = [8, 4, 4, 4, 12]
        .iter()
        .map(|len| {
            let part = digits.get(at..at + len);
            at += len;
            part
        })
        .collect();
    Some(parts?.join("-"))
}
