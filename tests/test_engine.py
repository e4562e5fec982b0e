"""The engine thread: cancellation, errors, closing."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

from fake_decoder import fake_model, naive
from lanner import Cancelled
from lanner.generation import Generation
from lanner.sampling import SamplingParams

LONG = list(range(40, 240))  # 13 steps of 16 tokens
LIMIT_S = 20.0  # for what takes milliseconds: only a hang is that long


@pytest.fixture
def make():
    models = []

    def make(**options):
        model, decoder = fake_model(**options)
        models.append(model)
        return model, decoder

    yield make
    for model in models:
        model.close()


def until(condition):
    """Waits for what another thread does."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


# --- cancel -------------------------------------------------------------------------------------------------
def test_cancel_stops_between_two_layers(make):
    model, decoder = make(layer_s=0.05)
    handle = model.submit(LONG)
    assert decoder.started.wait(LIMIT_S)
    handle.cancel()
    result = handle.result(timeout=LIMIT_S)
    assert (result.finish_reason, result.text, result.tokens) == ("cancelled", "", [])
    assert (decoder.n_steps, decoder.n_stopped) == (1, 1)


def test_cancel_keeps_what_was_generated(make):
    model, _ = make(layer_s=0.001)
    stream = model.stream(LONG[:20], max_tokens=200)
    first = [next(stream) for _ in range(5)]
    handle_tokens = [chunk.token for chunk in first]
    stream.close()
    assert list(stream) == []
    assert handle_tokens == naive(LONG[:20], 5)
    handle = model.submit(LONG[:20], max_tokens=200)
    until(lambda: len(handle._generations[0]._tokens) > 3)
    handle.cancel()
    result = handle.result(timeout=LIMIT_S)
    assert result.finish_reason == "cancelled"
    assert 0 < len(result.tokens) < 200
    assert result.tokens == naive(LONG[:20], len(result.tokens))
    assert result.text == model.tokenizer.decode(result.tokens)


def test_cancel_hits_its_own_request_alone(make):
    """Cancels fall before, into and after steps of their request; the others must not notice."""
    model, decoder = make(layer_s=0.0002)
    expected = naive(LONG[:40], 6)
    for i in range(60):
        doomed, kept = model.submit(LONG[: 1 + i % 50], max_tokens=8), model.submit(LONG[:40], max_tokens=6)
        time.sleep(i % 12 * 0.0004)
        doomed.cancel()
        result = kept.result(timeout=LIMIT_S)
        assert (result.tokens, result.finish_reason) == (expected, "length")
        assert doomed.result(timeout=LIMIT_S).finish_reason in ("cancelled", "length")
    assert decoder.n_stopped > 0


def test_cancel_of_what_waits_and_of_what_is_over(make):
    model, decoder = make(layer_s=0.002)
    running, waiting = model.submit(LONG, max_tokens=3), model.submit(LONG, max_tokens=3)
    waiting.cancel()
    assert running.result(timeout=LIMIT_S).finish_reason == "length"
    assert waiting.result(timeout=LIMIT_S).finish_reason == "cancelled"
    assert decoder.n_stopped == 0
    running.cancel()
    assert running.result().finish_reason == "length"
    assert model.generate("hello", max_tokens=2).finish_reason == "length"


def test_cancel_of_what_the_engine_has_not_yet_seen(make):
    model, decoder = make()
    handle = model.submit("a", max_tokens=1)
    handle.result(timeout=LIMIT_S)
    late = Generation(LONG, SamplingParams(), end_ids=frozenset(), decoder=model.tokenizer.stream())
    late.is_cancelled = True
    model._engine.submit([late])
    assert late.wait(LIMIT_S)
    assert late.result.finish_reason == "cancelled"
    assert decoder.n_steps == 1


def test_dropped_streams_and_interrupted_loops_end_their_generation(make):
    model, decoder = make(layer_s=0.005)
    with model.stream(LONG) as stream:
        next(stream)
    next(model.stream(LONG))
    model.stream(LONG)
    gc.collect()
    n_steps = decoder.n_steps
    model.generate("a", max_tokens=1)
    assert decoder.n_steps <= n_steps + 3  # what ran was stopped, what waited never ran


def test_pages_come_back(make):
    model, decoder = make(layer_s=0.0005)
    for i in range(10):
        model.submit(LONG).cancel()
        decoder.error = RuntimeError("broken") if i % 3 == 0 else None
        handle = model.submit(LONG, max_tokens=1)
        handle._generations[0].wait(LIMIT_S)
    until(lambda: len(model._engine._scheduler) == 0)
    assert model._engine._scheduler.pages.n_free(0) == decoder.page_groups[0][0]


# --- errors -------------------------------------------------------------------------------------------------
def test_errors_reach_the_caller_and_the_engine_survives(make):
    model, decoder = make()
    for call in (
        lambda: model.generate("hello"),
        lambda: model.generate(["hello", "there"]),
        lambda: list(model.stream("hello")),
        lambda: model.logits("hello"),
        lambda: model.submit("hello").result(timeout=LIMIT_S),
    ):
        decoder.error = RuntimeError("a kernel failed")
        with pytest.raises(RuntimeError, match="a kernel failed"):
            call()
        assert model.generate(LONG, max_tokens=4).tokens == naive(LONG, 4)


def test_a_cache_that_is_too_small(make):
    model, _ = make(n_pages=2)
    with pytest.raises(MemoryError, match=r"the cache has \d free pages of 32 positions"):
        model.generate(LONG)
    assert model.generate(LONG[:20], max_tokens=4).tokens == naive(LONG[:20], 4)


# --- close --------------------------------------------------------------------------------------------------
def test_close_ends_what_runs(make):
    model, decoder = make(layer_s=0.05)
    running, waiting, stream = model.submit(LONG), model.submit(LONG), model.stream(LONG)
    failed = []

    def score():
        with pytest.raises(Cancelled, match="cancelled before all rows were computed"):
            model.logits(LONG)
        failed.append(True)

    thread = threading.Thread(target=score)
    thread.start()
    assert decoder.started.wait(LIMIT_S)
    until(lambda: model._engine._inbox.qsize() + len(model._engine._scheduler) == 4)
    model.close()
    assert (decoder.n_steps, decoder.n_stopped) == (1, 1)
    assert running.result(timeout=LIMIT_S).finish_reason == "cancelled"
    assert waiting.result(timeout=LIMIT_S).finish_reason == "cancelled"
    assert [chunk.finish_reason for chunk in stream] == ["cancelled"]
    thread.join(LIMIT_S)
    assert failed == [True]


def test_a_closed_model_says_so(make):
    model, _ = make()
    with model as opened:
        assert opened is model
        model.generate("a", max_tokens=1)
    model.close()
    assert model.is_closed
    assert model.info().n_layers == 4
    for call in (model.generate, model.stream, model.submit, model.logits):
        with pytest.raises(RuntimeError, match=f"^{call.__name__}: the model is closed$"):
            call("hello")


def test_threads_start_late_and_end(make):
    before = set(threading.enumerate())
    model, decoder = make()
    assert set(threading.enumerate()) == before
    model.generate("a", max_tokens=1)
    assert {t.name for t in set(threading.enumerate()) - before} == {"lanner-engine"}
    freed = weakref.ref(decoder)
    model.close()
    assert set(threading.enumerate()) == before
    del decoder
    gc.collect()
    assert freed() is None


def test_a_dropped_model_ends_its_thread():
    before = set(threading.enumerate())
    model, _ = fake_model()
    stream = model.stream("hello", max_tokens=5)
    del model
    assert len(list(stream)) == 5  # the stream keeps it
    del stream
    gc.collect()
    until(lambda: set(threading.enumerate()) == before)


# --- what goes wrong in a request is its own ----------------------------------------------------------------
class Strange(Generation):
    """Fails where nothing is expected to fail."""

    def __init__(self, model, error, where):
        super().__init__(
            LONG[:20], SamplingParams(max_tokens=50), end_ids=frozenset(), decoder=model.tokenizer.stream()
        )
        self.strange, self.where = error, where

    def take(self, outputs, first_row, n_rows):
        if self.where == "take":
            raise self.strange
        super().take(outputs, first_row, n_rows)

    def finish(self, reason, token=None, text=""):
        if self.where == "end":
            raise self.strange
        super().finish(reason, token, text)


@pytest.mark.parametrize(
    ("error", "where"),
    [(ValueError(), "take"), (ValueError(), "end"), (SystemExit(3), "take"), (KeyboardInterrupt(), "take")],
    ids=repr,
)
def test_an_error_ends_its_request_alone(make, error, where):
    model, _ = make(max_seqs=4, layer_s=0.001)
    other, strange = model.submit(LONG[:40], max_tokens=30), Strange(model, error, where)
    model._engine.submit([strange])
    if where == "end":
        model._engine.cancel(strange)
    assert strange.wait(LIMIT_S)
    assert strange.error is error
    assert other.result(timeout=LIMIT_S).tokens == naive(LONG[:40], 30)
    assert model.generate([50], max_tokens=2).tokens == naive([50], 2)


def test_who_is_waited_for_cannot_wait(make):
    """As a logits_processor does that calls the model which calls it."""
    model, _ = make(max_seqs=4)
    seen = []

    class Curious(Strange):
        def take(self, outputs, first_row, n_rows):
            for call in (
                lambda: model.generate([50]),
                lambda: next(model.stream([50])),
                lambda: model.submit([50]).result(),
            ):
                with pytest.raises(RuntimeError, match="cannot wait for the model that waits for it"):
                    call()
            seen.append(True)
            Generation.take(self, outputs, first_row, n_rows)

    curious = Curious(model, None, "")
    curious.max_tokens = 1
    model._engine.submit([curious])
    assert curious.wait(LIMIT_S)
    assert seen == [True]
    assert curious.result.tokens == naive(LONG[:20], 1)


def test_many_deadlines_at_once(make):
    model, _ = make(max_seqs=4, layer_s=0.001)
    start = time.monotonic()
    handles = [model.submit([50 + i % 40], max_tokens=200, deadline_ms=100) for i in range(3000)]
    assert {handle.result(timeout=LIMIT_S).finish_reason for handle in handles} <= {"deadline", "stop"}
    assert time.monotonic() - start < LIMIT_S
    assert not model._engine._deadlines
