//! A kernel that was found: where its page tables are, its profile, and the offsets all walkers use.

use super::image::START_KERNEL_MAP;
use super::module_layout::ModuleLayouts;
use super::{
    activity, bpf, cgroup, cred, file, hint, layout::Resolver, list, mm, module, namespace, net, path, pid,
    sched, signal, slab, task, timekeeping, xarray,
};
use crate::Error;
use crate::session::Session;
use facts::{Address, ProfileOrigin, ProfileSource};
use guest_profiles::{Profile, Stored};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use vmi_core::{AddressSpace, Budget, Gpa, GuestMemory, Gva, Levels, Look};

/// Size of ``struct new_utsname``'s fields, NUL included (``__NEW_UTS_LEN`` + 1).
const UTS_FIELD: usize = 65;

/// What is the same for as long as a kernel runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Boot {
    /// Physical address of the kernel's own top-level page table.
    #[serde(with = "hint::gpa")]
    pub(super) root: Gpa,
    /// Its depth.
    #[serde(with = "hint::levels")]
    pub(super) levels: Levels,
    /// How far KASLR moved the kernel, in bytes.
    pub(super) slide: u64,
    /// `None`: the kernel has none, or it was found without.
    #[serde(with = "hint::optional_gpa")]
    pub(super) vmcoreinfo_at: Option<Gpa>,
    /// As `uname -r` prints it.
    pub(super) release: String,
    /// The line `Linux version …`.
    pub(super) banner: Option<String>,
    /// GNU build id of the notes in memory.
    pub(super) build_id: Option<String>,
    /// Digest of the type information in memory.
    pub(super) btf_digest: Option<String>,
}

/// A stored profile of a guest's build, held against what the guest's memory says.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) stored: Stored,
    /// One sentence for each disagreement.
    pub(super) contradictions: Vec<String>,
}

/// Layouts and symbols, and how far they can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KernelProfile {
    profile: Arc<Profile>,
    origin: ProfileOrigin,
}

impl KernelProfile {
    /// Read out of the guest.
    pub(super) fn of_guest(profile: Profile, held_against: Option<Held>) -> Self {
        Self::new(Arc::new(profile), ProfileSource::Guest, held_against)
    }

    /// The host's.
    pub(super) fn of_store(held: Held) -> Self {
        Self::new(Arc::clone(&held.stored.profile), ProfileSource::Store, Some(held))
    }

    fn new(profile: Arc<Profile>, source: ProfileSource, held: Option<Held>) -> Self {
        let digest = profile.digest();
        let (stored, contradictions) = match held {
            Some(held) => (Some(held.stored.path.display().to_string()), held.contradictions),
            None => (None, Vec::new()),
        };
        Self { profile, origin: ProfileOrigin { source, digest, stored, contradictions } }
    }

    pub(super) fn origin(&self) -> &ProfileOrigin {
        &self.origin
    }
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
    pub(crate) pid: pid::Layout,
    pub(crate) sched: sched::Layout,
    /// `None`: the profile does not tell how memory is described.
    pub(crate) slab: Option<slab::Layout>,
    pub(crate) signal: signal::Layout,
    pub(crate) timekeeping: timekeeping::Layout,
    pub(crate) activity: activity::Layout,
    /// `None`: the trees of this kernel are of another kind.
    pub(crate) xarray: Option<xarray::Layout>,
    /// `None`: the profile does not tell what programs and links look like.
    pub(crate) bpf: Option<bpf::Layout>,
}

/// A located kernel with its profile. Good for one boot of one guest; see [`Kernel::is_current`].
#[derive(Clone, Debug)]
pub struct Kernel {
    pub(super) boot: Boot,
    pub(super) profile: KernelProfile,
    layouts: Layouts,
    modules: ModuleLayouts,
}

impl Kernel {
    pub(super) fn new(boot: Boot, profile: KernelProfile) -> Result<Self, Error> {
        let mut resolver = Resolver::new(&profile.profile);
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
            pid: pid::Layout::resolve(&mut resolver),
            sched: sched::Layout::resolve(&mut resolver),
            slab: slab::Layout::resolve(&resolver),
            signal: signal::Layout::resolve(&mut resolver),
            timekeeping: timekeeping::Layout::resolve(&resolver),
            activity: activity::Layout::resolve(&resolver),
            xarray: xarray::Layout::resolve(&mut resolver),
            bpf: bpf::Layout::resolve(&resolver),
        };
        for symbol in ["init_task", "net_namespace_list"] {
            if profile.profile.optional_symbol(symbol).is_none() {
                resolver.lacks(format!("symbol {symbol}"));
            }
        }
        let missing = resolver.into_missing();
        if !missing.is_empty() {
            return Err(Error::Unsupported { release: boot.release, missing });
        }
        Ok(Self { boot, profile, layouts, modules: ModuleLayouts::default() })
    }

    /// Release, as `uname -r` prints it.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.boot.release
    }

    /// Physical address of the kernel's own top-level page table.
    #[must_use]
    pub fn root(&self) -> Gpa {
        self.boot.root
    }

    /// Depth of its page tables.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.boot.levels
    }

    /// Its layouts and symbols.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile.profile
    }

    /// Where they came from.
    #[must_use]
    pub fn profile_origin(&self) -> &ProfileOrigin {
        self.profile.origin()
    }

    /// The same kernel with its profile as `share` gives it, which must be an equal one: many guests of one kernel then need the
    /// memory of one profile.
    #[must_use]
    pub fn with_shared_profile(mut self, share: impl FnOnce(Arc<Profile>) -> Arc<Profile>) -> Self {
        self.profile.profile = share(self.profile.profile);
        self
    }

    /// Where a symbol is in this boot. `None` when the kernel has no such symbol.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<Gva> {
        let linked = self.profile.profile.optional_symbol(name)?;
        Some(Gva(if linked >= START_KERNEL_MAP { linked.wrapping_add(self.boot.slide) } else { linked }))
    }

    pub(crate) fn layouts(&self) -> &Layouts {
        &self.layouts
    }

    pub(crate) fn modules(&self) -> &ModuleLayouts {
        &self.modules
    }

    /// Whether it is just what would be made of this boot and this stored profile.
    pub(super) fn is_of(&self, boot: &Boot, held: &Held) -> bool {
        self.boot == *boot
            && Arc::ptr_eq(&self.profile.profile, &held.stored.profile)
            && self.profile.origin.stored == Some(held.stored.path.display().to_string())
            && self.profile.origin.contradictions == held.contradictions
    }

    /// Whether two kernels are the same in all that is known of them.
    pub(crate) fn is_the_same(&self, other: &Self) -> bool {
        self.boot == other.boot && self.profile == other.profile
    }

    /// Whether two kernels are the same boot of one guest, whatever their profiles came from.
    #[must_use]
    pub fn is_same_boot(&self, other: &Self) -> bool {
        let place = |boot: &Boot| (boot.root, boot.levels, boot.slide);
        place(&self.boot) == place(&other.boot) && self.boot.banner == other.boot.banner
    }

    /// Whether `memory` still holds this boot of this kernel: a few reads instead of a search. `Ok(false)` after a reboot
    /// or a kexec that wrote over it ([`super::clock::Pulse`] sees those that did not); `Err` when the VM is gone.
    pub fn is_current(&self, memory: &dyn GuestMemory) -> Result<bool, Error> {
        let look = Look::begin(memory, Budget::default())?;
        let space = AddressSpace::new(&look, self.boot.root, self.boot.levels);
        let same_text = |at: Option<Gva>, expected: &str| {
            at.and_then(|at| space.c_string(at, expected.len().saturating_add(1)).ok())
                .is_some_and(|text| String::from_utf8_lossy(&text).trim_end() == expected)
        };
        let leads_to = |at: Option<Gva>, expected: Gpa| {
            at.and_then(|at| space.translate(at).ok()).is_some_and(|found| found.at == expected)
        };
        let same_place = match self.boot.vmcoreinfo_at {
            Some(page) => {
                let pointer = self.symbol("vmcoreinfo_data").and_then(|pointer| space.pointer(pointer).ok());
                leads_to(pointer, page)
            }
            None => leads_to(self.symbol("init_top_pgt"), self.boot.root),
        };
        Ok(same_place
            && self
                .boot
                .banner
                .as_deref()
                .is_some_and(|banner| same_text(self.symbol("linux_banner"), banner)))
    }

    /// The kernel as facts: what was learnt once, and what may change (boot id, version) read now.
    pub(crate) fn facts(&self, session: &Session<'_>) -> facts::Kernel {
        facts::Kernel {
            release: self.boot.release.clone(),
            version: self.uts_version(session),
            banner: self.boot.banner.clone(),
            build_id: self.boot.build_id.clone(),
            btf_digest: self.boot.btf_digest.clone(),
            arch: "x86_64".to_owned(),
            page_table_levels: self.boot.levels.count(),
            kaslr_offset: Address(self.boot.slide),
            page_table_root: Address(self.boot.root.0),
            boot_id: self.boot_id(session),
            booted_at: timekeeping::wall_clock(session.boot_time(), 0),
            profile: self.profile.origin().clone(),
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
