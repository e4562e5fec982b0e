"""Log-probabilities that are collected row by row as a request goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lanner.result import Logprobs

if TYPE_CHECKING:
    from lanner.sequence import Outputs


class LogprobCollector:
    """Keeps of every row the log p of its token and of the k likeliest; of a k of None nothing."""

    def __init__(self, k: int | None) -> None:
        self._k = k
        self._parts: list[Logprobs] = []
        self.n_rows = 0

    @property
    def is_wanted(self) -> bool:
        """Whether it collects."""
        return self._k is not None

    def add(self, outputs: Outputs, first_row: int, ids: Sequence[int]) -> None:
        """Rows first_row and on, with the tokens that follow them."""
        if self._k is None or not len(ids):
            return
        import numpy as np

        tokens = np.array(ids, np.int32)
        of_tokens, top_ids, top = outputs.logprobs(first_row, tokens, self._k)
        self._parts.append(Logprobs(tokens, of_tokens, top_ids, top))
        self.n_rows += len(ids)

    def result(self) -> Logprobs | None:
        """All rows."""
        return None if self._k is None else Logprobs.joined(self._parts, self._k)
