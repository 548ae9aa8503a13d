//! What this machine has, as far as the system tells.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::ops::isa::Isa;
use crate::train::environment::cpu_name;

/// A machine. What a system does not tell is `None` or empty.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Operating system and architecture.
    pub system: String,
    /// Version of the kernel.
    pub kernel: Option<String>,
    /// The processor's name.
    pub cpu: Option<String>,
    /// Threads that this process may run at once.
    pub cores: usize,
    /// Threads of the compute core.
    pub threads: usize,
    /// Instruction sets that this processor can run.
    pub instructions: Vec<Isa>,
    /// The one in use.
    pub instructions_in_use: Isa,
    /// Memory of the machine.
    pub memory_bytes: Option<u64>,
    /// Of it, what is free or can be freed.
    pub available_memory_bytes: Option<u64>,
    /// What a control group (a container) allows this process at most, where that is less than all.
    pub memory_limit_bytes: Option<u64>,
    /// Whether large pages are given `always`, when asked for (`madvise`), or `never`.
    pub huge_pages: Option<String>,
    /// Graphics cards. None of them is used: the compute core runs on the processor.
    pub gpus: Vec<String>,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_bytes = meminfo(&memory, "MemTotal:");
        let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
        Self {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_string()),
            cpu: cpu_name(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            instructions: Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect(),
            instructions_in_use: Isa::current(),
            memory_bytes,
            available_memory_bytes: meminfo(&memory, "MemAvailable:"),
            memory_limit_bytes: limit.filter(|&limit| memory_bytes.is_none_or(|all| limit < all)),
            huge_pages: fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok().and_then(|text| chosen(&text)),
            gpus: gpus(Path::new("/proc/driver/nvidia/gpus"), Path::new("/sys/bus/pci/devices")),
        }
    }
}

/// A line of `/proc/meminfo` in bytes.
fn meminfo(text: &str, key: &str) -> Option<u64> {
    let kib: u64 = text.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `madvise` of `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_string())
}

/// Graphics cards by name where their driver tells, else by the numbers of maker and model on the bus.
fn gpus(driver: &Path, bus: &Path) -> Vec<String> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = entries(driver).filter_map(|path| {
        let text = fs::read_to_string(path.join("information")).ok()?;
        Some(text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_string())
    });
    let mut found: Vec<String> = named.collect();
    if found.is_empty() {
        let read =
            |path: &Path, name: &str| fs::read_to_string(path.join(name)).map(|text| text.trim().trim_start_matches("0x").to_string());
        found = entries(bus)
            // Class 03 is a display controller.
            .filter(|path| read(path, "class").is_ok_and(|class| class.starts_with("03")))
            .filter_map(|path| Some(format!("PCI {}:{}", read(&path, "vendor").ok()?, read(&path, "device").ok()?)))
            .collect();
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read() {
        let text = "MemTotal:       24652100 kB\nMemFree: 5 kB\nMemAvailable:   23 kB\n";
        assert_eq!(
            (meminfo(text, "MemTotal:"), meminfo(text, "MemAvailable:"), meminfo(text, "None:")),
            (Some(24_652_100 * 1024), Some(23 * 1024), None)
        );
        assert_eq!(meminfo("MemTotal: 18446744073709551615 kB", "MemTotal:"), None);
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen("always"), None);
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.threads > 0 && machine.instructions.contains(&machine.instructions_in_use));
        assert!(machine.memory_limit_bytes < machine.memory_bytes || machine.memory_limit_bytes.is_none());
    }

    #[test]
    fn cards_are_named_by_their_driver_or_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let (driver, bus) = (folder.path().join("nvidia"), folder.path().join("pci"));
        for (device, class) in [("0000:00:02.0", "0x030000\n"), ("0000:00:03.0", "0x020000\n")] {
            fs::create_dir_all(bus.join(device)).unwrap();
            for (name, text) in [("class", class), ("vendor", "0x10de\n"), ("device", "0x2330\n")] {
                fs::write(bus.join(device).join(name), text).unwrap();
            }
        }
        assert_eq!(gpus(&driver, &bus), ["PCI 10de:2330"]);
        fs::create_dir_all(driver.join("0000:00:02.0")).unwrap();
        fs::write(driver.join("0000:00:02.0/information"), "Model: \t\t NVIDIA H100\nIRQ: 4\n").unwrap();
        assert_eq!(gpus(&driver, &bus), ["NVIDIA H100"]);
        assert!(gpus(Path::new("/nowhere"), Path::new("/nowhere")).is_empty());
    }
}
