"""Marian, the models of OPUS-MT (Junczys-Dowmunt et al., 2018): sinusoidal positions, norms behind sums."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lanner import _core
from lanner._records import dataclass
from lanner.config import MAX_CONTEXT
from lanner.models import _seq2seq
from lanner.models._seq2seq import Head, Layer, Norm, Seq2SeqConfig
from lanner.models._sizes import FUNCTIONS
from lanner.weights import Source

if TYPE_CHECKING:
    from lanner._builder_rows import Vector
    from lanner.builder import Builder
    from lanner.config import Settings
    from lanner.phases import Value
    from lanner.weights import Weights


def _names(side: str, prefix: str) -> dict[str, str]:
    at = f"model.{side}.layers.{{}}"
    attention = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
    return {
        f"{prefix}.token_embd": f"model.{side}.embed_tokens",
        f"{prefix}.position_embd": f"model.{side}.embed_positions",
        f"{prefix}.blk.{{}}.attn_norm": f"{at}.self_attn_layer_norm",
        **{f"{prefix}.blk.{{}}.attn_{x}": f"{at}.self_attn.{name}" for x, name in attention.items()},
        f"{prefix}.blk.{{}}.cross_attn_norm": f"{at}.encoder_attn_layer_norm",
        **{f"{prefix}.blk.{{}}.cross_attn_{x}": f"{at}.encoder_attn.{name}" for x, name in attention.items()},
        f"{prefix}.blk.{{}}.ffn_in": f"{at}.fc1",
        f"{prefix}.blk.{{}}.ffn_down": f"{at}.fc2",
        f"{prefix}.blk.{{}}.ffn_norm": f"{at}.final_layer_norm",
    }


HF_PREFIX = ""
HF_IGNORED = ()
HF_NAMES = {
    "token_embd": "model.shared",
    "output": "lm_head",
    "output_bias": "final_logits_bias",
    **_names("encoder", "enc"),
    **_names("decoder", "dec"),
}
_HARMLESS = frozenset(
    {"init_std", "classif_dropout", "num_hidden_layers", "extra_pos_embeddings", "add_bias_logits"}
)
"""Of training, or left by the first converter: each side states its layers, the bias is always added."""


@dataclass(frozen=True, kw_only=True)
class MarianConfig(Seq2SeqConfig):
    """`is_shared`: both sides embed with one matrix; `is_tied`: the head is the target's embedding."""

    is_shared: bool
    is_tied: bool
    embedding_scale: float


@dataclass(frozen=True)
class MarianWeights:
    """All weights; positions are (context_length, hidden_size)."""

    source_tok: _core.Packed
    source_positions: Vector
    encoder: list[Layer]
    target_tok: _core.Packed
    target_positions: Vector
    decoder: list[Layer]
    head: Head


def config(s: Settings, w: Weights) -> MarianConfig:
    """The sizes of the model; what is not supported is refused by name."""
    s.use({}, {}, _HARMLESS)
    hidden_size, n_heads = s.positive("d_model"), s.positive("encoder_attention_heads")
    for key, supported in (
        ("is_encoder_decoder", True),
        ("decoder_attention_heads", n_heads),
        ("normalize_before", False),
        ("normalize_embedding", False),
        ("add_final_layer_norm", False),
        ("static_position_embeddings", True),
    ):
        s.must_equal(key, supported)
    if hidden_size % n_heads:
        raise _core.ModelFileError(f"{s.source}: d_model {hidden_size} does not divide into {n_heads} heads")
    function = s.default("activation_function", "gelu")
    if function not in FUNCTIONS:
        raise _core.UnsupportedModelError(
            f"{s.source}: activation_function is {function!r:.80}, only {', '.join(FUNCTIONS)} are supported"
        )
    is_shared = s.default("share_encoder_decoder_embeddings", True)
    name = _seq2seq.shared_embedding(w) if is_shared else "enc.token_embd.weight"
    source_vocab_size = s.vocab_size(w.n_rows(name))
    context_length = s.positive("max_position_embeddings", 1024, most=MAX_CONTEXT)
    return MarianConfig(
        architecture=s.architecture,
        vocab_size=s.positive("decoder_vocab_size", source_vocab_size),
        source_vocab_size=source_vocab_size,
        hidden_size=hidden_size,
        intermediate_size=s.positive("decoder_ffn_dim"),
        encoder_intermediate_size=s.positive("encoder_ffn_dim"),
        n_layers=s.positive("decoder_layers"),
        n_encoder_layers=s.positive("encoder_layers"),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=hidden_size // n_heads,
        context_length=context_length,
        longest=context_length,
        norm_eps=1e-5,  # config.json has no such key
        scale=(hidden_size // n_heads) ** -0.5,
        function=FUNCTIONS[function],
        has_biases=True,
        is_shared=is_shared,
        is_tied=s.default("tie_word_embeddings", True),
        embedding_scale=hidden_size**0.5 if s.default("scale_embedding", False) else 1.0,
    )


def load(cfg: MarianConfig, w: Weights, forbidden: Iterable[int] = ()) -> MarianWeights:
    """Takes every tensor, by name and shape; `forbidden` ids are never generated."""
    hidden = cfg.hidden_size
    name = _seq2seq.shared_embedding(w) if cfg.is_shared else "dec.token_embd.weight"
    tok = Source(name, (cfg.vocab_size, hidden))
    target_tok = source_tok = w.packed(tok)
    if not cfg.is_shared:
        source_tok = w.packed(Source("enc.token_embd.weight", (cfg.source_vocab_size, hidden)))
    bias = w.vector(Source("output_bias", (1, cfg.vocab_size))).cast("B").cast("f")
    return MarianWeights(
        source_tok=source_tok,
        source_positions=_positions(cfg, w, "enc"),
        encoder=_seq2seq.layers(cfg, w, "enc"),
        target_tok=target_tok,
        target_positions=_positions(cfg, w, "dec"),
        decoder=_seq2seq.layers(cfg, w, "dec"),
        head=_seq2seq.head(w, tok, target_tok, cfg.is_tied, bias, forbidden),
    )


def _positions(cfg: MarianConfig, w: Weights, side: str) -> Vector:
    """As they are stored, which old versions did in the type of the weights, or computed."""
    source = Source(f"{side}.position_embd.weight", (cfg.context_length, cfg.hidden_size))
    return w.vector(source) if w.has(source.name) else sinusoids(*source.shape)


def sinusoids(n_positions: int, n_cols: int) -> Vector:
    """float32 (n_positions, n_cols): sin(position / 10000^(2i / n_cols)) for every i, then the cosines."""
    import numpy as np

    angles = np.arange(n_positions)[:, None] / np.power(10000, 2 * np.arange((n_cols + 1) // 2) / n_cols)
    return np.concatenate([np.sin(angles), np.cos(angles[:, : n_cols // 2])], axis=1).astype(np.float32)


# --- what is emitted ----------------------------------------------------------------------------------------
def encode(b: Builder, cfg: MarianConfig, w: MarianWeights) -> Value:
    """Emits the encoder; returns its output (T, hidden_size), whose keys and values it appends."""
    x = _embed(b, cfg, w.source_tok, w.source_positions)
    for i, layer in enumerate(w.encoder):
        b.scope = f"E{i:02d}."
        x = _seq2seq.attend(b, cfg, x, 0, layer, x, causal=False, bias=None)
        x = _normed(b, cfg, x, layer.attn_norm, "attn.norm")
        x = _normed(b, cfg, _seq2seq.mlp(b, cfg, x, layer, x), layer.ffn_norm, "ffn.norm")
    _seq2seq.append_sources(b, x, w.decoder)
    return x


def decode(b: Builder, cfg: MarianConfig, w: MarianWeights) -> tuple[Value, Value | None]:
    """Emits the decoder; returns what `_seq2seq.logits` does."""
    x = _embed(b, cfg, w.target_tok, w.target_positions)
    for i, layer in enumerate(w.decoder):
        assert layer.cross is not None  # a decoder's has it
        b.scope = f"D{i:02d}."
        x = _seq2seq.attend(b, cfg, x, i, layer, x, causal=True, bias=None)
        x = _normed(b, cfg, x, layer.attn_norm, "attn.norm")
        x = _seq2seq.attend_source(b, cfg, x, i, layer.cross, x)
        x = _normed(b, cfg, x, layer.cross.norm, "cross.norm")
        x = _normed(b, cfg, _seq2seq.mlp(b, cfg, x, layer, x), layer.ffn_norm, "ffn.norm")
    b.scope = ""
    return _seq2seq.logits(b, b.gather_rows(x, "last"), w.head)


def _embed(b: Builder, cfg: MarianConfig, tok: _core.Packed, positions: Vector) -> Value:
    x = b.embed(tok)
    x = b.scale(x, cfg.embedding_scale, "embed.scale") if cfg.embedding_scale != 1 else x
    return b.add_positions(x, positions, 0, "embed.positions")


def _normed(b: Builder, cfg: MarianConfig, x: Value, w: Norm, name: str) -> Value:
    return b.layer_norm(x, w.weight, w.bias, cfg.norm_eps, name)
