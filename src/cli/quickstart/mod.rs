//! `treering quickstart`: the whole method in a few minutes, on a model and on people made for the purpose.
//!
//! Nothing here is a shortcut: the base is trained, saved, widened and taught through the same recipes, run folders and training loop as
//! `treering train`, and everything stays in the folder to be looked at and run again.

mod lesson;
mod show;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use treering::report::comparison::Comparison;
use treering::report::page;
use treering::{Error, Result};

use super::compare::write;
use super::progress::Display;
use super::train::stop_on_signals;
use lesson::Lesson;
use world::World;

/// Arguments of `treering quickstart`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where everything is written
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    out: PathBuf,
    /// People whom the base knows; half as many new ones are learnt
    #[arg(long, value_name = "PEOPLE", default_value_t = 40, value_parser = clap::value_parser!(u64).range(2..=100_000))]
    people: u64,
    /// Steps in which the base is trained
    #[arg(long, value_name = "STEPS", default_value_t = 480, value_parser = clap::value_parser!(u64).range(1..))]
    base_steps: u64,
    /// Steps in which each method learns the new people
    #[arg(long, value_name = "STEPS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Seed of the people, the weights and the order of the texts
    #[arg(long, default_value_t = 42, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Where stderr is no terminal, write a line about progress every ten seconds
    #[arg(long, short)]
    verbose: bool,
}

/// Runs the tour.
pub fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    if args.out.exists() && std::fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::usage(format!(
            "{}: something is here already\n  hint: remove it, or choose another folder with --out",
            args.out.display()
        )));
    }
    let display = std::cell::RefCell::new(Display::new(args.verbose));
    let say = |text: &str| if args.json { Ok(()) } else { super::print(text) };

    let stop = stop_on_signals()?;
    let world = World::create(&args)?;
    say(&world.introduction())?;
    let base = Lesson::new("base", &world).give(&display, &stop);
    display.borrow().finish();
    let base = base?;
    world.save_base(&base)?;
    say(&show::base(&base, &world))?;

    let mut lessons = Vec::new();
    for method in ["scale-preserve", "full"] {
        let display = std::cell::RefCell::new(Display::new(args.verbose));
        let lesson = Lesson::new(method, &world).give(&display, &stop);
        display.borrow().finish();
        lessons.push(lesson?);
    }
    let results = show::Results::new(&base, &lessons, started.elapsed());
    write(&args.out.join("quickstart.svg"), &results.svg())?;
    let runs = lessons.iter().map(|lesson| args.out.join("runs").join(lesson.name));
    write(&args.out.join("quickstart.html"), &page::render(&Comparison::read(runs)?))?;
    let json = serde_json::to_string(&results).map_err(|error| Error::usage(format!("the results cannot be written as JSON: {error}")))?;
    write(&args.out.join("quickstart.json"), &(json.clone() + "\n"))?;
    if args.json { super::print(json) } else { super::print(results.text(&args.out, &world)) }
}
