//! `snapshot`, `modules`: what can be seen in a guest. `ps` and `sockets` have files of their own.
//!
//! Only the tables asked for are read. A table that is not fully known is printed with a note that says so on standard
//! error; one that is empty because it could not be read is an error with its reason (invariant 3).

use super::{ps, sockets, words};
use crate::Outcome;
use crate::args::TargetArg;
use crate::guest::Guest;
use crate::output::{self, Cell, Output, Paint, Table};
use anyhow::bail;
use facts::{Module, Problem, Snapshot};
use hypervisor::Target;
use introspect::Tables;

/// Most problems that are told one by one.
const PROBLEMS_TOLD: usize = 10;

pub(super) const NOTHING: Tables = Tables { processes: false, sockets: false, modules: false, ebpf: false };

/// What `ps` reads.
pub(super) const PROCESSES: Tables = Tables { processes: true, ..NOTHING };

pub(crate) fn modules(args: &TargetArg, out: &mut Output) -> anyhow::Result<Outcome> {
    let snapshot = look(args, Tables { modules: true, ..NOTHING })?;
    if out.json {
        out.json(&snapshot.modules)?;
    } else {
        out.table(&module_table(&snapshot.modules))?;
    }
    tell(&args.target, &snapshot, attest::Table::Modules, snapshot.modules.len())
}

pub(crate) fn snapshot(args: &TargetArg, out: &mut Output) -> anyhow::Result<Outcome> {
    let snapshot = look(args, Tables::ALL)?;
    if out.json {
        out.json(&snapshot)?;
    } else {
        summary(&snapshot, out)?;
        let tables = [
            ps::usual_table(&snapshot.processes),
            sockets::table(&snapshot.sockets, &snapshot.processes),
            module_table(&snapshot.modules),
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
    Guest::open(&args.target)?.searching(args.scan).look(tables)
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
            "{} processes, {} sockets, {} modules, {} problems",
            snapshot.processes.len(),
            snapshot.sockets.len(),
            snapshot.modules.len(),
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

fn problem_table(problems: &[Problem]) -> Table {
    let mut table = Table::new(&["PROBLEM", "WHERE", "DETAIL"]);
    for problem in problems {
        let kind = Cell::new(words::serde_name(&problem.kind)).paint(Paint::Yellow);
        table.row([kind, Cell::new(&problem.location), Cell::new(&problem.detail)]);
    }
    table
}
