//! What the quickstart prints and draws.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use treering::eval::{Speaker, head_name};
use treering::model::Head;
use treering::report::axis::group_thousands;
use treering::report::terminal::{self, Line};
use treering::report::{Align, Chart, Point, Series, Table, svg};

use super::lesson::{Answers, Lesson};
use super::world::World;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The base's share of right first tokens.
    base: Shares,
    /// One entry a method and head, and one for the router between two heads.
    rows: Vec<Row>,
    /// Wall-clock time of the whole quickstart.
    seconds: f64,
}

/// Share of questions that are answered right, about old and new people.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Shares {
    step: u64,
    /// By the answer's first token.
    old_people: f64,
    new_people: f64,
    /// By the whole answer, as greedy generation gives it.
    old_people_whole: f64,
    new_people_whole: f64,
}

/// One head of one method, or its heads under the default router.
#[derive(Debug, Serialize)]
struct Row {
    method: String,
    head: Speaker,
    trained_parameters: usize,
    tokens_per_second: f64,
    /// By ascending step.
    shares: Vec<Shares>,
}

impl Row {
    fn last(&self) -> Option<&Shares> {
        self.shares.last()
    }

    fn name(&self) -> String {
        match self.head {
            Speaker::Head(Head::Base) => self.method.clone(),
            Speaker::Head(head) => format!("{}, {} head", self.method, head_name(head)),
            Speaker::Router(router) => format!("{}, routed by {router}", self.method),
        }
    }
}

/// What the base knows.
pub fn base(lesson: &Lesson<'_>, world: &World) -> String {
    let known = lesson.answers.last().and_then(|a| a.old.first()).map_or(f64::NAN, |r| r.first_token_accuracy);
    let seconds = lesson.outcome.as_ref().map_or(0.0, |o| o.wall_seconds);
    format!(
        "   After {seconds:.0} s it answers {} of the questions about them. It is saved in {} as a Hugging Face model.\n\n\
         2. {} new people are taught with questions alone: once to an expansion around the frozen base (scale-preserve), once to the base itself (full).",
        percent(known),
        world.out.join("base").display(),
        world.new.end - world.new.start
    )
}

impl Results {
    /// Collects what the lessons measured.
    pub fn new(base: &Lesson<'_>, lessons: &[Lesson<'_>], elapsed: Duration) -> Self {
        let shares = |answers: &Answers, head: usize| Shares {
            step: answers.step,
            old_people: answers.old[head].first_token_accuracy,
            new_people: answers.new[head].first_token_accuracy,
            old_people_whole: answers.old[head].exact_match,
            new_people_whole: answers.new[head].exact_match,
        };
        let mut rows = Vec::new();
        for lesson in lessons {
            let heads: Vec<Speaker> = lesson.answers.last().map_or(Vec::new(), |a| a.old.iter().map(|r| r.head).collect());
            for (index, head) in heads.into_iter().enumerate() {
                rows.push(Row {
                    method: lesson.name.to_owned(),
                    head,
                    trained_parameters: lesson.parameters().iter().map(|p| p.value.len()).sum(),
                    tokens_per_second: lesson.outcome.as_ref().map_or(0.0, |o| o.tokens as f64 / o.wall_seconds.max(1e-9)),
                    shares: lesson.answers.iter().map(|answers| shares(answers, index)).collect(),
                });
            }
        }
        let nothing =
            Shares { step: 0, old_people: f64::NAN, new_people: f64::NAN, old_people_whole: f64::NAN, new_people_whole: f64::NAN };
        let base = base.answers.last().map_or(nothing, |answers| shares(answers, 0));
        Self { base, rows, seconds: elapsed.as_secs_f64() }
    }

    /// The table, the small chart, what they mean and where to go from here.
    pub fn text(&self, out: &Path, world: &World) -> String {
        let out = out.display();
        let name = world.people.person(world.new.start).map(|person| person.name).unwrap_or_default();
        format!(
            "\nShare of questions answered right (first token), from the first step to the last:\n\n{}\n{}\n{}\n\
             Drawn in {out}/quickstart.svg, and with every curve on a page for the browser, {out}/quickstart.html. {:.0} s in all. Look closer:\n  \
             treering compare {out}/runs/scale-preserve {out}/runs/full\n  \
             treering generate {out}/runs/scale-preserve --prompt $'What is the birth city of {name}?\\nAnswer:'\n  \
             treering generate {out}/runs/full --prompt $'What is the birth city of {name}?\\nAnswer:'\n\n\
             The paper's benchmark, with every method, all routers and tasks in a row, on twenty times as many people:\n  \
             treering biography run --size mini --out {out}-mini\n\n\
             Then teach a real model, for example SmolLM2-135M some Korean (README.md says where to get both):\n  \
             treering plan recipes/smollm2-korean-preserve.toml\n  \
             treering train recipes/smollm2-korean-preserve.toml",
            self.table().to_text(),
            self.plot(),
            self.findings(),
            self.seconds
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new([
            ("method", Align::Left),
            ("head or router", Align::Left),
            ("old people", Align::Right),
            ("new people", Align::Right),
            ("trained", Align::Right),
            ("tokens/s", Align::Right),
        ]);
        table.row(["base, before".into(), String::new(), percent(self.base.old_people), percent(self.base.new_people)]);
        for (index, row) in self.rows.iter().enumerate() {
            let first = index == 0 || self.rows[index - 1].method != row.method;
            let once = |text: String| if first { text } else { String::new() };
            let cell = |pick: fn(&Shares) -> f64| {
                let values: Vec<f64> = row.shares.iter().map(pick).collect();
                format!("{} {:>7}", terminal::sparkline(&values, 0.0, 1.0), values.last().map_or("–".into(), |&v| percent(v)))
            };
            table.row([
                once(row.method.clone()),
                match row.head {
                    Speaker::Head(Head::Base) => "only one".into(),
                    Speaker::Head(head) => head_name(head),
                    Speaker::Router(router) => format!("routed by {router}"),
                },
                cell(|s| s.old_people),
                cell(|s| s.new_people),
                once(group_thousands(&row.trained_parameters.to_string())),
                once(group_thousands(&format!("{:.0}", row.tokens_per_second))),
            ]);
        }
        table
    }

    fn plot(&self) -> String {
        let marks = ['#', 'o', 'x', '+'];
        let lines: Vec<Line> = self
            .rows
            .iter()
            .zip(marks)
            .map(|(row, mark)| Line {
                mark,
                name: row.name(),
                points: row.shares.iter().map(|s| (s.step as f64, 100.0 * s.old_people)).collect(),
            })
            .collect();
        format!("Old people, % right:\n{}", terminal::plot(&lines, &[0.0, 100.0], "steps", 60, 11))
    }

    /// What happened, in a sentence a method; the numbers decide which.
    fn findings(&self) -> String {
        let mut sentences = Vec::new();
        for row in &self.rows {
            let Some(last) = row.last() else { continue };
            let kept =
                if row.shares.iter().all(|s| (s.old_people, s.old_people_whole) == (self.base.old_people, self.base.old_people_whole)) {
                    "forgot nothing".to_owned()
                } else {
                    format!(
                        "still knows {} of the old people's whole answers ({} before)",
                        percent(last.old_people_whole),
                        percent(self.base.old_people_whole)
                    )
                };
            sentences.push(format!("- {}: {kept}; of the new people's it knows {}.", row.name(), percent(last.new_people_whole)));
        }
        sentences.push("Both heads are one model: `generate --head preservation` says what the base would have said, to the bit; `generate --router bayes --trace` shows who speaks.".into());
        sentences.join("\n")
    }

    /// The same as a drawing.
    pub fn svg(&self) -> String {
        let mut series = Vec::new();
        for (style, row) in self.rows.iter().enumerate() {
            for (people, dashed, pick) in [("old", false, (|s| s.old_people) as fn(&Shares) -> f64), ("new", true, |s| s.new_people)] {
                let points = row.shares.iter().map(|s| Point::new(s.step as f64, 100.0 * pick(s))).collect();
                series.push(Series { name: format!("{}: {people}", row.name()), style, dashed, joined: true, points, ..Series::default() });
            }
        }
        svg::render(&Chart {
            title: "What is forgotten while new people are learnt".into(),
            subtitle: "Questions whose answer's first token is right; old people solid, new people dashed".into(),
            x_label: "steps".into(),
            y_label: "% right".into(),
            series,
            y_also: vec![0.0, 100.0],
            ..Chart::default()
        })
    }
}

fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1} %", 100.0 * share) } else { "–".into() }
}
