//! Boots a host of the lab with guests of its own and runs what standard input says in it, one shell script per line:
//! `cargo run -p testkit --example host`. `birthmark` and `birthmarkd` are on its path.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use anyhow::Result;
use std::io::BufRead;
use std::time::Instant;
use testkit::host::{InnerBacking, KvmHost};

fn main() -> Result<()> {
    let start = Instant::now();
    let host = KvmHost::boot(1)?;
    eprintln!("the host is up after {:?}", start.elapsed());
    let guest =
        host.start_qemu("web", "7b0e7b5e-0000-4000-8000-000000000001", InnerBacking::Memfd, Some("tap-web"))?;
    host.wait([&guest])?;
    eprintln!("its guest is up after {:?}", start.elapsed());
    for line in std::io::stdin().lock().lines() {
        let start = Instant::now();
        let output = host.run(&line?)?;
        print!("{}{}", output.stdout, output.stderr);
        eprintln!("[{:?} after {:?}]", output.status, start.elapsed());
    }
    Ok(())
}
