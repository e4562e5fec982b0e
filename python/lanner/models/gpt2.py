"""GPT-2: learned positions, layer norms, one head per key and value (Radford et al., 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner._records import dataclass
from lanner.config import DecoderConfig
from lanner.models import _layers, _parts, _sizes
from lanner.weights import Source

if TYPE_CHECKING:
    from lanner._builder_rows import Function, Vector
    from lanner.builder import Builder
    from lanner.config import Settings
    from lanner.phases import Value
    from lanner.weights import Weights

_LAYER = "transformer.h.{}."

HF_PREFIX, HF_IGNORED = "transformer.", ("*.attn.bias", "*.attn.masked_bias")
HF_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.{}.attn_norm": f"{_LAYER}ln_1",
    "blk.{}.attn_qkv": f"{_LAYER}attn.c_attn",
    "blk.{}.attn_output": f"{_LAYER}attn.c_proj",
    "blk.{}.ffn_norm": f"{_LAYER}ln_2",
    "blk.{}.ffn_up": f"{_LAYER}mlp.c_fc",
    "blk.{}.ffn_down": f"{_LAYER}mlp.c_proj",
}
HF_KEYS = {
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "attention.head_count": "n_head",
    "attention.head_count_kv": None,
    "attention.key_length": None,
    "feed_forward_length": "n_inner",
    "context_length": "n_positions",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
HARMLESS = frozenset({
    # How it is computed elsewhere, a size that n_positions states too, and settings of heads that it has not.
    "reorder_and_upcast_attn", "n_ctx", "n_special", "predict_special_tokens", "summary_type",
    "summary_use_proj", "summary_activation", "summary_proj_to_labels",
})  # fmt: skip
"""Names in config.json that change nothing here."""


@dataclass(frozen=True, kw_only=True)
class Gpt2Config(DecoderConfig):
    """The sizes, and the function of the MLP."""

    function: Function


@dataclass(frozen=True)
class Layer:
    """Weights of one layer."""

    attn_norm: _parts.LayerNorm
    attn: _parts.Attention
    ffn_norm: _parts.LayerNorm
    mlp: _parts.Mlp


@dataclass(frozen=True)
class Gpt2Weights:
    """All weights; `positions` is (context_length, hidden_size)."""

    tok: _core.Packed
    positions: Vector
    layers: list[Layer]
    norm: _parts.LayerNorm
    head: _core.Packed


def config(s: Settings, w: Weights) -> Gpt2Config:
    """The sizes of the model; what is not supported is refused by name."""
    s.use(
        HF_KEYS,
        {"attention.layer_norm_epsilon": 1e-5},
        HARMLESS,
    )
    for key, supported in (
        ("add_cross_attention", False),
        ("scale_attn_by_inverse_layer_idx", False),
        ("scale_attn_weights", True),
    ):
        s.must_equal(key, supported)
    sizes = _sizes.sizes(s, w, eps_key="attention.layer_norm_epsilon", mlp_ratio=4)
    return Gpt2Config(
        **sizes,
        function=_sizes.function(s, "activation_function", "gelu_new"),
        is_tied=_sizes.is_tied(s, w, otherwise=True),
        scale=sizes["head_dim"] ** -0.5,
    )


def _transposed(rows: Any) -> Any:
    """A folder stores these weights as (inputs, outputs)."""
    return rows.T


def load(cfg: Gpt2Config, w: Weights) -> Gpt2Weights:
    """Takes every tensor, by name and shape."""

    def layer(i: int) -> Layer:
        return Layer(
            attn_norm=_parts.layer_norm(cfg, w, f"blk.{i}.attn_norm"),
            attn=_parts.fused_attention(cfg, w, i, biases=True, hf=_transposed, o_hf=_transposed),
            ffn_norm=_parts.layer_norm(cfg, w, f"blk.{i}.ffn_norm"),
            mlp=_parts.mlp(cfg, w, i, biases=True, hf=_transposed),
        )

    tok, head = _parts.tok_and_head(cfg, w)
    return Gpt2Weights(
        tok=tok,
        positions=w.vector(Source("position_embd.weight", (cfg.context_length, cfg.hidden_size))),
        layers=[layer(i) for i in range(cfg.n_layers)],
        norm=_parts.layer_norm(cfg, w, "output_norm"),
        head=head,
    )


def build(b: Builder, cfg: Gpt2Config, w: Gpt2Weights) -> Value:
    """Emits the program; returns the logits (R, vocab_size)."""
    x = b.add_positions(b.embed(w.tok), w.positions, 0, "embed.positions")
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        h = _layers.normed(b, cfg, x, layer.attn_norm, "attn.norm")
        x = b.add(x, _layers.attend(b, cfg, i, h, layer.attn, None), "attn.add")
        h = _layers.normed(b, cfg, x, layer.ffn_norm, "ffn.norm")
        x = b.add(x, _layers.ungated(b, h, layer.mlp, cfg.function), "ffn.add")
    return _layers.logits(b, cfg, x, w.norm, w.head)
