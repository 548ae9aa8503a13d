//! `treering eval`: perplexity of every head and router on held-out corpora, how far the representation moved, and multiple-choice tasks.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use treering::checkpoint::BaseCheckpoint;
use treering::data::{Encoder, HeldOut, HeldOutConfig, Progress, WindowConfig};
use treering::error::IoContext;
use treering::eval::{
    CorpusResult, Evaluation, Group, Measure, Reference, TracedToken, check_windows, leading_token, perplexity, summary_table,
};
use treering::model::{Model, Precision};
use treering::route::{self, Router};
use treering::{Error, Result};

use super::open::{ModelArgs, OpenedModel};
use super::progress::Display;
use super::suite::SuiteArgs;

/// Arguments of `treering eval`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A held-out corpus and its name in the results, as often as wanted [default: the run's own]
    #[arg(long = "corpus", value_name = "NAME=PATH", value_parser = named_path)]
    corpora: Vec<(String, String)>,
    /// The same for a corpus of what is to be learnt: it counts as learning in the summary
    #[arg(long = "learn", value_name = "NAME=PATH", value_parser = named_path)]
    learn: Vec<(String, String)>,
    /// The same for a corpus of what is not to be forgotten
    #[arg(long = "forget", value_name = "NAME=PATH", value_parser = named_path)]
    forget: Vec<(String, String)>,
    /// Routers to measure beside the heads, all in one pass, for example bayes,cosine:threshold=0.8 (docs/method.md); between a fine-tuned model and its base, too [default: the run's own, and gate where one was trained]
    #[arg(long = "router", value_name = "ROUTER[,ROUTER]")]
    routers: Vec<String>,
    /// Write every token with what the heads thought of it and which head each router let speak, one JSON object a line
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// The JSON field or Parquet column that holds the text
    #[arg(long, value_name = "FIELD", default_value = "text")]
    text_field: String,
    /// Skip and count documents that cannot be read
    #[arg(long)]
    skip_bad_records: bool,
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
    #[command(flatten)]
    suite: SuiteArgs,
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
    let summary = match evaluation.summary.as_slice() {
        [] | [_] => String::new(),
        several => format!("\n\n{}", summary_table(several).to_text().trim_end()),
    };
    if let Some(suite) = &evaluation.suite {
        let text = super::suite::text(suite);
        if evaluation.corpora.is_empty() {
            return super::print(format!("{}\n{}; {text}", evaluation.model, evaluation.dtype));
        }
        super::print(format!("{text}\n"))?;
    }
    super::print(format!(
        "{}\nwindow {}, stride {}, {}; {context}\n\n{}{summary}",
        evaluation.model,
        evaluation.window,
        evaluation.stride,
        evaluation.dtype,
        evaluation.table().to_text().trim_end()
    ))
}

fn evaluate(args: &Args, display: &mut Display) -> Result<Evaluation> {
    let selection = args.suite.selection()?;
    let asked = if args.routers.is_empty() { None } else { Some(route::parse_list(&args.routers.join(","))?) };
    let OpenedModel { mut model, tokenizer, description, step, recipe, base, beside, .. } =
        args.model.open_for(asked.as_deref().unwrap_or_default())?;
    // What was trained is packed once, not for every batch.
    model.freeze();
    let routers = asked.unwrap_or_else(|| {
        let mut routers = recipe.as_ref().map_or(Vec::new(), |r| r.routers.clone());
        // Whoever made what a router asks wants it measured.
        let made = [Router::gate(), Router::recall()].into_iter().filter(|&router| route::check(&model, &[router]).is_ok());
        routers.extend(made);
        routers
    });
    route::check(&model, &routers)?;
    let suite = match selection {
        Some(selection) => Some(args.suite.run(selection, &model, &tokenizer, &routers, (&description, recipe.as_ref()), display)?),
        None => None,
    };
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
    let measure = Measure { windows, reference, routers: &routers };
    let mut trace = args.trace.as_deref().map(Trace::create).transpose()?;
    let mut corpora = Vec::with_capacity(configs.len());
    for (group, config) in &configs {
        let mut on_tokens = |progress: &Progress| {
            display.phase("reading", progress.bytes_done, progress.bytes_total, &progress.corpus);
            Ok(())
        };
        let corpus = HeldOut::open(config, Path::new(""), cache, &encoder, &mut on_tokens)?;
        if corpus.skipped().documents > 0 {
            display.skipped_records(corpus.name(), corpus.skipped());
        }
        let total = corpus.tokens();
        let name = corpus.name().to_owned();
        let mut on_token = trace.as_mut().map(|trace| |token: &TracedToken<'_>| trace.write(&name, token));
        let on_token = on_token.as_mut().map(|f| f as &mut dyn FnMut(&TracedToken<'_>) -> Result<()>);
        let result = perplexity(&model, &corpus, measure, on_token, &mut |tokens| {
            display.phase("measuring", tokens, total, &name);
            Ok(())
        })?;
        corpora.push(CorpusResult { group: *group, ..result });
    }
    trace.map(Trace::finish).transpose()?;
    let dtype = match model.precision() {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    let evaluation = Evaluation {
        version: Evaluation::VERSION,
        model: description,
        beside: beside.map(|path| path.display().to_string()),
        step,
        dtype: dtype.into(),
        window,
        stride,
        leading_token: windows.bos,
        corpora,
        suite,
        summary: Vec::new(),
    };
    Ok(evaluation.summarised())
}

/// A corpus and what it tells.
type Grouped = (Option<Group>, HeldOutConfig);

/// The corpora of the command line, or the run's own: learning and forgetting.
fn corpora(args: &Args, of_run: Option<[&[HeldOutConfig]; 2]>) -> Result<Vec<Grouped>> {
    let given = [(None, &args.corpora), (Some(Group::Learn), &args.learn), (Some(Group::Forget), &args.forget)];
    let configure =
        |(name, path): &(String, String)| HeldOutConfig { text_field: args.text_field.clone(), ..HeldOutConfig::new(name, path) };
    let mut configs: Vec<Grouped> =
        given.into_iter().flat_map(|(group, corpora)| corpora.iter().map(move |corpus| (group, configure(corpus)))).collect();
    let with_suite = args.suite.is_asked();
    if let (true, false, Some([learn, forget])) = (configs.is_empty(), with_suite, of_run) {
        configs.extend(learn.iter().map(|config| (Some(Group::Learn), config.clone())));
        configs.extend(forget.iter().map(|config| (Some(Group::Forget), config.clone())));
    }
    for (_, config) in &mut configs {
        config.max_tokens = args.max_tokens.or(config.max_tokens);
        config.skip_bad_records |= args.skip_bad_records;
    }
    let repeated =
        |(i, (_, config)): (usize, &Grouped)| configs[..i].iter().any(|(_, other)| other.name == config.name && other.path != config.path);
    if let Some(index) = configs.iter().enumerate().position(repeated) {
        return Err(Error::usage(format!("two corpora are named {:?}; give each a name of its own", configs[index].1.name)));
    }
    if configs.is_empty() && !with_suite {
        return Err(Error::usage(
            "no corpus to measure on\n  hint: --corpus NAME=PATH, for example --corpus news=corpora/news.jsonl.zst; or --suite for multiple-choice tasks",
        ));
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

/// The file of `--trace`.
struct Trace<'a> {
    path: &'a Path,
    file: BufWriter<File>,
}

/// One of its lines.
#[derive(Serialize)]
struct TraceLine<'a> {
    corpus: &'a str,
    #[serde(flatten)]
    token: &'a TracedToken<'a>,
}

impl<'a> Trace<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        Ok(Self { path, file: BufWriter::new(File::create(path).at(path)?) })
    }

    fn write(&mut self, corpus: &str, token: &TracedToken<'_>) -> Result<()> {
        let line = serde_json::to_string(&TraceLine { corpus, token })
            .map_err(|error| Error::usage(format!("a token cannot be written as JSON: {error}")))?;
        writeln!(self.file, "{line}").at(self.path)
    }

    fn finish(mut self) -> Result<()> {
        self.file.flush().at(self.path)
    }
}

/// A folder that goes away with the value.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("treering-eval-{}", std::process::id()));
        std::fs::create_dir_all(&path).at(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What cannot be removed is left to the system, which clears its temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
