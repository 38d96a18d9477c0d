//! What to do about an error, where its own message does not say so already.

use attest::Refusal;
use hypervisor::Error as Hypervisor;
use introspect::Error as Introspect;

/// Advice for an operator; `None` when the message says all there is to say.
pub(crate) fn advice(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<Hypervisor>() {
            return hypervisor(error);
        }
        if let Some(error) = cause.downcast_ref::<Introspect>() {
            return introspect(error);
        }
        cause.downcast_ref::<Refusal>().and_then(refusal)
    })
}

fn hypervisor(error: &Hypervisor) -> Option<&'static str> {
    let root = nix::unistd::geteuid().is_root();
    Some(match error {
        Hypervisor::NoSuchVm { .. } | Hypervisor::NotAVmm { .. } | Hypervisor::ProcessGone { .. } => {
            "`birthmark list` shows the VMs of this host"
        }
        Hypervisor::ImageFormat { .. } | Hypervisor::ImageTruncated { .. } => {
            "take the image again, as an ELF core, LiME or raw"
        }
        Hypervisor::MonitorSilent { .. } | Hypervisor::SharedTooShort { .. } => {
            "`birthmark doctor` says what this host can do"
        }
        // These two say it themselves.
        Hypervisor::Permission { .. } | Hypervisor::SharedUnopenable { .. } => return None,
        // Where the kernel hides another user's process, what is missing looks like something else.
        Hypervisor::UnknownMachine { .. }
        | Hypervisor::UnknownVmm { .. }
        | Hypervisor::RamNotFound { .. }
            if !root =>
        {
            "or it is hidden from you: run as root"
        }
        _ => return None,
    })
}

fn introspect(error: &Introspect) -> Option<&'static str> {
    Some(match error {
        Introspect::Memory(vmi_core::MemoryError::Gone { .. }) => {
            "`birthmark list` shows the VMs of this host"
        }
        Introspect::NoKernel { .. } => "if this is a VM that boots, try again in a moment",
        _ => return None,
    })
}

fn refusal(refusal: &Refusal) -> Option<&'static str> {
    Some(match refusal {
        Refusal::NoTrustedKey => "give one with --trusted-key, or put it into /etc/birthmark/trusted-keys",
        Refusal::UntrustedKey { .. } => "give the signer's public key with --trusted-key if you trust it",
        Refusal::NotYetValid { .. } => "if that time is past, this host's clock is behind: see `timedatectl`",
        Refusal::TooFewSigners { .. } => "`birthmark sign` adds a signature",
        Refusal::KeyExpired { .. } | Refusal::KeyRevoked { .. } | Refusal::CertificateRevoked { .. } => {
            "have its newest certificate signed with a key that is trusted now"
        }
        Refusal::Expired { .. } | Refusal::RolledBack { .. } => {
            "use its newest certificate, or make one with `birthmark certify`"
        }
        _ => return None,
    })
}
