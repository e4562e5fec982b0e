"""Lanner: language-model inference on the CPU, called in process.

    import lanner

    with lanner.load("model.gguf") as m:
        print(m.generate("Once upon a time", max_tokens=64))

Importing this package loads next to nothing: every name below comes with its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanner import catalog
    from lanner._core import (
        Cancelled,
        DeviceError,
        ModelFileError,
        OutOfMemoryBudget,
        UnsupportedModelError,
        isa,
    )
    from lanner._doctor import doctor
    from lanner._estimate import Estimate, estimate
    from lanner.handle import Handle, TokenStream
    from lanner.info import ModelInfo
    from lanner.llm import Model, load
    from lanner.profile import Profile, ProfileRow, ProfileSection
    from lanner.result import Chunk, GenerationResult, Logprobs
    from lanner.sampling import SamplingParams
    from lanner.text_reader import Classification

    __version__: str

__all__ = [
    "Cancelled",
    "Chunk",
    "Classification",
    "DeviceError",
    "Estimate",
    "GenerationResult",
    "Handle",
    "Logprobs",
    "Model",
    "ModelFileError",
    "ModelInfo",
    "OutOfMemoryBudget",
    "Profile",
    "ProfileRow",
    "ProfileSection",
    "SamplingParams",
    "TokenStream",
    "UnsupportedModelError",
    "__version__",
    "catalog",
    "doctor",
    "estimate",
    "isa",
    "load",
]

_HOMES = {
    "_core": (
        "Cancelled",
        "DeviceError",
        "ModelFileError",
        "OutOfMemoryBudget",
        "UnsupportedModelError",
        "isa",
    ),
    "_doctor": ("doctor",),
    "_estimate": ("Estimate", "estimate"),
    "handle": ("Handle", "TokenStream"),
    "info": ("ModelInfo",),
    "llm": ("Model", "load"),
    "profile": ("Profile", "ProfileRow", "ProfileSection"),
    "result": ("Chunk", "GenerationResult", "Logprobs"),
    "sampling": ("SamplingParams",),
    "text_reader": ("Classification",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Fetches a public name on its first use (PEP 562)."""
    import importlib

    if name == "__version__":
        value: object = _version()
    elif name in _HOME_OF:
        value = getattr(importlib.import_module(f"lanner.{_HOME_OF[name]}"), name)
    elif name in __all__:
        value = importlib.import_module(f"lanner.{name}")
    else:
        raise AttributeError(f"module 'lanner' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("lanner")
    except metadata.PackageNotFoundError:  # imported from a source tree
        return "unknown"
