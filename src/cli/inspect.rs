//! Placeholder until the `inspect` helper's file is merged.

/// Arguments of `treering inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Placeholder.
pub fn run(_args: Args) -> treering::Result<()> {
    Err(treering::Error::usage("`treering inspect` is not merged yet"))
}
