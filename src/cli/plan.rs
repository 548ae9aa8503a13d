//! `treering plan`: what training will take, before anything is allocated.

use std::path::{Path, PathBuf};

use serde::Serialize;
use treering::baseline::{Baseline, Freeze, LlamaPro, Lora, Method};
use treering::checkpoint::Config;
use treering::grow::Growth;
use treering::grow::plan::{Plan, Products, Request, Speed, Work};
use treering::hub;
use treering::model::Precision;
use treering::recipe::{MethodKind, Recipe};
use treering::report::{Align, Table};
use treering::train::foundation::{Foundation, outline};
use treering::{Error, Result};

use super::growth::{GrowthArgs, bytes, describe, describe_baseline, grouped, json, listing};
use super::open::Dtype;

/// Arguments of `treering plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A recipe (.toml), a model (a folder or .gguf file), a run or expansion for its next ring, or a config.json alone
    path: PathBuf,
    /// Change a key of the recipe, for example --set train.batch_size=4
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// What is trained: scale-preserve, scale-adapt, full, freeze, lora or llama-pro [default: what the sizes and modules say]
    #[arg(long)]
    method: Option<String>,
    #[command(flatten)]
    growth: GrowthArgs,
    /// Arithmetic of the matrix products [default: bf16]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Windows in one forward pass [default: 4]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Tokens a window [default: 256]
    #[arg(long, value_name = "N")]
    sequence_length: Option<usize>,
    /// Run layers again in the backward pass rather than keep what they computed
    #[arg(long)]
    recompute: bool,
    /// Leave the machine's speed unmeasured
    #[arg(long)]
    no_speed: bool,
    /// Print one JSON object (docs/format.md)
    #[arg(long)]
    json: bool,
}

/// What the command prints.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a Path,
    #[serde(flatten)]
    plan: Plan,
    /// Absent with `--no-speed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<Speed>,
}

/// Plans.
pub fn run(args: Args) -> Result<()> {
    let is_recipe = args.path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
    let given = if is_recipe { from_recipe(&args)? } else { from_model(&args)? };
    let plan = Plan::new(&Request {
        config: &given.config,
        rings: &given.rings,
        method: &given.method,
        name: given.name,
        precision: given.precision,
        batch_size: given.batch_size,
        sequence_length: given.sequence_length,
        recompute: given.recompute,
        pair: given.pair,
    })?;
    let speed = (!args.no_speed).then(|| Speed::estimate(&plan, Products::measure(given.precision)));
    let report = Report { model: &given.model, plan, speed };
    super::print(if args.json { json(&report)? } else { text(&report, &given.config) })
}

/// What is planned, from whichever source.
struct Given {
    model: PathBuf,
    config: Config,
    rings: Vec<Growth>,
    method: Method,
    precision: Precision,
    batch_size: usize,
    sequence_length: usize,
    recompute: bool,
    name: Option<&'static str>,
    pair: bool,
}

fn from_recipe(args: &Args) -> Result<Given> {
    let flags = [
        ("--method", args.method.is_some()),
        ("sizes, --preserved-layers and --modules", args.growth.is_given()),
        ("--dtype", args.dtype.is_some()),
        ("--batch-size", args.batch_size.is_some()),
        ("--sequence-length", args.sequence_length.is_some()),
        ("--recompute", args.recompute),
    ];
    if let Some((flag, _)) = flags.iter().find(|(_, given)| *given) {
        return Err(Error::usage(format!("{flag}: a recipe says that itself; change one of its keys with --set KEY=VALUE")));
    }
    let recipe = Recipe::load(&args.path, &args.set)?;
    let (config, rings) = read_config(&recipe.model.path)?;
    let method = recipe.method(&config)?;
    Foundation::check_method(&config, rings.len(), &method)?;
    let request = recipe.request(&config, &rings, &method);
    Ok(Given {
        precision: request.precision,
        batch_size: request.batch_size,
        sequence_length: request.sequence_length,
        recompute: request.recompute,
        name: request.name,
        pair: request.pair,
        model: recipe.model.path,
        config,
        rings,
        method,
    })
}

fn from_model(args: &Args) -> Result<Given> {
    if !args.set.is_empty() {
        return Err(Error::usage(format!("--set changes a recipe, and {} is none", args.path.display())));
    }
    let (config, rings) = read_config(&args.path)?;
    let kind = match &args.method {
        None => None,
        Some(name) => Some(MethodKind::ALL.into_iter().find(|(n, _)| n == name).map(|(_, kind)| kind).ok_or_else(|| {
            let names = MethodKind::ALL.map(|(name, _)| name);
            Error::usage(format!("--method: `{name}` is not one of {}", names.join(", ")))
        })?),
    };
    let method = match (kind, kind.and_then(|kind| baseline(kind, &config))) {
        (Some(kind), Some(_)) if args.growth.is_given() => {
            let name = kind.as_str();
            return Err(Error::usage(format!(
                "--method {name} adds nothing to the base's width: leave out sizes, --preserved-layers and --modules"
            )));
        }
        (_, Some(baseline)) => Method::Baseline(baseline),
        (Some(MethodKind::ScalePreserve), None) if args.growth.has_placement() => {
            return Err(Error::usage(
                "--method scale-preserve trains expansion_to_base nowhere: leave out --preserved-layers and --modules",
            ));
        }
        (kind, None) => Method::Expansion(args.growth.growth(&config, kind.and_then(|kind| kind.placement(&config)))?),
    };
    Foundation::check_method(&config, rings.len(), &method)?;
    Ok(Given {
        model: args.path.clone(),
        config,
        rings,
        method,
        precision: args.dtype.map_or(Precision::Bf16, Into::into),
        batch_size: args.batch_size.unwrap_or(4),
        sequence_length: args.sequence_length.unwrap_or(256),
        recompute: args.recompute,
        name: kind.map(MethodKind::as_str),
        pair: false,
    })
}

/// A method that does not widen, with its defaults: a recipe can say more.
fn baseline(kind: MethodKind, config: &Config) -> Option<Baseline> {
    match kind {
        MethodKind::Full => Some(Baseline::Full),
        MethodKind::Freeze => Some(Baseline::Freeze(Freeze::new(config))),
        MethodKind::Lora => Some(Baseline::Lora(Lora::new(0))),
        MethodKind::LlamaPro => Some(Baseline::LlamaPro(LlamaPro::new(config))),
        _ => None,
    }
}

/// The configuration of a model and what its rings have added, or of one that is not here: a config.json is enough for a plan.
fn read_config(path: &Path) -> Result<(Config, Vec<Growth>)> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
        return Ok((Config::from_file(hub::local(path)?)?, Vec::new()));
    }
    outline(path)
}

fn text(report: &Report<'_>, config: &Config) -> String {
    let plan = &report.plan;
    let mut rows = vec![("method", plan.method.to_string())];
    rows.extend((!plan.rings.is_empty()).then(|| ("ring", format!("{}, around {}", plan.rings.len() + 1, plan.rings.len()))));
    rows.extend(plan.growth.iter().flat_map(|growth| describe(growth, config)));
    rows.extend(plan.baseline.iter().map(|baseline| describe_baseline(baseline, config)));
    let precision = if plan.dtype == Precision::Bf16 { "bf16 products, f32 sums and trained weights" } else { "f32" };
    rows.extend(plan.pair.then(|| ("router", "the base stands beside what is trained".to_string())));
    rows.push(("arithmetic", precision.into()));
    let recompute = if plan.recompute { ", layers run again in the backward pass" } else { "" };
    rows.push(("batch", format!("{} × {} tokens{recompute}", plan.batch_size, plan.sequence_length)));
    let mut out = listing("plan", report.model.display().to_string(), rows);

    let mut table = Table::new([("parameters", Align::Left), ("frozen", Align::Right), ("trained", Align::Right)]);
    let shown = |n: u64| if n == 0 { "–".to_string() } else { grouped(n) };
    for block in &plan.blocks {
        table.row([block.block.to_string(), shown(block.frozen), shown(block.trained)]);
    }
    table.row(["total".to_string(), shown(plan.frozen_parameters), shown(plan.trained_parameters)]);
    out = format!("{out}\n{}", table.to_text());

    let memory = &plan.memory_bytes;
    let mut table = Table::new([("memory", Align::Left), ("", Align::Right)]);
    for (label, n) in [
        ("frozen weights", memory.frozen_weights),
        ("trained weights", memory.trained_weights),
        ("gradients", memory.gradients),
        ("optimizer", memory.optimizer),
        ("activations", memory.activations),
        ("workspace", memory.workspace),
        ("program", memory.program),
        ("peak, estimated", memory.peak),
    ] {
        table.row([label.to_string(), bytes(n)]);
    }
    out = format!("{out}\n{}", table.to_text());

    let flops = &plan.flops_per_token;
    let mega = |n: u64| if n == 0 { "–".to_string() } else { format!("{:.1}", n as f64 / 1e6) };
    let mut table = Table::new([
        ("MFLOP a token", Align::Left),
        ("layers", Align::Right),
        ("attention", Align::Right),
        ("head", Align::Right),
        ("total", Align::Right),
    ]);
    let mut row = |label: &str, work: &Work| {
        table.row([label.to_string(), mega(work.layers), mega(work.attention), mega(work.head), mega(work.total())]);
    };
    row("forward", &flops.forward);
    row("backward", &flops.backward);
    if plan.recompute {
        row("recomputed", &flops.recomputed);
    }
    table.row(["total", "", "", "", &mega(flops.total)]);
    out = format!("{out}\n{}", table.to_text());
    if plan.growth.is_some() || plan.baseline.is_some() {
        let share = 100.0 * flops.table as f64 / flops.table_full.max(1) as f64;
        out.push_str(&format!(
            "Layers by the method's table: {} MFLOP, {share:.0} % of the {} that full fine-tuning takes.\n",
            mega(flops.table),
            mega(flops.table_full)
        ));
    }
    if let Some(Speed { gflops, efficiency, tokens_per_second }) = report.speed {
        out.push_str(&format!(
            "About {tokens_per_second:.0} tokens/s on this machine: {gflops:.0} GFLOP/s measured in matrix products, {:.0} % of it assumed in training.\n",
            efficiency * 100.0
        ));
    }
    out.truncate(out.trim_end().len());
    out
}
