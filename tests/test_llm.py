"""The public interface, on a decoder whose tokens depend on everything that a step says (fake_decoder)."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vocabulary as v
from fake_decoder import EOS, PAGE, VOCAB_SIZE, choose, fake_model, hashed, naive, scripted
from lanner.sampling import SamplingParams, uniform

ASK = [40, 41]
PROMPT = list(range(40, 93))  # more than three steps of 16 tokens, and more than a page


@pytest.fixture
def make():
    """Makes models with a fake decoder behind them, closed at the end."""
    models = []

    def make(**options):
        model, decoder = fake_model(**options)
        models.append(model)
        return model, decoder

    yield make
    for model in models:
        model.close()


@pytest.fixture
def model(make):
    return make()[0]


def saying(make, said):
    """A model that answers ASK with a text or tokens, again and again."""
    return make(logits=scripted(len(ASK), byte_ids(said) if isinstance(said, str) else said))[0]


def byte_ids(text):
    """One token a byte, so that every text crosses many of them."""
    return [v.ID[v.spell(bytes([b]))] for b in text.encode()]


# --- what is generated --------------------------------------------------------------------------------------
@pytest.mark.parametrize("max_tokens", [1, 2, 7, 16, 64])
@pytest.mark.parametrize("n_prompt", [1, 15, 16, 17, 53])
def test_generate(make, max_tokens, n_prompt):
    model, _ = make(max_tokens=max_tokens)
    result = model.generate(PROMPT[:n_prompt], max_tokens=40)
    assert result.tokens == naive(PROMPT[:n_prompt], 40)
    assert result.finish_reason == "length"
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (n_prompt, 40)
    assert result.usage.cached_tokens == 0
    assert str(result) == result.text == model.tokenizer.decode(result.tokens)


def test_prompts_of_all_kinds(model):
    ids = model.tokenizer.encode("hello there")
    texts = {
        model.generate(prompt).text for prompt in ("hello there", ids, tuple(ids), np.array(ids, np.int32))
    }
    assert len(texts) == 1


def test_lists_keep_their_order(model):
    prompts = ["a", [50, 51], "hello", np.array([60])]
    results = model.generate(prompts, max_tokens=9)
    assert [r.tokens for r in results] == [model.generate(p, max_tokens=9).tokens for p in prompts]
    assert isinstance(model.generate(["a"], max_tokens=1), list)
    assert len(model.generate(np.array([[60], [61]]), max_tokens=1)) == 2


def test_sampling_is_keyed_by_seed_and_place(model):
    result = model.generate(PROMPT, max_tokens=30, temperature=0.8, seed=11)
    assert result.tokens == naive(PROMPT, 30, lambda i: uniform(11, 0, i), np.float32(0.8))
    assert result.seed == 11
    assert model.generate(PROMPT, max_tokens=30, temperature=0.8, seed=12).tokens != result.tokens


def test_the_drawn_seed_repeats_the_text(model):
    a, b = (model.generate("hello", max_tokens=30, temperature=1.0) for _ in range(2))
    assert a.seed != b.seed
    assert a.tokens != b.tokens
    assert model.generate("hello", max_tokens=30, temperature=1.0, seed=a.seed).tokens == a.tokens


def test_params_and_keywords(model):
    params = SamplingParams(max_tokens=5, seed=3, temperature=1.0)
    assert len(model.generate("hello", params).tokens) == 5
    assert len(model.generate("hello", params, max_tokens=2).tokens) == 2


def test_no_tokens_wanted(make):
    model, decoder = make()
    result = model.generate("hello", max_tokens=0)
    assert (result.text, result.tokens, result.finish_reason) == ("", [], "length")
    assert [c.result for c in model.stream("hello", max_tokens=0)] != []
    assert decoder.n_steps == 0


def test_generation_ends_at_the_context(make):
    model, _ = make(context=64)
    result = model.generate(PROMPT, max_tokens=1000)
    assert result.finish_reason == "length"
    assert len(PROMPT) + len(result.tokens) == 64
    assert len(model.generate(PROMPT + PROMPT[:10], max_tokens=1000).tokens) == 1


def test_chat_renders_the_template(model):
    messages = [{"role": "user", "content": "hello"}]
    text = model.tokenizer.apply_chat_template(messages)
    assert model.chat(messages, max_tokens=8).tokens == model.generate(text, max_tokens=8).tokens
    assert [c.token for c in model.stream_chat(messages, max_tokens=8)] == model.generate(
        text, max_tokens=8
    ).tokens


# --- where it ends ------------------------------------------------------------------------------------------
def test_end_tokens(make):
    model = saying(make, [*byte_ids("hi"), EOS, *byte_ids("xy")])
    result = model.generate(ASK)
    assert (result.text, result.finish_reason, result.tokens[-1]) == ("hi", "stop", EOS)
    result = model.generate(ASK, ignore_eos=True, max_tokens=5)
    assert (result.text, result.finish_reason, len(result.tokens)) == ("hixy", "length", 5)
    result = model.generate(ASK, stop_token_ids=byte_ids("i"))
    assert (result.text, result.finish_reason) == ("h", "stop")


@given(
    text=st.text("ab\né", min_size=1, max_size=20),
    stops=st.lists(st.text("ab\né", min_size=1, max_size=4), max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_stop_texts_in_generations_and_streams(text, stops):
    model, _ = fake_model(logits=scripted(len(ASK), [*byte_ids(text), EOS]))
    with model:
        whole = model.generate(ASK, stop=stops)
        chunks = list(model.stream(ASK, stop=stops))
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    # The stop text that is complete first; of two that end together, the longer one.
    wanted = min((text[: min(ends)].removesuffix(stop) for stop in stops), key=len) if ends else text
    assert (whole.text, whole.finish_reason) == (wanted, "stop")
    assert len(whole.tokens) == len(byte_ids(text[: min(ends)])) if ends else len(byte_ids(text)) + 1
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [chunk.token for chunk in chunks] == whole.tokens


def test_a_held_back_text_comes_out_at_the_end(make):
    model = saying(make, "abcEN")
    assert model.generate(ASK, stop="END", max_tokens=5).text == "abcEN"
    chunks = list(model.stream(ASK, stop="END", max_tokens=5))
    assert [chunk.text for chunk in chunks] == ["a", "b", "c", "", "EN"]


def test_a_character_that_never_became_whole(make):
    model = saying(make, byte_ids("é")[:1] + byte_ids("a"))
    assert model.generate(ASK, max_tokens=1).text == "\ufffd"
    assert model.generate(ASK, max_tokens=2).text == "\ufffda"


# --- streams and handles ------------------------------------------------------------------------------------
def test_stream(model):
    whole = model.generate("hello there", max_tokens=50, temperature=1.0, seed=5)
    *chunks, last = model.stream("hello there", max_tokens=50, temperature=1.0, seed=5)
    assert "".join(chunk.text for chunk in [*chunks, last]) == whole.text == last.result.text
    assert [chunk.token for chunk in [*chunks, last]] == whole.tokens
    assert {(chunk.finish_reason, chunk.result) for chunk in chunks} == {(None, None)}
    assert last.finish_reason == "length"


def test_handles(make):
    model, _ = make(layer_s=0.002)
    handle, other = model.submit("hello", max_tokens=20), model.submit("there", max_tokens=3)
    with pytest.raises(TimeoutError, match=r"result: the generation has not ended within 0.01 s"):
        handle.result(timeout=0.01)
    assert not handle.done()
    assert handle.result(timeout=20).tokens == naive(model.tokenizer.encode("hello"), 20)
    assert handle.done()
    assert handle.result() is handle.result()
    assert len(other.result().tokens) == 3
    with pytest.raises(ValueError, match="result: timeout is -1, wanted seconds of at least 0, or None"):
        handle.result(timeout=-1)


def test_timings(make):
    model, _ = make(layer_s=0.001)
    result = model.generate(PROMPT, max_tokens=9)  # 4 steps of prefill, 8 of decode, 4 ms each
    t = result.timings
    assert 0.016 <= t.prefill_s <= t.first_token_s <= t.total_s
    assert 0.032 <= t.decode_s <= t.total_s - t.prefill_s
    assert t.prefill_tokens_per_s == pytest.approx(53 / t.prefill_s)
    assert t.decode_tokens_per_s == pytest.approx(8 / t.decode_s)
    waiting = model.submit(PROMPT, max_tokens=9)
    behind = model.generate("a", max_tokens=1).timings
    assert behind.first_token_s > behind.prefill_s + 0.01
    assert waiting.done()


def test_threads_get_what_serial_calls_get(model):
    prompts = [[40 + i, *PROMPT[: 3 * i]] for i in range(12)]
    serial = [
        model.generate(prompt, max_tokens=20, temperature=0.7, seed=i).tokens
        for i, prompt in enumerate(prompts)
    ]
    results: list[list[int]] = [[] for _ in prompts]

    def work(i):
        for _ in range(3):
            results[i] = model.generate(prompts[i], max_tokens=20, temperature=0.7, seed=i).tokens

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == serial


# --- scores -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 7, 8, 9, 53])
def test_logits(model, n):
    logits = model.logits(PROMPT[:n])
    assert (logits.shape, logits.dtype) == ((n, VOCAB_SIZE), np.float32)
    assert np.array_equal(logits, [hashed(PROMPT[: i + 1]) for i in range(n)])


def test_logits_of_a_full_context(make):
    model, _ = make(context=64)
    assert len(model.logits(list(range(64)))) == 64
    with pytest.raises(ValueError, match="logits: ids has 65 tokens, the context has room for 64"):
        model.logits(list(range(65)))


def test_perplexity(model):
    logits = np.array([hashed(PROMPT[: i + 1]) for i in range(len(PROMPT) - 1)], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = math.exp(-np.mean([row[id] for row, id in zip(log_p, PROMPT[1:], strict=True)]))
    assert model.perplexity(PROMPT) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="perplexity: text has 1 token, wanted at least 2"):
        model.perplexity("a")


# --- the rest ----------------------------------------------------------------------------------------------
def test_info(model):
    info = model.info()
    assert (info.architecture, info.vocab_size, info.context_length, info.context) == (
        "fake",
        VOCAB_SIZE,
        256,
        256,
    )
    assert (info.n_layers, info.n_heads, info.n_kv_heads, info.head_dim, info.hidden_size) == (4, 2, 1, 4, 8)
    assert (info.n_params, info.formats, info.weight_bytes_per_token) == (1000, {"f32": 4000}, 500)
    assert info.tokenizer == "gpt2 (gpt-2)"


def test_fake_samples_as_told():
    logits = np.log(np.array([0.5, 0.25, 0.25], np.float32))
    assert [choose(logits, 1.0, u) for u in (0, 0.49, 0.51, 0.74, 0.76, 0.9999)] == [0, 0, 1, 1, 2, 2]
    assert choose(logits, 0.0, 0.9) == 0
    assert PAGE == 32
