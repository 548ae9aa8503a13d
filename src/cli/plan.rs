//! Placeholder until the `plan` helper's file is merged.

/// Arguments of `treering plan`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Placeholder.
pub fn run(_args: Args) -> treering::Result<()> {
    Err(treering::Error::usage("`treering plan` is not merged yet"))
}
