"""Sequences on their way through the model, and what becomes of the rows that are computed for them."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from lanner._core import Cancelled
from lanner.result import Chunk, FinishReason, GenerationResult, Timings, Usage
from lanner.sampling import SamplingParams, draw_seed, uniform

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Outputs(Protocol):
    """Rows of the step that has just run; views that the next step overwrites."""

    def sampled(self, n_outputs: int, /) -> list[int]:
        """Ids that were chosen, one for every output."""

    def logits(self, n_outputs: int, /) -> npt.NDArray[np.float32]:
        """(R, vocab_size)."""


class TextDecoder(Protocol):
    """Turns token ids that come one at a time into whole characters."""

    def push(self, id: int, /) -> str:
        """The text that this token completes."""

    def flush(self) -> str:
        """What is left at the end."""


class Sequence(ABC):
    """Token ids, cache pages and progress of one sequence.

    The engine thread alone changes it; any thread may set `is_cancelled` and `wait`.

    Attributes:
        token_ids: array of int32, what is to be computed: the prompt, then what was generated.
        pages: array of int32, the cache page of every 32 positions; changed by PageManager.
        n_cached: leading tokens whose K and V are in the cache.
        sampling: temperature, top_k, top_p and min_p of its output rows.
        wants_every_row: whether all of its tokens are output rows, or the last one alone.
        error: what ended it before its time, to be raised by who waits.
    """

    sampling: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 0.0)  # greedy
    wants_every_row = False

    def __init__(self, token_ids: Iterable[int]) -> None:
        self.token_ids = array("i", token_ids)
        self.pages = array("i")
        self.n_cached = 0
        self.submitted_s = time.perf_counter()
        self.started_s = 0.0
        self.is_cancelled = False
        self.is_finished = False
        self.error: BaseException | None = None
        # Held until the end. A bare lock: unlike an Event it has no state that os.fork() can catch half-way.
        self._gate = threading.Lock()
        self._gate.acquire()

    def uniform(self, position: int) -> float:
        """The random number in [0, 1) that draws the token after `position`; unused where it is greedy."""
        return 0.0

    @abstractmethod
    def take(self, outputs: Outputs, first_row: int, n_rows: int) -> None:
        """Uses the rows that the last step computed for this sequence; `n_cached` counts them already."""

    @abstractmethod
    def finish_cancelled(self) -> None:
        """Ends it because somebody wished so."""

    def fail(self, error: BaseException) -> None:
        """Ends it with an error, unless it has ended."""
        if not self.is_finished:
            self.error = error
            self._open_gate()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end, at most `timeout` seconds; False if it has not come. Ctrl-C interrupts."""
        if not self.is_finished:
            if not self._gate.acquire(timeout=-1 if timeout is None else timeout):
                return False
            self._gate.release()
        return True

    def _open_gate(self) -> None:
        if not self.is_finished:
            self.is_finished = True
            self._gate.release()


class Scoring(Sequence):
    """Gives the logits of all its tokens to `sink(start, rows)`, in pieces: rows (n, vocab_size), a view."""

    wants_every_row = True

    def __init__(
        self, token_ids: Iterable[int], sink: Callable[[int, npt.NDArray[np.float32]], None]
    ) -> None:
        super().__init__(token_ids)
        self._sink = sink

    def take(self, outputs: Outputs, first_row: int, n_rows: int) -> None:
        """See Sequence."""
        self._sink(self.n_cached - n_rows, outputs.logits(first_row + n_rows)[first_row:])
        if self.n_cached == len(self.token_ids):
            self._open_gate()

    def finish_cancelled(self) -> None:
        """See Sequence."""
        self.fail(Cancelled("logits: cancelled before all were computed"))


class Generation(Sequence):
    """Continues a prompt until an end token, a stop text or `max_tokens`.

    Args:
        prompt_ids: at least one token.
        params: how tokens are chosen and where it ends; max_tokens within the context.
        end_ids: the tokens that end it.
        decoder: makes text of ids.
        on_chunk: the engine thread calls it with every chunk, and with None after an error; must be quick.
    """

    def __init__(
        self,
        prompt_ids: Iterable[int],
        params: SamplingParams,
        *,
        end_ids: frozenset[int],
        decoder: TextDecoder,
        on_chunk: Callable[[Chunk | None], None] | None = None,
    ) -> None:
        super().__init__(prompt_ids)
        self.n_prompt = len(self.token_ids)
        self.max_tokens = params.max_tokens
        self.sampling = params.row
        self.seed = draw_seed() if params.seed is None else params.seed
        self.result: GenerationResult | None = None
        self._end_ids = end_ids
        self._decoder = decoder
        self._stops = StopTexts(params.stop_texts)
        self._on_chunk = on_chunk
        self._tokens: list[int] = []
        self._pieces: list[str] = []
        self._first_token_s = self._last_token_s = 0.0

    def uniform(self, position: int) -> float:
        """See Sequence."""
        return uniform(self.seed, 0, position + 1 - self.n_prompt)

    def take(self, outputs: Outputs, first_row: int, n_rows: int) -> None:
        """See Sequence."""
        token = int(outputs.sampled(first_row + n_rows)[first_row])
        if token < 0:
            raise FloatingPointError("the model's logits are infinite or NaN: no token can be chosen")
        self._last_token_s = time.perf_counter()
        self._first_token_s = self._first_token_s or self._last_token_s
        self._tokens.append(token)
        if token in self._end_ids:
            self.finish("stop", token)
            return
        text, is_stopped = self._stops.push(self._decoder.push(token))
        self._pieces.append(text)
        if is_stopped:
            self._close("stop", token, text)
        elif len(self._tokens) == self.max_tokens:
            self.finish("length", token, text)
        else:
            self.token_ids.append(token)
            if self._on_chunk:
                self._on_chunk(Chunk(text, token))

    def finish(self, reason: FinishReason, token: int | None = None, text: str = "") -> None:
        """Ends it after `token`, whose text is `text`, with what was held back until now."""
        rest, is_stopped = self._stops.push(self._decoder.flush())
        if not is_stopped:
            rest += self._stops.flush()
        self._pieces.append(rest)
        self._close("stop" if is_stopped else reason, token, text + rest)

    def finish_cancelled(self) -> None:
        """See Sequence."""
        self.finish("cancelled")

    def fail(self, error: BaseException) -> None:
        """See Sequence."""
        if self.is_finished:
            return
        super().fail(error)
        if self._on_chunk:
            self._on_chunk(None)

    def _close(self, reason: FinishReason, token: int | None, text: str) -> None:
        usage = Usage(self.n_prompt, len(self._tokens))
        self.result = GenerationResult(
            "".join(self._pieces), self._tokens, reason, None, usage, self._timings(), self.seed
        )
        self._open_gate()
        if self._on_chunk:
            self._on_chunk(Chunk(text, token, reason, self.result))

    def _timings(self) -> Timings:
        prefill_s = self._first_token_s - self.started_s if self._tokens else 0.0
        decode_s = self._last_token_s - self._first_token_s
        return Timings(
            first_token_s=self._first_token_s - self.submitted_s if self._tokens else 0.0,
            prefill_s=prefill_s,
            decode_s=decode_s,
            total_s=time.perf_counter() - self.submitted_s,
            prefill_tokens_per_s=self.n_prompt / prefill_s if prefill_s else 0.0,
            decode_tokens_per_s=(len(self._tokens) - 1) / decode_s if decode_s else 0.0,
        )


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

    def flush(self) -> str:
        """What was held back."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with, less than all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def token_loss(logits: npt.NDArray[np.float32], id: int) -> float:
    """-log p of a token under a row of logits."""
    import numpy as np

    highest = float(logits.max())
    mass = np.exp(logits - np.float32(highest)).sum(dtype=np.float64)
    return math.log(mass) + highest - float(logits[id])
