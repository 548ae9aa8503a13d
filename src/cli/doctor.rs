//! `treering doctor`: what this machine has, and whether it counts right.

use treering::doctor::Report;
use treering::ops::isa::Isa;
use treering::report::{Align, Table};
use treering::{Error, Result};

/// Arguments of `treering doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object (docs/reliability.md)
    #[arg(long)]
    json: bool,
}

/// Looks, tests and tells.
pub fn run(args: Args) -> Result<()> {
    let report = Report::new();
    if args.json {
        super::print(serde_json::json!(report))?
    } else {
        super::print(text(&report))?
    }
    verdict(&report)
}

/// Exit code 3, with the names of the checks, where one does not hold.
fn verdict(report: &Report) -> Result<()> {
    if report.holds {
        return Ok(());
    }
    let wrong: Vec<String> =
        report.checks.iter().filter(|check| !check.holds).map(|check| format!("{} ({:?})", check.name, check.instructions)).collect();
    Err(Error::Check(format!(
        "the self test does not hold for {}\n  hint: numbers computed on this machine cannot be trusted; please report this with the output of `treering doctor --json`",
        wrong.join(", ")
    )))
}

fn text(report: &Report) -> String {
    let machine = &report.machine;
    let unknown = || "unknown".to_string();
    let gib = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)));
    let name = |isa: &Isa| format!("{isa:?}").to_lowercase();
    let instructions: Vec<String> = machine.instructions.iter().map(name).collect();
    let limit = machine.memory_limit_bytes.map_or(String::new(), |limit| format!(", this process may take {}", gib(Some(limit))));
    let gpus = if machine.gpus.is_empty() { "none found".into() } else { machine.gpus.join(", ") };
    let rows = [
        ("treering", format!("{} ({})", report.version, report.commit.as_deref().unwrap_or("commit not noted"))),
        ("system", format!("{}, kernel {}", machine.system, machine.kernel.clone().unwrap_or_else(unknown))),
        ("processor", machine.cpu.clone().unwrap_or_else(unknown)),
        ("cores", format!("{}, the compute core uses {} threads", machine.cores, machine.threads)),
        ("instructions", format!("{} of {}", name(&machine.instructions_in_use), instructions.join(", "))),
        ("memory", format!("{}, {} available{limit}", gib(machine.memory_bytes), gib(machine.available_memory_bytes))),
        ("huge pages", machine.huge_pages.clone().unwrap_or_else(unknown)),
        ("GPU", format!("{gpus}; none is used")),
    ];
    let mut text: String = rows.iter().map(|(key, value)| format!("{key:<14}{value}\n")).collect();
    let columns = [
        ("self test", Align::Left),
        ("instructions", Align::Left),
        ("against", Align::Left),
        ("deviation", Align::Right),
        ("limit", Align::Right),
        ("", Align::Left),
    ];
    let mut table = Table::new(columns);
    for check in &report.checks {
        let limit = if check.limit == 0.0 { "same bits".into() } else { format!("{:.0e}", check.limit) };
        let deviation = if check.deviation == 0.0 { "0".into() } else { format!("{:.1e}", check.deviation) };
        let verdict = if check.holds { "holds" } else { "DOES NOT HOLD" };
        table.row([check.name.clone(), name(&check.instructions), check.against.into(), deviation, limit, verdict.into()]);
    }
    text += &format!("\n{}", table.to_text());
    let held = report.checks.iter().filter(|check| check.holds).count();
    text + &format!("\n{held} of {} hold, in {:.1} s", report.checks.len(), report.seconds)
}

#[cfg(test)]
mod tests {
    use treering::doctor::{Check, Machine};

    use super::*;

    #[test]
    fn a_kernel_that_counts_wrong_is_named_in_the_table_and_ends_with_exit_code_3() {
        // Not by the self test, which nothing else may compute beside.
        let check =
            |name: &str| Check { name: name.into(), instructions: Isa::Portable, against: "f64", deviation: 0.0, limit: 1e-6, holds: true };
        let mut report = Report {
            format_version: 1,
            version: "1".into(),
            commit: None,
            machine: Machine::here(),
            checks: vec![check("products"), check("sums")],
            holds: true,
            seconds: 1.0,
        };
        assert!(verdict(&report).is_ok() && !text(&report).contains("DOES NOT HOLD"));
        (report.holds, report.checks[1].holds, report.checks[1].deviation) = (false, false, 0.5);
        let error = verdict(&report).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("does not hold for sums ("), "{error}");
        let text = text(&report);
        let line = text.lines().find(|line| line.contains("DOES NOT HOLD")).unwrap();
        assert!(line.starts_with("sums") && line.contains("5.0e-1"), "{line}");
        assert!(text.contains("1 of 2 hold"));
    }
}
