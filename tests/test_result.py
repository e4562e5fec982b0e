"""What results are made of."""

from __future__ import annotations

import numpy as np

from lanner import Logprobs


def part(first: int, n: int, k: int) -> Logprobs:
    ids = np.arange(first, first + n, dtype=np.int32)
    rows = ids[:, None] + np.arange(k, dtype=np.int32)
    return Logprobs(ids, -ids.astype(np.float32), rows, -rows.astype(np.float32))


def test_logprobs_are_joined() -> None:
    joined, whole = Logprobs.joined([part(0, 2, 3), part(2, 1, 3), part(3, 4, 3)], 3), part(0, 7, 3)
    for name in ("token_ids", "token_logprobs", "top_ids", "top_logprobs"):
        made, wanted = getattr(joined, name), getattr(whole, name)
        assert made.dtype == wanted.dtype
        np.testing.assert_array_equal(made, wanted)
    assert len(joined) == 7
    nothing = Logprobs.joined([], 3)
    assert len(nothing) == 0
    assert nothing.top_ids.shape == nothing.top_logprobs.shape == (0, 3)
    assert nothing.token_ids.dtype == nothing.top_ids.dtype == np.int32
