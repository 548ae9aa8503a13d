//! The people, their texts, the tokenizer and the untrained model.

use std::ops::Range;
use std::path::PathBuf;

use treering::Result;
use treering::biography::world::untrained_weights;
use treering::checkpoint::{BaseCheckpoint, Config, Dtype, atomic};
use treering::data::biography::{Attribute, END_OF_TEXT, People, train_tokenizer};
use treering::tokenizer::Tokenizer;

use super::Args;
use super::lesson::Lesson;
use crate::cli::compare::write;

/// Tokens of the vocabulary: enough for names to be a few tokens long.
const VOCAB_SIZE: usize = 800;
/// Biographies of each person.
const COPIES: u64 = 3;
/// The longest text, and the model's context.
const CONTEXT: usize = 256;
/// Tokens a window in training.
pub const SEQUENCE_LENGTH: usize = 96;

/// Everything that exists before anything is learnt.
pub struct World {
    /// The folder.
    pub out: PathBuf,
    /// The tokenizer, trained on the old people's texts.
    pub tokenizer: Tokenizer,
    /// The model's shape.
    pub config: Config,
    /// All people.
    pub people: People,
    /// Those whom the base knows.
    pub old: Range<u64>,
    /// Those who are learnt.
    pub new: Range<u64>,
}

impl World {
    /// Makes the people, writes their texts, trains the tokenizer, and saves an untrained model and the recipes.
    pub fn create(args: &Args) -> Result<Self> {
        let (old, new) = (0..args.people, args.people..args.people + args.people.div_ceil(2));
        let people = People::generate(new.end, args.seed)?;
        let corpora = args.out.join("corpora");
        atomic::create_folders(&corpora)?;
        people.write_corpus(&corpora.join("old.biographies.jsonl"), old.clone(), COPIES, args.seed)?;
        people.write_questions(&corpora.join("old.questions.jsonl"), old.clone(), &Attribute::ALL)?;
        people.write_questions(&corpora.join("new.questions.jsonl"), new.clone(), &Attribute::ALL)?;

        // The base's tokenizer has never seen the new people either.
        let texts = people.texts(old.clone(), 1, args.seed)?.chain(people.question_texts(old.clone(), &Attribute::ALL)?);
        let tokenizer = Tokenizer::new(train_tokenizer(texts.collect::<Vec<_>>().into_iter(), VOCAB_SIZE)?)?;
        let end = tokenizer.token_to_id(END_OF_TEXT);
        let tokenizer = tokenizer.with_defaults(None, end);

        let mut config = Config::new(tokenizer.vocab_size(), 128, 384, 4, 4);
        config.max_position_embeddings = CONTEXT;
        config.tie_word_embeddings = true;
        config.eos_token_id = end.into_iter().collect();
        config.validate()?;
        let world = Self { out: args.out.clone(), tokenizer, config, people, old, new };
        let untrained =
            BaseCheckpoint::from_memory(world.config.clone(), untrained_weights(&world.config, args.seed)?, Some(world.tokenizer.clone()))?;
        untrained.save_hf(&args.out.join("untrained"), Dtype::F32)?;
        for (name, recipe) in recipes(args) {
            write(&world.recipe(name), &recipe)?;
        }
        Ok(world)
    }

    /// The recipe of a lesson.
    pub fn recipe(&self, name: &str) -> PathBuf {
        self.out.join(format!("{name}.toml"))
    }

    /// Saves what the first lesson made of the untrained model, as a model like any other.
    pub fn save_base(&self, base: &Lesson) -> Result<()> {
        let tensors = base.parameters().iter().map(|p| (p.name.clone(), (p.shape.clone(), p.value.clone()))).collect();
        let checkpoint = BaseCheckpoint::from_memory(self.config.clone(), tensors, Some(self.tokenizer.clone()))?;
        checkpoint.save_hf(&self.out.join("base"), Dtype::F32)
    }

    /// What is about to happen.
    pub fn introduction(&self) -> String {
        format!(
            "Treering: a small model learns about new people. What happens to the old ones?\n\n\
             1. A base of {:.2} million parameters learns {} people from biographies and questions.",
            self.config.parameter_count() as f64 / 1e6,
            self.old.end
        )
    }
}

/// The three recipes, as a person would write them.
fn recipes(args: &Args) -> [(&'static str, String); 3] {
    let Args { base_steps, steps, seed, .. } = args;
    let base = format!(
        r#"# Trains the base of the quickstart from random weights.
[model]
path = "untrained"
dtype = "f32"

[method]
kind = "full"

[data]
train = [{{ path = "corpora/old.biographies.jsonl" }}, {{ path = "corpora/old.questions.jsonl" }}]
forget = [{{ name = "old_people", path = "corpora/old.questions.jsonl", max_documents = 600 }}]
sequence_length = {SEQUENCE_LENGTH}
document_mask = true

[train]
steps = {base_steps}
batch_size = 16
learning_rate = 3e-3
schedule = "cosine"
learning_rate_floor = 0.05
warmup_steps = {}
seed = {seed}
checkpoint_every_steps = 0

[eval]
at_start = false
"#,
        base_steps / 20
    );
    let lesson = |kind: &str, sizes: &str, rate: &str| {
        format!(
            r#"# Teaches the new people to the base of the quickstart.
[model]
path = "base"
dtype = "f32"

[method]
kind = "{kind}"
{sizes}
[data]
train = [{{ path = "corpora/new.questions.jsonl" }}]
learn = [{{ name = "new_people", path = "corpora/new.questions.jsonl", max_documents = 600 }}]
forget = [{{ name = "old_people", path = "corpora/old.questions.jsonl", max_documents = 600 }}]
sequence_length = {SEQUENCE_LENGTH}
document_mask = true

[train]
steps = {steps}
batch_size = 16
learning_rate = {rate}
schedule = "cosine"
learning_rate_floor = 0.1
warmup_steps = {}
seed = {seed}
checkpoint_every_steps = 0

[eval]
every_steps = {}
"#,
            steps / 20,
            steps.div_ceil(8)
        )
    };
    // The lowest rates of those tried at which each method answers 98 % about the new people: higher ones only forget more.
    let sizes = "hidden_size = 64\nnum_attention_heads = 2\nnum_key_value_heads = 2\nintermediate_size = 192\n";
    [("base", base), ("scale-preserve", lesson("scale-preserve", sizes, "3e-3")), ("full", lesson("full", "", "3e-4"))]
}
