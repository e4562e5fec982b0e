"""T5, mT5, UMT5 (Raffel et al., 2020; Xue et al., 2021): biases by distance, unscaled scores, RMS norms."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from lanner import _core
from lanner._records import dataclass
from lanner.config import MAX_CONTEXT
from lanner.models import _seq2seq
from lanner.models._seq2seq import Head, Layer, Norm, Seq2SeqConfig
from lanner.models._sizes import FUNCTIONS
from lanner.weights import Source

if TYPE_CHECKING:
    from lanner._builder_rows import Function, Vector
    from lanner.builder import Builder
    from lanner.config import Settings
    from lanner.phases import Value
    from lanner.weights import Weights


def _names(side: str, prefix: str, ffn: str) -> dict[str, str]:
    """The names of the encoder's or the decoder's layers, whose MLP is the sub-layer `ffn`."""
    at, own = f"{side}.block.{{}}", f"{side}.block.{{}}.layer.0"
    return {
        f"{prefix}.output_norm": f"{side}.final_layer_norm",
        f"{prefix}.blk.{{}}.attn_norm": f"{own}.layer_norm",
        f"{prefix}.blk.{{}}.attn_rel_b": f"{own}.SelfAttention.relative_attention_bias",
        **{f"{prefix}.blk.{{}}.attn_{x}": f"{own}.SelfAttention.{x}" for x in "qkvo"},
        f"{prefix}.blk.{{}}.ffn_norm": f"{at}.{ffn}.layer_norm",
        f"{prefix}.blk.{{}}.ffn_gate": f"{at}.{ffn}.DenseReluDense.wi_0",
        f"{prefix}.blk.{{}}.ffn_up": f"{at}.{ffn}.DenseReluDense.wi_1",
        f"{prefix}.blk.{{}}.ffn_in": f"{at}.{ffn}.DenseReluDense.wi",
        f"{prefix}.blk.{{}}.ffn_down": f"{at}.{ffn}.DenseReluDense.wo",
    }


HF_PREFIX = ""
HF_NAMES = {
    "token_embd": "shared",
    "enc.token_embd": "encoder.embed_tokens",
    "dec.token_embd": "decoder.embed_tokens",
    "output": "lm_head",
    **_names("encoder", "enc", "layer.1"),
    **_names("decoder", "dec", "layer.2"),
    "dec.blk.{}.cross_attn_norm": "decoder.block.{}.layer.1.layer_norm",
    **{f"dec.blk.{{}}.cross_attn_{x}": f"decoder.block.{{}}.layer.1.EncDecAttention.{x}" for x in "qkvo"},
}
HF_IGNORED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
"""Keys of a source have no place relative to a target; old versions stored this and never read it."""


@dataclass(frozen=True, kw_only=True)
class T5Config(Seq2SeqConfig):
    """`scales_head`: the input of the head is multiplied by hidden_size^-0.5."""

    scales_head: bool
    n_buckets: int
    max_distance: int


@dataclass(frozen=True)
class T5Weights:
    """All weights.

    The biases of a layer are (n_heads * (2 * max_distance + 1),), those of one head after those of the other.
    """

    tok: _core.Packed
    encoder: list[Layer]
    encoder_biases: list[Vector]
    encoder_norm: Norm
    decoder: list[Layer]
    decoder_biases: list[Vector]
    decoder_norm: Norm
    head: Head


def config(s: Settings, w: Weights) -> T5Config:
    """The sizes of the model; what is not supported is refused by name."""
    s.use({}, {}, frozenset({"output_past", "initializer_factor", "n_positions"}))
    s.must_equal("is_encoder_decoder", True)
    function, is_gated = _mlp(s)
    n_buckets = s.positive("relative_attention_num_buckets", 32)
    max_distance = s.positive("relative_attention_max_distance", 128)
    if n_buckets < 4 or not n_buckets // 2 < max_distance <= MAX_CONTEXT:
        raise _core.UnsupportedModelError(
            f"{s.source}: relative_attention_num_buckets is {n_buckets} and relative_attention_max_distance "
            f"{max_distance}, wanted at least 4 and a distance above half of them"
        )
    n_heads, n_layers, width = s.positive("num_heads"), s.positive("num_layers"), s.positive("d_ff")
    vocab_size = s.vocab_size(w.n_rows(_seq2seq.shared_embedding(w)))
    return T5Config(
        architecture=s.architecture,
        vocab_size=vocab_size,
        source_vocab_size=vocab_size,
        hidden_size=s.positive("d_model"),
        intermediate_size=width,
        encoder_intermediate_size=width,
        n_layers=s.positive("num_decoder_layers", n_layers),
        n_encoder_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=s.positive("d_kv"),
        context_length=s.positive("n_positions", 512, most=MAX_CONTEXT),
        longest=MAX_CONTEXT,
        norm_eps=s.real("layer_norm_epsilon", 1e-6),
        scale=1.0,
        function=function,
        has_biases=False,
        is_gated=is_gated,
        scales_head=_scales_head(s),
        n_buckets=n_buckets,
        max_distance=max_distance,
    )


def _mlp(s: Settings) -> tuple[Function, bool]:
    """The function of the MLP and whether it has a gate: "relu", "gated-gelu"."""
    stated = s.default("feed_forward_proj", "relu" if s.architecture == "t5" else "gated-gelu")
    *gated, name = stated.split("-")
    # The published models that say so were trained with the approximation.
    name = "gelu_new" if stated == "gated-gelu" else name
    if gated not in ([], ["gated"]) or name not in FUNCTIONS:
        raise _core.UnsupportedModelError(
            f"{s.source}: feed_forward_proj is {stated!r:.80}, only {', '.join(FUNCTIONS)}, alone or behind "
            "'gated-', are supported"
        )
    s.must_equal("dense_act_fn", name)
    s.must_equal("is_gated_act", bool(gated))
    return FUNCTIONS[name], bool(gated)


def _scales_head(s: Settings) -> bool:
    """The first models tie the head and scale its input; what later ones state is kept under either name."""
    is_tied = s.default("tie_word_embeddings", True)
    return s.default("scale_decoder_outputs", is_tied) and s.architecture != "mt5"


def load(cfg: T5Config, w: Weights, forbidden: Iterable[int] = ()) -> T5Weights:
    """Takes every tensor, by name and shape; a head that is stored is used where it is not the embedding.

    `forbidden` ids are never generated.
    """
    source = Source(_seq2seq.shared_embedding(w), (cfg.vocab_size, cfg.hidden_size))
    tok = w.packed(source)
    return T5Weights(
        tok=tok,
        encoder=_seq2seq.layers(cfg, w, "enc"),
        encoder_biases=_biases(cfg, w, "enc", cfg.n_encoder_layers),
        encoder_norm=_seq2seq.norm(cfg, w, "enc.output_norm"),
        decoder=_seq2seq.layers(cfg, w, "dec"),
        decoder_biases=_biases(cfg, w, "dec", cfg.n_layers),
        decoder_norm=_seq2seq.norm(cfg, w, "dec.output_norm"),
        head=_seq2seq.head(w, source, tok, True, None, forbidden),
    )


def _biases(cfg: T5Config, w: Weights, side: Literal["enc", "dec"], n_layers: int) -> list[Vector]:
    """For every layer, what scores gain at the distances -max_distance to max_distance.

    Each layer of UMT5 has its own, elsewhere all share the first one's.
    """
    buckets = relative_buckets(cfg.n_buckets, cfg.max_distance, both_sides=side == "enc")

    def bias(layer: int) -> Vector:
        table = w.vector(Source(f"{side}.blk.{layer}.attn_rel_b.weight", (cfg.n_buckets, cfg.n_heads)))
        return array("f", (table[bucket, head] for head in range(cfg.n_heads) for bucket in buckets))

    if cfg.architecture == "umt5":
        return [bias(layer) for layer in range(n_layers)]
    return [bias(0)] * n_layers


def relative_buckets(n_buckets: int, max_distance: int, *, both_sides: bool) -> list[int]:
    """The bucket of key position minus query position, from -max_distance to max_distance.

    Half of the buckets hold one distance each, the others grow with the logarithm up to max_distance, behind
    which all are in the last. Where keys stand on both sides, each side has half of the buckets.
    In float32, as models were trained: rounding decides at the borders.
    """
    import numpy as np

    distance = np.arange(-max_distance, max_distance + 1)
    n_side = n_buckets // 2 if both_sides else n_buckets
    first = np.where(distance > 0, n_buckets - n_side, 0)
    distance = np.abs(distance) if both_sides else np.maximum(-distance, 0)
    n_exact = n_side // 2
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(n_exact))
    grown = ratio / np.float32(math.log(max_distance / n_exact)) * np.float32(n_side - n_exact)
    large = np.minimum(n_exact + grown.astype(np.int64), n_side - 1)
    buckets: list[int] = (first + np.where(distance < n_exact, distance, large)).tolist()
    return buckets


# --- what is emitted ----------------------------------------------------------------------------------------
def encode(b: Builder, cfg: T5Config, w: T5Weights) -> Value:
    """Emits the encoder; returns its output (T, hidden_size), whose keys and values it appends."""
    x = b.embed(w.tok)
    for i, (layer, bias) in enumerate(zip(w.encoder, w.encoder_biases, strict=True)):
        b.scope = f"E{i:02d}."
        h = _normed(b, cfg, x, layer.attn_norm, "attn.norm")
        x = _seq2seq.attend(b, cfg, h, 0, layer, x, causal=False, bias=bias)
        x = _seq2seq.mlp(b, cfg, _normed(b, cfg, x, layer.ffn_norm, "ffn.norm"), layer, x)
    b.scope = ""
    hidden = _normed(b, cfg, x, w.encoder_norm, "source")
    _seq2seq.append_sources(b, hidden, w.decoder)
    return hidden


def decode(b: Builder, cfg: T5Config, w: T5Weights) -> tuple[Value, Value | None]:
    """Emits the decoder; returns what `_seq2seq.logits` does."""
    x = b.embed(w.tok)
    for i, (layer, bias) in enumerate(zip(w.decoder, w.decoder_biases, strict=True)):
        assert layer.cross is not None  # a decoder's has it
        b.scope = f"D{i:02d}."
        h = _normed(b, cfg, x, layer.attn_norm, "attn.norm")
        x = _seq2seq.attend(b, cfg, h, i, layer, x, causal=True, bias=bias)
        h = _normed(b, cfg, x, layer.cross.norm, "cross.norm")
        x = _seq2seq.attend_source(b, cfg, h, i, layer.cross, x)
        x = _seq2seq.mlp(b, cfg, _normed(b, cfg, x, layer.ffn_norm, "ffn.norm"), layer, x)
    b.scope = ""
    x = _normed(b, cfg, b.gather_rows(x, "last"), w.decoder_norm, "norm")
    x = b.scale(x, cfg.hidden_size**-0.5, "scale") if cfg.scales_head else x
    return _seq2seq.logits(b, x, w.head)


def _normed(b: Builder, cfg: T5Config, x: Value, w: Norm, name: str) -> Value:
    return b.rms_norm(x, w.weight, cfg.norm_eps, name)
