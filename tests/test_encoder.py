"""Encoders against NumPy in float64, and the promises of `embed` and `classify`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import lanner
from lanner.checkpoint import open_checkpoint
from lanner.encoder import MAX_SEQS, STEP_TOKENS, Encoder
from lanner.text_reader import Classification
from tiny_bert import CLASSIFIERS, MODELS, TinyEncoder, ids_of, random_texts

pytest.importorskip("tokenizers")
MAX_RELATIVE_ERROR = 1e-4
"""float32 sums of a few dozen terms, through two layers; tests/oracles has the same bound."""

TEXTS = random_texts(300, 70)


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
    """300 texts take several steps, bounded by tokens and by texts; no bit depends on them."""
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child is made by fork")
def test_a_child_after_fork_goes_on(folder) -> None:
    """While another thread of the parent is inside the encoder."""
    code = f"""
import os, sys, threading
import numpy as np
import lanner
m = lanner.load({str(folder("bert"))!r}, threads=2)
texts = ["abc def"] * 40
wanted = m.embed(texts)
stop = threading.Event()
thread = threading.Thread(target=lambda: [m.embed(texts) for _ in iter(stop.is_set, True)])
thread.start()
for _ in range(10):
    if (pid := os.fork()) == 0:
        os._exit(0 if np.array_equal(m.embed(texts), wanted) else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# --- memory -------------------------------------------------------------------------------------------------
def test_a_budget_that_is_too_small(folder) -> None:
    with pytest.raises(lanner.OutOfMemoryBudget, match="max_memory is 1000"):
        lanner.load(folder("bert"), max_memory=1000)
