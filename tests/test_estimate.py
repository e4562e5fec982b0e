"""What a model is said to take, against what a process then has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lanner
import random_models
from conftest import model_path

CHILD = """
import json, sys
import lanner

def resident(what):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(what))

path, context, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
before = resident("VmRSS")
model = lanner.load(path, context=context, threads=2, **options)
model.generate([(7 * i) % 1000 for i in range(context - 2)], max_tokens=2, ignore_eos=True)
print(resident("VmHWM") - before)
"""


def peak_bytes(path: Path, context: int, options: dict[str, str]) -> int:
    """What a new process takes at most, above what it had, for a context that is full."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(context), json.dumps(options)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(child.stdout)


@pytest.mark.parametrize(
    ("name", "context", "options"),
    [
        ("smollm2", 512, {}),
        ("smollm2", 3000, {"kv_dtype": "f32"}),
        pytest.param("gemma3-270m", 1024, {}, marks=pytest.mark.models),
        pytest.param("qwen2.5-coder-0.5b", 512, {}, marks=pytest.mark.models),
    ],
)
def test_the_peak_is_within_a_twentieth(name: str, context: int, options: dict[str, str]) -> None:
    path = model_path(name)
    told = lanner.estimate(path, context=context, threads=2, **options)
    assert told.peak_bytes == pytest.approx(peak_bytes(path, context, options), rel=0.05)


def test_parts_are_those_of_the_loaded_model(smollm2_path: Path) -> None:
    told = lanner.estimate(smollm2_path, context=100, batch=3)
    with lanner.load(smollm2_path, context=100) as model:
        info = model.info()
    assert told.n_params == info.n_params
    assert dict(told.formats) == dict(info.formats)
    assert told.weight_bytes_per_token == info.weight_bytes_per_token
    # 30 layers, 3 heads of 64, 4 pages of 32 positions, keys and values of 2 bytes.
    assert told.kv_bytes == 3 * 30 * 3 * 64 * 128 * 2 * 2
    assert told.peak_bytes > told.weight_bytes + told.kv_bytes + told.scratch_bytes
    assert told.context_length == 8192


@pytest.mark.parametrize("name", random_models.MODELS)
def test_every_architecture_has_a_plan(name: str, tmp_path: Path) -> None:
    path = random_models.write(random_models.MODELS[name], tmp_path / "model.gguf")
    decoder = random_models.decoder(path, context=64)
    told = lanner.estimate(path, context=64)
    assert told.weight_bytes == decoder.weight_bytes
    assert told.weight_bytes_per_token == decoder.weight_bytes_per_token
    assert told.n_params == decoder.n_params
    assert told.kv_bytes == sum(cache.page_bytes for cache in decoder.caches.caches) * 2


def test_routed_experts_alone_are_read_for_a_token(tmp_path: Path) -> None:
    path = random_models.write(random_models.MODELS["mixtral"], tmp_path / "model.gguf")
    told = lanner.estimate(path, context=64)
    # Three of five experts in each of two layers, three matrices of 160 x 96 float32; all rows but one.
    unused = 2 * 3 * 3 * 160 * 96 * 4
    embedding = -(-random_models.VOCAB // 16) * 16 * 96 * 4
    assert told.weight_bytes - told.weight_bytes_per_token == unused + embedding


def test_bad_arguments(smollm2_path: Path) -> None:
    for options, message in (
        ({"batch": 0}, "estimate: batch is 0, wanted a whole number of at least 1"),
        ({"context": 9000}, "9000, the model was trained for 8192"),
        ({"kv_dtype": "q3"}, "kv_dtype is 'q3'"),
        ({"quantize": "q9"}, "quantize is 'q9'"),
    ):
        with pytest.raises(ValueError, match=message):
            lanner.estimate(smollm2_path, **options)
