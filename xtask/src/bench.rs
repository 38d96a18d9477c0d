//! Every bench: criterion's, on a real guest.

use crate::run::{cargo, step};
use crate::setup;
use anyhow::Result;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::lab()?;
    let mut bench = cargo();
    bench.args(["bench", "--package", "benches"]).args(arguments);
    step(bench.env("BIRTHMARK_TESTS", "all"))
}
