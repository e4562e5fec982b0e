"""Which tokens sampling leaves, in float64 NumPy. Nothing of lanner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

LAST = 1 - 2.0**-24
"""The largest float32 below 1: a generator of 24 bits ends there."""


def sampling_weights(
    logits: np.ndarray, temperature: float, top_k: float, top_p: float, min_p: float, typical_p: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Surviving ids, ascending, and their probabilities."""
    logits = np.where(np.isnan(logits), -np.inf, logits)
    ids = np.lexsort((np.arange(len(logits)), -logits))  # likeliest first, lower ids first on ties
    p = np.exp((logits[ids].astype(np.float64) - logits.max()) / temperature)
    if 0 < top_k < len(p):
        ids, p = ids[: int(top_k)], p[: int(top_k)]
    if top_p < 1:
        n = np.searchsorted(np.cumsum(p), top_p * p.sum()) + 1
        ids, p = ids[:n], p[:n]
    ids, p = ids[p >= min_p], p[p >= min_p]
    p /= p.sum()
    if typical_p < 1:
        ids, p = ids[p > 0], p[p > 0]
        distance = np.abs(-np.log(p) + (p * np.log(p)).sum())
        order = np.argsort(distance, kind="stable")
        n = min(np.searchsorted(np.cumsum(p[order]), typical_p), len(p) - 1)
        near = distance <= distance[order[n]]
        ids, p = ids[near], p[near]
    order = np.argsort(ids)
    return ids[order], p[order] / p.sum()


def any_row(rng: np.random.Generator, most_columns: int, kind: int) -> np.ndarray:
    """Logits of one of six kinds: plain, with ties, all equal, with forbidden ids, with NaN, sorted."""
    n = int(rng.integers(1, most_columns))
    x = rng.standard_normal(n) * np.exp(1.5 * rng.standard_normal())
    match kind:
        case 1:
            x = np.round(2 * x) / 2
        case 2:
            x[:] = 1.5
        case 3:
            x[rng.random(n) < 0.4] = -np.inf
        case 4:
            x[rng.random(n) < 0.2] = np.nan
        case 5:
            x.sort()
    x[rng.integers(n)] = 1.5
    return x.astype(np.float32)


def check_any_row(
    sample: Callable[[np.ndarray, Sequence[tuple[float, ...]]], np.ndarray],
    seed: int,
    most_columns: int,
    n_settings: int,
    n_uniforms: int,
) -> None:
    """Ids that `sample` draws of a random row, with random settings: near where the sums of weights say."""
    rng = np.random.default_rng(seed)
    logits = any_row(rng, most_columns, seed % 6)
    n = len(logits)
    for _ in range(n_settings):
        how = (
            float(np.float32(np.exp(rng.standard_normal()))),
            float(rng.choice([0, 0, rng.integers(1, 50), rng.integers(1, n + 1)])),
            float(rng.choice([1, np.float32(rng.random())])),
            float(rng.choice([0, 0, np.float32(rng.random() ** 3)])),
            float(rng.choice([1, 1, np.float32(rng.random())])),
        )
        # Where a little more or less of a setting changes nothing, rounding does not either.
        nudged = [tuple(h * (1 + d) if 0 < h < 1 else h for h in how[2:]) for d in (-1e-5, 1e-5)]
        ids, p = sampling_weights(logits, *how)
        if any(not np.array_equal(sampling_weights(logits, *how[:2], *rest)[0], ids) for rest in nudged):
            continue
        uniforms = rng.random(n_uniforms).astype(np.float32)
        drawn = sample(logits, [(*how, u) for u in (*uniforms, 0.0, LAST)])
        assert np.isin(drawn, ids).all(), how
        edges = np.cumsum(p)
        low = ids[np.minimum(np.searchsorted(edges, uniforms - 1e-5, side="right"), len(ids) - 1)]
        high = ids[np.minimum(np.searchsorted(edges, uniforms + 1e-5, side="right"), len(ids) - 1)]
        assert ((low <= drawn[:n_uniforms]) & (drawn[:n_uniforms] <= high)).all(), how
