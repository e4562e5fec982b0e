"""Typed reads of a model's configuration. What is missing, mistyped or not supported is refused by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from lanner import _core

T = TypeVar("T")


MAX_CONTEXT = 2**24
"""Positions that a file may claim: more than any model has, still few where each page has an entry."""

HARMLESS = frozenset({"tensor_data_layout", "rope.scaling.finetuned", "rope.scaling.original_context_length"})
"""Keys that describe a model's making and change nothing in its computation."""


class Metadata:
    """The configuration of one GGUF file; keys are those under its architecture's prefix.

    Every key that is not read is refused by `finish`: it may change what the model computes.
    """

    def __init__(self, gguf: _core.GgufFile) -> None:
        self._gguf = gguf
        self._read = set(HARMLESS)
        self.source = gguf.path
        self.architecture = self._typed("general.architecture", str)

    def required(self, key: str, kind: type[T]) -> T:
        """The value of `<architecture>.<key>`; ModelFileError where it is missing or of another type."""
        self._read.add(key)
        return self._typed(f"{self.architecture}.{key}", kind)

    def default(self, key: str, otherwise: T) -> T:
        """The value of `<architecture>.<key>`, of the type of `otherwise`, or `otherwise`."""
        self._read.add(key)
        if not self._gguf.has(f"{self.architecture}.{key}"):
            return otherwise
        return self.required(key, type(otherwise))

    def positive(self, key: str, otherwise: int | None = None, most: int = 2**31 - 1) -> int:
        """An integer from 1 to `most`."""
        value = self.required(key, int) if otherwise is None else self.default(key, otherwise)
        if not 0 < value <= most:
            raise _core.ModelFileError(
                f"{self.source}: {self.architecture}.{key} is {value}, wanted 1 to {most}"
            )
        return value

    def real(self, key: str, otherwise: float | None = None) -> float:
        """A finite number above 0."""
        value = self.required(key, float) if otherwise is None else self.default(key, otherwise)
        if not (math.isfinite(value) and value > 0):
            raise _core.ModelFileError(
                f"{self.source}: {self.architecture}.{key} is {value}, wanted a finite number above 0"
            )
        return value

    def must_equal(self, key: str, supported: bool | float | str) -> None:
        """Refuses the model where `<architecture>.<key>` is present and is not `supported`."""
        self._read.add(key)
        value = self._gguf.get(f"{self.architecture}.{key}", supported)
        if not isinstance(value, (bool, int, float, str)) or value != supported:
            shown = repr(value) if isinstance(value, (bool, int, float, str)) else "an array"
            raise _core.UnsupportedModelError(
                f"{self.source}: {self.architecture}.{key} is {shown:.80}, only {supported!r} is supported"
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

    def finish(self) -> None:
        """Refuse the model where it has a key of its architecture that nothing has read."""
        prefix = f"{self.architecture}."
        for key in self._gguf.keys():  # noqa: SIM118 - a file is no dict
            if key.startswith(prefix) and key.removeprefix(prefix) not in self._read:
                raise _core.UnsupportedModelError(
                    f"{self.source}: {key} is not known, its effect would be missing"
                )

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
