//! The subcommands, one short file each: `Args` for the command line, `run` for the work.
//! Results go to stdout, progress and messages to stderr; this folder and `main.rs` are the only code that prints.

mod biography;
mod compare;
mod doctor;
mod eval;
mod export;
mod gate;
mod generate;
mod grow;
mod growth;
mod hub;
mod import;
mod inspect;
mod open;
mod plan;
mod progress;
mod quickstart;
mod recall;
mod rings;
mod study;
mod suite;
mod sweep;
mod text;
mod train;

use std::io::Write;

use clap::{Parser, Subcommand};
use treering::error::IoContext;
use treering::{Error, Result};

/// Grow a pre-trained language model in width, around weights that never change.
#[derive(Debug, Parser)]
#[command(name = "treering", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train an expansion (or the whole model) as a recipe says
    Train(train::Args),
    /// Measure learning and forgetting on held-out corpora
    Eval(Box<eval::Args>),
    /// Set runs side by side: a table, and a page with every curve
    Compare(compare::Args),
    /// Find a learning rate: a recipe at several, all else equal
    Sweep(sweep::Args),
    /// Repeat one of the paper's analyses, its numbers beside ours
    Study(study::Args),
    /// Train what the router `gate` asks: a small network that tells the heads' texts apart, without old data
    Gate(gate::Args),
    /// Keep what the router `recall` asks: which sequences of tokens a head was taught
    Recall(recall::Args),
    /// The paper's controlled benchmark: made-up people, learnt and forgotten
    Biography(biography::Args),
    /// Continue a prompt
    Generate(generate::Args),
    /// Describe a checkpoint
    Inspect(inspect::Args),
    /// Say what a recipe will cost, before anything is allocated
    Plan(plan::Args),
    /// Widen a model and write the expansion
    Grow(grow::Args),
    /// List the rings of a model, or write one of them to a folder of its own
    Rings(rings::Args),
    /// Write a trained model as others read it: a folder for transformers, or a PEFT adapter
    Export(export::Args),
    /// Take back what others trained: an exported widened model, or a PEFT adapter
    Import(import::Args),
    /// See the whole method at work in a few minutes, with nothing to download
    Quickstart(quickstart::Args),
    /// Say what this machine has, and test every kernel it can run
    Doctor(doctor::Args),
}

impl Command {
    /// Does what was asked.
    pub fn run(self) -> Result<()> {
        treering::hub::configure(hub::settings);
        match self {
            Self::Train(args) => train::run(args),
            Self::Eval(args) => eval::run(*args),
            Self::Compare(args) => compare::run(args),
            Self::Sweep(args) => sweep::run(args),
            Self::Study(args) => study::run(args),
            Self::Gate(args) => gate::run(args),
            Self::Recall(args) => recall::run(args),
            Self::Biography(args) => biography::run(args),
            Self::Generate(args) => generate::run(args),
            Self::Inspect(args) => inspect::run(args),
            Self::Plan(args) => plan::run(args),
            Self::Grow(args) => grow::run(args),
            Self::Rings(args) => rings::run(args),
            Self::Export(args) => export::run(args),
            Self::Import(args) => import::run(args),
            Self::Quickstart(args) => quickstart::run(args),
            Self::Doctor(args) => doctor::run(args),
        }
    }
}

/// Writes `text` and a line end to stdout; a reader that went away is an error like any other, which `main` forgives.
pub fn print(text: impl std::fmt::Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).at("<stdout>")
}

/// Writes an error for a person to stderr: the error itself, then what caused it.
pub fn report(error: &Error) {
    let mut err = std::io::stderr().lock();
    let mut lines = vec![format!("error: {error}")];
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        let text = source.to_string();
        // Most messages end with their cause already.
        if !lines.iter().any(|line| line.ends_with(&text)) {
            lines.push(format!("  caused by: {text}"));
        }
        cause = source.source();
    }
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(err, "{}", lines.join("\n"));
}
