//! `treering gate`: train the small network that the router `gate` asks, on the new text and on what the model says by itself.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde::Serialize;
use treering::data::{Encoder, Progress, StreamConfig, TrainSource, TrainStream};
use treering::eval::leading_token;
use treering::generate::end_tokens;
use treering::report::{Align, Table};
use treering::route::examples::{Speech, Text, of_texts, own_texts};
use treering::route::{Example, Gate, Router};
use treering::train::session::token_cache;
use treering::{Error, Result};

use super::open::{ModelArgs, OpenedModel};
use super::progress::Display;
use super::train::stop_on_signals;

/// Of so many texts one is kept apart, to measure on.
const HELD_OUT: usize = 5;

/// Arguments of `treering gate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text that the newest head was trained on: a file, a glob pattern or a folder, as often as wanted [default: the run's own]
    #[arg(long = "train", value_name = "PATH")]
    train: Vec<String>,
    /// The JSON field or Parquet column that holds the text
    #[arg(long, value_name = "FIELD", default_value = "text")]
    text_field: String,
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
    /// Print one JSON object (docs/routers.md)
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

/// Losses on one kind of text.
#[derive(Serialize)]
struct Losses {
    /// Texts and tokens it was trained on.
    texts: usize,
    tokens: usize,
    /// Tokens kept apart, and the mean loss (nats) on them of the head before the newest, of the newest, and of the gate's mixture of the two.
    held_out_tokens: usize,
    before: f64,
    newest: f64,
    gate: f64,
}

/// Trains a gate.
pub fn run(args: Args) -> Result<()> {
    let mut display = Display::new(args.verbose);
    let output = train(&args, &mut display);
    display.finish();
    let output = output?;
    if args.json {
        let text =
            serde_json::to_string(&output).map_err(|error| Error::usage(format!("the result cannot be written as JSON: {error}")))?;
        return super::print(text);
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
    let check_stop = || if stop.load(Ordering::Relaxed) { Err(Error::Interrupted("no gate was written".into())) } else { Ok(()) };
    if args.samples < 2 * HELD_OUT || args.new_tokens == 0 {
        return Err(Error::usage(format!("--samples must be at least {}, --new-tokens at least 1", 2 * HELD_OUT)));
    }
    // A fine-tuned model beside its base has two heads as well.
    let OpenedModel { mut model, tokenizer, description, recipe, values, .. } = args.model.open_for(&[Router::gate()])?;
    model.freeze();
    let Some(folder) = values.filter(|_| model.heads().len() > 1) else {
        return Err(Error::usage(format!(
            "{}: a gate chooses between the heads of a trained model: a run, an expansion or an adapter",
            args.model.path().display()
        )));
    };
    let leading = leading_token(&tokenizer)?;
    let ends = end_tokens(&model, &tokenizer);
    let end_of_text = tokenizer.eos_token_id();
    let encoder = Encoder::new(tokenizer)?;

    let mut stream = match (&args.train[..], &recipe) {
        ([], Some(recipe)) => recipe.data.stream.clone(),
        ([], None) => {
            return Err(Error::usage(
                "no text of what the newest head was trained on\n  hint: --train PATH, for example --train corpora/news.jsonl.zst",
            ));
        }
        (paths, recipe) => {
            let length = recipe.as_ref().map_or(256, |recipe| recipe.data.stream.sequence_length);
            let source = |path: &String| TrainSource { text_field: args.text_field.clone(), ..TrainSource::new(path) };
            StreamConfig::new(paths.iter().map(source).collect(), length.min(model.config().max_position_embeddings))
        }
    };
    // Evidence begins anew with each document, as it does whenever a router is asked.
    stream.document_mask = true;
    let cache = if recipe.is_some() {
        token_cache(args.model.path())
    } else {
        std::env::temp_dir().join(format!("treering-gate-{}", std::process::id()))
    };
    let mut on_tokens = |progress: &Progress| {
        display.phase("reading", progress.bytes_done, progress.bytes_total, &progress.corpus);
        check_stop()
    };
    let texts = new_texts(args, &stream, &cache, &encoder, &mut on_tokens);
    if recipe.is_none() {
        // What cannot be removed is left to the system, which clears its temporary folder.
        let _ = std::fs::remove_dir_all(&cache);
    }
    let texts: Vec<Text> = texts?.into_iter().map(|text| leading.map_or(text.clone(), |token| text.after(token))).collect();

    let speech = Speech {
        samples: args.samples,
        tokens: args.sample_tokens,
        leading: leading.or(end_of_text),
        always_leads: leading.is_some(),
        ends,
        seed: args.seed,
    };
    let mut listening = |done: u64, of: u64| {
        display.phase("listening", done, of, "");
        check_stop()
    };
    let own = own_texts(&model, &texts, &speech, &mut listening)?;
    let (new, new_held_out) = split(texts);
    let (own, own_held_out) = split(own);
    let mut looking = |done: u64, of: u64| {
        display.phase("looking", done, of, "");
        check_stop()
    };
    let mut examples = |texts: &[Text]| of_texts(&model, texts, &mut looking);
    let [new_examples, own_examples] = [examples(&new)?, examples(&own)?];
    let held_out = [examples(&new_held_out)?, examples(&own_held_out)?];
    let gate = Gate::train(&new_examples, &own_examples, args.seed)?;
    check_stop()?;
    let losses = |texts: &[Text], examples: &[Example], held_out: &[Example]| {
        let mean = |head: usize| -held_out.iter().map(|e| e.log_probs[head]).sum::<f64>() / held_out.len().max(1) as f64;
        Losses {
            texts: texts.len(),
            tokens: examples.len(),
            held_out_tokens: held_out.len(),
            before: mean(0),
            newest: mean(1),
            gate: gate.loss(held_out),
        }
    };
    let (new_text, own_text) = (losses(&new, &new_examples, &held_out[0]), losses(&own, &own_examples, &held_out[1]));
    Ok(Output { model: description, gate: gate.save(&folder)?, new_text, own_text })
}

/// Documents of the training text, as training meets them.
fn new_texts(
    args: &Args,
    config: &StreamConfig,
    cache: &Path,
    encoder: &Encoder,
    progress: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Vec<Text>> {
    let mut stream = TrainStream::new(config, Path::new(""), cache, encoder, args.seed, progress)?;
    let (mut texts, mut tokens) = (Vec::new(), 0);
    while tokens < args.new_tokens {
        let found = Text::of_batch(&stream.next_batch(1)?);
        tokens += found.iter().map(|text| text.tokens.len()).sum::<usize>().max(1);
        texts.extend(found);
    }
    Ok(texts)
}

/// Most of the texts, and those that are kept apart.
fn split(texts: Vec<Text>) -> (Vec<Text>, Vec<Text>) {
    let (apart, rest): (Vec<_>, Vec<_>) = texts.into_iter().enumerate().partition(|(index, _)| index % HELD_OUT == HELD_OUT - 1);
    let texts = |indexed: Vec<(usize, Text)>| indexed.into_iter().map(|(_, text)| text).collect();
    (texts(rest), texts(apart))
}
