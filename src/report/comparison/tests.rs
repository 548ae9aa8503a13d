use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::charts::Panel;
use super::*;
use crate::report::{Point, svg};
use crate::train::metrics::{EvalRecord, Record, TrainRecord};
use crate::train::observe::Resources;

/// A run of 300 steps: measured before and after, with `last` as each head's forgetting and learning.
pub(in crate::report) fn records(heads: &[&str], last: &[(f64, f64)]) -> Vec<Record> {
    let eval = |step, values: &[(f64, f64)]| {
        let named = heads.iter().zip(values).flat_map(|(head, (forget, learn))| {
            [
                (format!("forget/news/{head}/perplexity"), forget.is_finite().then_some(*forget)),
                (format!("learn/wiki/2026/{head}/perplexity"), Some(*learn)),
                (format!("learn/wiki/2026/{head}/accuracy"), Some(0.5)),
            ]
        });
        Record::Eval(EvalRecord { step, values: named.collect(), resources: None, unix_time: 0.0 })
    };
    let train = |step: u64| {
        Record::Train(TrainRecord {
            step,
            loss: 2.0,
            gradient_norm: 1.0,
            learning_rates: BTreeMap::new(),
            skipped: false,
            tokens: step * 1024,
            tokens_per_second: 1000.0 + step as f64,
            wall_seconds: step as f64,
            unix_time: 0.0,
        })
    };
    let start = vec![(35.49, 6.93); heads.len()];
    vec![eval(0, &start), train(1), train(2), train(300), eval(300, last)]
}

/// Adds to a record of [`records`] what newer versions note.
fn note(record: &mut Record, norm: f64, cosine: f64) {
    if let Record::Eval(eval) = record {
        eval.values.extend([
            ("weights/expansion_to_base/mean_norm".to_owned(), Some(norm)),
            ("weights/expansion_to_base/largest_norm".to_owned(), Some(2.0 * norm)),
            ("weights/expansion_to_base/norm/model.layers.3.self_attn.q_proj".to_owned(), Some(norm)),
            ("weights/expansion_to_base/norm/model.layers.11.self_attn.q_proj".to_owned(), Some(2.0 * norm)),
            ("forget/news/representation/cosine".to_owned(), Some(cosine)),
            ("learn/wiki/2026/representation/cosine".to_owned(), Some(0.5)),
        ]);
        let trained_parameters = BTreeMap::from([("expansion_to_base".to_owned(), 4096), ("expansion_head".to_owned(), 1000)]);
        eval.resources = Some(Resources { peak_memory_bytes: Some(3 << 29), trained_parameters });
    }
}

pub(in crate::report) fn sample() -> Comparison {
    let run = |name: &str, method: &str, records: &[Record]| Run {
        model: "SmolLM2".into(),
        planned_steps: 300,
        ..Run::from_records(name.into(), method.into(), records)
    };
    let heads = ["preservation", "adaptation"];
    let mut preserve = run("preserve", "scale-preserve", &records(&heads, &[(35.49, 6.93), (45.36, 5.96)]));
    preserve.trained_parameters = Some(12_345_678);
    let mut adapted = records(&heads, &[(35.49, 6.93), (36.2, 5.02)]);
    adapted.iter_mut().enumerate().for_each(|(index, record)| note(record, index as f64 / 2.0, 1.0 - index as f64 / 100.0));
    let adapt = run("adapt", "scale-adapt", &adapted);
    let full = run("full", "full", &records(&["base"], &[(34.8, 4.22)]));
    Comparison::new(vec![preserve, adapt, full])
}

#[test]
fn the_table_has_the_base_and_every_run_and_head() {
    insta::assert_snapshot!(sample().table().to_text(), @r"
    run       head               forgetting        learning   cosine  W12 norm  step  method             trained  tokens/s    memory        time
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    base                              35.49            6.93                        0
    preserve  preservation     35.49 (same)     6.93 (same)                      300  scale-preserve  12,345,678     1,002         –  5 min 00 s
              adaptation    45.36 (+27.8 %)  5.96 (−14.0 %)        –         –
    adapt     preservation     35.49 (same)     6.93 (same)                      300  scale-adapt          5,096     1,002  1.50 GiB  5 min 00 s
              adaptation     36.20 (+2.0 %)  5.02 (−27.6 %)  0.96000      2.00
    full      only one       34.80 (−1.9 %)  4.22 (−39.1 %)        –         –   300  full                     –     1,002         –  5 min 00 s
    ");
}

#[test]
fn in_a_terminal_results_and_costs_stand_one_above_the_other() {
    let mut comparison = sample();
    comparison.runs.truncate(2);
    comparison.runs[1].planned_steps = 2000;
    insta::assert_snapshot!(Comparison::new(comparison.runs).to_text(), @r"
    run       head               forgetting        learning   cosine  W12 norm          step
    ────────────────────────────────────────────────────────────────────────────────────────
    base                              35.49            6.93                                0
    preserve  preservation     35.49 (same)     6.93 (same)                              300
              adaptation    45.36 (+27.8 %)  5.96 (−14.0 %)        –         –
    adapt     preservation     35.49 (same)     6.93 (same)                     300 of 2,000
              adaptation     36.20 (+2.0 %)  5.02 (−27.6 %)  0.96000      2.00

    run       method             trained  tokens/s    memory        time
    ────────────────────────────────────────────────────────────────────
    preserve  scale-preserve  12,345,678     1,002         –  5 min 00 s
    adapt     scale-adapt          5,096     1,002  1.50 GiB  5 min 00 s

    note: adapt has not finished: 300 of 2,000 steps so far.
    ");
}

#[test]
fn csv_has_every_measurement_in_full() {
    insta::assert_snapshot!(sample().measurements().to_csv(), @r"
    run,method,model,step,head,forgetting,learning,representation_cosine,expansion_to_base_mean_norm,expansion_to_base_largest_norm,trained_parameters,tokens_per_second,training_seconds,peak_memory_bytes
    preserve,scale-preserve,SmolLM2,0,preservation,35.49,6.93,,,,12345678,1002,300,
    preserve,scale-preserve,SmolLM2,0,adaptation,35.49,6.93,,,,12345678,1002,300,
    preserve,scale-preserve,SmolLM2,300,preservation,35.49,6.93,,,,12345678,1002,300,
    preserve,scale-preserve,SmolLM2,300,adaptation,45.36,5.96,,,,12345678,1002,300,
    adapt,scale-adapt,SmolLM2,0,preservation,35.49,6.93,1,0,0,5096,1002,300,1610612736
    adapt,scale-adapt,SmolLM2,0,adaptation,35.49,6.93,1,0,0,5096,1002,300,1610612736
    adapt,scale-adapt,SmolLM2,300,preservation,35.49,6.93,0.96,2,4,5096,1002,300,1610612736
    adapt,scale-adapt,SmolLM2,300,adaptation,36.2,5.02,0.96,2,4,5096,1002,300,1610612736
    full,full,SmolLM2,0,base,35.49,6.93,,,,,1002,300,
    full,full,SmolLM2,300,base,34.8,4.22,,,,,1002,300,
    ");
}

#[test]
fn markdown_ends_with_the_notes() {
    let mut runs = sample().runs;
    runs[2].planned_steps = 400;
    let text = Comparison::new(runs).to_markdown();
    assert!(text.starts_with("| run ") && text.ends_with("\n\n- full has not finished: 300 of 400 steps so far.\n"), "{text}");
}

#[test]
fn blocks_and_corpora_have_a_column_a_run() {
    insta::assert_snapshot!(sample().blocks().to_text(), @r"
    block                preserve  adapt  full
    ──────────────────────────────────────────
    expansion_to_base           –  4,096     –
    expansion_head              –  1,000     –
    all                12,345,678  5,096     –
    ");
    insta::assert_snapshot!(sample().corpora().to_text(), @r"
    corpus            base  preserve, preservation  preserve, adaptation  adapt, preservation  adapt, adaptation   full
    ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    forget/news      35.49                   35.49                 45.36                35.49              36.20  34.80
    learn/wiki/2026   6.93                    6.93                  5.96                 6.93               5.02   4.22
    ");
    let mut comparison = sample();
    comparison.runs.remove(1);
    assert!(comparison.blocks().is_empty());
}

#[test]
fn preservation_heads_that_kept_the_base_share_its_point() {
    let chart = sample().chart();
    let names: Vec<&str> = chart.series.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["base = preservation heads, all steps", "preserve, adaptation head", "adapt, adaptation head", "full"]);
    assert_eq!(chart.series[3].points.last().unwrap(), &Point { x: 4.22, y: 34.8, label: "step 300".into() });
    assert!(svg::render(&chart).contains("step 300"));
}

#[test]
fn a_routers_line_has_a_mark_of_its_own_and_the_same_in_every_picture() {
    let heads = ["preservation", "ring-1", "adaptation", "bayes", "bayes:share=0", "confidence"];
    let end = [(35.49, 6.93), (35.49, 6.5), (45.36, 5.96), (35.5, 5.97), (35.5, 5.96), (40.0, 6.4)];
    let run = |name: &str| Run::from_records(name.into(), "scale-route".into(), &records(&heads, &end));
    let comparison = Comparison::new(vec![run("a"), run("b")]);
    let marks = |chart: &crate::report::Chart| -> BTreeMap<String, (usize, usize, bool, bool)> {
        chart.series.iter().map(|s| (s.name.clone(), (s.style, s.mark() % svg::MARKS, s.dashed, s.dotted))).collect()
    };
    let chart = comparison.chart();
    let of = marks(&chart);
    for run in ["a", "b"] {
        let own = of[&format!("{run}, adaptation head")];
        let routed = ["bayes", "bayes:share=0", "confidence"].map(|router| of[&format!("{run}, routed by {router}")]);
        assert!(routed.iter().all(|r| r.0 == own.0 && r.1 != own.1 && r.3), "the run's colour, not its mark: {own:?} {routed:?}");
        assert!(of[&format!("{run}, ring-1 head")].2);
    }
    let mut distinct: Vec<_> =
        of.iter().filter(|(name, _)| name.as_str() != "base = preservation heads, all steps").map(|(_, m)| (m.0, m.1)).collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 10, "of one colour no mark twice");
    for panel in comparison.panels().iter().filter(|panel| panel.id == "forgetting" || panel.id == "learning") {
        let crate::report::Drawing::Lines(lines) = &panel.drawing else { panic!("lines") };
        assert!(marks(lines).iter().all(|(name, mark)| of.get(name) == Some(mark)), "{}", panel.id);
    }
    assert!(svg::render(&chart).contains("dots"));
}

#[test]
fn a_preservation_head_that_moved_is_drawn() {
    let mut comparison = sample();
    comparison.runs[0].evaluations[1].heads[0].forgetting = Some(35.5);
    assert!(comparison.chart().series.iter().any(|s| s.name == "preserve, preservation head" && s.dashed));
}

#[test]
fn every_panel_has_what_was_noted_and_says_what_was_not() {
    let panels: BTreeMap<String, Panel> = sample().panels().into_iter().map(|panel| (panel.id.clone(), panel)).collect();
    insta::assert_snapshot!(panels["forgetting"].data.to_text(), @r"
    steps  preserve, adaptation head  adapt, adaptation head   full
    ───────────────────────────────────────────────────────────────
        0                      35.49                   35.49  35.49
      300                      45.36                    36.2   34.8
    ");
    insta::assert_snapshot!(panels["norms-by-layer"].data.to_text(), @r"
    layer  adapt
    ────────────
        3      2
       11      4
    ");
    insta::assert_snapshot!(panels["memory"].data.to_text(), @r"
    run         memory
    ──────────────────
    preserve         –
    adapt     1.50 GiB
    full             –
    ");
    assert!(panels["representation"].data.to_text().contains("0.04"), "of the old corpora alone");
    let mut comparison = sample();
    comparison.runs.remove(1);
    let empty: Vec<String> = comparison.panels().into_iter().filter(|p| p.drawing.is_empty()).map(|p| p.id).collect();
    assert_eq!(empty, ["representation", "norms", "norms-by-layer", "memory"]);
}

#[test]
fn long_runs_are_drawn_in_stretches() {
    let train = |step: u64| TrainRecord {
        step,
        loss: step as f64,
        gradient_norm: 1.0,
        learning_rates: BTreeMap::new(),
        skipped: step % 250 == 3,
        tokens: step * 100,
        tokens_per_second: 1.0,
        wall_seconds: step as f64 * 2.0,
        unix_time: 0.0,
    };
    let run = Run::from_records("a".into(), "full".into(), &(1..=1000).map(|step| Record::Train(train(step))).collect::<Vec<_>>());
    assert_eq!(run.training.len(), 24);
    assert_eq!(run.training[0], Stretch { step: 42, loss: 21.5, tokens_per_second: 50.0 });
    assert_eq!(run.training.last().map(|s| (s.step, s.tokens_per_second)), Some((1000, 50.0)));
    assert_eq!((run.tokens, run.training_seconds), (100_000, Some(2000.0)));
    assert_eq!(run.skipped_steps, 4);
    let notes = Comparison::new(vec![run]).notes;
    assert!(notes.iter().any(|note| note == "a skipped 4 of its 1000 steps as loss spikes."), "{notes:?}");
}

#[test]
fn several_corpora_are_joined_by_their_geometric_mean() {
    let eval = EvalRecord {
        step: 1,
        values: BTreeMap::from([
            ("forget/a/base/perplexity".to_owned(), Some(2.0)),
            ("forget/b/base/perplexity".to_owned(), Some(8.0)),
            ("learn/c/base/perplexity".to_owned(), None),
            ("learn/c/routed/perplexity".to_owned(), Some(3.0)),
        ]),
        resources: None,
        unix_time: 0.0,
    };
    let run = Run::from_records("a".into(), "full".into(), &[Record::Eval(eval)]);
    let heads = &run.evaluations[0].heads;
    assert!((heads[0].forgetting.unwrap() - 4.0).abs() < 1e-12);
    assert_eq!(heads[0].learning, Some(f64::INFINITY));
    assert_eq!((heads[1].head.as_str(), heads[1].learning), ("routed", Some(3.0)), "heads of later versions are kept");
    assert_eq!(Comparison::new(vec![run]).notes, ["a has no finite perplexity on learn/c: it diverged."]);
}

#[test]
fn a_run_without_measurements_is_still_listed() {
    let comparison = Comparison::new(vec![Run::from_records("new".into(), "full".into(), &[])]);
    assert!(comparison.table().to_text().contains("not measured yet"));
    assert!(comparison.to_text().contains("note: new has not been measured"));
    assert!(comparison.chart().series.is_empty());
}

#[test]
fn what_cannot_be_compared_is_said() {
    let mut runs = sample().runs;
    assert_eq!(sample().notes, Vec::<String>::new());
    runs[0].evaluations[0].heads[0].corpora.insert("forget/news".into(), 35.0);
    assert!(Comparison::new(runs.clone()).notes[0].contains("different bases"));
    runs[0].evaluations[0].heads[0].corpora.insert("forget/other".into(), 35.0);
    assert!(Comparison::new(runs).notes[0].contains("not measured on the same corpora"));
}

#[test]
fn folders_of_the_same_name_are_told_apart() {
    let paths = ["/x/a/run", "/x/b/run", "/x/b/other", "/x/b/run"].map(PathBuf::from);
    assert_eq!(distinct_names(&paths), ["a/run", "b/run", "other", "b/run"]);
}

#[test]
fn a_folder_with_a_recipe_and_half_a_line_of_metrics_is_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = "[model]\npath = \"base\"\n[method]\nkind = \"full\"\n[data]\ntrain = \"a.jsonl\"\n[train]\nsteps = 7\n";
    fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    assert_eq!(Run::read(folder.path()).unwrap().progress(), "0 of 7");
    fs::write(folder.path().join("metrics.jsonl"), "{\"kind\":\"ev").unwrap();
    let run = Run::read(folder.path()).unwrap();
    assert_eq!((run.method.as_str(), run.model.as_str(), run.planned_steps, run.last()), ("full", "base", 7, None));
    fs::write(folder.path().join("metrics.jsonl"), "no metrics\n").unwrap();
    assert!(Run::read(folder.path()).unwrap_err().to_string().contains("line 1"));
}
