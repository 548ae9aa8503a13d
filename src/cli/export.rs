//! `treering export`: a trained model as others read it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use treering::baseline::{Baseline, Method, peft};
use treering::checkpoint::{BaseCheckpoint, Dtype as Storage};
use treering::export::description::Speaker;
use treering::export::{self, card, widened};
use treering::grow::verify::Difference;
use treering::model::{Head, Model, Parameter, Precision};
use treering::recipe::MethodKind;
use treering::route::Router;
use treering::train::{Foundation, build, checkpoint};
use treering::{Error, Result};

use super::growth::{bytes, grouped, json, listing};
use super::open::{self, At, Dtype, Place};

/// Version of the JSON.
const FORMAT_VERSION: u32 = 1;

/// The largest difference of a merged model's numbers, as a share of the largest logit, that rounding in f32 explains.
const ROUNDING: f64 = 1e-4;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum To {
    /// A folder for transformers: a widened model with code of its own, anything else as a plain model of its family, adapters merged
    Hf,
    /// An adapter for the library peft
    Peft,
}

/// Arguments of `treering export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A run folder, one of its checkpoints, an expansion, a PEFT adapter, or a model (a Hugging Face folder or .gguf file)
    model: PathBuf,
    #[command(flatten)]
    at: At,
    /// The new folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value = "hf")]
    to: To,
    /// How a folder's weights are stored; bf16 rounds them [default: f32]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Whose logits a widened model returns unless asked otherwise: preservation, ring-1 … or adaptation [default: adaptation]
    #[arg(long)]
    head: Option<Head>,
    /// The router that a widened model speaks through unless asked otherwise, for example bayes [default: the run's own, where it has one]
    #[arg(long, conflicts_with = "head")]
    router: Option<Router>,
    /// Bytes of weights in one file of a widened model, beyond which another is begun
    #[arg(long, value_name = "BYTES", default_value_t = widened::MAX_SHARD_BYTES)]
    max_shard_size: u64,
    /// Read the folder back and compare it with the model on random tokens, in f32; exit code 3 and no folder if they differ
    #[arg(long)]
    verify: bool,
    /// Print one JSON object (docs/format.md)
    #[arg(long)]
    json: bool,
}

/// What the command prints.
#[derive(Serialize)]
struct Report {
    format_version: u32,
    path: PathBuf,
    to: To,
    method: &'static str,
    /// The checkpoint's step; null for what is no run.
    step: Option<u64>,
    /// The heads of a widened model; absent for any other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    heads: Vec<Head>,
    /// Of the folder's model, or of the adapter.
    parameters: u64,
    bytes: u64,
    seconds: f64,
    /// Absent without `--verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<Verification>,
}

#[derive(Serialize)]
struct Verification {
    #[serde(flatten)]
    difference: Difference,
    largest_logit: f64,
    /// The largest difference that is allowed: 0 unless adapters were merged.
    limit: f64,
    holds: bool,
}

/// What is exported.
enum Source {
    Plain(Plain),
    Widened(Wide),
}

/// A model of the base's own kind, or adapters for it.
struct Plain {
    base: BaseCheckpoint,
    /// Absent for a model that nothing was trained on.
    baseline: Option<Baseline>,
    parameters: Vec<Parameter>,
    step: Option<u64>,
}

/// A base with rings.
struct Wide {
    foundation: Foundation,
    method: &'static str,
    speaker: Speaker,
    /// The run that trained the newest ring, and its step.
    run: Option<(PathBuf, u64)>,
}

/// Exports.
pub fn run(args: Args) -> Result<()> {
    let start = Instant::now();
    if args.to == To::Peft && args.dtype.is_some() {
        return Err(Error::usage("--dtype: adapters are written in f32"));
    }
    if args.verify && matches!(args.dtype, Some(Dtype::Bf16)) {
        return Err(Error::usage("--verify compares what was written in f32; weights rounded to bf16 are another model's"));
    }
    let plain = match open(&args)? {
        Source::Plain(plain) => plain,
        Source::Widened(wide) => return export_widened(args, &wide, start),
    };
    if args.head.is_some() || args.router.is_some() {
        return Err(Error::usage(format!("--head and --router are for widened models, and {} has one head", args.model.display())));
    }
    let Plain { base, baseline, parameters, step } = &plain;
    let method = baseline.as_ref().map_or("none", Baseline::as_str);
    let count = match (args.to, baseline) {
        (To::Peft, Some(Baseline::Lora(lora))) => {
            let base_path = std::path::absolute(base.local_path()).map_err(|error| Error::io(base.path(), error))?;
            peft::save(&args.out, lora, base, &base_path, parameters)?;
            parameters.iter().map(|p| p.value.len() as u64).sum()
        }
        (To::Peft, _) => {
            return Err(Error::usage(format!(
                "--to peft: {} has no adapters (its method is {method})\n  hint: --to hf writes a plain model",
                args.model.display()
            )));
        }
        (To::Hf, baseline) => {
            let storage = if matches!(args.dtype, Some(Dtype::Bf16)) { Storage::Bf16 } else { Storage::F32 };
            match baseline {
                Some(baseline) => export::plain(&args.out, base, baseline, parameters, storage)?,
                None => base.save_hf(&args.out, storage)?,
            }
            baseline.as_ref().map_or(base.config().clone(), |b| b.model_config(base.config())).parameter_count()
        }
    };
    let verification = if args.verify { Some(verify(&args, &plain)?) } else { None };
    let report = Report {
        format_version: FORMAT_VERSION,
        to: args.to,
        method,
        step: *step,
        heads: Vec::new(),
        parameters: count,
        bytes: folder_bytes(&args.out)?,
        seconds: start.elapsed().as_secs_f64(),
        path: args.out,
        verification,
    };
    super::print(if args.json { json(&report)? } else { text(&report, base) })
}

/// Writes a widened model.
fn export_widened(args: Args, wide: &Wide, start: Instant) -> Result<()> {
    let Wide { foundation, method, speaker, run } = wide;
    if args.to == To::Peft {
        return Err(Error::usage(format!(
            "--to peft: {} is widened (by {method}) and has no adapters\n  hint: --to hf writes it for transformers",
            args.model.display()
        )));
    }
    let card = card::card(&args.out, foundation, *speaker, run.as_ref().map(|(run, step)| (run.as_path(), *step)))?;
    let dtype = if matches!(args.dtype, Some(Dtype::Bf16)) { Storage::Bf16 } else { Storage::F32 };
    widened::save(&args.out, foundation, &widened::Options { speaker: *speaker, dtype, max_shard_bytes: args.max_shard_size, card })?;
    let verification = if args.verify {
        let read = widened::Widened::open(&args.out)?.ok_or_else(|| Error::file(&args.out, "is no widened model any more"))?;
        let (difference, largest_logit) = export::compare(&foundation.model(Precision::F32)?, &read.model()?)?;
        Some(holding(&args.out, difference, largest_logit, 0.0)?)
    } else {
        None
    };
    let values = foundation.rings.iter().flat_map(|ring| &ring.parameters).map(|p| p.value.len() as u64).sum::<u64>();
    let report = Report {
        format_version: FORMAT_VERSION,
        to: args.to,
        method,
        step: run.as_ref().map(|(_, step)| *step),
        heads: Head::of_rings(foundation.rings.len()),
        parameters: foundation.base.config().parameter_count() + values,
        bytes: folder_bytes(&args.out)?,
        seconds: start.elapsed().as_secs_f64(),
        path: args.out,
        verification,
    };
    super::print(if args.json { json(&report)? } else { text(&report, &foundation.base) })
}

fn open(args: &Args) -> Result<Source> {
    let place = open::place(&args.model, args.at.step)?;
    args.at.check(&args.model, &place)?;
    match place {
        Place::Model => {
            let base = BaseCheckpoint::open(&args.model)?;
            Ok(Source::Plain(Plain { base, baseline: None, parameters: Vec::new(), step: None }))
        }
        Place::Expansion => {
            let foundation = Foundation::open_at(&args.model, None, args.at.moved())?;
            let newest = foundation.rings.last().map(|ring| ring.growth.placement.is_preserve(foundation.base.config()));
            let method = if newest == Some(false) { MethodKind::ScaleAdapt } else { MethodKind::ScalePreserve };
            wide(args, foundation, method, None, None)
        }
        Place::Adapter => {
            let (base, baseline, parameters) = open::adapter(&args.model, args.at.base())?;
            Ok(Source::Plain(Plain { base, baseline: Some(baseline), parameters, step: None }))
        }
        Place::Run(run, step) => {
            let opened = build::open_checkpoint(&run, step, args.at.moved())?;
            let Method::Baseline(baseline) = opened.recipe.method(opened.foundation.base.config())? else {
                let (recipe, step) = (opened.recipe, opened.step);
                let mut foundation = opened.foundation;
                let source = open::RingSource::at(&run, Some(step))?;
                foundation.add(&source.ok_or_else(|| Error::usage(format!("{}: is no run any more", run.display())))?)?;
                // As `generate` has it: a run with a router is that router.
                let router = recipe.own_router();
                return wide(args, foundation, recipe.method.kind, router, Some((run, step)));
            };
            let expected = build::expected_parameters(&opened.recipe, opened.foundation.base.config())?;
            let parameters = checkpoint::load_trained(&opened.path, &expected)?;
            Ok(Source::Plain(Plain { base: opened.foundation.base, baseline: Some(baseline), parameters, step: Some(opened.step) }))
        }
    }
}

/// A widened model and who speaks for it: what was asked for, or else `router` of its run, or else what it learnt last.
fn wide(args: &Args, foundation: Foundation, method: MethodKind, router: Option<Router>, run: Option<(PathBuf, u64)>) -> Result<Source> {
    let heads = Head::of_rings(foundation.rings.len());
    let head = args.head.unwrap_or(Head::Adaptation);
    if !heads.contains(&head) {
        let names: Vec<String> = heads.iter().map(Head::to_string).collect();
        return Err(Error::usage(format!("--head {head}: the heads of {} are {}", args.model.display(), names.join(", "))));
    }
    if let Some((router, made)) = args.router.and_then(|router| Some((router, router.asks()?))) {
        return Err(Error::usage(format!(
            "--router {router}: it asks what `treering {made}` makes, which an exported model does not carry\n  hint: bayes, bayes-confidence, confidence and cosine \
             go with the model; `treering generate --router {made}` asks it here"
        )));
    }
    let router = args.router.or(router.filter(|_| args.head.is_none()));
    Ok(Source::Widened(Wide { foundation, method: method.as_str(), speaker: Speaker { head, router }, run }))
}

/// Reads the folder back; one that does not hold is removed.
fn verify(args: &Args, plain: &Plain) -> Result<Verification> {
    let Plain { base, baseline, parameters, .. } = plain;
    let model = |baseline: Option<&Baseline>, base: &BaseCheckpoint, parameters: &[Parameter]| match baseline {
        None => Model::from_base(base, Precision::F32, false),
        Some(baseline) => {
            let mut model = Model::from_baseline(base, Precision::F32, baseline)?;
            model.set_parameters(parameters.to_vec())?;
            Ok(model)
        }
    };
    let ours = model(baseline.as_ref(), base, parameters)?;
    let theirs = match args.to {
        To::Hf => Model::from_base(&BaseCheckpoint::open(&args.out)?, Precision::F32, false)?,
        To::Peft => {
            let (lora, read) = peft::load(&args.out, base)?;
            model(Some(&Baseline::Lora(lora)), base, &read)?
        }
    };
    let (difference, largest_logit) = export::compare(&ours, &theirs)?;
    let merged = args.to == To::Hf && matches!(baseline, Some(Baseline::Lora(_)));
    holding(&args.out, difference, largest_logit, if merged { ROUNDING * largest_logit } else { 0.0 })
}

/// What was found, where it is within `limit` (0 for the same bits); the folder `out` is removed otherwise.
fn holding(out: &Path, difference: Difference, largest_logit: f64, limit: f64) -> Result<Verification> {
    let holds = if limit > 0.0 { difference.largest <= limit } else { difference.is_none() };
    if !holds {
        std::fs::remove_dir_all(out).map_err(|error| Error::io(out, error))?;
        return Err(Error::Check(format!(
            "what was written differs from the model by up to {:e}, where {limit:e} is allowed; {} was removed",
            difference.largest,
            out.display()
        )));
    }
    Ok(Verification { difference, largest_logit, limit, holds })
}

fn folder_bytes(folder: &Path) -> Result<u64> {
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))?;
    entries.map(|entry| entry.and_then(|entry| entry.metadata()).map(|meta| meta.len()).map_err(|error| Error::io(folder, error))).sum()
}

fn text(report: &Report, base: &BaseCheckpoint) -> String {
    let what = match report.to {
        To::Hf if report.heads.is_empty() => "a plain model of its family in Hugging Face's layout",
        To::Hf => "a widened model for transformers (trust_remote_code=True)",
        To::Peft => "an adapter for peft",
    };
    let mut rows = vec![
        ("written", format!("{what}, {}", bytes(report.bytes))),
        ("method", report.method.to_string()),
        ("base", base.path().display().to_string()),
        ("parameters", grouped(report.parameters)),
    ];
    if !report.heads.is_empty() {
        let heads: Vec<String> = report.heads.iter().map(Head::to_string).collect();
        rows.push(("heads", heads.join(", ")));
    }
    rows.extend(report.step.map(|step| ("step", grouped(step))));
    let mut out = listing("export", report.path.display().to_string(), rows);
    if let Some(Verification { difference, limit, .. }) = &report.verification {
        let compared = grouped(difference.compared);
        out.push_str(&if *limit == 0.0 {
            format!("\nVerified: {compared} logits and log-probabilities are the same, bit for bit.")
        } else {
            format!(
                "\nVerified: {compared} logits and log-probabilities differ by at most {:.1e}, within rounding ({limit:.1e}).",
                difference.largest
            )
        });
    }
    out.trim_end().to_string()
}
