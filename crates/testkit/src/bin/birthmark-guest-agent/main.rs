//! The guest's workload. As pid 1 it sets the guest up and serves the command port, or hands over to the system on a disk, which
//! starts it as a service; every process it starts is (mostly) a copy of this program too, which holds the sockets and does
//! the odd things it was told to.
//!
//! It is static and needs nothing of the guest but a kernel. It runs nowhere else: started on a host, it refuses.
//! `unsafe` is for system calls that have no safe wrapper; each block says why it is sound.
#![allow(unsafe_code)]

mod bpf;
mod btf;
mod confine;
mod diag;
mod disk;
mod hidden_holds;
mod init;
mod io_worker;
mod launch;
mod links;
mod port;
mod proc_bpf;
mod proc_net;
mod proc_pid;
mod programs;
mod socket_storm;
mod sockets;
mod struct_ops;
mod survey;
mod system;
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Ok(order) = std::env::var(launch::VARIABLE) {
        return workload::run(&order);
    }
    if std::process::id() == 1 {
        return init::run();
    }
    if std::env::args().nth(1).as_deref() == Some(init::SERVICE) {
        return init::run_as_service();
    }
    #[expect(clippy::print_stderr, reason = "it is a program, and this its only word to a person")]
    {
        eprintln!("birthmark-guest-agent is the first process of a test guest and runs nowhere else");
    }
    ExitCode::from(2)
}
