"""How long steps take, and how many tokens of a prompt fit beside running decodes."""

from __future__ import annotations

MOST = 2.5
"""A step beside running decodes takes at most this many decode steps: who reads a stream sees the pause."""

_AIM = 2.2  # steps of one size differ by a tenth on a quiet machine
_FIRST_TOKENS = 16  # one more token than a few costs little more: the first guess is a small one
_BLEND = 0.2  # of a new time in a mean: five steps
SURPRISE = 4.0
"""What took longer than so many times what was thought was held up by others."""


_REFRESH = 64  # steps with prompts in a row, after which one without tells again what decodes take


class StepTimes:
    """Learns from every step that ran; the answers change speed and order alone, never what is computed."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._decode_s = 0.0  # of a step of decodes alone
        self._n_decodes = 0  # in the steps of that mean
        self._n_mixed = 0  # steps since
        self._n_tokens = float(_FIRST_TOKENS)

    def prompt_tokens(self, n_decodes: int) -> int:
        """Tokens of prompts that a step may take in beside so many decodes; 0 where it is to be learned."""
        is_known = self._n_decodes <= 2 * n_decodes and n_decodes <= 2 * self._n_decodes
        if not is_known or self._n_mixed >= _REFRESH:
            return 0
        return min(int(self._n_tokens), self._max_tokens)

    def observe(self, n_decodes: int, n_prompt_tokens: int, seconds: float) -> None:
        """A step of n_decodes tokens of running sequences and n_prompt_tokens of prompts took `seconds`."""
        if not n_prompt_tokens:
            known = self._decode_s if n_decodes == self._n_decodes else 0.0
            self._decode_s = known + _BLEND * (min(seconds, SURPRISE * known) - known) if known else seconds
            self._n_decodes, self._n_mixed = n_decodes, 0
        elif n_decodes and self._decode_s:
            self._n_mixed += 1
            # No model of the cost: it grows with what the prompt has behind it, and by leaps.
            share = seconds / (_AIM * self._decode_s)
            if share > 1:
                self._n_tokens = max(1.0, self._n_tokens / min(share, 2.0))
            elif n_prompt_tokens >= int(self._n_tokens):  # a shorter one says nothing about more
                self._n_tokens = min(self._n_tokens * min(1 / share, 1.1) + 0.5, float(self._max_tokens))
