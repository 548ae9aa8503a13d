//! From log-likelihoods to metrics.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::item::{Gold, Item};
use super::task::{Metric, Task};

/// What one item came to under one head or router.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ItemResult {
    /// The most probable choice.
    pub prediction: usize,
    /// 1 where it is right, else 0; for TruthfulQA's mc2 the part of the probability that true answers have.
    pub acc: f64,
    /// The same for the choice with the largest log-likelihood a character; absent where the task has no such metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acc_norm: Option<f64>,
}

/// A metric over items: its value, and its standard error where there is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Sample standard deviation over √n; `None` for F1, and for one item.
    pub stderr: Option<f64>,
}

/// The first of the largest values; as in numpy, one that is no number counts as the largest.
pub fn argmax(values: impl IntoIterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, value) in values.into_iter().enumerate() {
        if value.is_nan() {
            return index;
        }
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
}

/// What an item's log-likelihoods come to.
pub fn of_item(task: Task, item: &Item, log_likelihoods: &[f32]) -> ItemResult {
    let likelihoods = || log_likelihoods.iter().map(|&ll| f64::from(ll));
    let prediction = argmax(likelihoods());
    let right = |choice: usize| f64::from(u8::from(item.gold == Gold::Index(choice)));
    let acc = match &item.gold {
        Gold::Index(_) => right(prediction),
        Gold::Labels(labels) => {
            // Relative to the largest, so that long answers do not vanish.
            let largest = likelihoods().fold(f64::NEG_INFINITY, f64::max);
            let parts: Vec<f64> = likelihoods().map(|ll| (ll - largest).exp()).collect();
            let of_true: f64 = parts.iter().zip(labels).filter(|(_, label)| **label).map(|(part, _)| part).sum();
            of_true / parts.iter().sum::<f64>()
        }
    };
    let acc_norm = task.metrics().contains(&Metric::AccNorm).then(|| {
        let lengths = item.continuations.iter().map(|choice| choice.chars().count() as f64);
        right(argmax(likelihoods().zip(lengths).map(|(ll, length)| ll / length)))
    });
    ItemResult { prediction, acc, acc_norm }
}

/// The metrics of a task over its items.
pub fn of_task(task: Task, items: &[Item], results: &[ItemResult]) -> BTreeMap<Metric, Estimate> {
    let value = |metric: &Metric| match metric {
        Metric::Acc => mean(results.iter().map(|result| result.acc).collect()),
        Metric::AccNorm => mean(results.iter().filter_map(|result| result.acc_norm).collect()),
        Metric::F1 => Estimate { value: macro_f1(items, results), stderr: None },
    };
    task.metrics().iter().map(|metric| (*metric, value(metric))).collect()
}

fn mean(values: Vec<f64>) -> Estimate {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    Estimate { value: mean, stderr: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt()) }
}

/// The mean F1 score of all labels that are right or were predicted anywhere.
fn macro_f1(items: &[Item], results: &[ItemResult]) -> f64 {
    let gold = |item: &Item| match item.gold {
        Gold::Index(gold) => Some(gold),
        Gold::Labels(_) => None,
    };
    let pairs: Vec<(usize, usize)> =
        items.iter().zip(results).filter_map(|(item, result)| Some((gold(item)?, result.prediction))).collect();
    let labels: BTreeSet<usize> = pairs.iter().flat_map(|&(gold, predicted)| [gold, predicted]).collect();
    let f1 = |label: usize| {
        let count = |which: fn(bool, bool) -> bool| pairs.iter().filter(|&&(g, p)| which(g == label, p == label)).count() as f64;
        let (hit, missed, wrong) = (count(|g, p| g && p), count(|g, p| g && !p), count(|g, p| !g && p));
        2.0 * hit / (2.0 * hit + missed + wrong)
    };
    labels.iter().map(|&label| f1(label)).sum::<f64>() / labels.len() as f64
}

/// The metrics of several tasks together: means weighted by their items, and the standard error of all items pooled.
pub fn of_group(tasks: &[(&BTreeMap<Metric, Estimate>, usize)]) -> BTreeMap<Metric, Estimate> {
    let metrics: BTreeSet<Metric> = tasks.iter().flat_map(|(metrics, _)| metrics.keys().copied()).collect();
    let pooled = |metric: Metric| {
        let having: Vec<(Estimate, f64)> =
            tasks.iter().filter_map(|(metrics, items)| Some((*metrics.get(&metric)?, *items as f64))).collect();
        let all: f64 = having.iter().map(|(_, items)| items).sum();
        let value = having.iter().map(|(estimate, items)| estimate.value * items).sum::<f64>() / all;
        let squares: Option<f64> = having.iter().map(|(e, items)| e.stderr.map(|s| (items - 1.0) * s * s * items)).sum();
        let stderr = squares.map(|squares| (squares / (all - having.len() as f64) / all).sqrt());
        Estimate { value, stderr }
    };
    metrics.into_iter().map(|metric| (metric, pooled(metric))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;
    use std::path::Path;

    fn task(name: &str) -> Task {
        Task::all().find(|task| task.name == name).unwrap()
    }

    fn item(choices: &[&str], gold: Gold) -> Item {
        let record = Record::new(serde_json::Map::new(), Path::new("x"), "line 1".into());
        let choices: Vec<String> = choices.iter().map(ToString::to_string).collect();
        Item { gold, ..Item::choice(record, "q".into(), choices, 0) }
    }

    #[test]
    fn the_first_of_equals_is_predicted_and_lengths_are_characters() {
        // Three characters of nine bytes against seven of seven.
        let sides = item(&["한국어", "letters"], Gold::Index(0));
        let result = of_item(task("arc_easy"), &sides, &[-6.0, -7.0]);
        assert_eq!(result, ItemResult { prediction: 0, acc: 1.0, acc_norm: Some(0.0) });
        assert_eq!(of_item(task("mmlu_anatomy"), &sides, &[-7.0, -7.0]), ItemResult { prediction: 0, acc: 1.0, acc_norm: None });
        // A blank choice is infinitely improbable a character, and a log-likelihood that is no number the largest.
        assert_eq!(of_item(task("arc_easy"), &item(&["", "b"], Gold::Index(1)), &[-1.0, -9.0]).acc_norm, Some(1.0));
        assert_eq!(argmax([1.0, f64::NAN, 2.0]), 1);
        assert_eq!(argmax([f64::NEG_INFINITY; 2]), 0);
    }

    #[test]
    fn true_answers_share_the_probability_whatever_their_length() {
        let several = item(&["a", "b", "c"], Gold::Labels(vec![true, false, true]));
        for shift in [0.0, -2000.0] {
            let lls = [0.5f32.ln() + shift, 0.25f32.ln() + shift, 0.25f32.ln() + shift];
            assert!((of_item(task("truthfulqa_mc2"), &several, &lls).acc - 0.75).abs() < 1e-3);
        }
    }

    #[test]
    fn standard_errors_and_f1_are_those_of_the_textbooks() {
        let gold = [0, 0, 1, 1, 1];
        let items: Vec<Item> = gold.iter().map(|&g| item(&["a", "b", "c"], Gold::Index(g))).collect();
        let results: Vec<ItemResult> = [0, 1, 1, 1, 2]
            .iter()
            .zip(gold)
            .map(|(&p, g)| ItemResult { prediction: p, acc: f64::from(u8::from(p == g)), acc_norm: None })
            .collect();
        let metrics = of_task(task("kobest_wic"), &items, &results);
        let acc = metrics[&Metric::Acc];
        // Three of five; s² = 5 · 0.6 · 0.4 / 4.
        assert!((acc.value - 0.6).abs() < 1e-12 && (acc.stderr.unwrap() - (0.3f64 / 5.0).sqrt()).abs() < 1e-12);
        // F1: ⅔ of label 0 (1 hit, 1 missed), ⅔ of label 1 (2 hits, 1 missed, 1 wrong), 0 of label 2, which was predicted only.
        assert!((metrics[&Metric::F1].value - 4.0 / 9.0).abs() < 1e-12);
        assert_eq!(metrics[&Metric::F1].stderr, None);
        assert_eq!(of_task(task("kobest_wic"), &items[..1], &results[..1])[&Metric::Acc].stderr, None);
    }

    #[test]
    fn a_group_s_mean_is_that_of_its_items() {
        let of = |values: &[f64]| BTreeMap::from([(Metric::Acc, mean(values.to_vec()))]);
        let (few, many) = (of(&[1.0, 0.0]), of(&[1.0, 1.0, 1.0, 0.0]));
        let group = of_group(&[(&few, 2), (&many, 4)])[&Metric::Acc];
        assert!((group.value - 4.0 / 6.0).abs() < 1e-12);
        // Pooled variance: (1 · 0.5 + 3 · 0.25) / (6 − 2), over 6 items.
        assert!((group.stderr.unwrap() - (1.25f64 / 4.0 / 6.0).sqrt()).abs() < 1e-12, "{group:?}");
    }
}
