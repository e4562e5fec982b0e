"""SentencePiece vocabularies for tests: a small one, the plainest way to encode with it, the file format."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

# The space prefix, runs of spaces, scores that are equal, tokens that no merge reaches, special tokens that
# contain and resemble each other.
_MERGED = (
    "▁t", "he", "▁the", "▁▁", "▁▁▁▁", "er", "in", "ing", "ll", "hell", "hello", "▁hello", "aa", "aaa", "aaaa",
    "ab", "ba", "aba", "bab", "▁a", "a▁", "unreachable", "日本",
)  # fmt: skip
_CHARACTERS = "▁abehilnorst日本é<>|/"
SPECIALS = {
    "<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL, "<|im|>": CONTROL,
    "\n": USER_DEFINED, "\n\n": USER_DEFINED, "  ": USER_DEFINED, "<think>": USER_DEFINED,
    "<think>in": USER_DEFINED, "[PAD]": UNUSED,
}  # fmt: skip

TOKENS = [*SPECIALS, *(f"<0x{b:02X}>" for b in range(256)), *_MERGED, *_CHARACTERS]
TYPES = [
    *SPECIALS.values(), *[BYTE] * 256, *[NORMAL] * (len(_MERGED) + len(_CHARACTERS)),
]  # fmt: skip
# In pairs of equal ones.
SCORES = [0.0] * (len(SPECIALS) + 256) + [-float(i // 2) for i in range(len(_MERGED) + len(_CHARACTERS))]
ID = {token: i for i, token in enumerate(TOKENS)}

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.scores": np.array(SCORES, np.float32),
    "tokenizer.ggml.token_type": np.array(TYPES, np.int32),
}


def merge_one_by_one(text: str, scores: dict[str, float]) -> list[str]:
    """By definition: join the neighbours whose text scores best, the leftmost of equals, and repeat."""
    symbols = list(text)
    while True:
        pairs = [
            (scores[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in scores
        ]
        if not pairs:
            return symbols
        i = -max(pairs)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


# ---- the protocol buffer that SentencePiece reads: sentencepiece_model.proto ------------------------------

_BPE = 2


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def _field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value & 2**64 - 1)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def model_bytes(
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool = False,
    model_type: int = _BPE,
) -> bytes:
    """A tokenizer.model. One token is of type unknown; GGUF's user-defined tokens have plain spaces."""
    pieces = []
    for token, score, kind in zip(tokens, scores, types, strict=True):
        text = token.replace(" ", "▁") if kind == USER_DEFINED else token
        pieces.append(_field(1, _field(1, text.encode()) + _field(2, float(score)) + _field(3, int(kind))))
    names = {40: tokens[list(types).index(UNKNOWN)], 41: "<s>", 42: "</s>", 43: "<pad>"}
    ids = {40: list(types).index(UNKNOWN)} | {
        field: tokens.index(name) if name in tokens else -1 for field, name in names.items() if field != 40
    }
    trainer = _field(3, model_type) + _field(35, int(BYTE in types))
    trainer += b"".join(_field(field, id) for field, id in ids.items())
    trainer += _field(45, names[40].encode())
    normalizer = _field(1, b"identity") + _field(3, int(add_dummy_prefix))
    normalizer += _field(4, int(remove_extra_whitespaces)) + _field(5, 1)
    return b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)


_PIECES = (
    "▁",
    " ",
    "  ",
    "\n",
    "<s>",
    "</s>",
    "<|im|>",
    "<think>",
    "<think>in",
    "<0x41>",
    "[PAD]",
    "hello",
    " the",
)


def random_text(rng: random.Random) -> str:
    """Text that the small vocabulary has much to do with."""
    return "".join(
        rng.choice(_PIECES) if rng.random() < 0.3 else rng.choice("abab helloinger▁日本é😀\t<>|/")
        for _ in range(rng.randrange(40))
    )
