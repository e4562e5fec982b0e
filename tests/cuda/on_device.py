"""The GPU in the place of the emulation, for the same tests: LANNER_CUDA_LEVEL=device (make cuda-check)."""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

ON_DEVICE = os.environ.get("LANNER_CUDA_LEVEL") == "device"


class NoEmulator:
    """What tests set of the emulation and ask it: nothing is found."""

    def __init__(self) -> None:
        self.arrays: WeakValueDictionary[int, Any] = WeakValueDictionary()

    def configure(self, **settings: object) -> None:
        pass

    def set_interpreter(self, callable: object) -> None:
        pass

    def report(self) -> list[object]:
        return []

    def counters(self) -> dict[str, int]:
        return {}

    def mark_unwritten(self, address: int, n_bytes: int) -> None:
        self.arrays[address].upload(np.full(n_bytes, 0xFF, np.uint8))

    def mark_written(self, address: int, n_bytes: int) -> None:
        pass


class OnDevice:
    """The module lanner._cuda, with arrays that are known by their address."""

    def __init__(self) -> None:
        from lanner.cuda.library import library

        self._library = library()
        self._library.device_info()
        self.emulator = NoEmulator()

    def DeviceArray(self, n_bytes: int) -> Any:  # noqa: N802
        array = self._library.DeviceArray(n_bytes)
        self.emulator.arrays[array.address] = array
        return array

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)
