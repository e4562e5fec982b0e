"""The vocabulary of a tokenizer.json: ids of the package `tokenizers`, bytes of its tokens."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from lanner._core import UnsupportedModelError

NORMAL, _, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # token types in GGUF

_SPACE = "\u2581"


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """GPT-2's spelling: a printable character for each byte."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


class HfVocabulary:
    """Text to ids and ids to bytes.

    Byte-level and SentencePiece vocabularies (`Metaspace`, or a replaced U+2581 with a byte fallback) have
    bytes for each token, so that text comes out as from a GGUF file of the same model. Other decoders, such
    as that of WordPiece, map a token to text that depends on its place: `spells_words` says so.
    """

    def __init__(self, tokenizer: Any, vocab_size: int = 0) -> None:
        """tokenizer: a `tokenizers.Tokenizer`, which belongs to this object from now on.

        vocab_size: rows of the model's embedding; ids that only it has are unused tokens without text.
        """
        self._tokenizer = tokenizer
        self._plain: Any = None  # the same, blind to special tokens
        self._added = {id: token.special for id, token in tokenizer.get_added_tokens_decoder().items()}
        n = tokenizer.get_vocab_size(with_added_tokens=True)
        if tokenizer.id_to_token(n - 1) is None or tokenizer.id_to_token(n) is not None:  # gaps
            n = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.vocab_size: int = max(n, vocab_size)
        self._drops = 0  # characters that a space prefix takes away: 0, 1 or all (-1)
        self._spell: Callable[[str], bytes] | None = None
        self._read_decoder()
        self.spells_words = self._spell is None

    def _read_decoder(self) -> None:
        decoder = self._tokenizer.decoder
        stated: dict[str, Any] = {"type": None} if decoder is None else json.loads(decoder.__getstate__())
        stages: list[dict[str, Any]] = stated["decoders"] if stated["type"] == "Sequence" else [stated]
        kinds = [stage["type"] for stage in stages]
        if kinds == ["ByteLevel"]:
            self._spell = _spell_byte_level
        elif kinds == ["Metaspace"]:
            space = stages[0]["replacement"]
            self._drops = 0 if stages[0].get("prepend_scheme") == "never" else -1
            self._spell = lambda token: token.replace(space, " ").encode()
        elif _is_byte_fallback(stages):
            self._drops = sum(stage["start"] for stage in stages if stage["type"] == "Strip")
            self._spell = _spell_byte_fallback

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Ids of a text, without what the post-processor adds."""
        return self._encode(text, parse_special, False)

    def encode_with_special(self, text: str, parse_special: bool) -> list[int]:
        """Ids of a text with what the post-processor adds."""
        return self._encode(text, parse_special, True)

    def _encode(self, text: str, parse_special: bool, add_special: bool) -> list[int]:
        text.encode()  # raises for a lone surrogate
        tokenizer = self._tokenizer if parse_special else self._blind()
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special).ids
        return ids

    def _blind(self) -> Any:
        if self._plain is None:
            plain = type(self._tokenizer).from_str(self._tokenizer.to_str())
            plain.encode_special_tokens = True
            self._plain = plain
        return self._plain

    def token_text(self, id: int) -> str:
        """A token as the file writes it. Raises ValueError for an id out of range."""
        if not 0 <= id < self.vocab_size:
            raise ValueError(f"token id {id} is out of range, vocab_size is {self.vocab_size}")
        text: str | None = self._tokenizer.id_to_token(id)
        return text or ""  # "": an id without a token

    def token_bytes(self, id: int) -> bytes:
        """Bytes of a token. Raises UnsupportedModelError where they depend on the tokens around it."""
        text = self.token_text(id)
        if self._spell is None and id not in self._added:
            raise UnsupportedModelError(
                f"token_bytes: token {id} ({text!r}) is part of a word, its bytes depend on its neighbours"
            )
        return self._spelled(id, text)

    def _spelled(self, id: int, text: str) -> bytes:
        # An added token is plain text, but U+2581 stands for a space in those that are not special.
        is_plain = id in self._added and (self._added[id] or self._spell is _spell_byte_level)
        return text.encode() if is_plain or self._spell is None else self._spell(text)

    def token_type(self, id: int) -> int:
        """1 normal, 3 control, 4 user defined, 5 unused, 6 byte."""
        text = self.token_text(id)
        if id in self._added:
            return CONTROL if self._added[id] else USER_DEFINED
        if not text:
            return UNUSED
        is_byte = self._spell is _spell_byte_fallback and _byte_of_token(text) is not None
        return BYTE if is_byte else NORMAL

    def find(self, text: str) -> int | None:
        """Id of the token that the file writes as `text`."""
        id: int | None = self._tokenizer.token_to_id(text)
        return id

    def decode(self, ids: Iterable[int], skip_special: bool, at_start: bool = False) -> bytes:
        """Bytes of ids; at_start: without the space in front where the file puts one there."""
        if self._spell is None:
            return self._decode_words(ids, skip_special)
        out = bytearray()
        drops = self._drops if at_start else 0
        for id in map(operator.index, ids):
            text = self.token_text(id)
            if skip_special and self._added.get(id):
                continue
            piece = self._spelled(id, text)
            if piece and drops:
                piece = piece.replace(b" ", b"") if drops < 0 else piece.removeprefix(b" ")
                drops = 0
            out += piece
        return bytes(out)

    def _decode_words(self, ids: Iterable[int], skip_special: bool) -> bytes:
        kept = [id for id in map(operator.index, ids) if self.token_text(id)]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=skip_special)
        return text.encode()


def _is_byte_fallback(stages: list[dict[str, Any]]) -> bool:
    """Whether U+2581 becomes a space, `<0x41>` a byte, and at most one space in front is taken away."""
    replace = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    rest = [stage for stage in stages[1:] if stage["type"] != "Strip"]
    strips = [stage for stage in stages[1:] if stage["type"] == "Strip"]
    return (
        stages[:1] == [replace]
        and [stage["type"] for stage in rest] == ["ByteFallback", "Fuse"]
        and all((s["content"], s["stop"]) == (" ", 0) and s["start"] <= 1 for s in strips)
        and len(strips) <= 1
    )


def _spell_byte_level(token: str) -> bytes:
    byte_of = _byte_of()
    try:
        return bytes([byte_of[c] for c in token])
    except KeyError:
        return token.encode()


def _byte_of_token(token: str) -> int | None:
    if len(token) != 6 or not token.startswith("<0x") or token[5] != ">":
        return None
    try:
        return int(token[3:5], 16)
    except ValueError:
        return None


def _spell_byte_fallback(token: str) -> bytes:
    byte = _byte_of_token(token)
    return token.replace(_SPACE, " ").encode() if byte is None else bytes([byte])
