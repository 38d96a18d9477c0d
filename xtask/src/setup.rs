//! Makes a fresh Debian 12 with Rust ready: packages and kernels. Does nothing, fast, where all is there.

use crate::run::{command, installed, step};
use anyhow::{Context, Result, bail};
use testkit::{Kernel, kernels};

/// A program, and the Debian package that has it.
type Program = (&'static str, &'static str);

/// What a guest is made and run with.
const OF_GUESTS: &[Program] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("xz", "xz-utils"),
    ("lz4", "lz4"),
    ("strip", "binutils"),
    ("cc", "gcc"),
    ("zstd", "zstd"),
];

/// What tests need beside.
const OF_TESTS: &[Program] = &[
    ("openssl", "openssl"),
    ("python3", "python3"),
    ("pahole", "pahole"),
    ("mkfs.ext4", "e2fsprogs"),
    ("qemu-img", "qemu-utils"),
    ("rpm", "rpm"),
    ("rpmbuild", "rpm"),
    ("packer", "packer"),
    ("mmdebstrap", "mmdebstrap"),
];

/// Files that must be there, and the package that has them.
const FILES: &[(&str, &str)] = &[("/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev")];

/// What the feature `xenctrl` needs to be built.
const OF_XENCTRL: &[(&str, &str)] = &[
    ("/usr/include/xenctrl.h", "libxen-dev"),
    ("/usr/lib/llvm-14/lib/libclang.so.1", "libclang1-14"),
    ("/usr/lib/llvm-14/lib/clang", "libclang-common-14-dev"),
];

/// What the tests' guests need: packages, the kernels of the sample, and what is put into the guests.
pub(crate) fn lab() -> Result<()> {
    with_kernels(&Kernel::SAMPLE)
}

/// What one guest needs and no more: for who waits to see the demo.
pub(crate) fn guest(kernel: Kernel) -> Result<()> {
    packages(missing(OF_GUESTS)?)?;
    prepare(kernel)
}

/// The same as [`lab`] for these kernels.
pub(crate) fn with_kernels(kernels: &[Kernel]) -> Result<()> {
    let mut absent = missing(&[OF_GUESTS, OF_TESTS].concat())?;
    // Debian's Python makes no environment without this package.
    let ensurepip = command("python3").args(["-c", "import ensurepip, venv"]).output();
    if !ensurepip.is_ok_and(|output| output.status.success()) {
        absent.push("python3-venv");
    }
    packages(absent)?;
    testkit::python::prepare().context("The Python environment could not be made ready")?;
    testkit::python::prepare_volatility().context("Volatility could not be made ready")?;
    for &kernel in kernels {
        prepare(kernel)?;
    }
    testkit::prepare_hosts().context("The hosts of the lab could not be made ready")?;
    // Files of many owners, which only root can make; its test says so itself where it cannot be made.
    if nix::unistd::geteuid().is_root() {
        testkit::prepare_debian().context("The disk of a Debian guest could not be made ready")?;
    }
    Ok(())
}

fn prepare(kernel: Kernel) -> Result<()> {
    if kernels::cached(kernel).is_none() {
        eprintln!("fetching kernel {}", kernel.name);
    }
    testkit::prepare(kernel).with_context(|| format!("Kernel {} could not be made ready", kernel.name))?;
    Ok(())
}

/// The packages of those programs, and of what is linked into guests, that are not there.
fn missing(programs: &[Program]) -> Result<Vec<&'static str>> {
    let mut missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !installed(program)).map(|(_, package)| *package).collect();
    missing.extend(
        FILES.iter().filter(|(file, _)| !std::path::Path::new(file).exists()).map(|(_, package)| *package),
    );
    // The package busybox is linked dynamically and of no use in an initramfs.
    let busybox = command("busybox").arg("--help").output();
    if busybox.is_ok() && !static_busybox()? {
        missing.push("busybox-static");
    }
    Ok(missing)
}

/// Makes it possible to build the feature `xenctrl`.
pub(crate) fn xenctrl() -> Result<()> {
    let missing = OF_XENCTRL.iter().filter(|(file, _)| !std::path::Path::new(file).exists());
    packages(missing.map(|(_, package)| *package).collect())
}

/// Installs packages, if there are any to install.
fn packages(mut missing: Vec<&str>) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_unstable();
    missing.dedup();
    let apt = |arguments: &[&str]| {
        let mut apt = if nix::unistd::geteuid().is_root() {
            command("apt-get")
        } else {
            let mut sudo = command("sudo");
            sudo.arg("apt-get");
            sudo
        };
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
            .args(arguments);
        apt
    };
    if !installed("apt-get") {
        bail!(
            "These Debian packages are missing, and there is no apt-get to install them with: {}",
            missing.join(" ")
        );
    }
    step(&mut apt(&["update"]))?;
    let mut install = apt(&["install", "-y", "--no-install-recommends"]);
    step(install.args(&missing))
}

/// Whether `busybox` on the path needs no shared library: it has no program interpreter.
fn static_busybox() -> Result<bool> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join("busybox")).find(|path| path.is_file());
    let Some(found) = found else { return Ok(false) };
    let bytes = std::fs::read(&found).with_context(|| format!("{} could not be read", found.display()))?;
    Ok(!bytes.windows(12).take(4096).any(|window| window == b"/lib64/ld-li"))
}
