//! From a recipe back to TOML.

use serde::Serialize;
use toml::{Table, Value};

use super::{DataConfig, EvalConfig, MethodConfig, MethodKind, Recipe, baseline, suite};
use crate::train::TrainConfig;
use crate::train::schedule::ScheduleKind;

/// Every key of a recipe with its value.
pub(super) fn table(recipe: &Recipe) -> Table {
    let mut model = Table::new();
    put(&mut model, "path", recipe.model.path.to_string_lossy());
    put(&mut model, "dtype", recipe.model.dtype);
    let mut route = Table::new();
    put(&mut route, "router", &recipe.routers);
    let sections = [
        ("model", model),
        ("method", method(&recipe.method)),
        ("data", data(&recipe.data)),
        ("train", train(&recipe.train)),
        ("eval", eval(&recipe.eval)),
    ];
    let route = (!recipe.routers.is_empty()).then_some(("route", route));
    sections.into_iter().chain(route).map(|(name, section)| (name.to_string(), Value::Table(section))).collect()
}

pub(super) fn put(table: &mut Table, key: &str, value: impl Serialize) {
    // Only `None` and maps without string keys have no TOML form, and no caller passes those.
    if let Ok(value) = Value::try_from(value) {
        table.insert(key.to_string(), value);
    }
}

fn method(method: &MethodConfig) -> Table {
    let mut table = Table::new();
    put(&mut table, "kind", method.kind);
    if method.kind.widens() {
        let sizes = [
            ("hidden_size", method.hidden_size),
            ("num_attention_heads", method.num_attention_heads),
            ("num_key_value_heads", method.num_key_value_heads),
            ("intermediate_size", method.intermediate_size),
        ];
        for (key, size) in sizes {
            if let Some(size) = size {
                put(&mut table, key, size);
            }
        }
        put(&mut table, "init", method.init);
    }
    if method.kind.widens() || method.kind == MethodKind::Lora {
        put(&mut table, "seed", method.seed);
    }
    baseline::write(method, &mut table);
    if method.kind.adapts() {
        if let Some(layers) = method.preserved_layers {
            put(&mut table, "preserved_layers", layers);
        }
        if let Some(modules) = &method.modules {
            put(&mut table, "modules", modules);
        }
        if let Some(r) = method.r {
            put(&mut table, "r", r);
        }
        if let Some(layers) = method.sink_layers {
            put(&mut table, "sink_layers", layers);
        }
    }
    table
}

fn data(data: &DataConfig) -> Table {
    // The stream's configuration has the keys of this section.
    let mut table = match Value::try_from(&data.stream) {
        Ok(Value::Table(table)) => table,
        _ => Table::new(),
    };
    put(&mut table, "learn", &data.learn);
    put(&mut table, "forget", &data.forget);
    table
}

fn train(train: &TrainConfig) -> Table {
    let schedule = &train.schedule;
    let mut table = Table::new();
    put(&mut table, "steps", schedule.steps);
    put(&mut table, "batch_size", train.batch_size);
    put(&mut table, "gradient_accumulation", train.gradient_accumulation);
    put(&mut table, "learning_rate", train.learning_rates.learning_rate);
    let by_block: Table = train.learning_rates.by_block.iter().map(|(block, rate)| (block.to_string(), Value::Float(*rate))).collect();
    put(&mut table, "learning_rates", by_block);
    put(&mut table, "schedule", schedule.kind);
    put(&mut table, "warmup_steps", schedule.warmup_steps);
    if schedule.kind != ScheduleKind::Constant {
        put(&mut table, "decay_steps", schedule.decay_steps);
        put(&mut table, "learning_rate_floor", schedule.floor);
    }
    put(&mut table, "betas", [train.adamw.beta1, train.adamw.beta2]);
    put(&mut table, "epsilon", train.adamw.epsilon);
    put(&mut table, "weight_decay", train.adamw.weight_decay);
    put(&mut table, "max_gradient_norm", train.max_gradient_norm);
    // Left out where it is off: runs that were started before there was such a key have the same fingerprint still.
    if let Some(spikes) = train.skip_spikes {
        put(&mut table, "skip_spikes", spikes.sigma);
        put(&mut table, "spike_window", spikes.window);
    }
    put(&mut table, "seed", train.seed);
    put(&mut table, "recompute", train.recompute);
    put(&mut table, "checkpoint_every_steps", train.checkpoint_every_steps);
    put(&mut table, "keep_checkpoints", train.keep_checkpoints);
    if let Some(threads) = train.threads {
        put(&mut table, "threads", threads);
    }
    table
}

fn eval(eval: &EvalConfig) -> Table {
    let mut table = Table::new();
    put(&mut table, "every_steps", eval.every_steps);
    put(&mut table, "at_start", eval.at_start);
    put(&mut table, "window", eval.window);
    put(&mut table, "stride", eval.stride);
    put(&mut table, "batch_size", eval.batch_size);
    put(&mut table, "representation", eval.representation);
    suite::write(eval.suite.as_ref(), &mut table);
    table
}
