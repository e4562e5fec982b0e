"""Qwen 2, 2.5 and 3: Llama with biases on query, key and value, or norms on heads (Yang et al., 2024)."""

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
HF_WINDOW: dict[str, object] = {"attention.sliding_window": 4096}
"""What a folder means that does not mention its window."""

HF_HEAD_DIM = 128
"""Columns of a head where a Qwen 3 folder does not say."""


@dataclass(frozen=True, kw_only=True)
class QwenConfig(DecoderConfig):
    """`has_head_norms` is Qwen 3's."""

    rope: Rope
    has_head_norms: bool


@dataclass(frozen=True)
class Layer:
    """Weights of one layer; `head_norms` of queries and keys, (head_dim,) each, or None."""

    attn_norm: Vector
    attn: _parts.Attention
    head_norms: tuple[Vector, Vector] | None
    ffn_norm: Vector
    gate_up: _core.Packed
    down: _core.Packed


@dataclass(frozen=True)
class QwenWeights:
    """All weights."""

    layers: list[Layer]
    ends: _parts.Ends


def config(s: Settings, w: Weights) -> QwenConfig:
    """The sizes of the model; what is not supported is refused by name."""
    has_head_norms = s.architecture == "qwen3"
    defaults: dict[str, object] = {"attention.layer_norm_rms_epsilon": 1e-6} | HF_WINDOW
    if has_head_norms:
        defaults["attention.key_length"] = HF_HEAD_DIM
    s.use({}, defaults, frozenset({"attention_bias"}))
    s.must_equal("hidden_act", "silu")
    sizes = _sizes.sizes(s, w)
    return QwenConfig(
        **sizes | {"windows": windows(s, sizes["n_layers"])},
        is_tied=_sizes.is_tied(s, w, otherwise=False),
        scale=sizes["head_dim"] ** -0.5,
        rope=read_rope(s, w, sizes["head_dim"]),
        has_head_norms=has_head_norms,
    )


def windows(s: Settings, n_layers: int) -> tuple[int, ...]:
    """The window of every layer: of those from max_window_layers on, where a folder uses windows at all."""
    first = s.default("max_window_layers", 28)
    window = _sizes.window(s)
    uses = s.default("use_sliding_window", False)
    return _sizes.layer_windows(s, n_layers, window, lambda i: uses and i >= first)


def load(cfg: QwenConfig, w: Weights) -> QwenWeights:
    """Takes every tensor, by name and shape."""

    def layer(i: int) -> Layer:
        return Layer(
            attn_norm=_parts.norm(cfg, w, i, "attn_norm"),
            attn=_parts.attention(cfg, w, i, biases=None if cfg.has_head_norms else True, o_biases=False),
            head_norms=_parts.head_norms(cfg, w, i) if cfg.has_head_norms else None,
            ffn_norm=_parts.norm(cfg, w, i, "ffn_norm"),
            gate_up=_parts.gate_up(cfg, w, i),
            down=_parts.down(cfg, w, i),
        )

    return QwenWeights([layer(i) for i in range(cfg.n_layers)], _parts.ends(cfg, w))


def build(b: Builder, cfg: QwenConfig, w: QwenWeights) -> Value:
    """Emits the program; returns the logits (R, vocab_size)."""
    x = b.embed(w.ends.tok)
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        h = b.rms_norm(x, layer.attn_norm, cfg.norm_eps, "attn.norm")
        x = _layers.attend(b, cfg, i, h, layer.attn, cfg.rope, head_norms=layer.head_norms, add_to=x)
        h = b.rms_norm(x, layer.ffn_norm, cfg.norm_eps, "ffn.norm")
        x = b.linear(b.gate_up(h, layer.gate_up, "ffn.gate_up"), layer.down, "ffn.down", add_to=x)
    return _layers.rms_logits(b, cfg, x, w.ends)
