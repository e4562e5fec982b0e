"""GPT-NeoX and Pythia: layer norms, partial rotation, attention beside the MLP (Black et al., 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner._records import dataclass
from lanner.config import DecoderConfig
from lanner.models import _layers, _parts, _sizes
from lanner.models._rope import read_rope, rotary_dims

if TYPE_CHECKING:
    from lanner._builder_rows import Function
    from lanner.builder import Builder, Rope
    from lanner.config import Settings
    from lanner.phases import Value
    from lanner.weights import Weights

_LAYER = "gpt_neox.layers.{}."

HF_PREFIX = "gpt_neox."
HF_IGNORED = ("*.attention.bias", "*.attention.masked_bias", *_sizes.HF_IGNORED)
HF_NAMES = {
    "token_embd": "gpt_neox.embed_in",
    "output_norm": "gpt_neox.final_layer_norm",
    "output": "embed_out",
    "blk.{}.attn_norm": f"{_LAYER}input_layernorm",
    "blk.{}.attn_qkv": f"{_LAYER}attention.query_key_value",
    "blk.{}.attn_output": f"{_LAYER}attention.dense",
    "blk.{}.ffn_norm": f"{_LAYER}post_attention_layernorm",
    "blk.{}.ffn_up": f"{_LAYER}mlp.dense_h_to_4h",
    "blk.{}.ffn_down": f"{_LAYER}mlp.dense_4h_to_h",
}
HF_ROTARY_PCT = 0.25
"""Share of a head's columns that turn where a folder does not say."""


@dataclass(frozen=True, kw_only=True)
class GptNeoxConfig(DecoderConfig):
    """`is_parallel`: attention and MLP both read the layer's input, and their results are added."""

    rope: Rope
    is_parallel: bool
    has_attn_biases: bool
    function: Function


@dataclass(frozen=True)
class Layer:
    """Weights of one layer."""

    attn_norm: _parts.LayerNorm
    attn: _parts.Attention
    ffn_norm: _parts.LayerNorm
    mlp: _parts.Mlp


@dataclass(frozen=True)
class GptNeoxWeights:
    """All weights."""

    tok: _core.Packed
    layers: list[Layer]
    norm: _parts.LayerNorm
    head: _core.Packed


def config(s: Settings, w: Weights) -> GptNeoxConfig:
    """The sizes of the model; what is not supported is refused by name."""
    s.use(
        {"attention.head_count_kv": None, "attention.key_length": None},
        {"attention.layer_norm_epsilon": 1e-5},
        frozenset(),
    )
    sizes = _sizes.sizes(s, w, eps_key="attention.layer_norm_epsilon")
    return GptNeoxConfig(
        **sizes,
        is_tied=_sizes.is_tied(s, w, otherwise=False),
        scale=sizes["head_dim"] ** -0.5,
        rope=read_rope(s, w, rotary_dims(s, sizes["head_dim"], HF_ROTARY_PCT)),
        is_parallel=s.default("use_parallel_residual", True),
        function=_sizes.function(s, "hidden_act", "gelu"),
        has_attn_biases=s.default("attention_bias", True),
    )


def load(cfg: GptNeoxConfig, w: Weights) -> GptNeoxWeights:
    """Takes every tensor, by name and shape."""

    def in_blocks(rows: Any) -> Any:
        """A folder has the rows of q, k and v head by head."""
        return rows.reshape(cfg.n_heads, 3, cfg.head_dim, -1).swapaxes(0, 1).reshape(rows.shape)

    def layer(i: int) -> Layer:
        return Layer(
            attn_norm=_parts.layer_norm(cfg, w, f"blk.{i}.attn_norm"),
            attn=_parts.fused_attention(cfg, w, i, biases=cfg.has_attn_biases, hf=in_blocks),
            ffn_norm=_parts.layer_norm(cfg, w, f"blk.{i}.ffn_norm"),
            mlp=_parts.mlp(cfg, w, i, biases=True),
        )

    tok, head = _parts.tok_and_head(cfg, w)
    layers = [layer(i) for i in range(cfg.n_layers)]
    return GptNeoxWeights(tok, layers, _parts.layer_norm(cfg, w, "output_norm"), head)


def build(b: Builder, cfg: GptNeoxConfig, w: GptNeoxWeights) -> Value:
    """Emits the program; returns the logits (R, vocab_size)."""
    x = b.embed(w.tok)
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        h = _layers.normed(b, cfg, x, layer.attn_norm, "attn.norm")
        beside = _layers.normed(b, cfg, x, layer.ffn_norm, "ffn.norm") if cfg.is_parallel else None
        x = _layers.attend(b, cfg, i, h, layer.attn, cfg.rope, add_to=x)
        h = beside or _layers.normed(b, cfg, x, layer.ffn_norm, "ffn.norm")
        x = _layers.ungated(b, h, layer.mlp, cfg.function, add_to=x)
    return _layers.logits(b, cfg, x, w.norm, w.head)
