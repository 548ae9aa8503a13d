"""The configuration of a widened model: the base's own fields, what each ring added, and who speaks.

Written by Treering (`treering export --to hf`), read by `AutoConfig.from_pretrained(..., trust_remote_code=True)`.
"""

from transformers import PretrainedConfig


class TreeringConfig(PretrainedConfig):
    """A base of a Llama-like family and the rings that were grown around it.

    Args:
        base_model_type: The base's own `model_type`: it says which norms, biases and windows the layers have.
        rings: What each ring added, from the innermost out: a dict of `sizes` (`hidden_size`, `num_attention_heads`, `num_key_value_heads`,
            `intermediate_size`) and `placement` (`preserved_layers`, `modules`: where the block from the expansion to the base is trained; `r`: the
            rank of low-rank parts there; `sink_layers`: the lowest layers in which neither adds to a text's first position; the last two 0 where
            absent).
        head: Whose logits `forward` returns: `preservation` (the base's, to the bit), `ring-1`, `ring-2` ... or `adaptation` (the newest ring's).
        router: What chooses or mixes the heads token by token instead, such as `bayes`, `bayes:share=0.01,prior=0.5`, `cosine:threshold=0.8`,
            `confidence` or `bayes-confidence`; `None` lets `head` speak alone.
        treering: Where the model comes from, for `treering import`: the base's hash, each ring's hash, initialisation and seed.
    The other arguments are those of the base under their usual names.
    """

    model_type = "treering"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]

    def __init__(
        self,
        base_model_type="llama",
        rings=(),
        head="adaptation",
        router=None,
        treering=None,
        vocab_size=32000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=None,
        head_dim=None,
        hidden_act="silu",
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        rope_parameters=None,
        attention_bias=False,
        mlp_bias=False,
        sliding_window=None,
        use_sliding_window=False,
        layer_types=None,
        use_cache=True,
        initializer_range=0.02,
        **kwargs,
    ):
        self.base_model_type = base_model_type
        self.rings = [dict(ring) for ring in rings or ()]
        self.head = head
        self.router = router
        self.treering = treering
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.rope_parameters = dict(rope_parameters or {"rope_type": "default", "rope_theta": 10000.0})
        self.attention_bias = attention_bias
        self.mlp_bias = mlp_bias
        self.sliding_window = sliding_window
        self.use_sliding_window = use_sliding_window
        self.layer_types = layer_types
        self.use_cache = use_cache
        self.initializer_range = initializer_range
        super().__init__(**kwargs)

    @property
    def heads(self):
        """The names of the heads, each of which goes on from the one before it."""
        inner = [f"ring-{number}" for number in range(1, len(self.rings))]
        return ["preservation", *inner, *(["adaptation"] if self.rings else [])]

    @property
    def fork_layer(self):
        """The first layer in which the innermost ring changes the base stream; the number of layers where none does."""
        placement = self.rings[0]["placement"] if self.rings else {"modules": []}
        return min(placement["preserved_layers"], self.num_hidden_layers) if placement["modules"] else self.num_hidden_layers

    def adapts(self, layer, module):
        """Whether the innermost ring writes to the base in `module` (`attention` or `ffn`) of this layer."""
        return layer >= self.fork_layer and module in self.rings[0]["placement"]["modules"]

    @property
    def rank(self):
        """The rank of what the innermost ring adds to the base's own weights where it writes to the base; 0 for nothing."""
        return self.rings[0]["placement"].get("r", 0) if self.rings else 0

    @property
    def sink_layers(self):
        """The lowest layers in which the innermost ring leaves a text's first position as the base has it."""
        return self.rings[0]["placement"].get("sink_layers", 0) if self.rings else 0

    def window(self, layer):
        """How many tokens a query of this layer sees, itself included; `None` for all."""
        if self.base_model_type == "mistral":
            return self.sliding_window
        slides = self.base_model_type in ("qwen2", "qwen3") and self.use_sliding_window
        return self.sliding_window if slides and self.layer_types[layer] == "sliding_attention" else None

    def to_diff_dict(self):
        """Everything: other readers have other defaults than this class."""
        values = self.to_dict()
        values.pop("_name_or_path", None)
        return values
