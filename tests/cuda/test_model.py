"""What bench/cuda_model.py predicts: the README shows it, and the goals are within it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import toolkit

sys.path.insert(0, str(toolkit.ROOT / "bench"))

import cuda_model
from gates import gate_named
from gpus import GPUS, Gpu
from sass import short_name


def test_readme_shows_what_the_model_prints() -> None:
    readme = (toolkit.ROOT / "README.md").read_text()
    shown = readme.partition(cuda_model.BEGIN)[2].partition(cuda_model.END)[0]
    assert shown == cuda_model.tables(), "python bench/cuda_model.py --write"


def test_matrices_over_30_mb_are_read_at_90_per_cent() -> None:
    large = [(name, shares) for name, size, shares in cuda_model.rows_of_matrices() if size > 30]
    assert len(large) > 8
    for name, shares in large:
        for gpu, share in zip(GPUS, shares, strict=True):
            # Of a B200 two are out of reach: 1,024 warps of 2048 x 8192, and the head's last blocks.
            assert share > (0.65 if gpu.name == "B200" else 0.9), (name, gpu.name)


def test_bytes_of_the_models() -> None:
    """Of the matrices: 15.0 GB, 2.47 GB, 1.19 GB in bf16."""
    billions = [(cuda_model.step_bytes(s, "bf16") - s.kv_bytes) / 1e9 for s in cuda_model.SHAPES]
    assert billions == [
        pytest.approx(15.0, abs=0.1),
        pytest.approx(2.47, abs=0.01),
        pytest.approx(1.19, abs=0.01),
    ]


def test_nothing_beats_the_bandwidth() -> None:
    for shape in cuda_model.SHAPES:
        for weights in cuda_model.TYPES:
            for gpu in GPUS:
                floor = cuda_model.step_bytes(shape, weights) / gpu.bandwidth
                assert cuda_model.step_seconds(gpu, shape, weights) > floor / cuda_model.ATTAINABLE


@pytest.mark.parametrize("weights", cuda_model.TYPES)
def test_blocks_are_those_of_the_launcher(fibers: Any, weights: str) -> None:
    launches: list[dict[str, Any]] = []
    fibers.emulator.set_interpreter(launches.append)
    some, count = fibers.DeviceArray(4096), fibers.DeviceArray(16)
    for shape in cuda_model.SHAPES:
        for n, k in [*shape.matrices.values(), (shape.vocab, shape.d)]:
            scales = None if weights == "bf16" else some
            weight = (getattr(fibers.WeightType, weights), n, k, some, scales)
            fibers.ops.linear({"n_tokens": 1}, x=some, weight=weight, end=1, logits=some, function=0, qkv={},
                              rows=("tokens", count))  # fmt: skip
            launch = launches.pop()
            name = short_name(launch["symbol"])
            assert name == cuda_model.skinny_name(weights, norm=False)
            assert launch["grid"] == (cuda_model.skinny_blocks(n, k, weights), 1, 1), (n, k)
            gate = gate_named(name)
            assert gate
            assert launch["shared_bytes"] == gate.shared


@pytest.mark.parametrize("gpu", GPUS, ids=lambda g: g.name)
def test_few_bytes_in_flight_cost_time(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    code = cuda_model.kernel("linear_skinny", cuda_model.skinny_name("bf16", False), gpu.arch)
    many = cuda_model.read_seconds(gpu, code, 10000, 1e9)
    monkeypatch.setattr(type(code), "bytes_in_flight", lambda self: 1)
    few: Any = cuda_model.read_seconds(gpu, code, 10000, 1e9)
    assert many == pytest.approx(1e9 / gpu.bandwidth / cuda_model.ATTAINABLE, rel=0.05)
    assert few > 2 * many
