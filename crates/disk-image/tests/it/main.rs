//! Images made on the fly, of every kind that is read and of some that are refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

mod hostile;
mod make;
mod refused;
mod rpm;
mod same;
