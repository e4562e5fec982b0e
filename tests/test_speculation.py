"""Speculation: the same tokens, texts and bits with drafts as without, whatever becomes of the drafts."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lanner
import random_models
from fake_decoder import VOCAB_SIZE, fake_model, hashed, scripted, tokenizer
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from lanner.llm import Model
from lanner.sampling import SamplingParams
from lanner.seq2seq import Seq2Seq
from lanner.translation import Translator
from targets import IdTokenizer
from tiny_bert import MODELS as TINY_BERT
from tiny_seq2seq import TinySeq2Seq

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


@pytest.fixture
def make():
    models = []

    def make(**options):
        options = {"max_seqs": 4, "max_tokens": 48, "max_outputs": 40} | options
        model, decoder = fake_model(**options)
        models.append(model)
        return eager(model), decoder

    yield make
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


OPTIONS = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 60), "seed": st.integers(0, 3)},
    optional={
        "temperature": st.sampled_from([0.0, 0.7, 1.3]),
        "logprobs": st.integers(0, 3),
        "prompt_logprobs": st.integers(0, 2),
        "stop": st.sampled_from(["e", "ab", ["in", "th"]]),
        "stop_token_ids": st.lists(st.integers(40, 60), max_size=2),
        "n": st.integers(1, 3),
        "ignore_eos": st.booleans(),
    },
)


# --- the same as without ------------------------------------------------------------------------------------
@given(
    options=st.lists(OPTIONS, min_size=1, max_size=5),
    prompts=st.lists(st.lists(st.integers(40, 45), min_size=1, max_size=70), min_size=5, max_size=5),
    logits=st.sampled_from(sorted(LOGITS)),
    setup=st.sampled_from([
        {}, {"max_seqs": 2, "max_outputs": 6, "max_tokens": 7}, {"n_pages": 9}, {"windows": (0, 20, 40)},
        {"windows": (0, 20), "n_pages": 10},
    ]),
    uses_model=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_drafts_change_nothing(options, prompts, logits, setup, uses_model):
    setup = {"max_seqs": 4, "max_tokens": 48, "max_outputs": 40} | setup
    plain, _ = fake_model(logits=LOGITS[logits], **setup)
    model, _ = fake_model(logits=LOGITS[logits], **setup)
    draft, _ = fake_model(logits=LOGITS["few" if logits == "hashed" else logits], max_seqs=3, max_tokens=20)
    with plain, eager(model), draft:
        speculate = draft if uses_model else "lookup"
        wanted = [plain.submit(ids, **each) for ids, each in zip(prompts, options, strict=False)]
        found = [
            model.submit(ids, speculate=speculate, **each)
            for ids, each in zip(prompts, options, strict=False)
        ]
        for mine, theirs in zip(found, wanted, strict=True):
            a, b = mine.result(LIMIT_S), theirs.result(LIMIT_S)
            for one, other in zip(*([x] if not isinstance(x, list) else x for x in (a, b)), strict=True):
                same(one, other)
        settle(model, draft)
        for each in (model, draft):
            pages = each._engine._scheduler.pages
            for group, (n_pages, _, _) in enumerate(each._engine.decoder.page_groups):
                assert pages.n_free(group) == n_pages


def settle(*models):
    end = time.monotonic() + LIMIT_S
    for model in models:
        scheduler = model._engine._scheduler
        while len(scheduler) or scheduler._resting or not model._engine._inbox.empty():
            assert time.monotonic() < end
            time.sleep(0.001)


RULES = [
    {"repetition_penalty": 1.4},
    {"presence_penalty": 3.0, "frequency_penalty": 1.0, "penalty_window": 20},
    {"bad_words": ["th", "e"], "logit_bias": {44: 5.0}},
    {"allowed_token_ids": [40, 41, 42], "min_tokens": 10},
    {"temperature": 0.9, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.1},
    {"temperature": 1.1, "min_p": 0.02},
    {"temperature": 1.1, "typical_p": 0.8},
]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def real(request, tmp_path_factory):
    """Small models of random numbers, with windows too: one of 8 bits twice, and one of 4 bits."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_models, "VOCAB", VOCAB_SIZE)
        path = random_models.write(random_models.MODELS[request.param], folder / "a.gguf", {"*": "q8_0"})
        other = random_models.write(random_models.MODELS[request.param], folder / "b.gguf", {"*": "q4_0"})
    decoders = [Decoder(open_checkpoint(each), n_threads=1) for each in (path, path, other)]
    models = [Model(decoder, tokenizer(), tokenizer_name="test") for decoder in decoders]
    yield models
    for model in models:
        model.close()


@pytest.mark.parametrize("rules", [{}, {"temperature": 0.8}, *RULES], ids=repr)
def test_every_row_is_chosen_by_its_own_rules(real, rules):
    """Logits, rules and draws of a real program: all bits, and some drafts of greedy texts are right."""
    plain, model, draft = real
    eager(model)
    prompt = [*range(40, 70), *range(45, 60)]
    options = {"max_tokens": 90, "logprobs": 2, "seed": 5, "ignore_eos": True, "n": 2} | rules
    wanted = plain.generate(prompt, **options)
    n_accepted = 0
    for speculate in ("lookup", draft):
        found = model.generate(prompt, speculate=speculate, **options)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
        assert any(each.timings.drafted_tokens for each in found)
        n_accepted += sum(each.timings.accepted_tokens for each in found)
    assert n_accepted > 0 or "temperature" in rules
    copied = model.generate(
        prompt + wanted[0].tokens + prompt, speculate="lookup", **options | {"max_tokens": 30}
    )
    same(copied[0], plain.generate(prompt + wanted[0].tokens + prompt, **options | {"max_tokens": 30})[0])


def test_a_logits_processor_sees_each_token_once(real):
    plain, model, _ = real
    eager(model)
    calls = {None: [], "lookup": []}
    for each, speculate in ((plain, None), (model, "lookup")):

        def note(ids, row, calls=calls[speculate]):
            calls.append((tuple(ids), row.tobytes()))

        result = each.generate(
            [40, 41] * 9, max_tokens=60, speculate=speculate, ignore_eos=True, logits_processor=note
        )
    assert calls[None] == calls["lookup"]
    assert result.timings.drafted_tokens > 0


def test_chunks_come_in_order_and_whole(make):
    plain, model = make(logits=few)[0], make(logits=few)[0]
    wanted = [(c.text, c.token, c.finish_reason) for c in plain.stream([40], max_tokens=50, stop="zz")]
    found = list(model.stream([40], max_tokens=50, stop="zz", speculate="lookup"))
    assert [(c.text, c.token, c.finish_reason) for c in found] == wanted
    assert found[-1].result.timings.accepted_tokens > 10

    async def collect():
        return [(c.text, c.token, c.finish_reason) async for c in
                model.astream([40], max_tokens=50, stop="zz", speculate="lookup")]  # fmt: skip

    assert asyncio.run(collect()) == wanted
    chat = [{"role": "user", "content": "hi hi hi hi"}]
    same(model.chat(chat, max_tokens=30, speculate="lookup"), plain.chat(chat, max_tokens=30))


# --- fewer steps --------------------------------------------------------------------------------------------
def test_copies_take_fewer_steps(make):
    model, decoder = make(context=512, logits=scripted(40, range(50, 90)))
    result = model.generate(list(range(40, 80)), max_tokens=200, speculate="lookup")
    assert decoder.n_steps < 80
    timings = result.timings
    assert timings.accepted_tokens == timings.accepted_per_draft_step * timings.draft_steps
    assert timings.accepted_tokens == 200 - decoder.n_steps
    assert result.tokens == [*range(50, 90)] * 5


def test_drafts_of_several_requests_share_a_step(make):
    model, decoder = make(context=512, max_tokens=64, max_outputs=64, logits=scripted(40, range(50, 90)))
    prompt = list(range(40, 80))
    results = model.generate([prompt, prompt, prompt], max_tokens=160, speculate="lookup")
    assert [result.tokens for result in results] == [[*range(50, 90)] * 4] * 3
    widest = max(n_tokens for n_tokens, n_seqs in decoder.step_sizes if n_seqs == 3)
    assert 3 * 10 < widest <= 64
    assert decoder.n_steps < 80


def test_a_prompt_beside_drafts_has_the_time(make):
    """No step has both: what fits beside running texts is the controller's, which knows of no drafts."""
    model, decoder = make(context=512, logits=scripted(40, range(50, 90)), layer_s=0.001, token_s=0.0001)
    stream = model.stream(list(range(40, 80)), max_tokens=150, speculate="lookup")
    for _ in range(60):
        next(stream)
    handle = model.submit([*range(90, 190)] * 2, max_tokens=1, ignore_eos=True)
    rest = [chunk.token for chunk in stream]
    handle.result(LIMIT_S)
    assert rest == ([*range(50, 90)] * 4)[60:150]
    beside = [n_tokens for n_tokens, n_seqs in decoder.step_sizes if n_seqs == 2]
    assert len(beside) > 1
    assert max(beside) <= 1 + 48 - 1


def test_the_prefix_cache_has_what_was_accepted_and_nothing_else(make):
    model, _ = make(context=512, logits=scripted(40, range(50, 90)))
    prompt = list(range(40, 80))
    first = model.generate(prompt, max_tokens=100, speculate="lookup")
    assert first.timings.accepted_tokens > 50
    assert first.timings.accepted_tokens < first.timings.drafted_tokens  # some went into pages
    again = model.generate(prompt + first.tokens, max_tokens=1)
    assert again.usage.cached_tokens == (40 + 99) // 32 * 32
    for logits in (few, periodic(11)):
        model, _ = make(context=512, logits=logits, n_pages=30)
        plain, _ = make(context=512, logits=logits)
        for i in range(6):
            ids = [40 + i % 3] * 20
            same(model.generate(ids, max_tokens=90, speculate="lookup", temperature=i % 2, seed=i),
                 plain.generate(ids, max_tokens=90, temperature=i % 2, seed=i))  # fmt: skip
            follow = model.generate(ids, max_tokens=60, temperature=i % 2, seed=i).tokens
            assert follow == plain.generate(ids, max_tokens=60, temperature=i % 2, seed=i).tokens


# --- cancel, errors, closing --------------------------------------------------------------------------------
def test_cancel_and_deadline(make):
    model, decoder = make(context=512, logits=scripted(40, range(50, 90)), layer_s=0.002)
    prompt, script = list(range(40, 80)), [*range(50, 90)] * 10
    for i in range(6):
        handle = model.submit(prompt, max_tokens=400, speculate="lookup")
        time.sleep(0.02 * i)
        handle.cancel()
        result = handle.result(LIMIT_S)
        assert result.finish_reason == "cancelled"
        assert result.tokens == script[: len(result.tokens)]
    result = model.generate(prompt, max_tokens=400, speculate="lookup", deadline_ms=150)
    assert result.finish_reason == "deadline"
    assert result.tokens == script[: len(result.tokens)]
    assert model._engine._scheduler.pages.n_free(0) == decoder.page_groups[0][0]


def test_a_stopped_step_is_computed_again(make):
    """A step with drafts that one of its two wants no more is not stopped; one that all left is."""
    model, _ = make(context=512, logits=scripted(40, range(50, 90)), layer_s=0.003)
    prompt, script = list(range(40, 80)), [*range(50, 90)] * 10
    kept = model.submit(prompt, max_tokens=200, speculate="lookup")
    for _ in range(5):
        doomed = model.submit(prompt, max_tokens=200, speculate="lookup")
        time.sleep(0.03)
        doomed.cancel()
        result = doomed.result(LIMIT_S)
        assert result.tokens == script[: len(result.tokens)]
    assert kept.result(LIMIT_S).tokens == script[:200]


def test_what_cannot_be_speculated_is_refused(make):
    model, _ = make()
    for value in ("ngram", 5, True, model.tokenizer, Model, lanner.Model):
        with pytest.raises(
            ValueError, match=r"^generate: speculate is .*, wanted 'lookup', a loaded model that"
        ):
            model.generate([40], speculate=value)
    with pytest.raises(ValueError, match=r"^speculate is 'lookup', wanted None where num_beams is above 1$"):
        SamplingParams(num_beams=2, speculate="lookup")
    with pytest.raises(
        ValueError, match=r"^submit: speculate is the model itself, wanted another, smaller one$"
    ):
        model.submit([40], speculate=model)
    closed, _ = make()
    closed.close()
    with pytest.raises(RuntimeError, match=r"^stream: the model of speculate is closed$"):
        model.stream([40], speculate=closed)


def test_a_draft_model_has_the_same_vocabulary(make, real):
    model, _ = make()
    smaller, _ = make()
    smaller._info = type(smaller._info)(**{**vars_of(smaller._info), "vocab_size": 9})
    with pytest.raises(
        ValueError, match=r"^chat: speculate is a model of 9 ids and 285 token texts, wanted 285 and 285"
    ):
        model.chat([{"role": "user", "content": "a"}], speculate=smaller)

    class Swapped:
        def __init__(self, tokenizer):
            self.vocab_size, self._tokenizer = tokenizer.vocab_size, tokenizer

        def token_bytes(self, id):
            return self._tokenizer.token_bytes({7: 8, 8: 7}.get(id, id))

    other, _ = make()
    other.tokenizer = Swapped(other.tokenizer)
    with pytest.raises(
        ValueError, match=r"^generate: speculate is a model where token 7 is .*, wanted .*, as here$"
    ):
        model.generate([40], speculate=other)
    model.generate([40], speculate=real[0])


def vars_of(info):
    return {name: getattr(info, name) for name in info.__dataclass_fields__}


# --- a draft model ------------------------------------------------------------------------------------------
def disagreeing(ids):
    """`few`, but for every fifth place."""
    logits = few(ids)
    if len(ids) % 5 == 0:
        logits[40] += 90
    return logits


def test_a_draft_model_that_is_often_right(make):
    plain, model = make(logits=few)[0], make(logits=few)
    draft, drafting = make(logits=disagreeing)
    prompts = [[40 + i, 41] for i in range(3)]
    wanted = plain.generate(prompts, max_tokens=120)
    found = model[0].generate(prompts, max_tokens=120, speculate=draft)
    for one, other in zip(found, wanted, strict=True):
        same(one, other)
    # On a busy machine now and then nobody waits for it any longer.
    assert sum(each.timings.accepted_tokens for each in found) > 40
    # It goes on from where it was: nothing is computed twice but what was wrong.
    n_tokens = sum(n for n, _ in drafting.step_sizes)
    assert n_tokens < 3 * (2 + 120) + sum(each.timings.drafted_tokens for each in found)
    settle(draft)


def test_a_draft_model_that_reads_a_long_prompt(make):
    model, draft = (make(context=700, logits=few, max_tokens=64) for _ in range(2))
    ids = [40 + i % 6 for i in range(500)]
    result = model[0].generate(ids, max_tokens=100, speculate=draft[0])
    same(result, make(context=700, logits=few)[0].generate(ids, max_tokens=100))
    assert result.timings.accepted_tokens > 60
    assert model[1].n_steps < 8 + 9 + 60


def test_a_draft_model_of_a_shorter_context(make):
    model, draft = make(context=512, logits=few), make(context=100, logits=few)
    ids = [40 + i % 6 for i in range(60)]
    result = model[0].generate(ids, max_tokens=150, speculate=draft[0])
    same(result, make(context=512, logits=few)[0].generate(ids, max_tokens=150))
    assert 15 < result.timings.accepted_tokens <= 40


def test_a_draft_model_whose_pages_others_need(make):
    model, draft = make(logits=few, max_seqs=4), make(logits=few, n_pages=5, max_seqs=4)
    prompts = [[40 + i, 41] * 20 for i in range(4)]
    found = model[0].generate(prompts, max_tokens=60, speculate=draft[0])
    plain = make(logits=few)[0]
    for one, wanted in zip(found, plain.generate(prompts, max_tokens=60), strict=True):
        same(one, wanted)
    other = draft[0].submit([45, 44] * 30, max_tokens=20)
    assert other.result(LIMIT_S).tokens == plain.generate([45, 44] * 30, max_tokens=20).tokens
    settle(draft[0])
    assert draft[0]._engine._scheduler.pages.n_free(0) == 5


@pytest.mark.parametrize(("layer_s", "pays"), [(0.0001, True), (0.005, False)], ids=["cheap", "dear"])
def test_a_draft_model_is_asked_while_that_pays(layer_s, pays):
    """Steps of the first model take 20 ms, of the second one 0.4 or 20; that is all it has to go by."""
    (model, _), (draft, _) = (
        fake_model(logits=few, layer_s=0.005),
        fake_model(logits=few, layer_s=layer_s),
    )
    with model, draft:
        for _ in range(2):
            result = model.generate([40, 41], max_tokens=60, speculate=draft)
        assert result.tokens == naive_few([40, 41], 60)
        if pays:
            assert result.timings.accepted_tokens > 30
        else:
            assert result.timings.draft_steps <= 1


def naive_few(ids, n):
    ids, n_known = list(ids), len(ids)
    while len(ids) < n_known + n:
        ids.append(int(few(ids).argmax()))
    return ids[n_known:]


@pytest.mark.parametrize("how", ["close", "error", "cancel", "close the other"])
def test_whatever_happens_to_a_draft_model(make, how):
    model, draft = make(logits=few, layer_s=0.001), make(logits=few, layer_s=0.0001)
    wanted = make(logits=few)[0].generate([40, 41], max_tokens=200).tokens
    stream = model[0].stream([40, 41], max_tokens=200, speculate=draft[0])
    tokens = [next(stream).token for _ in range(30)]
    if how == "close":
        draft[0].close()
    elif how == "error":
        draft[1].error = RuntimeError("a kernel failed")
    elif how == "close the other":
        model[0].close()
    else:
        stream.close()
    tokens += [chunk.token for chunk in stream if chunk.token is not None]
    assert tokens == wanted[: len(tokens)]
    if how in ("close", "error"):
        assert len(tokens) == 200
    if how != "close":
        settle(draft[0])
        assert draft[0]._engine._scheduler.pages.n_free(0) == draft[1].page_groups[0][0]
        assert draft[0].generate([40, 41], max_tokens=20).tokens == wanted[:20]


def test_two_models_that_draft_for_each_other(make):
    """Each waits for the other, and not for ever."""
    (a, _), (b, _) = make(logits=few), make(logits=few)
    wanted = make(logits=few)[0].generate([40, 41], max_tokens=60).tokens
    handles = [a.submit([40, 41], max_tokens=60, speculate=b), b.submit([40, 41], max_tokens=60, speculate=a)]
    assert [handle.result(LIMIT_S).tokens for handle in handles] == [wanted] * 2
    settle(a, b)


def test_a_draft_model_serves_its_own_callers_too(make):
    model, draft = make(logits=few), make(logits=few, max_seqs=2)
    wanted = make(logits=few)[0].generate([40, 41], max_tokens=80).tokens
    wrong = []

    def call(which, options):
        for _ in range(4):
            if which.generate([40, 41], max_tokens=80, **options).tokens != wanted:
                wrong.append(options)

    callers = [(model[0], {"speculate": draft[0]})] * 3 + [(draft[0], {"speculate": "lookup"})] * 2
    threads = [threading.Thread(target=call, args=each) for each in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert not wrong
    settle(model[0], draft[0])


# --- other kinds of models ----------------------------------------------------------------------------------
def test_encoder_decoders_and_encoders_are_refused(make, tmp_path):
    model, _ = make()
    seq2seq = Seq2Seq(open_checkpoint(TinySeq2Seq("marian").write(tmp_path / "marian")))
    with Translator(seq2seq, IdTokenizer()) as translator:
        for value in ("lookup", model):
            with pytest.raises(
                ValueError, match=r"^translate: speculate is .*, wanted None for an encoder-decoder"
            ):
                translator.translate("5 6", speculate=value)
        with pytest.raises(
            ValueError, match=r"^generate: speculate is an encoder-decoder, wanted a model that con"
        ):
            model.generate([40], speculate=translator)
    with (
        lanner.load(TINY_BERT["bert"].write(tmp_path / "bert")) as encoder,
        pytest.raises(ValueError, match=r"^generate: speculate is an encoder, wanted a model that continues"),
    ):
        model.generate([40], speculate=encoder)
