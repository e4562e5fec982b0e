"""Real models against an independent float32 implementation of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import lanner
from conftest import golden, model_path
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from stepping import step_logits

N_PROMPTS = 8
SURE_MARGIN = 0.3
"""Below this margin the first choice of the reference is within the rounding of the activations."""


@dataclass(frozen=True)
class Real:
    """A model of the catalogue, its reference, and how far llama.cpp's logits diverge from it.

    Mean and 99th percentile, eleven times the mean: rounding activations to 8 bits costs this much.
    """

    name: str
    reference: str
    vocab_size: int
    max_mean_kl: float
    max_kl_99: float


SMOLLM2 = Real("smollm2", "smollm2-135m-q4_1", 49152, 0.0027, 0.030)
GEMMA3 = Real("gemma3-270m", "gemma-3-270m-q4_k_m", 262144, 0.0058, 0.064)
QWEN2 = Real("qwen2.5-coder-0.5b", "qwen2.5-coder-0.5b-q4_k_m", 151936, 0.00088, 0.0097)


@pytest.fixture(
    scope="module",
    params=[SMOLLM2, *(pytest.param(real, marks=pytest.mark.models) for real in (GEMMA3, QWEN2))],
    ids=lambda real: real.name,
)
def real(request: pytest.FixtureRequest) -> Real:
    return request.param


@pytest.fixture(scope="module")
def path(real: Real) -> Path:
    return model_path(real.name)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[lanner.Model]:
    with lanner.load(path) as model:
        yield model


@pytest.fixture(scope="module")
def reference(real: Real) -> dict[str, np.ndarray]:
    return golden(real.reference)


@pytest.fixture(scope="module")
def logits(model, reference) -> list[np.ndarray]:
    return [model.logits(reference[f"p{i}_ids"].tolist()) for i in range(N_PROMPTS)]


def kl_divergence(
    logits: np.ndarray, top_ids: np.ndarray, top_logits: np.ndarray, lse: np.ndarray
) -> np.ndarray:
    """Sum of p (log p - log q) over the stored ids, for every position, each side by its own log-sum-exp."""
    x = logits.astype(np.float64)
    peak = x.max(axis=1, keepdims=True)
    log_q = (
        np.take_along_axis(x, top_ids, axis=1) - peak - np.log(np.exp(x - peak).sum(axis=1, keepdims=True))
    )
    log_p = top_logits.astype(np.float64) - lse.astype(np.float64)[:, None]
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=1)


def test_token_ids_are_the_references(model, reference, golden_prompts) -> None:
    for i, prompt in enumerate(golden_prompts):
        assert model.tokenizer.encode(prompt) == reference[f"p{i}_ids"].tolist(), prompt


def test_logits_have_a_row_per_token(real, logits, reference) -> None:
    for i, rows in enumerate(logits):
        assert rows.dtype == np.float32
        assert rows.shape == (len(reference[f"p{i}_ids"]), real.vocab_size)


def test_divergence_from_the_reference(real, logits, reference) -> None:
    kl = np.concatenate(
        [
            kl_divergence(
                rows,
                reference[f"p{i}_top_ids"].astype(np.int64),
                reference[f"p{i}_top_logits"],
                reference[f"p{i}_lse"],
            )
            for i, rows in enumerate(logits)
        ]
    )
    assert kl.mean() <= real.max_mean_kl
    assert np.percentile(kl, 99) <= real.max_kl_99


@pytest.mark.parametrize("i", range(N_PROMPTS))
def test_greedy_continuation_until_the_first_close_call(model, reference, i: int) -> None:
    wanted, margins = reference[f"p{i}_greedy"], reference[f"p{i}_margin"]
    close = np.flatnonzero(margins < SURE_MARGIN)
    n_sure = int(close[0]) if len(close) else len(wanted)
    result = model.generate(reference[f"p{i}_ids"].tolist(), max_tokens=len(wanted), ignore_eos=True)
    assert result.tokens[:n_sure] == wanted[:n_sure].tolist()


def test_whole_chunked_and_token_by_token_agree_bitwise(path, reference) -> None:
    ids = reference["p6_ids"][:96].tolist()
    whole = None
    for n_threads in (1, 2):
        decoder = Decoder(open_checkpoint(path), context=128, n_threads=n_threads)
        for chunk in (64, 7, 1):
            logits = step_logits(decoder, ids, chunk)
            whole = logits if whole is None else whole
            assert np.array_equal(logits, whole), (n_threads, chunk)
