//! Routers: which head answers, token by token. All but `gate` and `recall` need nothing but the heads.
//!
//! 1. [`Router`]: the routers there are, with their settings, and how they are written (`bayes:share=0.01,prior=0.5`).
//! 2. [`Route`]: one router on its way through one document. It decides from what is known before a token ([`Signals`], and the tokens seen so far) and
//!    is then told what each head had thought of the token that came.
//! 3. [`Gate`]: a small network for the router of that name; [`examples`] makes what it is trained on, and [`lesson`] is the whole way from a model to its gate.
//! 4. [`Recall`]: what a head was taught, for the router of that name.
//! 5. [`Decision`]: the heads' weights for one token; the prediction is the weighted mixture of the heads' distributions.
//!
//! # Paper
//! Section 3.3, SCALE-Route: the cosine of the two heads' logits. The other routers are ours (docs/method.md § 5).

mod decision;
mod evidence;
pub mod examples;
mod gate;
pub mod lesson;
mod parse;
pub mod recall;
mod state;
#[cfg(test)]
mod tests;
mod track;

pub use decision::Decision;
pub use gate::{Example, FILE as GATE_FILE, Gate};
pub use parse::parse_list;
pub use recall::Recall;
pub use state::{Route, Signals};

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Extras, Model};

/// How the heads' shares in a prediction are decided. Written and read as [`std::fmt::Display`] and [`std::str::FromStr`] have it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Router {
    /// The first head, always: the base.
    Preserve,
    /// The last head, always.
    Adapt,
    /// The preservation head where its logits and the last head's point the same way, else the adaptation head; of several rings' heads the surest.
    ///
    /// # Paper
    /// Section 3.3.
    Cosine {
        /// The smallest cosine at which the preservation head answers.
        threshold: f64,
    },
    /// The head whose most probable token is the more probable; the preservation head of equals.
    Confidence,
    /// A mixture of the heads, each weighted by the probability it gave to the tokens seen so far.
    ///
    /// With `share` 0 the loss over a document exceeds the best head's by no more than `−ln` of that head's prior, by default ln 2 for two heads and
    /// ln n for n, whatever the text. With a share above 0 the same holds against every sequence of heads, for a price a change and a token (docs/method.md § 5).
    Bayes {
        /// Part of the weights that returns to the prior after every token, so that the heads can take turns.
        share: f64,
        /// Weight of the adaptation head at the beginning of a document; of several rings' heads the weight of each beside the preservation head alone.
        prior: f64,
    },
    /// A mixture of `bayes` and of another that keeps its evidence apart for tokens on which one head is much surer than the other: the surer one is
    /// trusted until it is found wrong *when it is sure*. What earned a head its weight on other tokens, such as a question's, does not silence it here.
    ///
    /// With `share` 0 the loss over a document exceeds that of `bayes:share=0` by at most ln 2.
    BayesConfidence {
        /// As for `bayes`.
        share: f64,
        /// As for `bayes`.
        prior: f64,
        /// Nats by which a head's most probable token must be more probable than the other's for it to be surer.
        margin: f64,
        /// Weight of the surer head before there is any evidence about it.
        trust: f64,
    },
    /// A mixture of the heads and of what the model's [`Gate`] makes of them: the gate looks at how the newest head and the one before it predict the token
    /// and how they have done so far, and shares its weight between the two accordingly.
    ///
    /// With `share` 0 the loss over a document exceeds the best head's by at most `ln(n / (1 − prior))` for n heads, and the gate's own by `−ln prior`.
    Gate {
        /// As for `bayes`: the part of the weights of heads and gate that returns to the prior after every token.
        share: f64,
        /// Weight of the gate at the beginning of a document; the heads have equal parts of the rest.
        prior: f64,
    },
    /// The head that was taught what the text is about, by its [`Recall`]: sequences of tokens that it read in few of its documents; of several the one that
    /// claims most of them, the newest of equals. Where no head claims enough the base answers alone, to the bit.
    Recall {
        /// The smallest share of known sequences, from 0 to below 1, at which a learnt head answers.
        threshold: f64,
    },
}

/// What was made for a model's routers beside its heads.
#[derive(Debug, Clone, Default)]
pub struct Aids {
    /// What `gate` asks.
    pub gate: Option<Arc<Gate>>,
    /// What `recall` asks, of each learnt head from the innermost ring's out; `None` for one without.
    pub recalls: Vec<Option<Arc<Recall>>>,
}

impl Aids {
    /// What the learnt head `index`, counted from 0, was taught.
    pub fn recall(&self, index: usize) -> Option<&Arc<Recall>> {
        self.recalls.get(index)?.as_ref()
    }

    /// Keeps what the learnt head `index` was taught.
    pub fn set_recall(&mut self, index: usize, recall: Option<Recall>) {
        let len = self.recalls.len().max(index + 1);
        self.recalls.resize(len, None);
        self.recalls[index] = recall.map(Arc::new);
    }
}

impl Router {
    /// Names of all routers, in the order in which help and messages list them.
    pub const NAMES: [&'static str; 8] = ["preserve", "adapt", "cosine", "confidence", "bayes", "bayes-confidence", "gate", "recall"];
    /// The default threshold of `cosine`.
    ///
    /// # Paper
    /// Section 3.3.
    pub const THRESHOLD: f64 = 0.5;
    /// The default share of `bayes`.
    pub const SHARE: f64 = 1e-3;
    /// The default prior of `bayes`.
    pub const PRIOR: f64 = 0.5;

    /// The default margin of `bayes-confidence`.
    pub const MARGIN: f64 = 1.0;
    /// The default trust of `bayes-confidence`.
    pub const TRUST: f64 = 0.9;

    /// The default prior of `gate`.
    pub const GATE_PRIOR: f64 = 0.9;

    /// The default threshold of `recall`.
    pub const RECALL_THRESHOLD: f64 = 0.75;

    /// The router `recall` with its defaults.
    pub fn recall() -> Self {
        Self::Recall { threshold: Self::RECALL_THRESHOLD }
    }

    /// Whether it asks something that is made after a run, and by which command: `gate` or `recall`.
    pub fn asks(self) -> Option<&'static str> {
        matches!(self, Self::Gate { .. } | Self::Recall { .. }).then(|| self.name())
    }

    /// The router `gate` with its defaults.
    pub fn gate() -> Self {
        Self::Gate { share: Self::SHARE, prior: Self::GATE_PRIOR }
    }

    /// Whether it looks at [`Signals::contrast`], which costs a pass over the logits of the last two heads.
    pub fn needs_contrast(self) -> bool {
        matches!(self, Self::Gate { .. })
    }

    /// Whether it looks at [`Signals::cosine`], which costs a pass over the logits.
    pub fn needs_cosine(self) -> bool {
        matches!(self, Self::Cosine { .. })
    }
}

impl Default for Router {
    fn default() -> Self {
        Self::Bayes { share: Self::SHARE, prior: Self::PRIOR }
    }
}

/// Refuses routers for a model with one head, `gate` for one without a gate, and `recall` where a head has none.
///
/// # Errors
/// [`Error::Usage`] where there is a router and nothing to choose between, or nothing to ask.
pub fn check(model: &Model, routers: &[Router]) -> Result<()> {
    if let Some(router) = routers.iter().find(|router| router.needs_contrast() && model.heads().len() > 1 && model.gate().is_none()) {
        return Err(Error::usage(format!(
            "router `{router}`: no gate was trained for this model\n  hint: `treering gate RUN` trains one and puts it beside the checkpoint; it needs no old data"
        )));
    }
    if let Some(router) = routers.iter().find(|router| matches!(router, Router::Recall { .. }))
        && let Some(head) = model.heads().iter().skip(1).enumerate().find(|(index, _)| model.aids().recall(*index).is_none())
    {
        return Err(Error::usage(format!(
            "router `{router}`: what the head `{}` was taught was not kept\n  hint: `treering recall RUN` reads the text of a run once more and puts that \
             beside its checkpoint; of rings, once for each",
            head.1
        )));
    }
    match routers.first() {
        Some(router) if model.heads().len() < 2 => Err(Error::usage(format!(
            "router `{router}`: this model has one head, and a router chooses between two or more; a model gets a second head when it is widened (train with a scale- method, or `treering grow`)"
        ))),
        _ => Ok(()),
    }
}

/// What a pass over the model must also find for these routers to decide, and each router at the beginning of a document.
///
/// # Errors
/// As [`check`].
pub fn begin(model: &Model, routers: &[Router]) -> Result<(Extras, Vec<Route>)> {
    check(model, routers)?;
    let extras = Extras {
        cosine: routers.iter().any(|router| router.needs_cosine()),
        contrast: routers.iter().any(|router| router.needs_contrast()),
        hidden: false,
    };
    Ok((extras, routers.iter().map(|&router| Route::new(router, model.heads().len()).with(model.aids())).collect()))
}
