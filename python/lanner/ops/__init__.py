"""Kernels as functions on NumPy arrays: attention, matmul, softmax and what stands around them.

Every docstring says shapes, dtypes, the error bound and against what, and what happens to infinities and NaN.
Row i of a result does not depend on the other rows, on their number, or on the number of threads: bit for
bit, on one instruction set.
"""

from __future__ import annotations

from lanner import _core
from lanner._threads import default_threads
from lanner.ops._activations import geglu, gelu, silu, swiglu
from lanner.ops._attention import sdpa
from lanner.ops._matmul import Packed, matmul, pack
from lanner.ops._norms import layer_norm, rms_norm
from lanner.ops._quantization import dequantize, quantize
from lanner.ops._rope import rope, rope_frequencies
from lanner.ops._rows import log_softmax, logsumexp, softmax, topk

__all__ = [
    "Packed",
    "dequantize",
    "geglu",
    "gelu",
    "get_threads",
    "layer_norm",
    "log_softmax",
    "logsumexp",
    "matmul",
    "pack",
    "quantize",
    "rms_norm",
    "rope",
    "rope_frequencies",
    "sdpa",
    "set_threads",
    "silu",
    "softmax",
    "swiglu",
    "topk",
]


def get_threads() -> int:
    """Threads that a large input is shared over; at first what the machine grants this process."""
    return int(_core.array.get_threads())


def set_threads(n: int) -> None:
    """Set the number of threads for all calls from now on. Raises ValueError unless n is 1 to 255."""
    _core.array.set_threads(n)


set_threads(min(default_threads()[0], _core.MAX_THREADS))
