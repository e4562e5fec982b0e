"""What bench/cuda_model.py predicts: the README shows it, and the goals are within it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import toolkit

sys.path.insert(0, str(toolkit.ROOT / "bench"))

import cuda_model
from gpus import GPUS, Gpu


def test_readme_shows_what_the_model_prints() -> None:
    readme = (toolkit.ROOT / "README.md").read_text()
    shown = readme.partition(cuda_model.BEGIN)[2].partition(cuda_model.END)[0]
    assert shown == cuda_model.tables(), "python bench/cuda_model.py --write"


def test_matrices_over_30_mb_are_read_at_90_per_cent() -> None:
    large = [(name, size, shares) for name, size, shares in cuda_model.rows_of_matrices() if size > 30]
    assert len(large) > 8
    low = [
        (name, gpu.name, s)
        for name, _, shares in large
        for gpu, s in zip(GPUS, shares, strict=True)
        if s < 0.9
    ]
    assert not low


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


@pytest.mark.parametrize("gpu", GPUS, ids=lambda g: g.name)
def test_few_bytes_in_flight_cost_time(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    code = cuda_model.kernel("linear_skinny", "linear_skinny_kernel<0, 1, false>", gpu.arch)
    many = cuda_model.read_seconds(gpu, code, 10000, 1e9)
    monkeypatch.setattr(type(code), "bytes_in_flight", lambda self: 1)
    few: Any = cuda_model.read_seconds(gpu, code, 10000, 1e9)
    assert many == pytest.approx(1e9 / gpu.bandwidth / cuda_model.ATTAINABLE, rel=0.05)
    assert few > 2 * many
