"""Whole beam searches against transformers in float32: tokens and scores of every result, on tiny models."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import test_transformers_seq2seq as seq2seq
import torch
from tiny_models import MODELS, VOCAB, Tiny

from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from lanner.llm import Model
from lanner.translation import Translator
from targets import IdTokenizer

pytestmark = pytest.mark.oracle

MAX_TOKENS = 14
MAX_SCORE_ERROR = 2e-4
"""Sums of log p of at most 14 tokens whose logits agree to about 1e-5; random models have no near ties."""

RNG = np.random.default_rng(3)
PROMPTS = [RNG.integers(1, VOCAB, n).tolist() for n in (1, 30, 33, 64)]
GEMMA = MODELS["gemma3"]
DECODERS = {
    "llama": MODELS["llama"],
    "gpt2": MODELS["gpt2"],
    # Windows that the texts leave behind.
    "gemma3": Tiny("Gemma3", GEMMA.config | {"sliding_window": 8}, classes=GEMMA.classes),
}
TRANSLATORS = ["t5", "t5 gelu", "mt5", "marian", "marian relu"]

SEARCHES = [
    {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping, "n": n}
    for num_beams, n in ((1, 1), (2, 1), (3, 3), (4, 2), (5, 5))
    for length_penalty in (0.5, 1.0, 2.0)
    for early_stopping in (False, True)
]


class Ends(IdTokenizer):
    """With tokens that end a text, as a model has them that was made to end."""

    def __init__(self, eos_ids: list[int]) -> None:
        self.eos_ids = frozenset(eos_ids)


@cache
def decoder_model(name: str) -> tuple[Any, list[int]]:
    """The model of transformers, and ends that its searches come to."""
    model = DECODERS[name].make()
    return model, likely_ends(model, PROMPTS)


def likely_ends(model: Any, prompts: list[list[int]]) -> list[int]:
    """Ids from the middle of what searches find that have no end."""
    seen = [wanted(model, prompt, num_beams=3, n=3, eos_token_id=[])[0] for prompt in prompts]
    return sorted({ids[i][7 - i] for ids in seen for i in (0, 1)})


def wanted(
    model: Any,
    prompt: list[int],
    *,
    n: int,
    num_beams: int,
    eos_token_id: list[int] | None = None,
    **options: Any,
) -> tuple[list[list[int]], list[float]]:
    """Tokens and scores that transformers finds, without what fills up shorter ones. Without a cache, which
    for some is sized by the wrong side."""
    if eos_token_id is not None:
        options["eos_token_id"] = eos_token_id or None
    if num_beams == 1:
        options = {
            key: value
            for key, value in options.items()
            if key != "length_penalty" and key != "early_stopping"
        }
    with torch.no_grad():
        made = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), num_beams=num_beams,
            do_sample=False, num_return_sequences=n, return_dict_in_generate=True, output_scores=True,
            use_cache=False, max_new_tokens=MAX_TOKENS, **options,
        )  # fmt: skip
    start = 1 if model.config.is_encoder_decoder else len(prompt)
    rows = made.sequences[:, start:].tolist()
    if num_beams == 1:
        return rows, []
    lengths = (made.beam_indices >= 0).sum(1).tolist()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)], made.sequences_scores.tolist()


def check(results: Any, tokens: list[list[int]], scores: list[float]) -> None:
    results = results if isinstance(results, list) else [results]
    assert [result.tokens for result in results] == tokens
    if scores:
        assert [result.score for result in results] == pytest.approx(scores, abs=MAX_SCORE_ERROR)
    else:
        assert [result.score for result in results] == [None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("beams")

    @cache
    def folder(name: str) -> Path:
        model = decoder_model(name)[0] if name in DECODERS else seq2seq.transformers_model(name)
        model.save_pretrained(root / name)
        return root / name

    return folder


# --- decoders -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str, saved: Any) -> None:
    model, ends = decoder_model(name)
    decoder = Decoder(open_checkpoint(saved(name)), n_threads=2, kv_dtype="f32")
    n_early = 0
    with Model(decoder, Ends(ends)) as m:
        for options in SEARCHES:
            given = m.generate(PROMPTS, max_tokens=MAX_TOKENS, **options)
            for prompt, results in zip(PROMPTS, given, strict=True):
                tokens, scores = wanted(model, prompt, eos_token_id=ends, **options)
                check(results, tokens, scores)
                n_early += len(tokens[0]) < MAX_TOKENS
            check(m.generate(PROMPTS[-1], max_tokens=MAX_TOKENS, **options), tokens, scores)  # alone
        assert n_early >= 10
        assert m._engine is not None and not len(m._engine._scheduler)


def test_no_end_too_soon(saved: Any) -> None:
    model, ends = decoder_model("llama")
    decoder = Decoder(open_checkpoint(saved("llama")), n_threads=2, kv_dtype="f32")
    with Model(decoder, Ends(ends)) as m:
        for prompt in PROMPTS:
            tokens, scores = wanted(model, prompt, eos_token_id=ends, n=3, num_beams=3, min_new_tokens=9)
            check(m.generate(prompt, max_tokens=MAX_TOKENS, min_tokens=9, n=3, num_beams=3), tokens, scores)
            for penalty in (1.3, 0.8):
                tokens, scores = wanted(
                    model, prompt, eos_token_id=ends, n=3, num_beams=3, repetition_penalty=penalty
                )
                results = m.generate(
                    prompt, max_tokens=MAX_TOKENS, n=3, num_beams=3, repetition_penalty=penalty
                )
                check(results, tokens, scores)


# --- encoder-decoders ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TRANSLATORS)
def test_encoder_decoders(name: str, saved: Any) -> None:
    model, sources = seq2seq.transformers_model(name), seq2seq.SOURCES[:4]
    ends = likely_ends(model, sources)
    own_end = model.generation_config.eos_token_id
    n_early = 0
    with Translator(seq2seq.open_model(saved(name)), IdTokenizer()) as m:
        for options in SEARCHES:
            given = m.generate(sources, max_tokens=MAX_TOKENS, stop_token_ids=ends, **options)
            for source, results in zip(sources, given, strict=True):
                tokens, scores = wanted(model, source, eos_token_id=[own_end, *ends], **options)
                check(results, tokens, scores)
                n_early += len(tokens[0]) < MAX_TOKENS
        assert n_early >= 10
        assert m._engine is not None and not len(m._engine._scheduler)
