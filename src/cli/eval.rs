//! Placeholder until the `eval` helper's file is merged.

/// Arguments of `treering eval`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Placeholder.
pub fn run(_args: Args) -> treering::Result<()> {
    Err(treering::Error::usage("`treering eval` is not merged yet"))
}
