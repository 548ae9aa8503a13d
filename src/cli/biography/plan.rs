//! `treering biography plan`: what every stage will take.

use serde::Serialize;
use treering::Result;
use treering::biography::plan::{StagePlan, plan};
use treering::grow::plan::Products;
use treering::report::{Align, Table};

use super::Choice;
use crate::cli::growth::{bytes, grouped, json};

/// Arguments of `treering biography plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    choice: Choice,
    /// Leave the machine's speed unmeasured
    #[arg(long)]
    no_speed: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What the command prints.
#[derive(Serialize)]
struct Report<'a> {
    format_version: u32,
    size: &'a str,
    /// Absent with `--no-speed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    gflops: Option<f64>,
    stages: Vec<StagePlan>,
}

/// Plans.
pub fn run(args: Args) -> Result<()> {
    let setup = args.choice.setup()?;
    let methods = args.choice.methods()?;
    let products = (!args.no_speed).then(|| Products::measure(setup.size.protocol().dtype));
    let stages = plan(&setup, &methods, args.choice.tasks, &args.choice.set, products)?;
    let report = Report { format_version: 1, size: setup.size.as_str(), gflops: products.map(|products| products.gflops), stages };
    crate::cli::print(if args.json { json(&report)? } else { text(&report) })
}

fn text(report: &Report<'_>) -> String {
    let mut table = Table::new([
        ("stage", Align::Left),
        ("steps", Align::Right),
        ("tokens", Align::Right),
        ("frozen", Align::Right),
        ("trained", Align::Right),
        ("memory", Align::Right),
        ("PFLOP", Align::Right),
        ("time", Align::Right),
    ]);
    let peta = |flops: f64| format!("{:.4}", flops / 1e15);
    for s in &report.stages {
        table.row([
            s.stage.clone(),
            grouped(s.steps),
            grouped(s.tokens),
            grouped(s.frozen_parameters),
            grouped(s.trained_parameters),
            bytes(s.peak_memory_bytes),
            peta(s.training_flops + s.asking_flops),
            s.seconds.map_or("–".into(), time),
        ]);
    }
    let flops: f64 = report.stages.iter().map(|s| s.training_flops + s.asking_flops).sum();
    let most = report.stages.iter().map(|s| s.peak_memory_bytes).max().unwrap_or(0);
    let mut text = format!("{}\n{} PFLOP in all, at most {} of memory", table.to_text(), peta(flops), bytes(most));
    if let Some(gflops) = report.gflops {
        let seconds: f64 = report.stages.iter().filter_map(|s| s.seconds).sum();
        text += &format!(
            ", {} at {gflops:.0} GFLOP/s measured here in matrix products; small matrices are slower, so that small sizes take longer (docs/biography.md)",
            time(seconds)
        );
    }
    text
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6_000.0 => format!("{:.0} min", s / 60.0),
        s if s < 360_000.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}
