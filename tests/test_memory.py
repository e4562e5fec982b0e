"""What `max_memory` counts against what is reserved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lanner
from lanner import _core
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from tiny_folder import write_folder
from tiny_llama import MODELS, make


def test_a_budget_is_what_the_estimate_says(tmp_path: Path) -> None:
    path = make(MODELS["heads_of_16"], tmp_path / "t.gguf").path
    told = lanner.estimate(path, threads=1)
    wanted = told.weight_bytes + told.kv_bytes + told.scratch_bytes
    assert wanted <= told.peak_bytes
    checkpoint = open_checkpoint(path)
    assert Decoder(checkpoint, max_memory=wanted).context == told.context
    with pytest.raises(_core.OutOfMemoryBudget, match=f"needs {wanted} bytes, max_memory is {wanted - 1}"):
        Decoder(checkpoint, max_memory=wanted - 1)
    with pytest.raises(_core.OutOfMemoryBudget, match="no context would fit"):
        Decoder(checkpoint, max_memory=1000)


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
