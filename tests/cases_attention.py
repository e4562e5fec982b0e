"""Cases of `lanner.ops.sdpa`: shapes and options, their inputs, the float64 answer and its bound."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from reference import U, gamma


@dataclass(frozen=True)
class SdpaCase:
    """One call; `mask` is "bool" or "add", then the axes of (batch, heads, q_len, kv_len) that it has."""

    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    value_dim: int = 0
    batch: int = 1
    dtype: str = "float32"
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    scale: float | None = None
    mask: str = ""
    spread: float = 1.0
    seed: int = 0

    def __str__(self) -> str:
        parts = f"b{self.batch}-{self.heads}over{self.kv_heads}-{self.q_len}x{self.kv_len}-d{self.head_dim}"
        parts += f"v{self.value_dim}" * (self.value_dim > 0) + "-causal" * self.causal + f"-{self.dtype}"
        parts += f"-w{self.window}" * (self.window is not None) + f"-cap{self.softcap}" * bool(self.softcap)
        return parts + f"-{self.mask}" * bool(self.mask) + f"-spread{self.spread:g}" * (self.spread != 1)

    @property
    def n_flops(self) -> float:
        """Multiply-adds times two of the visible pairs, for benchmarks without a mask."""
        pairs = self.visible.sum() * self.batch * self.heads
        return 2.0 * float(pairs) * (self.head_dim + (self.value_dim or self.head_dim))

    @property
    def n_bytes(self) -> int:
        return sum(x.nbytes for x in self.arrays) + self.arrays[0].nbytes

    @property
    def options(self) -> dict[str, Any]:
        names = ("causal", "window", "softcap", "scale")
        return {name: getattr(self, name) for name in names} | {"mask": self.mask_array}

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.seed + 31 * self.q_len + 7 * self.kv_len + self.head_dim)
        keys = (self.batch, self.kv_heads, self.kv_len)
        q = rng.standard_normal((self.batch, self.heads, self.q_len, self.head_dim)) * self.spread
        k = rng.standard_normal((*keys, self.head_dim))
        v = rng.standard_normal((*keys, self.value_dim or self.head_dim))
        return q.astype(self.dtype), k.astype(self.dtype), v.astype(self.dtype)

    @cached_property
    def mask_array(self) -> np.ndarray | None:
        if not self.mask:
            return None
        kind, axes = self.mask.split("-")
        sizes = {"b": self.batch, "h": self.heads, "q": self.q_len, "k": self.kv_len}
        shape = [sizes[axis] if axis in axes else 1 for axis in "bhqk"]
        rng = np.random.default_rng(self.seed + 1)
        may = rng.random(shape) < 0.4
        if kind == "bool":
            return may
        return np.where(may, rng.standard_normal(shape), -np.inf).astype(np.float32)

    @cached_property
    def visible(self) -> np.ndarray:
        """(q_len, kv_len), by position alone."""
        distance = np.arange(self.q_len)[:, None] + self.kv_len - self.q_len - np.arange(self.kv_len)
        visible = np.ones((self.q_len, self.kv_len), bool)
        if self.causal:
            visible &= distance >= 0
        if self.window is not None:
            visible &= distance < self.window
        return visible


@dataclass(frozen=True)
class SdpaAnswer:
    """float64 result and weights; `printed`: bounds of the docstring; `bound`: the worst case of float32.

    `seen` says which weights are of keys that a query may attend to.
    """

    seen: np.ndarray
    out: np.ndarray
    weights: np.ndarray
    printed: np.ndarray
    bound: np.ndarray
    weight_bound: np.ndarray
    printed_weights: np.ndarray


def answer(case: SdpaCase) -> SdpaAnswer:
    """float64 attention on the inputs as they are stored.

    The worst case: a score is a chain of D multiply-adds on a query scaled once, gamma(D + 2) * size, and a
    few roundings of itself for cap and mask; a weight is the exponential of a rounded difference, once per
    tile that moves the maximum and once per merged chunk; sum and mix add n positive weights in a chain.
    """
    q, k, v = (x.astype(np.float64) for x in case.arrays)
    repeat = case.heads // case.kv_heads
    k, v = np.repeat(k, repeat, axis=1).swapaxes(2, 3), np.repeat(v, repeat, axis=1)
    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    scores, sizes = q @ k * scale, np.abs(q) @ np.abs(k) * abs(scale)
    if case.softcap:
        scores = case.softcap * np.tanh(scores / case.softcap)
    mask, seen = case.mask_array, np.broadcast_to(case.visible, scores.shape)
    if mask is not None and mask.dtype == np.bool_:
        seen = seen & mask
    elif mask is not None:
        seen = seen & (mask > -np.inf)
        finite = np.where(mask > -np.inf, mask, 0)
        scores, sizes = scores + finite, sizes + np.abs(finite)
    scores = np.where(seen, scores, -np.inf)
    highest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    p = np.where(seen, np.exp(scores - np.where(np.isfinite(highest), highest, 0)), 0)
    total = p.sum(axis=-1, keepdims=True)
    p = np.divide(p, total, out=np.zeros_like(p), where=total > 0)
    size = np.where(seen, sizes, 0).max(axis=-1, keepdims=True, initial=0)
    largest = np.where(seen[..., None], np.abs(v)[:, :, None], 0).max(axis=(3, 4), initial=0)[..., None]
    lowest = np.where(seen, scores, np.inf).min(axis=-1, keepdims=True, initial=np.inf)
    spread = np.where(total > 0, highest - np.where(total > 0, lowest, 0), 0)
    n_tiles = case.kv_len // 64 + 1
    error = 4 * gamma(case.head_dim + 16) * size
    error = error + ((2 * n_tiles + 2) * (spread + 8) + 2 * case.kv_len + 24 * n_tiles + 8) * U
    rounding = 2.0**-11 * np.abs(p @ v) + 2.0**-25 if case.dtype == "float16" else 0
    least = 2.0**-149 * case.kv_len
    printed = (4 * U * size + 1e-6) * largest + least + rounding
    bound, weight_bound = error * (p @ np.abs(v)) + least + rounding, error * p + 1.7e-38
    printed_weights = (8 * U * size + 1e-6) * p + 1.7e-38
    return SdpaAnswer(seen, p @ v, p, printed, bound, weight_bound, printed_weights)


# Both sides of a vector (16), a tile (64), a strip (96 rows) and a chunk (256).
_BORDERS = (1, 2, 15, 16, 17, 63, 64, 65, 95, 97, 255, 256, 257, 513)

SDPA = [
    *(SdpaCase(2, 1, 3, 70, dim, causal=True, dtype=dtype) for dim in range(1, 33)
      for dtype in ("float32", "float16")),
    *(SdpaCase(2, 2, 1, kv, 20) for kv in _BORDERS),
    *(SdpaCase(4, 2, n, n, 24, causal=True) for n in _BORDERS[:-1]),
    *(SdpaCase(1, 1, q, 257, 16, causal=True, window=w) for q in (1, 5, 257) for w in (1, 17, 64, 200, 1000)),
    *(SdpaCase(3, 1, 130, kv, 16, causal=True) for kv in (1, 100, 129)),  # queries that see nothing
    *(SdpaCase(4, 2, 20, 300, 16, batch=2, mask=f"{kind}-{axes}")
      for kind in ("bool", "add") for axes in ("k", "qk", "bk", "hqk", "bhqk", "q", "h")),
    SdpaCase(4, 2, 70, 300, 16, batch=2, mask="bool-bqk", causal=True, window=100, softcap=5.0),
    SdpaCase(4, 2, 70, 300, 16, batch=2, mask="add-bhqk", causal=True, softcap=0.5, dtype="float16"),
    *(SdpaCase(2, 1, 40, 90, 32, softcap=cap, spread=4.0) for cap in (0.1, 1.0, 50.0)),
    SdpaCase(2, 1, 40, 90, 32, scale=-0.7),
    SdpaCase(2, 1, 40, 90, 32, scale=0.0),
    SdpaCase(2, 2, 9, 100, 7, value_dim=33),
    SdpaCase(2, 2, 9, 100, 33, value_dim=7, dtype="float16"),
    SdpaCase(2, 1, 5, 70, 512, value_dim=512),
    SdpaCase(100, 1, 3, 70, 16, causal=True),  # more heads over one than a strip has rows
    SdpaCase(9, 3, 100, 100, 64, causal=True),  # the catalogue's models
    SdpaCase(4, 1, 60, 300, 256, causal=True, window=64),
    SdpaCase(14, 2, 1, 700, 64, dtype="float16"),
    # Enough rows for strips of 192, in four parts.
    *(SdpaCase(34, 34, 190, 200, 16, dtype=dtype, **more)
      for dtype in ("float32", "float16")
      for more in ({"causal": True}, {"causal": True, "window": 70}, {"mask": "bool-qk"}, {"mask": "add-hqk"},
                   {"softcap": 2.0, "value_dim": 33})),
]  # fmt: skip
