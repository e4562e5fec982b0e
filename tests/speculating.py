"""Models without weights that make drafts wherever they can, and texts that repeat themselves."""

from __future__ import annotations

import time
from contextlib import contextmanager

import numpy as np

from fake_decoder import VOCAB_SIZE, fake_model, hashed

LIMIT_S = 20.0  # for what takes milliseconds: only a hang is that long


class Free:
    """Costs under which drafts cost nothing: as many are made as there are chances for."""

    def observe(self, n_tokens, seconds):
        pass

    def seconds(self, n_tokens):
        return 1.0

    def cost(self, n_tokens):
        return 1.0


def eager(model):
    model._engine._scheduler._plan.costs = Free()
    return model


@contextmanager
def eager_models():
    """make(**options) gives such a model and its decoder; they are closed at the end."""
    models = []

    def make(**options):
        options = {"max_seqs": 4, "max_tokens": 48, "max_outputs": 40} | options
        model, decoder = fake_model(**options)
        models.append(model)
        return eager(model), decoder

    try:
        yield make
    finally:
        for model in models:
            model.close()


def few(ids):
    """Logits of few likely tokens, which depend on the last two ids alone: texts that repeat themselves."""
    logits = np.full(VOCAB_SIZE, -100, np.float32)
    logits[40:46] = hashed(ids[-2:])[:6]
    return logits


def periodic(period):
    """Every token is the one `period` tokens before, but for one of forty."""

    def logits(ids):
        row = hashed(ids[-3:]) * 0.1
        if len(ids) > period and sum(ids[-3:]) % 40:
            row[ids[-period]] += 30
        return row

    return logits


LOGITS = {"few": few, "periodic": periodic(17), "hashed": hashed}


def same(found, wanted):
    assert found.tokens == wanted.tokens
    assert found.text == wanted.text
    assert found.finish_reason == wanted.finish_reason
    for name in ("logprobs", "prompt_logprobs"):
        mine, theirs = getattr(found, name), getattr(wanted, name)
        assert (mine is None) == (theirs is None)
        for column in () if mine is None else ("token_ids", "token_logprobs", "top_ids", "top_logprobs"):
            assert np.array_equal(getattr(mine, column), getattr(theirs, column))
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (
        wanted.usage.prompt_tokens, wanted.usage.completion_tokens,
    )  # fmt: skip
    assert (wanted.timings.drafted_tokens, wanted.timings.draft_steps) == (0, 0)
    timings = found.timings
    assert timings.accepted_tokens <= min(timings.drafted_tokens, len(found.tokens))
    assert timings.draft_steps <= timings.drafted_tokens


def settle(*models):
    end = time.monotonic() + LIMIT_S
    for model in models:
        scheduler = model._engine._scheduler
        while len(scheduler) or scheduler._resting or not model._engine._inbox.empty():
            assert time.monotonic() < end
            time.sleep(0.001)
