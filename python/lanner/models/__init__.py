"""Architectures, each in a file of the name that model files call it by.

A module has `config(settings, weights)`, `load(config, weights)` and `build(builder, config, loaded)`, and
for Hugging Face folders HF_NAMES and HF_PREFIX (see `Weights`) and HF_IGNORED (see `Weights.finish`).
"""

from __future__ import annotations

import importlib
from types import ModuleType

from lanner import _core

ARCHITECTURES = ("llama",)


def find(architecture: str, source: str) -> ModuleType:
    """The module of an architecture; UnsupportedModelError naming the file and the architecture otherwise."""
    if architecture not in ARCHITECTURES:
        raise _core.UnsupportedModelError(
            f"{source}: architecture {architecture!r} is not supported, only {', '.join(ARCHITECTURES)}"
        )
    return importlib.import_module(f"lanner.models.{architecture}")
