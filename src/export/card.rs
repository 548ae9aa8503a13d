//! The model card of an exported widened model: what was done to which base with which text, and what it cost and gained where that was measured.

use std::path::{Component, Path};

use super::description::Speaker;
use crate::checkpoint::{BaseCheckpoint, Config};
use crate::error::{Error, Result};
use crate::grow::ring::Ring;
use crate::hub::HubName;
use crate::model::Head;
use crate::train::Foundation;
use crate::train::foundation::RingSource;
use crate::train::metrics::{self, METRICS_FILE, Record};

/// The largest README of a base that is looked through for its licence.
const MAX_README_BYTES: u64 = 4 << 20;

/// What the card of a base says of it.
struct About {
    /// Its name, for people.
    name: String,
    /// `owner/name`, where it is known to come from a hub.
    id: Option<String>,
    /// Its licence as hubs write it.
    license: Option<String>,
}

/// The text of the card of `foundation`, written to the folder `out`; `run` is the folder of the run that trained the newest ring, where there is one.
///
/// # Errors
/// [`Error::Usage`] where a ring is not where it was; whatever reading the run's metrics returns.
pub fn card(out: &Path, foundation: &Foundation, speaker: Speaker, run: Option<(&Path, u64)>) -> Result<String> {
    let about = about(&foundation.base)?;
    let name = out.file_name().map_or_else(|| "widened".into(), |name| name.to_string_lossy());
    let rings = foundation.rings.len();
    let mut text = front_matter(&about);
    let base = match &about.id {
        Some(id) => format!("[{id}](https://huggingface.co/{id})"),
        None => format!("**{}**", about.name),
    };
    let line = |text: &mut String, part: String| text.push_str(&(part + "\n"));
    line(&mut text, format!("# {name}\n"));
    line(
        &mut text,
        format!(
            "{base}, grown in width with Treering by the method SCALE ([arXiv 2511.03270](https://arxiv.org/abs/2511.03270)): the base's weights are in it \
             unchanged, and beside them {}. Its heads, each a way of asking it:\n",
            if rings == 1 { "one ring of new ones".to_string() } else { format!("{rings} rings of new ones, one around the other") }
        ),
    );
    for head in Head::of_rings(rings) {
        let what = match head {
            Head::Ring(number) => format!("what ring {number} learnt; nothing around it changes what it says"),
            Head::Adaptation => "what the newest ring learnt".into(),
            Head::Preservation | Head::Base => "the base, exactly: its logits are the base's".into(),
        };
        line(&mut text, format!("- `{head}`: {what}"));
    }
    let default = match speaker.router {
        Some(router) => format!("the router `{router}` chooses between the heads token by token"),
        None => format!("the head `{}` speaks", speaker.head),
    };
    line(&mut text, format!("\nUnless told otherwise, {default}.\n"));
    line(&mut text, USE.replace("MODEL", &name));
    line(&mut text, "## How it was made\n".into());
    line(&mut text, format!("Base: {} (SHA-256 as Treering counts it: `{}`).\n", about.name, foundation.base.sha256()?));
    for (index, ring) in foundation.rings.iter().enumerate() {
        line(&mut text, format!("- Ring {}: {}", index + 1, describe(ring, foundation.base.config())?));
    }
    line(&mut text, "\n## Forgetting and learning\n".into());
    line(&mut text, measured(run)?);
    line(&mut text, "## Licence\n".into());
    line(
        &mut text,
        match &about.license {
            Some(license) => format!("The base's licence, `{license}`, applies to its weights, which this model contains. The corpora have licences of their own."),
            None => "The base's licence is not known here. It applies to its weights, which this model contains: look it up before you pass this on.".into(),
        },
    );
    Ok(text)
}

const USE: &str = r#"## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("MODEL", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("MODEL", trust_remote_code=True)
inputs = tokenizer("...", return_tensors="pt")
model.generate(**inputs, max_new_tokens=50, router="bayes")        # or head="preservation", head="adaptation"
```

`from_pretrained(..., head="preservation")` or `router="bayes"` changes who speaks for good, also under `lm_eval --model_args`. Right after loading only the
newest ring is trainable; `treering import MODEL --out RINGS` takes it back, trained further or not.
"#;

fn front_matter(about: &About) -> String {
    let mut text = String::from("---\n");
    text.extend(about.license.iter().map(|license| format!("license: {license}\n")));
    text.extend(about.id.iter().map(|id| format!("base_model: {id}\n")));
    text.push_str("library_name: transformers\npipeline_tag: text-generation\ntags:\n- treering\n- continual-learning\n---\n\n");
    text
}

/// What a ring added and what it was taught, in words.
fn describe(ring: &Ring, config: &Config) -> Result<String> {
    let sizes = &ring.growth.sizes;
    let count: usize = ring.parameters.iter().map(|p| p.value.len()).sum();
    let mut text = format!(
        "{count} parameters (hidden size {}, {} attention heads, {} in the feed-forward network added in each of {} layers); ",
        sizes.hidden_size, sizes.num_attention_heads, sizes.intermediate_size, config.num_hidden_layers
    );
    text += &if ring.growth.placement.is_preserve(config) {
        "it changes nothing within it.".to_string()
    } else {
        let modules: Vec<&str> = ring.growth.placement.modules.iter().map(|m| m.as_str()).collect();
        format!(
            "from layer {} on it also adds to a copy of the base stream ({}){}.",
            ring.growth.placement.preserved_layers,
            modules.join(" and "),
            ring.growth.placement.beside_paper()
        )
    };
    let gone = || Error::usage(format!("{}: is no ring any more", ring.reference.path.display()));
    let source = RingSource::at(&ring.reference.path, None)?.ok_or_else(gone)?;
    let Some((recipe, state)) = source.trained() else { return Ok(text + " What it was taught is not known.") };
    let corpora: Vec<String> = recipe.data.stream.train.iter().map(|source| format!("`{}`", file_name(&source.path))).collect();
    text += &format!(
        " Trained by `{}` for {} steps ({} tokens, windows of {}) on {}.",
        recipe.method.kind.as_str(),
        state.step,
        state.tokens,
        recipe.data.stream.sequence_length,
        corpora.join(", ")
    );
    Ok(text)
}

/// The name without its folders, which are nobody's business.
fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The perplexities that the run wrote down at this step, as a table.
fn measured(run: Option<(&Path, u64)>) -> Result<String> {
    let not = "They were not measured when this was exported.\n".to_string();
    let Some((run, step)) = run else { return Ok(not) };
    let path = run.join(METRICS_FILE);
    if !path.exists() {
        return Ok(not);
    }
    let records = metrics::read(&path)?;
    let values = records.iter().rev().find_map(|record| match record {
        Record::Eval(record) if record.step == step => Some(&record.values),
        _ => None,
    });
    let (mut corpora, mut speakers): (Vec<(&str, &str)>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut cells = Vec::new();
    for (name, value) in values.into_iter().flatten() {
        let parts = name.strip_suffix("/perplexity").and_then(|name| name.split_once('/'));
        let parts = parts.and_then(|(group, rest)| rest.rsplit_once('/').map(|(corpus, speaker)| (group, corpus, speaker)));
        let Some((group @ ("learn" | "forget"), corpus, speaker)) = parts else { continue };
        if !corpora.contains(&(group, corpus)) {
            corpora.push((group, corpus));
        }
        if !speakers.contains(&speaker) {
            speakers.push(speaker);
        }
        cells.push(((group, corpus, speaker), *value));
    }
    if corpora.is_empty() {
        return Ok(not);
    }
    // Heads in their order, then routers.
    speakers.sort_by_key(|speaker| match speaker.parse::<Head>() {
        Ok(Head::Base | Head::Preservation) => 0,
        Ok(Head::Ring(number)) => number,
        Ok(Head::Adaptation) => usize::MAX - 1,
        Err(_) => usize::MAX,
    });
    let titles =
        corpora.iter().map(|(group, corpus)| format!(" {}: {corpus} |", if *group == "learn" { "learning" } else { "forgetting" }));
    let mut text = format!(
        "Perplexity on held-out text at step {step}, as the run wrote it down:\n\n| head or router |{}\n",
        titles.collect::<String>()
    );
    text += &format!("|---|{}\n", "---|".repeat(corpora.len()));
    for speaker in speakers {
        let cell = |(group, corpus): &(&str, &str)| {
            let found = cells.iter().find(|(key, _)| *key == (*group, *corpus, speaker)).and_then(|(_, value)| *value);
            format!(" {} |", found.map_or("–".into(), crate::eval::format_perplexity))
        };
        text += &format!("| `{speaker}` |{}\n", corpora.iter().map(cell).collect::<String>());
    }
    text += "\nThe preservation head's row is the base's.\n";
    Ok(text)
}

/// What is known of a base: from a GGUF file's metadata, from the front matter of a folder's README, or from where it lies.
fn about(base: &BaseCheckpoint) -> Result<About> {
    let path = base.path();
    // An `hf://` name, or the folder of the cache that it stands for.
    let cached = |component| match component {
        Component::Normal(name) => name.to_str()?.strip_prefix("models--")?.split_once("--").map(|(owner, name)| format!("{owner}/{name}")),
        _ => None,
    };
    let id = HubName::of(path)?.map(|name| name.repository).or_else(|| path.components().find_map(cached));
    let own = file_name(&path.to_string_lossy());
    let name = match (&id, base.gguf_text("general.name")?) {
        (Some(id), _) => id.clone(),
        (None, Some(name)) => format!("{name} ({own})"),
        (None, None) => own,
    };
    let license = match base.gguf_text("general.license")? {
        Some(license) => is_license_name(license).then(|| license.to_owned()),
        None => license_of_folder(base.local_path()),
    };
    Ok(About { name, id, license })
}

/// The licence that a folder's README states; nothing where there is none that can be read, since a card is no place to fail.
fn license_of_folder(folder: &Path) -> Option<String> {
    let path = folder.join("README.md");
    std::fs::metadata(&path).ok().filter(|meta| meta.is_file() && meta.len() <= MAX_README_BYTES)?;
    license_of_readme(&std::fs::read_to_string(path).ok()?).map(str::to_owned)
}

/// `license:` of the front matter of a README, whichever line ends it has; nothing where that is not one plain name (a list, a remark).
pub fn license_of_readme(text: &str) -> Option<&str> {
    let mut lines = text.lines();
    lines.next().filter(|first| *first == "---")?;
    let end = lines.clone().position(|line| line.starts_with("---"))?;
    let value = lines.take(end).find_map(|line| line.strip_prefix("license:"))?;
    Some(value.trim().trim_matches(['"', '\''])).filter(|name| is_license_name(name))
}

/// Whether this is a name such as `apache-2.0`, which stands in YAML and in a sentence as it is.
fn is_license_name(text: &str) -> bool {
    let plain = |char: char| char.is_alphanumeric() || matches!(char, '-' | '.' | '_' | '+' | ' ' | '(' | ')' | '/');
    text.starts_with(char::is_alphanumeric) && text.ends_with(|end: char| !end.is_whitespace()) && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_of_a_readme_is_found_with_either_line_end_and_is_a_plain_name() {
        let of = |front: &str| license_of_readme(&format!("---\nlanguage: en\n{front}\n---\n# Base\nlicense: other\n")).map(str::to_owned);
        assert_eq!(of("license: \"apache-2.0\"").as_deref(), Some("apache-2.0"));
        assert_eq!(license_of_readme("---\r\nlicense: mit\r\n---\r\n"), Some("mit"));
        for none in ["", "license:", "license: [mit, other]", "license: mit # of the code", "license: a: b", "license: '- '"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(license_of_readme("license: mit\n"), None, "no front matter");
        assert_eq!(license_of_readme("---\nlicense: mit\n"), None, "front matter without an end");
    }
}
