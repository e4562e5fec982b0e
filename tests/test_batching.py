"""Many requests through one engine: each gets what it would have got alone."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import numpy as np
import pytest

from fake_decoder import PAGE, fake_model, hashed, naive
from lanner.sampling import uniform

LONG = list(range(40, 240))
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


def wanted(prompt, n, seed=None, index=0):
    """What a request gives: greedy, or drawn at temperature 1."""
    if seed is None:
        return naive(prompt, n)
    return naive(prompt, n, lambda i: uniform(seed, index, i), 1.0)


def prompts(rng, count, most=120):
    """Some begin alike: a page, two, or a few tokens."""
    for _ in range(count):
        start = rng.choice((0, 50, 100))
        yield [40 + start + i for i in range(rng.randrange(1, most))] + [rng.randrange(40, 90)]


# --- the same as alone --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {"max_seqs": 8},
        {"max_seqs": 3, "max_tokens": 7, "max_outputs": 5},
        {"max_seqs": 8, "n_pages": 9},
        {"max_seqs": 8, "windows": (0, 20)},
        {"max_seqs": 8, "windows": (0, 20, 64), "n_pages": 10},
    ],
    ids=["batch", "small steps", "few pages", "window", "windows and few pages"],
)
def test_lists_give_what_single_prompts_give(make, options):
    model, decoder = make(**options)
    given = list(prompts(random.Random(0), 40))
    results = model.generate(given, max_tokens=30)
    assert [result.tokens for result in results] == [wanted(prompt, 30) for prompt in given]
    drawn = model.generate(given, max_tokens=30, temperature=1.0, seed=3)
    assert [result.tokens for result in drawn] == [wanted(prompt, 30, 3) for prompt in given]
    assert max(n_seqs for _, n_seqs in decoder.step_sizes) >= min(3, options["max_seqs"])
    pages, (n_pages, _, _) = model._engine._scheduler.pages, decoder.page_groups[0]
    assert [pages.n_free(group) for group in range(len(decoder.page_groups))] == [n_pages] * len(
        decoder.page_groups
    )


def test_callers_of_all_kinds_at_once(make):
    model, _ = make(max_seqs=6, n_pages=14, layer_s=0.0002)
    wrong = []

    def call(index):
        rng = random.Random(index)
        for prompt in prompts(rng, 12):
            n, seed = rng.randrange(1, 20), rng.choice((None, 1, 2))
            chosen = {"max_tokens": n} | ({} if seed is None else {"temperature": 1.0, "seed": seed})
            kind = rng.randrange(4)
            if kind == 0:
                tokens = model.generate(prompt, **chosen).tokens
            elif kind == 1:
                tokens = [chunk.token for chunk in model.stream(prompt, **chosen)]
            elif kind == 2:
                model.submit(prompt, **chosen).cancel()
                tokens = model.submit(prompt, priority=rng.randrange(3), **chosen).result(LIMIT_S).tokens
            else:
                tokens = wanted(prompt, n, seed)
                logits = model.logits(prompt[:20])
                if not np.array_equal(logits, [hashed(prompt[: i + 1]) for i in range(len(prompt[:20]))]):
                    wrong.append(("logits", prompt))
            if tokens != wanted(prompt, n, seed):
                wrong.append((kind, prompt, chosen))

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_no_prompts_give_no_results(make):
    assert make()[0].generate([]) == []


# --- a long prompt beside running texts ---------------------------------------------------------------------
def test_a_long_prompt_delays_a_stream_by_no_more_than_a_chunk(make):
    model, decoder = make(context=1024, max_tokens=64, max_seqs=4, layer_s=0.002, token_s=0.0005)
    stream = model.stream([45, 46], max_tokens=60, ignore_eos=True)
    for _ in range(3):
        next(stream)
    handle = model.submit([*LONG, *LONG, *LONG, *LONG], max_tokens=1)
    assert [chunk.token for chunk in stream] == naive_past_the_end([45, 46], 60)[3:]
    assert handle.result(LIMIT_S).tokens == wanted([*LONG, *LONG, *LONG, *LONG], 1)
    beside = [n_tokens for n_tokens, n_seqs in decoder.step_sizes if n_seqs == 2]
    assert len(beside) > 5
    assert max(beside) < 50  # time, not the largest step, is the limit


def naive_past_the_end(prompt, n):
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(hashed(ids).argmax()))
    return ids[len(prompt) :]


def test_the_urgent_goes_first(make):
    model, _ = make(max_seqs=1, layer_s=0.002)
    done = []
    running = model.submit(LONG[:50], max_tokens=4)
    handles = {
        name: model.submit([60 + priority], max_tokens=4, priority=priority)
        for name, priority in (("late", -1), ("usual", 0), ("urgent", 5))
    }
    threads = [
        threading.Thread(target=lambda name=name, h=h: (h.result(LIMIT_S), done.append(name)))
        for name, h in handles.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert done == ["urgent", "usual", "late"]
    assert running.result(LIMIT_S).tokens == wanted(LONG[:50], 4)


# --- who has pages ------------------------------------------------------------------------------------------
def test_the_urgent_takes_the_pages_of_others(make):
    model, decoder = make(context=512, max_seqs=4, n_pages=16, layer_s=0.001)
    long = [*LONG, *LONG]
    usual = model.submit(long, max_tokens=100)
    while len(decoder.step_sizes) < 3:
        time.sleep(0.001)
    urgent = model.submit(LONG, max_tokens=100, priority=1)
    assert urgent.result(LIMIT_S).tokens == wanted(LONG, 100)
    assert not usual.done()
    assert usual.result(LIMIT_S).tokens == wanted(long, 100)
    assert usual.result().usage.cached_tokens == 0  # its own work is no find


def test_what_the_cache_has_needs_no_room(make):
    model, decoder = make(context=512, max_seqs=4, n_pages=12, layer_s=0.001)
    first = model.submit(LONG, max_tokens=100)
    while not decoder.step_sizes or decoder.step_sizes[-1][0] > 1:
        time.sleep(0.001)
    second = model.generate([*LONG, 40], max_tokens=2)
    assert second.usage.cached_tokens == 192
    assert not first.done()
    assert first.result(LIMIT_S).tokens == wanted(LONG, 100)


# --- limits in time -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("layer_s", "deadline_ms", "n_most"), [(0.1, 150, 0), (0.001, 60, 40)], ids=["prefill", "decode"]
)
def test_a_deadline_ends_what_runs(make, layer_s, deadline_ms, n_most):
    model, _ = make(max_seqs=2, layer_s=layer_s)
    start = time.perf_counter()
    result = model.generate(LONG[:30], max_tokens=200, deadline_ms=deadline_ms, ignore_eos=True)
    assert result.finish_reason == "deadline"
    assert len(result.tokens) <= n_most
    assert result.tokens == naive_past_the_end(LONG[:30], len(result.tokens))
    # A layer is the longest that nobody looks at the clock; the rest is a machine that is busy.
    assert time.perf_counter() - start < deadline_ms / 1000 + layer_s + 1.0
    assert model.generate("hello", max_tokens=2, deadline_ms=1e6).finish_reason == "length"


def test_a_deadline_ends_what_waits(make):
    model, _ = make(max_seqs=1, layer_s=0.02)
    running = model.submit(LONG, max_tokens=3)
    waiting = model.submit(LONG, max_tokens=3, deadline_ms=1)
    chunks = list(model.stream(LONG, max_tokens=3, deadline_ms=1))
    assert (chunks[-1].finish_reason, chunks[-1].token) == ("deadline", None)
    assert waiting.result(LIMIT_S).finish_reason == "deadline"
    assert running.result(LIMIT_S).finish_reason == "length"


# --- prefixes -----------------------------------------------------------------------------------------------
def test_cached_tokens_are_told(make):
    model, decoder = make(max_tokens=256)
    first, second = model.generate(LONG[:100], max_tokens=40), model.generate(LONG[:90], max_tokens=2)
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens == 64
    talk = LONG[:100] + first.tokens + [77]
    assert model.generate(talk, max_tokens=1).usage.cached_tokens == (100 + 40 - 1) // PAGE * PAGE
    n_steps = len(decoder.step_sizes)
    model.logits(LONG[:90])  # every row is wanted: nothing of it may be skipped
    assert sum(n_tokens for n_tokens, _ in decoder.step_sizes[n_steps:]) == 90


def test_old_prefixes_give_way(make):
    model, _ = make(n_pages=8, n_kept=8)
    for _ in range(3):
        for start in range(0, 100, 20):
            prompt = LONG[start : start + 100]
            assert model.generate(prompt, max_tokens=5).tokens == wanted(prompt, 5)


# --- several texts for a prompt -----------------------------------------------------------------------------
@pytest.mark.parametrize("n_prompt", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("windows", [(0,), (0, 20)])
def test_n_texts_share_a_prompt(make, n_prompt, windows):
    model, decoder = make(max_seqs=8, max_tokens=256, windows=windows)
    prompt = LONG[:n_prompt]
    results = model.generate(prompt, n=5, max_tokens=40, temperature=1.0, seed=11)
    assert [result.tokens for result in results] == [wanted(prompt, 40, 11, i) for i in range(5)]
    assert len({tuple(result.tokens) for result in results}) == 5
    assert {result.seed for result in results} == {11}
    # Once for all, and the last token of it again for each of the others.
    assert sum(n_tokens for n_tokens, n_seqs in decoder.step_sizes[:1]) == n_prompt
    assert (5, 5) in decoder.step_sizes[1:3]
    assert decoder.n_copies > 0 or n_prompt % PAGE == 1
    again = model.generate([prompt, prompt[:5]], n=5, max_tokens=40, temperature=1.0, seed=11)
    assert [result.tokens for result in again[0]] == [result.tokens for result in results]
    assert [len(each) for each in again] == [5, 5]


def test_n_texts_without_a_seed_differ_and_repeat(make):
    model, _ = make(max_seqs=8)
    results = model.generate([50, 51], n=4, max_tokens=12, temperature=1.0)
    assert len({result.seed for result in results}) == 1
    again = model.generate([50, 51], n=4, max_tokens=12, temperature=1.0, seed=results[0].seed)
    assert [result.tokens for result in again] == [result.tokens for result in results]


def test_n_texts_with_logprobs_of_their_prompt(make):
    model, _ = make(max_seqs=8)
    results = model.generate(LONG[:50], n=3, max_tokens=4, temperature=1.0, seed=1, prompt_logprobs=2)
    alone = model.generate(LONG[:50], max_tokens=0, prompt_logprobs=2).prompt_logprobs
    for i, result in enumerate(results):
        assert result.tokens == wanted(LONG[:50], 4, 1, i)
        assert np.array_equal(result.prompt_logprobs.token_logprobs, alone.token_logprobs)
        assert np.array_equal(result.prompt_logprobs.top_ids, alone.top_ids)


def test_n_texts_of_handles_and_streams(make):
    model, _ = make(max_seqs=2)
    handle = model.submit([50, 51], n=3, max_tokens=4, temperature=1.0, seed=1)
    assert [result.tokens for result in handle.result(LIMIT_S)] == [
        wanted([50, 51], 4, 1, i) for i in range(3)
    ]
    with pytest.raises(ValueError, match="stream: n is 3 and num_beams is 1, wanted 1"):
        model.stream([50, 51], n=3)
    doomed = model.submit(LONG, n=3, max_tokens=50, temperature=1.0)
    doomed.cancel()
    assert [result.finish_reason for result in doomed.result(LIMIT_S)] == ["cancelled"] * 3


# --- asyncio ------------------------------------------------------------------------------------------------
def test_coroutines_share_the_engine(make):
    model, _ = make(max_seqs=4)

    async def read(prompt):
        return [chunk async for chunk in model.astream(prompt, max_tokens=12)]

    async def both():
        return await asyncio.gather(*(read(LONG[i : i + 5]) for i in range(6)))

    for i, chunks in enumerate(asyncio.run(both())):
        assert [chunk.token for chunk in chunks] == wanted(LONG[i : i + 5], 12)
        assert chunks[-1].result.tokens == wanted(LONG[i : i + 5], 12)


def test_a_cancelled_task_frees_its_place(make):
    model, decoder = make(max_seqs=1, layer_s=0.01)

    async def run():
        async def read():
            async for _ in model.astream(LONG, max_tokens=200):
                pass

        task = asyncio.create_task(read())
        while not decoder.started.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    n_steps = decoder.n_steps
    assert model.generate([50], max_tokens=2).tokens == wanted([50], 2)
    assert decoder.n_steps - n_steps <= 3


def test_errors_and_loops_that_ended(make):
    model, decoder = make(layer_s=0.01)

    async def fail():
        decoder.error = RuntimeError("a kernel failed")
        async with model.astream(LONG) as stream:
            with pytest.raises(RuntimeError, match="a kernel failed"):
                async for _ in stream:
                    pass

    asyncio.run(fail())

    async def leave():
        return model.astream(LONG, max_tokens=200)

    stream = asyncio.run(leave())  # nobody reads it, and its loop is closed
    assert model.generate([50], max_tokens=2).tokens == wanted([50], 2)
    with pytest.raises(RuntimeError, match="no running event loop"):
        model.astream(LONG)
    stream.close()


# --- log-probabilities and scores ---------------------------------------------------------------------------
def log_p(ids):
    """(len(ids), vocab_size) float64, after every token."""
    rows = np.array([hashed(ids[: i + 1]) for i in range(len(ids))], np.float64)
    return rows - np.log(np.exp(rows).sum(1, keepdims=True))


@pytest.mark.parametrize("n_prompt", [1, 2, 16, 17, 70])
def test_logprobs_of_prompt_and_text(make, n_prompt):
    model, _ = make(max_seqs=4)
    prompt = LONG[:n_prompt]
    others = [model.submit(LONG[:40], max_tokens=10) for _ in range(3)]
    result = model.generate(prompt, max_tokens=6, logprobs=3, prompt_logprobs=2)
    assert result.tokens == wanted(prompt, 6)
    rows = log_p(prompt + result.tokens)
    assert result.logprobs.token_ids.tolist() == result.tokens
    np.testing.assert_allclose(
        result.logprobs.token_logprobs,
        [rows[n_prompt - 1 + i, token] for i, token in enumerate(result.tokens)],
        rtol=1e-5,
    )
    assert result.prompt_logprobs.token_ids.tolist() == prompt[1:]
    np.testing.assert_allclose(
        result.prompt_logprobs.token_logprobs,
        [rows[i, token] for i, token in enumerate(prompt[1:])],
        rtol=1e-5,
    )
    assert result.prompt_logprobs.top_ids.shape == (n_prompt - 1, 2)
    alone = model.generate(prompt, max_tokens=0, prompt_logprobs=2)
    assert (alone.finish_reason, alone.tokens) == ("length", [])
    assert np.array_equal(alone.prompt_logprobs.token_logprobs, result.prompt_logprobs.token_logprobs)
    assert all(other.result(LIMIT_S).tokens == wanted(LONG[:40], 10) for other in others)


def test_score(make):
    model, _ = make(max_seqs=4)
    texts = [LONG[:30], LONG[10:11], LONG[:30], LONG[5:60]]
    scores = model.score(texts)
    for ids, score in zip(texts, scores, strict=True):
        rows = log_p(ids)
        expected = [rows[i, token] for i, token in enumerate(ids[1:])]
        assert score.token_ids.tolist() == ids
        np.testing.assert_allclose(score.logprobs, expected, rtol=1e-5, atol=0)
        assert score.total == pytest.approx(sum(expected), rel=1e-5)
    assert np.array_equal(model.score(LONG[:30]).logprobs, scores[0].logprobs)
    assert model.score([]) == []
    with pytest.raises(ValueError, match=r"score: texts\[1\] is empty"):
        model.score(["a", ""])


def test_perplexity_in_windows(make):
    model, _ = make(context=64, max_seqs=4)
    ids, window, stride = LONG[:150], 20, 7
    total = 0.0
    for i in range(1, len(ids)):
        start = max(0, -(-(i + 1 - window) // stride)) * stride  # the first window that has the token
        total += log_p(ids[start : i + 1])[i - start - 1, ids[i]]
    expected = np.exp(-total / (len(ids) - 1))
    assert model.perplexity(ids, window=window, stride=stride) == pytest.approx(expected, rel=1e-5)
    whole = np.exp(-np.mean([log_p(ids[:64])[i, t] for i, t in enumerate(ids[1:64])]))
    assert model.perplexity(ids[:64]) == pytest.approx(whole, rel=1e-5)
    for wrong in ({"window": 65}, {"window": 1}, {"stride": 0}, {"stride": 64}):
        with pytest.raises(ValueError, match=f"perplexity: {next(iter(wrong))} is"):
            model.perplexity(ids, **wrong)


def test_choose(make):
    model, _ = make(max_seqs=4)
    options = ["abc", "b", "xyzxyz"]
    choice = model.choose("hello ", options)
    encode = model.tokenizer.encode
    prompt = encode("hello ")
    expected = []
    for option in options:
        ids = encode("hello " + option)
        n = next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), len(prompt))
        rows = log_p(ids)
        expected.append(sum(rows[i - 1, ids[i]] for i in range(n, len(ids))))
    np.testing.assert_allclose(choice.logprobs, expected, rtol=1e-5)
    assert choice.text == options[choice.index] == options[int(np.argmax(expected))]
    means = np.divide(expected, choice.n_tokens)
    assert model.choose("hello ", options, by_token=True).index == int(np.argmax(means))
    for wrong in ("abc", [], ["a", ""]):
        with pytest.raises(ValueError, match="choose: options"):
            model.choose("hello", wrong)
