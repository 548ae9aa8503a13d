//! Models by family and by name: whole runs of every family through the command, and `hf://` names against a Hub on this machine.

mod families;
mod hub;
mod server;
#[path = "../train_world/mod.rs"]
mod train_world;

use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
