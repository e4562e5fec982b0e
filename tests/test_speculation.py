"""Speculation: the same tokens, texts and bits with drafts as without, whatever becomes of the drafts."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import random_models
from fake_decoder import VOCAB_SIZE, fake_model, scripted, tokenizer
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from lanner.llm import Model
from speculating import LIMIT_S, LOGITS, eager, eager_models, few, periodic, same, settle


@pytest.fixture
def make():
    with eager_models() as make:
        yield make


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
