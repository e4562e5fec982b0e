"""What a step of so many tokens costs, learned from the steps that run."""

from __future__ import annotations

from bisect import bisect

from lanner.step_times import SURPRISE

_SLOPE = 0.15
"""Of a step of one token, what each further one adds until it is measured: weights are read once for all."""

_FOLLOW = 0.3  # of what a step took longer than thought: how fast the machine is now, three steps
_LEARN = 0.04  # and how steps of this size compare with others, where it is known well

_ROUND = 256  # steps, after which sizes that ran less than _FEW times are guessed again
_FEW = 4  # what held up one of these would keep a size from being tried ever again


class StepCosts:
    """Seconds of steps of n tokens, as the speed of the machine now times a cost for every n.

    What a second program or a longer context changes for all sizes is then not taken for what one size costs.
    """

    def __init__(self) -> None:
        self._speed_s = 0.0  # of a step whose cost is 1; 0 before the first
        self._costs: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._known: list[int] = []  # ascending
        self._n_steps = 0

    def observe(self, n_tokens: int, seconds: float) -> None:
        """A step of n_tokens, each of its sequence's end, took `seconds`."""
        if seconds <= 0:
            return
        self._n_steps += 1
        if self._n_steps % _ROUND == 0:
            self._forget()
        cost = self.cost(n_tokens)
        if not self._speed_s:
            self._speed_s = seconds / cost
        ratio = min(seconds / (self._speed_s * cost), SURPRISE)
        count = self._counts.get(n_tokens, 0)
        if not count:
            self._known.insert(bisect(self._known, n_tokens), n_tokens)
        self._counts[n_tokens] = count + 1
        self._costs[n_tokens] = cost * ratio ** max(_LEARN, 1 / (count + 2))
        self._speed_s *= ratio ** (_FOLLOW if count else 0.0)

    def _forget(self) -> None:
        for n_tokens in [n for n, count in self._counts.items() if count < _FEW]:
            del self._counts[n_tokens], self._costs[n_tokens]
            self._known.remove(n_tokens)

    def seconds(self, n_tokens: int) -> float:
        """What a step of n_tokens takes; 0 before any was observed."""
        return self._speed_s * self.cost(n_tokens)

    def cost(self, n_tokens: int) -> float:
        """The same in a unit of its own: between two known sizes on a line, beyond them with _SLOPE."""
        known = self._costs.get(n_tokens)
        if known is not None:
            return known
        at = bisect(self._known, n_tokens)
        if not at:
            first = self._known[0] if self._known else 1
            return self._costs.get(first, 1.0) * _guess(n_tokens) / _guess(first)
        low = self._known[at - 1]
        if at == len(self._known):
            return self._costs[low] * _guess(n_tokens) / _guess(low)
        high = self._known[at]
        share = (n_tokens - low) / (high - low)
        return (1 - share) * self._costs[low] + share * self._costs[high]


def _guess(n_tokens: int) -> float:
    return 1 + _SLOPE * (n_tokens - 1)
