"""Encoders against NumPy in float64, and the promises of `embed` and `classify`."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lanner
from lanner.checkpoint import open_checkpoint
from lanner.encoder import MAX_SEQS, STEP_TOKENS, Encoder, activation_bytes
from lanner.text_reader import Classification
from tiny_bert import CLASSIFIERS, MODELS, TinyEncoder, ids_of, random_texts

pytest.importorskip("tokenizers")
MAX_RELATIVE_ERROR = 1e-4
"""float32 sums of a few dozen terms, through two layers; tests/oracles has the same bound."""

TEXTS = random_texts(150, 70)


def relative_error(given: np.ndarray, wanted: np.ndarray) -> float:
    assert given.shape == wanted.shape
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


def hidden_states(encoder: Encoder, texts: list[list[int]]) -> list[np.ndarray]:
    out: dict[int, np.ndarray] = {}
    encoder.hidden_states(texts, lambda i, rows: out.update({i: rows.copy()}))
    return [out[i] for i in range(len(texts))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("encoders")

    def path(name: str) -> Path:
        tiny = (MODELS | CLASSIFIERS)[name]
        return root / name if (root / name).exists() else tiny.write(root / name)

    return path


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_are_those_of_numpy(name: str, folder) -> None:
    tiny = MODELS[name]
    texts = [ids_of(tiny, text) for text in TEXTS[:20]]
    for ids, given in zip(texts, hidden_states(Encoder(open_checkpoint(folder(name))), texts), strict=True):
        assert relative_error(given, tiny.hidden_states(ids)) <= MAX_RELATIVE_ERROR


@pytest.mark.parametrize("name", [*MODELS, "bert labels"])
def test_a_text_does_not_feel_its_neighbours_or_the_threads(name: str, folder) -> None:
    """150 texts take several steps, bounded by tokens and by texts; no bit depends on them."""
    tiny = (MODELS | CLASSIFIERS)[name]
    texts = [ids_of(tiny, text) for text in TEXTS]
    assert len(texts) > 2 * MAX_SEQS
    assert sum(map(len, texts)) > 2 * STEP_TOKENS
    one = Encoder(open_checkpoint(folder(name)), n_threads=1)
    wanted = [hidden_states(one, [ids])[0] for ids in texts]
    for n_threads in (1, 2, 3):
        encoder = Encoder(open_checkpoint(folder(name)), n_threads=n_threads)
        for order in (1, -1):
            for given, alone in zip(hidden_states(encoder, texts[::order]), wanted[::order], strict=True):
                np.testing.assert_array_equal(given, alone)
        if tiny.n_labels:
            alone = np.concatenate([one.scores([ids]) for ids in texts])
            np.testing.assert_array_equal(encoder.scores(texts), alone)


@pytest.mark.parametrize("name", ["bert labels", "blocks"])
def test_the_list_reads_the_same_in_python(name: str, folder) -> None:
    """What C++ runs on threads is what the interpreter computes one operation after the other."""
    encoder = Encoder(open_checkpoint(folder(name)), n_threads=2)
    texts = [ids_of((MODELS | CLASSIFIERS)[name], text) for text in TEXTS[:5]]
    given = hidden_states(encoder, texts)
    values = encoder.program.interpret(encoder.step)
    rows = values["L01.ffn.norm"]
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    np.testing.assert_array_equal(np.concatenate([given[i] for i in order]), rows)


# --- embed --------------------------------------------------------------------------------------------------
def modules(folder: Path, *kinds: str, **pooling: bool) -> None:
    """modules.json and the configuration of its Pooling module."""
    entries = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(("Transformer", *kinds))
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    for entry in entries[1:]:
        (folder / entry["path"]).mkdir(exist_ok=True)
        (folder / entry["path"] / "config.json").write_text(json.dumps(pooling))


def test_embed_is_the_mean_or_the_first_token(folder) -> None:
    tiny = MODELS["bert"]
    with lanner.load(folder("bert")) as m:
        for pooling, of in ((None, np.mean), ("mean", np.mean), ("cls", lambda rows, axis: rows[0])):
            given = m.embed(TEXTS[:9], pooling=pooling)
            assert (given.dtype, given.shape) == (np.float32, (9, tiny.hidden))
            wanted = np.array([of(tiny.hidden_states(ids_of(tiny, text)), axis=0) for text in TEXTS[:9]])
            assert relative_error(given, wanted) <= MAX_RELATIVE_ERROR
            unit = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
            assert (
                relative_error(m.embed(TEXTS[:9], pooling=pooling, normalise=True), unit)
                <= MAX_RELATIVE_ERROR
            )
        np.testing.assert_array_equal(m.embed(TEXTS[3]), m.embed(TEXTS[:9])[3])
        assert m.embed([]).shape == (0, tiny.hidden)


def test_texts_keep_their_order_and_their_bits(folder) -> None:
    with lanner.load(folder("roberta"), threads=2) as two, lanner.load(folder("roberta"), threads=1) as one:
        together = two.embed(TEXTS)
        for i, text in enumerate(TEXTS):
            np.testing.assert_array_equal(one.embed(text), together[i])


def test_calls_from_many_threads(folder) -> None:
    with lanner.load(folder("bert")) as m:
        wanted = m.embed(TEXTS)
        found: list[np.ndarray] = []
        threads = [threading.Thread(target=lambda: found.append(m.embed(TEXTS))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        for given in found:
            np.testing.assert_array_equal(given, wanted)


def test_modules_json_says_what_embed_does(tmp_path: Path) -> None:
    folder = MODELS["bert"].write(tmp_path)
    modules(folder, "Pooling", "Normalize", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    with lanner.load(folder) as m:
        np.testing.assert_array_equal(m.embed(TEXTS[:3]), m.embed(TEXTS[:3], pooling="cls", normalise=True))
        assert not np.array_equal(m.embed(TEXTS[:3]), m.embed(TEXTS[:3], normalise=False))
        assert not np.array_equal(m.embed(TEXTS[:3]), m.embed(TEXTS[:3], pooling="mean"))


@pytest.mark.parametrize(
    ("kinds", "pooling", "named"),
    [
        (("Pooling",), {"pooling_mode_max_tokens": True}, "1_Pooling: max_tokens"),
        (("Pooling",), {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, r"mean\+cls"),
        (("Pooling",), {}, "1_Pooling: none"),
        (("Pooling", "Dense"), {"pooling_mode_mean_tokens": True}, "a Dense module"),
    ],
    ids=["max", "two", "none", "dense"],
)
def test_poolings_that_are_not_known_are_refused_by_name(kinds, pooling, named: str, tmp_path: Path) -> None:
    folder = MODELS["bert"].write(tmp_path)
    modules(folder, *kinds, **pooling)
    with lanner.load(folder) as m:
        with pytest.raises(lanner.UnsupportedModelError, match=named):
            m.embed("a")
        assert m.embed("a", pooling="mean").shape == (60,)


@pytest.mark.parametrize(
    "text",
    ["{", "{}", "[1]", '[{"type": "a.Pooling", "path": ".."}]', '[{"type": "a.Pooling", "path": "/etc"}]',
     '[{"type": "a.Pooling", "path": "nowhere"}]', '[{"type": 1, "path": ""}]',
     '[{"type": "a.Pooling", "path": "\\u0000"}]', "[" * 100_000],
)  # fmt: skip
def test_a_broken_modules_json(text: str, tmp_path: Path) -> None:
    folder = MODELS["bert"].write(tmp_path)
    (folder / "modules.json").write_text(text)
    with pytest.raises(lanner.ModelFileError, match=r"modules\.json"):
        lanner.load(folder)


# --- texts --------------------------------------------------------------------------------------------------
def test_long_texts_are_refused_or_cut_before_the_last_special_token(folder) -> None:
    tiny = MODELS["bert"]
    letters = "ab " * tiny.n_positions
    with lanner.load(folder("bert")) as m, lanner.load(folder("bert"), context=10) as short:
        with pytest.raises(ValueError, match=r"texts\[1\] has 162 tokens, the context has room for 80"):
            m.embed(["a", letters])
        np.testing.assert_array_equal(m.embed(letters, truncate=True), m.embed("ab " * 39))
        with pytest.raises(ValueError, match=r"texts\[0\] has 162 tokens, the context has room for 10"):
            short.embed(letters)
        np.testing.assert_array_equal(short.embed(letters, truncate=True), m.embed("ab " * 4))
        # A text that spells out the special tokens.
        spelled = "[CLS] [SEP] a"
        np.testing.assert_array_equal(
            short.embed(spelled * 9, truncate=True), short.embed("[CLS] [SEP] a" * 2 + "[CLS] [SEP]")
        )


def test_texts_as_long_as_the_positions(folder) -> None:
    for name in ("bert", "roberta"):
        tiny = MODELS[name]
        text = "a " * (tiny.n_positions - 2)
        with lanner.load(folder(name)) as m:
            wanted = tiny.hidden_states(ids_of(tiny, text)).mean(axis=0)
            assert relative_error(m.embed(text), wanted) <= MAX_RELATIVE_ERROR
            with pytest.raises(ValueError, match="has 81 tokens, the context has room for 80"):
                m.embed(text + "a")


def test_arguments_that_are_refused(folder) -> None:
    with lanner.load(folder("bert")) as m:
        for texts in (None, 3, b"a", {"a": 1}, ["a", 3], ["a", b"b"], [["a"]]):
            with pytest.raises(ValueError, match="embed: texts"):
                m.embed(texts)
        with pytest.raises(ValueError, match="pooling is 'max', wanted one of mean, cls"):
            m.embed("a", pooling="max")
        with pytest.raises(ValueError, match="normalise is 'yes'"):
            m.embed("a", normalise="yes")
        with pytest.raises(ValueError, match="lone surrogate"):
            m.embed("\ud800")
    with lanner.load(folder("roberta")) as m, pytest.raises(ValueError, match="spells out the padding token"):
        m.embed("a <pad> b")


def test_a_closed_model(folder) -> None:
    m = lanner.load(folder("bert labels"))
    m.close()
    m.close()
    assert m.is_closed
    for call in (m.embed, m.classify):
        with pytest.raises(RuntimeError, match="the model is closed"):
            call("a")


# --- classify -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classify(name: str, folder) -> None:
    tiny = CLASSIFIERS[name]
    with lanner.load(folder(name)) as m:
        results = m.classify(TEXTS[:20])
        assert m.labels == tuple(f"label {i}" for i in range(tiny.n_labels))
        assert m.classify(TEXTS[4]) == results[4]
        assert m.classify([]) == []
        assert m.embed(TEXTS[:2]).shape == (2, tiny.hidden)
    for text, result in zip(TEXTS, results, strict=False):
        scores = tiny.scores(ids_of(tiny, text))
        wanted = {
            "many right": lambda x: 1 / (1 + np.exp(-x)),
            "number": lambda x: x,
        }.get(name, lambda x: np.exp(x) / np.exp(x).sum())(scores)
        assert isinstance(result, Classification)
        assert list(result.scores) == list(m_labels(tiny))
        np.testing.assert_allclose(list(result.scores.values()), wanted, atol=1e-4 * np.abs(scores).max())
        assert result.score == max(result.scores.values()) == result.scores[result.label]


def m_labels(tiny: TinyEncoder) -> list[str]:
    return [f"label {i}" for i in range(tiny.n_labels)]


def test_labels_without_names_are_numbered(tmp_path: Path) -> None:
    tiny = replace(CLASSIFIERS["bert labels"], changes={"id2label": None})
    with lanner.load(tiny.write(tmp_path)) as m:
        assert m.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


# --- what encoders refuse -----------------------------------------------------------------------------------
def test_nothing_continues_a_text(folder) -> None:
    with lanner.load(folder("bert")) as m:
        for call in (m.generate, m.stream, m.submit, m.logits, m.perplexity):
            with pytest.raises(lanner.UnsupportedModelError, match=f"{call.__name__}: 'bert' is an encoder"):
                call("a", max_tokens=3)
        for call in (m.chat, m.stream_chat):
            with pytest.raises(lanner.UnsupportedModelError, match="is an encoder"):
                call([{"role": "user", "content": "a"}])
        with pytest.raises(lanner.UnsupportedModelError, match="classify: this 'bert' has no head"):
            m.classify("a")


def test_decoders_refuse_embed_and_classify(smollm2) -> None:
    for call in (smollm2.embed, smollm2.classify):
        with pytest.raises(lanner.UnsupportedModelError, match=f"{call.__name__}: 'llama' is a decoder"):
            call("a")


def test_info(folder) -> None:
    tiny = CLASSIFIERS["bert labels"]
    with lanner.load(folder("bert labels"), context=33) as m:
        info = m.info()
    assert (info.architecture, info.hidden_size, info.context, info.context_length) == (
        "bert",
        tiny.hidden,
        33,
        80,
    )
    assert info.n_params == sum(value.size for value in tiny.tensors().values())
    assert (info.n_layers, info.n_heads, info.head_dim, info.vocab_size) == (2, 3, 20, len(tiny.vocabulary))


@pytest.mark.parametrize("quantize", ["q8_0", "q4_0"])
def test_quantized_weights(quantize: str, folder) -> None:
    with lanner.load(folder("blocks")) as m, lanner.load(folder("blocks"), quantize=quantize) as quantized:
        assert quantized.info().formats[quantize] > 0
        exact, rounded = (model.embed(TEXTS, normalise=True).astype(np.float64) for model in (m, quantized))
        worst = 1 - (exact * rounded).sum(axis=1).min()
        assert 0 < worst <= {"q8_0": 1e-3, "q4_0": 0.1}[quantize]


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("bert", {"hidden_act": "mish"}, "hidden_act is 'mish'"),
        ("distilbert", {"activation": "mish"}, "activation is 'mish'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        (
            "bert",
            {"architectures": ["BertForTokenClassification"]},
            "architectures is 'BertForTokenClassification'",
        ),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"problem_type": "ranking"}, "problem_type is 'ranking'"),
        ("bert", {"use_rotary": True}, "use_rotary is not known"),
        ("bert", {"model_type": "modernbert"}, "architecture 'modernbert' is not supported"),
    ],
)
def test_what_is_not_supported_is_named(
    kind: str, changes: dict[str, object], named: str, tmp_path: Path
) -> None:
    tiny = replace(CLASSIFIERS[f"{kind} labels"], changes=changes)
    with pytest.raises(lanner.UnsupportedModelError, match=named):
        lanner.load(tiny.write(tmp_path))


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("bert", {"num_attention_heads": 7}, "7 heads do not divide a hidden size of 60"),
        ("bert", {"max_position_embeddings": 79}, r"shape \(80, 60\), the configuration wants \(79, 60\)"),
        ("bert", {"hidden_size": None}, "'hidden_size' is missing"),
        ("bert", {"layer_norm_eps": -1.0}, "layer_norm_eps"),
        ("bert", {"id2label": {"0": "a", "1": "b"}}, "id2label"),
        ("bert", {"id2label": {"0": "a", "1": "b", "2": "a"}}, "id2label"),
        ("bert", {"id2label": ["a", "b", "c"]}, "id2label"),
        ("bert", {"id2label": {"0": ["a"], "1": "b", "2": "c"}}, "id2label"),
        ("roberta", {"pad_token_id": 90}, "begins at position 91"),
        ("roberta", {"pad_token_id": -1}, "pad_token_id is -1"),
    ],
)
def test_contradictions_are_named(kind: str, changes: dict[str, object], named: str, tmp_path: Path) -> None:
    tiny = replace(CLASSIFIERS[f"{kind} labels"], changes=changes)
    with pytest.raises(lanner.ModelFileError, match=named):
        lanner.load(tiny.write(tmp_path))


# --- memory -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n_threads", [1, 4])
@pytest.mark.parametrize("name", [*MODELS, "bert labels"])
def test_activations_are_never_more_than_counted(name: str, n_threads: int, folder) -> None:
    for quantize in (None, "q8_0"):
        encoder = Encoder(open_checkpoint(folder(name)), n_threads=n_threads, quantize=quantize)
        counted = activation_bytes(encoder.config, encoder.max_tokens, n_threads)
        assert encoder.program.core.arena_bytes + encoder.cache.n_pages * encoder.cache.page_bytes <= counted


def test_a_budget_that_is_too_small(folder) -> None:
    with pytest.raises(lanner.OutOfMemoryBudget, match="max_memory is 1000"):
        lanner.load(folder("bert"), max_memory=1000)
