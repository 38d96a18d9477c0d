//! Takes the truth: reads `/proc` and `/sys` of the guest into the types that the tests compare with.

use crate::init::{Result, context};
use crate::{diag, proc_bpf, proc_net, proc_pid, system};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::sync::OnceLock;
use testkit::truth::{KernelTruth, Module, PhysicalRange, Truth};

/// Symbols of which tests want to know the address.
const SYMBOLS: [&str; 14] = [
    "_stext",
    "_text",
    "_etext",
    "init_task",
    "init_net",
    "init_pid_ns",
    "init_uts_ns",
    "init_top_pgt",
    "linux_banner",
    "modules",
    "net_namespace_list",
    "tcp_hashinfo",
    "__start_BTF",
    "__stop_BTF",
];

/// Everything, now.
pub(crate) fn truth() -> Result<Truth> {
    let symbols = symbols()?;
    let (processes, owners) = proc_pid::read_all()?;
    let mut sockets = Vec::new();
    let mut tables = Vec::new();
    let mut seen = Vec::new();
    for process in &processes {
        if let Some(namespace) = process.namespaces.net
            && !seen.contains(&namespace)
        {
            let first = sockets.len();
            let read =
                proc_net::read(process.pid, namespace, &owners, &mut sockets, &mut tables).and_then(|()| {
                    diag::extend(process.pid, namespace, &owners, &mut sockets, first, &mut tables)
                });
            match read {
                Ok(()) => seen.push(namespace),
                // It ended while it was asked (a guest of 96 MiB kills for memory): another of its namespace answers.
                Err(_) if fs::read_link(format!("/proc/{}/ns/net", process.pid)).is_err() => {
                    sockets.truncate(first);
                }
                Err(error) => return Err(error),
            }
        }
    }
    let kernel = kernel(symbols)?;
    let programs = proc_bpf::read_all(&processes)?;
    let modules = modules(&text("/proc/modules")?)?;
    Ok(Truth { kernel, processes, sockets, tables, modules, programs })
}

fn text(path: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&context(fs::read(path), path)?).into_owned())
}

fn kernel(symbols: BTreeMap<String, u64>) -> Result<KernelTruth> {
    let line = |path: &str| text(path).map(|text| text.trim_end().to_owned());
    let memory = text("/proc/meminfo")?;
    let memory_total_kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or("/proc/meminfo has no MemTotal")?;
    let la57 = text("/proc/cpuinfo")?
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| line.split_whitespace().any(|flag| flag == "la57"));
    let stat = text("/proc/stat")?;
    let counter = |name: &str| -> Result<u64> {
        stat.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .ok_or_else(|| format!("/proc/stat has no {name}"))
    };
    let load = text("/proc/loadavg")?;
    let (threads, last_pid) = load_counts(&load).ok_or_else(|| format!("/proc/loadavg is {load:?}"))?;
    Ok(KernelTruth {
        boot_time: counter("btime ")?,
        forks: counter("processes ")?,
        threads,
        last_pid,
        release: line("/proc/sys/kernel/osrelease")?,
        version: line("/proc/sys/kernel/version")?,
        banner: line("/proc/version")?,
        boot_id: line("/proc/sys/kernel/random/boot_id")?,
        build_id: fs::read("/sys/kernel/notes").ok().and_then(|notes| build_id(&notes)),
        command_line: line("/proc/cmdline")?,
        memory_total_kib,
        system_ram: system_ram(&text("/proc/iomem")?),
        page_table_levels: if la57 { 5 } else { 4 },
        boot_clock_ns: system::boot_clock_ns(),
        symbols,
    })
}

/// The numbers of threads and of the last pid in a line such as `0.20 0.18 0.12 1/80 11206`.
fn load_counts(line: &str) -> Option<(u64, u32)> {
    let mut words = line.split_whitespace().skip(3);
    let (_running, threads) = words.next()?.split_once('/')?;
    Some((threads.parse().ok()?, words.next()?.parse().ok()?))
}

/// The GNU build id among ELF notes: name size, descriptor size, type (3), name `GNU\0`, descriptor; each padded to 4.
fn build_id(mut notes: &[u8]) -> Option<String> {
    let word = |bytes: &[u8], at: usize| -> Option<usize> {
        usize::try_from(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?)).ok()
    };
    loop {
        let (name, descriptor, kind) = (word(notes, 0)?, word(notes, 4)?, word(notes, 8)?);
        let start = 12 + name.next_multiple_of(4);
        let content = notes.get(start..start.checked_add(descriptor)?)?;
        if kind == 3 && notes.get(12..16) == Some(b"GNU\0") {
            return Some(content.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        notes = notes.get(start + descriptor.next_multiple_of(4)..)?;
    }
}

/// Lines such as `00100000-1ffdffff : System RAM`; what is inside of one is indented.
fn system_ram(iomem: &str) -> Vec<PhysicalRange> {
    let range = |line: &str| {
        let (range, name) = line.split_once(" : ")?;
        let (start, end) = range.split_once('-')?;
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        (name == "System RAM").then_some(PhysicalRange { start: hex(start)?, end: hex(end)? })
    };
    iomem.lines().filter_map(range).collect()
}

/// Reading them all takes long on an emulated CPU, and they do not change: done once.
fn symbols() -> Result<BTreeMap<String, u64>> {
    static SYMBOLS_FOUND: OnceLock<BTreeMap<String, u64>> = OnceLock::new();
    if let Some(symbols) = SYMBOLS_FOUND.get() {
        return Ok(symbols.clone());
    }
    let path = "/proc/kallsyms";
    let mut symbols = BTreeMap::new();
    let mut reader = BufReader::with_capacity(1 << 16, context(File::open(path), path)?);
    let mut line = String::new();
    while symbols.len() < SYMBOLS.len() && context(reader.read_line(&mut line), path)? > 0 {
        let mut words = line.split_whitespace();
        // Address, type, name, and for a symbol of a module its name; the kernel's own come first.
        if let (Some(address), Some(_), Some(name), None) =
            (words.next(), words.next(), words.next(), words.next())
            && SYMBOLS.contains(&name)
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            symbols.entry(name.to_owned()).or_insert(address);
        }
        line.clear();
    }
    Ok(SYMBOLS_FOUND.get_or_init(|| symbols).clone())
}

/// Lines such as `virtio_net 73728 0 - Live 0xffffffffc0a4e000`.
fn modules(text: &str) -> Result<Vec<Module>> {
    let module = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, size, references) = (words.next()?, words.next()?, words.next()?);
        let (_users, state, address) = (words.next()?, words.next()?, words.next()?);
        Some(Module {
            name: name.to_owned(),
            size: size.parse().ok()?,
            references: references.parse().ok(),
            state: state.to_owned(),
            address: u64::from_str_radix(address.strip_prefix("0x")?, 16).ok()?,
        })
    };
    text.lines()
        .map(|line| module(line).ok_or_else(|| format!("Not a line of /proc/modules: {line}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{build_id, load_counts, modules, system_ram};
    use testkit::truth::PhysicalRange;

    #[test]
    fn the_build_id_is_found_after_other_notes() {
        let mut notes = Vec::new();
        for (name, kind, content) in
            [(&b"Linux\0\0\0"[..], 1_u32, &[9_u8, 9, 9, 9][..]), (b"GNU\0", 3, &[0xab, 0xcd])]
        {
            let size = if kind == 1 { 6_u32 } else { 4 };
            notes.extend_from_slice(&size.to_ne_bytes());
            notes.extend_from_slice(&u32::try_from(content.len()).unwrap().to_ne_bytes());
            notes.extend_from_slice(&kind.to_ne_bytes());
            notes.extend_from_slice(name);
            notes.extend_from_slice(content);
        }
        assert_eq!(build_id(&notes).as_deref(), Some("abcd"));
        assert_eq!(build_id(&notes[..20]), None);
        assert_eq!(build_id(&[]), None);
    }

    #[test]
    fn the_counts_in_a_line_of_loadavg_are_found() {
        assert_eq!(load_counts("0.20 0.18 0.12 1/80 11206\n"), Some((80, 11206)));
        assert_eq!(load_counts("0.20 0.18"), None);
    }

    #[test]
    fn only_top_level_system_ram_counts() {
        let iomem = "00001000-0009fbff : System RAM\n000a0000-000bffff : PCI Bus 0000:00\n00100000-1ffdffff : System RAM\n  \
                     01000000-01ffffff : Kernel code\n";
        let expected = [
            PhysicalRange { start: 0x1000, end: 0x9fbff },
            PhysicalRange { start: 0x10_0000, end: 0x1ffd_ffff },
        ];
        assert_eq!(system_ram(iomem), expected);
    }

    #[test]
    fn a_modules_line_is_read_and_a_broken_one_refused() {
        let read =
            modules("failover 16384 1 net_failover, Live 0xffffffffc0000000\nx 1 - - Loading 0x1\n").unwrap();
        assert_eq!((read[0].name.as_str(), read[0].size, read[0].references), ("failover", 16384, Some(1)));
        assert_eq!((read[1].references, read[1].state.as_str()), (None, "Loading"));
        assert!(modules("failover 16384\n").is_err());
    }
}
