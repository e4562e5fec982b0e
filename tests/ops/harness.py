"""Calls operations on plain arrays: the step, the buffers and the cache that they want around them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cases import AttentionCase, LinearCase
from lanner import _core
from reference import FLOATS, random_rows

PAGE = _core.PAGE_POSITIONS


EMULATED = os.environ.get("LANNER_ISA", "").endswith("_emulated")
"""Fifty times slower: long tests take an eighth of their cases."""


def fewer(n: int) -> int:
    """n repetitions, or an eighth of them where the instruction set is emulated."""
    return -(-n // 8) if EMULATED else n


def rows_step(n_tokens: int, output_rows: list[int] | None = None) -> _core.Step:
    """A step of one sequence from position 0, without a cache."""
    outputs = output_rows or []
    step = _core.Step(max(n_tokens, 1), 1, max(len(outputs), 1), 1)
    step.n_tokens, step.n_seqs, step.n_outputs = n_tokens, 1, len(outputs)
    step.positions[:n_tokens] = np.arange(n_tokens)
    step.seq_starts[:] = (0, n_tokens)
    step.kv_lens[0] = n_tokens
    step.output_rows[: len(outputs)] = outputs
    return step


def tokens(array: np.ndarray) -> _core.Buffer:
    return _core.Buffer(array, "tokens")


def outputs(array: np.ndarray) -> _core.Buffer:
    return _core.Buffer(array, "outputs")


def poisoned(rows: int, cols: int, dtype: str = "float32") -> np.ndarray:
    """Memory that an operation must write whole: 0xa5 in every byte."""
    return np.full((rows, cols * np.dtype(dtype).itemsize), 0xA5, np.uint8).view(dtype)


def bits(array: np.ndarray) -> np.ndarray:
    """Bytes for comparison: NaN equals itself, 0.0 is not -0.0."""
    return np.ascontiguousarray(array).view(np.uint8)


def assert_rows_alone(run: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> None:
    """Row i is the same bits whatever the rows beside it and their number, 1 to len(x)."""
    whole = bits(run(x))
    for n in range(1, len(x) + 1):
        np.testing.assert_array_equal(bits(run(x[:n].copy())), whole[:n], err_msg=f"the first {n} rows")
        np.testing.assert_array_equal(bits(run(x[-n:].copy())), whole[-n:], err_msg=f"the last {n} rows")


# ---- matmuls -------------------------------------------------------------------------------------


def quantize_rows(x: np.ndarray, *forms: str) -> dict[str, np.ndarray]:
    """Codes of x (T, K), as bytes, by form ("int8", "int16")."""
    n, k = x.shape
    out = {form: poisoned(n, k // 32 * {"int8": 44, "int16": 68}[form], "uint8") for form in forms}
    _core.ops.quantize_rows(rows_step(n), x=tokens(x), **{form: tokens(a) for form, a in out.items()})
    return out


@dataclass(frozen=True)
class Weight:
    """A packed weight and the rows that it was packed from, by segment."""

    packed: _core.Packed
    sources: list[tuple[str, np.ndarray]]


def make_weight(case: LinearCase) -> Weight:
    rng = np.random.default_rng(case.seed)
    sources = [(fmt, random_rows(fmt, n, case.k, rng, extreme=case.extreme)) for fmt, n in case.segments]
    parts = [(rows.ravel(), fmt, len(rows), case.k, 0) for fmt, rows in sources]
    return Weight(_core.Packed(parts), sources)


def inputs_of(packed: _core.Packed, x: np.ndarray) -> dict[str, _core.Buffer]:
    """The forms of x that a weight reads, and only these."""
    kinds = set(packed.inputs)
    codes = quantize_rows(x, *sorted(kinds - {"float"})) if kinds - {"float"} else {}
    floats = {"x": tokens(x)} if "float" in kinds else {}
    return floats | {form: tokens(a) for form, a in codes.items()}


def matmul(op: str, packed: _core.Packed, x: np.ndarray, out: np.ndarray, **options: object) -> np.ndarray:
    """Runs linear or gate_up on x; returns out."""
    getattr(_core.ops, op)(
        rows_step(len(x)), weight=packed, **inputs_of(packed, x), out=tokens(out), **options
    )
    return out


def input_rows(case: LinearCase) -> np.ndarray:
    """(rows, k) float32 in which columns differ a hundredfold, as activations do."""
    rng = np.random.default_rng(case.seed + 1)
    x = rng.standard_normal((case.rows, case.k)) * 10 ** rng.uniform(-1, 1, case.k)
    return x.astype(np.float32)


def is_float(fmt: str) -> bool:
    return fmt in FLOATS


# ---- attention -----------------------------------------------------------------------------------


@dataclass
class Cached:
    """A cache and the pages of each sequence; keys, values and queries per sequence."""

    case: AttentionCase
    cache: _core.KvCache
    tables: np.ndarray
    q: list[np.ndarray]
    k: list[np.ndarray]
    v: list[np.ndarray]

    def step(self, spans: list[tuple[int, int]]) -> _core.Step:
        """Positions spans[s][0] <= p < spans[s][1] of every sequence; empty spans leave a sequence out."""
        used = [(s, first, end) for s, (first, end) in enumerate(spans) if end > first]
        n_tokens = sum(end - first for _, first, end in used)
        step = _core.Step(n_tokens, len(used), 1, self.tables.shape[1])
        step.n_tokens, step.n_seqs = n_tokens, len(used)
        step.seq_starts[0] = at = 0
        for row, (s, first, end) in enumerate(used):
            step.positions[at : at + end - first] = np.arange(first, end)
            step.token_seqs[at : at + end - first] = row
            at += end - first
            step.seq_starts[row + 1], step.kv_lens[row] = at, end
            step.block_tables[row] = self.tables[s]
        return step

    def append(self, spans: list[tuple[int, int]], k: list[np.ndarray], v: list[np.ndarray]) -> None:
        """Writes k and v (L, KH, D) at the positions of the spans, unrotated: cosines 1, sines 0."""
        c = self.case
        parts = [
            np.concatenate([np.zeros((end - first, c.n_heads, c.head_dim), np.float32), k[s][first:end],
                            v[s][first:end]], axis=1)
            for s, (first, end) in enumerate(spans) if end > first
        ]  # fmt: skip
        qkv = np.concatenate(parts)
        table = np.zeros((len(qkv), c.head_dim), np.float32)
        table[:, : c.head_dim // 2] = 1
        _core.ops.rope_append(
            self.step(spans), qkv=tokens(qkv.reshape(len(qkv), -1)), table=tokens(table), cache=self.cache,
            layer=0, n_heads=c.n_heads,
        )  # fmt: skip

    def attend(self, spans: list[tuple[int, int]], scale: float, **options: Any) -> np.ndarray:
        """(tokens, H, D) for the queries at the positions of the spans; `options` instead of the case's."""
        c = self.case
        options = c.options | options
        if options.get("bias") is not None:
            options["bias"] = options["bias"].ravel()
        q = np.concatenate([self.q[s][first:end] for s, (first, end) in enumerate(spans)])
        out = poisoned(len(q), c.n_heads * c.head_dim)
        _core.ops.attention(
            self.step(spans), q=tokens(q.reshape(len(q), -1)), out=tokens(out), cache=self.cache, layer=0,
            n_heads=c.n_heads, scale=scale, **options,
        )  # fmt: skip
        return out.reshape(len(q), c.n_heads, c.head_dim)


def stored(x: np.ndarray, kv_format: str) -> np.ndarray:
    """What a cache of a type keeps of heads x (..., D); of q8 in float64, which has room for scale * code."""
    if kv_format != "q8":
        return x if kv_format == "f32" else x.astype(np.float16).astype(np.float32)
    largest = np.abs(x).max(axis=-1, keepdims=True)
    scale = largest / np.float32(127)
    is_zero = scale < np.finfo(np.float32).tiny
    codes = np.rint(x * (np.float32(127) / np.where(is_zero, np.float32(1), largest)))
    return np.where(is_zero, 0, codes.astype(np.float64) * scale)


def make_cached(case: AttentionCase, *, garbage: bool = True) -> Cached:
    """Sequences filled up to their lengths in a cache whose other slots hold NaN and infinities."""
    rng = np.random.default_rng(case.seed)
    max_pages = max(-(-kv // PAGE) for kv, _ in case.sequences) + 1
    n_pages = max_pages * len(case.sequences) + 3
    cache = _core.KvCache(case.kv_format, 1, n_pages, case.n_kv_heads, case.head_dim)
    tables = (
        rng.permutation(n_pages)[: max_pages * len(case.sequences)].reshape(-1, max_pages).astype(np.int32)
    )

    def draw(n_heads: int) -> list[np.ndarray]:
        shapes = [(max_pages * PAGE, n_heads, case.head_dim) for _ in case.sequences]
        return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]

    made = Cached(case, cache, tables, draw(case.n_heads), draw(case.n_kv_heads), draw(case.n_kv_heads))
    if garbage:
        waste = [rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), k.shape) for k in made.k]
        made.append([(0, max_pages * PAGE)] * len(case.sequences), waste, waste)
    made.append([(0, kv) for kv, _ in case.sequences], made.k, made.v)
    return made
