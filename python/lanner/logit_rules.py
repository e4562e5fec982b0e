"""Penalties, biases and bans of a request: what it changes in a row of logits before its token is chosen."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from copy import copy
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from lanner._core import LogitsRow
    from lanner.sampling import SamplingParams


class Encoder(Protocol):
    """What spells bad words: a `lanner.tokenizer.Tokenizer`."""

    unk_id: int | None

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text."""


class LogitRules:
    """The stages of SamplingParams before temperature, for one text.

    Entries change with every token, by what the token changes: a step costs no more for a long text.

    Args:
        params: penalties, biases, bans and the logits_processor.
        tokenizer: spells the bad words.
        prompt_ids: what the text continues; of an encoder-decoder the start of the target.
        end_ids: the tokens that end the text, not to be chosen before min_tokens.
    """

    def __init__(
        self, params: SamplingParams, tokenizer: Encoder, prompt_ids: Iterable[int], end_ids: Iterable[int]
    ) -> None:
        self._processor = params.logits_processor
        self._repetition = params.repetition_penalty
        self._presence, self._frequency = params.presence_penalty, params.frequency_penalty
        self._window = params.penalty_window
        self._only = None if params.allowed_ids is None else array("i", params.allowed_ids)
        self._end_ids = array("i", sorted(end_ids))
        words, self._endings = _bad_words(tokenizer, params.bad_texts)
        self._biases = dict(params.biases) | dict.fromkeys(words, -math.inf)
        self._has_penalties = (self._repetition, self._presence, self._frequency) != (1.0, 0.0, 0.0)
        self._tokens = list(prompt_ids)
        self._n_prompt = len(self._tokens)
        self._n_free = self._n_prompt + params.min_tokens  # from so many tokens on the text may end
        # How often ids are in the window, and how many of these were generated.
        recent = self._tokens[-self._window :] if self._window else self._tokens
        self._seen = Counter(recent if self._repetition != 1 else ())
        self._generated: Counter[int] = Counter()
        # Parallel, in no order; `_places` has the index of an id.
        self._ids, self._divisors, self._shifts = array("i"), array("f"), array("f")
        self._places: dict[int, int] = {}
        for id in {*self._biases, *self._seen}:
            self._update(id)

    @property
    def is_needed(self) -> bool:
        """Whether the next token is to be chosen by them, and not by the program's own `sample`."""
        return self._has_penalties or self._is_short or bool(self._biases or self._endings) or (
            self._only is not None or self._processor is not None
        )  # fmt: skip

    @property
    def _is_short(self) -> bool:
        return len(self._tokens) < self._n_free and len(self._end_ids) > 0

    def push(self, token: int) -> None:
        """Counts a token that was generated."""
        self._tokens.append(token)
        if not self._has_penalties:
            return
        self._count(token, 1, is_generated=True)
        if self._window is not None and (at := len(self._tokens) - 1 - self._window) >= 0:
            self._count(self._tokens[at], -1, is_generated=at >= self._n_prompt)

    def fork(self) -> LogitRules:
        """The same for another text that goes on from here."""
        made = copy(self)
        made._tokens, made._places = self._tokens.copy(), self._places.copy()
        made._seen, made._generated = self._seen.copy(), self._generated.copy()
        made._ids, made._divisors, made._shifts = self._ids[:], self._divisors[:], self._shifts[:]
        return made

    def entries(self) -> tuple[array[int], array[float], array[float], array[int] | None]:
        """Ids, divisors, shifts and `only` for `_core.LogitsRow.adjust`; valid until the next `push`."""
        banned = self._banned()
        if not banned:
            return self._ids, self._divisors, self._shifts, self._only
        n = len(banned)
        ids, divisors = self._ids + banned, self._divisors + array("f", (1.0,)) * n
        return ids, divisors, self._shifts + array("f", (math.inf,)) * n, self._only

    def apply(self, row: LogitsRow) -> None:
        """Changes a row of logits, last by the logits_processor, whose exceptions pass."""
        row.adjust(*self.entries())
        if self._processor is not None:
            self._processor(self._tokens.copy(), row.array)

    def _banned(self) -> array[int]:
        """What may not come now: an end too soon, the end of a bad word whose beginning stands there."""
        banned = self._end_ids[:] if self._is_short else array("i")
        if self._endings and self._tokens:
            for beginning, last in self._endings.get(self._tokens[-1], ()):
                if self._tokens[-len(beginning) :] == beginning:
                    banned.append(last)
        return banned

    def _count(self, id: int, change: int, *, is_generated: bool) -> None:
        if is_generated:
            self._generated[id] += change
        elif self._repetition == 1:
            return  # a token of the prompt, which was not counted
        self._seen[id] += change
        self._update(id)

    def _update(self, id: int) -> None:
        """Writes the entry of an id, or takes it out where it would change nothing."""
        times = self._generated[id]
        divisor = self._repetition if self._seen[id] else 1.0
        shift = self._presence * (times > 0) + self._frequency * times - self._biases.get(id, 0.0)
        place = self._places.get(id)
        if divisor == 1 and shift == 0:
            if place is not None:
                self._remove(id, place)
        elif place is not None:
            self._divisors[place], self._shifts[place] = divisor, shift
        else:
            self._places[id] = len(self._ids)
            self._ids.append(id)
            self._divisors.append(divisor)
            self._shifts.append(shift)

    def _remove(self, id: int, place: int) -> None:
        """The last entry takes its place."""
        moved = self._ids[-1]
        columns: tuple[array[Any], ...] = (self._ids, self._divisors, self._shifts)
        for column in columns:
            column[place] = column[-1]
            column.pop()
        self._places[moved] = place
        del self._places[id]


_Endings = dict[int, list[tuple[list[int], int]]]


def _bad_words(tokenizer: Encoder, texts: Iterable[str]) -> tuple[set[int], _Endings]:
    """Ids that are a whole word; of longer ones, by their last token but one, the beginning and the end."""
    whole: set[int] = set()
    endings: _Endings = {}
    for ids in sorted({ids for text in texts for ids in spellings(tokenizer, text)}):
        if len(ids) == 1:
            whole.add(ids[0])
        else:
            endings.setdefault(ids[-2], []).append((list(ids[:-1]), ids[-1]))
    return whole, endings


def spellings(tokenizer: Encoder, text: str) -> set[tuple[int, ...]]:
    """The tokens of a text where it begins, after a space, and after a line break, which no space precedes.

    A text with tokens that stand for nothing else than the unknown has none.
    """
    found: set[tuple[int, ...]] = set()
    for parses in (True, False):
        line_break = tokenizer.encode("\n", False, parses)
        for before in ("", " ", "\n"):
            ids = tokenizer.encode(before + text, False, parses)
            if before == "\n":
                n = len(line_break)
                ids = ids[n:] if ids[:n] == line_break else []
            found.add(tuple(ids))
    return {ids for ids in found if ids and tokenizer.unk_id not in ids}
