//! What the benches share: the guests they look at, what a look reads of one, and the table at the end.
//!
//! A time alone says little on a machine that does other things too, so each number stands beside a copy of the same bytes
//! with nothing done to them, taken in the same run. That copy goes through [`vmi_core::GuestMemory`] like the look itself:
//! what is measured is the price of understanding memory, not of reaching it.

pub mod guests;
pub mod kernel_tables;
pub mod peak_memory;
pub mod report;
pub mod traced;
