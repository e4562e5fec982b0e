"""Which tokens sampling leaves, in float64 NumPy. Nothing of lanner."""

from __future__ import annotations

import numpy as np


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
