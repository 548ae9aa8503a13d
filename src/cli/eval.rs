//! `treering eval`: perplexity of every head on held-out corpora, and how far the representation moved.

use std::path::{Path, PathBuf};

use treering::checkpoint::BaseCheckpoint;
use treering::data::{Encoder, HeldOut, HeldOutConfig, Progress, WindowConfig};
use treering::eval::{Evaluation, Reference, check_windows, leading_token, perplexity};
use treering::model::{Model, Precision};
use treering::{Error, Result};

use super::open::{ModelArgs, OpenedModel};
use super::progress::Display;

/// Arguments of `treering eval`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A held-out corpus and its name in the results, as often as wanted [default: the run's own]
    #[arg(long = "corpus", value_name = "NAME=PATH", value_parser = named_path)]
    corpora: Vec<(String, String)>,
    /// The JSON field or Parquet column that holds the text
    #[arg(long, value_name = "FIELD", default_value = "text")]
    text_field: String,
    /// Tokens a window [default: the run's own; 512 or the model's context]
    #[arg(long, value_name = "TOKENS")]
    window: Option<usize>,
    /// Tokens from one window to the next; fewer give each token more context [default: the run's own; half the window]
    #[arg(long, value_name = "TOKENS")]
    stride: Option<usize>,
    /// At most as many whole documents of each corpus as have this many tokens
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<u64>,
    /// Windows in one forward pass
    #[arg(long, value_name = "WINDOWS", default_value_t = 8)]
    batch_size: usize,
    /// Also measure the cosine between the base stream's hidden state and the base model's
    #[arg(long)]
    representation: bool,
    /// Where tokenised corpora are kept [default: beside the run; else a folder for this process alone]
    #[arg(long, value_name = "DIR")]
    token_cache: Option<PathBuf>,
    /// Print one JSON object (docs/format-eval.md)
    #[arg(long)]
    json: bool,
    /// Where stderr is no terminal, write a line about progress every ten seconds
    #[arg(long, short)]
    verbose: bool,
}

fn named_path(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.to_owned())),
        _ => Err("expected NAME=PATH, for example news=corpora/news.jsonl.zst".into()),
    }
}

/// Measures.
pub fn run(args: Args) -> Result<()> {
    let mut display = Display::new(args.verbose);
    let evaluation = evaluate(&args, &mut display);
    display.finish();
    let evaluation = evaluation?;
    if args.json {
        let text =
            serde_json::to_string(&evaluation).map_err(|error| Error::usage(format!("the results cannot be written as JSON: {error}")))?;
        return super::print(text);
    }
    let context = match evaluation.leading_token {
        Some(token) => format!("token {token} before every document"),
        None => "the first token of a document is not scored".into(),
    };
    super::print(format!(
        "{}\nwindow {}, stride {}, {}; {context}\n\n{}",
        evaluation.model,
        evaluation.window,
        evaluation.stride,
        evaluation.dtype,
        evaluation.table().to_text().trim_end()
    ))
}

fn evaluate(args: &Args, display: &mut Display) -> Result<Evaluation> {
    let OpenedModel { model, tokenizer, description, step, recipe, base } = args.model.open()?;
    let configs = corpora(args, recipe.as_ref().map(|r| [&r.data.learn[..], &r.data.forget[..]]))?;
    let of_run = recipe.as_ref().map(|r| &r.eval);
    let window = args.window.or(of_run.map(|e| e.window)).unwrap_or(512.min(model.config().max_position_embeddings));
    // A stride of the run belongs to the run's window.
    let stride = args.stride.or(of_run.filter(|_| args.window.is_none()).map(|e| e.stride)).unwrap_or(window.div_ceil(2));
    let windows = WindowConfig { window, stride, batch_size: args.batch_size, bos: leading_token(&tokenizer)? };
    check_windows(&model, &windows)?;

    let own_base = reference_base(args, &model, recipe.is_some(), base)?;
    let reference = match (&own_base, args.representation) {
        (_, false) => Reference::None,
        (Some(base), true) => Reference::Model(base),
        (None, true) => Reference::Preservation,
    };
    let encoder = Encoder::new(tokenizer)?;
    let temporary;
    let cache = match (&args.token_cache, step) {
        (Some(folder), _) => folder.as_path(),
        (None, Some(_)) => &run_cache(args.model.path()),
        (None, None) => {
            temporary = TemporaryFolder::new()?;
            &temporary.0
        }
    };
    let mut corpora = Vec::with_capacity(configs.len());
    for config in &configs {
        let mut on_tokens = |progress: &Progress| {
            display.phase("reading", progress.bytes_done, progress.bytes_total, &progress.corpus);
            Ok(())
        };
        let corpus = HeldOut::open(config, Path::new(""), cache, &encoder, &mut on_tokens)?;
        let total = corpus.tokens();
        let name = corpus.name().to_owned();
        corpora.push(perplexity(&model, &corpus, windows, reference, &mut |tokens| {
            display.phase("measuring", tokens, total, &name);
            Ok(())
        })?);
    }
    let dtype = match model.precision() {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    Ok(Evaluation {
        version: Evaluation::VERSION,
        model: description,
        step,
        dtype: dtype.into(),
        window,
        stride,
        leading_token: windows.bos,
        corpora,
    })
}

/// The corpora of the command line, or the run's own.
fn corpora(args: &Args, of_run: Option<[&[HeldOutConfig]; 2]>) -> Result<Vec<HeldOutConfig>> {
    let mut configs: Vec<HeldOutConfig> = if args.corpora.is_empty() {
        of_run.map(|groups| groups.concat()).unwrap_or_default()
    } else {
        args.corpora
            .iter()
            .map(|(name, path)| HeldOutConfig { text_field: args.text_field.clone(), ..HeldOutConfig::new(name, path) })
            .collect()
    };
    for config in &mut configs {
        config.max_tokens = args.max_tokens.or(config.max_tokens);
    }
    let repeated =
        |(i, config): (usize, &HeldOutConfig)| configs[..i].iter().any(|other| other.name == config.name && other.path != config.path);
    if let Some(index) = configs.iter().enumerate().position(repeated) {
        return Err(Error::usage(format!("two corpora are named {:?}; give each a name of its own", configs[index].name)));
    }
    if configs.is_empty() {
        return Err(Error::usage("no corpus to measure on\n  hint: --corpus NAME=PATH, for example --corpus news=corpora/news.jsonl.zst"));
    }
    Ok(configs)
}

/// The base beside a model that does not carry it: of a fully trained run its own, of a plain model the one that --base names.
fn reference_base(args: &Args, model: &Model, is_run: bool, base: BaseCheckpoint) -> Result<Option<Model>> {
    if !args.representation || model.heads().len() > 1 {
        return Ok(None);
    }
    if is_run {
        return Model::from_base(&base, model.precision(), false).map(Some);
    }
    args.model.base().map(|path| Model::from_base(&BaseCheckpoint::open(path)?, model.precision(), false)).transpose()
}

/// Where `train` keeps the tokenised corpora of a run: beside it.
fn run_cache(run: &Path) -> PathBuf {
    let run = std::path::absolute(run).unwrap_or_else(|_| run.to_path_buf());
    // RUN/checkpoints/step-000300 was named rather than RUN.
    let run = if run.join("recipe.toml").exists() { Some(run.as_path()) } else { run.parent().and_then(Path::parent) };
    run.and_then(Path::parent).unwrap_or(Path::new("")).join("token-cache")
}

/// A folder that goes away with the value.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("treering-eval-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Error::io(&path, error))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What cannot be removed is left to the system, which clears its temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
