"""What a generation gives back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lanner._records import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

FinishReason = Literal["stop", "length", "cancelled", "deadline"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request; `cached_tokens` of the prompt were found in the cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in seconds, and what became of drafts; 0 for what did not happen.

    Attributes:
        first_token_s: from the request to its first token, waiting for other requests included.
        prefill_s: from the start of the first step of the prompt to the first token.
        decode_s: from the first token to the last.
        total_s: from the request to its end.
        prefill_tokens_per_s: prompt tokens by prefill_s.
        decode_tokens_per_s: tokens after the first by decode_s.
        draft_steps: steps that verified drafts, where `speculate` was asked for.
        drafted_tokens: tokens that were guessed for them.
        accepted_tokens: those of them that are in the text.
    """

    first_token_s: float
    prefill_s: float
    decode_s: float
    total_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    draft_steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def accepted_per_draft_step(self) -> float:
        """Tokens that such a step gave beside the one that every step gives, on average."""
        return self.accepted_tokens / self.draft_steps if self.draft_steps else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Logprobs:
    """Natural logarithms of the model's own probabilities, before penalties, temperature and the like.

    Attributes:
        token_ids: int32 (n,), the tokens in question.
        token_logprobs: float32 (n,), of each given what is before it.
        top_ids: int32 (n, k), the k likeliest tokens at each place, likeliest first, lower ids first on ties.
        top_logprobs: float32 (n, k), of these.
    """

    token_ids: npt.NDArray[np.int32]
    token_logprobs: npt.NDArray[np.float32]
    top_ids: npt.NDArray[np.int32]
    top_logprobs: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def joined(cls, parts: Sequence[Logprobs], k: int) -> Logprobs:
        """Parts one after the other; without any, no tokens with k columns."""
        import numpy as np

        empty = cls(
            np.empty(0, np.int32),
            np.empty(0, np.float32),
            np.empty((0, k), np.int32),
            np.empty((0, k), np.float32),
        )
        columns = [[getattr(part, name) for part in (empty, *parts)] for name in cls.__slots__]
        return cls(*map(np.concatenate, columns))


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished generation; `str()` of it is its text.

    Attributes:
        text: what was generated, without end tokens and without the stop text.
        tokens: every id that was generated, the one that ended it included.
        finish_reason: "stop" (an end token or a stop text), "length" (max_tokens or context), "cancelled",
            "deadline".
        logprobs: of `tokens`, where they were asked for.
        usage: tokens of prompt and completion.
        timings: where the time went.
        seed: repeats the generation, also where none was given; of n texts all of them, with the same n.
        prompt_logprobs: of the tokens of the prompt but the first, where they were asked for.
        score: of beam search, the sum of the log-probabilities of `tokens` / their number ** length_penalty.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    logprobs: Logprobs | None
    usage: Usage
    timings: Timings
    seed: int
    prompt_logprobs: Logprobs | None = None
    score: float | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Chunk:
    """One token of a stream.

    Attributes:
        text: the text that is now certain: "" inside a character of several tokens, and while it may still
            turn out to be the start of a stop text. All chunks together have the text of the result.
        token: its id; None where the stream ends without a further token.
        finish_reason: None but for the last chunk.
        result: the whole generation, in the last chunk.
    """

    text: str
    token: int | None
    finish_reason: FinishReason | None = None
    result: GenerationResult | None = None
