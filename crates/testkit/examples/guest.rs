//! Boots one guest and talks to its workload: `cargo run -p testkit --example guest -- --kernel 6.1 --memory 512`.
//!
//! With `--debian` it is a full Debian. Prints QEMU's pid and its sockets, then sends each line of stdin (a command in JSON, such as `{"command":"truth"}`) and
//! prints the reply, until the end of stdin. The guest ends with it.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use anyhow::{Context, Result, bail};
use std::io::BufRead;
use testkit::{Backing, Command, Guest, GuestSpec, Kernel, Machine, PagingLevels};

const USAGE: &str = "guest [--kernel 6.1|6.12] [--memory MIB] [--machine q35|pc|microvm] [--backing memfd|anonymous|PATH] \
                     [--levels 4|5] [--vcpus N] [--name NAME] | guest --debian";

fn main() -> Result<()> {
    let guest = if std::env::args().any(|argument| argument == "--debian") {
        testkit::debian::boot()?
    } else {
        Guest::boot(spec()?)?
    };
    println!("pid {}", guest.pid());
    println!("name {}", guest.name());
    println!("qmp {}", guest.qmp_socket().display());
    println!("files {}", guest.directory().display());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Command>(&line) {
            Ok(Command::Poweroff) => return guest.power_off(),
            Ok(command) => match guest.command(&command) {
                Ok(value) => println!("{value}"),
                Err(error) => println!("error: {error:#}"),
            },
            Err(error) => println!("error: not a command: {error}"),
        }
    }
    Ok(())
}

fn spec() -> Result<GuestSpec> {
    let mut spec = GuestSpec::new(Kernel::V6_1);
    let mut arguments = std::env::args().skip(1);
    // The kernel is part of making a spec, so it is looked for first.
    let all: Vec<String> = std::env::args().collect();
    if let Some(at) = all.iter().position(|argument| argument == "--kernel") {
        let name = all.get(at + 1).context(USAGE)?;
        spec = GuestSpec::new(Kernel::named(name).with_context(|| format!("There is no kernel {name}"))?);
    }
    while let Some(option) = arguments.next() {
        let value = arguments.next().context(USAGE)?;
        spec = match option.as_str() {
            "--kernel" => spec,
            "--memory" => spec.memory_mib(value.parse()?),
            "--machine" => spec.machine(match value.as_str() {
                "q35" => Machine::Q35,
                "pc" => Machine::I440fx,
                "microvm" => Machine::Microvm,
                _ => bail!(USAGE),
            }),
            "--backing" => spec.backing(match value.as_str() {
                "memfd" => Backing::Memfd,
                "anonymous" => Backing::Anonymous,
                path => Backing::File(path.into()),
            }),
            "--levels" => spec.levels(if value == "5" { PagingLevels::Five } else { PagingLevels::Four }),
            "--vcpus" => spec.vcpus(value.parse()?),
            "--name" => spec.name(value),
            _ => bail!(USAGE),
        };
    }
    Ok(spec)
}
