"""A real model against an independent float32 implementation of it."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import golden
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from stepping import step_logits

N_PROMPTS = 8
# The divergence of llama.cpp's logits on the same file: rounding activations to 8 bits costs this much.
MAX_MEAN_KL, MAX_KL_99 = 0.0027, 0.030
# Below this margin the first choice of the reference is within the rounding of the activations.
SURE_MARGIN = 0.3


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    return golden("smollm2-135m-q4_1")


@pytest.fixture(scope="module")
def logits(smollm2, reference) -> list[np.ndarray]:
    return [smollm2.logits(reference[f"p{i}_ids"].tolist()) for i in range(N_PROMPTS)]


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


def test_token_ids_are_the_references(smollm2, reference, golden_prompts) -> None:
    for i, prompt in enumerate(golden_prompts):
        assert smollm2.tokenizer.encode(prompt) == reference[f"p{i}_ids"].tolist(), prompt


def test_logits_have_a_row_per_token(logits, reference) -> None:
    for i, rows in enumerate(logits):
        assert rows.dtype == np.float32
        assert rows.shape == (len(reference[f"p{i}_ids"]), 49152)


def test_divergence_from_the_reference(logits, reference) -> None:
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
    assert kl.mean() <= MAX_MEAN_KL
    assert np.percentile(kl, 99) <= MAX_KL_99


@pytest.mark.parametrize("i", range(N_PROMPTS))
def test_greedy_continuation_until_the_first_close_call(smollm2, reference, i: int) -> None:
    wanted, margins = reference[f"p{i}_greedy"], reference[f"p{i}_margin"]
    close = np.flatnonzero(margins < SURE_MARGIN)
    n_sure = int(close[0]) if len(close) else len(wanted)
    result = smollm2.generate(reference[f"p{i}_ids"].tolist(), max_tokens=len(wanted), ignore_eos=True)
    assert result.tokens[:n_sure] == wanted[:n_sure].tolist()


def test_whole_chunked_and_token_by_token_agree_bitwise(smollm2_path, reference) -> None:
    ids = reference["p6_ids"][:96].tolist()
    whole = None
    for n_threads in (1, 2):
        decoder = Decoder(open_checkpoint(smollm2_path), context=128, n_threads=n_threads)
        for chunk in (64, 7, 1):
            logits = step_logits(decoder, ids, chunk)
            whole = logits if whole is None else whole
            assert np.array_equal(logits, whole), (n_threads, chunk)
