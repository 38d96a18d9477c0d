//! Placeholder until the daemon is there.
pub(crate) fn run() -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
