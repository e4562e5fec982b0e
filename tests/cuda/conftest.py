"""Fixtures of the CUDA tests: the emulated module, the levels at which kernels run, the schedules."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sass
from emulation import emulated, ptx_callback
from on_device import ON_DEVICE, OnDevice

HERE = Path(__file__).parent
SCHEDULES = [
    {"order": order, "seed": 1, "copies": copies, "tensor_copies": copies, "wgmma": copies}
    for order, copies in itertools.product(("forward", "reverse", "random"), ("lazy", "eager"))
]
"""Orders in which the threads of a block run, and when copies arrive: at once, or at the last moment."""


LAST = ("test_sass.py", "test_model.py")
"""What needs the machine code, which is compiled while other tests run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cuda)
    items.sort(key=lambda item: HERE in item.path.parents and item.path.name in LAST)


def pytest_collection_finish(session: pytest.Session) -> None:
    if any(HERE in item.path.parents and item.path.name in LAST for item in session.items):
        sass.all_units()


@pytest.fixture(params=["device"] if ON_DEVICE else ["fibers", "ptx"])
def level(request: pytest.FixtureRequest) -> str:
    """Who runs the kernels: fibers run their source, the interpreter runs the PTX that nvcc made of it."""
    wanted = os.environ.get("LANNER_CUDA_LEVEL", request.param)
    if wanted != request.param:
        pytest.skip(f"LANNER_CUDA_LEVEL is {wanted}")
    return str(request.param)


@pytest.fixture
def cuda(level: str) -> Iterator[Any]:
    """The module over the emulator, checks on. What it reports after the test fails it."""
    module = OnDevice() if level == "device" else emulated()
    module.emulator.configure(checks=True)
    module.emulator.report()
    module.emulator.set_interpreter(ptx_callback() if level == "ptx" else None)
    try:
        yield module
        assert module.emulator.report() == []
    finally:
        module.emulator.set_interpreter(None)


@pytest.fixture
def fibers() -> Iterator[Any]:
    """The module over the emulator, for tests of level 1 alone (kernels of sm_90a, planted bugs)."""
    if ON_DEVICE:
        pytest.skip("a test of what the emulation finds")
    module = emulated()
    module.emulator.configure(checks=True)
    module.emulator.report()
    module.emulator.set_interpreter(None)
    yield module
    module.emulator.set_interpreter(None)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The emulated GPU as the library that lanner finds; what it reports fails the test."""
    if ON_DEVICE:
        yield OnDevice()
        return
    module = emulated()
    monkeypatch.setitem(sys.modules, "_cuda_emulated", module)
    (tmp_path / "_cuda_emulated.so").touch()
    monkeypatch.setenv("LANNER_CUDA_LIBRARY", str(tmp_path / "_cuda_emulated.so"))
    module.emulator.configure(checks=True)
    module.emulator.set_interpreter(None)
    module.emulator.report()
    yield module
    assert module.emulator.report() == []


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Any]:
    """made(formats, ...): the decoder of a small model."""
    import models
    from lanner.checkpoint import open_checkpoint
    from lanner.cuda.decoder import CudaDecoder

    def make(formats: dict[str, str] | None = None, *, n_pages: int = 12, **options: Any) -> Any:
        path = models.write(tmp_path / "model.gguf", formats, **options)
        return CudaDecoder(open_checkpoint(path), context=32 * n_pages, max_memory=64 << 20)

    return make


@pytest.fixture
def everywhere(cuda: Any, level: str) -> Callable[..., Any]:
    """everywhere(call, n_sms=...): what `call` returns, an array or a tuple, the same bits everywhere."""

    def run(call: Callable[[], Any], n_sms: int = 4) -> Any:
        if level != "fibers":
            cuda.emulator.configure(checks=True, n_sms=n_sms)
            return call()
        first = None
        for schedule in SCHEDULES:
            cuda.emulator.configure(checks=True, n_sms=n_sms, **schedule)
            result = call()
            assert cuda.emulator.report() == [], schedule
            arrays = result if isinstance(result, tuple) else (result,)
            bits = [np.ascontiguousarray(a).view(np.uint8) for a in arrays]
            if first is None:
                first = result, bits
            for a, b in zip(first[1], bits, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=str(schedule))
        assert first is not None
        return first[0]

    return run
