//! Boots a host of the lab with a guest of its own and runs what standard input says in it, one shell script per line:
//! `cargo run -p testkit --example host -- kvm`, or `xen` with the kinds of guests to start (`xen pvh pv hvm`). `birthmark` and
//! `birthmarkd` are on its path.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use anyhow::Result;
use std::io::BufRead;
use std::time::Instant;
use testkit::host::{DomainKind, Host, InnerBacking, KvmHost, XenHost};

const UUID: &str = "7b0e7b5e-0000-4000-8000-00000000000";

fn main() -> Result<()> {
    let start = Instant::now();
    if std::env::args().nth(1).as_deref() == Some("xen") {
        let host = XenHost::boot()?;
        eprintln!("the host is up after {:?}", start.elapsed());
        for (number, name) in (2..).zip(std::env::args().skip(2)) {
            let kind = match name.as_str() {
                "pv" => DomainKind::Pv,
                "hvm" => DomainKind::Hvm,
                _ => DomainKind::Pvh,
            };
            host.wait([&host.start_domain(&name, &format!("{UUID}{number}"), kind, Some(number))?])?;
            eprintln!("{name} is up after {:?}", start.elapsed());
        }
        serve(&host)
    } else {
        let host = KvmHost::boot(0)?;
        eprintln!("the host is up after {:?}", start.elapsed());
        let guest = host.start_qemu("web", &format!("{UUID}1"), InnerBacking::Memfd, Some("tap-web"))?;
        host.wait([&guest])?;
        eprintln!("its guest is up after {:?}", start.elapsed());
        serve(&host)
    }
}

fn serve(host: &Host) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let start = Instant::now();
        let output = host.run(&line?)?;
        print!("{}{}", output.stdout, output.stderr);
        eprintln!("[{:?} after {:?}]", output.status, start.elapsed());
    }
    Ok(())
}
