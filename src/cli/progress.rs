//! What is shown on stderr while a run goes on: a bar on a terminal, otherwise nothing, or plain lines where they were asked for.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use treering::data::Skipped;
use treering::train::metrics::{EvalRecord, TrainRecord};
use treering::train::session::Event;

/// Seconds between plain lines.
const LINE_SECONDS: u64 = 10;

/// The display of one run.
pub struct Display {
    bar: ProgressBar,
    plain: bool,
    last_line: Option<Instant>,
    /// Steps done and steps of the run.
    step: u64,
    steps: u64,
    /// The mean loss of recent steps, which single steps scatter around.
    loss: Option<f64>,
    /// Steps that were skipped as spikes, as far as was seen.
    skipped: u64,
}

impl Display {
    /// A bar where stderr is a terminal; else plain lines if `verbose`, else nothing.
    pub fn new(verbose: bool) -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let target = if terminal { ProgressDrawTarget::stderr_with_hz(4) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        Self { bar, plain: verbose && !terminal, last_line: None, step: 0, steps: 0, loss: None, skipped: 0 }
    }

    /// Shows what happens in a run.
    pub fn show(&mut self, event: Event) {
        match event {
            Event::Corpus(progress) => {
                let what = if progress.waiting { "waiting for another process" } else { progress.corpus.as_str() };
                self.phase("reading", progress.bytes_done, progress.bytes_total, what);
            }
            Event::Skipped(corpus, skipped) => self.skipped_records(corpus, skipped),
            Event::Building(done, total) => self.phase("building the model", done as u64, total as u64, ""),
            Event::SetAside(path) => self.note(&format!("set aside: {}", path.display())),
            Event::Begin(step, steps) => {
                self.training_at(step, steps);
            }
            Event::Step(record) => self.step(record),
            Event::Measuring(tokens, total) => self.phase("measuring", tokens, total, ""),
            Event::Gate(phase, done, total, what) => self.phase(phase, done, total, what),
            Event::Asking(items, total) => self.phase("asking", items, total, ""),
            Event::Evaluation(record) => {
                self.evaluation(record);
                self.training();
            }
        }
    }

    /// Says which documents of a corpus are left out, on lines that stay.
    pub fn skipped_records(&self, corpus: &str, skipped: &Skipped) {
        self.note(&format!("{corpus}: {} documents cannot be read and are skipped, such as", skipped.documents));
        skipped.first.iter().for_each(|error| self.note(&format!("  {error}")));
    }

    /// Moves the bar of a phase, starting it where another was shown.
    pub fn phase(&mut self, name: &str, position: u64, total: u64, message: &str) {
        if self.bar.prefix() != name || self.bar.length() != Some(total) {
            self.bar.set_style(style("{prefix} {wide_bar} {percent:>3}% {msg}"));
            self.bar.set_prefix(name.to_string());
            self.bar.set_length(total);
            self.last_line = None;
        }
        self.bar.set_position(position);
        self.bar.set_message(message.to_string());
        self.line(|_| match total {
            0 => name.to_string(),
            _ => format!("{name}: {position} of {total} {message}").trim_end().to_string(),
        });
    }

    /// Shows training, after `step` of `steps`.
    pub fn training_at(&mut self, step: u64, steps: u64) {
        (self.step, self.steps) = (step, steps);
        self.training();
    }

    fn training(&mut self) {
        self.bar.set_style(style("{prefix} {wide_bar} {pos}/{len} {msg}, {eta} left"));
        self.bar.set_prefix("training");
        self.bar.set_message("");
        self.bar.set_length(self.steps);
        self.bar.set_position(self.step);
        self.bar.reset_eta();
        self.last_line = None;
    }

    /// Shows a step.
    pub fn step(&mut self, record: &TrainRecord) {
        let loss = self.loss.map_or(record.loss, |mean| 0.9 * mean + 0.1 * record.loss);
        (self.loss, self.step) = (Some(loss), record.step);
        self.skipped += u64::from(record.skipped);
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        let message = format!("loss {loss:.3}, {:.0} tokens/s{skipped}", record.tokens_per_second);
        self.bar.set_position(record.step);
        self.bar.set_message(message.clone());
        self.line(|d| format!("step {} of {}: {message}", record.step, d.steps));
    }

    /// The perplexities of a measurement, on a line that stays.
    fn evaluation(&self, record: &EvalRecord) {
        let perplexities = record.values.iter().filter_map(|(name, value)| Some((name.strip_suffix("/perplexity")?, value.as_ref()?)));
        let text: Vec<String> = perplexities.map(|(name, value)| format!("{name} {value:.2}")).collect();
        let answers = record.values.iter().filter_map(|(name, value)| {
            let path = name.strip_prefix("questions/")?.strip_suffix("/first_token_accuracy")?;
            Some(format!("{path} {:.1} %", 100.0 * value.as_ref()?))
        });
        let answers: Vec<String> = answers.collect();
        let parts = [("perplexity", text), ("first tokens right", answers)];
        let parts: Vec<String> =
            parts.iter().filter(|(_, of)| !of.is_empty()).map(|(what, of)| format!("{what} {}", of.join(", "))).collect();
        if !parts.is_empty() {
            self.note(&format!("step {}: {}", record.step, parts.join("; ")));
        }
    }

    /// Says that another run begins, on a line that stays.
    pub fn begin(&mut self, text: &str) {
        (self.loss, self.skipped) = (None, 0);
        self.note(text);
    }

    /// Writes a line above the bar.
    pub fn note(&self, text: &str) {
        if self.plain {
            write_line(text);
        } else {
            self.bar.println(text);
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&mut self, text: impl Fn(&Self) -> String) {
        let due = self.last_line.is_none_or(|last| last.elapsed() >= Duration::from_secs(LINE_SECONDS));
        if self.plain && due {
            self.last_line = Some(Instant::now());
            write_line(&text(self));
        }
    }
}

/// A line on stderr. Where that is gone (a terminal that was closed, a log on a full disk) the work goes on without it; `eprintln!` would panic.
fn write_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn style(template: &str) -> ProgressStyle {
    // The templates above are constant; one that did not parse would show as the default bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ ")
}
