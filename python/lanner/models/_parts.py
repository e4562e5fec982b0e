"""Weights that several architectures have alike.

Tensors go by the names of GGUF; a table of each architecture says what a Hugging Face folder calls them.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner._records import dataclass
from lanner.weights import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lanner._builder_rows import Vector
    from lanner.config import DecoderConfig
    from lanner.weights import Weights

    HfView = Callable[[Any], Any]


@dataclass(frozen=True)
class Attention:
    """Projections of one layer; q, k and v are ranges of rows of one weight, biases may be None."""

    qkv: _core.Packed
    qkv_bias: Vector | None
    o: _core.Packed
    o_bias: Vector | None


@dataclass(frozen=True)
class Ends:
    """What stands before and behind the layers; `head` is `tok` itself where the embedding is tied."""

    tok: _core.Packed
    norm: Vector
    head: _core.Packed


def ends(cfg: DecoderConfig, w: Weights, *, norm_plus: float = 0.0) -> Ends:
    """Embedding, last norm and head; `norm_plus` as in `norm`."""
    tok, head = tok_and_head(cfg, w)
    return Ends(tok, _plus(w, Source("output_norm.weight", (cfg.hidden_size,)), norm_plus), head)


def tok_and_head(cfg: DecoderConfig, w: Weights) -> tuple[_core.Packed, _core.Packed]:
    """Embedding and head, one and the same where they are tied."""
    shape = (cfg.vocab_size, cfg.hidden_size)
    tok = w.packed(Source("token_embd.weight", shape))
    return tok, w.head(Source("output.weight", shape), tok, cfg.is_tied)


def attention(
    cfg: DecoderConfig,
    w: Weights,
    layer: int,
    *,
    interleaved: bool = False,
    biases: bool | None = None,
    o_biases: bool | None = None,
) -> Attention:
    """The projections of a layer whose checkpoint has q, k and v apart.

    interleaved: rotary pairs of q and k are neighbouring rows in a GGUF file.
    biases, o_biases: of q, k and v, and of the output, as in `joined`.
    """
    hidden, dim = cfg.hidden_size, cfg.head_dim
    rows = {"q": cfg.n_heads * dim, "k": cfg.n_kv_heads * dim, "v": cfg.n_kv_heads * dim}

    def part(name: str, kind: str, *shape: int) -> Source:
        pairs = dim if interleaved and name in "qk" else 0
        return Source(f"blk.{layer}.attn_{name}.{kind}", (rows[name], *shape), interleaved=pairs)

    return Attention(
        qkv=w.packed(*(part(name, "weight", hidden) for name in rows)),
        qkv_bias=joined(w, [part(name, "bias") for name in rows], biases),
        o=w.packed(Source(f"blk.{layer}.attn_output.weight", (hidden, rows["q"]))),
        o_bias=joined(w, [Source(f"blk.{layer}.attn_output.bias", (hidden,))], o_biases),
    )


def gate_up(cfg: DecoderConfig, w: Weights, layer: int) -> _core.Packed:
    """The two halves of a gated MLP as one weight."""
    shape = (cfg.intermediate_size, cfg.hidden_size)
    return w.packed(*(Source(f"blk.{layer}.ffn_{half}.weight", shape) for half in ("gate", "up")))


def down(cfg: DecoderConfig, w: Weights, layer: int) -> _core.Packed:
    """The weight that leads out of the MLP."""
    return w.packed(Source(f"blk.{layer}.ffn_down.weight", (cfg.hidden_size, cfg.intermediate_size)))


def norm(
    cfg: DecoderConfig, w: Weights, layer: int, name: str, size: int = 0, *, plus: float = 0.0
) -> Vector:
    """The weight of a norm, of hidden_size elements unless told.

    plus: what a folder leaves out of the weight; a GGUF file has the sum.
    """
    return _plus(w, Source(f"blk.{layer}.{name}.weight", (size or cfg.hidden_size,)), plus)


def _plus(w: Weights, source: Source, plus: float) -> Vector:
    values = w.vector(source)
    return values if w.is_gguf or not plus else array("f", (plus + x for x in values))


@dataclass(frozen=True)
class LayerNorm:
    """Weight and bias, (hidden_size,) each."""

    weight: Vector
    bias: Vector


def layer_norm(cfg: DecoderConfig, w: Weights, name: str) -> LayerNorm:
    """A norm that subtracts the mean (Ba et al., 2016)."""
    weight, bias = (w.vector(Source(f"{name}.{part}", (cfg.hidden_size,))) for part in ("weight", "bias"))
    return LayerNorm(weight, bias)


@dataclass(frozen=True)
class Mlp:
    """Two projections with a function between, biases None where there are none."""

    up: _core.Packed
    up_bias: Vector | None
    down: _core.Packed
    down_bias: Vector | None


def mlp(
    cfg: DecoderConfig, w: Weights, layer: int, *, biases: bool | None = None, hf: HfView | None = None
) -> Mlp:
    """The weights of an MLP without gate; `biases` as in `joined`, `hf` as in Source."""
    hidden, width = cfg.hidden_size, cfg.intermediate_size
    return Mlp(
        up=w.packed(Source(f"blk.{layer}.ffn_up.weight", (width, hidden), hf=hf)),
        up_bias=joined(w, [Source(f"blk.{layer}.ffn_up.bias", (width,))], biases),
        down=w.packed(Source(f"blk.{layer}.ffn_down.weight", (hidden, width), hf=hf)),
        down_bias=joined(w, [Source(f"blk.{layer}.ffn_down.bias", (hidden,))], biases),
    )


def fused_attention(
    cfg: DecoderConfig,
    w: Weights,
    layer: int,
    *,
    biases: bool | None = None,
    hf: HfView | None = None,
    o_hf: HfView | None = None,
) -> Attention:
    """The projections of a layer whose checkpoint has q, k and v in one tensor.

    `biases` as in `joined`; `hf` and, for the output, `o_hf` as in Source.
    """
    hidden, dim = cfg.hidden_size, cfg.head_dim
    rows = (cfg.n_heads + 2 * cfg.n_kv_heads) * dim
    return Attention(
        qkv=w.packed(Source(f"blk.{layer}.attn_qkv.weight", (rows, hidden), hf=hf)),
        qkv_bias=joined(w, [Source(f"blk.{layer}.attn_qkv.bias", (rows,), hf=hf)], biases),
        o=w.packed(Source(f"blk.{layer}.attn_output.weight", (hidden, cfg.n_heads * dim), hf=o_hf)),
        o_bias=joined(w, [Source(f"blk.{layer}.attn_output.bias", (hidden,))], biases),
    )


def joined(w: Weights, sources: Sequence[Source], biases: bool | None = None) -> Vector | None:
    """Biases of the rows of a fused weight, one behind the other; None where the checkpoint has none.

    biases: whether the configuration has them; None where the checkpoint shows it.
    """
    if not (any(w.has(source.name) for source in sources) if biases is None else biases):
        return None
    values = array("f")
    for source in sources:
        values.extend(_half_split(w.vector(source), source.interleaved if w.is_gguf else 0))
    return values


def _half_split(values: Vector, head_dim: int) -> Sequence[float]:
    """Elements of rotary pairs (2i, 2i + 1) in the order of packed rows (i, i + head_dim / 2)."""
    if head_dim == 0:
        return values  # type: ignore[return-value]
    heads = [values[at : at + head_dim] for at in range(0, len(values), head_dim)]
    return [x for head in heads for x in (*head[::2], *head[1::2])]


def head_norms(cfg: DecoderConfig, w: Weights, layer: int, *, plus: float = 0.0) -> tuple[Vector, Vector]:
    """The weights of the norms of query heads and of key heads, (head_dim,) each; `plus` as in `norm`."""
    q, k = (norm(cfg, w, layer, f"attn_{part}_norm", cfg.head_dim, plus=plus) for part in "qk")
    return q, k
