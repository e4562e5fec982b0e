"""The compiled module of the GPU, which is loaded on first use."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from lanner._core import DeviceError

BUILT_WITHOUT = (
    "lanner was built without CUDA: there was no nvcc, or the build was told to leave it out, as make demo "
    "and make test do. Where nvcc is (the CUDA toolkit, or pip install "
    "'cuda-toolkit[nvcc,cudart,cccl]==13.0.*' in the environment), pip install . in the source folder builds "
    "it with CUDA"
)


def library() -> Any:
    """The module `lanner._cuda`; tests name another file in LANNER_CUDA_LIBRARY.

    Raises DeviceError where there is none.
    """
    return _loaded(os.environ.get("LANNER_CUDA_LIBRARY", ""))


@cache
def _loaded(path: str) -> Any:
    if not path:
        try:
            return importlib.import_module("lanner._cuda")
        except ModuleNotFoundError:
            raise DeviceError(BUILT_WITHOUT) from None
        except ImportError as error:
            raise DeviceError(f"lanner._cuda cannot be loaded: {error}") from None
    name = Path(path).name.split(".")[0]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise DeviceError(f"LANNER_CUDA_LIBRARY is {path!r}, which is no extension module")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise DeviceError(f"{path} cannot be loaded: {error}") from None
    sys.modules[name] = module
    return module


def describe() -> str:
    """A line about the GPU that would be used, or about what is missing."""
    try:
        info = library().device_info()
    except DeviceError as error:
        return f"none: {error}"
    version, n_bytes = info["sm_version"], info["n_bytes"]
    return f"{info['name']} (sm_{version}, {info['n_sms']} multiprocessors, {n_bytes / 2**30:.1f} GiB)"
