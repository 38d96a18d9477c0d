//! Reads strings of a guest's kernel through vmi-rs: `strings TARGET ROOT ADDRESS…` prints, for each address, where its page tables
//! put it and what stands there. ROOT is the kernel's page-table root (`page_table_root` of a snapshot), or `cr3` to take that of the
//! first vCPU.
#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;
use vmi_core::arch::Registers;
use vmi_core::driver::VmiQueryRegisters;
use vmi_core::{Pa, Va, VcpuId, VmiCore};
use vmi_rs_adapter::Driver;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, root, addresses @ ..] = arguments.as_slice() else {
        return Err("strings TARGET ROOT ADDRESS…".into());
    };
    let vmi = VmiCore::new(Driver::open(target)?)?;
    let root = match root.as_str() {
        "cr3" => vmi.driver().registers(VcpuId(0))?.translation_root(Va(0)),
        root => Pa(number(root)?),
    };
    for address in addresses {
        let address = Va(number(address)?);
        let physical = vmi.translate_address((address, root))?;
        println!("{:#x} {:#x} {}", address.0, physical.0, vmi.read_string((address, root))?.trim_end());
    }
    Ok(())
}

fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
}
