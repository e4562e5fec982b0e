"""The texts that end a generation, found in a text that comes in pieces."""

from __future__ import annotations

from copy import copy


class StopTexts:
    """Finds the first of some texts in a text that comes in pieces, and lets nothing of it pass.

    The first is the one that is complete first, the longer of two that end together: so the answer depends on
    the text alone and not on how it was divided.
    """

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts = texts
        self._held = ""  # the end of what came, which some text may begin with

    def push(self, piece: str) -> tuple[str, bool]:
        """The text that is now certain, and whether a stop text came; after one that came, push no more."""
        if not self._texts or not piece:
            return piece, False
        text, self._held = self._held + piece, ""
        found = [(at + len(stop), at) for stop in self._texts if (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)[1]], True
        n_held = max(_overlap(text, stop) for stop in self._texts)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held], False

    def fork(self) -> StopTexts:
        """The same for another text that goes on from here."""
        return copy(self)

    def flush(self) -> str:
        """What was held back."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with, less than all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
