"""Beam search on the engine: pages, company, cancellation, stop texts.

Its choices are those of `lanner.beam`, which is compared with transformers elsewhere. Here every logit
depends on every token that the cache gives.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fake_decoder import EOS, PAGE, VOCAB_SIZE, FakeDecoder, Logits, fake_model, hashed, tokenizer
from lanner import OutOfMemoryBudget
from lanner.beam import BeamScores, Hypothesis
from lanner.sampling import SamplingParams

LIMIT_S = 20.0
MAX_TOKENS = 40
RNG = np.random.default_rng(5)
PROMPTS = [RNG.integers(40, 240, n).tolist() for n in (1, 20, 31, 32, 33, 64, 90)]


def ending(ids: Sequence[int]) -> np.ndarray:
    """Logits under which texts also end."""
    logits = hashed(ids)
    logits[EOS] = 8 if sum(ids) % 13 == 0 else 3 if sum(ids) % 3 == 0 else -100
    return logits


def naive(prompt: Sequence[int], n: int, logits: Logits = ending, **options: Any) -> list[Hypothesis]:
    """The n best hypotheses without pages, steps and engine."""
    max_tokens = options.pop("max_tokens", MAX_TOKENS)
    stop, live = options.pop("stop", None), [()]

    def stops(parent: int, token: int) -> bool:
        return stop in tokenizer().decode([*live[parent], token], continues=True)

    options |= {"max_tokens": max_tokens, "end_ids": frozenset([EOS]), "stops": stops if stop else None}
    scores = BeamScores(options.pop("num_beams"), **options)
    decoder = FakeDecoder(max_outputs=1)
    while not scores.is_done:
        candidates = []
        for ids in live:
            decoder._logits[0] = logits([*prompt, *ids])
            candidates.append(decoder.candidates(0, None, min(scores.n_candidates, VOCAB_SIZE)))
        live = [(*live[beam.parent], beam.token) for beam in scores.advance(candidates)]
    return scores.hypotheses[:n]


def found(results: Any) -> list[Hypothesis]:
    results = results if isinstance(results, list) else [results]
    for result in results:
        assert result.usage.completion_tokens == len(result.tokens)
        ids = result.tokens[:-1] if result.tokens[-1:] == [EOS] else result.tokens
        assert result.text == tokenizer().decode(ids, continues=True)
    return [Hypothesis(tuple(result.tokens), result.score, result.finish_reason) for result in results]


@pytest.fixture
def make() -> Any:
    models = []

    def make(**options: Any) -> Any:
        options = {"logits": ending, "max_seqs": 8, "max_outputs": 8, "n_pages": 64} | options
        model, decoder = fake_model(**options)
        models.append(model)
        return model, decoder

    yield make
    for model in models:
        if not model.is_closed:
            assert_clean(model)
        model.close()


def assert_clean(model: Any) -> None:
    """Nothing runs, and all pages are free or only cached."""
    end = time.monotonic() + LIMIT_S
    scheduler = model._engine._scheduler
    while len(scheduler):
        assert time.monotonic() < end
        time.sleep(0.001)
    pages = scheduler.pages
    pages.clear_cache()
    assert pages.n_free(0) == pages.n_pages(0)


# --- what it finds ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("num_beams", [2, 3, 5])
def test_searches(num_beams: int, early_stopping: bool, make: Any) -> None:
    model, decoder = make()
    options = {"num_beams": num_beams, "early_stopping": early_stopping, "length_penalty": 0.7}
    for prompt in PROMPTS:
        n = num_beams - 1
        assert found(model.generate(prompt, max_tokens=MAX_TOKENS, n=n, **options)) == naive(
            prompt, n, **options
        )
    assert decoder.n_copies > 0  # pages that a fork shares are copied before one of both writes


@pytest.mark.parametrize(
    "options",
    [
        {"max_seqs": 3, "max_outputs": 3},  # fewer than beams: they go on in turns
        {"max_seqs": 2, "max_tokens": 2, "max_outputs": 2},
        {"windows": (0, 40)},
    ],
)
def test_in_any_steps(options: dict[str, Any], make: Any) -> None:
    model, _ = make(**options)
    prompt = PROMPTS[4]
    assert found(model.generate(prompt, max_tokens=90, num_beams=5, n=5)) == naive(
        prompt, 5, num_beams=5, max_tokens=90
    )


@pytest.mark.parametrize("n_pages", [64, 14])
def test_in_company(n_pages: int, make: Any) -> None:
    """With few pages they take them from each other, and compute again what they lost."""
    model, decoder = make(n_pages=n_pages, max_seqs=16, max_outputs=16)
    wanted = [naive(prompt, 2, num_beams=3) for prompt in PROMPTS]
    plain = [model.generate(prompt, max_tokens=MAX_TOKENS).tokens for prompt in PROMPTS]
    n_alone = sum(size for size, _ in decoder.step_sizes)
    handles = [model.submit(prompt, max_tokens=MAX_TOKENS) for prompt in PROMPTS]
    given = model.generate(PROMPTS, max_tokens=MAX_TOKENS, num_beams=3, n=2)
    assert [found(results) for results in given] == wanted
    assert [handle.result(LIMIT_S).tokens for handle in handles] == plain
    n_together = sum(size for size, _ in decoder.step_sizes) - n_alone
    assert n_pages == 64 or n_together > 0


def test_a_prompt_that_is_cached(make: Any) -> None:
    model, _ = make()
    wanted = naive(PROMPTS[5], 1, num_beams=3)
    cached = []
    for _ in range(2):
        result = model.generate(PROMPTS[5], max_tokens=MAX_TOKENS, num_beams=3)
        assert found(result) == wanted
        cached.append(result.usage.cached_tokens)
    assert cached == [0, 32]  # of 64 tokens the last is computed, whose page is then not taken


def test_results_tell_how_it_was(make: Any) -> None:
    model, _ = make(layer_s=0.001)
    best, second = model.generate(PROMPTS[1], max_tokens=MAX_TOKENS, num_beams=4, n=2, seed=3)
    assert best.score > second.score and best.seed == second.seed == 3
    assert best.usage.prompt_tokens == 20
    timings = best.timings
    assert 0 < timings.prefill_s <= timings.first_token_s < timings.total_s
    assert timings.decode_s > 0 and timings.decode_tokens_per_s > 0
    assert model.generate(PROMPTS[1], num_beams=4, max_tokens=0).tokens == []


# --- stop texts ---------------------------------------------------------------------------------------------
def test_stop_texts(make: Any) -> None:
    model, _ = make()
    n_stopped = 0
    for prompt in PROMPTS:
        free = model.generate(prompt, max_tokens=MAX_TOKENS, num_beams=3, n=3)
        texts = {result.text[5:end] for result in free for end in (6, 7)} - {""}
        # U+FFFD may stand for the beginning of a character that the next token completes.
        for stop in [text for text in texts if "\ufffd" not in text]:
            options = {"max_tokens": MAX_TOKENS, "num_beams": 3, "stop": stop}
            results = model.generate(prompt, n=3, **options)
            wanted = naive(prompt, 3, **options)
            assert [(tuple(each.tokens), each.score, each.finish_reason) for each in results] == wanted
            for result in results:
                whole = tokenizer().decode(result.tokens, continues=True)
                assert result.text == whole.partition(stop)[0]
                n_stopped += stop in whole
    assert n_stopped > 0


# --- ends before its time -----------------------------------------------------------------------------------
def test_cancelled(make: Any) -> None:
    model, decoder = make(layer_s=0.002)
    handle = model.submit(PROMPTS[1], max_tokens=200, num_beams=4, n=3)
    while decoder.n_steps < 8:
        time.sleep(0.001)
    handle.cancel()
    results = handle.result(LIMIT_S)
    assert {result.finish_reason for result in results} <= {"cancelled", "stop"} and handle.done()
    assert [result.score for result in results] == sorted((r.score for r in results), reverse=True)
    for result in results:
        total = naive_total(PROMPTS[1], result.tokens)
        assert result.score == pytest.approx(total / len(result.tokens), rel=1e-5)
    assert decoder.n_steps < 150


def naive_total(prompt: list[int], tokens: list[int]) -> float:
    logs = []
    for i, token in enumerate(tokens):
        row = ending([*prompt, *tokens[:i]]).astype(np.float64)
        logs.append(row[token] - np.log(np.exp(row).sum()))
    return sum(logs)


def test_cancelled_before_it_began(make: Any) -> None:
    model, decoder = make(layer_s=0.05)
    handle = model.submit(PROMPTS[6], num_beams=4, n=2)
    assert decoder.started.wait(LIMIT_S)
    handle.cancel()
    results = handle.result(LIMIT_S)
    assert [(result.finish_reason, result.tokens) for result in results] == [("cancelled", [])] * 2
    assert decoder.n_stopped == 1


def test_a_deadline(make: Any) -> None:
    """Also when the sequence that was submitted has long been left."""
    model, _ = make(layer_s=0.001, logits=hashed)
    handle = model.submit(PROMPTS[1], max_tokens=230, num_beams=4, n=4, deadline_ms=300)
    results = handle.result(LIMIT_S)
    assert [result.finish_reason for result in results] == ["deadline"] * 4
    assert 0 < len(results[0].tokens) < 100 and results[0].timings.total_s < LIMIT_S


def test_an_error_ends_all_of_it(make: Any) -> None:
    model, decoder = make()
    decoder.error = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        model.generate(PROMPTS[1], num_beams=4, n=2)
    bad = hashed(PROMPTS[1]) * np.nan

    def logits(ids: Sequence[int]) -> np.ndarray:
        return bad if len(ids) == 25 else ending(ids)

    model, _ = make(logits=logits)
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        model.generate(PROMPTS[1], num_beams=4, n=2)
    assert model.generate(PROMPTS[1], num_beams=4, max_tokens=4, n=2)


def test_a_cache_that_is_too_small(make: Any) -> None:
    """Where the pages suffice for one beam after the other, they take turns."""
    n_pages = -(-(len(PROMPTS[5]) + 9) // PAGE)
    model, _ = make(n_pages=n_pages)
    assert found(model.generate(PROMPTS[5], max_tokens=9, num_beams=4)) == naive(
        PROMPTS[5], 1, num_beams=4, max_tokens=9
    )
    model, _ = make(n_pages=n_pages - 1)
    with pytest.raises(OutOfMemoryBudget, match="too few"):
        model.generate(PROMPTS[5], max_tokens=9, num_beams=4)


def test_closing_ends_it(make: Any) -> None:
    model, decoder = make(layer_s=0.01)
    handle = model.submit(PROMPTS[1], max_tokens=200, num_beams=4, n=3)
    assert decoder.started.wait(LIMIT_S)
    model.close()
    assert {result.finish_reason for result in handle.result(LIMIT_S)} <= {"cancelled", "stop"}


# --- what is refused ----------------------------------------------------------------------------------------
def test_more_results_than_there_are_texts(make: Any) -> None:
    def two(ids: Sequence[int]) -> np.ndarray:
        logits = np.full(VOCAB_SIZE, -np.inf, np.float32)
        logits[[50, EOS]] = 0.0, -1.0
        return logits

    model, _ = make(logits=two)
    best, second = model.generate(PROMPTS[1], max_tokens=1, num_beams=4, n=2)
    assert (best.tokens, second.tokens) == ([50], [EOS])
    with pytest.raises(ValueError, match="n is 3, only 2 texts are possible"):
        model.generate(PROMPTS[1], max_tokens=1, num_beams=4, n=3)


def test_options_that_are_refused(make: Any) -> None:
    model, _ = make()
    with pytest.raises(ValueError, match=r"stream: .*num_beams is 2"):
        model.stream(PROMPTS[1], num_beams=2)
    for name in ("logprobs", "prompt_logprobs"):
        with pytest.raises(ValueError, match=f"{name} is 1, wanted None where num_beams is above 1"):
            SamplingParams(num_beams=2, **{name: 1})
