//! What a guest is to be like, and the QEMU command line that makes it so.

use crate::Kernel;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Name of the command port's pair of FIFOs in the guest's directory, without their endings.
pub(crate) const PORT: &str = "port";

/// Machine type; they place memory above and below 4 GiB differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Machine {
    /// `q35`
    #[default]
    Q35,
    /// `pc`, the i440fx.
    I440fx,
    /// `microvm`, without ACPI and so without a network card: Debian's kernels find virtio-mmio devices by ACPI only.
    Microvm,
}

/// What the guest's memory is on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// A memfd, shared.
    #[default]
    Memfd,
    /// Private anonymous memory, as plain `-m` makes it.
    Anonymous,
    /// This file, shared. Made by QEMU, left behind. Further blocks of memory get its name and their own after it.
    File(PathBuf),
    /// A memfd of huge pages of 2 MiB, which somebody must have set aside ([`crate::HugePages`]).
    HugePages,
}

impl Backing {
    /// The properties of the `-object` that makes a block of memory of this kind.
    pub(crate) fn object(&self, id: &str, mib: u64) -> Vec<(&'static str, String)> {
        let kind = match self {
            Self::Memfd | Self::HugePages => "memory-backend-memfd",
            Self::Anonymous => "memory-backend-ram",
            Self::File(_) => "memory-backend-file",
        };
        let mut properties = vec![("qom-type", kind.to_owned()), ("id", id.to_owned())];
        properties.push(("size", (mib << 20).to_string()));
        if *self != Self::Anonymous {
            properties.push(("share", "on".to_owned()));
        }
        match self {
            Self::HugePages => {
                properties.extend([("hugetlb", "on".to_owned()), ("hugetlbsize", (2_u64 << 20).to_string())]);
            }
            Self::File(path) if id == RAM => properties.push(("mem-path", path.display().to_string())),
            Self::File(path) => properties.push(("mem-path", format!("{}.{id}", path.display()))),
            Self::Memfd | Self::Anonymous => {}
        }
        properties
    }
}

/// Id of the only block of memory.
const RAM: &str = "ram";

/// Page table levels the CPU offers; a kernel uses five where it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PagingLevels {
    /// No LA57.
    #[default]
    Four,
    /// LA57.
    Five,
}

/// A network card on a tap that is already there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Name of the tap.
    pub tap: String,
    /// Network namespace (a name of `ip netns`) the tap is in; QEMU runs inside of it.
    pub namespace: Option<String>,
    /// Hardware address, `52:54:00:…`.
    pub mac: String,
}

/// What QEMU boots.
#[derive(Debug)]
pub(crate) struct Boot {
    /// `-kernel`.
    pub(crate) kernel: PathBuf,
    /// `-initrd`: a file, or several with their parameters where the kernel is a multiboot one.
    pub(crate) initrd: OsString,
    /// `-append` whole, where the kernel is no Linux.
    pub(crate) parameters: Option<String>,
}

/// A guest to boot. The default: 512 MiB in a memfd, q35, one vCPU, 4-level paging, no network.
#[derive(Clone, Debug)]
pub struct GuestSpec {
    pub(crate) kernel: Kernel,
    pub(crate) memory_mib: u64,
    pub(crate) machine: Machine,
    pub(crate) backing: Backing,
    pub(crate) levels: PagingLevels,
    pub(crate) vcpus: u32,
    pub(crate) numa_nodes: u64,
    pub(crate) dimm_slots: bool,
    pub(crate) second_block_mib: Option<u64>,
    pub(crate) name: Option<String>,
    pub(crate) uuid: Option<String>,
    pub(crate) kernel_parameters: Vec<String>,
    pub(crate) nic: Option<Nic>,
    pub(crate) qemu_arguments: Vec<OsString>,
    pub(crate) cpu: Option<&'static str>,
    pub(crate) wide_port: bool,
}

impl GuestSpec {
    /// The default guest of this kernel.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            memory_mib: 512,
            machine: Machine::default(),
            backing: Backing::default(),
            levels: PagingLevels::default(),
            vcpus: 1,
            numa_nodes: 1,
            dimm_slots: false,
            second_block_mib: None,
            name: None,
            uuid: None,
            kernel_parameters: Vec::new(),
            nic: None,
            qemu_arguments: Vec::new(),
            cpu: None,
            wide_port: false,
        }
    }

    /// Memory in MiB. The host only pays for what the guest touches.
    #[must_use]
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Machine type.
    #[must_use]
    pub fn machine(mut self, machine: Machine) -> Self {
        self.machine = machine;
        self
    }

    /// What its memory is on the host.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// Page table levels.
    #[must_use]
    pub fn levels(mut self, levels: PagingLevels) -> Self {
        self.levels = levels;
        self
    }

    /// Number of vCPUs, all emulated by one thread (QEMU 7.2 loses boots of 6.12 otherwise).
    #[must_use]
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// NUMA nodes, each with an equal part of the memory in a block of its own. Not for a microvm.
    #[must_use]
    pub fn numa_nodes(mut self, nodes: u64) -> Self {
        self.numa_nodes = nodes;
        self
    }

    /// Two slots for memory that is plugged in at run time ([`Guest::plug_dimm`](crate::Guest::plug_dimm)). Not for a microvm.
    #[must_use]
    pub fn dimm_slots(mut self) -> Self {
        self.dimm_slots = true;
        self
    }

    /// A shared memory device (`ivshmem-plain`) of so many MiB (a power of 2): memory of the VM that is not its RAM, as a
    /// device passed through has. Not for a microvm.
    #[must_use]
    pub fn second_block_mib(mut self, mib: u64) -> Self {
        self.second_block_mib = Some(mib);
        self
    }

    /// Name of the VM; made unique to this process if left out.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// UUID of the VM; QEMU gives none by itself.
    #[must_use]
    pub fn uuid(mut self, uuid: impl Into<String>) -> Self {
        self.uuid = Some(uuid.into());
        self
    }

    /// One more parameter on the kernel's command line, such as `nokaslr`.
    #[must_use]
    pub fn kernel_parameter(mut self, parameter: impl Into<String>) -> Self {
        self.kernel_parameters.push(parameter.into());
        self
    }

    /// A virtio network card; the guest's driver for it is loaded at boot, the interface (`eth0`) stays down.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nic = Some(nic);
        self
    }

    /// `-cpu` as it is, in place of what `levels` says.
    pub(crate) fn cpu(mut self, cpu: &'static str) -> Self {
        self.cpu = Some(cpu);
        self
    }

    /// A virtio port for the commands in place of the serial one, which takes a trap for each byte: for a guest with much to
    /// say of itself. Not for a microvm; the guest has the port's driver loaded.
    #[must_use]
    pub fn wide_port(mut self) -> Self {
        self.wide_port = true;
        self
    }

    /// One more argument for QEMU, as it is.
    #[must_use]
    pub fn qemu_argument(mut self, argument: impl Into<OsString>) -> Self {
        self.qemu_arguments.push(argument.into());
        self
    }

    /// Modules the guest needs for its devices, in the order to load them.
    pub(crate) fn device_modules(&self) -> &'static [&'static str] {
        if self.nic.is_some() { &["virtio_pci", "virtio_net"] } else { &[] }
    }

    /// QEMU's arguments. All files of the guest are in `directory`.
    pub(crate) fn qemu_command_line(&self, name: &str, boot: &Boot, directory: &Path) -> Vec<OsString> {
        let mut line = CommandLine(Vec::new());
        line.option("-name", format!("guest={name},debug-threads=on"));
        if let Some(uuid) = &self.uuid {
            line.option("-uuid", uuid);
        }
        line.option("-accel", if self.vcpus > 1 { "tcg,thread=single" } else { "tcg" });
        let machine = match self.machine {
            Machine::Q35 => "q35",
            Machine::I440fx => "pc",
            // Emulated, its ACPI leaves Linux 6.1 without a timer interrupt in nearly every boot.
            Machine::Microvm => "microvm,acpi=off,isa-serial=on,pic=on,pit=on,rtc=on",
        };
        self.memory(machine, &mut line);
        let by_levels = if self.levels == PagingLevels::Five { "max" } else { "max,la57=off" };
        line.option("-cpu", self.cpu.unwrap_or(by_levels));
        line.option("-smp", self.vcpus.to_string());
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            line.0.push(flag.into());
        }
        line.option("-display", "none");
        line.option("-qmp", format!("unix:{},server=on,wait=off", directory.join("qmp.sock").display()));
        line.option("-chardev", format!("file,id=console,path={}", directory.join("console.log").display()));
        line.option("-serial", "chardev:console");
        line.option("-chardev", format!("pipe,id=port,path={}", directory.join(PORT).display()));
        if let Some(mib) = self.second_block_mib {
            line.option("-object", format!("memory-backend-memfd,id=second,size={mib}M,share=on"));
            line.option("-device", "ivshmem-plain,memdev=second");
        }
        if self.machine == Machine::Microvm {
            // The machine makes only its first serial port itself.
            line.option("-device", "isa-serial,chardev=port,index=1");
        } else if self.wide_port {
            line.option("-device", "virtio-serial-pci");
            line.option("-device", "virtserialport,chardev=port");
        } else {
            line.option("-serial", "chardev:port");
        }
        if let Some(Nic { tap, mac, .. }) = &self.nic {
            line.option("-netdev", format!("tap,id=net,ifname={tap},script=no,downscript=no"));
            // No option ROM: nothing boots from the network.
            line.option("-device", format!("virtio-net-pci,netdev=net,mac={mac},romfile="));
        }
        line.option("-kernel", &boot.kernel);
        line.option("-initrd", &boot.initrd);
        let mut parameters = vec!["console=ttyS0".to_owned(), "quiet".to_owned(), "panic=-1".to_owned()];
        if self.kernel.name.ends_with("-rt") {
            // Its interrupts are handled in threads. Emulated, one is late now and then, and the kernel then gives up the
            // command port's for good ("nobody cared").
            parameters.push("noirqdebug".to_owned());
        }
        if self.machine == Machine::Microvm {
            // It has no keyboard controller to reset it: a triple fault does.
            parameters.push("reboot=t".to_owned());
        }
        if self.wide_port {
            parameters.push("PORT=/dev/vport0p1".to_owned());
        }
        parameters.extend(self.kernel_parameters.iter().cloned());
        line.option("-append", boot.parameters.clone().unwrap_or_else(|| parameters.join(" ")));
        line.0.extend(self.qemu_arguments.iter().cloned());
        line.0
    }

    /// `-machine`, `-m`, and the blocks that the memory is made of.
    fn memory(&self, machine: &str, line: &mut CommandLine) {
        let memory = self.memory_mib;
        let block = |id: &str, mib: u64| -> String {
            let properties = self.backing.object(id, mib);
            let words = properties.iter().map(|(key, value)| match *key {
                "qom-type" => value.clone(),
                key => format!("{key}={value}"),
            });
            words.collect::<Vec<_>>().join(",")
        };
        if self.numa_nodes > 1 {
            line.option("-machine", machine);
            for node in 0..self.numa_nodes {
                line.option("-object", block(&format!("ram{node}"), memory / self.numa_nodes));
                line.option("-numa", format!("node,nodeid={node},memdev=ram{node}"));
            }
        } else if self.backing == Backing::Anonymous {
            line.option("-machine", machine);
        } else {
            line.option("-object", block(RAM, memory));
            line.option("-machine", format!("{machine},memory-backend={RAM}"));
        }
        let slots =
            if self.dimm_slots { format!(",slots=2,maxmem={}M", memory + 8192) } else { String::new() };
        line.option("-m", format!("{memory}M{slots}"));
    }
}

struct CommandLine(Vec<OsString>);

impl CommandLine {
    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }
}
