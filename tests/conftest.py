"""Fixtures that the tests share: the catalogue's models, fetched once, and the reference data."""

from __future__ import annotations

import json
import os
from pathlib import Path

# Read when NumPy is imported. The oracles are small, and BLAS threads that spin between them would take the
# cores from the kernels under test.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


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
