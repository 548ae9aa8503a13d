//! What a machine has, and whether the compute core counts right on it: what a report of a defect needs.
//!
//! 1. [`machine`]: processor, memory, disk, graphics cards.
//! 2. [`self_test()`]: every kernel that this processor can run, against the portable one and against f64.

pub mod machine;
pub mod self_test;

use serde::Serialize;

pub use machine::Machine;
pub use self_test::{Check, self_test};

/// Everything that is found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this report's layout.
    pub format_version: u32,
    /// Version of treering.
    pub version: String,
    /// Commit it was built from, where the build was told.
    pub commit: Option<String>,
    /// The machine.
    pub machine: Machine,
    /// What the self test compared.
    pub checks: Vec<Check>,
    /// Whether all of it holds.
    pub holds: bool,
    /// Seconds the self test took.
    pub seconds: f64,
}

impl Report {
    /// Looks at the machine and runs the self test. While it runs, nothing else may compute in this process: instruction sets are switched.
    pub fn new() -> Self {
        let machine = Machine::here();
        let start = std::time::Instant::now();
        let checks = self_test();
        Self {
            format_version: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("TREERING_COMMIT").map(Into::into),
            machine,
            holds: checks.iter().all(|check| check.holds),
            checks,
            seconds: start.elapsed().as_secs_f64(),
        }
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}
