//! `treering gate`: train the small network that the router `gate` asks, on the new text and on what the model says by itself.

use std::path::PathBuf;

use serde::Serialize;
use treering::report::{Align, Table};
use treering::route::Router;
use treering::route::lesson::{self, Lesson, Losses, Taught};
use treering::{Error, Result};

use super::growth::json;
use super::open::{ModelArgs, OpenedModel};
use super::progress::Display;
use super::text::{TextArgs, watch};
use super::train::stop_on_signals;

/// Arguments of `treering gate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Tokens of it to look at
    #[arg(long, value_name = "TOKENS", default_value_t = 8192)]
    new_tokens: usize,
    /// Texts that the model before the newest head is to say by itself
    #[arg(long, value_name = "TEXTS", default_value_t = 96)]
    samples: usize,
    /// At most so many tokens each
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    sample_tokens: usize,
    /// Seed of what is drawn
    #[arg(long, default_value_t = 42)]
    seed: u64,
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
    gate: PathBuf,
    /// Nats a token on the texts kept apart.
    new_text: Losses,
    own_text: Losses,
}

/// Trains a gate.
pub fn run(args: Args) -> Result<()> {
    let mut display = Display::new(args.verbose);
    let output = train(&args, &mut display);
    display.finish();
    let output = output?;
    if args.json {
        return super::print(json(&output)?);
    }
    let columns = ["tokens", "kept apart", "head before", "newest head", "gate"];
    let mut table = Table::new([("nats a token", Align::Left)].into_iter().chain(columns.map(|name| (name, Align::Right))));
    for (name, of) in [("new text", &output.new_text), ("what the model says", &output.own_text)] {
        let losses = [of.before, of.newest, of.gate].map(|loss| format!("{loss:.3}"));
        let [before, newest, gate] = losses;
        table.row([name.to_owned(), of.tokens.to_string(), of.held_out_tokens.to_string(), before, newest, gate]);
    }
    super::print(format!(
        "{}\n\n{}\n\nThe gate is in {}; `--router gate` asks it.",
        output.model,
        table.to_text().trim_end(),
        output.gate.display()
    ))
}

fn train(args: &Args, display: &mut Display) -> Result<Output> {
    let stop = stop_on_signals()?;
    let lesson = Lesson { new_tokens: args.new_tokens, samples: args.samples, sample_tokens: args.sample_tokens, seed: args.seed };
    // Before the model is read, which may take a while.
    lesson.validate()?;
    // A fine-tuned model beside its base has two heads as well.
    let OpenedModel { mut model, tokenizer, description, recipe, values, .. } = args.model.open_for(&[Router::gate()])?;
    model.freeze();
    let Some(folder) = values.filter(|_| model.heads().len() > 1) else {
        return Err(Error::usage(format!(
            "{}: a gate chooses between the heads of a trained model: a run, an expansion or an adapter",
            args.model.path().display()
        )));
    };
    let context = model.config().max_position_embeddings;
    let taught = args.text.with(args.model.path(), recipe.as_ref(), context, |stream, cache| {
        lesson::teach(&model, tokenizer, stream, cache, &lesson, &mut watch(display, &stop, "no gate was written"))
    });
    let Taught { gate, new_text, own_text } = taught?;
    Ok(Output { model: description, gate: gate.save(&folder)?, new_text, own_text })
}
