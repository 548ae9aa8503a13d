//! `treering generate`: continue a prompt, streaming.

use std::io::{IsTerminal, Read, Write};
use std::time::Instant;

use serde::Serialize;
use treering::error::IoContext;
use treering::eval::head_name;
use treering::generate::{Generation, Request, SamplerConfig, Stop, chat, end_tokens, generate};
use treering::model::Head;
use treering::route::Router;
use treering::{Error, Result};

use super::open::{ModelArgs, OpenedModel};

/// The longest prompt that is read from stdin; no context is as long.
const MAX_PROMPT_BYTES: u64 = 64 << 20;

/// Arguments of `treering generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What to continue; - reads it from stdin
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Which head speaks: base, preservation (the base's own words), ring-1, ring-2 … (what an earlier ring learnt), adaptation (what was learnt last)
    /// [default: the router gate where one was trained, the run's own router, or adaptation where there is one]
    #[arg(long)]
    head: Option<Head>,
    /// Let a router choose the head for each token, for example bayes or cosine:threshold=0.8 (docs/method.md)
    #[arg(long, conflicts_with = "head")]
    router: Option<String>,
    /// Show which head spoke for each token: in colour in a terminal, else the adaptation head's words in «» and those of ring 1 in ‹1:›; --json has
    /// it in any case
    #[arg(long)]
    trace: bool,
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
    let router = args.router.as_deref().map(str::parse::<Router>).transpose()?;
    let prompt = if args.prompt == "-" { read_prompt()? } else { args.prompt.clone() };
    let OpenedModel { mut model, tokenizer, description, recipe, .. } = args.model.open_for(router.as_slice())?;
    // What was trained is packed once, not for every token.
    model.freeze();
    // A run with a router is that router, unless something else is asked for.
    let of_run = recipe.and_then(|recipe| recipe.own_router());
    // Whoever trained a gate wants it asked.
    let of_gate = model.gate().map(|_| Router::gate()).filter(|_| model.heads().len() > 1);
    let router = router.or(of_gate.or(of_run).filter(|_| args.head.is_none()));
    if args.trace && router.is_none() {
        return Err(Error::usage("--trace shows which head a router let speak; name one with --router, for example --router bayes"));
    }
    let mut ends = end_tokens(&model, &tokenizer);
    let tokens = if args.chat {
        let turn = chat::user_turn(&tokenizer, args.system.as_deref(), &prompt)?;
        ends.push(turn.end);
        turn.tokens
    } else {
        tokenizer.encode_with_special(&prompt)?
    };
    let request = Request { head: args.head, router, max_new_tokens: args.max_new_tokens, ends, sampler };
    let start = Instant::now();
    let mut painter = Painter::new(args.trace);
    let stream = |text: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).at("<stdout>")
    };
    let generation =
        generate(&model, &tokenizer, &tokens, &request, |piece, head| if args.json { Ok(()) } else { stream(painter.paint(piece, head)) });
    if !args.json {
        // Also after an error: the terminal gets its own colour back.
        stream(painter.end())?;
    }
    let generation = generation?;
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
    let speaker = match (generation.head, generation.router) {
        (Some(head), _) => format!("{} head", head_name(head)),
        (None, Some(router)) => {
            let share = generation.adaptation_share().map_or(String::new(), |share| format!(": adaptation head {:.0} %", 100.0 * share));
            format!("router {router}{share}")
        }
        (None, None) => "nobody spoke".into(),
    };
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(
        std::io::stderr(),
        "[{speaker}, {} + {count} tokens, {:.1} tokens/s, {why}]",
        generation.prompt_tokens,
        count as f64 / seconds.max(1e-9)
    );
    Ok(())
}

/// Marks what each head said, all but the preservation head.
struct Painter {
    wanted: bool,
    colour: bool,
    /// The head whose words are being marked.
    marked: Option<Head>,
}

impl Painter {
    fn new(wanted: bool) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { wanted, colour, marked: None }
    }

    fn paint(&mut self, piece: &str, head: Option<Head>) -> String {
        let head = head.filter(|head| self.wanted && matches!(head, Head::Adaptation | Head::Ring(_)));
        if head == self.marked {
            return piece.to_owned();
        }
        let end = self.marked.map_or("", |head| self.marks(head).1);
        let begin = head.map_or(String::new(), |head| self.marks(head).0);
        self.marked = head;
        format!("{end}{begin}{piece}")
    }

    /// What begins and ends a head's words: green for the adaptation head, and five more colours in turn for the rings within.
    fn marks(&self, head: Head) -> (String, &'static str) {
        match (self.colour, head) {
            (true, Head::Ring(number)) => (format!("\x1b[{}m", [36, 33, 35, 34, 31][(number - 1) % 5]), "\x1b[0m"),
            (true, _) => ("\x1b[32m".into(), "\x1b[0m"),
            (false, Head::Ring(number)) => (format!("‹{number}:"), "›"),
            (false, _) => ("«".into(), "»"),
        }
    }

    fn end(&mut self) -> String {
        self.paint("", None)
    }
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
