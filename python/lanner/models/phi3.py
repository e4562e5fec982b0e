"""Phi-3 and 4: Llama with fused projections, rotation of some columns, and LongRoPE (Abdin et al., 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanner import _core
from lanner._records import dataclass
from lanner.config import DecoderConfig
from lanner.models import _layers, _parts, _sizes
from lanner.models._rope import read_rope, rotary_dims
from lanner.weights import Source

if TYPE_CHECKING:
    from lanner._builder_rows import Vector
    from lanner.builder import Builder, Rope
    from lanner.config import Settings
    from lanner.phases import Value
    from lanner.weights import Weights

HF_PREFIX, HF_IGNORED = _sizes.HF_PREFIX, _sizes.HF_IGNORED
HF_NAMES = _sizes.HF_NAMES | {
    "blk.{}.attn_qkv": "model.layers.{}.self_attn.qkv_proj",
    "blk.{}.ffn_up": "model.layers.{}.mlp.gate_up_proj",
}


@dataclass(frozen=True, kw_only=True)
class Phi3Config(DecoderConfig):
    """The sizes, and the rotation."""

    rope: Rope


@dataclass(frozen=True)
class Layer:
    """Weights of one layer."""

    attn_norm: Vector
    attn: _parts.Attention
    ffn_norm: Vector
    gate_up: _core.Packed
    down: _core.Packed


@dataclass(frozen=True)
class Phi3Weights:
    """All weights."""

    layers: list[Layer]
    ends: _parts.Ends


def config(s: Settings, w: Weights) -> Phi3Config:
    """The sizes of the model; what is not supported is refused by name."""
    s.use(
        {},
        {"attention.layer_norm_rms_epsilon": 1e-5},
        frozenset({"attention_bias", "original_max_position_embeddings"}),
    )
    for key, supported in (
        ("hidden_act", "silu"),
        ("full_attn_mod", 1),
        ("interpolate_factor", 1),
        ("lm_head_bias", False),
        ("mlp_bias", False),
    ):
        s.must_equal(key, supported)
    sizes = _sizes.sizes(s, w)
    window = _sizes.window(s)
    return Phi3Config(
        **sizes | {"windows": (window,) * sizes["n_layers"]},
        is_tied=_sizes.is_tied(s, w, otherwise=False),
        scale=sizes["head_dim"] ** -0.5,
        rope=read_rope(s, w, rotary_dims(s, sizes["head_dim"])),
    )


def load(cfg: Phi3Config, w: Weights) -> Phi3Weights:
    """Takes every tensor, by name and shape; gate and up are halves of one tensor."""

    def layer(i: int) -> Layer:
        width = cfg.intermediate_size
        halves = (
            Source(f"blk.{i}.ffn_up.weight", (2 * width, cfg.hidden_size), rows=(at, at + width))
            for at in (0, width)
        )
        return Layer(
            attn_norm=_parts.norm(cfg, w, i, "attn_norm"),
            attn=_parts.fused_attention(cfg, w, i),
            ffn_norm=_parts.norm(cfg, w, i, "ffn_norm"),
            gate_up=w.packed(*halves),
            down=_parts.down(cfg, w, i),
        )

    return Phi3Weights([layer(i) for i in range(cfg.n_layers)], _parts.ends(cfg, w))


def build(b: Builder, cfg: Phi3Config, w: Phi3Weights) -> Value:
    """Emits the program; returns the logits (R, vocab_size)."""
    x = b.embed(w.ends.tok)
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        h = b.rms_norm(x, layer.attn_norm, cfg.norm_eps, "attn.norm")
        x = _layers.attend(b, cfg, i, h, layer.attn, cfg.rope, add_to=x)
        h = b.rms_norm(x, layer.ffn_norm, cfg.norm_eps, "ffn.norm")
        x = b.linear(b.gate_up(h, layer.gate_up, "ffn.gate_up"), layer.down, "ffn.down", add_to=x)
    return _layers.rms_logits(b, cfg, x, w.ends)
