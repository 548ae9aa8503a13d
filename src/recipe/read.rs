//! From a TOML table to a checked recipe, section by section.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::section::Section;
use super::{DataConfig, EvalConfig, MOST, MethodConfig, MethodKind, ModelConfig, Recipe, baseline, suite};
use crate::baseline::Lora;
use crate::data::{CorpusConfig, Format, HeldOutConfig, Split, StreamConfig, TrainSource};
use crate::error::{Error, Result};
use crate::files::pattern::WILDCARDS;
use crate::grow::{Initial, Initialisation, Module};
use crate::hub::SCHEME;
use crate::model::{Block, Precision};
use crate::route::{self, Router};
use crate::train::TrainConfig;
use crate::train::optimizer::AdamWConfig;
use crate::train::schedule::{LearningRates, Schedule, ScheduleKind};
use crate::train::spikes::SpikeConfig;

/// TOML's whole numbers end here.
const MOST_SEED: u64 = i64::MAX as u64;

pub(super) fn recipe(table: Table, folder: &Path) -> Result<Recipe> {
    let misplaced = misplaced(&table);
    read(table, folder).map_err(|error| match (error, misplaced) {
        (Error::Usage(message), Some((key, hint))) if message.starts_with(&format!("unknown key `{key}`")) => {
            Error::Usage(format!("unknown key `{key}`\n  hint: {hint}"))
        }
        (error, _) => error,
    })
}

/// The first key that would be right in another section.
fn misplaced(table: &Table) -> Option<(String, String)> {
    const HOME: [(&str, &[&str]); 5] = [
        (
            "data",
            &[
                "sequence_length",
                "document_mask",
                "open_documents",
                "packing",
                "response_template",
                "learn",
                "forget",
                "max_held_out_tokens",
                "skip_bad_records",
            ],
        ),
        (
            "train",
            &["steps", "learning_rate", "gradient_accumulation", "warmup_steps", "weight_decay", "recompute", "threads", "skip_spikes"],
        ),
        (
            "method",
            &[
                "hidden_size",
                "num_attention_heads",
                "num_key_value_heads",
                "intermediate_size",
                "init",
                "preserved_layers",
                "sink_layers",
                "modules",
                "lora_alpha",
                "lora_dropout",
                "target_modules",
                "frozen_layers",
                "groups",
            ],
        ),
        ("model", &["dtype"]),
        ("route", &["router"]),
    ];
    let home = |key: &str| HOME.iter().find(|(_, keys)| keys.contains(&key)).map(|(section, _)| *section);
    table.iter().find_map(|(name, value)| match value {
        Value::Table(section) => section.keys().find_map(|key| {
            let home = home(key).filter(|home| home != name)?;
            Some((format!("{name}.{key}"), format!("`{key}` belongs to [{home}]")))
        }),
        _ => home(name).map(|home| (name.clone(), format!("`{name}` belongs to [{home}]"))),
    })
}

fn read(table: Table, folder: &Path) -> Result<Recipe> {
    let mut all = Section::new("", table);
    let (model, method, data) = (all.section("model")?, all.section("method")?, all.section("data")?);
    let (train, eval, route) = (all.section("train")?, all.section("eval")?, all.section("route")?);
    all.finish()?;
    let model = read_model(model, folder)?;
    let data = read_data(data, folder)?;
    let (kind, method) = read_kind(method)?;
    let train = read_train(train, kind)?;
    let method = read_method(method, kind, train.seed)?;
    if kind.adapts() {
        check_low_rank_rates(&train.learning_rates, method.r.unwrap_or(kind.default_rank()))?;
    }
    if let Some(lora) = &method.lora {
        check_whole_rate(&train.learning_rates, lora)?;
    }
    let eval = read_eval(eval, &data, &train, folder)?;
    let routers = read_route(route, kind)?;
    Ok(Recipe { model, method, data, train, eval, routers })
}

fn missing(section: &Section, key: &str, example: &str) -> Error {
    section.error(key, format!("is missing; for example {key} = {example}"))
}

pub(super) fn absolute(folder: &Path, path: &str) -> String {
    if path.starts_with(SCHEME) {
        return path.into();
    }
    // Paths come from TOML strings, and `folder` is printed in messages only where it is not UTF-8.
    folder.join(path).to_string_lossy().into_owned()
}

fn read_model(mut section: Section, folder: &Path) -> Result<ModelConfig> {
    let path = section.string("path")?.ok_or_else(|| missing(&section, "path", "\"models/SmolLM2-135M-Instruct\""))?;
    let dtype = section.choice("dtype", &[("f32", Precision::F32), ("bf16", Precision::Bf16)])?.unwrap_or(Precision::Bf16);
    section.finish()?;
    Ok(ModelConfig { path: PathBuf::from(absolute(folder, &path)), dtype })
}

fn read_kind(mut section: Section) -> Result<(MethodKind, Section)> {
    let kind = section.choice("kind", &MethodKind::ALL)?.ok_or_else(|| missing(&section, "kind", "\"scale-preserve\""))?;
    Ok((kind, section))
}

fn read_method(mut section: Section, kind: MethodKind, seed: u64) -> Result<MethodConfig> {
    const MODULES: [(&str, Module); 2] = [("attention", Module::Attention), ("ffn", Module::Ffn)];
    baseline::refuse_keys_of_others(&section, kind)?;
    let mut method = MethodConfig {
        kind,
        hidden_size: section.count("hidden_size", 1..=MOST)?,
        num_attention_heads: section.count("num_attention_heads", 1..=MOST)?,
        num_key_value_heads: section.count("num_key_value_heads", 1..=MOST)?,
        intermediate_size: section.count("intermediate_size", 1..=MOST)?,
        init: Initialisation::default(),
        preserved_layers: section.count("preserved_layers", 0..=MOST)?,
        modules: None,
        r: None,
        sink_layers: section.count("sink_layers", 0..=MOST)?,
        lora: None,
        frozen_layers: None,
        frozen_embedding: true,
        groups: None,
        seed: section.whole("seed", 0..=MOST_SEED)?.unwrap_or(seed),
    };
    let init = read_init(&mut section)?;
    let modules = section.choice_list("modules", &MODULES)?;
    let sized = [method.hidden_size, method.num_attention_heads, method.num_key_value_heads, method.intermediate_size];
    if !kind.widens() && (init.is_some() || sized.iter().any(Option::is_some)) {
        return Err(Error::usage(format!(
            "method: `{}` adds nothing to the base's width, so sizes and init have no meaning there",
            kind.as_str()
        )));
    }
    if !kind.adapts() && (method.preserved_layers.is_some() || modules.is_some() || method.sink_layers.is_some()) {
        return Err(Error::usage(format!(
            "method: preserved_layers, sink_layers and modules say where expansion_to_base is trained, and `{}` trains it nowhere\n  hint: kind = \"scale-adapt\" does",
            kind.as_str()
        )));
    }
    method.modules = modules;
    method.init = init.unwrap_or_default();
    baseline::read(&mut section, kind, &mut method)?;
    section.finish()?;
    Ok(method)
}

/// `init = "svd,zero"`, or a table with a name for each block.
fn read_init(section: &mut Section) -> Result<Option<Initialisation>> {
    const KINDS: [(&str, Initial); 3] = [("zero", Initial::Zero), ("random", Initial::Random), ("svd", Initial::Svd)];
    match section.take("init") {
        None => Ok(None),
        Some(Value::String(pair)) => pair.parse().map(Some).map_err(|error: Error| match error {
            Error::Usage(message) => Error::Usage(format!("method.{message}")),
            other => other,
        }),
        Some(Value::Table(table)) => {
            let mut inner = Section::new(section.name("init"), table);
            let default = Initialisation::default();
            let init = Initialisation {
                base_to_expansion: inner.choice("base_to_expansion", &KINDS)?.unwrap_or(default.base_to_expansion),
                expansion_to_expansion: inner.choice("expansion_to_expansion", &KINDS)?.unwrap_or(default.expansion_to_expansion),
            };
            inner.finish()?;
            Ok(Some(init))
        }
        Some(_) => Err(section
            .error("init", "expected a pair such as \"svd,zero\" or { base_to_expansion = \"svd\", expansion_to_expansion = \"zero\" }")),
    }
}

fn read_data(mut section: Section, folder: &Path) -> Result<DataConfig> {
    let skip = section.boolean("skip_bad_records")?.unwrap_or(false);
    let mut sources = Vec::new();
    for mut table in section.tables("train")? {
        let weight = table.number("weight", |w| w > 0.0, "a weight above 0")?.unwrap_or(1.0);
        let CorpusConfig { path, text_field, format, split, skip_bad_records } = read_corpus(&mut table, skip, folder)?;
        table.finish()?;
        sources.push(TrainSource { path, weight, text_field, format, split, skip_bad_records });
    }
    if sources.is_empty() {
        return Err(missing(&section, "train", "[\"corpora/*.jsonl\"]"));
    }
    let max_tokens = section.whole("max_held_out_tokens", 1..=MOST_SEED)?;
    let learn = read_held_out(&mut section, "learn", max_tokens, &[], skip, folder)?;
    let forget = read_held_out(&mut section, "forget", max_tokens, &learn, skip, folder)?;
    let mut stream = StreamConfig::new(sources, section.count("sequence_length", 2..=1 << 20)?.unwrap_or(512));
    stream.document_mask = section.boolean("document_mask")?.unwrap_or(stream.document_mask);
    stream.open_documents = section.count("open_documents", 1..=1 << 16)?.unwrap_or(stream.open_documents);
    stream.packing = section.boolean("packing")?.unwrap_or(stream.packing);
    stream.response_template = section.string("response_template")?;
    stream.validate()?;
    section.finish()?;
    Ok(DataConfig { stream, learn, forget })
}

fn read_held_out(
    section: &mut Section,
    key: &'static str,
    max_tokens: Option<u64>,
    others: &[HeldOutConfig],
    skip: bool,
    folder: &Path,
) -> Result<Vec<HeldOutConfig>> {
    let mut corpora: Vec<HeldOutConfig> = Vec::new();
    for mut table in section.tables(key)? {
        let given = table.string("name")?;
        let max_documents = table.whole("max_documents", 1..=MOST_SEED)?;
        let max_tokens = table.whole("max_tokens", 1..=MOST_SEED)?.or(max_tokens);
        let CorpusConfig { path, text_field, format, split, skip_bad_records } = read_corpus(&mut table, skip, folder)?;
        let name = given.unwrap_or_else(|| corpus_name(&path));
        if corpora.iter().chain(others).any(|corpus| corpus.name == name) {
            return Err(table.error(
                "name",
                format!("two held-out corpora are named `{name}`\n  hint: give one another name, {{ name = \"…\", path = \"…\" }}"),
            ));
        }
        table.finish()?;
        corpora.push(HeldOutConfig { name, path, text_field, format, split, skip_bad_records, max_documents, max_tokens });
    }
    Ok(corpora)
}

/// The keys that every corpus has; `skip` is what holds where one does not say.
fn read_corpus(table: &mut Section, skip: bool, folder: &Path) -> Result<CorpusConfig> {
    let path = table.string("path")?.ok_or_else(|| missing(table, "path", "\"corpora/*.jsonl\""))?;
    let mut corpus = CorpusConfig::new(absolute(folder, &path));
    corpus.text_field = table.string("text_field")?.unwrap_or(corpus.text_field);
    corpus.format = table.choice("format", &[("jsonl", Format::Jsonl), ("text", Format::Text), ("parquet", Format::Parquet)])?;
    let splits = [("file", Split::File), ("blank-lines", Split::BlankLines), ("lines", Split::Lines)];
    corpus.split = table.choice("split", &splits)?.unwrap_or(corpus.split);
    corpus.skip_bad_records = table.boolean("skip_bad_records")?.unwrap_or(skip);
    Ok(corpus)
}

/// `a/wikinews.heldout.jsonl.zst` is `wikinews`; a glob takes the name of the folder it searches.
fn corpus_name(path: &str) -> String {
    let mut parts = path.rsplit(['/', '\\']).filter(|part| !part.is_empty());
    let part = parts.find(|part| !part.contains(WILDCARDS)).unwrap_or("corpus");
    // hf://datasets/OWNER/NAME@REVISION
    let part = if path.starts_with(SCHEME) { part.split('@').next().unwrap_or(part) } else { part };
    part.split('.').find(|stem| !stem.is_empty()).unwrap_or("corpus").to_string()
}

fn read_train(mut section: Section, method: MethodKind) -> Result<TrainConfig> {
    let steps = section.whole("steps", 1..=1_000_000_000)?.ok_or_else(|| missing(&section, "steps", "300"))?;
    let kind = section.choice("schedule", &ScheduleKind::ALL)?.unwrap_or(ScheduleKind::Constant);
    let warmup_steps = section.whole("warmup_steps", 0..=MOST)?.unwrap_or(0);
    let decay_steps = section.whole("decay_steps", 0..=MOST)?;
    let floor = section.number("learning_rate_floor", |f| (0.0..=1.0).contains(&f), "a share of the peak, 0 to 1")?;
    if kind == ScheduleKind::Constant && floor.is_some() {
        return Err(section.error("learning_rate_floor", "a constant schedule has no floor"));
    }
    let schedule = Schedule::new(kind, steps, warmup_steps, decay_steps, floor.unwrap_or(0.0))?;
    let is_rate = |rate: f64| (0.0..=10.0).contains(&rate);
    const RATE: &str = "a learning rate from 0 to 10";
    let default_rate = baseline::learning_rate(method).unwrap_or(if method == MethodKind::Full { 1e-4 } else { 1e-3 });
    let learning_rate = section.number("learning_rate", is_rate, RATE)?.unwrap_or(default_rate);
    let mut by_block = section.section("learning_rates")?.numbers(&Block::ALL.map(|block| (block.as_str(), block)), is_rate, RATE)?;
    check_blocks(method, by_block.keys())?;
    if method.adapts() {
        by_block.entry(Block::ExpansionToBase).or_insert(method.expansion_to_base_rate(learning_rate));
    }
    let [beta1, beta2] = section.pair("betas", |b| (0.0..1.0).contains(&b), "at least 0 and below 1")?.unwrap_or([0.9, 0.999]);
    let config = TrainConfig {
        schedule,
        learning_rates: LearningRates { learning_rate, by_block },
        adamw: AdamWConfig {
            beta1,
            beta2,
            epsilon: section.number("epsilon", |e| e > 0.0 && e <= 1.0, "above 0 and at most 1")?.unwrap_or(1e-8),
            weight_decay: section.number("weight_decay", |w| (0.0..=10.0).contains(&w), "from 0 to 10")?.unwrap_or(0.01),
        },
        batch_size: section.count("batch_size", 1..=1 << 16)?.unwrap_or(8),
        gradient_accumulation: section.count("gradient_accumulation", 1..=1 << 16)?.unwrap_or(1),
        max_gradient_norm: section.number("max_gradient_norm", |n| n >= 0.0, "0 (off) or above")?.unwrap_or(1.0),
        skip_spikes: read_spikes(&mut section)?,
        seed: section.whole("seed", 0..=MOST_SEED)?.unwrap_or(42),
        recompute: section.boolean("recompute")?.unwrap_or(false),
        checkpoint_every_steps: section.whole("checkpoint_every_steps", 0..=MOST)?.unwrap_or(100),
        keep_checkpoints: section.count("keep_checkpoints", 0..=MOST)?.unwrap_or(2),
        threads: section.count("threads", 1..=4096)?,
    };
    section.finish()?;
    Ok(config)
}

/// `skip_spikes = 6` and the window that it looks back on; 0 is off.
fn read_spikes(section: &mut Section) -> Result<Option<SpikeConfig>> {
    let sigma = section.number("skip_spikes", |s| s >= 0.0, "0 (off) or a number of standard deviations")?.unwrap_or(0.0);
    let window = section.count("spike_window", 4..=1 << 16)?;
    match (sigma > 0.0, window) {
        (false, Some(_)) => Err(section.error("spike_window", "is used with skip_spikes only; for example skip_spikes = 6")),
        (false, None) => Ok(None),
        (true, window) => Ok(Some(SpikeConfig { sigma, window: window.unwrap_or(128) })),
    }
}

/// Refuses rates of blocks that the method does not train: they would be read and never used.
fn check_blocks<'a>(method: MethodKind, blocks: impl Iterator<Item = &'a Block>) -> Result<()> {
    for &block in blocks {
        let trained = match method {
            MethodKind::Full | MethodKind::Freeze | MethodKind::LlamaPro => block == Block::Base,
            // Whether any module is trained whole is for [`check_whole_rate`] to say.
            MethodKind::Lora => matches!(block, Block::Base | Block::LoraA | Block::LoraB),
            MethodKind::ScalePreserve => block.is_expansion() && block != Block::ExpansionToBase,
            // Whether there are low-rank parts is for [`check_low_rank_rates`] to say.
            MethodKind::ScaleAdapt | MethodKind::ScaleRoute => block != Block::Base,
        };
        if !trained {
            return Err(Error::usage(format!("train.learning_rates.{block}: the method `{}` does not train this block", method.as_str())));
        }
    }
    Ok(())
}

/// Refuses rates of low-rank parts that there are not.
pub(super) fn check_low_rank_rates(rates: &LearningRates, r: usize) -> Result<()> {
    let blocks: &[Block] = if r == 0 { &[Block::LoraA, Block::LoraB] } else { &[] };
    refuse_rates(rates, blocks, "method.r = 16 adds it beside expansion_to_base")
}

/// Refuses the rate of modules that are trained whole beside adapters where there are none.
fn check_whole_rate(rates: &LearningRates, lora: &Lora) -> Result<()> {
    let blocks: &[Block] = if lora.modules_to_save.is_empty() { &[Block::Base] } else { &[] };
    refuse_rates(rates, blocks, "method.modules_to_save = [\"embed_tokens\"] trains the embedding whole")
}

/// Refuses rates of blocks of which nothing is trained.
fn refuse_rates(rates: &LearningRates, blocks: &[Block], hint: &str) -> Result<()> {
    match rates.by_block.keys().find(|block| blocks.contains(block)) {
        Some(block) => Err(Error::usage(format!("train.learning_rates.{block}: nothing of this block is trained\n  hint: {hint}"))),
        None => Ok(()),
    }
}

fn read_eval(mut section: Section, data: &DataConfig, train: &TrainConfig, folder: &Path) -> Result<EvalConfig> {
    let window = section.count("window", 2..=1 << 20)?.unwrap_or(data.stream.sequence_length);
    let stride = section.count("stride", 1..=1 << 20)?.unwrap_or(window.div_ceil(2));
    if stride > window {
        return Err(section.error("stride", format!("{stride} is more than the window of {window}, so tokens would be left out")));
    }
    let config = EvalConfig {
        every_steps: section.whole("every_steps", 0..=MOST)?.unwrap_or(0),
        at_start: section.boolean("at_start")?.unwrap_or(true),
        window,
        stride,
        batch_size: section.count("batch_size", 1..=1 << 16)?.unwrap_or(train.batch_size),
        representation: section.boolean("representation")?.unwrap_or(false),
        suite: suite::read(&mut section, folder)?,
    };
    section.finish()?;
    Ok(config)
}

/// `router = "bayes"`, or a list of routers; each may have settings.
fn read_route(mut section: Section, method: MethodKind) -> Result<Vec<Router>> {
    let texts = match section.take("router") {
        None => None,
        Some(Value::String(text)) => Some(vec![text]),
        Some(Value::Array(items)) => Some(
            items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    other => Err(section.error("router", format!("expected routers such as \"bayes:share=0.01\", found {other}"))),
                })
                .collect::<Result<_>>()?,
        ),
        Some(other) => return Err(section.error("router", format!("expected a router such as \"bayes\" or a list of them, found {other}"))),
    };
    let routers = match texts {
        Some(texts) if texts.is_empty() => Vec::new(),
        Some(texts) => route::parse_list(&texts.join(",")).map_err(|error| match error {
            Error::Usage(message) => section.error("router", message),
            other => other,
        })?,
        None if method == MethodKind::ScaleRoute => vec![Router::default()],
        None => Vec::new(),
    };
    if let Some((router, made)) = routers.iter().find_map(|router| Some((router, router.asks()?))) {
        let message = format!(
            "`{router}` asks what is made after a run\n  hint: `treering {made} RUN`, then `treering eval RUN` and `generate --router {made}` ask it"
        );
        return Err(section.error("router", message));
    }
    if method == MethodKind::ScaleRoute && routers.is_empty() {
        return Err(section.error("router", "`scale-route` needs a router\n  hint: leave the key out for the default one"));
    }
    section.finish()?;
    Ok(routers)
}
