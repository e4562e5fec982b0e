"""Llama: RMS norms, rotary grouped-query attention, SwiGLU (Touvron et al., 2023). Also SmolLM."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from lanner import _core
from lanner.builder import Builder, Rope
from lanner.config import MAX_CONTEXT, DecoderConfig, Settings
from lanner.phases import Value
from lanner.weights import Source, Weights

HF_PREFIX = "model."
HF_NAMES = {
    "token_embd": "model.embed_tokens",
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.attn_q": "model.layers.{}.self_attn.q_proj",
    "blk.{}.attn_k": "model.layers.{}.self_attn.k_proj",
    "blk.{}.attn_v": "model.layers.{}.self_attn.v_proj",
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
    "blk.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.ffn_gate": "model.layers.{}.mlp.gate_proj",
    "blk.{}.ffn_up": "model.layers.{}.mlp.up_proj",
    "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
    "output_norm": "model.norm",
    "output": "lm_head",
}
HF_IGNORED = ("*.rotary_emb.inv_freq",)  # follows from rope_theta; old versions stored it
HF_DEFAULTS = {
    "vocab_size": 32000,
    "context_length": 2048,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 10000.0,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Layer:
    """Weights of one layer; fused ones are ranges of rows, each in the format of its tensor."""

    attn_norm: memoryview[float]
    qkv: _core.Packed
    o: _core.Packed
    ffn_norm: memoryview[float]
    gate_up: _core.Packed
    down: _core.Packed


@dataclass(frozen=True)
class LlamaWeights:
    """All weights; `head` is `tok` itself where the embedding is tied."""

    tok: _core.Packed
    layers: list[Layer]
    norm: memoryview[float]
    head: _core.Packed


def config(settings: Settings, weights: Weights) -> DecoderConfig:
    """The sizes of the model; what is not supported is refused by name."""
    settings.use({}, HF_DEFAULTS)
    hidden_size = settings.positive("embedding_length")
    n_heads = settings.positive("attention.head_count")
    n_kv_heads = settings.positive("attention.head_count_kv", n_heads)
    head_dim = settings.positive("attention.key_length", hidden_size // n_heads or 1)
    if n_heads % n_kv_heads or head_dim % 2:
        raise _core.ModelFileError(
            f"{settings.source}: {n_heads} heads of {head_dim} over {n_kv_heads} KV heads do not divide"
        )
    for key, supported in (
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
        ("rope.scaling.type", "none"),
        ("rope.scaling.factor", 1.0),
        ("rope.scaling.attn_factor", 1.0),
        ("rope.scale_linear", 1.0),
        ("expert_count", 0),
        ("expert_used_count", 0),
        ("attention.causal", True),
        ("attention.sliding_window", 0),
        ("attention_bias", False),
        ("mlp_bias", False),
        ("hidden_act", "silu"),
    ):
        settings.must_equal(key, supported)
    return DecoderConfig(
        architecture=settings.architecture,
        vocab_size=settings.vocab_size(weights.shape("token_embd.weight")[0]),
        hidden_size=hidden_size,
        intermediate_size=settings.positive("feed_forward_length"),
        n_layers=settings.positive("block_count"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        context_length=settings.positive("context_length", most=MAX_CONTEXT),
        rms_norm_eps=settings.real("attention.layer_norm_rms_epsilon"),
        rope_theta=settings.real("rope.freq_base", 10000.0),
        scale=head_dim**-0.5,
        is_tied=settings.default("tie_word_embeddings", not weights.has("output.weight")),
    )


def load(cfg: DecoderConfig, w: Weights) -> LlamaWeights:
    """Takes every tensor of the file, by name and shape; the rows of Q and K are in rotary pairs."""
    hidden, ffn, dim = cfg.hidden_size, cfg.intermediate_size, cfg.head_dim
    q_rows, kv_rows = cfg.n_heads * dim, cfg.n_kv_heads * dim

    def layer(i: int) -> Layer:
        def at(name: str, *shape: int, interleaved: int = 0) -> Source:
            return Source(f"blk.{i}.{name}.weight", shape, interleaved)

        return Layer(
            attn_norm=w.vector(at("attn_norm", hidden)),
            qkv=w.packed(
                at("attn_q", q_rows, hidden, interleaved=dim),
                at("attn_k", kv_rows, hidden, interleaved=dim),
                at("attn_v", kv_rows, hidden),
            ),
            o=w.packed(at("attn_output", hidden, q_rows)),
            ffn_norm=w.vector(at("ffn_norm", hidden)),
            gate_up=w.packed(at("ffn_gate", ffn, hidden), at("ffn_up", ffn, hidden)),
            down=w.packed(at("ffn_down", hidden, ffn)),
        )

    tok = w.packed(Source("token_embd.weight", (cfg.vocab_size, hidden)))
    head = w.head(Source("output.weight", (cfg.vocab_size, hidden)), tok, cfg.is_tied)
    return LlamaWeights(
        tok, [layer(i) for i in range(cfg.n_layers)], w.vector(Source("output_norm.weight", (hidden,))), head
    )


def build(b: Builder, cfg: DecoderConfig, w: LlamaWeights) -> tuple[Value, Value]:
    """Emits the program; returns the logits (R, vocab_size) and the sampled ids (R, 1)."""
    eps = cfg.rms_norm_eps
    rope = Rope(array("d", (cfg.rope_theta ** (-i / cfg.head_dim) for i in range(0, cfg.head_dim, 2))))
    x = b.embed(w.tok)
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        h = b.rms_norm(x, layer.attn_norm, eps, "attn.norm")
        q = b.rope_append(b.linear(h, layer.qkv, "attn.qkv", by_heads=True), i, rope, "attn.rope")
        x = b.linear(b.attention(q, i, cfg.scale, "attn"), layer.o, "attn.o", add_to=x)
        h = b.rms_norm(x, layer.ffn_norm, eps, "ffn.norm")
        x = b.linear(b.gate_up(h, layer.gate_up, "ffn.gate_up"), layer.down, "ffn.down", add_to=x)
    b.scope = ""
    x = b.rms_norm(b.gather_rows(x, "last"), w.norm, eps, "norm")
    logits = b.linear(x, w.head, "head")
    return logits, b.sample(logits)
