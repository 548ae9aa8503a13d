//! `treering inspect`: what a model, an expansion, a checkpoint or a run folder holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use treering::Result;
use treering::checkpoint::names::Projection;
use treering::checkpoint::{BaseCheckpoint, Config};
use treering::grow::Module;
use treering::grow::file::{self, EXPANSION_FILE, MANIFEST_FILE, Manifest};
use treering::grow::ring::RingReference;
use treering::hub;
use treering::model::Block;
use treering::recipe::Recipe;
use treering::report::{Align, Table};
use treering::train::RunFolder;
use treering::train::checkpoint::{STATE_FILE, TRAINED_FILE, load_state};

use super::growth::{bytes, describe, grouped, json, listing, ring_rows};

/// Version of the JSON.
const FORMAT_VERSION: u32 = 1;

/// Arguments of `treering inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A model (a folder or .gguf file), an expansion, a checkpoint or a run folder
    path: PathBuf,
    /// Compute the SHA-256 of a model, by which expansions and checkpoints name their base
    #[arg(long)]
    hash: bool,
    /// Print one JSON object (docs/format.md)
    #[arg(long)]
    json: bool,
}

/// What the command prints, by what it was given.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Report {
    Model(Box<ModelReport>),
    Expansion(ExpansionReport),
    Checkpoint(CheckpointReport),
    Run(Box<RunReport>),
}

#[derive(Serialize)]
struct ModelReport {
    format_version: u32,
    path: PathBuf,
    parameter_count: u64,
    config: Config,
    dtypes: Vec<DtypeCount>,
    /// Null where there is none or it cannot be read.
    tokenizer: Option<TokenizerReport>,
    /// Null without `--hash`.
    sha256: Option<String>,
}

/// Tensors stored alike.
#[derive(Serialize)]
struct DtypeCount {
    dtype: String,
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct TokenizerReport {
    vocab_size: usize,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    sha256: String,
}

#[derive(Serialize)]
struct ExpansionReport {
    format_version: u32,
    path: PathBuf,
    manifest: Manifest,
    blocks: Vec<StoredBlock>,
}

/// Stored tensors of one block.
#[derive(Serialize)]
struct StoredBlock {
    block: Block,
    tensors: u64,
    parameters: u64,
}

#[derive(Serialize)]
struct CheckpointReport {
    format_version: u32,
    path: PathBuf,
    step: u64,
    tokens: u64,
    wall_seconds: f64,
    base: file::BaseReference,
    /// Absent for a first ring, and where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rings: Vec<RingReference>,
    blocks: Vec<StoredBlock>,
}

#[derive(Serialize)]
struct RunReport {
    format_version: u32,
    path: PathBuf,
    method: &'static str,
    model: PathBuf,
    dtype: treering::model::Precision,
    steps: u64,
    checkpoints: Vec<CheckpointReport>,
}

/// Inspects.
pub fn run(args: Args) -> Result<()> {
    let report = inspect(&args.path, args.hash)?;
    super::print(if args.json { json(&report)? } else { text(&report) })
}

fn inspect(path: &Path, hash: bool) -> Result<Report> {
    let path: &Path = &hub::local(path)?;
    if path.join(MANIFEST_FILE).is_file() {
        return expansion(path).map(Report::Expansion);
    }
    if path.join(STATE_FILE).is_file() && path.join(TRAINED_FILE).is_file() {
        return checkpoint(path).map(Report::Checkpoint);
    }
    if let Some(recipe) = if path.is_dir() { RunFolder::recipe(path)? } else { None } {
        return run_folder(path, recipe).map(|report| Report::Run(Box::new(report)));
    }
    model(path, hash).map(|report| Report::Model(Box::new(report)))
}

fn model(path: &Path, hash: bool) -> Result<ModelReport> {
    let base = BaseCheckpoint::open(path)?;
    let mut dtypes: BTreeMap<String, DtypeCount> = BTreeMap::new();
    for info in base.tensor_infos() {
        let empty = DtypeCount { dtype: info.dtype.clone(), tensors: 0, parameters: 0, bytes: 0 };
        let count = dtypes.entry(info.dtype).or_insert(empty);
        count.tensors += 1;
        count.parameters += info.shape.iter().map(|&n| n as u64).product::<u64>();
        count.bytes += info.bytes;
    }
    // A model without a tokenizer, or with one that treering cannot read, is worth describing all the same.
    let tokenizer = match base.tokenizer() {
        Ok(tokenizer) => Some(TokenizerReport {
            vocab_size: tokenizer.vocab_size(),
            bos_token_id: tokenizer.bos_token_id(),
            eos_token_id: tokenizer.eos_token_id(),
            sha256: tokenizer.sha256()?,
        }),
        Err(_) => None,
    };
    let mut dtypes: Vec<DtypeCount> = dtypes.into_values().collect();
    dtypes.sort_by_key(|d| std::cmp::Reverse(d.bytes));
    Ok(ModelReport {
        format_version: FORMAT_VERSION,
        path: path.to_path_buf(),
        parameter_count: base.config().parameter_count(),
        config: base.config().clone(),
        dtypes,
        tokenizer,
        sha256: if hash { Some(base.sha256()?) } else { None },
    })
}

fn expansion(path: &Path) -> Result<ExpansionReport> {
    let manifest = file::load_manifest(path)?;
    let blocks = stored_blocks(&path.join(EXPANSION_FILE))?;
    Ok(ExpansionReport { format_version: FORMAT_VERSION, path: path.to_path_buf(), manifest, blocks })
}

fn checkpoint(path: &Path) -> Result<CheckpointReport> {
    let state = load_state(path)?;
    Ok(CheckpointReport {
        format_version: FORMAT_VERSION,
        path: path.to_path_buf(),
        step: state.step,
        tokens: state.tokens,
        wall_seconds: state.wall_seconds,
        base: state.base,
        rings: state.rings,
        blocks: stored_blocks(&path.join(TRAINED_FILE))?,
    })
}

fn run_folder(path: &Path, recipe: Recipe) -> Result<RunReport> {
    let checkpoints = RunFolder::checkpoints(path)?;
    Ok(RunReport {
        format_version: FORMAT_VERSION,
        path: path.to_path_buf(),
        method: recipe.method.kind.as_str(),
        model: recipe.model.path,
        dtype: recipe.model.dtype,
        steps: recipe.train.schedule.steps,
        checkpoints: checkpoints.iter().map(|(_, path)| checkpoint(path)).collect::<Result<_>>()?,
    })
}

fn stored_blocks(path: &Path) -> Result<Vec<StoredBlock>> {
    let (parameters, _) = file::list_parameters(path)?;
    let mut blocks = Vec::new();
    for block in Block::ALL {
        let mut stored = StoredBlock { block, tensors: 0, parameters: 0 };
        for parameter in parameters.iter().filter(|p| p.block == block) {
            stored.tensors += 1;
            stored.parameters += parameter.count()? as u64;
        }
        if stored.tensors > 0 {
            blocks.push(stored);
        }
    }
    Ok(blocks)
}

fn text(report: &Report) -> String {
    let text = match report {
        Report::Model(report) => model_text(report),
        Report::Expansion(report) => expansion_text(report),
        Report::Checkpoint(report) => checkpoint_text(report),
        Report::Run(report) => run_text(report),
    };
    text.trim_end().to_string()
}

fn model_text(report: &ModelReport) -> String {
    let c = &report.config;
    let mut rows = vec![
        ("architecture", format!("{}, {} layers, {} parameters", c.family.name(), c.num_hidden_layers, grouped(report.parameter_count))),
        ("hidden size", c.hidden_size.to_string()),
        (
            "attention",
            format!("{} heads of {} on {} key/value heads{}", c.num_attention_heads, c.head_dim, c.num_key_value_heads, window(c)),
        ),
        ("feed-forward", c.intermediate_size.to_string()),
        ("biases", format!("attention {}, feed-forward {}", biases(c), yes(c.mlp_bias))),
        ("vocabulary", format!("{}, embeddings {}", grouped(c.vocab_size as u64), if c.tie_word_embeddings { "tied" } else { "untied" })),
        ("positions", format!("{}, RoPE base {}, scaling {}", grouped(c.max_position_embeddings as u64), c.rope_theta, rope(c))),
        ("norm epsilon", format!("{:e}", c.rms_norm_eps)),
        (
            "tokenizer",
            report.tokenizer.as_ref().map_or("none that can be read".to_string(), |t| {
                let id = |id: Option<u32>| id.map_or("none".to_string(), |id| id.to_string());
                format!("{} tokens, first {}, last {}", grouped(t.vocab_size as u64), id(t.bos_token_id), id(t.eos_token_id))
            }),
        ),
    ];
    if let Some(sha256) = &report.sha256 {
        rows.push(("SHA-256", sha256.clone()));
    }
    let mut table =
        Table::new([("stored as", Align::Left), ("tensors", Align::Right), ("parameters", Align::Right), ("size", Align::Right)]);
    for d in &report.dtypes {
        table.row([d.dtype.clone(), d.tensors.to_string(), grouped(d.parameters), bytes(d.bytes)]);
    }
    format!("{}\n{}", listing("model", report.path.display().to_string(), rows), table.to_text())
}

/// Which of the attention's projections have biases.
fn biases(config: &Config) -> String {
    let attention = Projection::ALL.into_iter().filter(|p| p.module() == Module::Attention);
    let biased: Vec<&str> = attention.filter(|&p| config.has_bias(p)).map(Projection::name).collect();
    match biased.len() {
        0 => "no".into(),
        4 => "yes".into(),
        _ => biased.join(", "),
    }
}

fn window(config: &Config) -> String {
    let sliding = (0..config.num_hidden_layers).filter(|&layer| config.window(layer).is_some()).count();
    match config.sliding_window {
        Some(window) if sliding == config.num_hidden_layers => format!(", a window of {} tokens", grouped(window as u64)),
        Some(window) => format!(", a window of {} tokens in {sliding} layers", grouped(window as u64)),
        None => String::new(),
    }
}

fn yes(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

fn rope(config: &Config) -> &'static str {
    use treering::checkpoint::rope::RopeScaling;
    match config.rope_scaling {
        RopeScaling::Default => "none",
        RopeScaling::Linear { .. } => "linear",
        RopeScaling::Llama3 { .. } => "llama3",
        RopeScaling::Yarn(_) => "yarn",
        RopeScaling::FrequencyFactors(_) => "by factors",
    }
}

fn expansion_text(report: &ExpansionReport) -> String {
    let Manifest { growth, init, seed, base, rings, .. } = &report.manifest;
    let mut rows = vec![("base", base.path.display().to_string()), ("base SHA-256", base.sha256.clone())];
    rows.extend(ring_rows(rings));
    // Where the base has moved, its number of layers is not known: the placement is told as it is stored.
    match BaseCheckpoint::open(&base.path) {
        Ok(opened) => rows.extend(describe(growth, opened.config())),
        Err(_) => rows.push(("added", format!("{:?}, {:?}; the base is not there any more", growth.sizes, growth.placement))),
    }
    rows.push(("init", format!("{init}; seed {seed}")));
    format!("{}\n{}", listing("expansion", report.path.display().to_string(), rows), blocks_text(&report.blocks))
}

fn checkpoint_text(report: &CheckpointReport) -> String {
    let mut rows = vec![
        ("step", grouped(report.step)),
        ("tokens", grouped(report.tokens)),
        ("trained for", format!("{:.0} s", report.wall_seconds)),
        ("base", report.base.path.display().to_string()),
        ("base SHA-256", report.base.sha256.clone()),
    ];
    rows.extend(ring_rows(&report.rings));
    format!("{}\n{}", listing("checkpoint", report.path.display().to_string(), rows), blocks_text(&report.blocks))
}

fn run_text(report: &RunReport) -> String {
    let rows = vec![("method", report.method.to_string()), ("model", report.model.display().to_string()), ("steps", grouped(report.steps))];
    let mut out = listing("run", report.path.display().to_string(), rows);
    let Some(last) = report.checkpoints.last() else { return format!("{out}\nNo checkpoint yet.") };
    let mut table = Table::new([("checkpoint", Align::Left), ("step", Align::Right), ("tokens", Align::Right), ("seconds", Align::Right)]);
    for c in &report.checkpoints {
        let name = c.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        table.row([name, grouped(c.step), grouped(c.tokens), format!("{:.0}", c.wall_seconds)]);
    }
    out = format!("{out}\n{}\n{}", table.to_text(), blocks_text(&last.blocks));
    out
}

fn blocks_text(blocks: &[StoredBlock]) -> String {
    let mut table = Table::new([("stored", Align::Left), ("tensors", Align::Right), ("parameters", Align::Right)]);
    for b in blocks {
        table.row([b.block.to_string(), b.tensors.to_string(), grouped(b.parameters)]);
    }
    let total = |of: fn(&StoredBlock) -> u64| blocks.iter().map(of).sum::<u64>();
    table.row(["total".to_string(), total(|b| b.tensors).to_string(), grouped(total(|b| b.parameters))]);
    table.to_text()
}
