//! What a test needs of the machine it runs on, and what happens without it.
//!
//! On a laptop a test that lacks something says so on stderr and passes at once. With `BIRTHMARK_TESTS=all`, as
//! `cargo xtask test` and CI set it, nothing is skipped: what is missing is a failure.

use crate::{Kernel, debian, host, kernels, lab, python};
use std::path::Path;

/// Something a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To be root (namespaces, other users' processes).
    Root,
    /// A program on the `PATH`.
    Program(&'static str),
    /// All it takes to boot a guest of this kernel.
    Guest(Kernel),
    /// All it takes to boot a full Debian ([`crate::debian`]).
    Debian,
    /// All it takes to make network namespaces and taps.
    Network,
    /// All it takes to boot a host with a real KVM, emulated.
    KvmHost,
    /// A stock Volatility 3 ([`crate::volatility`]).
    Volatility,
    /// Python with independent implementations of what we sign and write ([`crate::python`]).
    Python,
    /// All it takes to boot a host under a real Xen, emulated.
    XenHost,
}

/// Whether all needs are met. If not: says on stderr what is missing and returns false, or panics if
/// `BIRTHMARK_TESTS=all` is set.
#[must_use = "a test whose needs are not met must return"]
pub fn require(needs: &[Need]) -> bool {
    let all = all_tests();
    let missing: Vec<String> = needs.iter().filter_map(|need| need.missing(all)).collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join("; ");
    assert!(!all, "BIRTHMARK_TESTS=all is set, but this test cannot run: {missing}");
    skipped(&missing);
    false
}

/// Says on stderr that a test, or a part of one, was not run, and why.
#[expect(clippy::print_stderr, reason = "a skipped test must say so; this crate is for tests only")]
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// Whether every test must run, whatever it takes.
fn all_tests() -> bool {
    std::env::var_os("BIRTHMARK_TESTS").is_some_and(|value| value == "all")
}

impl Need {
    /// What is missing, if anything. A kernel may still be downloaded when all tests must run.
    fn missing(self, may_download: bool) -> Option<String> {
        match self {
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "it must be run by root".to_owned()),
            Self::Program(name) => (!lab::installed(name)).then(|| format!("{name} is not installed")),
            Self::Guest(kernel) => Self::Program("qemu-system-x86_64")
                .missing(may_download)
                .or_else(|| Self::Program("busybox").missing(may_download))
                .or_else(|| {
                    (!may_download && kernels::cached(kernel).is_none()).then(|| {
                        format!(
                            "the kernel {} is not in {} (`cargo xtask test` fetches it)",
                            kernel.name,
                            lab::directory().display()
                        )
                    })
                }),
            Self::Volatility => Self::Program("python3").missing(may_download).or_else(|| {
                (!may_download && python::cached_volatility().is_none())
                    .then(|| "there is no Volatility in the lab (`cargo xtask test` installs it)".to_owned())
            }),
            Self::Python => Self::Program("python3").missing(may_download).or_else(|| {
                (!may_download && python::cached().is_none()).then(|| {
                    "there is no Python environment in the lab (`cargo xtask test` makes it)".to_owned()
                })
            }),
            Self::Debian => debian_missing(may_download),
            Self::KvmHost => host_missing("KVM", host::kvm_is_cached, may_download),
            Self::XenHost => host_missing("Xen", host::xen_is_cached, may_download),
            Self::Network => Self::Root
                .missing(may_download)
                .or_else(|| Self::Program("ip").missing(may_download))
                .or_else(|| {
                    (!Path::new("/dev/net/tun").exists()).then(|| "there is no /dev/net/tun".to_owned())
                }),
        }
    }
}

fn debian_missing(may_download: bool) -> Option<String> {
    let missing = Need::Program("qemu-system-x86_64")
        .missing(may_download)
        .or_else(|| Need::Program("busybox").missing(may_download));
    if missing.is_some() || debian::is_cached() {
        return missing;
    }
    if !may_download {
        let cache = lab::directory();
        return Some(format!(
            "the disk of a Debian guest is not in {} (`cargo xtask test` makes it)",
            cache.display()
        ));
    }
    Need::Root
        .missing(may_download)
        .or_else(|| Need::Program("mmdebstrap").missing(may_download))
        .or_else(|| Need::Program("mke2fs").missing(may_download))
}

fn host_missing(of: &str, is_cached: fn() -> bool, may_download: bool) -> Option<String> {
    let cache = || {
        (!may_download && !is_cached()).then(|| {
            let cache = lab::directory();
            format!(
                "the packages of a host with {of} are not in {} (`cargo xtask test` fetches them)",
                cache.display()
            )
        })
    };
    Need::Guest(Kernel::V6_1)
        .missing(may_download)
        .or_else(|| Need::Program("lz4").missing(may_download))
        .or_else(|| Need::Program("strip").missing(may_download))
        .or_else(cache)
}

#[cfg(test)]
mod tests {
    use super::Need;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(Need::Program("sh").missing(false), None);
        let missing = Need::Program("no-such-program").missing(false).unwrap();
        assert!(missing.contains("no-such-program"), "{missing}");
    }
}
