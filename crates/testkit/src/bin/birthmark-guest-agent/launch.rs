//! Starts processes: fork, put the child where it is to live (namespaces, control group, root, user), run a program, and
//! wait until it says that all it was told to hold is there.

use crate::init::{Result, context};
use crate::{confine, system};
use nix::fcntl::AtFlags;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Gid, Pid, Uid, chroot, execve, execveat, setgroups, setresgid, setresuid, setsid};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testkit::command::{MountSpec, Namespace, Spawn, Spawned};

/// Environment variable that makes this program a workload; its value is the [`Spawn`] in JSON.
pub(crate) const VARIABLE: &str = "BIRTHMARK_WORKLOAD";

/// Descriptor on which a workload says that it is ready.
pub(crate) const READY_FD: i32 = 3;

/// A program that is not ready by then never will be.
const LONGEST_START: Duration = Duration::from_secs(20);

/// What a workload says once: what it holds, or why it cannot.
pub(crate) type Ready = std::result::Result<Holding, String>;

/// What a workload holds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Holding {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) children: Vec<u32>,
}

/// Starts a process as told and returns once it is ready; a process that does not get there is killed.
pub(crate) fn start(spawn: &Spawn) -> Result<Spawned> {
    let root = PathBuf::from(spawn.chroot.as_deref().unwrap_or("/"));
    let host_exe = root.join(spawn.exe.trim_start_matches('/'));
    let memory_file = place_program(spawn, &host_exe)?;
    let (ready, ready_writer) = context(pipe(), "pipe")?;
    let (go, go_writer) = context(pipe(), "pipe")?;

    let pid = context(system::fork_into(clone_flags(spawn)), "clone")?;
    if pid == 0 {
        drop((ready, go_writer));
        child(spawn, memory_file, go, ready_writer);
    }
    drop((ready_writer, go));
    let raw_pid = Pid::from_raw(context(i32::try_from(pid), "Not a pid")?);
    let result = settle(spawn, pid, go_writer, ready).and_then(|holding| {
        if spawn.unlink_exe {
            context(fs::remove_file(&host_exe), &spawn.exe)?;
        }
        if spawn.stopped {
            context(kill(raw_pid, Signal::SIGSTOP), "kill")?;
            context(waitpid(raw_pid, Some(WaitPidFlag::WUNTRACED)), "waitpid")?;
        }
        Ok(holding)
    });
    match result {
        Ok(Holding { addresses, children }) => Ok(Spawned { pid, addresses, children }),
        Err(error) => {
            // It may have ended by itself; either way it is reaped here.
            let _ = kill(raw_pid, Signal::SIGKILL);
            let _ = waitpid(raw_pid, None);
            Err(error)
        }
    }
}

/// Makes sure there is a program to run. Returns a memory file if it is to run from one.
fn place_program(spawn: &Spawn, host_exe: &Path) -> Result<Option<OwnedFd>> {
    let agent = own_program()?;
    if let Some(name) = &spawn.memfd {
        let memory = context(memfd_create(name.as_str(), MFdFlags::MFD_CLOEXEC), "memfd_create")?;
        let mut agent = context(File::open(&agent), "The own program")?;
        let mut file = File::from(memory);
        context(std::io::copy(&mut agent, &mut file), "Cannot fill the memory file")?;
        return Ok(Some(file.into()));
    }
    if let Some(kind) = spawn.mount {
        mount_program(kind, host_exe)?;
    }
    if !host_exe.exists() {
        let name = host_exe.display().to_string();
        if spawn.foreign {
            return Err(format!("There is no {name}"));
        }
        if let Some(parent) = host_exe.parent() {
            context(fs::create_dir_all(parent), &name)?;
        }
        // A copy each would fill a small guest's memory. One that is to be deleted must be a file of its own, or there would
        // still be a link to it; and there are no links to other file systems.
        if spawn.unlink_exe || fs::hard_link(&agent, host_exe).is_err() {
            context(fs::copy(&agent, host_exe), &name)?;
            context(fs::set_permissions(host_exe, fs::Permissions::from_mode(0o755)), &name)?;
        }
    }
    Ok(None)
}

/// `/init`, or where a system on a disk has it.
fn own_program() -> Result<PathBuf> {
    context(std::env::current_exe(), "The own program is not known")
}

/// Puts the program where it is not run from, and mounts that so that it is reached as `host_exe`.
fn mount_program(kind: MountSpec, host_exe: &Path) -> Result<()> {
    let (Some(place), Some(name)) = (host_exe.parent(), host_exe.file_name()) else {
        return Err("A program that is mounted needs a directory".to_owned());
    };
    let layers = Path::new("/run/layers").join(name);
    let layer = |name: &str| -> Result<String> {
        let path = layers.join(name);
        context(fs::create_dir_all(&path), name)?;
        Ok(path.display().to_string())
    };
    let lower = layer("lower")?;
    context(fs::create_dir_all(place), "Cannot make the directory to mount on")?;
    context(fs::copy(own_program()?, Path::new(&lower).join(name)), "Cannot copy the program")?;
    let made = match kind {
        MountSpec::Bind => mount(Some(lower.as_str()), place, None::<&str>, MsFlags::MS_BIND, None::<&str>),
        MountSpec::Overlay => {
            let options = format!("lowerdir={lower},upperdir={},workdir={}", layer("upper")?, layer("work")?);
            mount(Some("overlay"), place, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        }
    };
    context(made, "Cannot mount the program's directory")
}

/// Moves a process to a group of a hierarchy of version 1; `place` is `OPTIONS:/PATH`.
fn enter_cgroup_v1(place: &str, pid: u32) -> Result<()> {
    let (hierarchy, path) = place.split_once(':').ok_or("A group of version 1 is HIERARCHY:/PATH")?;
    let root = Path::new("/run/cgroup").join(hierarchy);
    if !root.exists() {
        context(fs::create_dir_all(&root), place)?;
        let options =
            if hierarchy.starts_with("name=") { format!("none,{hierarchy}") } else { hierarchy.to_owned() };
        let made = mount(Some("cgroup"), &root, Some("cgroup"), MsFlags::empty(), Some(options.as_str()));
        context(made, place)?;
    }
    let group = root.join(path.trim_start_matches('/'));
    context(fs::create_dir_all(&group), place)?;
    context(fs::write(group.join("cgroup.procs"), pid.to_string()), place)
}

/// Control groups are left out: that namespace must be made after its group was entered, or it shows the old one.
fn clone_flags(spawn: &Spawn) -> libc::c_int {
    let flag = |namespace: &Namespace| match namespace {
        Namespace::Pid => libc::CLONE_NEWPID,
        Namespace::Net => libc::CLONE_NEWNET,
        Namespace::Mnt => libc::CLONE_NEWNS,
        Namespace::User => libc::CLONE_NEWUSER,
        Namespace::Uts => libc::CLONE_NEWUTS,
        Namespace::Ipc => libc::CLONE_NEWIPC,
        Namespace::Cgroup => 0,
    };
    spawn.namespaces.iter().map(flag).fold(0, |all, one| all | one)
}

/// The parent's part: what needs its privileges, then the go, then the wait.
fn settle(spawn: &Spawn, pid: u32, mut go: PipeWriter, ready: PipeReader) -> Result<Holding> {
    if spawn.namespaces.contains(&Namespace::User) {
        for map in ["uid_map", "gid_map"] {
            context(fs::write(format!("/proc/{pid}/{map}"), "0 100000 65536"), map)?;
        }
    }
    if let Some(cgroup) = &spawn.cgroup {
        let group = Path::new("/sys/fs/cgroup").join(cgroup.trim_start_matches('/'));
        context(fs::create_dir_all(&group), cgroup)?;
        context(fs::write(group.join("cgroup.procs"), pid.to_string()), cgroup)?;
    }
    if let Some(place) = &spawn.cgroup_v1 {
        enter_cgroup_v1(place, pid)?;
    }
    context(go.write_all(b"g"), "The process ended at once")?;
    let said = read_line(ready)?;
    if said.is_empty() && spawn.foreign {
        // The descriptor was closed by the exec.
        return Ok(Holding { addresses: Vec::new(), children: Vec::new() });
    }
    if said.is_empty() {
        return Err("The process ended before it was ready".to_owned());
    }
    context(serde_json::from_slice::<Ready>(&said), "The process said something else")?
}

fn read_line(mut from: PipeReader) -> Result<Vec<u8>> {
    let deadline = Instant::now() + LONGEST_START;
    let mut said = Vec::new();
    while said.last() != Some(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Err("The process did not become ready in time".to_owned()),
            Ok(_) => {}
            Err(nix::Error::EINTR) => continue,
            Err(error) => return Err(format!("poll: {error}")),
        }
        let mut buffer = [0; 4096];
        match context(from.read(&mut buffer), "Cannot read what the process says")? {
            0 => break,
            count => said.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(said)
}

/// The child's part; ends in the program or in the child's end.
fn child(spawn: &Spawn, memory_file: Option<OwnedFd>, go: PipeReader, mut ready: PipeWriter) -> ! {
    let Err(error) = become_program(spawn, memory_file, go, &ready);
    let said: Ready = Err(error);
    if let Ok(mut line) = serde_json::to_vec(&said) {
        line.push(b'\n');
        // If the parent is gone, nobody is left to tell.
        let _ = ready.write_all(&line);
    }
    // SAFETY: ends this process without running the exit handlers it shares with its parent.
    unsafe { libc::_exit(127) }
}

fn become_program(
    spawn: &Spawn,
    memory_file: Option<OwnedFd>,
    mut go: PipeReader,
    ready: &PipeWriter,
) -> Result<std::convert::Infallible> {
    context(go.read_exact(&mut [0]), "The parent gave up")?;
    let new = |namespace| spawn.namespaces.contains(&namespace);
    if new(Namespace::Cgroup) {
        context(unshare(CloneFlags::CLONE_NEWCGROUP), "unshare")?;
    }
    if new(Namespace::User) {
        context(setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)), "setresgid")?;
        context(setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)), "setresuid")?;
    }
    if new(Namespace::Mnt) {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        context(mount(None::<&str>, "/", None::<&str>, private, None::<&str>), "Cannot make mounts private")?;
        if new(Namespace::Pid) {
            context(
                mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>),
                "Cannot mount /proc",
            )?;
        }
    }
    if new(Namespace::Uts) {
        context(nix::unistd::sethostname("inner"), "sethostname")?;
    }
    if new(Namespace::Net) {
        context(system::loopback_up(), "Cannot bring the loopback up")?;
    }
    context(setsid(), "setsid")?;
    if spawn.terminal {
        confine::take_terminal()?;
    }
    let null = context(OpenOptions::new().read(true).write(true).open("/dev/null"), "/dev/null")?;
    for standard in 0..3 {
        replace_fd(null.as_raw_fd(), standard)?;
    }
    if let Some(root) = &spawn.chroot {
        context(chroot(root.as_str()), root)?;
        context(std::env::set_current_dir("/"), "/")?;
    }
    let groups: Vec<Gid> = spawn.groups.iter().copied().map(Gid::from_raw).collect();
    context(setgroups(&groups), "setgroups")?;
    if let Some(gid) = spawn.gid.map(Gid::from_raw) {
        context(setresgid(gid, gid, gid), "setresgid")?;
    }
    if let Some(uid) = spawn.uid.map(Uid::from_raw) {
        context(setresuid(uid, uid, uid), "setresuid")?;
    }
    context(SigSet::empty().thread_set_mask(), "Cannot unblock signals")?;
    confine::confine(spawn)?;

    let exe = c_string(&spawn.exe)?;
    let args = if spawn.args.is_empty() {
        vec![exe.clone()]
    } else {
        spawn.args.iter().map(|arg| c_string(arg)).collect::<Result<_>>()?
    };
    let mut environment = vec![c_string("PATH=/bin")?];
    for variable in &spawn.environment {
        environment.push(c_string(variable)?);
    }
    if !spawn.foreign {
        let order = context(serde_json::to_string(spawn), "Cannot write the order")?;
        environment.push(c_string(&format!("{VARIABLE}={order}"))?);
        // The copy stays open across the exec; the original, like every other descriptor here, does not.
        replace_fd(ready.as_raw_fd(), READY_FD)?;
    }
    match memory_file {
        Some(file) => context(execveat(file, c"", &args, &environment, AtFlags::AT_EMPTY_PATH), "execveat"),
        None => context(execve(&exe, &args, &environment), &spawn.exe),
    }
}

fn replace_fd(from: i32, to: i32) -> Result<()> {
    // SAFETY: only descriptor numbers are passed. `to` is one of the first four, which nothing in this child uses after.
    context(system::check(unsafe { libc::dup2(from, to) }), "dup2").map(drop)
}

fn c_string(text: &str) -> Result<CString> {
    context(CString::new(text), "Not an argument")
}
