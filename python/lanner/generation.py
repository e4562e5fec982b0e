"""A prompt that is continued: token by token to its end, with the text that becomes of them."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from lanner.logprobs import LogprobCollector
from lanner.result import Chunk, FinishReason, GenerationResult, Timings, Usage
from lanner.sampling import SamplingParams, draw_seed, uniform
from lanner.sequence import GREEDY, NO_DRAFTS, Outputs, Sequence
from lanner.stop_texts import StopTexts

if TYPE_CHECKING:
    from lanner.logit_rules import LogitRules


class TextDecoder(Protocol):
    """Turns token ids that come one at a time into whole characters."""

    def push(self, id: int, /) -> str:
        """The text that this token completes."""

    def flush(self) -> str:
        """What is left at the end."""

    def fork(self) -> TextDecoder:
        """The same for other tokens that go on from here."""


class Generation(Sequence):
    """A prompt that is continued.

    Args:
        prompt_ids: at least one token.
        params: how tokens are chosen and where it ends; max_tokens within the context.
        end_ids: the tokens that end it.
        decoder: makes text of ids.
        rules: what changes its logits before a token is chosen, None where nothing does.
        index: which of the n samples of its request it is; each draws numbers of its own.
        on_chunk: the engine thread calls it with every chunk, and with None after an error; must be quick.
    """

    def __init__(
        self,
        prompt_ids: Iterable[int],
        params: SamplingParams,
        *,
        end_ids: frozenset[int],
        decoder: TextDecoder,
        rules: LogitRules | None = None,
        index: int = 0,
        on_chunk: Callable[[Chunk | None], None] | None = None,
    ) -> None:
        super().__init__(prompt_ids, priority=params.priority)
        if params.deadline_ms is not None:
            self.deadline_s = self.submitted_s + params.deadline_ms / 1000
        self._n_given = len(self.token_ids)
        self.n_prompt = self._n_given  # as it is counted in the result
        self.max_tokens = params.max_tokens
        self.seed = draw_seed() if params.seed is None else params.seed
        self.result: GenerationResult | None = None
        self._params = params
        self._rules = rules
        # Rules come between the logits and the choice, which the program then cannot make.
        self.sampling = params.row if rules is None else GREEDY
        self._index = index
        self._end_ids = end_ids
        self._decoder = decoder
        self._stops = StopTexts(params.stop_texts)
        self._on_chunk = on_chunk
        self._tokens: list[int] = []
        self._pieces: list[str] = []
        self._logprobs = LogprobCollector(params.logprobs)
        self._prompt_logprobs = LogprobCollector(params.prompt_logprobs)
        self._first_token_s = self._last_token_s = 0.0
        self._n_draft_steps = self._n_drafted = self._n_accepted = 0
        self._score: float | None = None

    def follow(self, leader: Generation) -> None:
        """Waits for another sample of the same prompt, to share what it computes."""
        self.leader, self._prompt_logprobs = leader, leader._prompt_logprobs

    @property
    def wanted_from(self) -> int:
        """See Sequence; of a prompt whose log-probabilities are wanted every row."""
        n_have = self._prompt_logprobs.n_rows
        if self._prompt_logprobs.is_wanted and n_have < self._n_given - 1:
            return n_have
        return len(self.token_ids) - 1

    @property
    def needs_no_step(self) -> bool:
        """Whether nothing is asked that the model would have to be run for."""
        return self.max_tokens == 0 and not self._prompt_logprobs.is_wanted

    @property
    def n_draftable(self) -> int:
        """See Sequence; the last token that it may have is chosen of a row, and needs none."""
        return self.max_tokens - len(self._tokens) - 1

    def uniform(self, position: int) -> float:
        """See Sequence."""
        return uniform(self.seed, self._index, position + 1 - self._n_given)

    def take(self, outputs: Outputs, first_row: int, n_rows: int) -> None:
        """See Sequence."""
        drafts, self.drafts = self.drafts, NO_DRAFTS
        n_rows -= len(drafts)
        position = self.n_cached - n_rows
        n_inside = min(n_rows, self._n_given - 1 - position)
        if n_inside > 0:
            n_known = self._prompt_logprobs.n_rows - position  # of another sample of the prompt
            known = self.token_ids[position + 1 + n_known : position + 1 + n_inside]
            self._prompt_logprobs.add(outputs, first_row + n_known, known)
        if n_inside == n_rows:
            return
        if self.max_tokens == 0:
            self.finish("length")
        else:
            self._take_verified(outputs, first_row + n_rows - 1, drafts)

    def _take_verified(self, outputs: Outputs, row: int, drafts: array[int]) -> None:
        """Takes the token of a row, and of each row behind it whose draft was the token before."""
        if drafts:
            self._n_draft_steps += 1
            self._n_drafted += len(drafts)
        for i in range(1 + len(drafts)):
            token = self._choose(outputs, row + i)
            is_right = i < len(drafts) and token == drafts[i]
            self._n_accepted += is_right
            self._take_token(token)
            if not is_right or self.is_finished:
                break
            self.n_cached += 1

    def _choose(self, outputs: Outputs, row: int) -> int:
        if self._rules is None:
            token = int(outputs.sampled(row + 1)[row])
        else:
            where = len(self.token_ids) - 1
            token = outputs.choose(row, self._rules, self._params.row, self.uniform(where))
            self._rules.push(token)
        if token < 0:
            raise FloatingPointError("the model's logits are infinite or NaN: no token can be chosen")
        self._logprobs.add(outputs, row, [token])
        return token

    def _take_token(self, token: int) -> None:
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

    def end(self, reason: FinishReason) -> None:
        """See Sequence."""
        if not self.is_finished:
            self.finish(reason)

    def replay(self, tokens: Iterable[int], reason: FinishReason, score: float, first_token_s: float) -> None:
        """Takes the tokens that a search has found, the first of them at first_token_s, and ends."""
        self._score, self._first_token_s = score, first_token_s
        for token in tokens:
            if not self.is_finished:
                self._take_token(token)
        if not self.is_finished:
            self.finish(reason)

    def fail(self, error: BaseException) -> None:
        """See Sequence."""
        if self.is_finished:
            return
        super().fail(error)
        if self._on_chunk:
            self._on_chunk(None)

    def _open_gate(self) -> None:
        super()._open_gate()
        if self.drafter is not None:
            self.drafter.end()

    def _close(self, reason: FinishReason, token: int | None, text: str) -> None:
        n_found = min(self.n_found, self.n_prompt)
        self.result = GenerationResult(
            text="".join(self._pieces),
            tokens=self._tokens,
            finish_reason=reason,
            logprobs=self._logprobs.result(),
            prompt_logprobs=self._prompt_logprobs.result(),
            usage=Usage(self.n_prompt, len(self._tokens), n_found),
            timings=self._timings(),
            seed=self.seed,
            score=self._score,
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
            draft_steps=self._n_draft_steps,
            drafted_tokens=self._n_drafted,
            accepted_tokens=self._n_accepted,
        )
