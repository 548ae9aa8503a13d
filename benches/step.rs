//! Throughput of one mode of training on a real model, as one JSON line; the other side of `peers/torch_bench.py`.
//!
//! `cargo bench --bench step -- --model MODEL --mode preserve --dtype bf16 --batch 4 --length 256 --steps 5 --threads 2`
//! Modes that train: full, lora (rank 16, lora_alpha 32, all linear modules), freeze (the bottom three layers and the embedding frozen), llama-pro
//! (a copy after every fifth of the 30 layers), preserve, adapt (W12 in the attention of the upper half of the layers), adapt-all (W12 everywhere).
//! Modes that only read: forward (the base), and of a model widened as under adapt or adapt-all both heads in one pass, `route` and `route-all`, or
//! its adaptation head alone, `adapted` and `adapted-all`. With `--decode` they read one token after another, `--length` of them, as generation does,
//! after a prompt of as many.
//! `gflops` counts what [`treering::grow::plan`] counts: the matrix products and attention scores that the mode needs, and not
//! what `--recompute` does twice; `counted_gflops` what was carried out. `fraction_of_roof` divides `gflops` by what the same threads reach on
//! multiply-adds in registers, measured in this process.

mod support;

use std::path::PathBuf;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use treering::baseline::{Baseline, Freeze, LlamaPro, Lora, Method};
use treering::checkpoint::{BaseCheckpoint, Config};
use treering::data::batch::Batch;
use treering::grow::plan::{Plan, Request};
use treering::grow::{Growth, Module, Placement, Sizes, layout};
use treering::model::{Gradients, Model, Parameter, Precision};
use treering::ops::count::MultiplyAdds;
use treering::train::optimizer::{AdamWConfig, Optimizer};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Forward,
    Full,
    Lora,
    Freeze,
    LlamaPro,
    Preserve,
    Adapt,
    AdaptAll,
    Route,
    RouteAll,
    Adapted,
    AdaptedAll,
}

impl Mode {
    /// Whether nothing is trained.
    fn only_reads(self) -> bool {
        matches!(self, Self::Forward | Self::Route | Self::RouteAll | Self::Adapted | Self::AdaptedAll)
    }

    /// The one head that speaks, where not all do.
    fn head(self) -> Option<usize> {
        matches!(self, Self::Adapted | Self::AdaptedAll).then_some(1)
    }
}

#[derive(Debug, clap::Parser)]
struct Args {
    /// A Hugging Face folder or a .gguf file
    #[arg(long)]
    model: PathBuf,
    #[arg(long)]
    mode: Mode,
    /// f32 or bf16
    #[arg(long, default_value = "bf16")]
    dtype: String,
    #[arg(long, default_value_t = 4)]
    batch: usize,
    #[arg(long, default_value_t = 256)]
    length: usize,
    #[arg(long, default_value_t = 5)]
    steps: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Run layers again in the backward pass rather than keep what they computed
    #[arg(long)]
    recompute: bool,
    /// Of a mode that only reads: a token at a time, behind a prompt
    #[arg(long)]
    decode: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = <Args as clap::Parser>::parse();
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let precision = match args.dtype.as_str() {
        "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        other => return Err(format!("--dtype {other}: f32 or bf16").into()),
    };
    if args.decode && !args.mode.only_reads() {
        return Err("--decode is for modes that only read: forward, route, route-all, adapted, adapted-all".into());
    }
    let base = BaseCheckpoint::open(&args.model)?;
    let config = base.config().clone();
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let method = method(&config, args.mode);
    let request = Request {
        config: &config,
        rings: &[],
        method: &method,
        name: None,
        precision,
        batch_size: args.batch,
        sequence_length: args.length,
        recompute: false,
        pair: false,
    };
    let flops = Plan::new(&request)?.flops_per_token;
    let flops_per_token = if args.mode.only_reads() { flops.forward.total() } else { flops.total };
    let mut model = match method.baseline().filter(|_| args.mode != Mode::Forward) {
        Some(baseline) => Model::from_baseline(&base, precision, baseline)?,
        None => Model::from_base(&base, precision, false)?,
    };
    if let Some(growth) = method.growth() {
        // Initial values do not change the speed; the decompositions would only cost start-up time.
        let parameters = layout::expansion_parameters(&config, growth)
            .into_iter()
            .map(|expected| {
                let count = expected.shape.iter().product();
                let value = (0..count).map(|_| 0.04 * (random.next_u32() as f32 / u32::MAX as f32 - 0.5)).collect();
                Parameter { name: expected.name, block: expected.block, shape: expected.shape, value }
            })
            .collect();
        model.widen(growth.clone(), parameters)?;
    }
    drop(base);
    if args.mode.only_reads() {
        model.freeze();
    }

    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let trained: usize = model.parameters().iter().map(|p| p.value.len()).sum();
    let mut optimizer = Optimizer::new(adamw, model.parameters());
    let mut gradients = Gradients::zeros(model.parameters());
    let tokens = args.batch * args.length;
    let mut seconds = Vec::new();
    let (mut counted, mut timed) = (0, 0);
    for step in 0..=args.steps {
        let mut token = || random.next_u32() % config.vocab_size as u32;
        let batch = Batch {
            batch_size: args.batch,
            sequence_length: args.length,
            tokens: (0..tokens).map(|_| token()).collect(),
            targets: (0..tokens).map(|_| token()).collect(),
            document_starts: None,
        };
        if args.decode {
            seconds.push(decode(&model, args.mode.head(), &batch.tokens[..args.length])?);
            continue;
        }
        let (start, before) = (Instant::now(), MultiplyAdds::so_far());
        if args.mode.only_reads() {
            args.mode.head().map_or_else(|| model.score(&batch, false), |head| model.score_head(&batch, head))?;
        } else {
            gradients.clear();
            model.loss_and_gradients(&batch, &mut gradients, 1.0 / tokens as f32, args.recompute)?;
            optimizer.update(model.parameters_mut(), &gradients, 1.0, step as u64 + 1, |_| 1e-4)?;
        }
        seconds.push(start.elapsed().as_secs_f64());
        let done = MultiplyAdds::since(before);
        counted = 2 * (done.products + done.attention);
        timed = tokens;
    }
    let tokens = if args.decode { args.length } else { tokens };
    // Read before the roof is measured; the first step pays for allocations and is left out.
    let peak_rss_mib = peak_rss_mib()?;
    let mut seconds = seconds.split_off(1);
    seconds.sort_by(f64::total_cmp);
    let tokens_per_second = tokens as f64 / seconds.get(seconds.len() / 2).ok_or("--steps: at least 1")?;
    let gflops = flops_per_token as f64 * tokens_per_second / 1e9;
    let counted_gflops = counted as f64 / timed.max(1) as f64 * tokens_per_second / 1e9;
    let roof = support::roof(precision);
    let line = serde_json::json!({
        "mode": clap::ValueEnum::to_possible_value(&args.mode).map(|value| value.get_name().to_owned()), "decode": args.decode, "dtype": args.dtype, "threads": args.threads, "batch": args.batch,
        "length": args.length, "trained": trained, "tokens_per_second": round(tokens_per_second, 1), "peak_rss_mib": peak_rss_mib,
        "gflops": round(gflops, 1), "counted_gflops": round(counted_gflops, 1), "roof_gflops": round(roof, 1), "fraction_of_roof": round(gflops / roof, 3),
    });
    println!("{line}");
    Ok(())
}

/// Seconds for reading one token after another behind a prompt of as many.
fn decode(model: &Model, head: Option<usize>, tokens: &[u32]) -> treering::Result<f64> {
    let mut cache = model.new_cache(2 * tokens.len());
    let mut read = |tokens: &[u32]| match head {
        Some(head) => model.step_head(&mut cache, tokens, head).map(drop),
        None => model.step(&mut cache, tokens).map(drop),
    };
    read(tokens)?;
    let start = Instant::now();
    tokens.chunks(1).try_for_each(&mut read)?;
    Ok(start.elapsed().as_secs_f64())
}

fn round(x: f64, digits: i32) -> f64 {
    (x * 10f64.powi(digits)).round() / 10f64.powi(digits)
}

/// What is trained, as in `peers/torch_bench.py` and `peers/scale_torch.py`: the recipes' growth of SmolLM2-135M, `peft`'s `all-linear` of rank 16.
fn method(config: &Config, mode: Mode) -> Method {
    let group = config.num_attention_heads / config.num_key_value_heads;
    let sizes = Sizes { hidden_size: 64, num_attention_heads: group, num_key_value_heads: 1, intermediate_size: 256 };
    let placement = match mode {
        // Nothing is trained in a forward pass; its cost is that of any method's.
        Mode::Forward | Mode::Full => return Method::Baseline(Baseline::Full),
        Mode::Lora => return Method::Baseline(Baseline::Lora(Lora { r: 16, lora_alpha: 32.0, ..Lora::new(0) })),
        Mode::Freeze => return Method::Baseline(Baseline::Freeze(Freeze { frozen_layers: 3, frozen_embedding: true })),
        Mode::LlamaPro => return Method::Baseline(Baseline::LlamaPro(LlamaPro::new(config))),
        Mode::Preserve => Placement::preserve(config),
        Mode::AdaptAll | Mode::RouteAll | Mode::AdaptedAll => Placement::new(0, &Module::ALL),
        Mode::Adapt | Mode::Route | Mode::Adapted => Placement::adapt(config),
    };
    Method::Expansion(Growth { sizes, placement })
}

/// The most memory this process has had in use.
fn peak_rss_mib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(kib.trim().parse::<u64>()? / 1024)
}
