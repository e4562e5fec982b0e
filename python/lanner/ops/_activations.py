"""Activation functions, element by element, alone or as the gate of a second array."""

from __future__ import annotations

from typing import Literal

import numpy as np

from lanner import _core
from lanner.ops._arrays import Array, floats, output
from lanner.ops._layout import contiguous

Approximate = Literal["none", "tanh"]

_SILU, _GELU = 0, {"none": 1, "tanh": 2}
"""As `Activation` in csrc/ops/array_rows.h numbers them."""


def silu(x: Array, out: Array | None = None) -> Array:
    """x / (1 + exp(-x)), also called swish (Hendrycks and Gimpel, arXiv:1606.08415).

    Error: within 2^-24 * 7 of each result, relative, plus 1.5e-36: below -87 the result is 0.

    Special values: NaN stays NaN, inf stays inf, -inf gives 0.

    Args:
        x: float32, any shape, also without axes; strided arrays are copied.
        out: float32 of x's shape, or x itself; any strides.

    Returns:
        float32 of x's shape; `out` if given.

    Raises:
        TypeError: x or out is not a float32 array.
        ValueError: out has another shape, or a part of it is a part of x.

    Reproducible: an element's bits depend on it and the instruction set alone. Complexity: O(size).
    """
    return _activate("silu", _SILU, x, "x", None, out)


def gelu(x: Array, approximate: Approximate = "none", out: Array | None = None) -> Array:
    """x Phi(x), Phi the distribution function of the normal law (Hendrycks and Gimpel, arXiv:1606.08415).

    `approximate="tanh"` is the formula of the same paper that many models are trained with:
    0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    Error: within 2^-24 (x^2 + 20) of each result, relative, plus 1e-36, also in the far tail, where
    1 + erf would have cancelled. "tanh": within 2^-24 (4 |w| + 9), relative, plus 1e-36, of that formula;
    w = 2 sqrt(2/pi) (x + 0.044715 x^3) counts up to 87, below which the result is 0.

    Special values: NaN stays NaN, inf stays inf, -inf gives zero.

    Arguments, errors and reproducibility are those of `silu`; ValueError for another `approximate`.
    """
    return _activate("gelu", _gelu("gelu", approximate), x, "x", None, out)


def swiglu(gate: Array, up: Array, out: Array | None = None) -> Array:
    """silu(gate) * up (Shazeer, GLU variants improve transformer, arXiv:2002.05202).

    Error: that of `silu` and one rounding. Special values follow: 0 * inf is NaN.

    Args:
        gate: float32, any shape; strided arrays are copied.
        up: float32 of the same shape: nothing is broadcast.
        out: float32 of that shape, or gate or up itself; any strides.

    Returns:
        float32 of the shape of gate; `out` if given.

    Raises:
        TypeError: an array is not float32.
        ValueError: the shapes differ, or a part of out is a part of an input.

    Reproducible: an element's bits depend on its inputs and the instruction set alone. Complexity: O(size).
    """
    return _activate("swiglu", _SILU, gate, "gate", up, out)


def geglu(gate: Array, up: Array, approximate: Approximate = "none", out: Array | None = None) -> Array:
    """gelu(gate, approximate) * up (Shazeer, arXiv:2002.05202).

    Error: that of `gelu` and one rounding. Arguments and errors are those of `swiglu` and `gelu`.
    """
    return _activate("geglu", _gelu("geglu", approximate), gate, "gate", up, out)


def _gelu(op: str, approximate: str) -> int:
    if approximate not in _GELU:
        raise ValueError(f"{op}: approximate is {approximate!r}, wanted 'none' or 'tanh'")
    return _GELU[approximate]


def _activate(op: str, function: int, x: Array, name: str, up: Array | None, out: Array | None) -> Array:
    inputs = [floats(op, name, x)]
    gated = op in ("swiglu", "geglu")
    if gated:
        inputs.append(floats(op, "up", up))
        if inputs[1].shape != x.shape:
            raise ValueError(f"{op}: up has shape {inputs[1].shape}, gate has {x.shape}")
    out = output(op, out, x.shape, np.float32, *inputs)
    if x.size:
        flat = [contiguous(v).reshape(-1) for v in inputs]
        to = contiguous(out).reshape(-1)
        _core.array.activate(function, flat[0], flat[1] if gated else None, to)
        if not np.may_share_memory(to, out):
            out[...] = to.reshape(out.shape)
    return out
