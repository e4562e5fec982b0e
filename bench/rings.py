"""Programs for benchmarks: one operation several times, each time on other weights or another layer.

The executor runs them, with threads and barriers but without Python in between. Together the copies are
larger than the last cache, so that weights and keys come from memory, as they do in a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lanner import _core
from lanner._machine import last_level_cache_bytes
from reference import random_rows

RING_BYTES = min(max(2 * last_level_cache_bytes(), 32 << 20), 256 << 20)
"""Twice the last cache; 256 MiB are enough where a virtual machine names a cache that it shares."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Limits:
    """What `n_threads` threads do per second here: bytes read from memory, float32 multiply-adds."""

    n_threads: int
    read_bandwidth: float
    fma: float


def n_copies(n_bytes: int) -> int:
    """Copies of `n_bytes` that fill a ring."""
    return max(1, -(-RING_BYTES // n_bytes))


def one_sequence(n_tokens: int, n_positions: int) -> _core.Step:
    """A step of the last `n_tokens` of one sequence of `n_positions`, its pages in order."""
    n_pages = -(-n_positions // _core.PAGE_POSITIONS)
    step = _core.Step(n_tokens, 1, 1, n_pages)
    step.n_tokens, step.n_seqs = n_tokens, 1
    step.positions[:] = np.arange(n_positions - n_tokens, n_positions)
    step.seq_starts[:] = (0, n_tokens)
    step.kv_lens[0] = n_positions
    step.block_tables[0] = np.arange(n_pages)
    return step


def ring(
    op: str, step: _core.Step, n_threads: int, values: dict[str, Array], calls: list[dict[str, Any]]
) -> Callable[[], object]:
    """A function that runs `op` once per element of `calls`, a barrier between them.

    Args:
        op: name of the operation.
        step: the step of every run.
        n_threads: threads of every run.
        values: (T, cols) arrays by argument name: what lies in the arena at the start, for all calls.
        calls: the other arguments of each call.
    """
    slots, n_bytes = {}, 0
    for name, array in values.items():
        slots[name] = _core.Slot(n_bytes, str(array.dtype), array.shape[1], "tokens")
        n_bytes += -(-array.nbytes // 64) * 64
    program = _core.Program(n_bytes, n_threads, step.n_tokens, 1)
    for call in calls:
        program.add(op, op, {**slots, **call}, True)
    for name, array in values.items():
        program.view(slots[name], step.n_tokens)[:] = array
    return lambda: program.run(step)


def activations(n_tokens: int, cols: int) -> npt.NDArray[np.float32]:
    """(n_tokens, cols) normally distributed."""
    return np.random.default_rng(cols).standard_normal((n_tokens, cols)).astype(np.float32)


def packed(fmt: str, n: int, k: int, copies: int, n_threads: int) -> list[_core.Packed]:
    """The same random (n, k) weight in as many places of memory."""
    source = (random_rows(fmt, n, k, np.random.default_rng(n)).ravel(), fmt, n, k, 0)
    return [_core.Packed([source], n_threads=n_threads) for _ in range(copies)]


def matmul_input(weight: _core.Packed, x: npt.NDArray[np.float32]) -> dict[str, Array]:
    """x in the form that a weight of one format reads, under its argument name."""
    (form,) = weight.inputs
    if form == "float":
        return {"x": x}
    out = np.zeros((len(x), x.shape[1] // _core.BLOCK * _core.CODE_BYTES[form]), np.uint8)
    step = one_sequence(len(x), len(x))
    _core.ops.quantize_rows(step, x=_core.Buffer(x, "tokens"), **{form: _core.Buffer(out, "tokens")})
    return {form: out}


def filled_cache(n_layers: int, n_positions: int, n_kv_heads: int, head_dim: int) -> _core.KvCache:
    """A cache of random f16 keys and values: pages that were never written would all be one page of zeros."""
    step = one_sequence(n_positions, n_positions)
    n_pages = step.block_tables.shape[1]
    cache = _core.KvCache("f16", n_layers, n_pages, n_kv_heads, head_dim)
    qkv = activations(n_positions, (n_kv_heads + 2 * n_kv_heads) * head_dim)
    table = np.zeros((n_positions, head_dim), np.float32)
    table[:, : head_dim // 2] = 1  # cosines: no rotation
    for layer in range(n_layers):
        _core.ops.rope_append(
            step,
            qkv=_core.Buffer(qkv, "tokens"),
            table=_core.Buffer(table, "tokens"),
            cache=cache,
            layer=layer,
            n_heads=n_kv_heads,
        )
    return cache
