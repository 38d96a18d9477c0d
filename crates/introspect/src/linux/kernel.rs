//! A kernel that was found: where its page tables are, its profile, and the offsets all walkers use.

use super::locate::Found;
use super::{cgroup, cred, file, layout::Resolver, list, mm, module, namespace, net, path, task};
use crate::Error;
use crate::session::Session;
use facts::{Address, ProfileOrigin, ProfileSource};
use guest_profiles::Profile;
use vmi_core::{AddressSpace, Budget, Gpa, GuestMemory, Gva, Levels, Look};

/// Symbols at or above this move with KASLR; those below are per-CPU offsets.
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Size of ``struct new_utsname``'s fields, NUL included (``__NEW_UTS_LEN`` + 1).
const UTS_FIELD: usize = 65;

/// What a kernel says about itself once and for all.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) release: String,
    pub(super) banner: Option<String>,
    pub(super) build_id: Option<String>,
    pub(super) btf_digest: Option<String>,
}

/// Offsets of all walkers.
#[derive(Clone, Debug)]
pub(crate) struct Layouts {
    pub(crate) task: task::Layout,
    pub(crate) cred: cred::Layout,
    pub(crate) namespace: namespace::Layout,
    pub(crate) cgroup: cgroup::Layout,
    pub(crate) mm: mm::Layout,
    pub(crate) path: path::Layout,
    pub(crate) file: file::Layout,
    pub(crate) net: net::Layout,
    pub(crate) module: module::Layout,
}

/// A located kernel with its profile. Good for one boot of one guest; see [`Kernel::is_current`].
#[derive(Clone, Debug)]
pub struct Kernel {
    root: Gpa,
    levels: Levels,
    slide: u64,
    vmcoreinfo_at: Gpa,
    identity: Identity,
    profile: Profile,
    digest: String,
    layouts: Layouts,
}

impl Kernel {
    pub(super) fn new(found: Found, profile: Profile, slide: u64, identity: Identity) -> Result<Self, Error> {
        let mut resolver = Resolver::new(&profile);
        list::check(&mut resolver);
        let layouts = Layouts {
            task: task::Layout::resolve(&mut resolver),
            cred: cred::Layout::resolve(&mut resolver),
            namespace: namespace::Layout::resolve(&mut resolver),
            cgroup: cgroup::Layout::resolve(&mut resolver),
            mm: mm::Layout::resolve(&mut resolver),
            path: path::Layout::resolve(&mut resolver),
            file: file::Layout::resolve(&mut resolver),
            net: net::Layout::resolve(&mut resolver),
            module: module::Layout::resolve(&mut resolver),
        };
        for symbol in ["init_task", "modules", "net_namespace_list", "socket_file_ops"] {
            if profile.optional_symbol(symbol).is_none() {
                resolver.lacks(format!("symbol {symbol}"));
            }
        }
        let missing = resolver.into_missing();
        if !missing.is_empty() {
            return Err(Error::Unsupported { release: identity.release, missing });
        }
        let digest = profile.digest();
        Ok(Self {
            root: found.root,
            levels: found.levels,
            slide,
            vmcoreinfo_at: found.vmcoreinfo_at,
            identity,
            profile,
            digest,
            layouts,
        })
    }

    /// Release, as `uname -r` prints it.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.identity.release
    }

    /// Physical address of the kernel's own top-level page table.
    #[must_use]
    pub fn root(&self) -> Gpa {
        self.root
    }

    /// Depth of its page tables.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.levels
    }

    /// The profile that was read from the guest.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Where a symbol is in this boot. `None` when the kernel has no such symbol.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<Gva> {
        let linked = self.profile.optional_symbol(name)?;
        Some(Gva(if linked >= START_KERNEL_MAP { linked.wrapping_add(self.slide) } else { linked }))
    }

    pub(crate) fn layouts(&self) -> &Layouts {
        &self.layouts
    }

    /// Whether `memory` still holds this boot of this kernel: a few reads instead of a search. `Ok(false)` after a reboot
    /// or a kexec; `Err` when the VM is gone.
    pub fn is_current(&self, memory: &dyn GuestMemory) -> Result<bool, Error> {
        let look = Look::begin(memory, Budget::default())?;
        let space = AddressSpace::new(&look, self.root, self.levels);
        let same_text = |at: Option<Gva>, expected: &str| {
            at.and_then(|at| space.c_string(at, expected.len().saturating_add(1)).ok())
                .is_some_and(|text| String::from_utf8_lossy(&text).trim_end() == expected)
        };
        let vmcoreinfo = self
            .symbol("vmcoreinfo_data")
            .and_then(|pointer| space.pointer(pointer).ok())
            .and_then(|page| space.translate(page).ok());
        Ok(vmcoreinfo.is_some_and(|page| page.at == self.vmcoreinfo_at)
            && self
                .identity
                .banner
                .as_deref()
                .is_some_and(|banner| same_text(self.symbol("linux_banner"), banner)))
    }

    /// The kernel as facts: what was learnt once, and what may change (boot id, version) read now.
    pub(crate) fn facts(&self, session: &Session<'_>) -> facts::Kernel {
        facts::Kernel {
            release: self.identity.release.clone(),
            version: self.uts_version(session),
            banner: self.identity.banner.clone(),
            build_id: self.identity.build_id.clone(),
            btf_digest: self.identity.btf_digest.clone(),
            arch: "x86_64".to_owned(),
            page_table_levels: self.levels.count(),
            kaslr_offset: Address(self.slide),
            page_table_root: Address(self.root.0),
            boot_id: self.boot_id(session),
            profile: ProfileOrigin { source: ProfileSource::Guest, digest: self.digest.clone() },
        }
    }

    fn uts_version(&self, session: &Session<'_>) -> Option<String> {
        let at = self.symbol("init_uts_ns")?.checked_add(self.layouts.namespace.uts_version)?;
        let text = session.space.c_string(at, UTS_FIELD).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned()).filter(|text| !text.is_empty())
    }

    /// ``sysctl_bootid`` (drivers/char/random.c): 16 bytes, zero until somebody reads the file the first time, printed
    /// in the order they stand.
    fn boot_id(&self, session: &Session<'_>) -> Option<String> {
        let mut id = [0; 16];
        session.space.read(self.symbol("sysctl_bootid")?, &mut id).ok()?;
        if id == [0; 16] {
            return None;
        }
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        Some([part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-"))
    }
}
