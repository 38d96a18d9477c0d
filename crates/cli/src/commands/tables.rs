//! `snapshot`, `modules`, `ebpf`: what can be seen in a guest. `ps` and `sockets` have files of their own.
//!
//! Only the tables asked for are read. A table that is not fully known is printed with a note that says so on standard
//! error; one that is empty because it could not be read is an error with its reason (invariant 3).

use super::{ps, sockets, words};
use crate::Outcome;
use crate::args::TargetArg;
use crate::guest::Guest;
use crate::output::{self, Cell, Output, Paint, Table};
use anyhow::bail;
use facts::{EbpfAttachment, EbpfProgram, EbpfSites, Module, Problem, Snapshot};
use hypervisor::Target;
use introspect::Tables;

/// Most problems that are told one by one.
const PROBLEMS_TOLD: usize = 10;

pub(super) const NOTHING: Tables = Tables { processes: false, sockets: false, modules: false, ebpf: false };

/// What `ps` reads.
pub(super) const PROCESSES: Tables = Tables { processes: true, ..NOTHING };

/// What `ebpf` reads: which sockets a program filters is known of the sockets.
const EBPF: Tables = Tables { sockets: true, ebpf: true, ..NOTHING };

pub(crate) fn modules(args: &TargetArg, out: &mut Output) -> anyhow::Result<Outcome> {
    if out.json {
        let snapshot = look(args, Tables { modules: true, ..NOTHING })?;
        out.json(&snapshot.modules)?;
        return tell(&args.target, &snapshot, attest::Table::Modules, snapshot.modules.len());
    }
    let snapshot = look(args, Tables { modules: true, ..EBPF })?;
    out.table(&module_table(&snapshot.modules))?;
    if let Some(programs) = snapshot.ebpf_programs.as_ref().filter(|programs| !programs.is_empty()) {
        out.line(&[])?;
        out.table(&ebpf_table(programs))?;
    }
    tell(&args.target, &snapshot, attest::Table::Modules, snapshot.modules.len())
}

pub(crate) fn ebpf(args: &TargetArg, out: &mut Output) -> anyhow::Result<Outcome> {
    let snapshot = look(args, EBPF)?;
    let Some(programs) = &snapshot.ebpf_programs else {
        bail!(
            "The eBPF programs of {} are not known: its kernel {} does not say where they are (it has no eBPF, or no \
             CONFIG_KALLSYMS_ALL)",
            args.target,
            snapshot.kernel.release
        );
    };
    if out.json {
        out.json(programs)?;
    } else {
        out.table(&ebpf_table(programs))?;
    }
    tell(&args.target, &snapshot, attest::Table::Ebpf, programs.len())
}

pub(crate) fn snapshot(args: &TargetArg, out: &mut Output) -> anyhow::Result<Outcome> {
    let snapshot = look(args, Tables::ALL)?;
    if out.json {
        out.json(&snapshot)?;
    } else {
        summary(&snapshot, out)?;
        let tables = [
            ps::usual_table(&snapshot.processes),
            sockets::table(&snapshot.sockets, &snapshot.processes, false),
            module_table(&snapshot.modules),
            ebpf_table(snapshot.ebpf_programs.as_deref().unwrap_or_default()),
            problem_table(&snapshot.problems),
        ];
        for table in tables.iter().filter(|table| !table.is_empty()) {
            out.line(&[])?;
            out.table(table)?;
        }
    }
    let sizes = [
        (attest::Table::Processes, snapshot.processes.len()),
        (attest::Table::Sockets, snapshot.sockets.len()),
        (attest::Table::Modules, snapshot.modules.len()),
    ];
    for (table, size) in sizes.into_iter().filter(|(_, size)| *size == 0) {
        tell(&args.target, &snapshot, table, size)?;
    }
    Ok(Outcome::Done)
}

pub(super) fn look(args: &TargetArg, tables: Tables) -> anyhow::Result<Snapshot> {
    Guest::of(args)?.look(tables)
}

/// Says on standard error what makes a table of `size` rows unknown; an error when nothing at all was read.
pub(super) fn tell(
    target: &Target,
    snapshot: &Snapshot,
    table: attest::Table,
    size: usize,
) -> anyhow::Result<Outcome> {
    let blind = attest::blind_tables(snapshot);
    let problems = blind.iter().find(|blind| blind.table == table).map(|blind| blind.problems.as_slice());
    match problems {
        None => {}
        Some([]) => bail!("The {table} of {target} are not known: the table is empty, which it cannot be"),
        Some([first, more @ ..]) if size == 0 => {
            let more =
                if more.is_empty() { String::new() } else { format!(" (and {} more problems)", more.len()) };
            bail!("The {table} of {target} are not known: {}{more}", problem(first));
        }
        Some(problems) => {
            output::note(&format!("{target}: not all {table} could be read, some may be missing above"));
            for one in problems.iter().take(PROBLEMS_TOLD) {
                output::note(&format!("{target}: {}", problem(one)));
            }
            if let Some(more) = problems.len().checked_sub(PROBLEMS_TOLD).filter(|more| *more > 0) {
                output::note(&format!(
                    "{target}: {more} more problems (`birthmark snapshot` lists them all)"
                ));
            }
        }
    }
    Ok(Outcome::Done)
}

fn problem(problem: &Problem) -> String {
    format!("{}: {}", problem.location, problem.detail)
}

fn summary(snapshot: &Snapshot, out: &mut Output) -> anyhow::Result<()> {
    let kernel = &snapshot.kernel;
    out.field("VM", Cell::new(words::vm(&snapshot.vm)).paint(Paint::Bold))?;
    out.field("Id", &snapshot.vm.id)?;
    out.field("Kernel", format!("{} {}", kernel.release, kernel.arch))?;
    out.field("Version", Cell::known(kernel.version.as_ref()))?;
    out.field("Build id", Cell::some(kernel.build_id.as_ref()))?;
    out.field("Boot id", Cell::known(kernel.boot_id.as_ref()))?;
    out.field(
        "Paging",
        format!(
            "{} levels, root {}, KASLR offset {}",
            kernel.page_table_levels, kernel.page_table_root, kernel.kaslr_offset
        ),
    )?;
    let source = words::serde_name(&kernel.profile.source);
    out.field("Profile", format!("{source}, {}", kernel.profile.digest))?;
    let consistency = &snapshot.consistency;
    let (mode, torn) = (words::serde_name(&consistency.mode), consistency.torn);
    let retries = match consistency.retries {
        1 => "1 retry".to_owned(),
        retries => format!("{retries} retries"),
    };
    out.field(
        "Look",
        format!("{}, {} µs, {mode}, {retries}, {torn} torn", snapshot.taken_at, snapshot.elapsed_us),
    )?;
    out.field(
        "Seen",
        format!(
            "{} processes, {} sockets, {} modules, {}, {} problems",
            snapshot.processes.len(),
            snapshot.sockets.len(),
            snapshot.modules.len(),
            match &snapshot.ebpf_programs {
                Some(programs) => words::count(programs.len(), "eBPF program"),
                None => "unknown eBPF programs".to_owned(),
            },
            snapshot.problems.len()
        ),
    )
}

fn module_table(modules: &[Module]) -> Table {
    let mut table = Table::new(&["MODULE", ">SIZE", ">USED", "STATE", "ADDRESS", "VIEWS"]);
    for module in modules {
        table.row([
            Cell::new(&module.name),
            Cell::known(module.size),
            Cell::known(module.references),
            Cell::known(module.state.map(words::module_state)),
            Cell::new(module.module.to_string()),
            Cell::new(module.views.join(",")),
        ]);
    }
    table
}

fn ebpf_table(programs: &[EbpfProgram]) -> Table {
    let mut table = Table::new(&[
        ">ID",
        "TYPE",
        "NAME",
        "TAG",
        "LOADED",
        ">UID",
        "ATTACHED TO",
        "PIDS",
        "ADDRESS",
        "VIEWS",
    ]);
    for program in programs {
        let places: Vec<String> = program.attached_to.iter().map(place).collect();
        let pids: Vec<String> = program.processes.iter().map(u32::to_string).collect();
        table.row([
            Cell::known(program.id),
            Cell::known(program.kind.as_ref()),
            Cell::some(program.name.as_ref()),
            Cell::known(program.tag.as_ref()),
            Cell::known(program.loaded_at.as_ref()),
            Cell::known(program.uid),
            Cell::new(places.join(" ")),
            Cell::new(pids.join(",")),
            Cell::new(program.program.to_string()),
            Cell::new(views(program)),
        ]);
    }
    table
}

/// The views that have a program, and those that should.
fn views(program: &EbpfProgram) -> String {
    match program.views_missing.as_slice() {
        [] => program.views.join(","),
        missing => format!("{} HIDDEN from {}", program.views.join(","), missing.join(" and ")),
    }
}

/// `cgroup:/system.slice/web.service(cgroup_device)`, `kprobe_multi:vfs_read,vfs_write,…(24)`.
pub(super) fn place(place: &EbpfAttachment) -> String {
    let way = place.attach_type.as_ref().map(|way| format!("({way})")).unwrap_or_default();
    let priority = place.priority.map(|priority| format!("({priority})")).unwrap_or_default();
    let mut parts: Vec<String> = place.target.iter().cloned().collect();
    if let Some(EbpfSites { count, first }) = &place.sites {
        let more = usize::try_from(*count).is_ok_and(|count| count > first.len());
        let rest = if more { format!(",…({count})") } else { String::new() };
        parts.push(format!("{}{rest}", first.join(",")));
    }
    if parts.is_empty() {
        parts.push("?".to_owned());
    }
    format!("{}:{}{way}{priority}", place.kind, parts.join("+"))
}

fn problem_table(problems: &[Problem]) -> Table {
    let mut table = Table::new(&["PROBLEM", "WHERE", "DETAIL"]);
    for problem in problems {
        let kind = Cell::new(words::serde_name(&problem.kind)).paint(Paint::Yellow);
        table.row([kind, Cell::new(&problem.location), Cell::new(&problem.detail)]);
    }
    table
}
