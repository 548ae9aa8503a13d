//! `treering generate`: continue a prompt, streaming.

use std::io::{Read, Write};
use std::time::Instant;

use serde::Serialize;
use treering::error::IoContext;
use treering::eval::head_name;
use treering::generate::{Generation, Request, SamplerConfig, Stop, chat, end_tokens, generate};
use treering::model::Head;
use treering::{Error, Result};

use super::open::{ModelArgs, OpenedModel};

/// The longest prompt that is read from stdin; no context is as long.
const MAX_PROMPT_BYTES: u64 = 64 << 20;

/// Which head speaks.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum HeadName {
    /// A plain model's only head
    Base,
    /// The base's own words, bit for bit
    Preservation,
    /// What was learnt
    Adaptation,
}

/// Arguments of `treering generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What to continue; - reads it from stdin
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Which head speaks [default: adaptation where there is one]
    #[arg(long, value_enum)]
    head: Option<HeadName>,
    /// Largest number of new tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    max_new_tokens: usize,
    /// Logits are divided by it; 0 takes the most probable token always
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Choose among this many most probable tokens
    #[arg(long, value_name = "TOKENS")]
    top_k: Option<usize>,
    /// Choose among the most probable tokens that together have this probability
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,
    /// Choose among tokens at least this share as probable as the most probable one
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f32,
    /// Above 1: make tokens that occurred less probable
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// Seed of the random choice
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Wrap the prompt as a user's message, as instruction-tuned models expect it
    #[arg(long)]
    chat: bool,
    /// The system message of --chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Print one JSON object at the end instead of streaming the text
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    model: &'a str,
    prompt: &'a str,
    #[serde(flatten)]
    generation: &'a Generation,
    sampler: &'a SamplerConfig,
    seconds: f64,
}

/// Generates.
pub fn run(args: Args) -> Result<()> {
    let sampler = SamplerConfig {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
    };
    // Before the model is read, which may take a while.
    sampler.validate()?;
    let prompt = if args.prompt == "-" { read_prompt()? } else { args.prompt.clone() };
    let OpenedModel { model, tokenizer, description, .. } = args.model.open()?;
    let mut ends = end_tokens(&model, &tokenizer);
    let tokens = if args.chat {
        let turn = chat::user_turn(&tokenizer, args.system.as_deref(), &prompt)?;
        ends.push(turn.end);
        turn.tokens
    } else {
        tokenizer.encode_with_special(&prompt)?
    };
    let head = args.head.map(|head| match head {
        HeadName::Base => Head::Base,
        HeadName::Preservation => Head::Preservation,
        HeadName::Adaptation => Head::Adaptation,
    });
    let request = Request { head, max_new_tokens: args.max_new_tokens, ends, sampler };
    let start = Instant::now();
    let stream = |piece: &str| {
        let mut out = std::io::stdout().lock();
        out.write_all(piece.as_bytes()).and_then(|()| out.flush()).at("<stdout>")
    };
    let generation = generate(&model, &tokenizer, &tokens, &request, |piece| if args.json { Ok(()) } else { stream(piece) })?;
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        let output = Output { model: &description, prompt: &prompt, generation: &generation, sampler: &request.sampler, seconds };
        let text =
            serde_json::to_string(&output).map_err(|error| Error::usage(format!("the result cannot be written as JSON: {error}")))?;
        return super::print(text);
    }
    super::print("")?;
    let why = match generation.stop {
        Stop::EndOfText => "the text ended",
        Stop::MaxNewTokens => "--max-new-tokens reached",
        Stop::ContextFull => "the model's context is full",
    };
    let count = generation.tokens.len();
    eprintln!(
        "[{} head, {} + {count} tokens, {:.1} tokens/s, {why}]",
        head_name(generation.head),
        generation.prompt_tokens,
        count as f64 / seconds.max(1e-9)
    );
    Ok(())
}

/// The prompt on stdin, without the line end that a shell puts there.
fn read_prompt() -> Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(MAX_PROMPT_BYTES + 1).read_to_end(&mut bytes).at("<stdin>")?;
    if bytes.len() as u64 > MAX_PROMPT_BYTES {
        return Err(Error::usage(format!("the prompt on stdin is longer than {MAX_PROMPT_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|error| Error::usage(format!("the prompt on stdin is not UTF-8 text: {error}")))?;
    Ok(text.strip_suffix("\r\n").or(text.strip_suffix('\n')).unwrap_or(&text).to_owned())
}
