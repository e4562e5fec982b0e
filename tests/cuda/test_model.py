"""What bench/cuda_model.py predicts: the README shows it, and the goals are within it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolkit

sys.path.insert(0, str(toolkit.ROOT / "bench"))

import cuda_decode
import cuda_model
import cuda_shapes
import models as files
from attending import Attention, Case
from gates import gate_named
from gpus import GPUS, Gpu
from sass import short_name
from test_lowering import program
from test_sample import sample


def test_readme_shows_what_the_model_prints() -> None:
    readme = (toolkit.ROOT / "README.md").read_text()
    shown = readme.partition(cuda_model.BEGIN)[2].partition(cuda_model.END)[0]
    assert shown == cuda_model.tables(), "python bench/cuda_model.py --write"


@pytest.mark.parametrize("weights", cuda_shapes.TYPES)
def test_large_matrices_are_read_at_90_per_cent(weights: str) -> None:
    large = [row for row in cuda_model.rows_of_matrices(weights) if row[1] > 30]
    assert len(large) > 4
    for name, _, shares in large:
        for gpu, share in zip(GPUS, shares, strict=True):
            assert share > 0.9, (name, gpu.name)


def test_misses_and_short_kernels_are_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cuda_model.misses() and not cuda_model.short_kernels()
    assert "- none\n" in cuda_model.tables() and "keep DRAM busy: none." in cuda_model.tables()
    monkeypatch.setattr(type(GPUS[0]), "sm_bandwidth", 1e9)  # of an L2 that brings next to nothing
    missed = cuda_model.misses()
    assert {where.partition(",")[0] for where in missed} == {gpu.name for gpu in GPUS}
    assert all(matrix in cuda_model.tables() for matrices in missed.values() for matrix in matrices)


def test_bytes_of_the_models() -> None:
    """Of the matrices: 15.0 GB, 2.47 GB, 1.19 GB in bf16."""
    billions = [(cuda_shapes.step_bytes(s, "bf16") - s.kv_bytes) / 1e9 for s in cuda_shapes.SHAPES]
    assert billions == [
        pytest.approx(15.0, abs=0.1),
        pytest.approx(2.47, abs=0.01),
        pytest.approx(1.19, abs=0.01),
    ]


@pytest.mark.parametrize(
    ("architecture", "shape"), [("llama", cuda_shapes.SHAPES[0]), ("qwen3", cuda_shapes.SHAPES[2])]
)
def test_launches_are_those_of_the_list(
    tmp_path: Path, architecture: str, shape: cuda_shapes.Shape, fibers: Any
) -> None:
    launches: list[dict[str, Any]] = []
    fibers.emulator.set_interpreter(launches.append)
    sample(fibers, np.ones((1, 100), np.float32), [(1, 0, 0.9, 0, 1, 0.5)])
    assert len(launches) == cuda_shapes.KERNELS["sample"]
    made = program(files.write(tmp_path / "model.gguf", architecture=architecture)).lists["decode"]
    kernels = [cuda_shapes.KERNELS.get(launch.op, 1) for launch in made]
    # The first rotation bears the name of its layer.
    of_a_layer = sum(n for n, launch in zip(kernels, made, strict=True) if launch.name.startswith("L01"))
    assert of_a_layer == shape.layer_launches
    assert sum(kernels) - files.LAYERS * of_a_layer == cuda_shapes.OTHER_LAUNCHES


@pytest.mark.parametrize("n_sms", [1, 16, 108, 148])
@pytest.mark.parametrize("shape", cuda_shapes.SHAPES, ids=lambda s: s.name)
def test_splits_are_those_of_the_launcher(fibers: Any, shape: cuda_shapes.Shape, n_sms: int) -> None:
    launches: list[dict[str, Any]] = []
    heads = (shape.heads, shape.kv_heads)
    attention = Attention(fibers, Case([(40, 1)], heads=heads, dim=shape.head_dim, spare=0))
    attention.bounds["n_keys"] = cuda_shapes.MAX_KEYS
    fibers.emulator.set_interpreter(launches.append)
    fibers.emulator.configure(n_sms=n_sms)
    attention.decode()
    (launch,) = launches
    # The emulated GPU is one of sm_80, which two blocks of 64 KB fit on.
    assert launch["grid"] == (shape.kv_heads, cuda_decode.attention_splits(shape.kv_heads, 2 * n_sms), 1)
    gate = gate_named(short_name(launch["symbol"]))
    assert gate and launch["shared_bytes"] == gate.shared


@pytest.mark.parametrize("tokens", [1, 8, 16, 32])
@pytest.mark.parametrize("n_sms", [1, 66, 108, 148])
@pytest.mark.parametrize("weights", cuda_shapes.TYPES)
def test_blocks_are_those_of_the_launcher(fibers: Any, weights: str, n_sms: int, tokens: int) -> None:
    launches: list[dict[str, Any]] = []
    fibers.emulator.configure(n_sms=n_sms)  # of sm_80, two blocks each
    fibers.emulator.set_interpreter(launches.append)
    some, count = fibers.DeviceArray(4096), fibers.DeviceArray(16)
    for shape in cuda_shapes.SHAPES:
        for n, k in [*shape.matrices.values(), (shape.vocab, shape.d)]:
            type, scales = getattr(fibers.WeightType, weights), None if weights == "bf16" else some
            workspace = {"workspace": some, "workspace_bytes": fibers.linear_workspace(type, n, k)}
            weight = (type, n, k, some, scales)
            fibers.ops.linear({"n_tokens": tokens}, x=some, weight=weight, end=1, logits=some, function=0,
                              qkv={}, rows=("tokens", count), **workspace)  # fmt: skip
            launch = launches.pop()
            name = short_name(launch["symbol"])
            assert name == cuda_decode.skinny_name(weights, False, tokens)
            splits = cuda_decode.skinny_splits(n, k, weights, 2 * n_sms)
            assert launch["grid"] == (cuda_decode.skinny_blocks(n, weights, splits, tokens), 1, 1), (n, k)
            gate = gate_named(name)
            assert gate
            assert launch["shared_bytes"] == gate.shared
            planes = [short_name(made["symbol"]) for made in launches]
            own = weights == "bf16" or tokens <= cuda_decode.OWN_PLANES_TOKENS
            assert planes == ([] if own else [cuda_decode.planes_name(weights, False, tokens)])
            launches.clear()


@pytest.mark.parametrize("gpu", GPUS, ids=lambda g: g.name)
def test_few_bytes_in_flight_cost_time(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    code = cuda_decode.skinny_kernel("bf16", False, gpu.arch)
    many = cuda_decode.read_seconds(gpu, code, 10000, 1e9)
    monkeypatch.setattr(type(code), "bytes_in_flight", lambda self: 1)
    few: Any = cuda_decode.read_seconds(gpu, code, 10000, 1e9)
    assert many == pytest.approx(1e9 / gpu.bandwidth / cuda_decode.ATTAINABLE, rel=0.05)
    assert few > 2 * many
