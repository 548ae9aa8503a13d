//! `treering grow`: widens a model and writes the expansion.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use treering::checkpoint::BaseCheckpoint;
use treering::error::IoContext;
use treering::grow::file::{self, BaseReference, EXPANSION_FILE, Expansion, FORMAT_VERSION, Manifest};
use treering::grow::plan::BlockCount;
use treering::grow::verify::{self, HeadVerification};
use treering::grow::{self, Growth, Initialisation};
use treering::model::{Block, Head, Model, Parameter, Precision};
use treering::report::{Align, Table};
use treering::{Error, Result};

use super::growth::{GrowthArgs, bytes, describe, grouped, json, listing};
use super::open::Dtype;

/// What the base reads when it is verified, if its tokenizer can.
const TEXT: &str = "A tree grows in width, ring after ring, around wood that never changes. 나무는 해마다 나이테를 더한다. \
                    In 1984 the oldest of them had stood for 4,844 years; fn main() { println!(\"still here\"); }";

/// Windows, and tokens a window, that are run through both models.
const WINDOWS: [usize; 2] = [4, 64];

/// Tokens whose whole logits are compared.
const STEPS: usize = 32;

/// Arguments of `treering grow`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The base: a Hugging Face folder or a .gguf file
    model: PathBuf,
    /// The new folder of the expansion
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    growth: GrowthArgs,
    /// What base_to_expansion and expansion_to_expansion start from: each zero, random or svd
    #[arg(long, value_name = "W21,W22", default_value_t)]
    init: Initialisation,
    /// Seed of random values
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Prove that both heads of the widened model give the base's logits, bit for bit; exit code 3 if not
    #[arg(long)]
    verify: bool,
    /// Arithmetic of the verification [default: bf16]
    #[arg(long, value_enum, requires = "verify")]
    dtype: Option<Dtype>,
    /// Print one JSON object (docs/format.md)
    #[arg(long)]
    json: bool,
}

/// What the command prints.
#[derive(Serialize)]
struct Report {
    format_version: u32,
    path: PathBuf,
    manifest: Manifest,
    /// Parameters by block.
    blocks: Vec<BlockCount>,
    bytes: u64,
    seconds: f64,
    /// Absent without `--verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<Verification>,
}

#[derive(Serialize)]
struct Verification {
    dtype: Precision,
    /// Tokens in whole windows.
    window_tokens: usize,
    /// Tokens whose whole logits were compared.
    steps: usize,
    heads: Vec<HeadVerification>,
    holds: bool,
}

/// Grows.
pub fn run(args: Args) -> Result<()> {
    let start = Instant::now();
    let base = BaseCheckpoint::open(&args.model)?;
    let growth = args.growth.growth(base.config())?;
    refuse_existing(&args.out)?;
    let bar = bar("growing", 0);
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        Ok(())
    };
    let parameters = grow::initialise(&base, &growth, args.init, args.seed, &progress);
    bar.finish_and_clear();
    let parameters = parameters?;

    // Before anything is written: what does not hold leaves nothing behind.
    let verification = if args.verify {
        let precision = args.dtype.map_or(Precision::Bf16, Into::into);
        Some(verify(&base, &growth, &parameters, precision)?)
    } else {
        None
    };
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        growth,
        init: args.init,
        seed: args.seed,
        base: BaseReference { path: std::path::absolute(&args.model).at(&args.model)?, sha256: base.sha256()? },
        parameter_count: parameters.iter().map(|p| p.value.len()).sum(),
    };
    let expansion = Expansion { manifest, parameters };
    file::save(&args.out, &expansion)?;
    if args.verify && file::load(&args.out, base.config(), &expansion.manifest.base.sha256)? != expansion {
        return Err(Error::Check(format!("{}: does not read back as it was written", args.out.display())));
    }
    let written = args.out.join(EXPANSION_FILE);
    let report = Report {
        format_version: FORMAT_VERSION,
        blocks: block_counts(&expansion.parameters),
        bytes: std::fs::metadata(&written).at(&written)?.len(),
        path: args.out,
        manifest: expansion.manifest,
        seconds: start.elapsed().as_secs_f64(),
        verification,
    };
    super::print(if args.json { json(&report)? } else { text(&report, &base) })
}

/// Refuses early what the writer would refuse after the work.
fn refuse_existing(out: &std::path::Path) -> Result<()> {
    let taken = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => out.exists(),
    };
    if taken {
        return Err(Error::usage(format!("{}: is there already; choose another --out, or remove it", out.display())));
    }
    Ok(())
}

/// Runs text and random tokens through the base and the widened model.
fn verify(base: &BaseCheckpoint, growth: &Growth, parameters: &[Parameter], precision: Precision) -> Result<Verification> {
    let plain = Model::from_base(base, precision, false)?;
    let mut widened = Model::from_base(base, precision, false)?;
    widened.widen(growth.clone(), parameters.to_vec())?;
    // A base without a tokenizer is verified on random tokens alone.
    let text = base.tokenizer().and_then(|tokenizer| tokenizer.encode(TEXT)).unwrap_or_default();
    let [windows, length] = WINDOWS;
    let length = length.min(base.config().max_position_embeddings);
    let batch = verify::windows(base.config().vocab_size, &text, windows, length, 0);
    let bar = bar("verifying", STEPS as u64);
    let heads = verify::compare(&plain, &widened, &batch, STEPS, |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let heads = heads?;
    if let Some(head) = heads.iter().find(|head| !head.holds()) {
        let HeadVerification { logits, log_probs, hidden, .. } = head;
        return Err(Error::Check(format!(
            "the {} head is not the base: {} of {} logits, {} of {} log-probabilities and {} of {} hidden values differ, by up to {:e}; nothing was written",
            name(head.head),
            logits.differing,
            logits.compared,
            log_probs.differing,
            log_probs.compared,
            hidden.differing,
            hidden.compared,
            logits.largest.max(log_probs.largest).max(hidden.largest)
        )));
    }
    Ok(Verification { dtype: precision, window_tokens: windows * length, steps: STEPS.min(length), heads, holds: true })
}

fn name(head: Head) -> &'static str {
    match head {
        Head::Base => "base",
        Head::Preservation => "preservation",
        Head::Adaptation => "adaptation",
    }
}

fn block_counts(parameters: &[Parameter]) -> Vec<BlockCount> {
    let count = |block| parameters.iter().filter(|p| p.block == block).map(|p| p.value.len() as u64).sum();
    Block::ALL.into_iter().map(|block| BlockCount { block, frozen: 0, trained: count(block) }).filter(|b| b.trained > 0).collect()
}

/// A bar on stderr where that is a terminal.
fn bar(what: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn text(report: &Report, base: &BaseCheckpoint) -> String {
    let Manifest { growth, init, seed, base: reference, .. } = &report.manifest;
    let mut rows = vec![("base", reference.path.display().to_string()), ("SHA-256", reference.sha256.clone())];
    rows.extend(describe(growth, base.config()));
    rows.push(("init", format!("base_to_expansion,expansion_to_expansion = {init}; seed {seed}")));
    rows.push(("written", format!("{} in {:.1} s", bytes(report.bytes), report.seconds)));
    let mut table = Table::new([("parameters", Align::Left), ("trained", Align::Right)]);
    for block in &report.blocks {
        table.row([block.block.to_string(), grouped(block.trained)]);
    }
    table.row(["total".to_string(), grouped(report.blocks.iter().map(|b| b.trained).sum())]);
    let mut out = format!("{}\n{}", listing("expansion", report.path.display().to_string(), rows), table.to_text());
    if let Some(Verification { window_tokens, steps, heads, .. }) = &report.verification {
        for head in heads {
            out.push_str(&format!(
                "Verified: the {} head is the base bit for bit ({} logits of {steps} tokens, {} log-probabilities and {} hidden values of {window_tokens} tokens).\n",
                name(head.head),
                grouped(head.logits.compared),
                grouped(head.log_probs.compared),
                grouped(head.hidden.compared)
            ));
        }
    }
    out.truncate(out.trim_end().len());
    out
}
