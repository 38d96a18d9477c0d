//! Reads `/proc/PID` of every process.

use crate::init::{Result, context};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use testkit::truth::{Namespaces, Process, Socket, Task};

/// `include/linux/sched.h`
const PF_WQ_WORKER: u32 = 0x20;
const PF_KTHREAD: u32 = 0x0020_0000;

/// Bytes of `task_struct::comm` without its NUL.
const COMM_LENGTH: usize = 15;

/// Descriptors that hold each socket, by inode: pid and number.
pub(crate) type Owners = BTreeMap<u64, BTreeSet<(u32, u32)>>;

/// All processes, ascending by pid, and who holds which socket. A process that ends while it is read is left out.
pub(crate) fn read_all() -> Result<(Vec<Process>, Owners)> {
    let mut pids: Vec<u32> = context(fs::read_dir("/proc"), "/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let mut owners = Owners::new();
    let mut processes = Vec::new();
    for pid in pids {
        let path = format!("/proc/{pid}");
        let process = read(pid, Path::new(&path));
        match process {
            Ok(process) => {
                sockets(pid, Path::new(&path), &mut owners);
                if process.threads > 1 {
                    // A thread may have a table of its own.
                    for thread in fs::read_dir(format!("{path}/task")).into_iter().flatten().flatten() {
                        sockets(pid, &thread.path(), &mut owners);
                    }
                }
                processes.push(process);
            }
            Err(_) if !Path::new(&path).exists() => {}
            Err(error) => return Err(format!("{path}: {error}")),
        }
    }
    Ok((processes, owners))
}

/// Adds the sockets among the descriptors of a process or thread.
fn sockets(pid: u32, path: &Path, owners: &mut Owners) {
    let Ok(entries) = fs::read_dir(path.join("fd")) else { return };
    for entry in entries.flatten() {
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        if let Some(inode) = link.to_str().and_then(|link| number_in_brackets(link, "socket"))
            && let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok())
        {
            owners.entry(inode).or_default().insert((pid, number));
        }
    }
}

/// Says of a socket who holds it.
pub(crate) fn own(socket: &mut Socket, owners: &Owners) {
    let held = socket.inode.and_then(|inode| owners.get(&inode));
    socket.descriptors = held.into_iter().flatten().copied().collect();
    socket.processes = socket.descriptors.iter().map(|(pid, _)| *pid).collect();
    socket.processes.dedup();
}

/// `socket:[123]` → 123
fn number_in_brackets<T: std::str::FromStr>(link: &str, name: &str) -> Option<T> {
    link.strip_prefix(name)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

fn read(pid: u32, path: &Path) -> Result<Process> {
    let file = |name: &str| -> Result<String> {
        Ok(String::from_utf8_lossy(&context(fs::read(path.join(name)), name)?).into_owned())
    };
    let stat = file("stat")?;
    let stat = Stat::parse(&stat).ok_or_else(|| format!("stat is {stat:?}"))?;
    let status = file("status")?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    let numbers = |name: &str| -> Vec<u32> {
        field(name).unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    let four =
        |name: &str| <[u32; 4]>::try_from(numbers(name)).map_err(|_| format!("status has no four of {name}"));
    let proc_comm = file("comm")?;
    let proc_comm = proc_comm.strip_suffix('\n').unwrap_or(&proc_comm).to_owned();
    let namespace = |name: &str| {
        let link = fs::read_link(path.join("ns").join(name)).ok()?;
        number_in_brackets(link.to_str()?, name)
    };
    let mask = |name: &str| {
        field(name)
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .ok_or_else(|| format!("status has no {name}"))
    };
    let one = |name: &str| numbers(name).first().copied().ok_or_else(|| format!("status has no {name}"));
    let threads = one("Threads")?;
    // They have no memory of their own; reading that there is none takes an emulated CPU as long as reading some.
    let kernel_thread = stat.flags & PF_KTHREAD != 0;
    let comm = task_comm(&proc_comm, stat.flags);
    let cgroups = file("cgroup").unwrap_or_default();
    let leader = Task {
        tid: pid,
        comm: comm.clone(),
        state: stat.state,
        flags: stat.flags,
        start_ticks: stat.start_ticks,
    };
    Ok(Process {
        cgroups_v1: cgroups_v1(&cgroups),
        capabilities: [mask("CapInh")?, mask("CapPrm")?, mask("CapBnd")?, mask("CapAmb")?],
        groups: numbers("Groups"),
        no_new_privs: one("NoNewPrivs")? == 1,
        seccomp: one("Seccomp")?,
        process_group: stat.process_group,
        session: stat.session,
        terminal: stat.terminal(),
        terminal_name: stat.terminal().and_then(|(major, minor)| {
            let link = fs::read_link(format!("/sys/dev/char/{major}:{minor}")).ok()?;
            Some(link.file_name()?.to_str()?.to_owned())
        }),
        cpu_ticks: stat.cpu_ticks,
        resident_pages: if kernel_thread {
            0
        } else {
            let second = |text: &str| text.split_whitespace().nth(1)?.parse().ok();
            second(&file("statm")?).ok_or("statm has no second number")?
        },
        environment: if kernel_thread {
            Vec::new()
        } else {
            arguments(&fs::read(path.join("environ")).unwrap_or_default())
        },
        tasks: if threads > 1 { tasks(path)? } else { vec![leader] },
        pid,
        ppid: stat.ppid,
        comm,
        proc_comm,
        exe: fs::read_link(path.join("exe")).ok().map(|exe| exe.to_string_lossy().into_owned()),
        args: arguments(&context(fs::read(path.join("cmdline")), "cmdline")?),
        state: field("State").and_then(|state| state.chars().next()).ok_or("status has no State")?,
        uids: four("Uid")?,
        gids: four("Gid")?,
        threads,
        capabilities_effective: mask("CapEff")?,
        kernel_thread,
        flags: stat.flags,
        start_ticks: stat.start_ticks,
        namespace_pids: numbers("NSpid"),
        namespaces: Namespaces {
            pid: namespace("pid"),
            net: namespace("net"),
            mnt: namespace("mnt"),
            user: namespace("user"),
            uts: namespace("uts"),
            ipc: namespace("ipc"),
            cgroup: namespace("cgroup"),
        },
        cgroup: cgroups.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned)),
    })
}

/// Lines such as `4:cpu,cpuacct:/a` and `1:name=systemd:/`, sorted.
fn cgroups_v1(text: &str) -> Vec<(String, String)> {
    let mut groups: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .filter(|(hierarchy, _)| !hierarchy.is_empty())
        .map(|(hierarchy, path)| (hierarchy.to_owned(), path.to_owned()))
        .collect();
    groups.sort();
    groups
}

/// All threads of a process.
fn tasks(path: &Path) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for entry in context(fs::read_dir(path.join("task")), "task")?.flatten() {
        let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let read = |name: &str| context(fs::read(entry.path().join(name)), name);
        let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
        let stat = Stat::parse(&stat).ok_or_else(|| format!("stat is {stat:?}"))?;
        let comm = String::from_utf8_lossy(&read("comm")?).into_owned();
        tasks.push(Task {
            tid,
            comm: task_comm(comm.strip_suffix('\n').unwrap_or(&comm), stat.flags),
            state: stat.state,
            flags: stat.flags,
            start_ticks: stat.start_ticks,
        });
    }
    tasks.sort_by_key(|task| task.tid);
    Ok(tasks)
}

/// Fields of `/proc/PID/stat` (proc(5)). The name may contain anything, so fields are counted from its last bracket.
struct Stat {
    state: char,
    ppid: u32,
    process_group: u32,
    session: u32,
    /// As the kernel encodes device numbers for programs; 0 for none.
    tty: u32,
    flags: u32,
    cpu_ticks: u64,
    start_ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The first of these is field 3.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let number = |at: usize| field(at)?.parse::<u64>().ok();
        Some(Self {
            state: field(3)?.chars().next()?,
            ppid: field(4)?.parse().ok()?,
            process_group: field(5)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            tty: field(7)?.parse::<i32>().ok()?.cast_unsigned(),
            flags: field(9)?.parse().ok()?,
            cpu_ticks: number(14)? + number(15)?,
            start_ticks: number(22)?,
        })
    }

    /// proc(5), `tty_nr`: the minor number is in bits 31 to 20 and 7 to 0, the major one in bits 15 to 8 (new_encode_dev()).
    fn terminal(&self) -> Option<(u32, u32)> {
        let numbers = ((self.tty >> 8) & 0xfff, (self.tty & 0xff) | ((self.tty >> 12) & 0xf_ff00));
        (self.tty != 0).then_some(numbers)
    }
}

/// Split at NUL after removal of one final NUL.
fn arguments(cmdline: &[u8]) -> Vec<String> {
    if cmdline.is_empty() {
        return Vec::new();
    }
    let cmdline = cmdline.strip_suffix(b"\0").unwrap_or(cmdline);
    cmdline.split(|&byte| byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

/// What `task_struct::comm` holds, given what `/proc/PID/comm` prints: for a worker of a work queue that adds `-` or `+` and
/// a description, and for a kernel thread it prints the whole name where `comm` has 15 bytes of it.
fn task_comm(printed: &str, flags: u32) -> String {
    let mut name = printed;
    if flags & PF_WQ_WORKER != 0
        && let Some(rest) = printed.strip_prefix("kworker/")
    {
        // A rescuer is `kworker/R-QUEUE` (6.10 and later); the name of its queue may have a `-` too.
        let fixed = "kworker/".len() + if rest.starts_with("R-") { "R-".len() } else { 0 };
        let marks: &[char] = if rest.starts_with("R-") { &['+'] } else { &['-', '+'] };
        name = printed[fixed..].find(marks).map_or(printed, |at| &printed[..fixed + at]);
    }
    if flags & PF_KTHREAD != 0 && name.len() > COMM_LENGTH {
        return String::from_utf8_lossy(&name.as_bytes()[..COMM_LENGTH]).into_owned();
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::{PF_KTHREAD, PF_WQ_WORKER, Stat, arguments, cgroups_v1, number_in_brackets, task_comm};

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields_of_stat() {
        let text = "7 (a) b) S 1 8 9 34816 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.ppid, stat.flags, stat.start_ticks), ('S', 1, 4_194_560, 4711));
        assert_eq!((stat.process_group, stat.session, stat.cpu_ticks), (8, 9, 11));
        assert_eq!(stat.terminal(), Some((136, 0)));
        assert!(Stat::parse("7 (a) S 1").is_none());
    }

    #[test]
    fn hierarchies_of_version_1_are_told_from_the_unified_one() {
        let text = "5:cpu,cpuacct:/a:b\n1:name=lab:/x\n0::/y\n";
        let group = |hierarchy: &str, path: &str| (hierarchy.to_owned(), path.to_owned());
        assert_eq!(cgroups_v1(text), [group("cpu,cpuacct", "/a:b"), group("name=lab", "/x")]);
    }

    #[test]
    fn arguments_keep_empty_ones() {
        assert_eq!(arguments(b""), [""; 0]);
        assert_eq!(arguments(b"a\0\0b c\0"), ["a", "", "b c"]);
        assert_eq!(arguments(b"title\0\0\0"), ["title", "", ""]);
        assert_eq!(arguments(b"unended"), ["unended"]);
    }

    #[test]
    fn what_proc_adds_to_the_name_of_a_kernel_thread_is_taken_off() {
        let worker = PF_KTHREAD | PF_WQ_WORKER;
        assert_eq!(task_comm("kworker/0:1-events", worker), "kworker/0:1");
        assert_eq!(task_comm("kworker/u4:0+flush-1:0", worker), "kworker/u4:0");
        assert_eq!(task_comm("kworker/0:0H", worker), "kworker/0:0H");
        assert_eq!(task_comm("kworker/R-inet-frag", worker), "kworker/R-inet-");
        assert_eq!(task_comm("mld-x", worker), "mld-x");
        assert_eq!(task_comm("rcu_tasks_kthread_x", PF_KTHREAD), "rcu_tasks_kthre");
        assert_eq!(task_comm("kworker/0:1-x", 0), "kworker/0:1-x");
    }

    #[test]
    fn links_of_sockets_and_namespaces_are_told_apart() {
        assert_eq!(number_in_brackets("socket:[42]", "socket"), Some(42_u64));
        assert_eq!(number_in_brackets::<u64>("pipe:[42]", "socket"), None);
        assert_eq!(number_in_brackets::<u64>("socket:[]", "socket"), None);
    }
}
