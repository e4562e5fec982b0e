"""BERT: an encoder with learned positions and norms behind each half of a layer (Devlin et al., 2018).

`roberta` and `distilbert` name and configure the same layers otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanner import _core
from lanner._records import dataclass
from lanner.models import _encoders, _layers, _parts
from lanner.weights import Source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lanner._builder_rows import Function, Vector
    from lanner.builder import Builder
    from lanner.config import Settings
    from lanner.models._encoders import EncoderConfig
    from lanner.phases import Value
    from lanner.weights import Weights


def names_under(model: str) -> dict[str, str]:
    """Names in a folder, by GGUF's; `model` is the attribute of the model's class that holds the encoder."""
    layer = f"{model}.encoder.layer.{{}}"
    return {
        "token_embd": f"{model}.embeddings.word_embeddings",
        "position_embd": f"{model}.embeddings.position_embeddings",
        "token_types": f"{model}.embeddings.token_type_embeddings",
        "token_embd_norm": f"{model}.embeddings.LayerNorm",
        "blk.{}.attn_q": f"{layer}.attention.self.query",
        "blk.{}.attn_k": f"{layer}.attention.self.key",
        "blk.{}.attn_v": f"{layer}.attention.self.value",
        "blk.{}.attn_output": f"{layer}.attention.output.dense",
        "blk.{}.attn_output_norm": f"{layer}.attention.output.LayerNorm",
        "blk.{}.ffn_up": f"{layer}.intermediate.dense",
        "blk.{}.ffn_down": f"{layer}.output.dense",
        "blk.{}.layer_output_norm": f"{layer}.output.LayerNorm",
        "cls": f"{model}.pooler.dense",
        "cls.output": "classifier",
    }


HF_PREFIX = "bert."
HF_NAMES = names_under("bert")
# The pooler of a model that does not classify, heads for masked words, and what follows from the sizes.
HF_IGNORED = (
    "*pooler.dense.*", "cls.predictions.*", "cls.seq_relationship.*", "lm_head.*", "*.position_ids",
    "*.token_type_ids",
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """Weights of one layer."""

    attn: _parts.Attention
    attn_norm: _parts.LayerNorm
    mlp: _parts.Mlp
    norm: _parts.LayerNorm


@dataclass(frozen=True)
class Classifier:
    """A head on the first token: a hidden layer of hidden_size with a function, and one of the labels."""

    hidden: _core.Packed
    hidden_bias: Vector | None
    function: Function
    out: _core.Packed
    out_bias: Vector | None


@dataclass(frozen=True)
class EncoderWeights:
    """All weights; `positions` (context_length, hidden_size) has the embedding of token type 0 in it."""

    tok: _core.Packed
    positions: npt.NDArray[np.float32]
    norm: _parts.LayerNorm
    layers: list[Layer]
    classifier: Classifier | None


def config(s: Settings, w: Weights) -> EncoderConfig:
    """The sizes of the model; what is not supported is refused by name."""
    s.use(_encoders.HF_KEYS, _encoders.HF_DEFAULTS, _encoders.HARMLESS)
    return _encoders.config(s, w)


def load(cfg: EncoderConfig, w: Weights, function: Function = "tanh") -> EncoderWeights:
    """Takes every tensor, by name and shape; `function` is that of the classifier's hidden layer."""

    def layer(i: int) -> Layer:
        return Layer(
            attn=_parts.attention(cfg, w, i, biases=True, o_biases=True),
            attn_norm=layer_norm(cfg, w, f"blk.{i}.attn_output_norm"),
            mlp=_parts.mlp(cfg, w, i, biases=True),
            norm=layer_norm(cfg, w, f"blk.{i}.layer_output_norm"),
        )

    return EncoderWeights(
        tok=w.packed(Source("token_embd.weight", (cfg.vocab_size, cfg.hidden_size))),
        positions=_positions(cfg, w),
        norm=layer_norm(cfg, w, "token_embd_norm"),
        layers=[layer(i) for i in range(cfg.n_layers)],
        classifier=_classifier(cfg, w, function) if cfg.labels else None,
    )


def layer_norm(cfg: EncoderConfig, w: Weights, name: str) -> _parts.LayerNorm:
    """A norm, which the folders of the first years call gamma and beta."""
    weight, bias = ("gamma", "beta") if w.has(f"{name}.gamma") else ("weight", "bias")
    shape = (cfg.hidden_size,)
    return _parts.LayerNorm(
        w.vector(Source(f"{name}.{weight}", shape)), w.vector(Source(f"{name}.{bias}", shape))
    )


def _positions(cfg: EncoderConfig, w: Weights) -> npt.NDArray[np.float32]:
    import numpy as np

    n = cfg.first_position + cfg.context_length
    table = np.asarray(w.vector(Source("position_embd.weight", (n, cfg.hidden_size))))[cfg.first_position :]
    if not w.has("token_types.weight"):
        return np.ascontiguousarray(table)
    n_types = w.n_rows("token_types.weight")
    types = np.asarray(w.vector(Source("token_types.weight", (n_types, cfg.hidden_size))))
    folded: npt.NDArray[np.float32] = table + types[0]
    return folded


def _classifier(cfg: EncoderConfig, w: Weights, function: Function) -> Classifier:
    hidden, n_labels = cfg.hidden_size, len(cfg.labels)
    return Classifier(
        hidden=w.packed(Source("cls.weight", (hidden, hidden))),
        hidden_bias=w.vector(Source("cls.bias", (hidden,))),
        function=function,
        out=w.packed(Source("cls.output.weight", (n_labels, hidden)), keep=True),
        out_bias=w.vector(Source("cls.output.bias", (n_labels,))),
    )


def build(b: Builder, cfg: EncoderConfig, w: EncoderWeights) -> tuple[Value, Value | None]:
    """Emits the program; returns the last hidden states (T, hidden_size) and scores of labels (R, n_labels).

    Keys and values live from `append` to `attention`: every layer uses layer 0 of the cache.
    """

    def normed(x: Value, norm: _parts.LayerNorm, name: str) -> Value:
        return b.layer_norm(x, norm.weight, norm.bias, cfg.norm_eps, name)

    x = b.add_positions(b.embed(w.tok), w.positions, 0, "embed.positions")
    x = normed(x, w.norm, "embed.norm")
    for i, layer in enumerate(w.layers):
        b.scope = f"L{i:02d}."
        qkv = b.linear(x, layer.attn.qkv, "attn.qkv", bias=layer.attn.qkv_bias, by_heads=True)
        h = b.attention(b.append(qkv, 0, "attn.append"), 0, cfg.scale, "attn", causal=False)
        h = b.linear(h, layer.attn.o, "attn.o", bias=layer.attn.o_bias)
        x = normed(b.add(x, h, "attn.add"), layer.attn_norm, "attn.norm")
        h = _layers.ungated(b, x, layer.mlp, cfg.function)
        x = normed(b.add(x, h, "ffn.add"), layer.norm, "ffn.norm")
    b.scope = ""
    return x, None if w.classifier is None else _scores(b, x, w.classifier)


def _scores(b: Builder, x: Value, w: Classifier) -> Value:
    h = b.linear(b.gather_rows(x, "first"), w.hidden, "pooler", bias=w.hidden_bias)
    return b.linear(b.activate(h, w.function, "pooler.act"), w.out, "classifier", bias=w.out_bias)
