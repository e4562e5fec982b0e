"""What encoder-decoders share: their sizes, the weights of a layer, and what is emitted alike for all.

A module of an architecture has `config(settings, weights)`, `load(config, weights)`, and `encode` and
`decode`, which emit the two programs. Tensors go by the names that GGUF has for T5: "enc.blk.0.attn_q",
"dec.blk.0.cross_attn_q".
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from lanner import _core
from lanner._records import dataclass, replace
from lanner.weights import Source

if TYPE_CHECKING:
    from lanner._builder_rows import Function, Vector
    from lanner.builder import Builder
    from lanner.phases import Value
    from lanner.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """The sizes of an encoder-decoder.

    `n_layers`, `intermediate_size` and `vocab_size` are the decoder's; the encoder has its own.
    `context_length` is the number of positions that sources and targets were trained with, `longest` the
    number that the model can compute. `scale` multiplies the scores of attention; `function` is that of the
    MLP, which may have a gate. `has_biases`: every projection and norm has one, or none has.
    """

    architecture: str
    vocab_size: int
    source_vocab_size: int
    hidden_size: int
    intermediate_size: int
    encoder_intermediate_size: int
    n_layers: int
    n_encoder_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    context_length: int
    longest: int
    norm_eps: float
    scale: float
    function: Function
    has_biases: bool
    is_gated: bool = False


# --- weights ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Projection:
    """A weight and its bias, None where there is none."""

    weight: _core.Packed
    bias: Vector | None


@dataclass(frozen=True)
class Norm:
    """Weight and bias of a norm, None where it has none."""

    weight: Vector
    bias: Vector | None


@dataclass(frozen=True)
class Cross:
    """Attention over a source: its norm, queries, keys and values (rows of one weight), and output."""

    norm: Norm
    q: Projection
    kv: Projection
    o: Projection


@dataclass(frozen=True)
class Layer:
    """Weights of one layer; the encoder's have no `cross`. `up` begins with the rows of a gate, if any."""

    attn_norm: Norm
    qkv: Projection
    o: Projection
    cross: Cross | None
    ffn_norm: Norm
    up: Projection
    down: Projection


@dataclass(frozen=True)
class Head:
    """What makes logits: -inf, by its bias, for the ids that may never be generated.

    `forbidden` are the rows of those ids in ascending order, which say what the logits would have been: their
    probability is part of the model's. None where nothing is forbidden.
    """

    weight: _core.Packed
    bias: Vector | None
    forbidden: Projection | None


_EMBEDDINGS = ("token_embd.weight", "enc.token_embd.weight", "dec.token_embd.weight")


def shared_embedding(w: Weights) -> str:
    """The tensor that both sides embed with, which a folder may store under the name of either as well."""
    stored = [name for name in _EMBEDDINGS if w.has(name)] or [_EMBEDDINGS[0]]
    for copy in stored[1:]:
        if not w.are_equal(copy, stored[0]):
            raise _core.UnsupportedModelError(
                f"{w.checkpoint.path}: tensors {w.name(stored[0])!r} and {w.name(copy)!r} differ, "
                "encoder and decoder of this architecture share them"
            )
        w.skip(copy)
    return stored[0]


def layers(cfg: Seq2SeqConfig, w: Weights, side: Literal["enc", "dec"]) -> list[Layer]:
    """All layers of the encoder or the decoder."""
    is_decoder = side == "dec"
    width = cfg.intermediate_size if is_decoder else cfg.encoder_intermediate_size
    hidden, inner = cfg.hidden_size, cfg.n_heads * cfg.head_dim
    halves = ["ffn_gate", "ffn_up"] if cfg.is_gated else ["ffn_in"]

    def layer(at: str) -> Layer:
        def rows(names: str) -> Projection:
            return projection(cfg, w, [f"{at}.{name}" for name in names.split()], inner, hidden)

        def out(name: str) -> Projection:
            return projection(cfg, w, [f"{at}.{name}"], hidden, inner)

        def cross() -> Cross:
            return Cross(
                norm=norm(cfg, w, f"{at}.cross_attn_norm"),
                q=rows("cross_attn_q"),
                kv=rows("cross_attn_k cross_attn_v"),
                o=out("cross_attn_o"),
            )

        return Layer(
            attn_norm=norm(cfg, w, f"{at}.attn_norm"),
            qkv=rows("attn_q attn_k attn_v"),
            o=out("attn_o"),
            cross=cross() if is_decoder else None,
            ffn_norm=norm(cfg, w, f"{at}.ffn_norm"),
            up=projection(cfg, w, [f"{at}.{half}" for half in halves], width, hidden),
            down=projection(cfg, w, [f"{at}.ffn_down"], hidden, width),
        )

    return [layer(f"{side}.blk.{i}") for i in range(cfg.n_layers if is_decoder else cfg.n_encoder_layers)]


def norm(cfg: Seq2SeqConfig, w: Weights, name: str) -> Norm:
    """The norm of that name."""
    weight = w.vector(Source(f"{name}.weight", (cfg.hidden_size,)))
    return Norm(weight, w.vector(Source(f"{name}.bias", (cfg.hidden_size,))) if cfg.has_biases else None)


def projection(cfg: Seq2SeqConfig, w: Weights, names: Sequence[str], n_rows: int, n_cols: int) -> Projection:
    """The fused weight of tensors (n_rows, n_cols), and their biases behind each other."""
    weight = w.packed(*(Source(f"{name}.weight", (n_rows, n_cols)) for name in names))
    if not cfg.has_biases:
        return Projection(weight, None)
    bias = array("f")
    for name in names:
        bias.extend(w.vector(Source(f"{name}.bias", (n_rows,))))
    return Projection(weight, bias)


def head(
    w: Weights,
    tok: Source,
    embedding: _core.Packed,
    is_tied: bool,
    bias: Vector | None,
    forbidden: Iterable[int],
) -> Head:
    """The head, which may be `embedding` itself, the packed tensor `tok`."""
    own = replace(tok, name="output.weight")
    weight = w.head(own, embedding, is_tied, tok=tok.name)
    ids = sorted(forbidden)
    if not ids:
        return Head(weight, bias, None)
    rows = w.packed(*(replace(tok if weight is embedding else own, rows=(id, id + 1)) for id in ids))
    values = array("f", bytes(4 * tok.shape[0])) if bias is None else array("f", bias)
    kept = None if bias is None else array("f", (values[id] for id in ids))
    for id in ids:
        values[id] = -math.inf
    return Head(weight, values, Projection(rows, kept))


# --- what is emitted ----------------------------------------------------------------------------------------
def project(b: Builder, x: Value, w: Projection, name: str, *, add_to: Value | None = None) -> Value:
    """x @ weight.T + bias, whole heads by one thread."""
    return b.linear(x, w.weight, name, bias=w.bias, add_to=add_to, by_heads=True)


def logits(b: Builder, x: Value, w: Head) -> tuple[Value, Value | None]:
    """(R, vocab_size), and (R, n) what the n forbidden ids would have had."""
    out = b.linear(x, w.weight, "head", bias=w.bias)
    if w.forbidden is None:
        return out, None
    return out, b.linear(x, w.forbidden.weight, "head.forbidden", bias=w.forbidden.bias)


def attend(
    b: Builder, cfg: Seq2SeqConfig, h: Value, i: int, w: Layer, x: Value, *, causal: bool, bias: Vector | None
) -> Value:
    """x plus attention of h over its own sequence, by way of layer i of the cache."""
    q = b.append(project(b, h, w.qkv, "attn.qkv"), i, "attn.append")
    mixed = b.attention(q, i, cfg.scale, "attn", causal=causal, bias=bias)
    return project(b, mixed, w.o, "attn.o", add_to=x)


def attend_source(b: Builder, cfg: Seq2SeqConfig, h: Value, i: int, w: Cross, x: Value) -> Value:
    """x plus attention of h over what `append_sources` left for layer i of the decoder."""
    mixed = b.attention(project(b, h, w.q, "cross.q"), i, cfg.scale, "cross", cross=True)
    return project(b, mixed, w.o, "cross.o", add_to=x)


def append_sources(b: Builder, hidden: Value, decoder: Iterable[Layer]) -> None:
    """Keys and values that each decoder layer has for the encoder's output, once per source."""
    for i, layer in enumerate(decoder):
        assert layer.cross is not None  # a decoder's has it
        b.scope = f"D{i:02d}."
        b.append(project(b, hidden, layer.cross.kv, "cross.kv"), i, "cross.append", cross=True)
    b.scope = ""


def mlp(b: Builder, cfg: Seq2SeqConfig, h: Value, w: Layer, x: Value) -> Value:
    """x plus the MLP of h."""
    if cfg.is_gated:
        h = b.gate_up(h, w.up.weight, "ffn.gate_up", cfg.function)
    else:
        h = b.linear(h, w.up.weight, "ffn.in", bias=w.up.bias, by_blocks=True)
        h = b.activate(h, cfg.function, "ffn.act")
    return b.linear(h, w.down.weight, "ffn.down", bias=w.down.bias, add_to=x)
