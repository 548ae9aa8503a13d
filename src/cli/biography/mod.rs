//! `treering biography`: the paper's controlled benchmark.

mod generate;
mod plan;
mod run;

use std::path::PathBuf;

use clap::Subcommand;
use treering::biography::{Loss, Setup, Size, protocol};
use treering::data::biography::Attribute;
use treering::data::biography::dataset::Dataset;
use treering::recipe::MethodKind;
use treering::{Error, Result};

/// Arguments of `treering biography`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What is done with people.
#[derive(Debug, Subcommand)]
enum Command {
    /// Write the data set: people, biographies and questions, as JSONL and Parquet
    Generate(generate::Args),
    /// Train a model on people, teach it others by several methods, and ask it about both all along
    Run(run::Args),
    /// Say what a run will take, stage by stage, before anything is made
    Plan(plan::Args),
}

/// Does what was asked.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Generate(args) => generate::run(args),
        Command::Run(args) => run::run(args),
        Command::Plan(args) => plan::run(args),
    }
}

/// What is run, as `run` and `plan` both ask it.
#[derive(Debug, clap::Args)]
struct Choice {
    /// quickstart, mini, small or paper (docs/biography.md)
    #[arg(long, default_value = "mini")]
    size: String,
    /// full, llama-pro, lora, freeze, scale-preserve, scale-adapt, scale-route; several, or all
    #[arg(long, value_name = "METHOD,…", value_delimiter = ',', default_value = "all")]
    method: Vec<String>,
    /// Tasks after Task 0, each about new people: rings for scale- methods, fine-tuning again and again for the others
    #[arg(long, value_name = "N", default_value_t = 1)]
    tasks: u64,
    /// Which tokens of a question count when it is learnt: those of the answer, or all
    #[arg(long, value_name = "answer|all", default_value = "answer")]
    loss: String,
    /// What is asked for: birth_date, birth_city, university, major, company, company_city [default: all six]
    #[arg(long, value_name = "ATTRIBUTE,…", value_delimiter = ',')]
    attributes: Vec<String>,
    /// People whom pre-training knows [default: the size's]
    #[arg(long, value_name = "N")]
    people: Option<u64>,
    /// People of each task after Task 0 [default: the size's]
    #[arg(long, value_name = "N")]
    new_people: Option<u64>,
    /// The people of this data set, made by `treering biography generate`
    #[arg(long, value_name = "DIR", conflicts_with = "seed")]
    data: Option<PathBuf>,
    /// A tokenizer.json [default: one is trained on the texts]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Seed of the people, the weights and the order of the texts
    #[arg(long, default_value_t = 42, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: u64,
    /// Change a key of all recipes, or of one stage's or method's: --set scale-route:train.learning_rate=1e-3
    #[arg(long = "set", value_name = "[STAGE:]KEY=VALUE")]
    set: Vec<String>,
}

impl Choice {
    fn setup(&self) -> Result<Setup> {
        let named = |flag: &str, error: Error| match error {
            Error::Usage(message) => Error::Usage(format!("--{flag}: {message}")),
            other => other,
        };
        let size: Size = self.size.parse().map_err(|error| named("size", error))?;
        let loss: Loss = self.loss.parse().map_err(|error| named("loss", error))?;
        let mut attributes: Vec<Attribute> =
            self.attributes.iter().map(|text| text.parse()).collect::<Result<_>>().map_err(|error| named("attributes", error))?;
        attributes.sort_unstable();
        attributes.dedup();
        let data = self.data.as_deref().map(Dataset::open).transpose()?;
        let tokenizer = match &self.tokenizer {
            Some(path) => Some(std::path::absolute(path).map_err(|error| Error::io(path, error))?),
            None => None,
        };
        Ok(Setup {
            seed: data.as_ref().map_or(self.seed, |data| data.seed),
            loss,
            attributes: if attributes.is_empty() { Attribute::ALL.to_vec() } else { attributes },
            people: self.people,
            new_people: self.new_people,
            population: data.map(|data| data.people),
            tokenizer,
            ..Setup::new(size)
        })
    }

    fn methods(&self) -> Result<Vec<MethodKind>> {
        protocol::methods(&self.method).map_err(|error| match error {
            Error::Usage(message) => Error::Usage(format!("--method: {message}")),
            other => other,
        })
    }
}
