"""Calls of lanner.ops with what they must give: recorded here, replayed by run_calls.py where only lanner is.

The answers are float64 NumPy and the `gguf` package; the bounds are those of the docstrings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

import cases_attention
import cases_rows
from cases import RowsCase
from cases_rows import Oracle, rows
from reference import FLOATS, FORMATS, U, dequantize, fit, random_rows

Array = np.ndarray
QUANTIZED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
EXACT = 0.0


@dataclass(frozen=True)
class Pack:
    """An argument that the replay makes: `ops.pack(w, format)`."""

    w: Array
    format: str


@dataclass(frozen=True)
class Call:
    """An operation, its arguments, and pairs of (result, bound of its error); EXACT compares every bit."""

    op: str
    args: tuple[Any, ...]
    results: tuple[tuple[Array, Array | float], ...]
    options: dict[str, Any] = field(default_factory=dict)


def expect(op: str, oracle: Oracle, *args: Any, **options: Any) -> Call:
    return Call(op, args, ((oracle.wanted, oracle.bound),), options)


# ---- attention and matmul ------------------------------------------------------------------------


def attention() -> Iterator[Call]:
    for case in cases_attention.SDPA:
        answer = cases_attention.answer(case)
        options = {name: value for name, value in case.options.items() if value is not None}
        yield Call("sdpa", case.arrays, ((answer.out, answer.printed),), options)
        if case.kv_len < 100:
            both = ((answer.out, answer.printed), (answer.weights, answer.weight_bound))
            yield Call("sdpa", case.arrays, both, options | {"return_weights": True})


def random(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bf16(x: Array) -> Array:
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def widened(w: Array) -> Array:
    """float64 of an array that may hold bfloat16."""
    if w.dtype == np.uint16:
        w = (w.astype(np.uint32) << 16).view(np.float32)
    return w.astype(np.float64)


def float_matmul() -> Iterator[Call]:
    for m, k, n in ((1, 1, 1), (3, 33, 17), (13, 100, 97), (40, 300, 130), (129, 64, 31)):
        x, plain, bias = random(m, k, seed=k), random(k, n, seed=k + 1), random(n, seed=k + 2)
        for w in (plain, plain.astype(np.float16), bf16(plain)):
            wide = widened(w)
            y, size = x.astype(np.float64) @ wide, np.abs(x).astype(np.float64) @ np.abs(wide)
            yield expect("matmul", Oracle(y, k * U * size), x, w)
            # The sum of a bias is one more rounding.
            yield expect("matmul", Oracle(y + bias, (k + 1) * U * (size + np.abs(bias))), x, w, bias=bias)
            yield expect("matmul", Oracle(y, k * U * size), x, Pack(np.ascontiguousarray(w.T), "f32"))
            yield Call("pack", (np.ascontiguousarray(w.T),), ((widened(w).T.astype(np.float32), EXACT),))


def quantized_matmul() -> Iterator[Call]:
    for fmt in QUANTIZED:
        limit = 32767 if fmt == "q8_0" else 127
        for m, k, n in ((1, 32, 1), (4, 96, 40), (33, 576, 53)):
            w = random(n, k, seed=k)
            blocks = gguf.quants.quantize(w, gguf.GGMLQuantizationType[fmt.upper()]).view(np.uint8)
            values = dequantize(fmt, blocks.reshape(n, -1))
            yield Call("pack", (w, fmt), ((values, EXACT),))
            # x in whole steps of a power of two, the largest of each block the largest code: not rounded.
            codes = np.random.default_rng(k).integers(-limit, limit + 1, (m, k // 32, 32)).astype(np.float64)
            codes[:, :, 7] = limit
            x = (codes * 2.0 ** np.random.default_rng(m).integers(-20, -9, (m, k // 32, 1))).reshape(m, k)
            y, size = x @ values.T.astype(np.float64), np.abs(x) @ np.abs(values.T).astype(np.float64)
            yield expect("matmul", Oracle(y, k / 32 * U * size), x.astype(np.float32), Pack(w, fmt))


# ---- rows and elements ---------------------------------------------------------------------------


def row_operations() -> Iterator[Call]:
    for case in cases_rows.ROW_CASES:
        if case.cols > 4097:  # on both sides of a chunk is enough under emulation
            continue
        for name, oracle in cases_rows.ROWWISE.items():
            x = rows(case, 3.0)
            yield expect(name, oracle(x), x)
        x, (weight, bias) = rows(case) + np.float32(1), rows(RowsCase(2, case.cols))
        yield expect("rms_norm", cases_rows.rms_norm(x, weight), x, weight)
        yield expect("layer_norm", cases_rows.layer_norm(x, weight, bias), x, weight, bias)
        k = case.cols // 2 + 1
        ids = np.argsort(-x, axis=-1, kind="stable")[:, :k]
        yield Call("topk", (x, k), ((np.take_along_axis(x, ids, -1), EXACT), (ids, EXACT)))


def activations() -> Iterator[Call]:
    line = np.linspace(-100, 100, 5001).astype(np.float32)
    for n in (*range(1, 34), 257, 5001):
        x, up = line[:: 5001 // n][:n], rows(RowsCase(1, n))[0]
        for op, gated, oracle, options in (
            ("silu", "swiglu", cases_rows.silu(x), {}),
            ("gelu", "geglu", cases_rows.gelu(x), {}),
            ("gelu", "geglu", cases_rows.gelu_tanh(x), {"approximate": "tanh"}),
        ):
            yield expect(op, oracle, x, **options)
            y = oracle.wanted * up
            # Of the product: the error of its factor, and one rounding.
            bound = (oracle.bound * np.abs(up)) * (1 + U) + U * np.abs(y) + 2.0**-149
            yield expect(gated, Oracle(y, bound), x, up, **options)


def rotations() -> Iterator[Call]:
    positions = np.array([0, 1, 2, 100, 4095, 131071, -5])
    for dims in (2, 6, 16, 20, 64, 80, 128):
        frequencies = 10000.0 ** (-np.arange(0, dims, 2) / dims)
        for pairing in ("half", "interleaved"):
            x = rows(RowsCase(7, dims))
            oracle = cases_rows.rope(x, positions[:, None] * frequencies, pairing)
            yield expect("rope", oracle, x, positions, pairing=pairing)
            yield expect("rope", oracle, x, positions, pairing=pairing, inv_freq=frequencies)
        # In float64: a power and a division.
        for scaling, factor in (("none", 1.0), ("linear", 4.0)):
            wanted = Oracle(frequencies / factor, frequencies * 1e-15)
            yield expect("rope_frequencies", wanted, dims, scaling=scaling, factor=factor)


# ---- formats -------------------------------------------------------------------------------------


def formats() -> Iterator[Call]:
    for fmt in FORMATS:
        for k in (32, 576):
            data = random_rows(fmt, 7, fit(fmt, k), np.random.default_rng(k), extreme=True)
            yield Call("dequantize", (data, fmt), ((dequantize(fmt, data), EXACT),))
    for fmt in (*FLOATS, *QUANTIZED):
        for k in (32, 576):
            x = random(7, k, seed=k)
            blocks = gguf.quants.quantize(x, gguf.GGMLQuantizationType[fmt.upper()])
            yield Call("quantize", (x, fmt), ((np.ascontiguousarray(blocks).view(np.uint8), EXACT),))


def all_calls() -> list[Call]:
    parts = (attention, float_matmul, quantized_matmul, row_operations, activations, rotations, formats)
    with np.errstate(all="ignore"):
        return [call for part in parts for call in part()]


# ---- the file ------------------------------------------------------------------------------------


def save(path: Path, calls: Iterable[Call]) -> None:
    """An npz of arrays a0, a1, ... and of `calls`, JSON in which {"array": i} and {"pack": [...]} stand."""
    arrays: list[Array] = []

    def encode(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(value)
            return {"array": len(arrays) - 1}
        if isinstance(value, Pack):
            return {"pack": [encode(value.w), value.format]}
        if isinstance(value, (tuple, list)):
            return [encode(v) for v in value]
        if isinstance(value, dict):
            return {name: encode(v) for name, v in value.items()}
        return value

    text = json.dumps([encode([c.op, c.args, c.options, c.results]) for c in calls])
    np.savez(path, calls=np.array(text), **{f"a{i}": array for i, array in enumerate(arrays)})
