//! Placeholder until the `quickstart` helper's file is merged.

/// Arguments of `treering quickstart`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Placeholder.
pub fn run(_args: Args) -> treering::Result<()> {
    Err(treering::Error::usage("`treering quickstart` is not merged yet"))
}
