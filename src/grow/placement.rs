//! Where an expansion adds to the base stream, and what of that stream it leaves as it was.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::baseline::MAX_RANK;
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::grow::sizes::Given;

/// Which modules of a layer train their expansion-to-base block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Module {
    /// `q_proj`, `k_proj`, `v_proj`, `o_proj`.
    Attention,
    /// `gate_proj`, `up_proj`, `down_proj`.
    Ffn,
}

/// Where W12 is trained: in the chosen modules of every layer from `preserved_layers` up.
/// Preserve is `preserved_layers = num_hidden_layers`. There too, the adapted copy of the base stream may have low-rank parts of its own.
///
/// # Paper
/// Section 3.3 (`L_fp`) and Figures 6 and 7. The low-rank parts are ours (docs/decisions/0009-adapters.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The lowest layers whose W12 stays zero.
    pub preserved_layers: usize,
    /// The modules whose W12 is trained above them.
    pub modules: Vec<Module>,
    /// Rank of what is added to the base's own weight in the adapted copy of its stream, beside every W12: `W + 2 B A`, with `A [r, in]` and `B [out, r]`.
    /// 0: nothing, as in the paper. The preserved copy never sees it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub r: usize,
    /// The lowest layers in which the row of a document's first position stays the base's own in the adapted copy: nothing is added to it, and what its
    /// attention finds, its own value, is the base's. So it becomes the attention sink that the base makes of it, whatever its token; what later positions
    /// see of it, its key and its value, is adapted. [`crate::model::Model::sink_layers`] measures how many layers the base takes. 0: none, as in the paper.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sink_layers: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Module {
    /// Both, in the order of the layer.
    pub const ALL: [Self; 2] = [Self::Attention, Self::Ffn];

    /// The name used in recipes, on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Ffn => "ffn",
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Module {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|module| module.as_str() == text.trim())
            .ok_or_else(|| Error::usage(format!("modules: `{text}` is neither `attention` nor `ffn`")))
    }
}

impl Placement {
    /// The factor on `B A`: `lora_alpha` of twice the rank, as is usual.
    pub const SCALING: f32 = 2.0;

    /// W12 in `modules` from layer `preserved_layers` up, as in the paper: without low-rank parts, and at every position.
    pub fn new(preserved_layers: usize, modules: &[Module]) -> Self {
        Self { preserved_layers, modules: modules.to_vec(), r: 0, sink_layers: 0 }
    }

    /// No W12 anywhere: the base stream never changes.
    ///
    /// # Paper
    /// SCALE-Preserve.
    pub fn preserve(config: &Config) -> Self {
        Self::new(config.num_hidden_layers, &[])
    }

    /// W12 in the attention of the upper half of the layers, the default of SCALE-Adapt.
    pub fn adapt(config: &Config) -> Self {
        Self::new(config.num_hidden_layers / 2, &[Module::Attention])
    }

    /// W12 in every module of every layer with low-rank parts beside it, the default of SCALE-Route: what the adaptation head forgets is the router's business
    /// there, and with fewer layers or modules, or without the low-rank parts, it learns less (docs/experiments.md).
    pub fn route() -> Self {
        Self { r: 16, ..Self::new(0, &Module::ALL) }
    }

    /// This default with what is given in its place. Low-rank parts are the default's only where there is W12 for them to stand beside.
    pub(super) fn complete(self, config: &Config, given: &Given) -> Self {
        let placed = Self {
            preserved_layers: given.preserved_layers.unwrap_or(self.preserved_layers),
            modules: given.modules.clone().unwrap_or(self.modules),
            r: 0,
            sink_layers: given.sink_layers.unwrap_or(self.sink_layers),
        };
        let r = given.r.unwrap_or(if placed.is_preserve(config) { 0 } else { self.r });
        Self { r, ..placed }
    }

    /// Whether the paper has it: no low-rank parts, and every position adapted alike. Files that say more have a version of their own.
    pub fn is_of_paper(&self) -> bool {
        self.r == 0 && self.sink_layers == 0
    }

    /// What there is beside the paper's placement, in words to follow it; empty where it is the paper's.
    pub fn beside_paper(&self) -> String {
        let mut text = match self.r {
            0 => String::new(),
            r => format!(", with low-rank parts of rank {r}"),
        };
        if self.sink_layers > 0 {
            text += &format!(", keeping the attention sink that layers 0 to {} make", self.sink_layers - 1);
        }
        text
    }

    /// Whether any W12 is trained.
    pub fn is_preserve(&self, config: &Config) -> bool {
        self.fork_layer(config.num_hidden_layers) == config.num_hidden_layers
    }

    /// Checks the placement against a base.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are fewer layers than `preserved_layers`, or layers that train W12 but in no module, a module named twice, a rank
    /// or layers of the sink where nothing is adapted, or more of either than there can be.
    pub fn validate(&self, config: &Config) -> Result<()> {
        let layers = config.num_hidden_layers;
        if self.preserved_layers > layers {
            return Err(Error::usage(format!(
                "preserved_layers = {} but the base has {layers} layers: 0 to {} train expansion_to_base above them, {layers} trains it nowhere",
                self.preserved_layers,
                layers.saturating_sub(1),
            )));
        }
        if self.modules.is_empty() && self.preserved_layers < layers {
            return Err(Error::usage(format!(
                "preserved_layers = {} leaves {} layers to train expansion_to_base in, but modules is empty: \
                 name \"attention\", \"ffn\" or both, or preserve all {layers} layers",
                self.preserved_layers,
                layers - self.preserved_layers,
            )));
        }
        if let Some(module) = Module::ALL.into_iter().find(|m| self.modules.iter().filter(|n| *n == m).count() > 1) {
            return Err(Error::usage(format!("modules names \"{module}\" twice")));
        }
        if self.r > MAX_RANK {
            return Err(Error::usage(format!("r: {} is out of range; allowed are 0 to {MAX_RANK}", self.r)));
        }
        if self.r > 0 && self.is_preserve(config) {
            return Err(Error::usage(format!(
                "r = {}, but expansion_to_base is trained nowhere: a low-rank part stands beside it, in the copy of the base stream that it makes",
                self.r
            )));
        }
        if self.sink_layers > layers {
            return Err(Error::usage(format!("sink_layers = {} but the base has {layers} layers", self.sink_layers)));
        }
        if self.sink_layers > 0 && self.is_preserve(config) {
            return Err(Error::usage(format!(
                "sink_layers = {}, but expansion_to_base is trained nowhere: the base stream never changes",
                self.sink_layers
            )));
        }
        Ok(())
    }

    /// Checks that an expansion around `inner` rings may be placed so: only the first ring may add to the base stream.
    ///
    /// # Errors
    /// [`Error::Usage`] where W12 is to be trained in a further ring.
    pub fn check_ring(&self, config: &Config, inner: usize) -> Result<()> {
        if inner > 0 && !self.is_preserve(config) {
            return Err(Error::usage(format!(
                "ring {} cannot train expansion_to_base: it would change what the {} within it were taught; \
                 on a widened model only scale-preserve is allowed, and the first ring may be of any kind",
                inner + 1,
                if inner == 1 { "ring".into() } else { format!("{inner} rings") },
            )));
        }
        Ok(())
    }

    /// Whether `module` of `layer` trains its expansion-to-base block.
    pub fn trains(&self, layer: usize, module: Module) -> bool {
        layer >= self.preserved_layers && self.modules.contains(&module)
    }

    /// The rank of what is added to the base's own weight of `module` in `layer`; `None` where nothing is.
    pub fn rank(&self, layer: usize, module: Module) -> Option<usize> {
        Some(self.r).filter(|&r| r > 0 && self.trains(layer, module))
    }

    /// The first layer in which the base stream forks into a preserved and an adapted copy; `num_hidden_layers` when none does.
    pub fn fork_layer(&self, num_hidden_layers: usize) -> usize {
        if self.modules.is_empty() { num_hidden_layers } else { self.preserved_layers.min(num_hidden_layers) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grow::sizes::tests::smol;

    #[test]
    fn a_placement_has_layers_and_modules_that_exist() {
        let place = |preserved_layers, modules: &[Module]| Placement::new(preserved_layers, modules);
        for good in [place(30, &[]), place(30, &[Module::Ffn]), place(0, &Module::ALL), place(29, &[Module::Attention])] {
            good.validate(&smol()).unwrap();
        }
        for (bad, says) in [
            (place(31, &[Module::Ffn]), "the base has 30 layers"),
            (place(usize::MAX, &[]), "the base has 30 layers"),
            (place(29, &[]), "modules is empty"),
            (place(3, &[Module::Ffn, Module::Ffn]), "\"ffn\" twice"),
        ] {
            let message = bad.validate(&smol()).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn preserve_forks_nowhere_and_adapt_in_the_upper_half() {
        assert!(Placement::preserve(&smol()).is_preserve(&smol()));
        let adapt = Placement::adapt(&smol());
        assert!(!adapt.is_preserve(&smol()));
        assert_eq!((adapt.fork_layer(30), adapt.modules.as_slice()), (15, &[Module::Attention][..]));
    }

    #[test]
    fn modules_read_back_as_they_are_written() {
        for module in Module::ALL {
            assert_eq!(module.to_string().parse::<Module>().unwrap(), module);
        }
        assert!("mlp".parse::<Module>().unwrap_err().to_string().contains("`mlp`"));
    }
}
