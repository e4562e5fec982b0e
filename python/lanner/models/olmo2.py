"""OLMo 2: norms behind each part, not before it, and over all queries and all keys (OLMo Team, 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanner import _core
from lanner._records import dataclass
from lanner.config import DecoderConfig
from lanner.models import _layers, _parts, _sizes
from lanner.models._rope import read_rope

if TYPE_CHECKING:
    from lanner._builder_rows import Vector
    from lanner.builder import Builder, Rope
    from lanner.config import Settings
    from lanner.phases import Value
    from lanner.weights import Weights

HF_PREFIX, HF_IGNORED = _sizes.HF_PREFIX, _sizes.HF_IGNORED
HF_NAMES = _sizes.HF_NAMES | {
    "blk.{}.post_attention_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.post_ffw_norm": "model.layers.{}.post_feedforward_layernorm",
}


@dataclass(frozen=True, kw_only=True)
class Olmo2Config(DecoderConfig):
    """The sizes, and the rotation."""

    rope: Rope


@dataclass(frozen=True)
class Layer:
    """Weights of one layer; q_norm is (n_heads * head_dim,), k_norm (n_kv_heads * head_dim,)."""

    attn: _parts.Attention
    q_norm: Vector
    k_norm: Vector
    post_attn_norm: Vector
    gate_up: _core.Packed
    down: _core.Packed
    post_ffn_norm: Vector


@dataclass(frozen=True)
class Olmo2Weights:
    """All weights."""

    layers: list[Layer]
    ends: _parts.Ends


def config(s: Settings, w: Weights) -> Olmo2Config:
    """The sizes of the model; what is not supported is refused by name."""
    s.use(
        {"attention.key_length": None},
        {"attention.layer_norm_rms_epsilon": 1e-5},
        frozenset({"attention_bias"}),
    )
    s.must_equal("hidden_act", "silu")
    sizes = _sizes.sizes(s, w)
    return Olmo2Config(
        **sizes,
        is_tied=_sizes.is_tied(s, w, otherwise=False),
        scale=sizes["head_dim"] ** -0.5,
        rope=read_rope(s, w, sizes["head_dim"]),
    )


def load(cfg: Olmo2Config, w: Weights) -> Olmo2Weights:
    """Takes every tensor, by name and shape."""

    def layer(i: int) -> Layer:
        return Layer(
            attn=_parts.attention(cfg, w, i),
            q_norm=_parts.norm(cfg, w, i, "attn_q_norm", cfg.n_heads * cfg.head_dim),
            k_norm=_parts.norm(cfg, w, i, "attn_k_norm", cfg.n_kv_heads * cfg.head_dim),
            post_attn_norm=_parts.norm(cfg, w, i, "post_attention_norm"),
            gate_up=_parts.gate_up(cfg, w, i),
            down=_parts.down(cfg, w, i),
            post_ffn_norm=_parts.norm(cfg, w, i, "post_ffw_norm"),
        )

    return Olmo2Weights([layer(i) for i in range(cfg.n_layers)], _parts.ends(cfg, w))


def build(b: Builder, cfg: Olmo2Config, w: Olmo2Weights) -> Value:
    """Emits the program; returns the logits (R, vocab_size)."""
    x = b.embed(w.ends.tok)
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        qkv = b.linear(x, layer.attn.qkv, "attn.qkv", bias=layer.attn.qkv_bias)
        qkv = b.qk_norm(qkv, layer.q_norm, layer.k_norm, cfg.norm_eps, "attn.qk_norm")
        q = b.rope_append(qkv, i, cfg.rope, "attn.rope")
        h = b.linear(b.attention(q, i, cfg.scale, "attn"), layer.attn.o, "attn.o", bias=layer.attn.o_bias)
        x = b.add(x, b.rms_norm(h, layer.post_attn_norm, cfg.norm_eps, "attn.post_norm"), "attn.add")
        h = b.linear(b.gate_up(x, layer.gate_up, "ffn.gate_up"), layer.down, "ffn.down")
        x = b.add(x, b.rms_norm(h, layer.post_ffn_norm, cfg.norm_eps, "ffn.post_norm"), "ffn.add")
    return _layers.rms_logits(b, cfg, x, w.ends)
