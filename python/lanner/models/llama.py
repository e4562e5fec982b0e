"""Llama: RMS norms, rotary grouped-query attention, SwiGLU (Touvron et al., 2023).

Also Mistral, which sees a window of positions, and SmolLM 2 and 3, the last without rotation in some layers.
"""

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
HF_MISTRAL_WINDOW = 4096
"""What a Mistral folder means that does not mention its window; one without a window says null."""

NO_ROPE_INTERVAL = 4
"""SmolLM 3 leaves every fourth layer without rotation; its GGUF files do not say so."""


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    """`rotates` says of every layer whether its queries and keys are rotated."""

    rope: Rope
    rotates: tuple[bool, ...]


@dataclass(frozen=True)
class Layer:
    """Weights of one layer; fused ones are ranges of rows, each in the format of its tensor."""

    attn_norm: Vector
    attn: _parts.Attention
    ffn_norm: Vector
    gate_up: _core.Packed
    down: _core.Packed


@dataclass(frozen=True)
class LlamaWeights:
    """All weights."""

    layers: list[Layer]
    ends: _parts.Ends


def config(s: Settings, w: Weights) -> LlamaConfig:
    """The sizes of the model; what is not supported is refused by name."""
    is_smollm3 = s.architecture == "smollm3"
    defaults: dict[str, object] = {"attention.layer_norm_rms_epsilon": 1e-6}
    if s.architecture == "mistral":
        defaults["attention.sliding_window"] = HF_MISTRAL_WINDOW
    s.use({}, defaults, frozenset({"attention_bias", "mlp_bias", "layer_types", "max_window_layers"}))
    for key, supported in (("hidden_act", "silu"), ("expert_count", 0), ("expert_used_count", 0)):
        s.must_equal(key, supported)
    s.must_equal("use_sliding_window", False)
    sizes = _sizes.sizes(s, w)
    n_layers = sizes["n_layers"]
    window = _sizes.window(s)
    return LlamaConfig(
        **sizes | {"windows": (window,) * n_layers},
        is_tied=_sizes.is_tied(s, w, otherwise=is_smollm3),
        scale=sizes["head_dim"] ** -0.5,
        rope=read_rope(s, w, sizes["head_dim"], theta=2e6 if is_smollm3 else 1e4),
        rotates=_rotating_layers(s, n_layers) if is_smollm3 else (True,) * n_layers,
    )


def _rotating_layers(s: Settings, n_layers: int) -> tuple[bool, ...]:
    interval = s.positive("no_rope_layer_interval", NO_ROPE_INTERVAL)
    stated = None if s.is_gguf else s.raw("no_rope_layers")
    if stated is None:
        return tuple((i + 1) % interval != 0 for i in range(n_layers))
    if not isinstance(stated, list) or len(stated) != n_layers or not all(x in (0, 1) for x in stated):
        raise _core.ModelFileError(f"{s.source}: no_rope_layers is no list of {n_layers} zeros and ones")
    return tuple(map(bool, stated))


def load(cfg: LlamaConfig, w: Weights) -> LlamaWeights:
    """Takes every tensor, by name and shape; rows of Q and K stand in rotary pairs in a GGUF file."""

    def layer(i: int) -> Layer:
        return Layer(
            attn_norm=_parts.norm(cfg, w, i, "attn_norm"),
            attn=_parts.attention(cfg, w, i, interleaved=True),
            ffn_norm=_parts.norm(cfg, w, i, "ffn_norm"),
            gate_up=_parts.gate_up(cfg, w, i),
            down=_parts.down(cfg, w, i),
        )

    return LlamaWeights([layer(i) for i in range(cfg.n_layers)], _parts.ends(cfg, w))


def build(b: Builder, cfg: LlamaConfig, w: LlamaWeights) -> Value:
    """Emits the program; returns the logits (R, vocab_size)."""
    x = b.embed(w.ends.tok)
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        h = b.rms_norm(x, layer.attn_norm, cfg.norm_eps, "attn.norm")
        x = _layers.attend(b, cfg, i, h, layer.attn, cfg.rope if cfg.rotates[i] else None, add_to=x)
        h = b.rms_norm(x, layer.ffn_norm, cfg.norm_eps, "ffn.norm")
        x = b.linear(b.gate_up(h, layer.gate_up, "ffn.gate_up"), layer.down, "ffn.down", add_to=x)
    return _layers.rms_logits(b, cfg, x, w.ends)
