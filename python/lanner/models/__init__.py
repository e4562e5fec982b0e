"""Architectures, each in a file of the name that model files call it by."""

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
