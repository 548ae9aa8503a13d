#!/usr/bin/env python3
"""Makes tests/fixtures: small random models with the logits that transformers computes for them, rotary frequencies,
quantised blocks with the values that the gguf package decodes them to, and tokenizers with the tokens they give.

usage: scripts/make-goldens.py [OUTDIR [PART...]]        (default tests/fixtures and all of: models families rope blocks tokenizers)
needs: torch transformers gguf tokenizers sentencepiece safetensors numpy
Versions used are written to OUTDIR/versions.json, part by part. Everything is seeded; the texts are our own."""
import io, json, os, shutil, sys
import numpy as np, torch
from safetensors.numpy import save_file as save_numpy

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "..", "tests", "fixtures")
os.makedirs(OUT, exist_ok=True)
TEXTS = [
    "The ring of a tree grows around wood that never changes.",
    "나무의 나이테는 변하지 않는 나무 둘레에서 자란다. 2026년 11월!",
    "  two  spaces, tabs\tand\r\nline ends\n\n\nthen 12345 numbers 3.14159 and 007",
    "It's we'll THEY'VE I'd, don't! @#$%^&*() -- (brackets) [x]{y} a_b c-d",
    "def f(x):\n    return x ** 2  # été, naïve, Ünïcödé, 日本語 🌲🌳",
    "",
    " ",
    "<|im_start|>user\nhello<|im_end|>\n",
    "e\u0301 decomposed and \u00e9 composed, \u1112\u1161\u11ab and \ud55c",
]
TRAINING = TEXTS + [
    "Trees grow in width, ring after ring, and so does the model: the old wood stays, new wood comes around it.",
    "나이테를 하나씩 더하면 나무는 굵어지고, 오래된 나무는 그대로 남는다. 모델도 그렇게 자란다.",
    "A base is frozen; an expansion is trained; the width of the stream is the sum of both, and the logits are kept.",
    "We count 1 2 3 10 20 30 100 200 300 rings, don't we? It's what they've said, and they'll say it again.",
]


def write_json(path, value):
    with open(os.path.join(OUT, path), "w") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def models():
    from transformers import LlamaConfig, LlamaForCausalLM

    small = dict(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                 num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
                 tie_word_embeddings=False, initializer_range=0.4, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    scaled = dict(head_dim=16, tie_word_embeddings=True)
    cases = {
        "mha-untied": (dict(num_key_value_heads=2), torch.float32, 2, 12),
        "gqa-tied": (dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True), torch.bfloat16, 2, 12),
        "head-dim": (dict(head_dim=12, num_attention_heads=4, num_key_value_heads=2), torch.float16, 2, 12),
        "bias": (dict(attention_bias=True, mlp_bias=True, eos_token_id=[2, 3]), torch.bfloat16, 2, 12),
        "sharded": (dict(), torch.bfloat16, 2, 12),
        "linear": (dict(scaled, rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 500.0}), torch.bfloat16, 1, 40),
        "llama3": (dict(scaled, rope_parameters={"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                 "original_max_position_embeddings": 16, "rope_theta": 500.0}), torch.bfloat16, 1, 40),
        "yarn": (dict(scaled, rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
                                               "beta_fast": 4.0, "beta_slow": 1.0, "rope_theta": 500.0}), torch.bfloat16, 1, 40),
    }
    for seed, (name, (change, dtype, batch, length)) in enumerate(cases.items()):
        save_case("llama-" + name, LlamaForCausalLM, LlamaConfig(**dict(small, **change)), seed, dtype, batch, length,
                  **({"max_shard_size": "6KB"} if name == "sharded" else {}))


def save_case(name, architecture, config, seed, dtype, batch, length, **options):
    """A random model of this configuration, and the logits of random tokens."""
    torch.manual_seed(seed)
    model = architecture(config).eval()
    with torch.no_grad():
        # Fresh biases are zero and fresh norms one, which would hide what they do.
        for key, value in model.named_parameters():
            if key.endswith("bias"):
                value.normal_(0, 0.3)
            elif "norm" in key:
                value.normal_(1, 0.2)
    # Weights as the file will hold them; only parameters, since rounding the rotary frequencies too would not be the model.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).to(torch.float32)
    ids = torch.randint(0, 32, (batch, length), generator=torch.Generator().manual_seed(100 + seed))
    with torch.no_grad():
        logits = model(ids).logits
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder, **options)
    if os.path.exists(os.path.join(folder, "generation_config.json")):
        os.remove(os.path.join(folder, "generation_config.json"))
    write_json(f"{name}/expected.json", {
        "input_ids": ids.tolist(), "shape": list(logits.shape),
        "logits": [float(f"{v:.7g}") for v in logits.flatten().tolist()]})


def families():
    import transformers

    small = dict(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=None, tie_word_embeddings=False,
                 initializer_range=0.4, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    window = dict(use_sliding_window=True, sliding_window=7)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 500.0}
    cases = {
        "mistral": ("Mistral", dict(head_dim=8, sliding_window=5)),
        "mistral-no-window": ("Mistral", dict(sliding_window=None)),
        "qwen2": ("Qwen2", dict(tie_word_embeddings=True)),
        "qwen2-window": ("Qwen2", dict(window, max_window_layers=1, rope_parameters=yarn)),
        "qwen3": ("Qwen3", dict(head_dim=8, tie_word_embeddings=True)),
        "qwen3-window": ("Qwen3", dict(window, head_dim=8, attention_bias=True,
                                       layer_types=["sliding_attention", "full_attention", "sliding_attention"])),
        "olmo2": ("Olmo2", dict()),
        "olmo2-bias": ("Olmo2", dict(attention_bias=True, tie_word_embeddings=True, num_key_value_heads=4)),
    }
    for seed, (name, (family, change)) in enumerate(cases.items()):
        config = getattr(transformers, family + "Config")(**dict(small, **change))
        options = {"max_shard_size": "6KB"} if name == "olmo2" else {}
        save_case("family-" + name, getattr(transformers, family + "ForCausalLM"), config, 200 + seed, torch.bfloat16, 2, 16, **options)


def rope():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    base = dict(model_type="llama", vocab_size=64, hidden_size=128, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    new = lambda **p: {"rope_parameters": p}
    old = lambda theta=None, **p: dict({"rope_scaling": p}, **({} if theta is None else {"rope_theta": theta}))
    llama3 = dict(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    cases = [
        {}, {"rope_theta": 500000.0}, {"head_dim": 80, "rope_theta": 1000000.0}, new(rope_type="default", rope_theta=100000.0),
        old(type="linear", factor=4.0), old(rope_type="linear", factor=2.5, theta=50000.0), new(rope_type="linear", factor=8, rope_theta=10000.0),
        old(rope_type="llama3", theta=500000.0, **llama3), dict(new(rope_type="llama3", rope_theta=500000.0, **dict(llama3, factor=8.0)), max_position_embeddings=131072),
        dict(old(rope_type="llama3", theta=500000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0), max_position_embeddings=4096),
        old(type="yarn", factor=4.0, original_max_position_embeddings=4096),
        old(rope_type="yarn", factor=16.0, original_max_position_embeddings=4096, beta_fast=16.0, beta_slow=2.0, theta=1000000.0),
        old(rope_type="yarn", factor=40.0, original_max_position_embeddings=4096, mscale=0.707, mscale_all_dim=1.0),
        old(rope_type="yarn", factor=40.0, original_max_position_embeddings=4096, mscale=1.0, mscale_all_dim=1.0),
        old(rope_type="yarn", factor=8.0, original_max_position_embeddings=2048, attention_factor=1.25),
        old(rope_type="yarn", factor=32.0, original_max_position_embeddings=4096, truncate=False, theta=150000.0),
        dict(old(rope_type="yarn", factor=4.0), max_position_embeddings=8192),
        new(rope_type="longrope", factor=1.0, attention_factor=1.0, original_max_position_embeddings=2048, rope_theta=10000.0,
            short_factor=[1 + i / 8 for i in range(32)], long_factor=[1 + i / 8 for i in range(32)]),
    ]
    out = []
    for case in cases:
        raw = dict(base, **case)
        embedding = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(raw))))
        out.append({"config": raw, "inv_freq": embedding.inv_freq.tolist(), "attention_factor": embedding.attention_scaling})
    write_json("rope.json", out)


def blocks():
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Q
    from gguf.quants import dequantize

    generator = np.random.default_rng(1)
    # Where each format keeps its f16 scales: random bytes there could be infinite.
    scales = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
              "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
    tensors = {}
    for name in ["F32", "F16", "BF16", *scales]:
        kind = Q[name]
        size, width = GGML_QUANT_SIZES[kind]
        count = 64 if size == 1 else 4 if size == 32 else 2
        if name in ("F32", "F16", "BF16"):
            values = generator.normal(size=count).astype(np.float32)
            data = {"F32": values.view(np.uint8), "F16": values.astype(np.float16).view(np.uint8),
                    "BF16": (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)}[name]
        else:
            data = generator.integers(0, 256, (count, width), dtype=np.uint8)
            for at in scales[name]:
                data[:, at:at + 2] = generator.normal(size=(count, 1)).astype(np.float16).view(np.uint8)
            data = data.reshape(-1)
        tensors[name + ".bytes"] = np.ascontiguousarray(data)
        tensors[name + ".values"] = dequantize(data.reshape(1, -1), kind).astype(np.float32).reshape(-1)
    save_numpy(tensors, os.path.join(OUT, "blocks.safetensors"))


def byte_level(pre):
    """The pre-tokenizers that published models have, under the names that GGUF files give them."""
    from tokenizers import Regex, normalizers, pre_tokenizers as p

    def split(digits):
        pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits +
                   r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
        return p.Sequence([p.Split(Regex(pattern), "isolated"), p.ByteLevel(add_prefix_space=False, use_regex=False)])

    plain = p.ByteLevel(add_prefix_space=False, use_regex=True)
    return {"gpt-2": (None, plain, False), "smollm": (None, p.Sequence([p.Digits(individual_digits=True), plain]), False),
            "llama-bpe": (None, split(r"\p{N}{1,3}"), True), "qwen2": (normalizers.NFC(), split(r"\p{N}"), False)}[pre]


def tokenizers():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = byte_level("gpt-2")[1]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    trained.train_from_iterator(TRAINING, trainer)
    model = json.loads(trained.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(m) for m in model["merges"]]
    tokens = [t for t, _ in sorted(vocab.items(), key=lambda kv: kv[1])]
    assert [vocab[t] for t in tokens] == list(range(len(tokens)))
    # A token that no merge makes: only a tokenizer that ignores merges for whole pieces gives it.
    tokens.append("\u0120unreachable")
    vocab[tokens[-1]] = len(tokens) - 1
    cases = {}
    for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2"]:
        normalizer, pre_tokenizer, ignore = byte_level(pre)
        t = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore))
        if normalizer:
            t.normalizer = normalizer
        t.pre_tokenizer, t.decoder = pre_tokenizer, decoders.ByteLevel()
        t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
        cases[pre] = [{"text": text, "ids": t.encode(text, add_special_tokens=False).ids} for text in TEXTS]
    types = [3 if t in special else 1 for t in tokens]
    write_json("tokenizer-bpe.json", {"tokens": tokens, "merges": [" ".join(m) for m in merges], "types": types, "cases": cases})
    return tokens, [" ".join(m) for m in merges], types


def sentencepiece():
    import sentencepiece as spm

    buffer = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter([t for t in TRAINING * 3 if t]), model_writer=buffer, vocab_size=420, model_type="bpe",
                                   byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity",
                                   remove_extra_whitespaces=False, add_dummy_prefix=True, allow_whitespace_only_pieces=True,
                                   hard_vocab_limit=False, minloglevel=2, num_threads=1)
    sp = spm.SentencePieceProcessor(model_proto=buffer.getvalue())
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1
    n = sp.get_piece_size()
    texts = [t for t in TEXTS if "<|" not in t]
    write_json("tokenizer-spm.json", {
        "tokens": [sp.id_to_piece(i) for i in range(n)], "scores": [sp.get_score(i) for i in range(n)], "types": [kind(i) for i in range(n)],
        "bos": sp.bos_id(), "eos": sp.eos_id(),
        "cases": [{"text": t, "ids": sp.encode(t), "decoded": sp.decode(sp.encode(t))} for t in texts]})


def gguf_model(tokens, merges, types):
    """A one-layer model whose tensors are stored in as many ways as the gguf package can write."""
    import gguf
    from gguf import GGMLQuantizationType as Q
    from gguf.quants import dequantize, quantize

    generator = np.random.default_rng(2)
    heads, kv, dim, d, m = 4, 2, 8, 32, 64
    w = gguf.GGUFWriter(os.path.join(OUT, "tiny.gguf"), "llama")
    w.add_context_length(256); w.add_embedding_length(d); w.add_block_count(1); w.add_feed_forward_length(m)
    w.add_head_count(heads); w.add_head_count_kv(kv); w.add_layer_norm_rms_eps(1e-5); w.add_rope_freq_base(500000.0)
    w.add_rope_dimension_count(dim); w.add_vocab_size(len(tokens))
    w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("smollm"); w.add_token_list(tokens); w.add_token_merges(merges)
    w.add_token_types(types); w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_pad_token_id(2); w.add_add_bos_token(False)
    expected = {}

    def permute(x, h):
        return x.reshape(h, 2, x.shape[0] // h // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

    def unpermute(x, h):
        return x.reshape(h, x.shape[0] // h // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

    def add(name, hf, shape, kind, h=None, keep=True):
        x = generator.normal(0, 0.3, shape).astype(np.float32)
        x = permute(x, h) if h else x
        data = quantize(x, kind)
        w.add_tensor(name, data, raw_dtype=kind)
        y = dequantize(data, kind).astype(np.float32).reshape(shape)
        if keep:
            expected[hf] = np.ascontiguousarray(unpermute(y, h) if h else y)

    L = "model.layers.0."
    add("token_embd.weight", "model.embed_tokens.weight", (len(tokens), d), Q.Q4_0, keep=False)
    add("output_norm.weight", "model.norm.weight", (d,), Q.F32)
    add("blk.0.attn_norm.weight", L + "input_layernorm.weight", (d,), Q.F32)
    add("blk.0.ffn_norm.weight", L + "post_attention_layernorm.weight", (d,), Q.F32)
    add("blk.0.attn_q.weight", L + "self_attn.q_proj.weight", (heads * dim, d), Q.Q8_0, heads)
    add("blk.0.attn_k.weight", L + "self_attn.k_proj.weight", (kv * dim, d), Q.Q5_1, kv)
    add("blk.0.attn_v.weight", L + "self_attn.v_proj.weight", (kv * dim, d), Q.Q5_0)
    add("blk.0.attn_output.weight", L + "self_attn.o_proj.weight", (d, heads * dim), Q.Q4_1)
    add("blk.0.ffn_gate.weight", L + "mlp.gate_proj.weight", (m, d), Q.F16)
    add("blk.0.ffn_up.weight", L + "mlp.up_proj.weight", (m, d), Q.BF16)
    add("blk.0.ffn_down.weight", L + "mlp.down_proj.weight", (d, m), Q.Q4_0)
    # The frequency factors as the converter writes them for Llama 3.2 (factor 32 over 8192 tokens).
    factors = []
    for f in 1.0 / 500000.0 ** (np.arange(0, dim, 2, dtype=np.float32) / dim):
        wavelength = 2 * np.pi / f
        smooth = (8192 / wavelength - 1) / 3
        factors.append(1 if wavelength < 8192 / 4 else 32 if wavelength > 8192 else 1 / ((1 - smooth) / 32 + smooth))
    w.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    save_numpy(expected, os.path.join(OUT, "tiny-gguf-expected.safetensors"))


def all_tokenizers():
    sentencepiece(); gguf_model(*tokenizers())


PARTS = {"models": models, "families": families, "rope": rope, "blocks": blocks, "tokenizers": all_tokenizers}
chosen = sys.argv[2:] or list(PARTS)
if unknown := set(chosen) - set(PARTS):
    sys.exit(f"error: no such part: {', '.join(sorted(unknown))}\n{__doc__}")
for part in chosen:
    PARTS[part]()
import importlib.metadata as meta
record = os.path.join(OUT, "versions.json")
versions = json.load(open(record)) if os.path.exists(record) else {}
for part in chosen:
    packages = ["torch", "transformers", "gguf", "tokenizers", "sentencepiece", "safetensors", "numpy"]
    versions[part] = {p: meta.version(p) for p in packages if p in {q.lower() for d in meta.distributions() if (q := d.metadata["Name"])}}
write_json("versions.json", versions)
