"""`linear` on the device and in float64: calls, references, and bounds of the error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lanner.cuda.pack import Packed, gated_rows, pack, qkv_rows, unpack
from values import U_BF16, as_bf16, call, put, room, rows

STORE, LOGITS, GATED, QKV = range(4)
FUNCTIONS = {"silu": 0, "gelu_tanh": 2}
PAGE = 32
EPS = 1e-5


@dataclass
class Product:
    """Inputs of one call. Matrices are in their own order; `order` gives the rows as they are packed."""

    x: np.ndarray
    packed: Packed
    order: np.ndarray
    norm: np.ndarray | None = None
    bias: np.ndarray | None = None
    residual: np.ndarray | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def random(cls, n: int, k: int, n_tokens: int, type: str, *, seed: int = 0, norm: bool = False,
               bias: bool = False, residual: bool = False, order: Any = None) -> Product:  # fmt: skip
        rng = np.random.default_rng(seed)
        order = np.arange(n) if order is None else order
        weights = (rng.standard_normal((n, k)) / np.sqrt(k)).astype(np.float32)
        return cls(
            as_bf16(rng.standard_normal((n_tokens, k))),
            pack(weights[order], type),
            order,
            (rng.standard_normal(k) * 0.2 + 1).astype(np.float32) if norm else None,
            rng.standard_normal(n).astype(np.float32) if bias else None,
            as_bf16(rng.standard_normal((n_tokens, n))) if residual else None,
        )

    def unpacked(self) -> np.ndarray:
        """The weights (n, k) that are multiplied by."""
        return unpack(self.packed)

    @property
    def of_bytes(self) -> bool:
        """Whether tokens are multiplied as planes of bytes (csrc/cuda/planes.h)."""
        return self.packed.type != "bf16"

    def sums(self, rounded: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """weight norm(x) + bias (T, n) in float64, and bounds of its error.

        Of the norm, x times its weights is rounded to bf16 as the kernel for bf16 does; not if not `rounded`.
        Sums of tensor cores may drop what is below 2^-23 of their largest term, each mma anew. Of four bits
        the terms are codes and minima apart; of a group one weight at least is its minimum.
        """
        w = self.unpacked()[np.argsort(self.order)]
        x = self.x.astype(np.float64)
        scale = np.ones((len(x), 1))
        if self.norm is not None:
            scale = 1 / np.sqrt((x * x).mean(axis=1, keepdims=True) + EPS)
            product = self.x * self.norm
            x = (as_bf16(product) if rounded and not self.of_bytes else product).astype(np.float64)
        k = w.shape[1]
        groups = np.abs(w).reshape(len(w), -1, 32)
        largest = groups.max(axis=2)
        size = np.abs(w)
        if self.packed.type == "int4":
            size = size + np.repeat(2 * largest, 32, axis=1)
        bound = (np.abs(x) @ size.T) * scale * (k / 16 + 16) * 2.0**-23
        if self.of_bytes:
            # Tokens are off by half of a 256th of a scale, max |x| / 127, each product of a group by another
            # one of the scale of its codes, which is at most 2 / 15 of the largest of its weights.
            codes = groups.sum(axis=2) + (32 * largest if self.packed.type == "int4" else 0)
            most = np.abs(x).reshape(len(x), -1, 32).max(axis=2)
            bound = bound + most @ (codes + 2 * 2 / 15 * largest).T * scale / (2 * 256 * 127)
        y = (x @ w.T) * scale
        if self.bias is not None:
            y = y + self.bias
        return y, bound + np.abs(y) * 2.0**-21

    def args(self, cuda: Any, bound: int) -> dict[str, Any]:
        """What every end is given: arrays of `bound` rows, of which the first are those of x."""
        n_tokens, k = self.x.shape
        x = np.zeros((bound, k), np.float32)
        x[:n_tokens] = self.x
        p = self.packed
        codes, scales = cuda.DeviceArray(p.codes.nbytes), None
        codes.upload(p.codes)
        if p.scales is not None:
            scales = cuda.DeviceArray(p.scales.nbytes)
            scales.upload(p.scales.view(np.uint8))
        args = {"x": put(cuda, x, "bf16"), "rows": rows(cuda, n_tokens),
                "weight": (getattr(cuda.WeightType, p.type), p.n, p.k, codes, scales)}  # fmt: skip
        if n_bytes := cuda.linear_workspace(args["weight"][0], p.n, p.k):
            args |= {"workspace": room(cuda, n_bytes // 4, kind="int32"), "workspace_bytes": n_bytes}
        if self.norm is not None:
            args |= {"norm_weight": put(cuda, self.norm, "float32"), "norm_eps": EPS}
        if self.bias is not None:
            padded = np.zeros(-(-p.n // 16) * 16, np.float32)
            padded[: p.n] = self.bias[self.order]
            args["bias"] = put(cuda, padded, "float32")
        return args

    def run(self, cuda: Any, end: int = STORE, bound: int | None = None, *, in_place: bool = False,
            op: str = "linear", **more: Any) -> np.ndarray:  # fmt: skip
        """The rows of the result that are written; checks that no other is."""
        n_tokens = len(self.x)
        bound = bound or n_tokens
        args = self.args(cuda, bound) | {"end": end} | more
        cols = self.packed.n // 2 if end == GATED else self.packed.n
        out = room(cuda, bound, cols, kind="float32" if end == LOGITS else "bf16")
        if self.residual is not None:
            given = np.zeros((bound, cols), np.float32)
            given[:n_tokens] = self.residual
            args["residual"] = put(cuda, given, "bf16")
            if in_place:
                out = args["residual"]
        call(cuda, op, bound, **args, **{"logits" if end == LOGITS else "out": out})
        if in_place:
            assert not out.numpy()[n_tokens:].any()
        else:
            assert out.is_untouched(n_tokens)
        return out.numpy()[:n_tokens]


def check(got: np.ndarray, wanted: np.ndarray, bound: np.ndarray, *, bf16: bool = True) -> None:
    """Errors of the sum, then of rounding to bf16."""
    if bf16:
        bound = bound + U_BF16 * (np.abs(wanted) + bound)
    np.testing.assert_array_less(np.abs(got - wanted), bound + 1e-30)


def check_gated(got: np.ndarray, product: Product, function: str) -> None:
    y, error = product.sums()
    half = y.shape[1] // 2
    gate, up = y[:, :half], y[:, half:]
    z = gate if function == "silu" else 2 * np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
    with np.errstate(over="ignore"):
        active = gate / (1 + np.exp(-z))
    # Neither function is steeper than 1.13; exponential and quotient are relative errors.
    bound = 1.13 * error[:, :half] * (np.abs(up) + error[:, half:]) + np.abs(active) * error[:, half:]
    check(got, active * up, bound + np.abs(active * up) * (8 + np.abs(z)) * 2.0**-22)


@dataclass
class Heads:
    """A step of sequences whose q, k and v are made, and the paged cache to which k and v go."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope_dim: int
    positions: np.ndarray
    token_seqs: np.ndarray
    pages: np.ndarray  # (S, max_pages)

    @property
    def n(self) -> int:
        return (self.n_heads + 2 * self.n_kv_heads) * self.head_dim

    @property
    def order(self) -> np.ndarray:
        return qkv_rows(self.n_heads, self.n_kv_heads, self.head_dim, self.rope_dim)

    def angles(self) -> np.ndarray:
        half = self.rope_dim // 2
        frequencies = 10000.0 ** (-np.arange(half) / max(half, 1))
        return self.positions[:, None] * frequencies

    def run(
        self, cuda: Any, product: Product, bound: int, op: str = "linear"
    ) -> tuple[np.ndarray, np.ndarray]:
        """q (T, n_heads, D) and the cache (pages, 2, kv_heads, 32, D), NaN where nothing was written."""
        n_tokens = len(self.positions)
        table = np.zeros((bound, max(self.rope_dim, 1)), np.float32)
        if self.rope_dim:
            table[:n_tokens] = np.concatenate([np.cos(self.angles()), np.sin(self.angles())], axis=1)

        def ints(values: np.ndarray) -> Any:
            padded = np.zeros(bound, np.int32)
            padded[:n_tokens] = values
            return put(cuda, padded, "int32").array

        shape = (int(self.pages.max()) + 1, 2, self.n_kv_heads, PAGE, self.head_dim)
        cache = room(cuda, *shape, kind="bf16")
        out = room(cuda, bound, self.n_heads * self.head_dim, kind="bf16")
        qkv = {"n_heads": self.n_heads, "n_kv_heads": self.n_kv_heads, "head_dim": self.head_dim,
               "rope_dim": self.rope_dim, "cos_sin": put(cuda, table, "float32").array,
               "positions": ints(self.positions), "token_seqs": ints(self.token_seqs),
               "block_tables": put(cuda, self.pages, "int32").array, "max_pages": self.pages.shape[1],
               "cache": cache.array}  # fmt: skip
        call(cuda, op, bound, **product.args(cuda, bound), end=QKV, qkv=qkv, out=out)
        assert out.is_untouched(n_tokens)
        return out.numpy()[:n_tokens].reshape(n_tokens, self.n_heads, self.head_dim), cache.numpy()

    def check(self, got: tuple[np.ndarray, np.ndarray], product: Product) -> None:
        q, cache = got
        y, error = (a.reshape(len(self.positions), -1, self.head_dim) for a in product.sums())
        n_rotated, r = self.n_heads + self.n_kv_heads, self.rope_dim
        wanted, bound = y.copy(), error.copy()
        c, s = np.cos(self.angles())[:, None], np.sin(self.angles())[:, None]
        low, high = y[:, :n_rotated, : r // 2], y[:, :n_rotated, r // 2 : r]
        wanted[:, :n_rotated, :r] = np.concatenate([low * c - high * s, high * c + low * s], axis=2)
        # The table is rounded to float32, and so are two products and their sum.
        both = error[:, :n_rotated, : r // 2] + error[:, :n_rotated, r // 2 : r]
        both = both + (np.abs(low) + np.abs(high)) * 2.0**-22
        bound[:, :n_rotated, :r] = np.concatenate([both, both], axis=2)
        check(q, wanted[:, : self.n_heads], bound[:, : self.n_heads])
        written = np.zeros(cache.shape, bool)
        for t, (position, seq) in enumerate(zip(self.positions, self.token_seqs, strict=True)):
            at = (self.pages[seq, position // PAGE], slice(None), slice(None), position % PAGE)
            kv = (2, self.n_kv_heads, self.head_dim)
            new, slack = (a[t, self.n_heads :].reshape(kv) for a in (wanted, bound))
            check(cache[at], new, slack)
            written[at] = True
        assert np.isnan(cache[~written]).all()


def gated_order(n: int) -> np.ndarray:
    return gated_rows(n // 2)
