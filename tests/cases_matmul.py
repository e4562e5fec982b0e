"""Cases of `lanner.ops.matmul`: shapes and formats, inputs, the float64 answer and the printed bound."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import cycle

import numpy as np

from cases_rows import Oracle, spread
from lanner import _core, ops
from reference import FLOATS, FORMATS, U, block_of, dequantize, fit, random_rows, read_parts

STORED = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
"""NumPy types of float weights; bfloat16 as its bits."""

WIDE = ("q8_0", "iq4_nl", "iq4_xs")
"""Formats that meet x in 16 bits."""


@dataclass(frozen=True)
class MatmulCase:
    """x (rows, k) with a weight of n outputs; `packed` or, of float formats, an array (k, n)."""

    rows: int
    k: int
    n: int
    fmt: str = "f32"
    packed: bool = False
    bias: bool = False
    values: str = "normal"
    seed: int = 0

    def __str__(self) -> str:
        parts = f"{self.rows}x{self.k}x{self.n}-{self.fmt}{'-packed' * self.packed}{'-bias' * self.bias}"
        return parts + f"-{self.values}" * (self.values != "normal")

    @property
    def n_flops(self) -> float:
        return 2.0 * self.rows * self.k * self.n

    @property
    def n_bytes(self) -> int:
        block, n_bytes = block_of(self.fmt)
        return 4 * self.rows * (self.k + self.n) + self.n * self.k // block * n_bytes

    @cached_property
    def x(self) -> np.ndarray:
        return spread(np.random.default_rng(self.seed + 1), (self.rows, self.k), self.values)

    @cached_property
    def stored(self) -> np.ndarray:
        """(n, bytes of a row) as a file has them."""
        rng = np.random.default_rng(self.seed + 31 * self.k + self.n)
        return random_rows(self.fmt, self.n, self.k, rng, extreme=self.values == "extreme")

    @property
    def w(self) -> np.ndarray | _core.Packed:
        if self.packed:
            return ops.pack(self.stored, self.fmt)
        return np.ascontiguousarray(self.stored.view(STORED[self.fmt]).T)

    @cached_property
    def bias_array(self) -> np.ndarray | None:
        return spread(np.random.default_rng(self.seed + 2), (self.n,)) if self.bias else None


def codes(x: np.ndarray, limit: int) -> np.ndarray:
    """x (rows, K) as the docstring of matmul rounds it, in float64; the steps themselves are in float32."""
    blocks = x.reshape(len(x), x.shape[1] // 32, 32)
    largest = np.abs(blocks).max(-1, keepdims=True)
    scale = largest / np.float32(limit)
    coded = scale >= np.finfo(np.float32).tiny
    steps = np.rint(blocks * (np.float32(limit) / np.where(coded, largest, 1)))
    return np.where(coded, steps.astype(np.float64) * scale, 0).reshape(x.shape)


def answer(case: MatmulCase) -> Oracle:
    """Finite x: float64 products, and the printed bound; no claim where a sum may leave float32."""
    w = dequantize(case.fmt, case.stored).astype(np.float64)
    if case.fmt in FLOATS:
        x, least = case.x.astype(np.float64), 0.0
        share, smallest = case.k, 2.0**-149 * case.k
    else:
        x = codes(case.x, 32767 if case.fmt in WIDE else 127)
        least = read_parts(case.fmt, case.stored).minimum
        share, smallest = case.k / 16 + 6, 2.0**-126 * case.k
    wanted, reach = x @ w.T, np.abs(x) @ (np.abs(w) + 2 * np.abs(least)).T
    bound = U * share * reach + smallest
    if case.bias_array is not None:
        wanted = wanted + case.bias_array
        bound = bound + U * (np.abs(wanted) + bound)
        reach = reach + np.abs(case.bias_array)
    return Oracle(wanted, np.where(reach > np.finfo(np.float32).max / 4, np.inf, bound))


LENGTHS = (*range(33), 37, 61, 127, 257, 511, 576, 640, 896)
"""K of float weights: every length up to twice the vector width, primes, a K tile, real widths."""

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 31, 32, 33, 129, 200)
COLUMNS = (*range(1, 34), 48, 61, 100, 127, 130)

MODELS = {
    "smollm2": ((960, 576), (3072, 576), (576, 576), (576, 1536)),
    "gemma3": ((1536, 640), (4096, 640), (640, 1024), (640, 2048)),
    "qwen2.5": ((1152, 896), (9728, 896), (896, 896), (896, 4864)),
}
"""(N, K) of the matmuls of a layer: q, k and v together, gate and up together, and what leads back."""

HEADS = {"smollm2": (49152, 576, "q8_0"), "gemma3": (262144, 640, "q8_0"), "qwen2.5": (151936, 896, "q8_0")}
"""(N, K) and format of the output heads."""

_rows, _columns = cycle(ROWS), cycle(COLUMNS)
MATMUL = [
    *(MatmulCase(next(_rows), k, next(_columns), fmt, packed)
      for fmt in FLOATS for packed in (False, True) for k in LENGTHS if k or not packed),
    *(MatmulCase(4, 48, n, "f32", bias=True) for n in range(1, 34)),
    *(MatmulCase(next(_rows), fit(fmt, k), next(_columns), fmt, True, bias=k == 96)
      for fmt in FORMATS for k in (32, 96, 544, 640)),
    *(MatmulCase(rows, fit(fmt, 96), 40, fmt, True) for fmt in FORMATS for rows in ROWS),
    *(MatmulCase(7, fit(fmt, 96), 53, fmt, True, values=values)
      for fmt in FORMATS for values in ("wide", "large", "tiny", "zeros", "extreme")),
    *(MatmulCase(7, 97, 53, fmt, values=values) for fmt in FLOATS for values in ("wide", "large", "tiny")),
    *(MatmulCase(rows, k, n, fmt, True)
      for name, fmt in (("smollm2", "q4_1"), ("gemma3", "q5_0"), ("qwen2.5", "q5_0"))
      for n, k in MODELS[name] for rows in (1, 5)),
]  # fmt: skip
