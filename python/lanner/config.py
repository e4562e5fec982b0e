"""Typed reads of a model's configuration. What is missing, mistyped or not supported is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from lanner import _core

T = TypeVar("T")


class Metadata:
    """The configuration of one GGUF file; keys are those under its architecture's prefix."""

    def __init__(self, gguf: _core.GgufFile) -> None:
        self._gguf = gguf
        self.source = gguf.path
        self.architecture = self._typed("general.architecture", str)

    def required(self, key: str, kind: type[T]) -> T:
        """The value of `<architecture>.<key>`; ModelFileError where it is missing or of another type."""
        return self._typed(f"{self.architecture}.{key}", kind)

    def default(self, key: str, otherwise: T) -> T:
        """The value of `<architecture>.<key>`, of the type of `otherwise`, or `otherwise`."""
        if not self._gguf.has(f"{self.architecture}.{key}"):
            return otherwise
        return self.required(key, type(otherwise))

    def positive(self, key: str, otherwise: int | None = None) -> int:
        """An integer from 1 to 2^31 - 1."""
        value = self.required(key, int) if otherwise is None else self.default(key, otherwise)
        if not 0 < value < 2**31:
            raise _core.ModelFileError(
                f"{self.source}: {self.architecture}.{key} is {value}, wanted 1 to 2147483647"
            )
        return value

    def must_equal(self, key: str, supported: Any) -> None:
        """Refuses the model where `<architecture>.<key>` is present and is not `supported`."""
        value = self._gguf.get(f"{self.architecture}.{key}")
        if value is not None and value != supported:
            raise _core.UnsupportedModelError(
                f"{self.source}: {self.architecture}.{key} is {value!r}, only {supported!r} is supported"
            )

    def vocab_size(self, n_embeddings: int) -> int:
        """The number of tokens, which the token list, the stated size and the embedding must agree on."""
        stated = self.default("vocab_size", n_embeddings)
        tokens = "tokenizer.ggml.tokens"
        n_tokens = self._gguf.array_len(tokens) if self._gguf.has(tokens) else n_embeddings
        if not stated == n_tokens == n_embeddings:
            raise _core.ModelFileError(
                f"{self.source}: {n_tokens} tokens, a stated vocabulary of {stated} and "
                f"{n_embeddings} rows of the embedding disagree"
            )
        return n_embeddings

    def _typed(self, key: str, kind: type[T]) -> T:
        if not self._gguf.has(key):
            raise _core.ModelFileError(f"{self.source}: metadata key {key!r} is missing")
        value = self._gguf.get(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _core.ModelFileError(
                f"{self.source}: {key} is a {type(value).__name__}, wanted a {kind.__name__}"
            )
        return value


@dataclass(frozen=True)
class DecoderConfig:
    """The sizes of a decoder, under the names that papers and checkpoints use.

    `context_length` is the number of positions that the model was trained for; `rope_theta` the base of the
    rotary frequencies; `scale` multiplies the scores of attention.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float
    rope_theta: float
    scale: float
