//! A Debian host with a real KVM: the emulated CPU has SVM, so the kernel's own `kvm_amd` drives real `qemu -accel kvm`
//! processes there (facts/lab.md 3).

use super::rootfs::{self, Contents};
use super::{CLOUD_KERNEL, Host, Inner};
use crate::guest::{Boot, GuestSpec, PagingLevels};
use crate::packages::Packages;
use crate::{Backing, Kernel, initramfs, packages, vmlinux};
use anyhow::Result;
use std::fs;
use std::ops::Deref;
use std::path::PathBuf;

const CONTENTS: Contents = Contents {
    packages: Packages {
        name: "kvm-host",
        wanted: &[
            "qemu-system-x86",
            "seabios",
            "dash",
            "nftables",
            "iproute2",
            "libvirt-daemon",
            "libvirt-daemon-driver-qemu",
            "libvirt-clients",
        ],
    },
    modules: &["kvm_amd", "tun", "bridge", "nf_tables", "nft_objref"],
    left_out: &["usr/lib/ipxe", "usr/share/qemu/keymaps", "usr/lib/systemd"],
    files: &[
        ("etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\nlibvirt-qemu:x:64055:104::/:/bin/false\n"),
        ("etc/group", 0o644, "root:x:0:\nkvm:x:104:\nlibvirt:x:113:\nlibvirt-qemu:x:64055:\n"),
        ("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\n"),
        ("etc/libvirt/qemu.conf", 0o600, LIBVIRT),
    ],
};

/// libvirtd without systemd, cgroups of its own, or users to run guests as.
const LIBVIRT: &str = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\n\
                       namespaces = []\nremember_owner = 0\nstdio_handler = \"file\"\n";

/// What a guest inside boots.
const VMLINUX: &str = "lab/vmlinux";
const INITRAMFS: &str = "lab/guest.cpio";

const PARAMETERS: &str = "quiet panic=-1 console=ttyS0 PORT=/dev/hvc0";

/// Memory of each guest inside, MiB.
const GUEST_MIB: u64 = 160;

/// A running host with KVM.
#[derive(Debug)]
pub struct KvmHost {
    host: Host,
}

impl Deref for KvmHost {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

/// What the memory of a guest inside is on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InnerBacking {
    /// Private anonymous memory.
    Anonymous,
    /// A memfd, shared.
    Memfd,
    /// A file of 2 MiB pages in a hugetlbfs, shared.
    HugePages,
}

/// Downloads and builds all it takes. For set-up.
pub(crate) fn prepare() -> Result<PathBuf> {
    let kernel = super::kernel(CLOUD_KERNEL)?;
    vmlinux::extract(&kernel)?;
    initramfs::build(&kernel)?;
    rootfs::build(CONTENTS, &kernel)
}

/// Whether what has to be downloaded is in the cache.
pub(crate) fn is_cached() -> bool {
    [CONTENTS.packages, CLOUD_KERNEL].into_iter().all(|packages| packages::cached(packages).is_some())
}

impl KvmHost {
    /// Boots the host, with KVM ready, `huge_guests` guests' worth of huge pages, and a bridge `br0` (10.79.0.1/24).
    pub fn boot(huge_guests: u64) -> Result<Self> {
        Self::boot_with(huge_guests, &[])
    }

    /// The same with more programs in it: where, and which.
    pub fn boot_with(huge_guests: u64, programs: &[(&str, PathBuf)]) -> Result<Self> {
        let large = prepare()?;
        let kernel = super::kernel(CLOUD_KERNEL)?;
        let [birthmark, birthmarkd] = rootfs::programs()?;
        let mut files = vec![
            ("lab/birthmark", birthmark),
            ("lab/birthmarkd", birthmarkd),
            (VMLINUX, vmlinux::extract(&kernel)?),
            (INITRAMFS, initramfs::build(&kernel)?),
        ];
        files.extend_from_slice(programs);
        let own = rootfs::build_own(&files)?;
        let directory = tempfile::tempdir()?;
        let initrd = directory.path().join("host.cpio");
        let mut bytes = fs::read(large)?;
        bytes.extend(own);
        fs::write(&initrd, bytes)?;
        let spec = GuestSpec::new(Kernel::V6_1)
            .memory_mib(2048)
            // All that the emulated CPU can do, SVM with it.
            .levels(PagingLevels::Five)
            .backing(Backing::Anonymous);
        let boot = Boot { kernel: kernel.vmlinuz.clone(), initrd: initrd.into(), parameters: None };
        let host = Host::boot(spec, &kernel, &boot, CONTENTS.modules)?;
        let pages = huge_guests * GUEST_MIB / 2;
        host.succeed(&format!(
            "mkdir -p /dev/hugepages && echo {pages} >/proc/sys/vm/nr_hugepages && \
             mount -t hugetlbfs hugetlbfs /dev/hugepages && \
             ip link add br0 type bridge && ip address add 10.79.0.1/24 dev br0 && ip link set br0 up"
        ))?;
        Ok(Self { host })
    }

    /// Starts `qemu -accel kvm` without waiting for what boots in it. With `tap`, the guest's network card is that tap of
    /// the host, made here as a port of `br0`. QEMU's console for an operator is `/run/NAME.op.in` and `.out`.
    pub fn start_qemu(
        &self,
        name: &str,
        uuid: &str,
        backing: InnerBacking,
        tap: Option<&str>,
    ) -> Result<Inner<'_>> {
        let (object, machine) = match backing {
            InnerBacking::Anonymous => (String::new(), "q35"),
            InnerBacking::Memfd => {
                (format!("-object memory-backend-memfd,id=ram,size={GUEST_MIB}M"), "q35,memory-backend=ram")
            }
            InnerBacking::HugePages => (
                format!(
                    "-object memory-backend-file,id=ram,size={GUEST_MIB}M,mem-path=/dev/hugepages,share=on"
                ),
                "q35,memory-backend=ram",
            ),
        };
        let mut network = String::new();
        if let Some(tap) = tap {
            self.succeed(&format!(
                "ip tuntap add dev {tap} mode tap && ip link set {tap} master br0 && ip link set {tap} up"
            ))?;
            network = format!(
                "-netdev tap,id=net,ifname={tap},script=no,downscript=no \
                 -device virtio-net-pci,netdev=net,mac=52:54:00:00:00:02,romfile="
            );
        }
        let port = format!("/run/{name}.port");
        self.succeed(&format!("mkfifo /run/{name}.op.in /run/{name}.op.out"))?;
        self.host.start(
            name,
            &format!(
                "qemu-system-x86_64 -name guest={name},debug-threads=on -uuid {uuid} -accel kvm -cpu host {object} \
                 -machine {machine} -m {GUEST_MIB} -nodefaults -no-user-config -no-reboot -display none \
                 -chardev socket,id=port,path={port},server=on,wait=off -device virtio-serial-pci \
                 -device virtconsole,chardev=port -serial file:/run/{name}.console \
                 -qmp unix:/run/{name}.qmp,server=on,wait=off \
                 -chardev pipe,id=op,path=/run/{name}.op -mon chardev=op,mode=readline {network} -kernel /{VMLINUX} \
                 -initrd /{INITRAMFS} -append '{PARAMETERS}'"
            ),
        )?;
        Ok(self.guest(name, &port))
    }

    /// Starts libvirtd and has it start a guest, with a network card that is a port of `br0`, in the background: libvirtd first asks QEMU what it can do, which takes the
    /// emulated CPU its time.
    pub fn start_by_libvirt(&self, name: &str, uuid: &str) -> Result<Inner<'_>> {
        let domain = format!(
            "<domain type=\"kvm\"><name>{name}</name><uuid>{uuid}</uuid>\
             <metadata><lab:instance xmlns:lab=\"https://birthmark.dev/lab\"><lab:name>{name}-1</lab:name>\
             <lab:flavor name=\"small\"/></lab:instance></metadata>\
             <title>The {name} guest</title><description>Made by the lab.</description>\
             <memory unit=\"MiB\">{GUEST_MIB}</memory><vcpu>1</vcpu>\
             <os><type arch=\"x86_64\" machine=\"q35\">hvm</type><kernel>/{VMLINUX}</kernel>\
             <initrd>/{INITRAMFS}</initrd><cmdline>{PARAMETERS}</cmdline></os>\
             <features><acpi/></features><cpu mode=\"host-passthrough\" check=\"none\"/>\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
             <serial type=\"file\"><source path=\"/run/{name}.console\"/></serial>\
             <console type=\"unix\"><source mode=\"bind\" path=\"/run/{name}.port\"/>\
             <target type=\"virtio\"/></console>\
             <interface type=\"bridge\"><source bridge=\"br0\"/><mac address=\"52:54:00:00:00:03\"/>\
             <model type=\"virtio\"/><rom enabled=\"no\"/></interface><memballoon model=\"none\"/></devices></domain>"
        );
        self.succeed(&format!("echo '{domain}' >/run/{name}.xml"))?;
        self.host.start("libvirtd", "libvirtd")?;
        self.wait_for("test -S /run/libvirt/libvirt-sock")?;
        self.host.start(name, &format!("virsh -c qemu:///system create /run/{name}.xml"))?;
        Ok(self.guest(name, &format!("/run/{name}.port")))
    }

    /// Waits until the agents of these guests answer.
    pub fn wait<'g>(&self, guests: impl IntoIterator<Item = &'g Inner<'g>>) -> Result<()> {
        for guest in guests {
            guest.wait().map_err(|error| {
                let name = guest.name();
                let said = self.run(&format!("tail -n 20 /run/{name}.log /run/{name}.console"));
                error.context(format!("{said:?}"))
            })?;
        }
        Ok(())
    }
}
