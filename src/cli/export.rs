//! `treering export`: a trained model as others read it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use treering::baseline::{Baseline, Method, peft};
use treering::checkpoint::{BaseCheckpoint, Dtype as Storage};
use treering::export;
use treering::grow::verify::Difference;
use treering::model::{Model, Parameter, Precision};
use treering::train::{build, checkpoint};
use treering::{Error, Result};

use super::growth::{bytes, grouped, json, listing};
use super::open::{self, Dtype, Moved, Place};

/// Version of the JSON.
const FORMAT_VERSION: u32 = 1;

/// The largest difference of a merged model's numbers, as a share of the largest logit, that rounding in f32 explains.
const ROUNDING: f64 = 1e-4;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum To {
    /// A plain Llama in Hugging Face's layout, adapters merged
    Hf,
    /// An adapter for the library peft
    Peft,
}

/// Arguments of `treering export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A run folder, one of its checkpoints, a PEFT adapter, or a model (a Hugging Face folder or .gguf file)
    model: PathBuf,
    /// The new folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value = "hf")]
    to: To,
    /// How a plain Llama's weights are stored; bf16 rounds them [default: f32]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// The run's checkpoint of this step [default: the newest]
    #[arg(long, value_name = "STEP")]
    step: Option<u64>,
    /// Where the base is now, if it has moved
    #[arg(long, value_name = "MODEL")]
    base: Option<PathBuf>,
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
    /// Of the plain Llama, or of the adapter.
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
struct Source {
    base: BaseCheckpoint,
    /// Absent for a model that nothing was trained on.
    baseline: Option<Baseline>,
    parameters: Vec<Parameter>,
    step: Option<u64>,
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
    let source = open(&args)?;
    let Source { base, baseline, parameters, step } = &source;
    let method = baseline.as_ref().map_or("none", Baseline::as_str);
    let count = match (args.to, baseline) {
        (To::Peft, Some(Baseline::Lora(lora))) => {
            let base_path = std::path::absolute(base.local_path()).map_err(|error| Error::io(base.path(), error))?;
            peft::save(&args.out, lora, &base_path, &base.sha256()?, parameters)?;
            parameters.iter().map(|p| p.value.len() as u64).sum()
        }
        (To::Peft, _) => {
            return Err(Error::usage(format!(
                "--to peft: {} has no adapters (its method is {method})\n  hint: --to hf writes a plain Llama",
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
    let verification = if args.verify { Some(verify(&args, &source)?) } else { None };
    let report = Report {
        format_version: FORMAT_VERSION,
        to: args.to,
        method,
        step: *step,
        parameters: count,
        bytes: folder_bytes(&args.out)?,
        seconds: start.elapsed().as_secs_f64(),
        path: args.out,
        verification,
    };
    super::print(if args.json { json(&report)? } else { text(&report, base) })
}

fn open(args: &Args) -> Result<Source> {
    let place = open::place(&args.model, args.step)?;
    if args.step.is_some() && !matches!(place, Place::Run(..)) {
        return Err(Error::usage(format!("--step chooses a run's checkpoint, and {} is no run", args.model.display())));
    }
    let widened = |what: &str| {
        Error::usage(format!(
            "{}: {what} norms its two streams apart, so it is no plain Llama and cannot be written as one\n  hint: eval and generate read it as it is",
            args.model.display()
        ))
    };
    match place {
        Place::Model => Ok(Source { base: BaseCheckpoint::open(&args.model)?, baseline: None, parameters: Vec::new(), step: None }),
        Place::Expansion => Err(widened("a widened model")),
        Place::Adapter => {
            let (base, baseline, parameters) = open::adapter(&args.model, args.base.as_deref())?;
            Ok(Source { base, baseline: Some(baseline), parameters, step: None })
        }
        Place::Run(run, step) => {
            let opened = build::open_checkpoint(&run, step, Moved { base: args.base.as_deref(), rings: &[] })?;
            let Method::Baseline(baseline) = opened.recipe.method(opened.foundation.base.config())? else {
                return Err(widened(&format!("a model widened by `{}`", opened.recipe.method.kind.as_str())));
            };
            let expected = build::expected_parameters(&opened.recipe, opened.foundation.base.config())?;
            let parameters = checkpoint::load_trained(&opened.path, &expected)?;
            Ok(Source { base: opened.foundation.base, baseline: Some(baseline), parameters, step: Some(opened.step) })
        }
    }
}

/// Reads the folder back; one that does not hold is removed.
fn verify(args: &Args, source: &Source) -> Result<Verification> {
    let Source { base, baseline, parameters, .. } = source;
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
    let limit = if merged { ROUNDING * largest_logit } else { 0.0 };
    let holds = if merged { difference.largest <= limit } else { difference.is_none() };
    if !holds {
        std::fs::remove_dir_all(&args.out).map_err(|error| Error::io(&args.out, error))?;
        return Err(Error::Check(format!(
            "what was written differs from the model by up to {:e}, where {limit:e} is allowed; {} was removed",
            difference.largest,
            args.out.display()
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
        To::Hf => "a plain Llama in Hugging Face's layout",
        To::Peft => "an adapter for peft",
    };
    let mut rows = vec![
        ("written", format!("{what}, {}", bytes(report.bytes))),
        ("method", report.method.to_string()),
        ("base", base.path().display().to_string()),
        ("parameters", grouped(report.parameters)),
    ];
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
