//! Placeholder until the `grow` helper's file is merged.

/// Arguments of `treering grow`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Placeholder.
pub fn run(_args: Args) -> treering::Result<()> {
    Err(treering::Error::usage("`treering grow` is not merged yet"))
}
