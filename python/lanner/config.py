"""Typed reads of a model's configuration. What is missing, mistyped or not supported is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, Protocol, TypeVar

from lanner import _core
from lanner._records import dataclass

T = TypeVar("T")


MAX_CONTEXT = 2**24
"""Positions that a file may claim: more than any model has, still few where each page has an entry."""

HARMLESS = frozenset({"tensor_data_layout", "rope.scaling.finetuned", "rope.scaling.original_context_length"})
"""Keys that describe a model's making and change nothing in its computation."""


class Values(Protocol):
    """Where settings come from: a GGUF file's metadata or a folder's config.json."""

    is_gguf: bool

    def name(self, key: str) -> str:
        """What the source calls a key."""

    def find(self, key: str) -> Any:
        """The value, None where there is none; ModelFileError where the source contradicts itself."""

    def default(self, key: str) -> Any:
        """The value that a source without the key means, None where it must state it."""

    def unread(self, read: set[str]) -> Iterator[str]:
        """Names of what the source states and nobody read; `read` has the keys that were."""


class GgufValues:
    """The metadata of one GGUF file under its architecture's prefix."""

    is_gguf = True

    def __init__(self, gguf: _core.GgufFile, architecture: str) -> None:
        self.gguf = gguf
        self._prefix = f"{architecture}."

    def name(self, key: str) -> str:
        """With the prefix."""
        return self._prefix + key

    def find(self, key: str) -> Any:
        """A number, bool, str or list, or an array of numbers; None where there is none."""
        return self.gguf.get(self._prefix + key)

    def default(self, key: str) -> None:
        """None: a file states what it means."""

    def unread(self, read: set[str]) -> Iterator[str]:
        """The keys with the prefix."""
        for name in self.gguf.keys():  # noqa: SIM118 - a file is no dict
            if name.startswith(self._prefix) and name.removeprefix(self._prefix) not in read | HARMLESS:
                yield name

    def n_tokens(self) -> int | None:
        """Tokens of the file's own vocabulary, None where it has none."""
        tokens = "tokenizer.ggml.tokens"
        return self.gguf.array_len(tokens) if self.gguf.has(tokens) else None


class Settings:
    """The configuration of one model under the keys of GGUF without their prefix: "attention.head_count".

    A Hugging Face config.json is read through a table of its own names (`hf_config`), which an architecture
    completes with `use`; a key that no table has is looked up under its own name. Every key that is not read
    is refused by `finish`: it may change what the model computes.

    `source` is the file that errors name, `is_gguf` whether that is a GGUF file; `context` is what the model
    is loaded with, None for what it was trained for.
    """

    def __init__(self, source: str, architecture: str, values: Values) -> None:
        self.source = source
        self.architecture = architecture
        self.is_gguf = values.is_gguf
        self.context: int | None = None  # positions that the model is loaded with, where a caller says
        self._values = values
        self._read: set[str] = set()

    def use(
        self,
        hf_keys: Mapping[str, str | tuple[str, ...] | None],
        hf_defaults: Mapping[str, object],
        ignored: frozenset[str] = frozenset(),
    ) -> None:
        """How this architecture's config.json differs from the common table; nothing for a GGUF file.

        Args:
            hf_keys: by canonical key, the name in config.json, "a.b" for b inside the object a; several where
                versions differ, None where config.json has no such key.
            hf_defaults: by canonical key, what the architecture's config class means by a missing key.
            ignored: names in config.json that change nothing for this architecture.
        """
        if not self.is_gguf:
            self._values.use(hf_keys, hf_defaults, ignored)  # type: ignore[attr-defined]

    def name(self, key: str) -> str:
        """What the source calls a key, for errors."""
        return self._values.name(key)

    def has(self, key: str) -> bool:
        """Whether the source states the key. This does not count as reading it."""
        return self._values.find(key) is not None

    def raw(self, key: str) -> Any:
        """The value as it is, an object or a list too; the default or None where there is none."""
        self._read.add(key)
        value = self._values.find(key)
        return self._values.default(key) if value is None else value

    def required(self, key: str, kind: type[T]) -> T:
        """The value of a key; ModelFileError where it is missing or of another type."""
        value = self.raw(key)
        if value is None:
            raise _core.ModelFileError(f"{self.source}: key {self._values.name(key)!r} is missing")
        return self._typed(key, value, kind)

    def default(self, key: str, otherwise: T) -> T:
        """The value of a key, of the type of `otherwise`, or the architecture's default, or `otherwise`."""
        value = self.raw(key)
        return otherwise if value is None else self._typed(key, value, type(otherwise))

    def positive(self, key: str, otherwise: int | None = None, most: int = 2**31 - 1) -> int:
        """An integer from 1 to `most`."""
        value = self.required(key, int) if otherwise is None else self.default(key, otherwise)
        if not 0 < value <= most:
            self._fail(key, f"{value}, wanted 1 to {most}")
        return value

    def real(self, key: str, otherwise: float | None = None) -> float:
        """A finite number above 0."""
        value = self.required(key, float) if otherwise is None else self.default(key, otherwise)
        if not (math.isfinite(value) and value > 0):
            self._fail(key, f"{value}, wanted a finite number above 0")
        return value

    def must_equal(self, key: str, supported: bool | float | str) -> None:
        """Refuses the model where the key is present (or has a default) and is not `supported`."""
        value = self.raw(key)
        if value is None:
            return
        is_scalar = isinstance(value, (bool, int, float, str))
        if not is_scalar or value != supported:
            shown = repr(value) if is_scalar else "an array"
            raise _core.UnsupportedModelError(
                f"{self.source}: {self._values.name(key)} is {shown:.80}, only {supported!r} is supported"
            )

    def vocab_size(self, n_embeddings: int) -> int:
        """The number of tokens, which the token list, the stated size and the embedding must agree on."""
        stated = self.default("vocab_size", n_embeddings)
        n_tokens = self._values.n_tokens() if isinstance(self._values, GgufValues) else None
        if stated != n_embeddings or n_tokens not in (None, n_embeddings):
            tokens = "" if n_tokens is None else f"{n_tokens} tokens, "
            raise _core.ModelFileError(
                f"{self.source}: {tokens}a stated vocabulary of {stated} and "
                f"{n_embeddings} rows of the embedding disagree"
            )
        return n_embeddings

    def finish(self) -> None:
        """Refuse the model where it has a key that nothing has read."""
        for name in self._values.unread(self._read):
            raise _core.UnsupportedModelError(
                f"{self.source}: {name:.80} is not known, its effect would be missing"
            )

    def _typed(self, key: str, value: object, kind: type[T]) -> T:
        if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023:
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self._fail(key, f"a {type(value).__name__}, wanted a {kind.__name__}")
        return value

    def _fail(self, key: str, wrong: str) -> NoReturn:
        raise _core.ModelFileError(f"{self.source}: {self._values.name(key)} is {wrong}")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The sizes of a decoder, under the names that papers and checkpoints use; architectures add to them.

    `context_length` is the number of positions that the model was trained for, `scale` multiplies the scores
    of attention, `windows` has for every layer how many positions it sees, 0 for all; `is_tied` says that the
    head is the embedding.
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
    norm_eps: float
    scale: float
    windows: tuple[int, ...]
    is_tied: bool

    @property
    def mlp_size(self) -> int:
        """Columns that the MLPs of a layer make of a token."""
        return self.intermediate_size
