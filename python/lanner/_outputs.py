"""What is read of the rows of the last step: logits, ids, log probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lanner import _core

if TYPE_CHECKING:
    from array import array

    import numpy as np
    import numpy.typing as npt

    from lanner.logit_rules import LogitRules
    from lanner.phases import Value
    from lanner.program import Program

    Ids = array[int] | npt.NDArray[np.int32]
    Floats = npt.NDArray[np.float32]
    Settings = tuple[float, float, float, float, float]


class OutputRows:
    """The part of Decoder and Seq2Seq that reads what a step computed. Nothing here changes it."""

    program: Program
    n_threads: int
    _logits: Value
    _sampled: Value
    _forbidden: Value | None = None  # of an encoder-decoder whose makers forbid ids
    _forbidden_ids: tuple[int, ...] = ()
    _row: _core.LogitsRow | None = None

    def logits(self, n_outputs: int) -> Floats:
        """(R, vocab_size) float32 of the last step, a view that the next one overwrites."""
        return self.program.array(self._logits, n_outputs)

    def sampled(self, n_outputs: int) -> list[int]:
        """Ids that the last step chose, one for every output."""
        return self.program.ids(self._sampled, n_outputs)

    def forbidden_logits(self, n_outputs: int) -> Floats | None:
        """(R, n) float32: what the model gave n ids that are never generated; None where there are none.

        In `logits` they have -inf. Their probability is part of the model's all the same.
        """
        return None if self._forbidden is None else self.program.array(self._forbidden, n_outputs)

    def choose(self, row: int, rules: LogitRules | None, sampling: Settings, uniform: float) -> int:
        """The id that a row gets by `rules` and `sampling`, as SamplingParams.row has it; -1 where no logit
        is finite.

        Raises ValueError where the rules leave no token, and what a logits_processor raises.
        """
        made = self._copy(row)
        if rules is not None:
            rules.apply(made)
        id = made.sample(sampling, uniform)
        if id < 0 and rules is not None and self.sampled(row + 1)[row] >= 0:
            raise ValueError(
                "no token is left to choose: allowed_token_ids, logit_bias, bad_words, min_tokens and "
                "logits_processor together forbid all, or made a logit infinite"
            )
        return id

    def candidates(self, row: int, rules: LogitRules | None, k: int) -> tuple[list[int], list[float]]:
        """The k ids of a row with the largest log probabilities, and these, changed by `rules`.

        As in transformers' beam search the rules change the logarithms, not the logits, and the sum of the
        probabilities is not restored.
        """
        made = self._copy(row)
        self._log_softmax(made, row)
        if rules is not None:
            rules.apply(made)
        return made.top(k)

    def logprobs(self, first_row: int, ids: Ids, k: int) -> tuple[Floats, npt.NDArray[np.int32], Floats]:
        """Log probabilities of ids (n,) int32, which rows first_row, first_row + 1, ... of the step get.

        Returns:
            float32 (n,) of the ids; int32 (n, k) the likeliest ids of each row, likeliest first, the lower id
            first on ties; float32 (n, k) of these. k is at most vocab_size.
        """
        end = first_row + len(ids)
        of_ids, top_ids, top = _core.log_probs(self._buffer(end), first_row, ids, k, self.n_threads)
        forbidden = self.forbidden_logits(end)
        if forbidden is not None:
            import numpy as np

            sums = self.logits(end)[np.arange(first_row, end), ids] - of_ids
            lost = np.logaddexp.reduce(np.c_[np.zeros_like(sums), forbidden[first_row:] - sums[:, None]], 1)
            of_ids, top = of_ids - lost, top - lost[:, None]
        return of_ids, top_ids, top

    def _log_softmax(self, made: _core.LogitsRow, row: int) -> None:
        forbidden = self.forbidden_logits(row + 1)
        if forbidden is None:
            made.log_softmax()
        else:
            ids = list(self._forbidden_ids)
            made.array[ids] = forbidden[row]
            made.log_softmax()
            made.array[ids] = -math.inf

    def _copy(self, row: int) -> _core.LogitsRow:
        buffer = self._buffer(row + 1)
        if self._row is None:
            self._row = _core.LogitsRow(buffer.shape[1])  # type: ignore[index]
        self._row.copy(buffer, row)
        return self._row

    def _buffer(self, n_outputs: int) -> memoryview[float] | Floats:
        """(R, vocab_size), to be dropped before the next step."""
        return self.program.memoryview(self._logits, n_outputs)
