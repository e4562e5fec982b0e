"""Activation functions, element by element, alone or as the gate of a second array."""

from __future__ import annotations

from typing import Literal

import numpy as np

from lanner import _core
from lanner.ops._arrays import Array, contiguous, fill, floats, is_cuda, output

Approximate = Literal["none", "tanh"]

_SILU, _GELU = 0, {"none": 1, "tanh": 2}
"""As `Activation` in csrc/ops/activate.h numbers them."""


def silu(x: Array, out: Array | None = None, *, device: str = "cpu") -> Array:
    """x / (1 + exp(-x)), also called swish (Hendrycks and Gimpel, arXiv:1606.08415).

    Error: within 2^-24 * 7 of each result, relative, plus 1.5e-36, against exact arithmetic on the same
    float32 inputs: below -87 the result is 0.

    Special values: NaN stays NaN, inf stays inf, -inf gives 0. Denormals are numbers like others.

    Args:
        x: float32, any shape, also without axes; an array that is strided or not aligned is copied.
        out: float32 of x's shape, or x itself; any strides.
        device: "cpu", or "cuda", for tests of its kernel: x is copied to the GPU and back, and rounded to
            bfloat16 both ways.

    Returns:
        float32 of x's shape; `out` if given. Empty for an empty x.

    Raises:
        TypeError: x or out is not a float32 array.
        ValueError: out has another shape, or a part of it is a part of x.

    Reproducible: an element's bits depend on it and the instruction set alone, not on its place, the other
    elements or the number of threads. Complexity: O(size). Any thread may call; the GIL is released.
    """
    return _activate("silu", _SILU, {"x": x}, out, device)


def gelu(x: Array, approximate: Approximate = "none", out: Array | None = None) -> Array:
    """x Phi(x), Phi the distribution function of the normal law (Hendrycks and Gimpel, arXiv:1606.08415).

    `approximate="tanh"` is the formula of the same paper that many models are trained with:
    0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    Error, against exact arithmetic on the same float32 inputs: within 2^-24 (x^2 + 20) of each result,
    relative, plus 1e-36, also in the far tail, where 1 + erf would have cancelled. "tanh": within
    2^-24 (4 |w| + 9), relative, plus 1e-36, of that formula; w = 2 sqrt(2/pi) (x + 0.044715 x^3) counts up
    to 87, below which the result is 0.

    Special values: NaN stays NaN, inf stays inf, -inf gives zero. Denormals are numbers like others.

    Args:
        x: float32, any shape, also without axes; an array that is strided or not aligned is copied.
        approximate: "none" or "tanh".
        out: float32 of x's shape, or x itself; any strides.

    Returns:
        float32 of x's shape; `out` if given. Empty for an empty x.

    Raises:
        TypeError: x or out is not a float32 array.
        ValueError: another `approximate`; out has another shape, or a part of it is a part of x.

    Reproducible, and complexity: as `silu`.
    """
    return _activate("gelu", _gelu("gelu", approximate), {"x": x}, out)


def swiglu(gate: Array, up: Array, out: Array | None = None, *, device: str = "cpu") -> Array:
    """silu(gate) * up (Shazeer, GLU variants improve transformer, arXiv:2002.05202).

    Error: the float32 product of `silu` and up, so within 2^-24 * 8 of each result, relative, plus
    1.5e-36 |up| + 2^-149, against exact arithmetic on the same float32 inputs.

    Special values: those of the product: NaN stays NaN, and 0 * inf is NaN, also where `silu` is 0 below -87.

    Args:
        gate: float32, any shape, also without axes; an array that is strided or not aligned is copied.
        up: float32 of the same shape: nothing is broadcast.
        out: float32 of that shape, or gate or up itself; any strides.
        device: "cpu", or "cuda", for tests of its kernel: as `silu`.

    Returns:
        float32 of the shape of gate; `out` if given. Empty for empty inputs.

    Raises:
        TypeError: an array is not float32.
        ValueError: the shapes differ, or a part of out is a part of an input.

    Reproducible: an element's bits depend on its inputs and the instruction set alone, not on its place, the
    other elements or the number of threads. Complexity: O(size). Any thread may call; the GIL is released.
    """
    return _activate("swiglu", _SILU, {"gate": gate, "up": up}, out, device)


def geglu(gate: Array, up: Array, approximate: Approximate = "none", out: Array | None = None) -> Array:
    """gelu(gate, approximate) * up (Shazeer, arXiv:2002.05202).

    Error: the float32 product of `gelu` and up, so within 2^-24 (gate^2 + 21) of each result, relative
    ("tanh": 2^-24 (4 |w| + 10)), plus 1e-36 |up| + 2^-149, against exact arithmetic on the same inputs.

    Special values: those of the product: NaN stays NaN, and 0 * inf is NaN.

    Args:
        gate: float32, any shape, also without axes; an array that is strided or not aligned is copied.
        up: float32 of the same shape: nothing is broadcast.
        approximate: "none" or "tanh", the form of `gelu`.
        out: float32 of that shape, or gate or up itself; any strides.

    Returns:
        float32 of the shape of gate; `out` if given. Empty for empty inputs.

    Raises:
        TypeError: an array is not float32.
        ValueError: another `approximate`; the shapes differ, or a part of out is a part of an input.

    Reproducible, and complexity: as `swiglu`.
    """
    return _activate("geglu", _gelu("geglu", approximate), {"gate": gate, "up": up}, out)


def _gelu(op: str, approximate: str) -> int:
    if approximate not in _GELU:
        raise ValueError(f"{op}: approximate is {approximate!r}, wanted 'none' or 'tanh'")
    return _GELU[approximate]


def _activate(
    op: str, function: int, given: dict[str, Array], out: Array | None, device: str = "cpu"
) -> Array:
    on_gpu = is_cuda(op, device)
    inputs = {name: floats(op, name, x) for name, x in given.items()}
    gate, *gated = inputs.values()
    for up in gated:
        if up.shape != gate.shape:
            raise ValueError(f"{op}: up has shape {up.shape}, gate has {gate.shape}")
    out = output(op, out, gate.shape, np.float32, inputs)
    if gate.size == 0:
        return out
    flat = [contiguous(x).reshape(-1) for x in inputs.values()]
    if on_gpu:
        from lanner.cuda import array_ops

        out[...] = array_ops.activate(function, flat[0], flat[1] if gated else None).reshape(out.shape)
        return out
    return fill(
        out,
        lambda to: _core.array.activate(function, flat[0], flat[1] if gated else None, to.reshape(-1)),
    )
