//! What `plan` and `grow` share: the flags that describe a growth, and how numbers and blocks are shown.

use treering::baseline::Baseline;
use treering::checkpoint::Config;
use treering::grow::ring::RingReference;
use treering::grow::{Given, Growth, Module, Placement, Sizes};
use treering::report::{Align, Table};
use treering::{Error, Result};

/// Added sizes and where W12 is trained; what is not given is about an eighth of the base (less beside low-rank parts).
#[derive(Debug, clap::Args)]
pub struct GrowthArgs {
    /// Added width of the residual stream
    #[arg(long, value_name = "N")]
    hidden_size: Option<usize>,
    /// Added query heads
    #[arg(long, value_name = "N")]
    num_attention_heads: Option<usize>,
    /// Added key/value heads
    #[arg(long, value_name = "N")]
    num_key_value_heads: Option<usize>,
    /// Added width of the feed-forward network
    #[arg(long, value_name = "N")]
    intermediate_size: Option<usize>,
    /// The lowest layers whose expansion-to-base block stays zero [default: all; with --modules the lower half]
    #[arg(long, value_name = "N")]
    preserved_layers: Option<usize>,
    /// Train the expansion-to-base block of these modules above the preserved layers: attention, ffn or both
    #[arg(long, value_name = "MODULE", value_delimiter = ',')]
    modules: Vec<Module>,
    /// Beside every expansion-to-base block add low-rank parts of this rank to the base's own weight, in the adapted copy of its stream; 0 for none [default: 0; with --method scale-route 16]
    #[arg(long, value_name = "N")]
    r: Option<usize>,
    /// The lowest layers in which a document's first position stays the base's in the adapted copy too, so that it becomes the base's attention sink [default: 0]
    #[arg(long, value_name = "N")]
    sink_layers: Option<usize>,
}

impl GrowthArgs {
    /// The growth asked for, completed with a method's placement; without a method, Preserve unless a placement is given.
    pub fn growth(&self, config: &Config, method: Option<Placement>) -> Result<Growth> {
        let default = method.unwrap_or_else(|| if self.has_placement() { Placement::adapt(config) } else { Placement::preserve(config) });
        let given = Given {
            hidden_size: self.hidden_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            intermediate_size: self.intermediate_size,
            preserved_layers: self.preserved_layers,
            modules: Some(self.modules.clone()).filter(|modules| !modules.is_empty()),
            r: self.r,
            sink_layers: self.sink_layers,
        };
        Growth::complete(config, default, &given)
    }

    /// Whether a placement is given.
    pub fn has_placement(&self) -> bool {
        self.preserved_layers.is_some() || !self.modules.is_empty() || self.r.is_some() || self.sink_layers.is_some()
    }

    /// Whether anything is given.
    pub fn is_given(&self) -> bool {
        let sizes = [self.hidden_size, self.num_attention_heads, self.num_key_value_heads, self.intermediate_size];
        self.has_placement() || sizes.iter().any(Option::is_some)
    }
}

/// The rings that something stands on, two lines each.
pub fn ring_rows(rings: &[RingReference]) -> impl Iterator<Item = (&'static str, String)> {
    let rows = |(index, ring): (usize, &RingReference)| {
        [("ring", format!("{}: {}", index + 1, ring.path.display())), ("SHA-256", ring.sha256.clone())]
    };
    rings.iter().enumerate().flat_map(rows).collect::<Vec<_>>().into_iter()
}

/// A growth in words.
pub fn describe(growth: &Growth, config: &Config) -> [(&'static str, String); 2] {
    let Sizes { hidden_size, num_attention_heads, num_key_value_heads, intermediate_size } = growth.sizes;
    let placement = if growth.placement.is_preserve(config) {
        "nowhere: the base stream never changes".to_string()
    } else {
        let modules: Vec<&str> = growth.placement.modules.iter().map(|m| m.as_str()).collect();
        format!(
            "{} of layers {} to {}{}",
            modules.join(" and "),
            growth.placement.preserved_layers,
            config.num_hidden_layers - 1,
            growth.placement.beside_paper()
        )
    };
    [
        (
            "added",
            format!(
                "hidden {hidden_size}, heads {num_attention_heads} on {num_key_value_heads} key/value heads, feed-forward {intermediate_size}"
            ),
        ),
        ("expansion to base", placement),
    ]
}

/// What of the base, or which adapters, are trained, in words.
pub fn describe_baseline(baseline: &Baseline, config: &Config) -> (&'static str, String) {
    match baseline {
        Baseline::Full => ("trained", "all of the base".into()),
        Baseline::Freeze(freeze) => {
            let embedding = if freeze.frozen_embedding { " and the input embedding" } else { "" };
            ("frozen", format!("the lowest {} of {} layers{embedding}", freeze.frozen_layers, config.num_hidden_layers))
        }
        Baseline::Lora(lora) => {
            let modules: Vec<&str> = lora.target_modules.iter().map(|p| p.name()).collect();
            let dropout = if lora.lora_dropout > 0.0 { format!(", dropout {}", lora.lora_dropout) } else { String::new() };
            let whole: String = lora.modules_to_save.iter().map(|module| format!("; {} trained whole", module.name())).collect();
            ("adapters", format!("rank {}, lora_alpha {}{dropout}, on {}{whole}", lora.r, lora.lora_alpha, modules.join(", ")))
        }
        Baseline::LlamaPro(pro) => {
            ("copies", format!("{}, one after every {} layers", pro.groups, config.num_hidden_layers / pro.groups.max(1)))
        }
    }
}

/// A table without a meaningful head row: labels and what they stand for, under a title.
pub fn listing<L: Into<String>>(title: &str, value: impl Into<String>, rows: impl IntoIterator<Item = (L, String)>) -> String {
    let mut table = Table::new([(title.to_string(), Align::Left), (value.into(), Align::Left)]);
    for (label, text) in rows {
        table.row([label.into(), text]);
    }
    table.to_text()
}

/// A whole number with its thousands apart.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that leaves them readable.
pub fn bytes(n: u64) -> String {
    let mib = n as f64 / f64::from(1 << 20);
    if mib < 1.0 {
        format!("{:.1} KiB", n as f64 / 1024.0)
    } else if mib < 10_240.0 {
        format!("{mib:.1} MiB")
    } else {
        format!("{:.1} GiB", mib / 1024.0)
    }
}

/// JSON for a person and for a program.
pub fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|error| Error::usage(format!("the result cannot be written as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let shown: Vec<String> = [0, 999, 1000, 134_515_008, u64::MAX].into_iter().map(grouped).collect();
        assert_eq!(shown, ["0", "999", "1,000", "134,515,008", "18,446,744,073,709,551,615"]);
    }

    #[test]
    fn bytes_are_shown_in_a_readable_unit() {
        assert_eq!([512, 3 << 20, 20 << 30].map(bytes), ["0.5 KiB", "3.0 MiB", "20.0 GiB"]);
    }
}
