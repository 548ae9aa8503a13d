#!/usr/bin/env python3
"""Writes a Llama GGUF as a Hugging Face folder in f32 (weights and config.json), so that the PyTorch side can load it.

    target/peers/venv/bin/python scripts/gguf-to-hf.py IN.gguf OUT_DIR

Only for comparisons: Treering itself reads GGUF directly. A byte-level BPE tokenizer is written too, where its way of cutting words is known here;
most comparisons use token ids.
"""

import json
import pathlib
import sys

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file

LAYER_TENSORS = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
OTHER_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hugging_face_name(name):
    parts = name.split(".")
    if parts[0] == "blk" and parts[2] in LAYER_TENSORS:
        return f"model.layers.{parts[1]}.{LAYER_TENSORS[parts[2]]}.{parts[3]}"
    if parts[0] in OTHER_TENSORS:
        return f"{OTHER_TENSORS[parts[0]]}.{parts[1]}"
    sys.exit(f"error: tensor {name!r} has no place in a Llama model")


def undo_rope_order(rows, heads):
    """llama.cpp interleaves the two halves of each head of q and k; Hugging Face keeps them one after the other."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def save_tokenizer(field, out):
    """The tokenizer of a byte-level BPE vocabulary, as Hugging Face keeps it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, merges = field["tokenizer.ggml.tokens"], [tuple(merge.split(" ")) for merge in field["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level]) if field["tokenizer.ggml.pre"] == "smollm" else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, field["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(out / "tokenizer.json"))
    named = {name: tokens[field[key]] for name, key in
             [("bos_token", "tokenizer.ggml.bos_token_id"), ("eos_token", "tokenizer.ggml.eos_token_id"),
              ("pad_token", "tokenizer.ggml.padding_token_id")] if key in field}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, "model_max_length": field["llama.context_length"]}
    (out / "tokenizer_config.json").write_text(json.dumps({**config, **named}, indent=2) + "\n")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    reader = GGUFReader(source)
    field = {name: f.contents() for name, f in reader.fields.items() if not name.startswith("GGUF.")}
    if field.get("general.architecture") != "llama":
        sys.exit(f"error: {source}: architecture {field.get('general.architecture')!r}, expected 'llama'")
    if any(name.startswith("llama.rope.scaling") and field[name] not in ("none", "") for name in field) or any(t.name == "rope_freqs.weight" for t in reader.tensors):
        sys.exit(f"error: {source}: RoPE scaling is not carried over by this script; compare with the Hugging Face folder it came from")
    heads = field["llama.attention.head_count"]
    kv_heads = field.get("llama.attention.head_count_kv", heads)
    hidden = field["llama.embedding_length"]

    weights = {}
    for tensor in reader.tensors:
        value = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape([int(n) for n in tensor.shape][::-1])
        name = hugging_face_name(tensor.name)
        if ".q_proj." in name:
            value = undo_rope_order(value, heads)
        if ".k_proj." in name:
            value = undo_rope_order(value, kv_heads)
        weights[name] = np.ascontiguousarray(value)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": weights["model.embed_tokens.weight"].shape[0], "hidden_size": hidden,
        "intermediate_size": field["llama.feed_forward_length"], "num_hidden_layers": field["llama.block_count"],
        "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": field.get("llama.attention.key_length", hidden // heads),
        # A GGUF keeps these two as f32; seven digits give back the decimal that was meant.
        "rms_norm_eps": float(f"{field['llama.attention.layer_norm_rms_epsilon']:.7g}"),
        "rope_theta": float(f"{field.get('llama.rope.freq_base', 10000.0):.7g}"),
        "max_position_embeddings": field["llama.context_length"],
        "attention_bias": any(n.endswith("q_proj.bias") for n in weights), "mlp_bias": any(n.endswith("gate_proj.bias") for n in weights),
        "tie_word_embeddings": "lm_head.weight" not in weights, "torch_dtype": "float32",
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    if field.get("tokenizer.ggml.model") == "gpt2" and field.get("tokenizer.ggml.pre") in ("smollm", "gpt-2", "default"):
        save_tokenizer(field, out)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{out}: {len(weights)} tensors, {sum(w.size for w in weights.values()):,} parameters", file=sys.stderr)


if __name__ == "__main__":
    main()
