//! Log-likelihoods of a task's choices, under every head and router.

use std::collections::VecDeque;

use rayon::prelude::*;

use super::data::TaskData;
use super::request::{Prompter, Request};
use crate::error::Result;
use crate::model::{Forest, Model, Scores};
use crate::route::{self, Route, Router, Signals};

/// Items that are tokenised at a time.
const AHEAD: usize = 64;
/// A beginning that all items share is computed once a batch; batches are at least so many times as long, so that it costs little.
const TIMES_SHARED: usize = 8;

/// What a model thought of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemScores {
    /// Which item of its task.
    pub index: usize,
    /// Log-likelihood (nats) of each choice, `[speaker][choice]`: the heads, then the routers.
    pub log_likelihoods: Vec<Vec<f32>>,
    /// Whether its prompt was longer than the model's context, and lost its beginning.
    pub truncated: bool,
}

/// Scores the items of a task from number `from` on, in their order, and hands them over a batch at a time. Choices share the computation of
/// their prompt, items that of their examples where they have them in common; what an item scores does not depend on its batch.
///
/// # Errors
/// Whatever tokenising or scoring returns, and what `each` does.
pub fn score(
    model: &Model,
    prompter: &Prompter<'_>,
    data: &TaskData,
    routers: &[Router],
    batch_tokens: usize,
    from: usize,
    each: &mut dyn FnMut(Vec<ItemScores>) -> Result<()>,
) -> Result<()> {
    let (extras, routes) = route::begin(model, routers)?;
    let mut next = from;
    let mut waiting: VecDeque<(usize, Vec<Request>)> = VecDeque::new();
    loop {
        let (mut forest, mut batch) = (Forest::new(), Vec::new());
        let mut wanted = batch_tokens;
        while forest.rows() < wanted {
            if waiting.is_empty() {
                let end = data.items.len().min(next + AHEAD);
                let encoded: Result<Vec<_>> =
                    (next..end).into_par_iter().map(|index| Ok((index, prompter.requests(data, index)?))).collect();
                waiting.extend(encoded?);
                next = end;
            }
            let Some((index, requests)) = waiting.pop_front() else { break };
            let before = forest.rows();
            // A router learns from the prompt, a head alone only has to say what it thinks of the choice.
            let first = |request: &Request| if routers.is_empty() { request.tokens.len() - request.scored } else { 1 };
            let places: Vec<Vec<usize>> = requests.iter().map(|request| forest.add(&request.tokens, first(request))).collect();
            if batch.len() == 1 {
                let longest = requests.iter().map(|request| request.tokens.len() - 1).max().unwrap_or(0);
                let shared = longest.saturating_sub(forest.rows() - before);
                wanted = wanted.max(TIMES_SHARED * shared);
            }
            batch.push((index, requests, places));
        }
        if batch.is_empty() {
            return Ok(());
        }
        let scores = model.score_forest(&forest, extras)?;
        let scored = batch.into_iter().map(|(index, requests, places)| {
            let heads = (0..model.heads().len()).map(|head| of_head(&scores.log_probs[head], &requests, &places));
            let routed = routes.iter().map(|route| of_router(route.clone(), &scores, &requests, &places));
            let truncated = requests.iter().any(|request| request.truncated);
            ItemScores { index, log_likelihoods: heads.chain(routed).collect(), truncated }
        });
        each(scored.collect())?;
    }
}

/// Each choice's places alone, without those of its prompt.
fn of_choice<'p>(request: &Request, places: &'p [usize]) -> &'p [usize] {
    &places[places.len() - request.scored..]
}

fn of_head(log_probs: &[f32], requests: &[Request], places: &[Vec<usize>]) -> Vec<f32> {
    let sum =
        |(request, places): (&Request, &Vec<usize>)| of_choice(request, places).iter().map(|&at| f64::from(log_probs[at])).sum::<f64>();
    requests.iter().zip(places).map(|pair| sum(pair) as f32).collect()
}

/// The choices under a router that has read the prompt: what it says of each token knows the tokens before it, of prompt and choice.
fn of_router(mut begun: Route, scores: &Scores, requests: &[Request], places: &[Vec<usize>]) -> Vec<f32> {
    let prompts: Vec<&[usize]> = requests.iter().zip(places).map(|(request, p)| &p[..p.len() - request.scored]).collect();
    let common = (0..).take_while(|&at| prompts[0].get(at).is_some_and(|&p| prompts.iter().all(|other| other.get(at) == Some(&p)))).count();
    let read = |route: &mut Route, (token, at): (u32, usize), decide: bool| {
        let of = |rows: &[Vec<f32>]| rows.iter().map(|row| row[at]).collect::<Vec<f32>>();
        let (log_probs, largest) = (of(&scores.log_probs), of(&scores.largest));
        let cosine = scores.cosine.get(at).copied().unwrap_or_default();
        let signals = Signals { largest: &largest, cosine, contrast: scores.contrast.get(at).copied(), read: token };
        let log_prob = if decide { route.decide(signals).log_prob(&log_probs) } else { 0.0 };
        route.observe(signals, &log_probs);
        log_prob
    };
    // Under a router every token but the first is predicted: each place beside the token that is read there.
    let pairs = |(request, places): (&Request, &Vec<usize>)| request.tokens.iter().copied().zip(places.iter().copied()).collect::<Vec<_>>();
    let pairs: Vec<Vec<(u32, usize)>> = requests.iter().zip(places).map(pairs).collect();
    for &pair in &pairs[0][..common] {
        read(&mut begun, pair, false);
    }
    let of_request = |(pairs, prompt): (&Vec<(u32, usize)>, &&[usize])| {
        let mut route = begun.clone();
        let (prompt, choice) = pairs.split_at(prompt.len());
        for &pair in &prompt[common..] {
            read(&mut route, pair, false);
        }
        choice.iter().map(|&pair| read(&mut route, pair, true)).sum::<f64>() as f32
    };
    pairs.iter().zip(&prompts).map(of_request).collect()
}
