"""What a loaded model is, in numbers and names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lanner._records import dataclass

if TYPE_CHECKING:
    from lanner.decoder import Decoder
    from lanner.encoder import Encoder
    from lanner.seq2seq import Seq2Seq


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is.

    `formats` gives the bytes of the weights by format, `weight_bytes_per_token` how many of them the decoding
    of a token reads; `context_length` is what the model was trained for, `context` what it was loaded with.
    """

    architecture: str
    n_params: int
    formats: Mapping[str, int]
    weight_bytes_per_token: int
    context_length: int
    context: int
    vocab_size: int
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    tokenizer: str
    n_threads: int


def describe(model: Decoder | Encoder | Seq2Seq, tokenizer_name: str) -> ModelInfo:
    """The description of a model and its tokenizer."""
    c = model.config
    return ModelInfo(
        architecture=c.architecture,
        n_params=model.n_params,
        formats=dict(model.formats),
        weight_bytes_per_token=model.weight_bytes_per_token,
        context_length=c.context_length,
        context=model.context,
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        n_layers=c.n_layers,
        n_heads=c.n_heads,
        n_kv_heads=c.n_kv_heads,
        head_dim=c.head_dim,
        tokenizer=tokenizer_name,
        n_threads=model.n_threads,
    )
