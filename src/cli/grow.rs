//! `treering grow`: widens a model, or one that was widened before, and writes the expansion.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use treering::error::IoContext;
use treering::grow::file::{self, EXPANSION_FILE, Expansion, Manifest};
use treering::grow::plan::BlockCount;
use treering::grow::verify::{self, HeadVerification};
use treering::grow::{self, Growth, Initialisation};
use treering::model::{Block, Parameter, Precision};
use treering::report::{Align, Table};
use treering::train::foundation::{Foundation, refuse_unfinished};
use treering::{Error, Result};

use super::growth::{GrowthArgs, bytes, describe, grouped, json, listing, ring_rows};
use super::open::{Dtype, Moved};

/// Version of the JSON.
const FORMAT_VERSION: u32 = 1;

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
    /// The base: a Hugging Face folder, a .gguf file or hf://OWNER/NAME; for a further ring a run, one of its checkpoints or an expansion
    model: PathBuf,
    /// The new folder of the expansion
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the base is now, if it has moved since an earlier ring was made
    #[arg(long, value_name = "MODEL")]
    base: Option<PathBuf>,
    #[command(flatten)]
    growth: GrowthArgs,
    /// What base_to_expansion and expansion_to_expansion start from: each zero, random or svd
    #[arg(long, value_name = "W21,W22", default_value_t)]
    init: Initialisation,
    /// Seed of random values
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Prove that the widened model's heads give the logits of the model it grew from, bit for bit; exit code 3 if not
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
    refuse_unfinished(&args.model)?;
    let foundation = Foundation::open_at(&args.model, None, Moved { base: args.base.as_deref(), rings: &[] })?;
    let base = &foundation.base;
    let growth = args.growth.growth(base.config(), None)?;
    growth.placement.check_ring(base.config(), foundation.rings.len())?;
    refuse_existing(&args.out)?;
    let bar = bar("growing", 0);
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        Ok(())
    };
    let parameters = grow::initialise_ring(base, &foundation.rings, &growth, args.init, args.seed, &progress);
    bar.finish_and_clear();
    let parameters = parameters?;

    // Before anything is written: what does not hold leaves nothing behind.
    let verification = if args.verify {
        let precision = args.dtype.map_or(Precision::Bf16, Into::into);
        Some(verify(&foundation, &growth, &parameters, precision)?)
    } else {
        None
    };
    let manifest = Manifest::new(growth, args.init, args.seed, foundation.standing()?, &parameters);
    let expansion = Expansion { manifest, parameters };
    file::save(&args.out, &expansion)?;
    if args.verify && file::load_ring(&args.out, base.config(), &expansion.manifest.base.sha256, &foundation.rings)? != expansion {
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
    super::print(if args.json { json(&report)? } else { text(&report, base) })
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

/// Runs text and random tokens through the model as it was and as it is with the new ring.
fn verify(foundation: &Foundation, growth: &Growth, parameters: &[Parameter], precision: Precision) -> Result<Verification> {
    let base = &foundation.base;
    let (plain, mut widened) = (foundation.model(precision)?, foundation.model(precision)?);
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
            "the {} head is not what it was: {} of {} logits, {} of {} log-probabilities and {} of {} hidden values differ, by up to {:e}; nothing was written",
            head.head,
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

fn text(report: &Report, base: &treering::checkpoint::BaseCheckpoint) -> String {
    let Manifest { growth, init, seed, base: reference, rings, .. } = &report.manifest;
    let mut rows = vec![("base", reference.path.display().to_string()), ("SHA-256", reference.sha256.clone())];
    rows.extend(ring_rows(rings));
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
        // What each head must be: the head that it was, and the new one the last of those.
        let rings = heads.len() - 2;
        let before = |index: usize| match index.min(rings) {
            0 => "the base".to_string(),
            ring => format!("ring {ring} as it was"),
        };
        for (index, head) in heads.iter().enumerate() {
            out.push_str(&format!(
                "Verified: the {} head is {} bit for bit ({} logits of {steps} tokens, {} log-probabilities and {} hidden values of {window_tokens} tokens).\n",
                head.head,
                before(index),
                grouped(head.logits.compared),
                grouped(head.log_probs.compared),
                grouped(head.hidden.compared)
            ));
        }
    }
    out.truncate(out.trim_end().len());
    out
}
