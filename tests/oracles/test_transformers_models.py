"""Every architecture against transformers in float32: tiny random models, from folders and GGUF files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from tiny_models import MODELS, VOCAB, write_gguf

from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from stepping import run_step, step_logits

pytestmark = pytest.mark.oracle

MAX_RELATIVE_ERROR = 1e-4
"""float32 sums of a few hundred terms, through a few layers; random signs keep them far below this."""

N_PROMPT, N_CACHED_STEPS = 90, 20
IDS = np.random.default_rng(1).integers(1, VOCAB, N_PROMPT).tolist()
CONTAINERS = [
    (name, container)
    for name, tiny in MODELS.items()
    for container in ("folder", "gguf")[: 1 + bool(tiny.gguf)]
]


@cache
def transformers_model(name: str) -> Any:
    return MODELS[name].make()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Path of a model in a container, written when it is first asked for."""
    root = tmp_path_factory.mktemp("models")

    @cache
    def folder(name: str) -> Path:
        path = root / name.replace(" ", "_")
        transformers_model(name).save_pretrained(path)
        return path

    @cache
    def path(name: str, container: str) -> Path:
        if container == "folder":
            return folder(name)
        file = root / f"{name.replace(' ', '_')}.gguf"
        write_gguf(MODELS[name], transformers_model(name), folder(name), file)
        return file

    return path


def wanted_logits(name: str, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return transformers_model(name)(torch.tensor([ids])).logits[0].numpy()


def relative_error(given: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(("name", "container"), CONTAINERS)
def test_logits_of_prefill_and_cached_steps(name: str, container: str, saved: Any) -> None:
    decoder = Decoder(
        open_checkpoint(saved(name, container)), context=MODELS[name].context, n_threads=2, kv_dtype="f32"
    )
    ids = list(IDS)
    whole = step_logits(decoder, ids, 64)
    assert relative_error(whole, wanted_logits(name, ids)) <= MAX_RELATIVE_ERROR
    for chunk in (7, 1):
        assert np.array_equal(step_logits(decoder, ids, chunk), whole)
    step_logits(decoder, ids, 64)
    for _ in range(N_CACHED_STEPS):
        ids.append(int(wanted_logits(name, ids)[-1].argmax()))
        assert run_step(decoder, ids[-1:], len(ids) - 1, [0])
        wanted = wanted_logits(name, ids)[-1]
        assert relative_error(decoder.logits(1)[0], wanted) <= MAX_RELATIVE_ERROR
        assert decoder.sampled(1)[0] == wanted.argmax()
