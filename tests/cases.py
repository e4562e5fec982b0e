"""One list of cases per operation: shapes, formats, seeds. Tests and benchmarks read the same lists."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from reference import CODES, FLOATS, FORMATS, SUPER, fit

LENGTHS = (*range(1, 33), 37, 61, 127, 257, 576)
"""Every tail up to twice the vector width of 16, then primes and a real width."""

BLOCKED = (32, 96, 576, 640, 1536)
"""Multiples of 32, odd ones too; 576 is cut by the K tile of 512, 640 and 1536 by that of 256."""

ROWS = (1, 2, 3, 4, 5, 6, 7, 33, 129, 200)
"""Row counts around the tiles of 2, 4 and 6 tokens, and on both sides of the block of 128."""

WIDTHS = (1, 15, 16, 17, 40, 53)
"""Output rows of a weight: whole panels of 16 and padded ones."""


@dataclass(frozen=True)
class RowsCase:
    """A (rows, cols) input of an operation on single rows."""

    rows: int
    cols: int

    @property
    def seed(self) -> int:
        return 1000 * self.rows + self.cols


@dataclass(frozen=True)
class LinearCase:
    """A fused weight of (format, rows) segments over k inputs, and the rows of its input."""

    segments: tuple[tuple[str, int], ...]
    k: int
    rows: int
    add: bool = False
    extreme: bool = False
    bias: bool = False

    @property
    def n(self) -> int:
        return sum(n for _, n in self.segments)

    @property
    def seed(self) -> int:
        return self.k * 1009 + self.rows * 31 + self.n

    def __str__(self) -> str:
        parts = "+".join(f"{n}x{fmt}" for fmt, n in self.segments)
        marks = "-add" * self.add + "-extreme" * self.extreme + "-bias" * self.bias
        return f"{parts}-k{self.k}-t{self.rows}{marks}"


@dataclass(frozen=True)
class AttentionCase:
    """Sequences of (kv length, new tokens) over one cache; pages are dealt in random order.

    A `reach` of -1 is no bias.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    sequences: tuple[tuple[int, int], ...]
    kv_format: str = "f16"
    window: int = 0
    softcap: float = 0.0
    causal: bool = True
    reach: int = -1

    @property
    def options(self) -> dict[str, Any]:
        """What the operation and the reference are told; bias (n_heads, 2 reach + 1)."""
        given: dict[str, Any] = {"window": self.window, "softcap": self.softcap, "causal": self.causal}
        if self.reach >= 0:
            rng = np.random.default_rng(self.reach)
            given["bias"] = rng.standard_normal((self.n_heads, 2 * self.reach + 1)).astype(np.float32)
        return given

    @property
    def seed(self) -> int:
        return self.n_heads * 7919 + self.head_dim * 31 + sum(a * 3 + b for a, b in self.sequences)

    def __str__(self) -> str:
        sequences = "_".join(f"{n}of{kv}" for kv, n in self.sequences)
        options = f"-w{self.window}" * (self.window > 0) + f"-cap{self.softcap:g}" * (self.softcap > 0)
        options += "-all" * (not self.causal) + f"-bias{self.reach}" * (self.reach >= 0)
        return f"{self.n_heads}over{self.n_kv_heads}-d{self.head_dim}-{self.kv_format}-{sequences}{options}"


@dataclass(frozen=True)
class SampleCase:
    """How one row of logits is sampled."""

    vocab_size: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    spread: float = 2.0

    @property
    def settings(self) -> tuple[float, float, float, float, float]:
        """As the columns of a step's `sampling` before the uniform."""
        return self.temperature, self.top_k, self.top_p, self.min_p, self.typical_p

    def logits(self) -> np.ndarray:
        rng = np.random.default_rng(self.vocab_size)
        return (rng.standard_normal(self.vocab_size) * self.spread).astype(np.float32)

    def __str__(self) -> str:
        return (
            f"v{self.vocab_size}-t{self.temperature}-k{self.top_k}-p{self.top_p}-m{self.min_p}"
            f"-y{self.typical_p}-s{self.spread}"
        )


ROW_CASES = [RowsCase(rows, cols) for cols, rows in zip(LENGTHS, cycle(ROWS), strict=False)]
BLOCK_CASES = [RowsCase(rows, k) for k in BLOCKED for rows in (1, 7, 33)]

EMBED = [LinearCase(((fmt, 37),), fit(fmt, k), 33) for fmt in FORMATS for k in (32, 96, 576)]
EMBED += [LinearCase((("f16", 19), ("q4_1", 5), ("q8_0", 40)), 96, 33)]

_rows, _widths = cycle(ROWS), cycle(WIDTHS)
LINEAR = [
    # Every format over every blocked K; rows and widths rotate through their lists independently.
    *(LinearCase(((fmt, next(_widths)),), fit(fmt, k), next(_rows)) for k in BLOCKED for fmt in FORMATS),
    *(LinearCase(((fmt, 40),), fit(fmt, 96), rows) for fmt in FORMATS for rows in ROWS),
    *(
        LinearCase(((fmt, 17),), k, rows)
        for fmt in FLOATS
        for k, rows in zip(LENGTHS, cycle(ROWS), strict=False)
    ),
    *(LinearCase(((fmt, 48),), fit(fmt, 640), rows, extreme=True) for fmt in FORMATS for rows in (1, 9)),
    *(LinearCase(((fmt, 21),), fit(fmt, 96), 5, add=True) for fmt in FORMATS),
    *(LinearCase(((fmt, n),), fit(fmt, 96), 5, add=n == 21, bias=True) for fmt in FORMATS for n in (21, 48)),
    # Fused weights of several formats, with and without padded panels between them.
    LinearCase((("q4_1", 48), ("q5_0", 16), ("q8_0", 16)), 96, 7),
    LinearCase((("q4_0", 40), ("f16", 20), ("q8_0", 20)), 576, 33),
    LinearCase((("f32", 5), ("bf16", 3), ("q5_1", 1), ("q4_0", 130)), 160, 6),
    LinearCase((("q8_0", 24), ("q4_1", 24)), 1536, 130, add=True),
    LinearCase((("q4_1", 24), ("f16", 17), ("q8_0", 24)), 96, 130, add=True, bias=True),
    LinearCase((("q4_k", 40), ("q6_k", 20), ("iq4_xs", 20)), 512, 33),
]

GATE_UP = [
    *(
        LinearCase(((fmt, m), (fmt, m)), fit(fmt, k), rows)
        for fmt in FORMATS
        for m, k, rows in ((48, 96, 5), (53, 32, 1))
    ),
    LinearCase((("q4_1", 40), ("q8_0", 40)), 576, 33),
    LinearCase((("f16", 1), ("f32", 1)), 37, 7),
    LinearCase((("q5_0", 160), ("q4_0", 160)), 96, 129),
    LinearCase((("q5_1", 64),), 96, 3),  # gate and up in one tensor, as some files have it
]

HEAD_DIMS = (2, 6, 16, 20, 64, 80, 128, 256)
KV_FORMATS = ("f16", "f32", "q8")
ROPE_APPEND = [AttentionCase(3, 1, dim, ((7, 7),), kv) for dim in HEAD_DIMS for kv in KV_FORMATS]

# Lengths on both sides of a block (16), page (32), tile (64), chunk (256), and two chunks.
BORDERS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 320, 511, 512, 513, 700)
ATTENTION = [
    *(AttentionCase(6, 2, 20, ((kv, 1),), fmt) for kv in BORDERS for fmt in KV_FORMATS),
    *(AttentionCase(6, 2, 16, ((kv, n),)) for kv in (40, 64, 256, 300) for n in (2, 4, 5, 33)),
    *(AttentionCase(3, 3, dim, ((70, 9),), fmt) for dim in HEAD_DIMS for fmt in KV_FORMATS),
    *(AttentionCase(g * 2, 2, 64, ((270, n),)) for g in (1, 3, 7, 48) for n in (1, 3, 20)),
    AttentionCase(4, 1, 512, ((90, 3),)),
    *(AttentionCase(48, 1, 512, ((70, 2),), fmt) for fmt in ("f32", "q8")),
    *(AttentionCase(g * 2, 2, 64, ((270, n),), "q8") for g in (1, 7) for n in (1, 20)),
    AttentionCase(3, 1, 64, ((200, 200),)),
    # Several sequences, decode and prefill side by side.
    AttentionCase(6, 2, 64, ((1, 1), (513, 1), (33, 33), (64, 1), (300, 4), (258, 5))),
    AttentionCase(9, 3, 20, ((7, 7), (256, 1), (600, 2)), "f32"),
]

# Both sides of a block, a page, a tile and a chunk, and a window that holds everything.
WINDOWS = (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 100, 255, 256, 257, 300, 9999)
_MIXED = ((1, 1), (513, 1), (33, 33), (64, 1), (300, 4), (258, 5), (700, 90))
_WHOLE = ((1, 1), (2, 2), (33, 33), (64, 64), (257, 257), (3, 3), (300, 300))
ATTENTION_OPTIONS = [
    *(
        AttentionCase(6, 2, 20, ((700, n),), fmt, window=w)
        for w in WINDOWS
        for n, fmt in ((1, "f16"), (130, "f32"), (33, "q8"))
    ),
    *(AttentionCase(6, 2, 16, ((300, 300),), window=w) for w in WINDOWS),
    *(AttentionCase(g * 2, 2, 64, _MIXED, window=w) for g in (1, 3, 24) for w in (40, 300)),
    *(AttentionCase(6, 2, 20, _MIXED, softcap=c) for c in (0.3, 2.0, 50.0)),
    *(AttentionCase(6, 2, 20, _WHOLE, fmt, causal=False) for fmt in KV_FORMATS),
    AttentionCase(1, 1, 64, ((600, 600),), causal=False),
    *(AttentionCase(6, 2, 20, _MIXED, reach=r) for r in (0, 1, 7, 8, 16, 128, 1000)),
    *(AttentionCase(4, 4, 16, _WHOLE, causal=False, reach=r) for r in (0, 7, 8, 128)),
    *(AttentionCase(6, 2, 20, _MIXED, fmt, window=70, softcap=1.5, reach=50) for fmt in ("f32", "q8")),
    AttentionCase(6, 3, 20, _WHOLE, softcap=1.5, causal=False, reach=3),
]

SAMPLE = [
    SampleCase(50),
    SampleCase(257, 0.7),
    SampleCase(50, 1.5, top_k=7),
    SampleCase(1000, 0.9, top_k=100),
    SampleCase(50, top_k=50),
    SampleCase(50, top_k=51),
    SampleCase(33, top_p=0.9),
    SampleCase(1000, top_p=0.95, spread=0.5),
    SampleCase(1000, 0.8, top_p=0.999),
    SampleCase(64, top_p=0.01),
    SampleCase(50, min_p=0.1),
    SampleCase(300, 2.0, min_p=0.05),
    SampleCase(300, 0.9, top_k=40, top_p=0.9, min_p=0.05),
    SampleCase(1, 1.0),
    SampleCase(2, 1.0, top_k=1),
    SampleCase(17, 0.05),
    SampleCase(300, typical_p=0.9),
    SampleCase(1000, 0.8, typical_p=0.2),
    SampleCase(1000, 1.2, top_k=300, top_p=0.95, min_p=0.01, typical_p=0.8),
    SampleCase(300, min_p=0.02, typical_p=0.5),
    # Of thousands few survive, which are taken out of the row, or many, for which the row is cut as it is.
    SampleCase(40000, top_k=40),
    SampleCase(40000, 0.8, top_k=9000),
    SampleCase(40000, top_p=0.95, spread=0.5),
    SampleCase(40000, top_p=0.3, spread=0.5),
    SampleCase(40000, 0.5, top_p=0.9, spread=4.0),
    SampleCase(40000, min_p=0.05, spread=1.0),
    SampleCase(40000, typical_p=0.95, spread=0.5),
    SampleCase(40000, typical_p=0.3, spread=1.0),
    SampleCase(40000, 0.7, typical_p=0.9, spread=5.0),
    SampleCase(40000, 0.9, top_k=20000, top_p=0.97, min_p=0.001, typical_p=0.9, spread=0.7),
]

PACK = [(fmt, n, k) for fmt in FORMATS if fmt not in SUPER for n in (1, 15, 16, 17, 53) for k in (32, 96)]
PACK += [(fmt, n, k) for fmt in SUPER for n in (1, 15, 16, 17, 53) for k in (256, 768)]
PACK += [(fmt, 17, k) for fmt in FLOATS for k in (1, 2, 3, 31, 33, 37)]
INTERLEAVED = [
    (fmt, n_heads, dim) for fmt in (*CODES[:2], "f32", "q8_0") for n_heads, dim in ((3, 2), (2, 20), (3, 64))
]
