//! Placeholder until the `train` helper's file is merged.

/// Arguments of `treering train`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Placeholder.
pub fn run(_args: Args) -> treering::Result<()> {
    Err(treering::Error::usage("`treering train` is not merged yet"))
}
