"""A small byte-level BPE vocabulary for tests, and the plainest way to encode with one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def _spelling() -> dict[int, str]:
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(0x100 + i) for i, b in enumerate(hidden)}


SPELLING = _spelling()


def spell(raw: bytes) -> str:
    """Bytes as GPT-2's vocabularies write them."""
    return "".join(SPELLING[b] for b in raw)


# Every byte, the merges' results, then special tokens that contain, overlap and resemble each other.
MERGES = [
    (b"e", b"r"), (b" ", b"t"), (b"h", b"e"), (b" t", b"he"), (b"a", b"a"), (b"aa", b"aa"),
    (b"\xc3", b"\xa9"),
    (b"l", b"l"), (b"he", b"ll"), (b"hell", b"o"), (b" ", b" "), (b"  ", b"  "), (b"\xf0\x9f", b"\x98"),
    (b"\xf0", b"\x9f"), (b"<", b"|"), (b"|", b">"), (b"i", b"m"), (b"1", b"2"), (b"a", b"b"), (b"b", b"a"),
]  # fmt: skip
SPECIALS = {
    "<|endoftext|>": CONTROL,
    "<|im_start|>": CONTROL,
    "<|im_end|>": CONTROL,
    "<unk>": UNKNOWN,
    "<think>": USER_DEFINED,
    "<think>deep": USER_DEFINED,
    "    ": USER_DEFINED,
    "日本": USER_DEFINED,
}
TOKENS = (
    [spell(bytes([b])) for b in range(256)] + [spell(a + b) for a, b in MERGES] + list(SPECIALS) + ["[PAD1]"]
)
TOKEN_TYPES = [NORMAL] * (256 + len(MERGES)) + list(SPECIALS.values()) + [UNUSED]
MERGE_TEXTS = [f"{spell(a)} {spell(b)}" for a, b in MERGES]
ID = {token: i for i, token in enumerate(TOKENS)}

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": np.array(TOKEN_TYPES, np.int32),
    "tokenizer.ggml.merges": MERGE_TEXTS,
    "tokenizer.ggml.bos_token_id": ID["<|im_start|>"],
    "tokenizer.ggml.eos_token_id": ID["<|im_end|>"],
    "tokenizer.ggml.unknown_token_id": ID["<unk>"],
    "tokenizer.chat_template": (
        "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    ),
}


def merge_one_by_one(piece: bytes, merges: Sequence[tuple[bytes, bytes]] = MERGES) -> list[bytes]:
    """Byte-pair encoding as it is defined: join the best-ranked pair, the leftmost of equals, and repeat."""
    rank = {pair: i for i, pair in reversed(list(enumerate(merges)))}
    symbols = [bytes([b]) for b in piece]
    while True:
        ranked = [(rank[p], i) for i, p in enumerate(itertools.pairwise(symbols)) if p in rank]
        if not ranked:
            return symbols
        i = min(ranked)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


_ALPHABETS = (
    "abcXYZ hello the im_start 's'S'LL'ſ'll",
    " \t\n\r\n\x0b\x0c\x85\u00a0\u2002\u2028\u3000",
    "0123456789½²٣三Ⅷ",
    "深度学习是機械あア가각 กำ नमस्ते עברית",
    "e\u0301\u0308o\u0323é\u200d\u200c\ufe0f",
    "😀👨\u200d👩\u200d👧🏳️🌈🇵🇱",
    "\x00\x01\x1c\x1f\x7f\x80\x9f\u200b\ufeff\ufffd\U000e0041\U00100000",
    "!?.,;:<|>'\"_-/\\(){}[]#$%&*+=@^`~…“”",
)
_LOOK_ALIKES = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_end|", "<|im_", "|>", "<<|im_end|>>", "<think>",
    "<think>deep", "<thin", "    ", "日本", "<unk>", "[PAD1]", "<|im_start|>user\n", "</s>",
)  # fmt: skip


def random_text(rng: random.Random) -> str:
    """Words of one or of several alphabets, whitespace runs, any assigned character, token look-alikes."""
    parts = []
    for _ in range(rng.randrange(1, 12)):
        kind = rng.randrange(10)
        if kind == 0:
            parts.append(rng.choice(_LOOK_ALIKES))
        elif kind == 1:
            parts.append(rng.choice(" \n\t\u3000") * rng.randrange(1, 20))
        elif kind == 2:
            parts += (chr(rng.choice(assigned())) for _ in range(rng.randrange(1, 12)))
        else:
            parts += rng.choices(rng.choice(_ALPHABETS), k=rng.randrange(1, 12))
    return "".join(parts)


_assigned: list[int] = []


def assigned() -> list[int]:
    """Code points of all planes whose category is that of Unicode 3.2: all libraries agree on them."""
    import unicodedata

    if not _assigned:
        old = unicodedata.ucd_3_2_0
        for c in map(chr, range(0x110000)):
            if old.category(c) == unicodedata.category(c) and old.category(c) not in ("Cn", "Cs"):
                _assigned.append(ord(c))
    return _assigned
