"""What `max_memory` counts against what is reserved."""

from __future__ import annotations

from pathlib import Path

import pytest

from lanner import _core
from lanner.checkpoint import open_checkpoint
from lanner.decoder import CHUNK_TOKENS, Decoder, activation_bytes
from tiny_llama import MODELS, make


@pytest.mark.parametrize("n_threads", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_activations_are_never_more_than_counted(name: str, n_threads: int, tmp_path: Path) -> None:
    decoder = make(MODELS[name], tmp_path / "t.gguf").decoder(n_threads=n_threads)
    assert decoder.program.core.arena_bytes <= activation_bytes(decoder.config, CHUNK_TOKENS, n_threads)


def test_a_budget_that_is_too_small_says_what_fits(tmp_path: Path) -> None:
    path = make(MODELS["heads_of_16"], tmp_path / "t.gguf").path
    with pytest.raises(_core.OutOfMemoryBudget, match="no context would fit"):
        Decoder(open_checkpoint(path), max_memory=1000)
    with pytest.raises(_core.OutOfMemoryBudget, match=r"a context of \d+ would fit"):
        Decoder(open_checkpoint(path), max_memory=activation_bytes_of(path) + 100_000)


def activation_bytes_of(path: Path) -> int:
    """Weights and activations of a model in a step of 512 tokens, on one thread."""
    file = open_checkpoint(path)
    return file.n_bytes + activation_bytes(Decoder(file).config, CHUNK_TOKENS, 1)
