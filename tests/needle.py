"""The needle: a prompt whose answer is compared to the last bit, and a look at the steps that compute it."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from lanner._core import PAGE_POSITIONS as PAGE
from lanner.handle import Handle
from lanner.llm import Model
from lanner.result import GenerationResult
from lanner.scheduler import Scheduler

LIMIT_S = 300.0  # for what takes seconds on a quiet machine: only a hang is that long

KINDS = {
    "greedy": {"temperature": 0.0, "seed": 7},
    "seeded": {"temperature": 1.2, "top_k": 50, "top_p": 0.95, "seed": 7},
}


@dataclass(frozen=True)
class Needle:
    """A prompt and how many tokens are asked for.

    Its last page has room for what is generated, so that a known number of pages holds all of it.
    """

    ids: list[int]
    n_new: int

    def __post_init__(self) -> None:
        assert len(self.ids) % PAGE >= 4
        assert self.n_pages == len(self.ids) // PAGE + 1

    @property
    def n_pages(self) -> int:
        return -(-(len(self.ids) + self.n_new) // PAGE)


@dataclass(eq=False)
class Answer:
    """What came of a request: the bits of `rows` (n_new, vocab_size), where they were looked at, included."""

    result: GenerationResult
    text: str  # as it was put together from chunks
    rows: list[np.ndarray] = field(default_factory=list)


def ask(model: Model, needle: Needle, how: str = "generate", *, looks: bool = True, **options) -> Answer:
    """The needle's answer, by "generate", "stream" or "submit".

    With `looks` a logits_processor keeps the logits, and the engine draws the tokens; else the program does.
    """
    rows: list[np.ndarray] = []
    options = {"max_tokens": needle.n_new, "ignore_eos": True, "logprobs": 3} | options
    if looks:
        options["logits_processor"] = lambda _, row: rows.append(row.copy())
    if how == "stream":
        chunks = list(model.stream(needle.ids, **options))
        return Answer(chunks[-1].result, "".join(chunk.text for chunk in chunks), rows)
    if how == "submit":
        result = model.submit(needle.ids, **options).result(timeout=LIMIT_S)
    else:
        result = model.generate(needle.ids, **options)
    return Answer(result, result.text, rows)


def assert_same(found: Answer, wanted: Answer) -> None:
    assert found.result.tokens == wanted.result.tokens
    assert found.text == found.result.text == wanted.text
    for name in ("token_logprobs", "top_ids", "top_logprobs"):
        assert_same_bits(getattr(found.result.logprobs, name), getattr(wanted.result.logprobs, name))
    if found.rows:
        assert_same_bits(np.stack(found.rows), np.stack(wanted.rows))


def assert_same_bits(found: np.ndarray, wanted: np.ndarray) -> None:
    """Zeros of different sign differ."""
    assert found.dtype == wanted.dtype
    assert np.array_equal(found.view(np.uint32), wanted.view(np.uint32))


# --- steps --------------------------------------------------------------------------------------------------
@dataclass
class Seen:
    """What the steps of a needle were like: sequences in each, its tokens in all, how often it gave way."""

    widths: list[int] = field(default_factory=list)
    n_computed: int = 0
    n_preempted: int = 0


@contextmanager
def watched(
    model: Model, needle: Needle, *, n_before: int = 0, then: Callable[[], object] | None = None
) -> Iterator[Seen]:
    """Looks at the steps of an engine; `then` is called once the needle has n_before tokens of its own.

    It is called in the engine thread between two steps, so that what it submits comes at the same step in
    every run. Nor do the times that steps take decide how much of a prompt has room beside decodes.
    """
    scheduler, prompt, seen = model._engine._scheduler, array("i", needle.ids), Seen()
    commit, preempt, room = scheduler.commit, scheduler._preempt, scheduler._times.prompt_tokens
    waiting = [then] if then else []

    def is_needle(sequence) -> bool:
        return sequence.token_ids[: len(prompt)] == prompt

    def watched_commit(chunks, seconds: float) -> None:
        commit(chunks, seconds)
        for sequence, _, n_tokens, _ in chunks:
            if is_needle(sequence):
                seen.widths.append(len(chunks))
                seen.n_computed += n_tokens
                if sequence.n_cached >= len(prompt) + n_before and waiting:
                    waiting.pop()()

    def watched_preempt(sequence) -> None:
        seen.n_preempted += is_needle(sequence)
        preempt(sequence)

    scheduler.commit, scheduler._preempt = watched_commit, watched_preempt
    scheduler._times.prompt_tokens = lambda n_decodes: 128
    try:
        yield seen
    finally:
        scheduler.commit, scheduler._preempt, scheduler._times.prompt_tokens = commit, preempt, room
    assert not waiting


def settle(model: Model) -> None:
    """Waits until the engine has let go of all that it ran."""
    end = time.monotonic() + LIMIT_S
    while len(model._engine._scheduler):
        assert time.monotonic() < end
        time.sleep(0.001)


def forget(model: Model) -> None:
    """Empties the prefix cache."""
    settle(model)
    model._engine._scheduler.pages.clear_cache()


@contextmanager
def few_pages(model: Model, n_pages: int) -> Iterator[None]:
    """An engine that has n_pages in every group of layers, none of them cached."""
    settle(model)
    engine = model._engine
    scheduler, step = engine._scheduler, engine.decoder.step
    engine._scheduler = Scheduler(
        max_tokens=step.max_tokens,
        max_outputs=step.max_outputs,
        max_seqs=step.max_seqs,
        page_groups=[(n_pages, n_pages, group.window) for group in engine.decoder.page_groups],
    )
    try:
        yield
        settle(model)
    finally:
        engine._scheduler = scheduler


# --- others -------------------------------------------------------------------------------------------------
_STYLES = (
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 20, "logprobs": 2},
    {"temperature": 1.0, "typical_p": 0.9},
    {"repetition_penalty": 1.3, "penalty_window": 16},
    {"frequency_penalty": 0.5, "bad_words": "the"},
)


def crowd(model: Model, needle: Needle, n: int) -> list[Handle]:
    """Handles of n requests that go on until they are cancelled; the first four begin as the needle does.

    Returns once as many of them as a step has room for are past their prompt.
    """
    rng, handles = random.Random(n), []
    for i in range(n):
        start = needle.ids[: 40 if i < 4 else 0]
        own = [rng.randrange(1000, 40_000) for _ in range(rng.randrange(1, 4))]
        options = _STYLES[i % len(_STYLES)]
        handles.append(model.submit([*start, *own], max_tokens=300, ignore_eos=True, seed=i, **options))
    step, end = model._engine.decoder.step, time.monotonic() + LIMIT_S
    n_begun = min(n, step.max_tokens, step.max_seqs)
    while sum(bool(handle._generations[0]._tokens) for handle in handles) < n_begun:
        assert time.monotonic() < end
        time.sleep(0.005)
    return handles


def disperse(handles: list[Handle]) -> None:
    """Cancels a crowd, none of which has ended before."""
    assert not any(handle.done() for handle in handles)
    for handle in handles:
        handle.cancel()
    assert {handle.result(timeout=LIMIT_S).finish_reason for handle in handles} <= {"cancelled"}
