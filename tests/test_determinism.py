"""The needle test: the same bits alone and in a crowd, however a step is cut and whatever the cache has.

A few arrangements belong to the ordinary tests; `make test-determinism` takes all.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest

import lanner
from conftest import golden, model_path
from lanner import catalog
from lanner._core import PAGE_POSITIONS as PAGE
from needle import (
    KINDS,
    LIMIT_S,
    Answer,
    Needle,
    ask,
    assert_same,
    assert_same_bits,
    crowd,
    disperse,
    few_pages,
    forget,
    watched,
)


class Setup(NamedTuple):
    """A loaded model, and the largest step that it may run."""

    model: str
    n_threads: int
    chunk: int
    kv_dtype: str

    def load(self) -> lanner.Model:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lanner.decoder.CHUNK_TOKENS", self.chunk)
            return lanner.load(self.model, context=1024, threads=self.n_threads, kv_dtype=self.kv_dtype)

    @property
    def max_seqs(self) -> int:
        """Sequences of a step: each has a token in it."""
        return min(64, self.chunk)


# Each number of threads and each size of a chunk once; many threads where there are few steps.
ORDINARY = [
    Setup("smollm2", 1, 1, "f16"),
    Setup("smollm2", 2, 7, "f16"),
    Setup("smollm2", 4, 64, "f16"),
    Setup("smollm2", 3, 512, "q8"),
]
FULL = [
    *(Setup("smollm2", n_threads, chunk, "f16") for n_threads in (1, 2, 3, 4) for chunk in (1, 7, 64, 512)),
    *(Setup("smollm2", n_threads, chunk, "q8") for n_threads, chunk in ((1, 64), (2, 512), (3, 7), (4, 1))),
]
# Windows of 512 positions in five of six layers.
WINDOWS = [Setup("gemma3-270m", 2, 512, "f16"), Setup("gemma3-270m", 1, 512, "q8")]


def params() -> Iterator[object]:
    for setup in [*ORDINARY, *(each for each in FULL if each not in ORDINARY), *WINDOWS]:
        marks = [] if setup in ORDINARY else [pytest.mark.determinism]
        yield pytest.param(setup, marks=marks, id="-".join(map(str, setup)))


@pytest.fixture(scope="module", params=params())
def setup(request: pytest.FixtureRequest) -> Setup:
    name = request.param.model
    if not os.environ.get("LANNER_REQUIRE_MODELS") and name == "gemma3-270m":
        entry = catalog.find(name)
        if entry is None or catalog.local_path(entry) is None:
            pytest.skip(f"the model {name} is not in the cache")
    model_path(name)
    return request.param


@pytest.fixture(scope="module")
def model(setup: Setup) -> Iterator[lanner.Model]:
    with setup.load() as model:
        yield model


def needle_of(setup: Setup) -> Needle:
    """Of three pages; or longer than the parts that attention cuts a cache into, and than a window."""
    name = {"smollm2": "smollm2-135m-q4_1", "gemma3-270m": "gemma-3-270m-q4_k_m"}[setup.model]
    text = [id for i in range(8) for id in golden(name)[f"p{i}_ids"].tolist()]
    n = 676 if setup.model == "gemma3-270m" else 260 if setup.chunk == 512 else 68
    return Needle((3 * text)[:n], 12)


MOST_LOGITS = 260
"""Rows of logits before the text: all of smollm2's needle; of 262144 entries more would take too long."""


@pytest.fixture
def needle(setup: Setup) -> Needle:
    return needle_of(setup)


class Reference(NamedTuple):
    """What one thread computes of the needle alone, in a cache that is empty."""

    logits: np.ndarray
    answers: dict[str, Answer]
    samples: list[lanner.GenerationResult]


@pytest.fixture(scope="module")
def references() -> dict[object, Reference]:
    return {}


@pytest.fixture
def reference(setup: Setup, references: dict[object, Reference]) -> Reference:
    needle = needle_of(setup)
    key = (setup.model, setup.kv_dtype, len(needle.ids))
    if key not in references:
        with setup._replace(n_threads=1, chunk=512).load() as model:
            logits, answers = model.logits(needle.ids[:MOST_LOGITS]), {}
            for kind, options in KINDS.items():
                forget(model)
                answers[kind] = ask(model, needle, **options)
            forget(model)
            samples = model.generate(needle.ids, max_tokens=8, ignore_eos=True, n=3, **KINDS["seeded"])
        references[key] = Reference(logits, answers, samples)
    return references[key]


def test_the_reference_is_worth_comparing_with(setup: Setup, needle: Needle, reference: Reference) -> None:
    greedy, seeded = (reference.answers[kind] for kind in KINDS)
    assert np.isfinite(reference.logits).all()
    for answer in (greedy, seeded):
        assert len(answer.rows) == needle.n_new
        if len(needle.ids) == len(reference.logits):
            assert_same_bits(answer.rows[0], reference.logits[-1])  # after the prompt, before any choice
    assert greedy.result.tokens == [int(row.argmax()) for row in greedy.rows]
    assert greedy.result.tokens != seeded.result.tokens
    assert len({tuple(sample.tokens) for sample in reference.samples}) == 3


def test_alone(setup: Setup, model: lanner.Model, needle: Needle, reference: Reference) -> None:
    """In an empty cache and in one that has the prompt; by one call or another; with others of one call."""
    forget(model)
    assert_same_bits(model.logits(needle.ids[:MOST_LOGITS]), reference.logits)
    n_cached = (len(needle.ids) - 1) // PAGE * PAGE
    for kind, options in KINDS.items():
        forget(model)
        for how, looks, n_found in (
            ("generate", True, 0),
            ("stream", False, n_cached),
            ("submit", True, n_cached),
        ):
            answer = ask(model, needle, how, looks=looks, **options)
            assert answer.result.usage.cached_tokens == n_found
            assert_same(answer, reference.answers[kind])
    lists = model.generate(
        [needle.ids, needle.ids[:40]], max_tokens=8, ignore_eos=True, n=3, **KINDS["seeded"]
    )
    for found, wanted in zip(lists[0], reference.samples, strict=True):
        assert (found.tokens, found.text) == (wanted.tokens, wanted.text)


def test_among_63_others(setup: Setup, model: lanner.Model, needle: Needle, reference: Reference) -> None:
    """Of which as many run as a step has tokens for; one comes in between that takes the place of another.

    The needle's logits, its greedy and its seeded answer are three of the 64.
    """
    forget(model)
    is_wide = setup.max_seqs == 64
    priority = 0 if is_wide else 1  # where the others fill all places, it would wait for their end
    urgent = []

    def come_between() -> None:
        urgent.append(model.submit([1, 2, 3], max_tokens=2, priority=priority + 1))

    others = crowd(model, needle, 61)
    with ThreadPoolExecutor(3) as callers, watched(model, needle, n_before=3, then=come_between) as seen:
        logits = callers.submit(model.logits, needle.ids[:4]) if is_wide else None
        looks = {"greedy": True, "seeded": False}
        answers = {
            kind: callers.submit(
                ask, model, needle, "stream", looks=looks[kind], priority=priority, **options
            )
            for kind, options in KINDS.items()
        }
        for kind, answer in answers.items():
            assert_same(answer.result(LIMIT_S), reference.answers[kind])
        assert urgent[0].result(timeout=LIMIT_S)
        if logits:
            assert_same_bits(logits.result(LIMIT_S), reference.logits[:4])
    disperse(others)
    assert max(seen.widths) == setup.max_seqs
    assert min(seen.widths) >= setup.max_seqs - 2  # the others of the three come later and end sooner
    if setup.max_seqs == 1:
        assert seen.n_preempted >= 1


def test_after_it_lost_its_pages(
    setup: Setup, model: lanner.Model, needle: Needle, reference: Reference
) -> None:
    """Another takes them as it grows, and then one that was kept for the prefix: it is computed again."""
    rival, kind = [], ("greedy", "seeded")[setup.n_threads % 2]

    def grow() -> None:  # from one page to three, where there is room for one beside the needle's
        ids = needle.ids[1 : PAGE - 1]
        rival.append(model.submit(ids, max_tokens=PAGE + 4, ignore_eos=True, priority=1))

    with few_pages(model, needle.n_pages + 1), watched(model, needle, n_before=1, then=grow) as seen:
        answer = ask(model, needle, **KINDS[kind])
        assert rival[0].result(timeout=LIMIT_S).finish_reason == "length"
    assert_same(answer, reference.answers[kind])
    assert seen.n_preempted == 1
    assert seen.n_computed >= len(needle.ids) + needle.n_new - 1 + PAGE


class Told:
    """A drafter that knows the answer, and says something else in every third place."""

    step_s = 0.0

    def __init__(self, ids: array[int], answer: list[int]) -> None:
        self._ids, self._answer, self._n_prompt, self._n_asked = ids, answer, len(ids), 0

    def follow(self, turn: int) -> None:
        pass

    def chances(self, n_most: int) -> list[float]:
        return [1.0] * min(n_most, 5)

    def ask(self, n_drafts: int) -> None:
        self._n_asked = n_drafts

    def answer(self, deadline_s: float) -> array[int]:
        at = len(self._ids) - self._n_prompt
        guessed = self._answer[at : at + self._n_asked]
        return array("i", [id + 1 if (at + i) % 3 == 2 else id for i, id in enumerate(guessed)])

    def end(self) -> None:
        pass


def test_with_drafts(
    setup: Setup, model: lanner.Model, needle: Needle, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty cache, and in one that has what drafts left behind."""
    monkeypatch.setattr(model._engine._scheduler._plan.costs, "seconds", lambda n_tokens: 1.0)
    for kind, options in KINDS.items():
        forget(model)
        wanted = reference.answers[kind]
        monkeypatch.setattr("lanner.drafts.Copying", lambda ids, w=wanted: Told(ids, w.result.tokens))
        for how in ("generate", "stream"):
            answer = ask(model, needle, how, looks=how == "generate", speculate="lookup", **options)
            assert_same(answer, wanted)
            timings = answer.result.timings
            assert setup.chunk == 1 or timings.drafted_tokens > timings.accepted_tokens > needle.n_new // 3
