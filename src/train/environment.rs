//! Where a run was made: enough to explain a difference in numbers or speed later.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metrics::unix_time;
use crate::ops::isa::Isa;

/// One start of a run, as `environment.json` lists them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of treering.
    pub version: String,
    /// Commit it was built from, where the build was told (`TREERING_COMMIT`).
    pub commit: Option<String>,
    /// The processor's name, where the system tells.
    pub cpu: Option<String>,
    /// Instructions in use.
    pub isa: String,
    /// Threads of the compute core.
    pub threads: usize,
    /// Operating system and architecture.
    pub system: String,
    /// The commits that `hf://` names stood for, by the names as they were asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hub: BTreeMap<String, String>,
    /// Steps that were done when it started.
    pub from_step: u64,
    /// When it started, in seconds since 1970.
    pub unix_time: f64,
}

impl Environment {
    /// This process, about to go on from `from_step`.
    pub fn current(from_step: u64) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("TREERING_COMMIT").map(Into::into),
            cpu: cpu_name(),
            isa: format!("{:?}", Isa::current()).to_lowercase(),
            threads: rayon::current_num_threads(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            hub: crate::hub::resolved(),
            from_step,
            unix_time: unix_time(),
        }
    }
}

/// The most memory this process has held so far; `None` where the system does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The processor's name, where the system tells.
pub fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_string())
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_in_bytes() {
        // A test process holds more than a mebibyte, and less than the machine has.
        let peak = super::peak_memory_bytes().unwrap();
        assert!((1 << 20..1 << 40).contains(&peak), "{peak}");
    }
}
