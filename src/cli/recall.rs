//! `treering recall`: keep what a head was taught, as the router `recall` asks it.

use std::path::PathBuf;

use serde::Serialize;
use treering::route::Recall;
use treering::route::recall::RecallSettings;
use treering::{Error, Result};

use super::growth::{grouped, json, listing};
use super::open::{ModelArgs, OpenedModel};
use super::progress::Display;
use super::text::{TextArgs, watch};
use super::train::stop_on_signals;

/// Arguments of `treering recall`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Tokens of a sequence, 1 to 64
    #[arg(long, value_name = "TOKENS", default_value_t = RecallSettings::default().ngram)]
    ngram: usize,
    /// A sequence in more documents than this tells nothing about what they are about
    #[arg(long, value_name = "DOCUMENTS", default_value_t = RecallSettings::default().common_above)]
    common: u32,
    /// Tokens of the text to read at most
    #[arg(long, value_name = "TOKENS", default_value_t = RecallSettings::default().most_tokens)]
    max_tokens: u64,
    /// Print one JSON object (docs/format-eval.md)
    #[arg(long)]
    json: bool,
    /// Where stderr is no terminal, write a line about progress every ten seconds
    #[arg(long, short)]
    verbose: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output {
    model: String,
    recall: PathBuf,
    #[serde(flatten)]
    settings: RecallSettings,
    documents: u64,
    tokens: u64,
    rare: usize,
    common: usize,
}

/// Reads the text and keeps its sequences.
pub fn run(args: Args) -> Result<()> {
    let mut display = Display::new(args.verbose);
    let output = make(&args, &mut display);
    display.finish();
    let output = output?;
    if args.json {
        return super::print(json(&output)?);
    }
    let rows = [
        ("in", output.recall.display().to_string()),
        ("documents", grouped(output.documents)),
        ("tokens", grouped(output.tokens)),
        ("sequences", format!("{} of {} tokens", grouped(output.rare as u64), output.settings.ngram)),
        ("too common", format!("{}, in more than {} documents", grouped(output.common as u64), output.settings.common_above)),
    ];
    super::print(format!("{}\nNow `--router recall` asks it.", listing("recall", output.model, rows)))
}

fn make(args: &Args, display: &mut Display) -> Result<Output> {
    let stop = stop_on_signals()?;
    let settings = RecallSettings { ngram: args.ngram, common_above: args.common, most_tokens: args.max_tokens };
    settings.validate()?;
    let OpenedModel { model, tokenizer, description, recipe, values, .. } = args.model.open()?;
    let Some(folder) = values else {
        return Err(Error::usage(format!(
            "{}: is a plain model; what was taught belongs to a run, an expansion or an adapter",
            args.model.path().display()
        )));
    };
    let context = model.config().max_position_embeddings;
    let recall = args.text.with(args.model.path(), recipe.as_ref(), context, |stream, cache| {
        Recall::of_text(tokenizer, stream, cache, settings, &mut watch(display, &stop, "nothing was written"))
    })?;
    let ((documents, tokens), (rare, common)) = (recall.read(), recall.sequences());
    Ok(Output { model: description, recall: recall.save(&folder)?, settings, documents, tokens, rare, common })
}
