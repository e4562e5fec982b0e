"""Encoder-decoders: against float64, in batches and alone, through the public calls, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import folders
import lanner
from lanner import _core
from lanner._info import info_lines
from lanner.checkpoint import open_checkpoint
from lanner.llm import Model
from lanner.seq2seq import MAX_SEQS, Seq2Seq
from lanner.sources import Source
from lanner.translation import Translator
from reference import dequantize, quantized
from targets import IdTokenizer, Target, target_logits
from tiny_seq2seq import Arrays, Reference, TinySeq2Seq

T5 = TinySeq2Seq("t5")
GATED = TinySeq2Seq("t5", gated=True, head_dim=7, n_decoder_layers=3)
MARIAN = TinySeq2Seq("marian")
MODELS = {"t5": T5, "gated": GATED, "marian": replace(MARIAN, n_decoder_layers=1)}
# float32 sums of at most a hundred terms, through a few layers; random signs keep them far below this.
MAX_RELATIVE_ERROR = 1e-4
RNG = np.random.default_rng(4)
SOURCES = [RNG.integers(2, 60, n).tolist() for n in (1, 45, 33, 7, 32, 64, 2)]


def open_model(folder: Path, **options: Any) -> Seq2Seq:
    return Seq2Seq(open_checkpoint(folder), **({"n_threads": 2, "kv_dtype": "f32"} | options))


@pytest.fixture(params=MODELS)
def tiny(request: pytest.FixtureRequest) -> TinySeq2Seq:
    return MODELS[request.param]


def text(ids: list[int]) -> str:
    return " ".join(map(str, ids))


# --- what it computes ---------------------------------------------------------------------------------------
def test_logits_are_those_of_float64(tiny: TinySeq2Seq, tmp_path: Path) -> None:
    model, reference = open_model(tiny.write(tmp_path)), Reference(tiny)
    target = [tiny.start_id, *RNG.integers(2, 60, 40).tolist()]
    for source in SOURCES:
        wanted = reference.logits(source, target)
        given = target_logits(model, [Target(source)], [target])[0].copy()
        if model.rules.forbidden_ids:
            given[:, sorted(model.rules.forbidden_ids)] = model.forbidden_logits(len(target))
        assert np.abs(given - wanted).max() <= MAX_RELATIVE_ERROR * np.abs(wanted).max()


def test_forbidden_ids_have_their_share_of_the_probability(tmp_path: Path) -> None:
    """log p of the others is that of all logits of the model, though the forbidden ones are never given."""
    model, reference = open_model(MARIAN.write(tmp_path)), Reference(MARIAN)
    ids = RNG.integers(2, 60, 6).tolist()
    logits = reference.logits(SOURCES[1], ids)
    forbidden = sorted(model.rules.forbidden_ids)
    assert forbidden and model.rules.forbidden_ids < set(range(MARIAN.vocab))
    wanted = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target_logits(model, [Target(SOURCES[1])], [ids])
    error = 4 * MAX_RELATIVE_ERROR * np.abs(logits).max()  # of a logit, its maximum and the sum
    chosen = np.array(model.sampled(6), np.int32)
    given, top_ids, top = model.logprobs(2, chosen[2:], 3)
    assert np.abs(given - wanted[np.arange(2, 6), chosen[2:]]).max() <= error
    assert np.abs(top - np.take_along_axis(wanted[2:], top_ids, 1)).max() <= error
    wanted[:, forbidden] = -np.inf
    for row in range(6):
        found, values = model.candidates(row, None, MARIAN.vocab)
        n = MARIAN.vocab - len(forbidden)
        assert np.abs(np.array(values[:n]) - wanted[row, found[:n]]).max() <= error
        assert sorted(found[n:]) == forbidden and set(values[n:]) == {-np.inf}
    # Nothing of it changes what the step left.
    assert np.all(model.logits(6)[:, forbidden] == -np.inf)


def test_logits_have_the_same_bits_in_any_company(tiny: TinySeq2Seq, tmp_path: Path) -> None:
    model = open_model(tiny.write(tmp_path))
    ids = [RNG.integers(2, 60, 5).tolist() for _ in SOURCES]
    alone = [target_logits(model, [Target(s)], [part])[0] for s, part in zip(SOURCES, ids, strict=True)]
    together = [Target(source) for source in SOURCES]
    for given, wanted in zip(target_logits(model, together, ids), alone, strict=True):
        assert np.array_equal(given, wanted)
    stepped = [Target(source) for source in SOURCES]
    for i in range(5):
        rows = target_logits(model, stepped, [part[i : i + 1] for part in ids], start=i, finish=False)
        assert all(np.array_equal(row[0], wanted[i]) for row, wanted in zip(rows, alone, strict=True))
    single = open_model(tmp_path, n_threads=1)
    assert np.array_equal(target_logits(single, [Target(SOURCES[1])], ids[1:2])[0], alone[1])


def test_programs_are_their_lists(tiny: TinySeq2Seq, tmp_path: Path) -> None:
    """Executor and interpreter agree, also on what the cross cache holds between them."""
    model = open_model(tiny.write(tmp_path))
    wanted = target_logits(model, [Target(source) for source in SOURCES[:3]], [[0, 5], [7], [9, 3, 4]])
    hidden = model.hidden(model.source_step.n_tokens).copy()
    interpreted = model.encoder.interpret(model.source_step)
    assert np.array_equal(interpreted[model.encoder.kept[0].place.name], hidden)
    values = model.program.interpret(model.step)
    assert np.array_equal(values["head"], np.concatenate(wanted))


def test_places_are_given_back(tmp_path: Path) -> None:
    model = open_model(T5.write(tmp_path))
    wanted = target_logits(model, [Target(SOURCES[1])], [[0]])[0]
    for _ in range(3):
        targets = [Target(SOURCES[i % len(SOURCES)]) for i in range(MAX_SEQS)]
        target_logits(model, targets, [[0]] * MAX_SEQS)
    assert np.array_equal(target_logits(model, [Target(SOURCES[1])], [[0]])[0], wanted)


def test_targets_share_a_source(tiny: TinySeq2Seq, tmp_path: Path) -> None:
    """It is encoded once, at whatever step a target comes, and given up when the last of them has ended."""
    model = open_model(tiny.write(tmp_path))
    ids = [RNG.integers(2, 60, 2).tolist() for _ in range(4)]
    wanted = [target_logits(model, [Target(SOURCES[1])], [part])[0] for part in ids]
    source, other = Source(SOURCES[1]), Source(SOURCES[2])
    first, second, elsewhere = Target(source), Target(source), Target(other)
    given = target_logits(model, [first, elsewhere, second], [ids[0], [0], ids[1]], finish=False)
    assert np.array_equal(given[0], wanted[0]) and np.array_equal(given[2], wanted[1])
    assert model.source_step.n_tokens == len(SOURCES[1]) + len(SOURCES[2])
    first.is_finished, third = True, Target(source)
    hidden = model.hidden(1).copy()
    given = target_logits(model, [third, second], ids[2:], finish=False)
    assert np.array_equal(given[0], wanted[2]) and np.array_equal(given[1], wanted[3])
    assert np.array_equal(model.hidden(1), hidden)
    assert source in model._places and other in model._places
    second.is_finished = True
    model.prepare([])
    assert source in model._places
    del third
    model.prepare([])
    assert source not in model._places and other in model._places


def test_sources_that_wait_may_lose_their_place(tmp_path: Path) -> None:
    folder = T5.write(tmp_path)
    told = lanner.estimate(folder, kv_dtype="f32", threads=2, batch=8)
    model = open_model(folder, max_memory=told.weight_bytes + told.kv_bytes + told.scratch_bytes)
    n_places = model.step.max_seqs
    assert 3 < n_places <= 16
    targets = [Target(SOURCES[i % len(SOURCES)]) for i in range(n_places + 3)]
    wanted = [target_logits(model, [Target(source)], [[0, 5]])[0] for source in SOURCES]
    for group in (targets[:3], targets[3:], targets[1:4]) * 2:
        for start in (
            0,
            1,
        ):  # page tables of the step repeat with its rows, so every group writes both positions
            given = target_logits(model, group, [[[0, 5][start]]] * len(group), start, finish=False)
            for target, rows in zip(group, given, strict=True):
                index = SOURCES.index(target.source.token_ids.tolist())
                assert np.array_equal(rows, wanted[index][start : start + 1])
        assert len(model._places) <= n_places
    assert all(source in model._places for source in {target.source for target in targets[1:4]})


# --- the public calls ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("n_threads", [1, 2])
def test_greedy_targets_are_those_of_float64(tiny: TinySeq2Seq, n_threads: int, tmp_path: Path) -> None:
    reference = Reference(tiny)
    model = open_model(tiny.write(tmp_path), n_threads=n_threads)
    forced = model.rules.forced_last_id
    n = 9
    wanted = [
        reference.greedy(source, n - (forced is not None), sorted(model.rules.forbidden_ids))
        for source in SOURCES
    ]
    wanted = [ids if ids[-1] == tiny.end_id or forced is None else [*ids, forced] for ids in wanted]
    with Translator(model, IdTokenizer()) as m:
        results = m.generate([text(source) for source in SOURCES], max_tokens=n)
        assert [result.tokens for result in results] == wanted
        for source, ids, result in zip(SOURCES, wanted, results, strict=True):
            assert m.generate(source, max_tokens=n).tokens == ids
            assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (len(source), len(ids))
        texts = [result.text for result in results]
        assert m.translate([text(source) for source in SOURCES], max_tokens=n) == texts
        assert m.translate(text(SOURCES[1]), max_tokens=n) == texts[1]
        assert m.translate(SOURCES[1], max_tokens=n) == texts[1]


@pytest.fixture
def marian(tmp_path: Path) -> Any:
    with Translator(open_model(MARIAN.write(tmp_path)), IdTokenizer()) as m:
        yield m


def test_a_list_gives_a_list(marian: Translator) -> None:
    assert marian.translate([]) == []
    assert marian.translate(["5 6"], max_tokens=3) == [marian.translate("5 6", max_tokens=3)]


def test_more_sources_than_fit_into_a_step(marian: Translator) -> None:
    texts = [text(RNG.integers(2, 60, 1 + i % 30).tolist()) for i in range(3 * MAX_SEQS + 1)]
    assert marian.translate(texts, max_tokens=6) == [marian.translate(each, max_tokens=6) for each in texts]


def test_stream(marian: Translator) -> None:
    chunks = list(marian.stream("5 6 7", max_tokens=8))
    assert "".join(chunk.text for chunk in chunks) == marian.translate("5 6 7", max_tokens=8)
    assert chunks[-1].result is not None and len(chunks) == 7  # the end that is forced makes none


def test_sampling_repeats_with_its_seed_in_any_company(marian: Translator) -> None:
    options = {"max_tokens": 12, "temperature": 1.5, "seed": 7}
    alone = marian.translate("5 6 7", **options)
    assert marian.translate(["9", "5 6 7", "8 8 8 8"], **options)[1] == alone
    assert marian.translate("5 6 7", max_tokens=12, temperature=1.5, seed=8) != alone


def test_where_targets_end(marian: Translator) -> None:
    ids = marian.generate("5 6 7", max_tokens=8).tokens
    assert ids[-1] == MARIAN.end_id and MARIAN.start_id not in ids
    assert marian.generate("5 6 7", max_tokens=1).tokens == [MARIAN.end_id]
    assert marian.generate("5 6 7", max_tokens=0).tokens == []
    stopped = marian.generate("5 6 7", max_tokens=8, stop_token_ids=[ids[2]])
    assert stopped.tokens == ids[: ids.index(ids[2]) + 1] and stopped.finish_reason == "stop"
    assert len(marian.generate("5 6 7", max_tokens=1000).tokens) <= MARIAN.n_positions


def test_without_a_rule_nothing_is_forbidden_or_forced(tmp_path: Path) -> None:
    changes = {"bad_words_ids": None, "forced_eos_token_id": None}
    model = open_model(replace(MARIAN, changes=changes).write(tmp_path))
    assert not model.rules.forbidden_ids and model.rules.forced_last_id is None


def test_the_generation_config_counts_before_the_config(tmp_path: Path) -> None:
    generation = {
        "eos_token_id": [7, 8],
        "suppress_tokens": [3, 4],
        "forced_eos_token_id": None,
        "bad_words_ids": [[7], [9]],
    }
    rules = open_model(replace(MARIAN, generation=generation).write(tmp_path / "both")).rules
    assert rules.end_ids == {7, 8} and rules.forbidden_ids == {3, 4, 9} and rules.forced_last_id is None
    assert rules.start_id == MARIAN.start_id
    # What it does not state is not taken from config.json, but for what every model has.
    rules = open_model(replace(MARIAN, generation={"max_length": 9}).write(tmp_path / "one")).rules
    assert rules.end_ids == {0} and not rules.forbidden_ids and rules.forced_last_id is None


def test_cancelled_before_its_source_is_read(marian: Translator) -> None:
    handles = [marian.submit("5 6 7", max_tokens=60) for _ in range(4)]
    for handle in handles:
        handle.cancel()
    for handle in handles:
        assert handle.result(timeout=30).finish_reason in ("cancelled", "length", "stop")
    assert marian.generate("5 6 7", max_tokens=8).tokens


def test_a_longer_context_for_relative_positions(tmp_path: Path) -> None:
    folder = T5.write(tmp_path)
    source = RNG.integers(2, 60, 100).tolist()
    model = open_model(folder, context=100)
    wanted = Reference(T5).logits(source, [0])
    assert (
        np.abs(target_logits(model, [Target(source)], [[0]])[0] - wanted).max() <= 1e-4 * np.abs(wanted).max()
    )


def test_quantized(tmp_path: Path) -> None:
    """Matrices are rounded as the format says; what is left is the rounding of activations to 16 bits."""
    tiny = replace(T5, hidden=64, head_dim=32, ffn=96)
    model, reference = open_model(tiny.write(tmp_path), quantize="q8_0"), Reference(tiny)
    assert set(model.formats) == {"f32", "q8_0"}
    assert model.n_params == sum(x.size for x in tiny.tensors().values())
    for name, x in tiny.tensors().items():
        if x.ndim == 2 and "attention_bias" not in name:
            reference.w[name] = dequantize("q8_0", quantized("q8_0", x)).astype(np.float64)
    wanted = reference.logits(SOURCES[1], [0, 5, 9])
    given = target_logits(model, [Target(SOURCES[1])], [[0, 5, 9]])[0]
    # A code is off by 2^-16 of its block's largest value, and some thirty matmuls add to that.
    assert np.abs(given - wanted).max() <= 30 * 2**-16 * np.abs(wanted).max()


def test_what_it_takes_is_told_before(tiny: TinySeq2Seq, tmp_path: Path) -> None:
    model, told = open_model(tiny.write(tmp_path)), lanner.estimate(tmp_path, kv_dtype="f32", batch=3)
    assert (told.n_params, told.formats) == (model.n_params, model.formats)
    assert told.weight_bytes_per_token == model.weight_bytes_per_token < told.weight_bytes
    columns = (
        2 * tiny.n_heads * (tiny.head_dim + -(-tiny.head_dim // 16) * 16) // 2
    )  # values in whole vectors
    position_bytes = 4 * (2 * 3 * tiny.n_decoder_layers + 1) * columns
    assert told.kv_bytes == tiny.n_positions * position_bytes
    shown = dict(info_lines(tmp_path))
    assert shown["architecture"] == tiny.kind and shown["layers"].startswith(f"{tiny.n_decoder_layers},")


def test_loaded_with_its_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    tiny = replace(T5, vocab=len(folders.PIECES) + 4)
    tiny.write(folders.t5_folder(tmp_path, tokenizer_config={"extra_ids": 4}))
    with lanner.load(tmp_path, kv_dtype="f32", threads=2) as m:
        assert m.tokenizer.encode("hello the") == [4, 5, 1]
        ids = Reference(tiny).greedy([4, 5, 1], 6)
        assert m.generate("hello the", max_tokens=6).tokens == ids
        assert m.translate(["hello the"], max_tokens=6) == [m.tokenizer.decode(ids)]
        assert m.info().architecture == "t5"


def test_other_models_refuse_to_translate(tmp_path: Path) -> None:
    from fake_decoder import FakeDecoder, tokenizer

    with (
        Model(FakeDecoder(), tokenizer()) as m,
        pytest.raises(_core.UnsupportedModelError, match="translate: 'fake' is a decoder"),
    ):
        m.translate("hello")


HUB = {
    "t5-small": (T5, {
        "architectures": ["T5ForConditionalGeneration"], "initializer_factor": 1.0, "n_positions": 64,
        "output_past": True,
        "task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}}}),
    "flan-t5-base": (GATED, {
        "architectures": ["T5ForConditionalGeneration"], "dense_act_fn": "gelu_new",
        "initializer_factor": 1.0, "is_gated_act": True, "output_past": True, "tie_word_embeddings": True,
        "transformers_version": "4.23.1", "classifier_dropout": 0.0,
        "task_specific_params": {"translation_en_to_de": {"max_length": 300}}}),
    "opus-mt-en-de": (MARIAN, {
        "_name_or_path": "opus-mt-en-de", "_num_labels": 3, "activation_dropout": 0.0,
        "add_bias_logits": False,
        "add_final_layer_norm": False, "architectures": ["MarianMTModel"], "attention_dropout": 0.0,
        "bos_token_id": 0, "classif_dropout": 0.0, "classifier_dropout": 0.0, "decoder_layerdrop": 0.0,
        "decoder_vocab_size": 61, "dropout": 0.1, "encoder_layerdrop": 0.0, "extra_pos_embeddings": 62,
        "id2label": {"0": "LABEL_0"}, "init_std": 0.02, "label2id": {"LABEL_0": 0}, "max_length": 512,
        "normalize_embedding": False, "num_hidden_layers": 2, "share_encoder_decoder_embeddings": True,
        "transformers_version": "4.22.0.dev0"}),
}  # fmt: skip


@pytest.mark.parametrize("name", HUB)
def test_configurations_of_the_hub_are_read_whole(name: str, tmp_path: Path) -> None:
    tiny, further = HUB[name]
    plain = open_model(tiny.write(tmp_path / "plain"))
    full = open_model(replace(tiny, changes=further).write(tmp_path / "full"))
    assert (full.config, full.rules) == (plain.config, plain.rules)


# --- what is refused ----------------------------------------------------------------------------------------
def test_sources_that_are_refused(marian: Translator) -> None:
    with pytest.raises(ValueError, match="translate: texts has 65 tokens, the context has room for 64"):
        marian.translate([5] * 65)
    with pytest.raises(ValueError, match=r"translate: texts\[1\] is empty"):
        marian.translate(["5", ""])
    with pytest.raises(ValueError, match="generate: prompt has the token id 61"):
        marian.generate([61])
    with pytest.raises(TypeError, match="translate: unknown keyword 'max_token'"):
        marian.translate("5", max_token=3)


@pytest.mark.parametrize("call", ["chat", "stream_chat", "logits", "perplexity", "embed", "classify"])
def test_calls_that_are_refused(call: str, marian: Translator) -> None:
    with pytest.raises(_core.UnsupportedModelError, match=f"{call}: 'marian' is an encoder-decoder"):
        getattr(marian, call)([1, 2])


@pytest.mark.parametrize(
    ("tiny", "changes", "message"),
    [
        (T5, {"feed_forward_proj": "gated-mish"}, "feed_forward_proj is 'gated-mish'"),
        (T5, {"feed_forward_proj": "gated"}, "feed_forward_proj is 'gated'"),
        (T5, {"dense_act_fn": "silu"}, "dense_act_fn is 'silu', only 'relu'"),
        (T5, {"is_encoder_decoder": False}, "is_encoder_decoder is False"),
        (T5, {"relative_attention_max_distance": 6}, "relative_attention_max_distance 6"),
        (T5, {"soft_prompt": 3}, "soft_prompt is not known"),
        (T5, {"vocab_size": 60}, "60 and 61 rows"),
        (T5, {"decoder_start_token_id": None}, "has no decoder_start_token_id"),
        (T5, {"decoder_start_token_id": 61}, "decoder_start_token_id is 61"),
        (T5, {"num_decoder_layers": 3}, "tensor 'decoder.block.2.layer.0.layer_norm.weight' is missing"),
        (T5, {"num_decoder_layers": 1}, "tensors that this architecture does not use"),
        (T5, {"d_ff": 22}, "has shape .21, 36., the configuration wants .22, 36."),
        (T5, {"num_heads": 2}, "the configuration wants"),
        (MARIAN, {"decoder_attention_heads": 6}, "decoder_attention_heads is 6, only 3"),
        (MARIAN, {"activation_function": "tanh"}, "activation_function is 'tanh'"),
        (MARIAN, {"normalize_before": True}, "normalize_before is True"),
        (MARIAN, {"d_model": 37}, "does not divide into 3 heads"),
        (MARIAN, {"bad_words_ids": [[3, 4]]}, "bad_words_ids has words of several tokens"),
        (MARIAN, {"bad_words_ids": [3]}, "bad_words_ids is .3."),
        (MARIAN, {"forced_bos_token_id": 3}, "forced_bos_token_id is 3, which is not supported"),
        (MARIAN, {"tie_word_embeddings": False}, "tensor 'lm_head.weight' is missing"),
    ],
)
def test_configurations_that_are_refused(
    tiny: TinySeq2Seq, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = tiny.write(tmp_path)
    config = {**tiny.config(), **changes}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((_core.ModelFileError, _core.UnsupportedModelError), match=message):
        open_model(folder)


def without(name: str) -> Any:
    return lambda tensors: {key: x for key, x in tensors.items() if key != name}


def with_nan(name: str) -> Any:
    return lambda tensors: {**tensors, name: np.full_like(tensors[name], np.nan)}


@pytest.mark.parametrize(
    ("tiny", "change", "message"),
    [
        (T5, without("shared.weight"), "'shared.weight' is missing"),
        (
            T5,
            without("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
            "attention_bias.weight' is",
        ),
        (
            T5,
            without("decoder.block.1.layer.1.EncDecAttention.v.weight"),
            "EncDecAttention.v.weight' is missing",
        ),
        (
            T5,
            with_nan("encoder.final_layer_norm.weight"),
            "final_layer_norm.weight' holds an infinite or NaN",
        ),
        (MARIAN, without("final_logits_bias"), "'final_logits_bias' is missing"),
        (MARIAN, without("model.encoder.layers.0.fc1.bias"), "fc1.bias' is missing"),
        (MARIAN, without("model.encoder.layers.0.self_attn.q_proj.bias"), "q_proj.bias' is missing"),
        (
            MARIAN,
            without("model.decoder.layers.1.final_layer_norm.bias"),
            "final_layer_norm.bias' is missing",
        ),
    ],
)
def test_tensors_that_are_refused(tiny: TinySeq2Seq, change: Any, message: str, tmp_path: Path) -> None:
    tensors: Arrays = change(tiny.tensors())
    with pytest.raises(_core.ModelFileError, match=message):
        open_model(tiny.write(tmp_path, tensors))


@pytest.mark.parametrize(
    ("tiny", "shared", "copy"),
    [
        (T5, "shared.weight", "decoder.embed_tokens.weight"),
        (T5, "shared.weight", "lm_head.weight"),
        (MARIAN, "model.shared.weight", "model.encoder.embed_tokens.weight"),
        (MARIAN, "model.shared.weight", "lm_head.weight"),
    ],
)
def test_a_shared_embedding_under_other_names(
    tiny: TinySeq2Seq, shared: str, copy: str, tmp_path: Path
) -> None:
    tensors = tiny.tensors()
    target = Target(SOURCES[1]), [tiny.start_id, 7, 9]
    wanted = open_model(tiny.write(tmp_path / "once"))
    twice = open_model(tiny.write(tmp_path / "twice", {**tensors, copy: tensors[shared]}))
    given = [target_logits(m, target[:1], target[1:])[0] for m in (wanted, twice)]
    assert np.array_equal(*given)
    other = {**tensors, copy: tensors[shared] * np.float32(1.5)}
    folder = tiny.write(tmp_path / "other", other)
    if copy == "lm_head.weight":  # a head of its own is used
        logits = target_logits(open_model(folder), target[:1], target[1:])[0]
        assert not np.array_equal(logits, given[0])
    else:
        with pytest.raises(_core.UnsupportedModelError, match=f"'{shared}' and '{copy}' differ"):
            open_model(folder)
        moved = {copy if name == shared else name: x for name, x in tensors.items()}
        logits = target_logits(open_model(tiny.write(tmp_path / "moved", moved)), target[:1], target[1:])[0]
        assert np.array_equal(logits, given[0])


def test_arguments_that_are_refused(tmp_path: Path) -> None:
    folder = MARIAN.write(tmp_path)
    for options, message in (
        ({"context": 65}, "context is 65"),
        ({"kv_dtype": "q4"}, "kv_dtype is 'q4'"),
        ({"quantize": "q2"}, "quantize is 'q2'"),
    ):
        with pytest.raises(ValueError, match=message):
            open_model(folder, **options)
    with pytest.raises(_core.OutOfMemoryBudget, match="max_memory is 100000"):
        open_model(folder, max_memory=100_000)
    assert open_model(folder, max_memory=1 << 30).context == 64
