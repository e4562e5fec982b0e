"""StarCoder 2: layer norms, biases, an MLP without gate, a window of positions (Lozhkov et al., 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanner import _core
from lanner._records import dataclass
from lanner.config import DecoderConfig
from lanner.models import _layers, _parts, _sizes
from lanner.models._rope import read_rope

if TYPE_CHECKING:
    from lanner.builder import Builder, Rope
    from lanner.config import Settings
    from lanner.phases import Value
    from lanner.weights import Weights

HF_PREFIX, HF_IGNORED = _sizes.HF_PREFIX, _sizes.HF_IGNORED
HF_NAMES = _sizes.HF_NAMES | {
    "blk.{}.ffn_up": "model.layers.{}.mlp.c_fc",
    "blk.{}.ffn_down": "model.layers.{}.mlp.c_proj",
}

HARMLESS = frozenset({
    # Windows are the same in all layers, hidden_act is what counts, and how it is computed elsewhere.
    "layer_types", "activation_function", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32",
})  # fmt: skip
"""Names in config.json that change nothing here."""


@dataclass(frozen=True, kw_only=True)
class Starcoder2Config(DecoderConfig):
    """The sizes, and the rotation; `has_biases` goes for all projections."""

    rope: Rope
    has_biases: bool


@dataclass(frozen=True)
class Layer:
    """Weights of one layer."""

    attn_norm: _parts.LayerNorm
    attn: _parts.Attention
    ffn_norm: _parts.LayerNorm
    mlp: _parts.Mlp


@dataclass(frozen=True)
class Starcoder2Weights:
    """All weights."""

    tok: _core.Packed
    layers: list[Layer]
    norm: _parts.LayerNorm
    head: _core.Packed


def config(s: Settings, w: Weights) -> Starcoder2Config:
    """The sizes of the model; what is not supported is refused by name."""
    s.use(
        {
            "attention.layer_norm_epsilon": ("norm_epsilon", "layer_norm_epsilon"),
            "attention.key_length": None,
        },
        {"attention.layer_norm_epsilon": 1e-5},
        HARMLESS,
    )
    for key, supported in (
        ("mlp_type", "default"),
        ("norm_type", "layer_norm"),
        ("scale_attn_weights", True),
    ):
        s.must_equal(key, supported)
    s.must_equal("hidden_act", "gelu_pytorch_tanh")
    sizes = _sizes.sizes(s, w, eps_key="attention.layer_norm_epsilon")
    window = _sizes.window(s)
    return Starcoder2Config(
        **sizes | {"windows": (window,) * sizes["n_layers"]},
        is_tied=_sizes.is_tied(s, w, otherwise=True),
        scale=sizes["head_dim"] ** -0.5,
        rope=read_rope(s, w, sizes["head_dim"]),
        has_biases=s.default("use_bias", True),
    )


def load(cfg: Starcoder2Config, w: Weights) -> Starcoder2Weights:
    """Takes every tensor, by name and shape."""

    def layer(i: int) -> Layer:
        return Layer(
            attn_norm=_parts.layer_norm(cfg, w, f"blk.{i}.attn_norm"),
            attn=_parts.attention(cfg, w, i, biases=cfg.has_biases, o_biases=cfg.has_biases),
            ffn_norm=_parts.layer_norm(cfg, w, f"blk.{i}.ffn_norm"),
            mlp=_parts.mlp(cfg, w, i, biases=cfg.has_biases),
        )

    tok, head = _parts.tok_and_head(cfg, w)
    layers = [layer(i) for i in range(cfg.n_layers)]
    return Starcoder2Weights(tok, layers, _parts.layer_norm(cfg, w, "output_norm"), head)


def build(b: Builder, cfg: Starcoder2Config, w: Starcoder2Weights) -> Value:
    """Emits the program; returns the logits (R, vocab_size)."""
    x = b.embed(w.tok)
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        h = _layers.normed(b, cfg, x, layer.attn_norm, "attn.norm")
        x = _layers.attend(b, cfg, i, h, layer.attn, cfg.rope, add_to=x)
        h = _layers.normed(b, cfg, x, layer.ffn_norm, "ffn.norm")
        x = _layers.ungated(b, h, layer.mlp, "gelu_tanh", add_to=x)
    return _layers.logits(b, cfg, x, w.norm, w.head)
