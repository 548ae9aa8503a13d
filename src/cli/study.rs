//! `treering study`: an analysis of the paper, run here.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use treering::report::comparison::Comparison;
use treering::report::{Align, Table, page, svg};
use treering::study::file::Options;
use treering::study::result::StudyResult;
use treering::study::{Ending, Study, Variant, budget, builtin, figure, variants};
use treering::{Error, Result};

use super::compare::write;
use super::growth::grouped;
use super::progress::Display;
use super::sweep::watch;
use super::train::{start_threads, stop_on_signals};

/// Arguments of `treering study`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// fig4, fig5, fig6, fig7, fig9, or a study's TOML file (docs/studies.md)
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// List the studies that come with the program
    #[arg(long)]
    list: bool,
    /// Vary this recipe instead of the study's own
    #[arg(long, value_name = "RECIPE")]
    recipe: Option<PathBuf>,
    /// Another base than the recipe's
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Change a key of the recipe in all variants, or in one: --set full:train.learning_rate=3e-4
    #[arg(long = "set", value_name = "[VARIANT:]KEY=VALUE")]
    set: Vec<String>,
    /// Steps of each run; the schedule is scaled to them [default: the recipe's]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Train only these variants; the report has the others too, where an earlier command finished them
    #[arg(long, value_name = "VARIANT,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Say what would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Where run folders and report are written [default: runs/study- and the study's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object (docs/studies.md)
    #[arg(long)]
    json: bool,
    /// Where stderr is no terminal, write a line about progress every ten seconds
    #[arg(long, short)]
    verbose: bool,
}

/// Runs a study.
pub fn run(args: Args) -> Result<()> {
    let Some(name) = args.name.as_deref().filter(|_| !args.list) else { return super::print(list()?) };
    let study = Study::load(name)?;
    if let Some(unknown) = args.only.iter().find(|name| !study.variants.iter().any(|entry| entry.name == **name)) {
        let names: Vec<&str> = study.variants.iter().map(|entry| entry.name.as_str()).collect();
        return Err(Error::usage(format!("--only {unknown}: no variant of {} has this name; there are {}", study.name, names.join(", "))));
    }
    let options = Options { recipe: args.recipe.clone(), model: args.model.clone(), set: args.set.clone(), steps: args.steps };
    let variants = study.recipes(&options)?;
    if args.dry_run {
        return super::print(what_would_be_run(&study, &variants, &args.only));
    }
    let stop = stop_on_signals()?;
    let mut display = Display::new(args.verbose);
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("study-{}", study.name)));
    let result = train(&args, &study, &variants, &out, &stop, &mut display);
    display.finish();
    let result = result?;
    if args.json {
        return super::print(json(&result)?);
    }
    super::print(format!("{}\nwritten: study.html, study.md, study.svg and study.json in {}", result.to_text().trim_end(), out.display()))
}

/// Trains what is left to train, and writes the report.
fn train(args: &Args, study: &Study, variants: &[Variant], out: &Path, stop: &AtomicBool, display: &mut Display) -> Result<StudyResult> {
    if let Some(first) = variants.first() {
        start_threads(&first.recipe)?;
    }
    let wanted = |variant: &Variant| args.only.is_empty() || args.only.contains(&variant.name);
    let endings = variants::run_all(variants, &wanted, out, stop, &mut watch(variants, display))?;
    let there = variants.iter().zip(&endings).filter(|(_, ending)| **ending != Ending::LeftOut);
    let comparison = Comparison::read(there.map(|(variant, _)| out.join(&variant.name)))?;
    let result = StudyResult::new(study, variants, &endings, &comparison);
    write(&out.join("study.json"), &(json(&result)? + "\n"))?;
    write(&out.join("study.md"), &result.to_markdown(&comparison))?;
    write(&out.join("study.svg"), &svg::render(&figure::chart(study, &result)))?;
    write(&out.join("study.html"), &page::render_with(&comparison, Some(&result.preface(study))))?;
    Ok(result)
}

fn json(result: &StudyResult) -> Result<String> {
    serde_json::to_string(result).map_err(|error| Error::usage(format!("the results cannot be written as JSON: {error}")))
}

fn list() -> Result<String> {
    let mut table = Table::new([("study", Align::Left), ("what it asks", Align::Left), ("variants", Align::Left)]);
    for (name, text) in builtin::STUDIES {
        let study = Study::parse(text, name, None)?;
        let variants: Vec<&str> = study.variants.iter().map(|entry| entry.name.as_str()).collect();
        table.row([name.to_owned(), study.title, variants.join(", ")]);
    }
    Ok(table.to_text().trim_end().to_owned())
}

fn what_would_be_run(study: &Study, variants: &[Variant], only: &[String]) -> String {
    let mut table = Table::new([
        ("variant", Align::Left),
        ("method", Align::Left),
        ("rate", Align::Right),
        ("steps", Align::Right),
        ("tokens trained", Align::Right),
        ("tokens measured, at most", Align::Right),
    ]);
    let (mut all, mut unknown) = (0u64, false);
    for variant in variants.iter().filter(|variant| only.is_empty() || only.contains(&variant.name)) {
        let recipe = &variant.recipe;
        let steps = recipe.train.schedule.steps;
        let trained = steps.saturating_mul(budget::tokens_per_step(recipe));
        let times = match recipe.eval.every_steps {
            0 => 1,
            every => steps.div_ceil(every),
        } + u64::from(recipe.eval.at_start);
        let sizes = recipe.data.learn.iter().chain(&recipe.data.forget).map(|corpus| corpus.max_tokens);
        let measured = sizes.sum::<Option<u64>>().map(|tokens| tokens.saturating_mul(times));
        all = all.saturating_add(trained).saturating_add(measured.unwrap_or(0));
        unknown |= measured.is_none();
        table.row([
            variant.name.clone(),
            recipe.method.kind.as_str().to_owned(),
            format!("{:e}", recipe.train.learning_rates.learning_rate),
            grouped(steps),
            grouped(trained),
            measured.map_or("whole corpora".into(), grouped),
        ]);
    }
    let minutes = all.div_ceil(60_000);
    let beside = if unknown { ", beside the measurements" } else { "" };
    format!(
        "{}\n\n{}\n{} tokens in all: at 1,000 tokens/s {} h {:02} min{beside}",
        study.title,
        table.to_text(),
        grouped(all),
        minutes / 60,
        minutes % 60
    )
}
