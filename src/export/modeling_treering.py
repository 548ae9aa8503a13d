"""A widened model: a frozen base and the rings around it, as Treering computes them (`docs/method.md` of Treering, sections 1, 2 and 6).

Each ring has a residual stream beside the base's, with norms, attention heads and feed-forward channels of its own. A linear module is a block
matrix over the streams: a ring reads the base, every ring within it and itself. Only the innermost ring may also write to the base
(`expansion_to_base`); where it does, the base stream forks, and an untouched copy gives the preservation head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, LlamaConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from .configuration_treering import TreeringConfig
from .layers_treering import RMSNorm, TreeringLayer, WidenedEmbedding, WidenedHead, WidenedLinear, WidenedNorm, rings_of
from .routing_treering import Route, mix

# Versions of transformers have one of two names for it.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
# Positions whose logits are held at once where only a few numbers of each are wanted.
CHUNK = 128


@dataclass
class TreeringOutput(CausalLMOutputWithPast):
    """What `TreeringForCausalLM` returns beside loss, logits and cache.

    Args:
        head_logits: The logits of every head, by name, where they were asked for with `output_heads=True`.
        head_weights: `[batch, kept positions, heads]`, how a router weighs the heads; the order is that of `config.heads`.
    """

    head_logits: dict | None = None
    head_weights: torch.FloatTensor | None = None


class TreeringCache(DynamicCache):
    """Keys and values of every stream, and what a router has learnt from the text so far."""

    def __init__(self, speaks=None):
        super().__init__()
        # What it was filled for: another head or router would miss streams that were not computed.
        self.speaks = speaks
        self.route = None

    def reorder_cache(self, beam_idx):
        super().reorder_cache(beam_idx)
        if self.route is not None:
            self.route.select(beam_idx)

    def batch_select_indices(self, indices):
        super().batch_select_indices(indices)
        if self.route is not None:
            self.route.select(torch.as_tensor(indices))

    def batch_repeat_interleave(self, repeats):
        super().batch_repeat_interleave(repeats)
        if self.route is not None and self.route.pending is not None:
            self.route.select(torch.arange(len(self.route.pending[2])).repeat_interleave(repeats))

    def crop(self, *args, **kwargs):
        if self.route is not None:
            raise ValueError("a router cannot unlearn tokens, so what takes tokens back (assisted generation) needs a head: router=None")
        super().crop(*args, **kwargs)


class TreeringPreTrainedModel(PreTrainedModel):
    """What base model and causal language model share."""

    config_class = TreeringConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = False
    _no_split_modules = ["TreeringLayer"]
    _supports_sdpa = True

    def _init_weights(self, module):
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Embedding, WidenedLinear, WidenedHead)) and module.weight is not None:
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


class TreeringModel(TreeringPreTrainedModel):
    """The decoder: the base stream and each ring's."""

    def __init__(self, config):
        super().__init__(config)
        widths = [ring["sizes"]["hidden_size"] for ring in config.rings]
        self.embed_tokens = WidenedEmbedding(config.vocab_size, config.hidden_size, widths)
        self.layers = nn.ModuleList(TreeringLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = WidenedNorm(config.hidden_size, widths, config.rms_norm_eps)
        self.rotary = {}
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def angles(self, x, positions):
        """Cosines and sines; made where they are first needed, for a model may be loaded without values and moved."""
        if x.device not in self.rotary:
            c = self.config
            theta = c.rope_parameters["rope_theta"]
            scaling = {key: value for key, value in c.rope_parameters.items() if key != "rope_theta"}
            sizes = {"hidden_size": c.num_attention_heads * c.head_dim, "num_attention_heads": c.num_attention_heads, "head_dim": c.head_dim}
            if hasattr(LlamaConfig(), "rope_parameters"):
                rope = {"rope_parameters": dict(c.rope_parameters)}
            else:
                rope = {"rope_theta": theta, "rope_scaling": None if scaling["rope_type"] == "default" else scaling}
            llama = LlamaConfig(**sizes, max_position_embeddings=c.max_position_embeddings, **rope)
            with torch.device("cpu"):
                self.rotary[x.device] = LlamaRotaryEmbedding(llama).to(x.device)
        return self.rotary[x.device](x, positions)

    def forward(self, input_ids, real, positions, cache, rings, preserved):
        """The normed streams of the first `rings` rings, and the preserved base stream where it is one of its own and `preserved` asks for it."""
        layers, fork = self.config.num_hidden_layers, self.config.fork_layer
        streams, kept = self.embed_tokens(input_ids, rings), None
        rotary = self.angles(streams[0], positions)
        masks = {window: self.mask(input_ids.shape[1], real, window) for window in {layer.window for layer in self.layers}}
        slots = [stream * layers for stream in range(rings + 1)]
        first = (positions == 0)[..., None]
        first = first if bool(first.any()) else None
        after = (len(self.config.rings) + 1) * layers - fork
        for index, layer in enumerate(self.layers):
            if preserved and index == fork:
                kept = streams[0]
            if kept is not None:
                (kept,) = layer([kept], None, rotary, masks, cache, [after + index])
            held = first if index < self.config.sink_layers else None
            streams = layer(streams, held, rotary, masks, cache, [slot + index for slot in slots])
        return self.norm(streams), None if kept is None else self.norm([kept])[0]

    def mask(self, length, real, window):
        """What each of the last `length` positions sees, and whether that is all before it: `real` says of all positions so far, cached ones
        included, which are tokens; with a window a position sees so many, itself included."""
        total = real.shape[1]
        if length == total and bool(real.all()) and (window is None or window >= total):
            return None, length > 1
        at = torch.arange(total, device=real.device)
        back = at[total - length :, None] - at[None, :]
        visible = (back >= 0) if window is None else (back >= 0) & (back < window)
        # Padding sees itself, for attention to nothing is no number.
        return (visible[None] & real[:, None, :] | (back == 0)[None])[:, None], False


class TreeringForCausalLM(TreeringPreTrainedModel, GenerationMixin):
    """A widened model with all its heads, and the routers between them.

    `head` and `router` are the configuration's unless they are given to `forward` or `generate`. In training mode the adaptation head
    speaks unless another is given: it is the only one that learns. The base and all rings but the newest are frozen.
    """

    def __init__(self, config):
        super().__init__(config)
        self.model = TreeringModel(config)
        widths = [ring["sizes"]["hidden_size"] for ring in config.rings]
        self.lm_head = WidenedHead(config.vocab_size, config.hidden_size, widths, config.tie_word_embeddings)
        self.post_init()
        self.freeze_inner()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)
        # Loading puts new parameters in the place of those that were frozen.
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_inner()
        return loaded

    def freeze_inner(self):
        """Lets the newest ring learn, and nothing within it."""
        newest = f".ring_{len(self.config.rings)}."
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(newest in name)

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        # Heads are sums over streams, and a tied base has no weight of its own: there is no one matrix to hand out.
        return None

    @classmethod
    def _supports_default_dynamic_cache(cls):
        # `forward` makes the cache, since there is one for each stream.
        return False

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        cache=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        head=None,
        router=None,
        output_heads=False,
        token_type_ids=None,
        return_dict=None,
        **kwargs,
    ):
        """Logits of a head, or of the mixture that a router makes of all of them.

        Args:
            head: The name of one of `config.heads`.
            router: A router as it is written, such as `bayes`; its evidence is each row of `input_ids` and goes on with the cache.
            output_heads: Whether to return every head's logits too.
            labels: As ever, shifted here; the loss is that of the logits that are returned.
            token_type_ids: Passed over; some tokenizers give them for any model.
        """
        if inputs_embeds is not None or input_ids is None:
            raise ValueError("a widened model has an embedding for each stream: give it input_ids, not inputs_embeds")
        head, router = self.speaker(head, router)
        names = self.config.heads
        everything = router is not None or output_heads
        rings = len(self.config.rings) if everything else names.index(head)
        preserved = everything and self.config.fork_layer < self.config.num_hidden_layers
        cache = cache if cache is not None else past_key_values
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        if cache is None and use_cache:
            cache = TreeringCache((rings, preserved))
        if cache is not None and getattr(cache, "speaks", None) != (rings, preserved):
            raise ValueError("this cache was not filled by this model with this head or router: start with past_key_values=None")
        past = 0 if cache is None else cache.get_seq_length()
        batch, length = input_ids.shape
        if attention_mask is None:
            real = torch.ones(batch, past + length, dtype=torch.bool, device=input_ids.device)
        elif attention_mask.dim() != 2 or attention_mask.shape[1] != past + length:
            raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}, expected {(batch, past + length)}: one value a token so far")
        else:
            real = attention_mask.bool()
        if position_ids is None:
            position_ids = (real.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
        streams, kept = self.model(input_ids, real, position_ids, cache, rings, preserved)

        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        keep = slice(None) if isinstance(logits_to_keep, int) and logits_to_keep == 0 else keep
        logits = self.heads(streams, kept, keep)
        head_weights = None
        if router is None:
            chosen = logits[names.index(head)]
        else:
            route = getattr(cache, "route", None) or Route(router, len(names), batch)
            if route.text != router:
                raise ValueError(f"this cache has read on with the router {route.text}, not {router}")
            log_weights = self.walk(route, input_ids, real[:, past:], streams, kept, keep, logits)
            if cache is not None:
                cache.route = route
            chosen = mix(log_weights, logits, [torch.logsumexp(row.float(), -1) for row in logits])
            head_weights = log_weights.exp()
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=chosen, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        head_logits = dict(zip(names, logits)) if output_heads else None
        output = TreeringOutput(
            loss=loss, logits=chosen, head_logits=head_logits, head_weights=head_weights, **({CACHE: cache} if use_cache else {})
        )
        return output if return_dict is not False else output.to_tuple()

    def speaker(self, head, router):
        """The head, or the router, that speaks."""
        if head is not None and router is not None:
            raise ValueError(f"router `{router}` chooses the head; a head cannot be asked for as well")
        if head is None and router is None:
            head, router = ("adaptation", None) if self.training else (self.config.head, self.config.router)
        router = router or None
        if router in ("preserve", "adapt"):
            head, router = {"preserve": "preservation", "adapt": "adaptation"}[router], None
        if router is None and head not in self.config.heads:
            raise ValueError(f"head `{head}` is not one of {', '.join(self.config.heads)}")
        return head, router

    def heads(self, streams, kept, keep):
        """The logits of the heads that these streams make, each of which goes on from the one before it."""
        embedding = self.model.embed_tokens.weight
        running = self.lm_head.base(streams[0][:, keep], embedding)
        logits = [running if kept is None else self.lm_head.base(kept[:, keep], embedding)]
        for ring, x in zip(rings_of(self.lm_head, len(streams) - 1), streams[1:]):
            running = running + ring["expansion"](x[:, keep])
            logits.append(running)
        return logits

    @torch.no_grad()
    def walk(self, route, input_ids, real, streams, kept, keep, logits):
        """How `route` weighs the heads at the positions that are kept, after it has learnt from all of them."""
        length = input_ids.shape[1]
        if not route.remembers:
            largest, _, _, cosine = self.numbers(logits, None, route.needs_cosine)
            return route.decide(largest, cosine)
        largest, following = [], []
        for start in range(0, length, CHUNK):
            at = slice(start, min(start + CHUNK, length))
            rows = self.heads(streams, kept, at)
            after = input_ids[:, at.start + 1 : at.stop + 1]
            numbers = self.numbers(rows, after, False)
            largest.append(numbers[0])
            following.append(numbers[1])
        last = torch.stack([torch.log_softmax(row[:, -1].float(), -1) for row in rows], 1)
        weights = route.walk(input_ids, real.cpu(), torch.cat(largest, 1), torch.cat(following, 1), last, None)
        return weights[:, keep.cpu() if torch.is_tensor(keep) else keep]

    @staticmethod
    def numbers(rows, following, with_cosine):
        """Of each head's logits: the log-probability of its most probable token and of the one that follows, and the heads' cosine."""
        largest, given, cosine = [], [], None
        for row in rows:
            row = row.float()
            normaliser = torch.logsumexp(row, -1).cpu().double()
            largest.append(row.max(-1).values.cpu().double() - normaliser)
            if following is not None:
                count = following.shape[1]
                next_logits = row[:, :count].gather(-1, following[..., None])[..., 0]
                given.append(next_logits.cpu().double() - normaliser[:, :count])
        if with_cosine:
            cosine = F.cosine_similarity(rows[0].float(), rows[-1].float(), dim=-1).cpu().double()
        return torch.stack(largest, -1), torch.stack(given, -1) if given else None, None, cosine
