//! A Debian host under a real Xen: Xen 4.17 on an emulated CPU with SVM, Debian's kernel as its first domain, and guests of all
//! three kinds started by `xl` (facts/lab.md 4).

use super::rootfs::{self, Contents};
use super::{CLOUD_KERNEL, Host, Inner};
use crate::guest::{Boot, GuestSpec};
use crate::packages::Packages;
use crate::{Backing, Kernel, Machine, initramfs, lab, packages, vmlinux};
use anyhow::{Context, Result};
use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

const CONTENTS: Contents = Contents {
    packages: Packages {
        name: "xen-host",
        wanted: &[
            "xen-hypervisor-4.17-amd64",
            "xen-utils-4.17",
            "xen-utils-common",
            "xenstore-utils",
            "qemu-system-xen",
            "dash",
            "nftables",
            "iproute2",
            "libgcc-s1",
        ],
    },
    // xenfs needs a symbol of xen-privcmd, and nf_tables an algorithm, that their lists of needs do not name: the order counts.
    modules: &[
        "xen_privcmd",
        "xenfs",
        "xen_evtchn",
        "xen_gntdev",
        "xen_gntalloc",
        "xen_netback",
        "bridge",
        "tun",
        "crc32c_generic",
        "nf_tables",
        "nft_objref",
    ],
    left_out: &["boot", "usr/lib/ipxe", "usr/lib/systemd", "usr/lib/debug"],
    files: &[
        ("etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\n"),
        ("etc/group", 0o644, "root:x:0:\n"),
        ("etc/xen/xl.conf", 0o644, "autoballoon=\"off\"\n"),
        ("etc/xen/vif-lab", 0o755, VIF_SCRIPT),
    ],
};

/// The kernel of the first domain: the cloud flavour cannot be one.
const FIRST_KERNEL: Packages = Packages { name: "first-domain-kernel", wanted: &["linux-image-amd64"] };

/// What `xl` runs for a network card of a guest: with `online` for the device of Xen's, with `add` for the tap of a card that a device model
/// emulates.
const VIF_SCRIPT: &str = "#!/bin/dash\n\
    case \"$1\" in online) device=$vif ;; add) device=$INTERFACE ;; *) exit 0 ;; esac\n\
    ip link set \"$device\" master br0 && ip link set \"$device\" up || exit 1\n\
    [ \"$1\" = add ] || xenstore-write \"$XENBUS_PATH/hotplug-status\" connected\n";

const XEN: &str = "boot/xen-4.17-amd64.gz";
/// `rdtscp` and `smap` off: QEMU 7.2 emulates both in ways that Xen or its first domain do not survive (facts/lab.md 4).
const CPU: &str = "max,-smap,-rdtscp,-la57";
/// A crash ends QEMU, which `noreboot` would prevent.
const XEN_PARAMETERS: &str = "com1=115200,8n1 console=com1 dom0_mem=1280M,max:1280M dom0_max_vcpus=1 loglvl=warning guest_loglvl=warning";
const TOOLS: &str = "/usr/lib/xen-4.17/bin";

/// What a guest inside boots.
const VMLINUX: &str = "lab/vmlinux";
const INITRAMFS: &str = "lab/guest.cpio";
/// What one with an emulated PC boots. The device model hands its BIOS each byte for itself, 3 us on the emulated CPU, so these are the
/// smallest of each kind: the flavour of Debian's kernel that is compressed best, and an archive that is compressed too.
const HVM_VMLINUZ: &str = "lab/hvm-vmlinuz";
const HVM_INITRAMFS: &str = "lab/hvm.cpio.xz";

/// Memory of each guest inside, MiB.
const GUEST_MIB: u64 = 160;

/// How a domain is virtualised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainKind {
    /// Paravirtual: its page tables hold machine frames.
    Pv,
    /// Hardware virtualisation without an emulated PC.
    Pvh,
    /// Hardware virtualisation with an emulated PC around it.
    Hvm,
}

/// A running host under Xen.
#[derive(Debug)]
pub struct XenHost {
    host: Host,
}

impl Deref for XenHost {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

/// Downloads and builds all it takes. For set-up.
pub(crate) fn prepare() -> Result<PathBuf> {
    let (first, guest) = (super::kernel(FIRST_KERNEL)?, super::kernel(CLOUD_KERNEL)?);
    vmlinux::extract(&first)?;
    vmlinux::extract(&guest)?;
    initramfs::build(&guest)?;
    initramfs::build_compressed(&first)?;
    rootfs::build(CONTENTS, &first)
}

/// Whether what has to be downloaded is in the cache.
pub(crate) fn is_cached() -> bool {
    [CONTENTS.packages, FIRST_KERNEL, CLOUD_KERNEL]
        .into_iter()
        .all(|packages| packages::cached(packages).is_some())
}

impl XenHost {
    /// Boots Xen and its first domain with Xen's daemons running and a bridge `br0` (10.79.0.1/24).
    pub fn boot() -> Result<Self> {
        Self::boot_with(&[])
    }

    /// The same with more programs in it: where, and which.
    pub fn boot_with(programs: &[(&str, PathBuf)]) -> Result<Self> {
        let large = prepare()?;
        let (first, guest) = (super::kernel(FIRST_KERNEL)?, super::kernel(CLOUD_KERNEL)?);
        let [birthmark, birthmarkd] = rootfs::programs()?;
        let mut files = vec![
            ("lab/birthmark", birthmark),
            ("lab/birthmarkd", birthmarkd),
            (VMLINUX, vmlinux::extract(&guest)?),
            (INITRAMFS, initramfs::build(&guest)?),
            (HVM_VMLINUZ, first.vmlinuz.clone()),
            (HVM_INITRAMFS, initramfs::build_compressed(&first)?),
        ];
        for (path, program) in programs {
            files.push((*path, rootfs::stripped(program)?));
        }
        let own = rootfs::build_own(&files)?;
        let directory = tempfile::tempdir()?;
        let archive = directory.path().join("host.cpio");
        let mut bytes = fs::read(large)?;
        bytes.extend(own);
        fs::write(&archive, bytes)?;
        let xen = directory.path().join("xen");
        let compressed = packages::unpack(CONTENTS.packages)?.join(XEN);
        fs::write(&xen, lab::run(Command::new("gzip").arg("-dc").arg(compressed))?.stdout)?;
        let mut initrd = vmlinux::extract(&first)?.into_os_string();
        initrd.push(" console=hvc0 quiet panic=-1,");
        initrd.push(&archive);
        let spec = GuestSpec::new(Kernel::V6_1)
            .memory_mib(2560)
            .machine(Machine::I440fx)
            .cpu(CPU)
            .backing(Backing::Anonymous);
        let boot = Boot { kernel: xen, initrd, parameters: Some(XEN_PARAMETERS.to_owned()) };
        let host = Host::boot(spec, &first, &boot, CONTENTS.modules)?;
        host.succeed(&format!(
            "export PATH=$PATH:{TOOLS} && mount -t xenfs xenfs /proc/xen && \
             mkdir -p /run/xenstored /run/xen /var/lock /var/lib/xenstored /var/lib/xen /var/log/xen/console && \
             xenstored --pid-file /run/xenstored.pid && xen-init-dom0 && \
             xenconsoled --log=guest --log-dir=/var/log/xen/console && \
             ip link add br0 type bridge && ip address add 10.79.0.1/24 dev br0 && ip link set br0 up"
        ))?;
        Ok(Self { host })
    }

    /// Starts a domain without waiting for what boots in it. Its network card, if it is given a number for one, is a port of `br0`.
    ///
    /// One with an emulated PC has that card twice: as Xen's (`xen_netfront`), and as one that its device model emulates (`e1000`), with a
    /// tap of its own on the bridge. Linux gives the second up when it finds that it runs on Xen; this one is told not to.
    pub fn start_domain(
        &self,
        name: &str,
        uuid: &str,
        kind: DomainKind,
        card: Option<u8>,
    ) -> Result<Inner<'_>> {
        let (kind, kernel, initramfs, parameter) = match kind {
            DomainKind::Pv => ("pv", VMLINUX, INITRAMFS, ""),
            DomainKind::Pvh => ("pvh", VMLINUX, INITRAMFS, ""),
            DomainKind::Hvm => ("hvm", HVM_VMLINUZ, HVM_INITRAMFS, "xen_emul_unplug=unnecessary "),
        };
        let vif = card.map_or_else(String::new, |number| {
            // Without the ROM that a PC could boot from the network by: the BIOS would spend its time on it.
            format!(
                "vif=[\"mac=52:54:00:00:00:{number:02x},bridge=br0,script=/etc/xen/vif-lab,model=e1000\"]\n\
                 device_model_args_hvm=[\"-global\",\"e1000.romfile=\"]\n"
            )
        });
        let configuration = format!(
            "name=\"{name}\"\nuuid=\"{uuid}\"\ntype=\"{kind}\"\nkernel=\"/{kernel}\"\nramdisk=\"/{initramfs}\"\n\
             extra=\"quiet panic=-1 {parameter}PORT=/dev/hvc0\"\nmemory={GUEST_MIB}\nvcpus=1\non_crash=\"destroy\"\n\
             vga=\"none\"\nvnc=0\n{vif}"
        );
        self.succeed(&format!(
            "printf '%s' '{configuration}' >/run/{name}.cfg && {TOOLS}/xl create /run/{name}.cfg >/run/{name}.log 2>&1 || \
             {{ cat /run/{name}.log; false; }}"
        ))?;
        let domid = self.succeed(&format!("{TOOLS}/xl domid {name}"))?;
        let tty = self.wait_for(&format!("xenstore-read /local/domain/{}/console/tty", domid.trim()))?;
        Ok(self.guest(name, tty.trim()))
    }

    /// Number of a domain.
    pub fn domid(&self, guest: &Inner<'_>) -> Result<u32> {
        let text = self.succeed(&format!("{TOOLS}/xl domid {}", guest.name()))?;
        text.trim().parse().with_context(|| format!("xl says that {} is domain {text}", guest.name()))
    }

    /// Whether Xen's own tools say that a domain is paused.
    pub fn is_paused(&self, guest: &Inner<'_>) -> Result<bool> {
        // Name, number, MiB, vCPUs, state as in `--p---`.
        let line = self.succeed(&format!("{TOOLS}/xl list {} | tail -n 1", guest.name()))?;
        let state = line.split_whitespace().nth(4).with_context(|| format!("xl printed {line}"))?;
        Ok(state.contains('p'))
    }

    /// Pauses a domain, as an operator does.
    pub fn pause(&self, guest: &Inner<'_>) -> Result<()> {
        self.succeed(&format!("{TOOLS}/xl pause {}", guest.name())).map(drop)
    }

    /// Ends a pause of [`Self::pause`].
    pub fn unpause(&self, guest: &Inner<'_>) -> Result<()> {
        self.succeed(&format!("{TOOLS}/xl unpause {}", guest.name())).map(drop)
    }

    /// Has a domain give memory back until it has no more than so much, MiB.
    pub fn balloon(&self, guest: &Inner<'_>, mib: u64) -> Result<()> {
        let name = guest.name();
        self.succeed(&format!("{TOOLS}/xl mem-set {name} {mib}m"))?;
        self.wait_for(&format!("[ \"$({TOOLS}/xl list {name} | awk 'END {{ print $3 }}')\" -le {mib} ]"))
            .map(drop)
    }

    /// Ends a domain at once.
    pub fn destroy(&self, guest: &Inner<'_>) -> Result<()> {
        self.succeed(&format!("{TOOLS}/xl destroy {}", guest.name())).map(drop)
    }

    /// Waits until the agents of these domains answer.
    pub fn wait<'g>(&self, guests: impl IntoIterator<Item = &'g Inner<'g>>) -> Result<()> {
        for guest in guests {
            guest.wait().map_err(|error| {
                let said = self.run(&format!(
                    "{TOOLS}/xl list; tail -n 20 /var/log/xen/console/*{}* /var/log/xen/*.log",
                    guest.name()
                ));
                error.context(format!("{said:?}"))
            })?;
        }
        Ok(())
    }
}
