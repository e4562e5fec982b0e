"""Speculation with a draft model: it is asked while that pays, and whatever becomes of it changes nothing."""

from __future__ import annotations

import threading

import pytest

import lanner
from fake_decoder import fake_model
from lanner.checkpoint import open_checkpoint
from lanner.llm import Model
from lanner.sampling import SamplingParams
from lanner.seq2seq import Seq2Seq
from lanner.translation import Translator
from speculating import LIMIT_S, eager_models, few, same, settle
from targets import IdTokenizer
from tiny_bert import MODELS as TINY_BERT
from tiny_seq2seq import TinySeq2Seq


@pytest.fixture
def make():
    with eager_models() as make:
        yield make


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


@pytest.mark.parametrize(("layer_s", "pays"), [(0.0001, True), (0.008, False)], ids=["cheap", "dear"])
def test_a_draft_model_is_asked_while_that_pays(layer_s, pays):
    """Steps of the first model take 20 ms, of the second one 0.4 or 32: that is all it has to go by."""
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


# --- what cannot draft --------------------------------------------------------------------------------------
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
