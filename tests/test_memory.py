"""What `max_memory` counts against what is reserved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lanner import _core
from lanner.checkpoint import open_checkpoint
from lanner.decoder import CHUNK_TOKENS, Decoder, activation_bytes
from tiny_folder import write_folder
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


PEAK = """
import json, sys
from lanner.checkpoint import open_checkpoint
from lanner.weights import Source, Weights
def kilobytes(field):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(field + ":"))
def packed(name, *shape):
    weights = Weights(checkpoint, 2, {"a": "a", "warm": "warm"}, quantize=sys.argv[2] or None)
    return weights.packed(Source(f"{name}.weight", shape))
checkpoint = open_checkpoint(sys.argv[1])
packed("warm", 16, 32)
before = kilobytes("VmRSS")
weight = packed("a", 16384, 2048)
print(json.dumps([weight.nbytes, before << 10, kilobytes("VmHWM") << 10]))
"""


@pytest.mark.parametrize("quantize", ["", "q8_0", "q4_0"])
def test_packing_a_folder_takes_one_copy_of_its_weights(quantize: str, tmp_path: Path) -> None:
    """Above the packed weight: slices of 4 MB of 64 MB on each thread, and what they become."""
    rows = np.random.default_rng(0).integers(0, 0x7C00, (16384, 2048), np.uint16)
    tensors = {"a.weight": ("F16", rows.shape, rows.tobytes()), "warm.weight": ("F16", (16, 32), bytes(1024))}
    folder = write_folder(tmp_path, {"model_type": "llama"}, tensors)
    child = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder), quantize], capture_output=True, text=True, check=True
    )
    packed, before, peak = json.loads(child.stdout)
    assert peak - before <= packed + (24 << 20)
