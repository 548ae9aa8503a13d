//! What a [`Gate`](super::Gate) is trained on: tokens of the new text, and tokens of what the model before the newest head says by itself. The latter need
//! no old data: the model is asked for them, unprompted and after the first words of new texts, so that both kinds begin alike.

use rayon::prelude::*;

use super::gate::Example;
use super::state::Signals;
use super::track::Track;
use crate::data::batch::{Batch, IGNORE};
use crate::data::order::Random;
use crate::error::{Error, Result};
use crate::generate::{Sampler, SamplerConfig};
use crate::model::{Extras, Model};

/// Texts scored in one pass.
const ROWS: usize = 8;
/// Samples drawn side by side before progress is told.
const SIDE_BY_SIDE: usize = 8;
/// At most so many first tokens of a new text begin a sample.
const BEGINNING: u64 = 8;

/// Told of work done, of how much; an error ends it.
pub type OnProgress<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// A document, and which of its tokens count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// For each, whether its prediction is an example; the first is predicted by nobody.
    pub counted: Vec<bool>,
    /// For each, whether the newest head was trained to predict it.
    pub trained: Vec<bool>,
}

impl Text {
    /// The documents of a training batch, as far as anything in them was trained on. All of their tokens count.
    pub fn of_batch(batch: &Batch) -> Vec<Self> {
        let length = batch.sequence_length;
        let mut texts = Vec::new();
        for row in 0..batch.batch_size {
            let range = row * length..(row + 1) * length;
            let (tokens, targets) = (&batch.tokens[range.clone()], &batch.targets[range.clone()]);
            let starts = batch.document_starts.as_ref().map(|starts| &starts[range]);
            let begins = |at: usize| at == 0 || starts.is_some_and(|starts| starts[at] as usize == at);
            let firsts: Vec<usize> = (0..length).filter(|&at| begins(at)).chain([length]).collect();
            for pair in firsts.windows(2) {
                let (first, end) = (pair[0], pair[1]);
                // Without a target that counts there is nothing to learn from: padding, or a lone token.
                let Some(last) = (first..end).rev().find(|&at| targets[at] != IGNORE) else { continue };
                let whole = tokens[first..=last].iter().chain([&targets[last]]).copied().collect();
                let trained: Vec<bool> = std::iter::once(false).chain((first..=last).map(|at| targets[at] != IGNORE)).collect();
                let counted = (0..trained.len()).map(|at| at > 0).collect();
                texts.push(Self { tokens: whole, counted, trained });
            }
        }
        texts
    }

    /// The same after one more token, which does not count.
    pub fn after(mut self, token: u32) -> Self {
        self.tokens.insert(0, token);
        self.counted.insert(0, false);
        self.trained.insert(0, false);
        self
    }
}

/// Every token of `texts` that counts, as the last two heads of `model` predict it.
///
/// # Errors
/// [`Error::Usage`] for a model with one head; a token outside the vocabulary or a text longer than the context; what `progress` returns.
pub fn of_texts(model: &Model, texts: &[Text], progress: OnProgress<'_>) -> Result<Vec<Example>> {
    let heads = model.heads().len();
    if heads < 2 {
        return Err(Error::usage("a gate chooses between the heads of a model, and this one has a single head"));
    }
    let extras = Extras { contrast: true, ..Extras::default() };
    let mut examples = Vec::new();
    for (done, rows) in texts.chunks(ROWS).enumerate() {
        let length = rows.iter().map(|text| text.tokens.len().saturating_sub(1)).max().unwrap_or(0);
        if length == 0 {
            continue;
        }
        let mut batch = Batch {
            batch_size: rows.len(),
            sequence_length: length,
            // Padding follows the text, so nothing that counts attends to it.
            tokens: vec![0; rows.len() * length],
            targets: vec![IGNORE; rows.len() * length],
            document_starts: None,
        };
        for (row, text) in rows.iter().enumerate() {
            let begin = row * length;
            for at in 1..text.tokens.len() {
                batch.tokens[begin + at - 1] = text.tokens[at - 1];
                batch.targets[begin + at - 1] = text.tokens[at];
            }
        }
        let scores = model.score_with(&batch, extras)?;
        for (row, text) in rows.iter().enumerate() {
            let mut track = Track::default();
            for at in 1..text.tokens.len() {
                let place = row * length + at - 1;
                let of = |rows: &[Vec<f32>]| rows.iter().map(|row| row[place]).collect::<Vec<f32>>();
                let (largest, log_probs) = (of(&scores.largest), of(&scores.log_probs));
                let signals = Signals { largest: &largest, cosine: 0.0, contrast: scores.contrast.get(place).copied(), read: 0 };
                let log_probs: Vec<f64> = log_probs.iter().map(|&p| f64::from(p)).collect();
                if text.counted[at] {
                    let (features, log_probs) = (track.features(signals), [log_probs[heads - 2], log_probs[heads - 1]]);
                    examples.push(Example { features, log_probs, trained: text.trained[at] });
                }
                track.observe(&log_probs);
            }
        }
        progress(((done + 1) * ROWS).min(texts.len()) as u64, texts.len() as u64)?;
    }
    Ok(examples)
}

/// How the model before the newest head is asked to speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speech {
    /// Number of texts.
    pub samples: usize,
    /// At most so many tokens each, the beginning included.
    pub tokens: usize,
    /// What a text that nobody began begins with: the token that stands before every document, or the one that ends them. None leaves such texts out.
    pub leading: Option<u32>,
    /// Whether the leading token stands before texts that were begun, too, as it does before the new ones.
    pub always_leads: bool,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
    /// Seed of the draws.
    pub seed: u64,
}

/// What the model before the newest head says by itself: a quarter of the texts unprompted, the others after up to eight first tokens of `new` texts.
/// What it was given does not count, what it said does.
///
/// # Errors
/// [`Error::Usage`] for a model with one head, or nothing to begin with; what `progress` returns.
pub fn own_texts(model: &Model, new: &[Text], speech: &Speech, progress: OnProgress<'_>) -> Result<Vec<Text>> {
    let Some(before) = model.heads().len().checked_sub(2) else {
        return Err(Error::usage("a gate chooses between the heads of a model, and this one has a single head"));
    };
    let room = speech.tokens.min(model.config().max_position_embeddings);
    let begin = |sample: usize| -> Option<Vec<u32>> {
        let mut random = Random::new(speech.seed, sample as u64);
        let unprompted = speech.leading.filter(|_| sample.is_multiple_of(4) || new.is_empty());
        if let Some(token) = unprompted {
            return Some(vec![token]);
        }
        let text = &new.get(random.below(new.len() as u64) as usize)?.tokens;
        // A leading token is no word.
        let text = text.strip_prefix(speech.leading.filter(|_| speech.always_leads).as_slice()).unwrap_or(text);
        let count = (1 + random.below(BEGINNING) as usize).min(text.len()).min(room.saturating_sub(2));
        Some(speech.leading.filter(|_| speech.always_leads).into_iter().chain(text[..count].iter().copied()).collect())
    };
    if room < 4 || (new.is_empty() && speech.leading.is_none()) {
        return Err(Error::usage("there is nothing to begin a text with, or no room for one of four tokens"));
    }
    let mut texts = Vec::new();
    for first in (0..speech.samples).step_by(SIDE_BY_SIDE) {
        let here = first..(first + SIDE_BY_SIDE).min(speech.samples);
        let end = here.end;
        let said: Vec<Result<Text>> = here
            .into_par_iter()
            .filter_map(|sample| begin(sample).map(|beginning| (sample, beginning)))
            .map(|(sample, beginning)| speak(model, before, beginning, room, speech, sample as u64))
            .collect();
        for text in said {
            texts.push(text?);
        }
        progress(end as u64, speech.samples as u64)?;
    }
    texts.retain(|text| text.counted.contains(&true));
    Ok(texts)
}

fn speak(model: &Model, head: usize, beginning: Vec<u32>, room: usize, speech: &Speech, sample: u64) -> Result<Text> {
    let sampler = SamplerConfig { temperature: 1.0, seed: speech.seed.wrapping_add(sample), ..SamplerConfig::default() };
    let mut sampler = Sampler::new(sampler)?;
    let mut cache = model.new_cache(room);
    let given = beginning.len();
    let (mut tokens, mut unread) = (beginning.clone(), beginning);
    while tokens.len() < room {
        let logits = model.step_head(&mut cache, &unread, head)?;
        let token = sampler.sample(&logits, &tokens)?;
        if speech.ends.contains(&token) {
            break;
        }
        tokens.push(token);
        unread = vec![token];
    }
    let counted: Vec<bool> = (0..tokens.len()).map(|at| at >= given).collect();
    Ok(Text { tokens, trained: vec![false; counted.len()], counted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grow::Module;
    use crate::model::Precision;
    use crate::model::tests::{base, config, growth, ring};

    fn model() -> Model {
        let c = config(true, false);
        let growth = growth(1, &[Module::Attention]);
        let mut model = Model::from_base(&base(&c), Precision::F32, false).unwrap();
        model.widen(growth.clone(), ring(&c, &[], &growth, false)).unwrap();
        model
    }

    #[test]
    fn a_batch_falls_apart_into_its_documents_and_only_what_was_trained_on_counts() {
        let batch = Batch {
            batch_size: 2,
            sequence_length: 4,
            tokens: vec![1, 2, 3, 4, 5, 6, 0, 0],
            targets: vec![2, IGNORE, 4, 9, IGNORE, 7, IGNORE, IGNORE],
            document_starts: Some(vec![0, 0, 2, 2, 0, 0, 0, 0]),
        };
        let text = |tokens: &[u32], trained: &[bool]| Text {
            tokens: tokens.into(),
            counted: (0..tokens.len()).map(|at| at > 0).collect(),
            trained: trained.into(),
        };
        let expected = [text(&[1, 2], &[false, true]), text(&[3, 4, 9], &[false, true, true]), text(&[5, 6, 7], &[false, false, true])];
        assert_eq!(Text::of_batch(&batch), expected);
        let whole = Text::of_batch(&Batch { document_starts: None, ..batch });
        assert_eq!(whole[0], text(&[1, 2, 3, 4, 9], &[false, true, false, true, true]));
        let after = Text { counted: vec![false, false, true], ..text(&[8, 1, 2], &[false, false, true]) };
        assert_eq!(expected[0].clone().after(8), after);
    }

    #[test]
    fn examples_are_the_heads_own_log_probabilities_whatever_else_is_in_the_batch() {
        let model = model();
        let text = |seed: u32, length: u32| {
            let tokens: Vec<u32> = (0..length).map(|i| (seed * 7 + i * 11) % 50).collect();
            let marked = |every: u32| (0..length).map(|i| i > 0 && i % every != 0).collect();
            Text { counted: marked(3), trained: marked(2), tokens }
        };
        let texts: Vec<Text> = (0..11).map(|i| text(i, 2 + i)).collect();
        let together = of_texts(&model, &texts, &mut |_, _| Ok(())).unwrap();
        let alone: Vec<Example> =
            texts.iter().flat_map(|text| of_texts(&model, std::slice::from_ref(text), &mut |_, _| Ok(())).unwrap()).collect();
        assert_eq!(together, alone);
        assert_eq!(together.len(), texts.iter().flat_map(|t| &t.counted).filter(|c| **c).count());
        let last = &texts[10];
        let mut cache = model.new_cache(16);
        let logits = model.step(&mut cache, &last.tokens[..11]).unwrap();
        let of = |head: usize| f64::from(logits[head][last.tokens[11] as usize]) - crate::ops::mixture::log_normaliser(&logits[head]);
        let found = together.last().unwrap();
        assert!((found.log_probs[0] - of(0)).abs() < 1e-5 && (found.log_probs[1] - of(1)).abs() < 1e-5);
        assert_eq!(found.features[13], 10f64.ln_1p(), "ten tokens were predicted before it");
        assert!(
            of_texts(&Model::from_base(&base(&config(true, false)), Precision::F32, false).unwrap(), &texts, &mut |_, _| Ok(())).is_err()
        );
    }

    #[test]
    fn the_model_before_speaks_by_itself_and_after_first_words_of_new_texts() {
        let model = model();
        let new = vec![Text { tokens: vec![7, 1, 2, 3, 4, 5], counted: vec![true; 6], trained: vec![true; 6] }];
        let speech = Speech { samples: 24, tokens: 20, leading: Some(7), always_leads: true, ends: vec![9], seed: 3 };
        let texts = own_texts(&model, &new, &speech, &mut |_, _| Ok(())).unwrap();
        assert_eq!(texts, own_texts(&model, &new, &speech, &mut |_, _| Ok(())).unwrap(), "the same draws again");
        assert!(texts.len() > 12 && texts.iter().all(|t| t.tokens[0] == 7 && t.tokens.len() <= 20 && !t.tokens.contains(&9)));
        let begun = |text: &Text| text.counted.iter().position(|c| *c).unwrap();
        assert!(texts.iter().any(|t| begun(t) == 1) && texts.iter().any(|t| begun(t) > 3));
        assert!(texts.iter().all(|t| t.tokens[1..begun(t)] == [1, 2, 3, 4, 5][..begun(t) - 1]));
        let stopped = own_texts(&model, &new, &speech, &mut |_, _| Err(Error::Interrupted("by the user".into())));
        assert!(matches!(stopped, Err(Error::Interrupted(_))));
        assert!(own_texts(&model, &[], &Speech { leading: None, ..speech }, &mut |_, _| Ok(())).is_err());
    }
}
