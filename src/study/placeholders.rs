//! What an override of a study may say of the base: `{layers}`, `{layers/2}`, `{hidden_size*3/4}`.

use crate::checkpoint::Config;
use crate::error::{Error, Result};

/// The sizes of a base that overrides may name.
const NAMES: [&str; 5] = ["layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"];

/// Puts numbers of the base in the place of every `{NAME}`, `{NAME/N}`, `{NAME*N}` and `{NAME*N/N}` in `text`: rounded down, and at least 1. Other braces, such
/// as those of a TOML table, stay.
///
/// # Errors
/// [`Error::Usage`] for a name that is none of the base's sizes, or a number that cannot be used.
pub fn fill(text: &str, config: &Config) -> Result<String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(start) = rest.find('{') {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let end = from.find(['}', '=', ',', '"', ' ']).filter(|&end| from[end..].starts_with('}') && end > 1);
        match end {
            Some(end) => {
                out.push_str(&value(&from[1..end], config, text)?.to_string());
                rest = &from[end + 1..];
            }
            None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    Ok(out + rest)
}

fn value(expression: &str, config: &Config, text: &str) -> Result<usize> {
    let wrong = || {
        Error::usage(format!(
            "`{text}`: `{{{expression}}}` is nothing that is known of the base; expected one of {}, as {{layers}}, {{layers/2}} or {{layers*3/4}}",
            NAMES.join(", ")
        ))
    };
    let (front, divisor) = expression.split_once('/').map_or((expression, "1"), |(front, divisor)| (front, divisor));
    let (name, factor) = front.split_once('*').unwrap_or((front, "1"));
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| (1..=1 << 20).contains(n)).ok_or_else(wrong);
    let size = match NAMES.iter().position(|known| *known == name.trim()).ok_or_else(wrong)? {
        0 => config.num_hidden_layers,
        1 => config.hidden_size,
        2 => config.intermediate_size,
        3 => config.num_attention_heads,
        _ => config.num_key_value_heads,
    };
    Ok((size.saturating_mul(number(factor)?) / number(divisor)?).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_filled_in_and_other_braces_stay() {
        let mut config = Config::new(100, 64, 192, 30, 4);
        config.num_key_value_heads = 2;
        for (text, expected) in [
            ("method.preserved_layers={layers}", "method.preserved_layers=30"),
            ("method={ kind = \"llama-pro\", groups = {layers/5} }", "method={ kind = \"llama-pro\", groups = 6 }"),
            ("a={layers*3/4}", "a=22"),
            ("a={num_key_value_heads/8}", "a=1"),
            ("a={hidden_size*2}", "a=128"),
            ("method={kind=\"full\"}", "method={kind=\"full\"}"),
            ("a={}", "a={}"),
            ("a={", "a={"),
        ] {
            assert_eq!(fill(text, &config).unwrap(), expected);
        }
        for text in ["a={layer}", "a={layers/0}", "a={layers/x}", "a={layers*}"] {
            assert!(fill(text, &config).unwrap_err().to_string().contains("num_key_value_heads"), "{text}");
        }
    }
}
