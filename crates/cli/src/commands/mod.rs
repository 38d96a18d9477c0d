//! The commands, one file per family. Each gets its arguments and the output, and gives an outcome or an error.

pub(crate) mod audit;
pub(crate) mod certificate;
pub(crate) mod certify;
pub(crate) mod change;
pub(crate) mod daemon;
pub(crate) mod doctor;
mod ether_type;
mod file_name_pattern;
pub(crate) mod keys;
pub(crate) mod list;
pub(crate) mod profile;
pub(crate) mod provision;
pub(crate) mod ps;
mod services;
pub(crate) mod sign;
pub(crate) mod socket_expression;
pub(crate) mod socket_filter;
#[cfg(test)]
mod socket_filter_as_ss;
mod socket_host;
mod socket_table;
pub(crate) mod sockets;
pub(crate) mod tables;
pub(crate) mod watch;
mod words;
