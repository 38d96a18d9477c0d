//! Symbols that a kernel without ``CONFIG_KALLSYMS_ALL`` does not list: its symbol table has functions and a few section
//! markers, and no data.
//!
//! One anchor is enough. ``init_task`` is known by what it says of itself (`swapper`, pid 0, its own parent), and from it
//! pointers lead to everything else: to the first network namespace and so to the list of all, to a netlink socket of the
//! kernel's and so to the list of protocols and their tables. What no pointer leads to is found in the image by what points
//! *from* it: the head of the module list is where a module's list says that it is.
//!
//! Everything found is proved by a second path before it is a symbol, and must be the only thing that is. What cannot be found
//! (the module list of a kernel that has no module loaded) is left out: the walkers then say that they do not know. A
//! symbol found here is where the full symbol table of the same kernel has it; a test holds one against the other.

use super::image::{KernelImage, START_KERNEL_MAP};
use super::layout::Resolver;
use super::list::BACK;
use super::symbols::{BANNER, BANNER_MAX, Symbols};
use crate::Error;
use guest_profiles::Profile;
use memchr::memmem;
use std::ops::ControlFlow;
use vmi_core::{AddressSpace, Gpa, Gva, Look, PAGE_SIZE, ReadError};

/// The first name that the idle task of the first CPU has: ``INIT_TASK_COMM``, and "/0" of kernels for more than one CPU.
const SWAPPER: &[u8] = b"swapper";
/// ``TASK_COMM_LEN``, include/linux/sched.h.
const COMM: usize = 16;
/// Bytes of ``proto.name`` (include/net/sock.h).
const PROTO_NAME: usize = 32;
/// Protocols by the name in their ``struct proto``, and the symbol of the table that they have their sockets in, where it is
/// not the namespace's.
const PROTOCOL_TABLES: [(&[u8], &str); 5] = [
    (b"TCP", "tcp_hashinfo"),
    (b"UDP", "udp_table"),
    (b"UDP-Lite", "udplite_table"),
    (b"RAW", "raw_v4_hashinfo"),
    (b"RAWv6", "raw_v6_hashinfo"),
];
/// Elements of a list that is walked here. Namespaces and protocols are few.
const RING_MAX: usize = 64 << 10;
/// How often a list is read again that changed while it was read.
const RETRIES: u32 = 8;
/// How often a table is looked for that is not where its bucket says, since it was made larger or smaller meanwhile.
const RESIZES: u32 = 3;
/// Nodes of one chain of a hash table.
const CHAIN_MAX: usize = 4096;
/// ``HASH_MAX_SIZE`` of lib/rhashtable.c, and more: buckets of a netlink table.
const BUCKETS_MAX: u64 = 1 << 22;
/// Where the kernel's half of the address space starts, five levels included.
const KERNEL_HALF: u64 = 0xff00_0000_0000_0000;
/// Entries of a top-level page table, and the first one of the kernel's half.
const ENTRIES: usize = 512;
const FIRST_OF_KERNEL: usize = 256;
/// [`PAGE_SIZE`] as the length of an array.
const PAGE_BYTES: usize = 4096;
/// An entry's flag that it is there, and bits 51..12, where it leads.
const PRESENT: u64 = 1;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Adds what the image alone shows: ``linux_banner``, and ``init_top_pgt``, the kernel's own top-level page table.
pub(super) fn of_image(
    space: &AddressSpace<'_, '_>,
    image: &KernelImage,
    symbols: &mut Symbols,
) -> Result<(), ReadError> {
    let Some(current) = page_table(space.look(), space.root()) else { return Ok(()) };
    // The first one: the log has a copy, and is in the image too, but behind the constants.
    let mut banner = None;
    let mut tables = Vec::new();
    image.visit(space, BANNER_MAX as u64, |at, bytes| {
        for start in memmem::find_iter(bytes, BANNER) {
            if banner.is_none() && is_banner(bytes.get(start..).unwrap_or_default()) {
                banner = at.checked_add(start as u64);
            }
        }
        for (number, page) in bytes.chunks_exact(PAGE_BYTES).enumerate() {
            let last = page.last_chunk().copied().map_or(0, u64::from_le_bytes);
            if let Some(page_at) = at.element(number as u64, PAGE_SIZE)
                && leads_alike(last, current.last().copied().unwrap_or(0))
                && is_the_kernels_root(space, page_at, &current)?
            {
                tables.push(page_at);
            }
        }
        Ok(ControlFlow::<()>::Continue(()))
    })?;
    let table = if let [table] = tables.as_slice() { Some(*table) } else { None };
    for (name, found) in [("linux_banner", banner), ("init_top_pgt", table)] {
        if let Some(at) = found {
            symbols.entry(name.to_owned()).or_insert(at.0);
        }
    }
    Ok(())
}

/// Whether `text` reads like ``linux_banner``. Since 6.1 there is a second banner, of before the last link, whose build has no
/// number (init/version.c).
fn is_banner(text: &[u8]) -> bool {
    let end = text.iter().take(BANNER_MAX).position(|byte| *byte == 0).unwrap_or(0);
    let text = text.get(..end).unwrap_or_default();
    let numbered = |at: usize| text.get(at.saturating_add(2)).is_some_and(u8::is_ascii_digit);
    text.ends_with(b"\n") && memmem::find_iter(text, b" #").any(numbered)
}

/// Whether the page at `at` maps itself to where it is, and the kernel's half as the page table `current` does.
fn is_the_kernels_root(space: &AddressSpace<'_, '_>, at: Gva, current: &[u64]) -> Result<bool, ReadError> {
    let Some(place) = known(space.translate(at))? else { return Ok(false) };
    let own = AddressSpace::brief(space.look(), place.at, space.levels());
    if known(own.translate(at))?.is_none_or(|mapped| mapped.at != place.at) {
        return Ok(false);
    }
    let Some(entries) = page_table(space.look(), place.at) else { return Ok(false) };
    // The last entry is alike in the tables of early boot, which map nothing else. A process may have one that is its own.
    let pairs = || entries.iter().zip(current).take(ENTRIES - 1).skip(FIRST_OF_KERNEL);
    let contradicts =
        |(ours, theirs): (&u64, &u64)| ours & theirs & PRESENT != 0 && !leads_alike(*ours, *theirs);
    Ok(pairs().any(|(ours, theirs)| leads_alike(*ours, *theirs)) && !pairs().any(contradicts))
}

/// Whether both entries are there and lead to the same table.
fn leads_alike(one: u64, other: u64) -> bool {
    one & other & PRESENT != 0 && one & ADDRESS == other & ADDRESS
}

/// The entries of a page table. `None`: it cannot be read, or the look is over, which the next read will say.
fn page_table(look: &Look<'_>, at: Gpa) -> Option<Vec<u64>> {
    let mut page = [0; PAGE_BYTES];
    look.read(at, &mut page).ok()?;
    Some(page.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect())
}

/// Offsets in bytes of what is followed here.
struct Layout {
    comm: u64,
    pid: u64,
    tgid: u64,
    mm: u64,
    real_parent: u64,
    group_leader: u64,
    tasks: u64,
    thread_pid: u64,
    pid_namespace: u64,
    nsproxy: u64,
    uts_ns: u64,
    net_ns: u64,
    net_list: u64,
    rtnl: u64,
    prot: u64,
    proto_node: u64,
    proto_name: u64,
    proto_table: u64,
    netlink_node: u64,
    netlink_table: u64,
    buckets: u64,
    module_list: u64,
    module_self: u64,
}

impl Layout {
    /// `None`: the kernel lacks some of it, and is not supported anyhow.
    fn resolve(profile: &Profile) -> Option<Self> {
        let mut resolver = Resolver::new(profile);
        let mut offset = |name, path| resolver.offset(name, path);
        let layout = Self {
            comm: offset("task_struct", "comm"),
            pid: offset("task_struct", "pid"),
            tgid: offset("task_struct", "tgid"),
            mm: offset("task_struct", "mm"),
            real_parent: offset("task_struct", "real_parent"),
            group_leader: offset("task_struct", "group_leader"),
            tasks: offset("task_struct", "tasks"),
            thread_pid: offset("task_struct", "thread_pid"),
            // ``numbers[0]``: the first one is the namespace that all others are in.
            pid_namespace: offset("pid", "numbers").wrapping_add(offset("upid", "ns")),
            nsproxy: offset("task_struct", "nsproxy"),
            uts_ns: offset("nsproxy", "uts_ns"),
            net_ns: offset("nsproxy", "net_ns"),
            net_list: offset("net", "list"),
            rtnl: offset("net", "rtnl"),
            prot: offset("sock_common", "skc_prot"),
            proto_node: offset("proto", "node"),
            proto_name: offset("proto", "name"),
            proto_table: offset("proto", "h"),
            netlink_node: offset("netlink_sock", "node"),
            netlink_table: offset("netlink_table", "hash.tbl"),
            buckets: offset("bucket_table", "buckets"),
            module_list: offset("module", "list"),
            module_self: offset("module", "mkobj.mod"),
        };
        resolver.into_missing().is_empty().then_some(layout)
    }
}

/// The symbols that types lead to from ``init_task``, at their addresses in the running kernel. `Err(NotYet)` when there is no
/// other task. Empty when there is no ``init_task``.
pub(super) fn of_types(
    space: &AddressSpace<'_, '_>,
    image: &KernelImage,
    profile: &Profile,
) -> Result<Symbols, Error> {
    let read = |source| Error::Read { what: "kernel image", release: profile.release.clone(), source };
    let Some(layout) = Layout::resolve(profile) else { return Ok(Symbols::new()) };
    let anchor = Anchor { space, image, layout };
    let Some(task) = anchor.init_task().map_err(read)? else { return Ok(Symbols::new()) };
    if anchor.pointer(task, anchor.layout.tasks).map_err(read)? == task.checked_add(anchor.layout.tasks) {
        let what = format!("Linux {} has not started its first process", profile.release);
        return Err(Error::NotYet { what });
    }
    let mut symbols = Symbols::new();
    symbols.insert("init_task".to_owned(), task.0);
    anchor.follow(task, &mut symbols).map_err(read)?;
    Ok(symbols)
}

struct Anchor<'a, 'l, 'm> {
    space: &'a AddressSpace<'l, 'm>,
    image: &'a KernelImage,
    layout: Layout,
}

impl Anchor<'_, '_, '_> {
    /// The pointer `offset` bytes into the object at `at`. `None`: it cannot be read.
    fn pointer(&self, at: Gva, offset: u64) -> Result<Option<Gva>, ReadError> {
        match at.checked_add(offset) {
            Some(at) => known(self.space.pointer(at)),
            None => Ok(None),
        }
    }

    /// The same to something that must be in the image.
    fn pointer_to_image(&self, at: Gva, offset: u64) -> Result<Option<Gva>, ReadError> {
        Ok(self.pointer(at, offset)?.filter(|found| self.image.contains(*found)))
    }

    fn init_task(&self) -> Result<Option<Gva>, ReadError> {
        let mut found = Vec::new();
        self.image.visit(self.space, COMM as u64, |at, bytes| {
            for name in memmem::find_iter(bytes, SWAPPER) {
                let task = at.checked_add(name as u64).and_then(|name| name.checked_sub(self.layout.comm));
                if let Some(task) = task.filter(|task| !found.contains(task))
                    && self.is_init_task(task)?
                {
                    found.push(task);
                }
            }
            Ok(ControlFlow::<()>::Continue(()))
        })?;
        Ok(if let [task] = found.as_slice() { Some(*task) } else { None })
    }

    fn is_init_task(&self, task: Gva) -> Result<bool, ReadError> {
        let layout = &self.layout;
        let name = task.checked_add(layout.comm).map(|at| self.space.c_string(at, COMM));
        let name = name.map(known).transpose()?.flatten().unwrap_or_default();
        if name != SWAPPER && name.strip_prefix(SWAPPER) != Some(b"/0") {
            return Ok(false);
        }
        for id in [layout.pid, layout.tgid] {
            let id = task.checked_add(id).map(|at| self.space.u32(at));
            if id.map(known).transpose()?.flatten() != Some(0) {
                return Ok(false);
            }
        }
        Ok(self.pointer(task, layout.mm)? == Some(Gva(0))
            && self.pointer(task, layout.real_parent)? == Some(task)
            && self.pointer(task, layout.group_leader)? == Some(task)
            && self.is_linked(task.checked_add(layout.tasks))?)
    }

    /// Whether both neighbours of a list node point back at it. Read again while they change.
    fn is_linked(&self, node: Option<Gva>) -> Result<bool, ReadError> {
        let Some(node) = node else { return Ok(false) };
        for _ in 0..RETRIES {
            let next = self.pointer(node, 0)?.unwrap_or_default();
            let before = self.pointer(node, BACK)?.unwrap_or_default();
            if self.pointer(next, BACK)? == Some(node) && self.pointer(before, 0)? == Some(node) {
                return Ok(true);
            }
            self.space.forget();
        }
        Ok(false)
    }

    fn follow(&self, task: Gva, symbols: &mut Symbols) -> Result<(), ReadError> {
        let layout = &self.layout;
        let mut add = |name: &str, at: Gva| symbols.insert(name.to_owned(), at.0);
        if let Some(pid) = self.pointer_to_image(task, layout.thread_pid)?
            && let Some(namespace) = self.pointer_to_image(pid, layout.pid_namespace)?
        {
            add("init_pid_ns", namespace);
        }
        let Some(proxy) = self.pointer_to_image(task, layout.nsproxy)? else { return Ok(()) };
        if let Some(namespace) = self.pointer_to_image(proxy, layout.uts_ns)? {
            add("init_uts_ns", namespace);
        }
        let Some(net) = self.pointer_to_image(proxy, layout.net_ns)? else { return Ok(()) };
        add("init_net", net);
        if let Some(head) = self.head_of_list_with(net.checked_add(layout.net_list))? {
            add("net_namespace_list", head);
        }
        let rtnl = self.pointer(net, layout.rtnl)?.filter(|sock| !sock.is_null());
        if let Some(sock) = rtnl {
            for (symbol, table) in self.protocol_tables(sock)? {
                add(symbol, table);
            }
        }
        let node = rtnl.and_then(|sock| sock.checked_add(layout.netlink_node));
        let (mut modules, mut netlink) = (Vec::new(), Vec::new());
        for _ in 0..RESIZES {
            let bucket = node.map(|node| self.bucket_of(node)).transpose()?.flatten();
            (modules, netlink) = self.pointed_from(bucket)?;
            if bucket.is_none() || !netlink.is_empty() {
                break;
            }
            // The table got other buckets between the two.
            self.space.forget();
        }
        if netlink.len() > 1 {
            // Pages of the image that only the start of the kernel needed are anybody's since, stacks among them.
            let exported = self.exported(b"nl_table")?;
            netlink.retain(|at| exported.contains(at));
        }
        for (symbol, found) in [("modules", modules), ("nl_table", netlink)] {
            if let [at] = found.as_slice() {
                add(symbol, *at);
            }
        }
        Ok(())
    }

    /// The head of the list that the element at `node`, which is in the image, is on: the only other element in the image.
    fn head_of_list_with(&self, node: Option<Gva>) -> Result<Option<Gva>, ReadError> {
        let Some(node) = node else { return Ok(None) };
        let elements = self.ring(node)?;
        let mut heads = elements.into_iter().filter(|at| self.image.contains(*at));
        let head = heads.next();
        Ok(head.filter(|_| heads.next().is_none()))
    }

    /// All elements of a circular list but the one at `node`; empty when its links do not agree.
    fn ring(&self, node: Gva) -> Result<Vec<Gva>, ReadError> {
        let mut elements = Vec::new();
        for _ in 0..RETRIES {
            elements.clear();
            let mut at = node;
            while elements.len() < RING_MAX {
                let next = self.pointer(at, 0)?.unwrap_or_default();
                if self.pointer(next, BACK)? != Some(at) {
                    break;
                }
                if next == node {
                    return Ok(elements);
                }
                elements.push(next);
                at = next;
            }
            self.space.forget();
        }
        Ok(Vec::new())
    }

    /// The tables of protocols that have one for all namespaces, from any sock: its ``struct proto`` is on the list of all.
    fn protocol_tables(&self, sock: Gva) -> Result<Vec<(&'static str, Gva)>, ReadError> {
        let layout = &self.layout;
        let mut tables = Vec::new();
        let proto = self.pointer_to_image(sock, layout.prot)?;
        let Some(node) = proto.and_then(|proto| proto.checked_add(layout.proto_node)) else {
            return Ok(tables);
        };
        for node in self.ring(node)? {
            // The head of the list is no ``struct proto``: what stands where its name would be is no protocol's name.
            let Some(proto) = node.checked_sub(layout.proto_node).filter(|proto| self.image.contains(*proto))
            else {
                continue;
            };
            let name = proto.checked_add(layout.proto_name).map(|at| self.space.c_string(at, PROTO_NAME));
            let name = name.map(known).transpose()?.flatten().unwrap_or_default();
            if let Some((_, symbol)) = PROTOCOL_TABLES.iter().find(|(of, _)| *of == name.as_slice())
                && let Some(table) = self.pointer_to_image(proto, layout.proto_table)?
            {
                tables.push((*symbol, table));
            }
        }
        Ok(tables)
    }

    /// The bucket of the ``struct rhash_head`` at `node`: the end of its chain is the bucket's address, with bit 0 set
    /// (``RHT_NULLS_MARKER``, include/linux/rhashtable.h, 5.2 and later).
    fn bucket_of(&self, node: Gva) -> Result<Option<Gva>, ReadError> {
        let mut at = node;
        for _ in 0..CHAIN_MAX {
            match self.pointer(at, 0)? {
                Some(end) if end.0 & 1 == 1 => return Ok(Some(Gva(end.0 & !1))),
                Some(next) if !next.is_null() => at = next,
                _ => break,
            }
        }
        Ok(None)
    }

    /// One pass over the image's pointers: heads of a list of modules, and pointers to an array of netlink tables whose first
    /// one (``NETLINK_ROUTE``) has `bucket`.
    fn pointed_from(&self, bucket: Option<Gva>) -> Result<(Vec<Gva>, Vec<Gva>), ReadError> {
        let (mut modules, mut netlink) = (Vec::new(), Vec::new());
        let image_end = self.image.end();
        self.image.visit(self.space, 0, |at, bytes| {
            for (index, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
                let value = Gva(u64::from_le_bytes(*word));
                if value.0 < KERNEL_HALF || value.0 & 7 != 0 {
                    continue;
                }
                let Some(place) = at.element(index as u64, 8) else { continue };
                if value >= image_end {
                    if self.is_module_list(place, value)? {
                        modules.push(place);
                    }
                } else if value.0 < START_KERNEL_MAP
                    && let Some(bucket) = bucket
                    && self.is_netlink_tables(value, bucket)?
                {
                    netlink.push(place);
                }
            }
            Ok(ControlFlow::<()>::Continue(()))
        })?;
        Ok((modules, netlink))
    }

    /// What the kernel exports to modules as `name`: a ``struct kernel_symbol`` tells how far its value and its name are from the
    /// members that tell it, four bytes each (include/linux/export-internal.h).
    fn exported(&self, name: &[u8]) -> Result<Vec<Gva>, ReadError> {
        let text = [b"\0", name, b"\0"].concat();
        let mut names = Vec::new();
        self.image.visit(self.space, text.len() as u64, |at, bytes| {
            let starts = memmem::find_iter(bytes, &text).filter_map(|start| start.checked_add(1));
            names.extend(starts.filter_map(|start| at.checked_add(start as u64)));
            Ok(ControlFlow::<()>::Continue(()))
        })?;
        let mut places = Vec::new();
        // The value stands before the name, perhaps at the end of what was visited before.
        self.image.visit(self.space, 4, |at, bytes| {
            for (index, pair) in bytes.as_chunks::<4>().0.windows(2).enumerate() {
                let [value, name] = pair else { continue };
                let Some(entry) = at.element(index as u64, 4) else { continue };
                let told = |place: Gva, by: &[u8; 4]| {
                    place.0.checked_add_signed(i64::from(i32::from_le_bytes(*by))).map(Gva)
                };
                let named = entry.checked_add(4).and_then(|place| told(place, name));
                if named.is_some_and(|named| names.contains(&named))
                    && let Some(place) = told(entry, value)
                    && !places.contains(&place)
                {
                    places.push(place);
                }
            }
            Ok(ControlFlow::<()>::Continue(()))
        })?;
        Ok(places)
    }

    /// Whether `first` is the list node of a module whose predecessor is the head at `head`.
    fn is_module_list(&self, head: Gva, first: Gva) -> Result<bool, ReadError> {
        if self.pointer(first, BACK)? != Some(head) {
            return Ok(false);
        }
        let Some(module) = first.checked_sub(self.layout.module_list) else { return Ok(false) };
        // ``module.mkobj.mod`` points at the module that it is in.
        Ok(self.pointer(module, self.layout.module_self)? == Some(module) && self.is_linked(Some(head))?)
    }

    fn is_netlink_tables(&self, tables: Gva, bucket: Gva) -> Result<bool, ReadError> {
        let Some(table) = self.pointer(tables, self.layout.netlink_table)? else { return Ok(false) };
        let distance =
            table.checked_add(self.layout.buckets).and_then(|buckets| bucket.0.checked_sub(buckets.0));
        let near = distance.is_some_and(|distance| distance % 8 == 0 && distance / 8 < BUCKETS_MAX);
        if !near {
            return Ok(false);
        }
        let size = known(self.space.u32(table))?.unwrap_or(0);
        Ok(size.is_power_of_two() && distance.is_some_and(|distance| distance / 8 < u64::from(size)))
    }
}

/// A failed read is nothing found, unless the look is over.
fn known<T>(result: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.ends_the_look() => Err(error),
        Err(_) => Ok(None),
    }
}
