"""A real encoder against vectors that transformers computed (tests/golden/README.md)."""

from __future__ import annotations

import json

import numpy as np
import pytest

import lanner
from conftest import GOLDEN, golden, model_path

pytest.importorskip("tokenizers")
MIN_COSINE = 1 - 1e-6
"""The recorded vectors are float16, which takes 3e-8 of it."""


@pytest.fixture(scope="module")
def minilm():
    with lanner.load(model_path("minilm")) as m:
        yield m


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return json.loads((GOLDEN / "sentences.json").read_text())


def test_tokens_are_neither_padded_nor_cut(minilm, sentences) -> None:
    """Its tokenizer.json asks for both, at 128."""
    assert [len(minilm.tokenizer.encode(text)) for text in sentences] == golden("minilm")["n_tokens"].tolist()


def test_vectors_are_those_of_transformers(minilm, sentences) -> None:
    given = minilm.embed(sentences, normalise=False).astype(np.float64)
    wanted = golden("minilm")["mean"].astype(np.float64)
    cosines = (given * wanted).sum(1) / np.linalg.norm(given, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() >= MIN_COSINE
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), np.linalg.norm(wanted, axis=1), rtol=1e-3)


def test_its_folder_asks_for_means_of_length_one(minilm, sentences) -> None:
    given = minilm.embed(sentences)
    assert (given.dtype, given.shape) == (np.float32, (50, 384))
    np.testing.assert_allclose(np.linalg.norm(given.astype(np.float64), axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(given, minilm.embed(sentences, pooling="mean", normalise=True))


def test_sentences_of_one_meaning_are_near(minilm) -> None:
    a, b, c = minilm.embed(
        ["How do I reset my password?", "I forgot my password and cannot log in.", "The cat sat on the mat."]
    )
    assert a @ b > 0.5 > 0.2 > max(a @ c, b @ c)
