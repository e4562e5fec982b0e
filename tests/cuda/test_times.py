"""The times of make cuda-check, over the emulation: that the calls are right, not how long they take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


def test_every_kernel_is_timed(fibers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[2] / "bench")])
    import cuda_times

    monkeypatch.setattr(cuda_times, "MODELS", {"tiny": (64, 2, 1, 64, 64, 80)})
    monkeypatch.setattr(cuda_times, "PROMPT", 40)
    monkeypatch.setattr(cuda_times, "SEQUENCES", ((1, 64), (2, 40)))
    monkeypatch.setattr(cuda_times, "COLD_BYTES", 1 << 16)
    monkeypatch.setattr(cuda_times, "REPEATS", 1)
    fibers.emulator.configure(checks=False)
    lines = cuda_times.tables(fibers).splitlines()
    assert len(lines) == 2 + 4 * 3 * 3 + 3 + 2 + 1
    assert all(line.count("|") == 7 for line in lines)
    assert sum("attention_decode" in line for line in lines) == 2
