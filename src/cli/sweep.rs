//! `treering sweep`: a recipe at several learning rates, or with another key at several values, all else equal.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use treering::model::Block;
use treering::recipe::Recipe;
use treering::report::chart::Drawing;
use treering::report::comparison::Comparison;
use treering::report::comparison::charts::Panel;
use treering::report::page::{self, Preface};
use treering::study::sweep::{By, Findings};
use treering::study::{Sweep, Variant, budget, own_speaker, variants};
use treering::train::RunFolder;
use treering::train::session::Event;
use treering::{Error, Result};

use super::compare::write;
use super::progress::Display;
use super::train::{start_threads, stop_on_signals};

/// By what the best is chosen, on the command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ByName {
    /// Perplexity on what is to be learnt
    Learn,
    /// Perplexity on what is not to be forgotten
    Forget,
    /// The geometric mean of the two
    Both,
}

impl From<ByName> for By {
    fn from(by: ByName) -> Self {
        match by {
            ByName::Learn => Self::Learn,
            ByName::Forget => Self::Forget,
            ByName::Both => Self::Both,
        }
    }
}

/// Arguments of `treering sweep`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipe, a TOML file (docs/recipe.md)
    recipe: PathBuf,
    /// Learning rates, for example 1e-4,3e-4,1e-3: of all blocks, so that W12 has its share (scale-adapt a tenth, scale-route 0.3) unless the recipe gives it a rate of its own
    #[arg(long, value_name = "RATE,…", required_unless_present = "set_each", conflicts_with = "set_each")]
    rates: Option<String>,
    /// The blocks that learn at these rates while the others learn as the recipe says, for example expansion_to_base (W12)
    #[arg(long, value_name = "BLOCK,…", value_delimiter = ',', requires = "rates")]
    blocks: Vec<String>,
    /// Another key than a rate, for example method.preserved_layers=10,20,30
    #[arg(long, value_name = "KEY=VALUE,…")]
    set_each: Option<String>,
    /// Steps of each run; the schedule is scaled to them
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    steps: Option<u64>,
    /// About so many minutes of training for each run instead, by the speed that `treering plan` estimates; all runs have the same steps
    #[arg(long, value_name = "MINUTES", allow_negative_numbers = true)]
    minutes: Option<f64>,
    /// By what the best is chosen
    #[arg(long, value_enum, default_value = "learn")]
    by: ByName,
    /// The head or router of which [default: the learner's own head, or scale-route's router]
    #[arg(long, value_name = "HEAD|ROUTER")]
    of: Option<String>,
    /// Change a key of the recipe in all runs, for example --set data.max_held_out_tokens=2048
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where the run folders are written [default: runs/sweep- and the recipe's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object (docs/studies.md)
    #[arg(long)]
    json: bool,
    /// Where stderr is no terminal, write a line about progress every ten seconds
    #[arg(long, short)]
    verbose: bool,
}

/// Sweeps.
pub fn run(args: Args) -> Result<()> {
    let stop = stop_on_signals()?;
    let mut display = Display::new(args.verbose);
    let found = sweep(&args, &stop, &mut display);
    display.finish();
    let (findings, notes) = found?;
    if args.json { super::print(json(&findings)?) } else { super::print(text(&args, &findings, &notes)) }
}

fn sweep(args: &Args, stop: &AtomicBool, display: &mut Display) -> Result<(Findings, Vec<String>)> {
    let sweep = match (&args.rates, &args.set_each) {
        (Some(rates), _) => Sweep::rates(rates, &args.blocks)?,
        (None, Some(assignment)) => Sweep::each(assignment)?,
        (None, None) => return Err(Error::usage("nothing to sweep\n  hint: --rates 1e-4,3e-4,1e-3")),
    };
    if args.steps.is_none() && args.minutes.is_none() {
        return Err(Error::usage("a sweep needs a budget for each run: --steps N, or --minutes M"));
    }
    if let Some(minutes) = args.minutes.filter(|minutes| !(*minutes > 0.0 && *minutes <= 1e6)) {
        return Err(Error::usage(format!("--minutes {minutes}: expected minutes above 0, up to a million")));
    }
    let mut recipes = Vec::new();
    for index in 0..sweep.values.len() {
        let overrides = [args.set.clone(), sweep.overrides(index)].concat();
        let recipe = Recipe::load(&args.recipe, &overrides).map_err(|error| {
            if let Error::Usage(message) = error {
                Error::Usage(format!("{}: {message}", sweep.overrides(index).join(", ")))
            } else {
                error
            }
        })?;
        recipes.push(variants::with_router(recipe));
    }
    let first = &recipes[0];
    let by = By::from(args.by);
    let missing = match by {
        By::Learn => first.data.learn.is_empty(),
        By::Forget => first.data.forget.is_empty(),
        By::Both => first.data.learn.is_empty() || first.data.forget.is_empty(),
    };
    if missing {
        return Err(Error::usage(format!(
            "{}: nothing to choose the best by: no held-out corpora for the {} (data.learn, data.forget)",
            args.recipe.display(),
            by.describe()
        )));
    }
    let of = speaker(args, first)?;
    let stem = args.recipe.file_stem().unwrap_or_default().to_string_lossy();
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("sweep-{stem}")));
    let folders = sweep.folders();
    let steps = match (args.steps, args.minutes) {
        (Some(steps), _) => steps,
        // The speed is another one each time that it is measured; a sweep that goes on keeps its steps.
        (None, minutes) => match folders.iter().find_map(|name| RunFolder::recipe(&out.join(name)).transpose()).transpose()? {
            Some(started) => started.train.schedule.steps,
            None => budget::steps_in(first, minutes.unwrap_or_default())?,
        },
    };
    let tokens = budget::tokens_per_step(first);
    display.note(&format!("{} runs of {steps} steps, {tokens} tokens each", recipes.len()));
    start_threads(first)?;
    let notes = notes(&sweep, first);
    let says = |key: &str| args.set.iter().any(|set| set.split('=').next().is_some_and(|k| k.trim() == key));
    let mut list = Vec::new();
    for (index, (mut recipe, name)) in recipes.into_iter().zip(&folders).enumerate() {
        budget::scale(&mut recipe, steps)?;
        // All runs begin as the same model, and only their ends are compared.
        if !says("eval.at_start") {
            recipe.eval.at_start = index == 0;
        }
        if !says("eval.every_steps") {
            recipe.eval.every_steps = 0;
        }
        list.push(Variant { name: name.clone(), recipe });
    }
    let endings = variants::run_all(&list, &|_| true, &out, stop, &mut watch(&list, display))?;
    let comparison = Comparison::read(folders.iter().map(|name| out.join(name)))?;
    let findings = Findings::new(sweep, steps, by, &of, &endings, &comparison);
    write(&out.join("sweep.json"), &(json(&findings)? + "\n"))?;
    write(&out.join("sweep.html"), &page::render_with(&comparison, Some(&preface(args, &findings, &notes))))?;
    Ok((findings, notes))
}

/// The head or router whose numbers are compared.
fn speaker(args: &Args, recipe: &Recipe) -> Result<String> {
    let Some(of) = &args.of else { return Ok(own_speaker(recipe)) };
    let heads: &[&str] = if recipe.has_two_heads() { &["preservation", "adaptation"] } else { &["base"] };
    let known: Vec<String> = heads.iter().map(|head| (*head).to_owned()).chain(recipe.routers.iter().map(ToString::to_string)).collect();
    if known.contains(of) {
        return Ok(of.clone());
    }
    Err(Error::usage(format!(
        "--of {of}: expected one of {}\n  hint: --set 'route.router=[\"{of}\"]' measures another router",
        known.join(", ")
    )))
}

/// Tells the display which run is going on.
pub(super) fn watch<'a>(variants: &'a [Variant], display: &'a mut Display) -> impl FnMut(usize, Event) + 'a {
    let mut shown = None;
    move |index, event| {
        if shown != Some(index) {
            shown = Some(index);
            display.begin(&format!("{} of {}: {}", index + 1, variants.len(), variants[index].name));
        }
        display.show(event);
    }
}

/// What stays as the recipe says.
fn notes(sweep: &Sweep, recipe: &Recipe) -> Vec<String> {
    let rates = &recipe.train.learning_rates;
    // W12's default goes along with the others' rate.
    let moves =
        |block: Block, rate: f64| block == Block::ExpansionToBase && rate == recipe.method.kind.expansion_to_base_rate(rates.learning_rate);
    let fixed = rates.by_block.iter().filter(|(block, rate)| !moves(**block, **rate));
    let fixed: Vec<String> = fixed.map(|(block, rate)| format!("{block} at {rate:e}")).collect();
    if sweep.keys != ["train.learning_rate"] || fixed.is_empty() {
        return Vec::new();
    }
    vec![format!("the recipe gives blocks a rate of their own, and they kept it: {} (--blocks sweeps them)", fixed.join(", "))]
}

fn json(findings: &Findings) -> Result<String> {
    serde_json::to_string(findings).map_err(|error| Error::usage(format!("the results cannot be written as JSON: {error}")))
}

/// What was found, in sentences.
fn sentences(args: &Args, findings: &Findings, notes: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(trial) = findings.best.map(|best| &findings.trials[best]) {
        let number = trial.criterion.map_or(String::new(), |value| format!(" ({value:.3})"));
        let set: Vec<String> = args.set.iter().chain(&trial.set).map(|set| format!(" --set {}", quoted(set))).collect();
        lines.push(format!("best by {} of `{}`: {}{number}", findings.by.describe(), findings.of, trial.value));
        lines.push(format!("use it: treering train {}{}", args.recipe.display(), set.concat()));
    }
    lines.extend(findings.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.extend(notes.iter().map(|note| format!("note: {note}")));
    lines
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./:+,".contains(c));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn text(args: &Args, findings: &Findings, notes: &[String]) -> String {
    format!("perplexity after {} steps\n\n{}\n{}", findings.steps, findings.table().to_text(), sentences(args, findings, notes).join("\n"))
}

fn preface(args: &Args, findings: &Findings, notes: &[String]) -> Preface {
    let chart = findings.chart();
    let panel =
        |chart| Panel { id: "sweep".into(), drawing: Drawing::Lines(chart), data: findings.table(), absent: "No run has finished." };
    Preface {
        title: format!("{} swept in {}", findings.sweep.keys.join(" and "), args.recipe.display()),
        about: sentences(args, findings, notes),
        tables: vec![(format!("Perplexity after {} steps", findings.steps), findings.table())],
        panels: chart.map(panel).into_iter().collect(),
        ..Preface::default()
    }
}
