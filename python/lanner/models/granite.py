"""Granite 3: Llama with stated multipliers of embedding, scores, residuals and logits (IBM, 2024)."""

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

HF_PREFIX, HF_IGNORED, HF_NAMES = _sizes.HF_PREFIX, _sizes.HF_IGNORED, _sizes.HF_NAMES
HF_KEYS = {
    "attention.key_length": None,
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


@dataclass(frozen=True, kw_only=True)
class GraniteConfig(DecoderConfig):
    """Logits are divided by `logit_divisor`, the other factors multiply."""

    rope: Rope
    embedding_factor: float
    residual_factor: float
    logit_divisor: float


@dataclass(frozen=True)
class Layer:
    """Weights of one layer."""

    attn_norm: Vector
    attn: _parts.Attention
    ffn_norm: Vector
    gate_up: _core.Packed
    down: _core.Packed


@dataclass(frozen=True)
class GraniteWeights:
    """All weights."""

    layers: list[Layer]
    ends: _parts.Ends


def config(s: Settings, w: Weights) -> GraniteConfig:
    """The sizes of the model; what is not supported is refused by name."""
    s.use(HF_KEYS, {"attention.layer_norm_rms_epsilon": 1e-6}, frozenset({"attention_bias", "mlp_bias"}))
    s.must_equal("hidden_act", "silu")
    s.must_equal("expert_count", 0)
    sizes = _sizes.sizes(s, w)
    return GraniteConfig(
        **sizes,
        is_tied=_sizes.is_tied(s, w, otherwise=False),
        scale=s.real("attention.scale", sizes["head_dim"] ** -0.5 if s.is_gguf else 1.0),
        rope=read_rope(s, w, sizes["head_dim"]),
        embedding_factor=s.real("embedding_scale", 1.0),
        residual_factor=s.real("residual_scale", 1.0),
        logit_divisor=s.real("logit_scale", 1.0),
    )


def load(cfg: GraniteConfig, w: Weights) -> GraniteWeights:
    """Takes every tensor, by name and shape; rows of Q and K stand in rotary pairs in a GGUF file."""

    def layer(i: int) -> Layer:
        return Layer(
            attn_norm=_parts.norm(cfg, w, i, "attn_norm"),
            attn=_parts.attention(cfg, w, i, interleaved=True),
            ffn_norm=_parts.norm(cfg, w, i, "ffn_norm"),
            gate_up=_parts.gate_up(cfg, w, i),
            down=_parts.down(cfg, w, i),
        )

    return GraniteWeights([layer(i) for i in range(cfg.n_layers)], _parts.ends(cfg, w))


def build(b: Builder, cfg: GraniteConfig, w: GraniteWeights) -> Value:
    """Emits the program; returns the logits (R, vocab_size)."""
    x = b.scale(b.embed(w.ends.tok), cfg.embedding_factor, "embed.scale")
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        h = b.rms_norm(x, layer.attn_norm, cfg.norm_eps, "attn.norm")
        h = _layers.attend(b, cfg, i, h, layer.attn, cfg.rope)
        x = b.add(x, h, "attn.add", factor=cfg.residual_factor)
        h = b.rms_norm(x, layer.ffn_norm, cfg.norm_eps, "ffn.norm")
        h = b.linear(b.gate_up(h, layer.gate_up, "ffn.gate_up"), layer.down, "ffn.down")
        x = b.add(x, h, "ffn.add", factor=cfg.residual_factor)
    b.scope = ""
    x = b.rms_norm(b.gather_rows(x, "last"), w.ends.norm, cfg.norm_eps, "norm")
    return b.linear(b.scale(x, 1 / cfg.logit_divisor, "norm.scale"), w.ends.head, "head")
