//! Placeholder until the `generate` helper's file is merged.

/// Arguments of `treering generate`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Placeholder.
pub fn run(_args: Args) -> treering::Result<()> {
    Err(treering::Error::usage("`treering generate` is not merged yet"))
}
