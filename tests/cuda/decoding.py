"""Steps of a decoder, and what their logits are held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import models as files
from oracle import Oracle, size

GREEDY = (0.0, 0, 1.0, 0.0, 1.0, 0.0)
IDS = np.random.default_rng(3).integers(0, files.VOCAB, 200).tolist()
PAGES = [[9, 2, 5, 0], [1, 8, 3, 11], [10, 4, 7, 6]]
"""Of three sequences, scattered over the cache."""

Chunk = tuple[int, Sequence[int], Sequence[int] | Sequence[Sequence[int]]]
"""First position of a sequence's tokens in a step, these tokens, and its pages, or those of each group."""


def run(decoder: Any, *chunks: Chunk, wanted: bool = True) -> tuple[np.ndarray, list[int]]:
    """Logits and ids of the last token of every chunk of a step, or of none."""
    step, views, n = decoder.step, decoder.step.memoryviews(), 0
    for s, (start, ids, pages) in enumerate(chunks):
        views["seq_starts"][s] = n
        for i, id in enumerate(ids):
            views["token_ids"][n + i], views["positions"][n + i], views["token_seqs"][n + i] = (
                id,
                start + i,
                s,
            )
        n += len(ids)
        views["kv_lens"][s], views["output_rows"][s] = start + len(ids), n - 1
        for group, table in enumerate(pages if isinstance(pages[0], list) else [pages]):
            for i, page in enumerate(table):
                views["block_tables"][group * step.max_seqs + s, i] = page
        for i, value in enumerate(GREEDY):
            views["sampling"][s, i] = value
    views["seq_starts"][len(chunks)] = n
    n_outputs = len(chunks) * wanted
    step.n_tokens, step.n_seqs, step.n_outputs = n, len(chunks), n_outputs
    assert decoder.run()
    return decoder.logits(n_outputs).copy(), decoder.sampled(n_outputs)


def check_logits(got: np.ndarray, oracle: Oracle, ids: Sequence[int]) -> None:
    """The last row of ids is no further from float64 than three times what bfloat16 costs there."""
    exact, rounded = (oracle.logits(ids, rounded=r)[-1] for r in (False, True))
    cost = size(rounded - exact)
    assert 0 < size(got - exact) <= 3 * cost
    assert np.abs(got - exact).max() <= 15 * cost


def check_ids(logits: np.ndarray, ids: Sequence[int]) -> None:
    assert list(ids) == logits.argmax(axis=1).tolist()
