"""Attention over pages: a step in device memory, and what float64 makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from values import U_BF16, Value, as_bf16, put, room

PAGE = 32
U = 2.0**-24
GIVEN_BACK = -1
BEYOND = 1 << 24
"""A page that no kernel may look for: past the end of a sequence."""


@dataclass
class Case:
    """Sequences of (cached positions, of which new) and how they are attended to."""

    lengths: list[tuple[int, int]]
    heads: tuple[int, int] = (4, 2)
    dim: int = 64
    window: int = 0
    softcap: float = 0.0
    causal: bool = True
    spread: float = 1.0
    """Standard deviation of scores."""
    spare: int = 3
    """Rows and sequences that the host allows for, and the step has not."""
    seed: int = 0
    q: np.ndarray = field(init=False)
    keys: list[np.ndarray] = field(init=False)
    values: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.scale = float(np.float32(self.dim**-0.5))
        self.q = as_bf16(rng.standard_normal((self.n_tokens, self.heads[0], self.dim)) * self.spread)
        shape = (self.heads[1], self.dim)
        self.keys = [as_bf16(rng.standard_normal((n, *shape))) for n, _ in self.lengths]
        self.values = [as_bf16(rng.standard_normal((n, *shape))) for n, _ in self.lengths]

    @property
    def n_tokens(self) -> int:
        return sum(new for _, new in self.lengths)

    def wanted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """out (T, H, D), the most it may be wrong by, and the root mean square of that over D.

        A score is wrong by D U of the sum of its terms' magnitudes, tanh by 2^-21 of the cap, 2^x by 2^-22,
        and the sum of weights by U a key. The weights that meet the values are rounded to bf16, and so is the
        result: U_BF16 of the sum of |p v| at most, and independent errors of U_BF16 / sqrt 3 on the average.
        """
        outs, mosts, means = [], [], []
        start = 0
        for (n, new), k, v in zip(self.lengths, self.keys, self.values, strict=True):
            group = self.heads[0] // self.heads[1]
            k, v = (np.repeat(x, group, 1).astype(np.float64) for x in (k, v))
            q = self.q[start : start + new].astype(np.float64)
            start += new
            s = np.einsum("thd,nhd->thn", q, k) * self.scale
            wrong = np.einsum("thd,nhd->thn", abs(q), abs(k)) * self.scale * self.dim * U + 4 * abs(s) * U
            if self.softcap:
                s = self.softcap * np.tanh(s / self.softcap)
                wrong = wrong + self.softcap * 2.0**-20
            at = np.arange(n - new, n)[:, None] - np.arange(n)[None]
            seen = (at >= 0) & (at < (self.window or n)) if self.causal else np.ones_like(at, bool)
            s = np.where(seen[:, None], s, -np.inf)
            p = np.exp(s - s.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            out = np.einsum("thn,nhd->thd", p, v)
            size = np.einsum("thn,nhd->thd", p, abs(v))
            small = 2 * np.where(seen[:, None], wrong, 0).max(-1)[..., None] + (n + 8) * U + 2.0**-20
            outs.append(out)
            mosts.append(size * (U_BF16 + small) + U_BF16 * abs(out))
            rounding = np.einsum("thn,nhd->thd", p**2, v**2) + out**2
            means.append(U_BF16 / 3**0.5 * np.sqrt(rounding.mean(-1)) + (small * size).mean(-1))
        return np.concatenate(outs), np.concatenate(mosts), np.concatenate(means)

    def check(self, got: np.ndarray) -> None:
        out, most, mean = self.wanted()
        error = got.reshape(out.shape) - out
        np.testing.assert_array_less(abs(error), most + 1e-30)
        np.testing.assert_array_less(np.sqrt((error**2).mean(-1)), 1.5 * mean + 1e-30)


class Attention:
    """A case in device memory. What must not be read is NaN: positions past the end, pages of nobody."""

    def __init__(self, cuda: Any, case: Case) -> None:
        self.cuda, self.case = cuda, case
        heads, kv_heads = case.heads
        n_pages = [-(-n // PAGE) for n, _ in case.lengths]
        rng = np.random.default_rng(case.seed + 1)
        pages = rng.permutation(sum(n_pages) + 3)
        cache = np.full((len(pages), 2, 2, kv_heads, PAGE, case.dim), np.nan, np.float32)  # of two layers
        bound = len(case.lengths) + case.spare
        tables = np.full((bound, max(n_pages) + 2), BEYOND, np.int32)
        first = 0
        for s, (n, new) in enumerate(case.lengths):
            tables[s, : n_pages[s]] = pages[first : first + n_pages[s]]
            first += n_pages[s]
            for kind, rows in enumerate((case.keys[s], case.values[s])):
                for at in range(0, n, PAGE):
                    part = rows[at : at + PAGE].transpose(1, 0, 2)
                    cache[tables[s, at // PAGE], 1, kind, :, : part.shape[1]] = part
            if case.window:
                behind = max(0, n - new - case.window + 1) // PAGE
                cache[tables[s, :behind]] = np.nan
                tables[s, :behind] = GIVEN_BACK
        starts = np.zeros(bound + 1, np.int32)
        starts[1 : len(case.lengths) + 1] = np.cumsum([new for _, new in case.lengths])
        starts[len(case.lengths) + 1 :] = BEYOND
        lens = np.full(bound, BEYOND, np.int32)
        lens[: len(case.lengths)] = [n for n, _ in case.lengths]
        rows = np.full((case.n_tokens + case.spare, heads + 2 * kv_heads, case.dim), np.nan, np.float32)
        rows[: case.n_tokens, :heads] = case.q
        self.q = put(cuda, rows, "bf16")
        self.cache = put(cuda, cache, "bf16")
        counts = [case.n_tokens, len(case.lengths), len(case.lengths)]
        self.step = {
            "counts": put(cuda, np.array(counts), "int32"),
            "seq_starts": put(cuda, starts, "int32"),
            "kv_lens": put(cuda, lens, "int32"),
            "block_tables": put(cuda, tables, "int32"),
            "max_pages": tables.shape[1],
        }
        layer_bytes = 4 * kv_heads * PAGE * case.dim
        self.args = {
            "q": self.q.array, "cache": (self.cache.array, layer_bytes), "page_bytes": 2 * layer_bytes,
            "q_stride": (heads + 2 * kv_heads) * case.dim, "n_heads": heads, "n_kv_heads": kv_heads,
            "head_dim": case.dim, "scale": case.scale, "softcap": case.softcap, "window": case.window,
            "causal": case.causal,
        }  # fmt: skip
        self.args |= {n: x.array if isinstance(x, Value) else x for n, x in self.step.items()}
        self.bounds = {
            "n_tokens": case.n_tokens + case.spare,
            "n_seqs": bound,
            "n_keys": max(n for n, _ in case.lengths),
        }

    def out(self) -> Value:
        return room(self.cuda, self.bounds["n_tokens"], self.case.heads[0] * self.case.dim, kind="bf16")

    def result(self, out: Value) -> np.ndarray:
        assert out.is_untouched(self.case.n_tokens)
        return out.numpy()[: self.case.n_tokens]

    def prefill(self) -> np.ndarray:
        out = self.out()
        self.cuda.ops.attention_prefill(self.bounds, out=out.array, **self.args)
        return self.result(out)

    def decode(self, n_launches: int = 1) -> np.ndarray:
        """The last of launches that share workspace and counters."""
        probe = self.out()
        n_bytes, n_counters = self.cuda.attention_workspace(self.bounds, out=probe.array, **self.args)
        workspace = room(self.cuda, max(n_bytes // 4, 1), kind="float32")
        counters = put(self.cuda, np.zeros(max(n_counters, 1)), "int32")
        for _ in range(n_launches):
            out = self.out()
            room_for = {"workspace": workspace.array, "workspace_bytes": n_bytes}
            room_for |= {"counters": counters.array, "n_counters": n_counters}
            self.cuda.ops.attention_decode(self.bounds, out=out.array, **room_for, **self.args)
        assert not counters.numpy().any()
        return self.result(out)
