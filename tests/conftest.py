"""Fixtures that the tests share: the catalogue's models, fetched once, and the reference data."""

from __future__ import annotations

import json
import os
import re
import signal
import zlib
from pathlib import Path

# Read when NumPy and PyTorch are imported. The oracles are small, and threads that spin between them would
# take the cores from the kernels under test.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

# A shell starts its background jobs with Ctrl-C ignored, which programs that tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"


def pytest_configure() -> None:
    """Steps have all the threads that a test names, also on fewer processors or busy ones."""
    from lanner import _core

    _core.set_all_threads(True)


LONG = 8
"""Cases of one test from which on an emulated instruction set takes a quarter: it is fifty times slower."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Thins long lists for an emulated set. A case stays that is the first of its test to name a format.

    The quarter is drawn by a hash of the name: every fourth would be float32 where types alternate.
    """
    if not os.environ.get("LANNER_ISA", "").endswith("_emulated"):
        return
    from reference import FORMATS

    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        tests.setdefault(item.nodeid.split("[")[0], []).append(item)
    kept: set[pytest.Item] = set()
    for cases in tests.values():
        named: set[str] = set()
        for i, item in enumerate(cases):
            case = item.nodeid.split("[")[-1]
            formats = {fmt for fmt in FORMATS if re.search(rf"(?<!b){fmt}", case)}  # bf16 is not f16
            drawn = i == 0 or zlib.crc32(item.nodeid.encode()) % 4 == 0
            if len(cases) < LONG or drawn or formats - named or item.get_closest_marker("neon"):
                kept.add(item)
                named |= formats
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def model_path(name: str) -> Path:
    """The file of a catalogue model. Skips where it cannot be fetched unless LANNER_REQUIRE_MODELS is set."""
    from lanner import catalog

    try:
        return catalog.pull(name)
    except Exception as error:
        if os.environ.get("LANNER_REQUIRE_MODELS"):
            raise
        pytest.skip(f"the model {name} cannot be fetched: {error}")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return model_path("smollm2")


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path):
    import lanner

    with lanner.load(smollm2_path) as model:
        yield model


@pytest.fixture(scope="session")
def golden_prompts() -> list[str]:
    return json.loads((GOLDEN / "prompts.json").read_text())


def golden(model: str) -> dict[str, np.ndarray]:
    """Reference data of one model (tests/golden/README.md)."""
    with np.load(GOLDEN / f"{model}.npz") as data:
        return dict(data)
