"""cvt, and halves as bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .parser import TYPES, PtxError

Array = Any
TINY = np.float32(2.0**-126)


def flush(x: Array) -> Array:
    """Zeros of the same sign for float32 below the normal ones."""
    return np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x)


def to_bf16_bits(x: Array) -> Array:
    """Of float32 or float64, to nearest, ties to even; a NaN becomes 0x7fff."""
    near = np.asarray(x, np.float32)
    bits = near.view(np.uint32)
    if x.dtype == np.float64:
        # float32 first would round twice: where it is not exact, its last bit says that more follows.
        larger = np.abs(near) > np.abs(x)
        inexact = (near != x) & np.isfinite(near)
        bits = np.where(inexact, (bits - larger.astype(np.uint32)) | np.uint32(1), bits)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(near), np.uint16(0x7FFF), rounded.astype(np.uint16))


def bf16_pairs(bits: Array) -> Array:
    """float64 values of uint32 pairs, (n, 2), or of uint16."""
    halves = np.ascontiguousarray(bits).reshape(-1).view(np.uint16)
    values = (halves.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return values.reshape(-1, bits.dtype.itemsize // 2)


def conversion(flags: list[str]) -> Any:
    """(function, types of the sources, type of the result) of cvt."""
    to, frm = flags[-2:]
    modes = set(flags[:-2])
    if to in ("bf16x2", "f16x2"):
        half = to_bf16_bits if to == "bf16x2" else _f16_bits
        return (lambda hi, lo: _pair(half(hi), half(lo))), [np.float32, np.float32], np.uint32
    if to not in TYPES or frm not in TYPES:
        raise PtxError(f"cvt.{'.'.join(flags)} is not known")
    result, source = TYPES[to], TYPES[frm]
    if frm in ("bf16", "f16"):
        wide = _widen_bf16 if frm == "bf16" else (lambda h: h.view(np.float16).astype(np.float32))
        inner, _, _ = conversion([*modes, to, "f32"])
        return (lambda h: inner(wide(h))), [np.uint16], result
    if to == "bf16":
        return to_bf16_bits, [source], np.uint16
    if to == "f16":
        return _f16_bits, [source], np.uint16
    return _numeric(modes, result, source), [source], result


def _widen_bf16(h: Array) -> Array:
    return (h.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _f16_bits(x: Array) -> Array:
    return x.astype(np.float16).view(np.uint16)


def _pair(high: Array, low: Array) -> Array:
    return high.astype(np.uint32) << np.uint32(16) | low


ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil,
}  # fmt: skip


def _numeric(modes: set[str], result: Any, source: Any) -> Callable[[Array], Array]:
    from_float, to_float = np.issubdtype(source, np.floating), np.issubdtype(result, np.floating)
    rounding = next((ROUNDINGS[m] for m in modes if m in ROUNDINGS), None)
    if from_float and not to_float:
        info = np.iinfo(result)
        if rounding is None:
            raise PtxError("cvt of a float to an integer without a rounding")

        def to_integer(x: Array) -> Array:
            x = np.nan_to_num(rounding(x.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf)
            inside = np.clip(x, float(info.min), float(info.max))
            whole = np.where(inside >= float(info.max), 0.0, inside).astype(result)
            return np.where(inside >= float(info.max), result(info.max), whole)

        return to_integer
    if from_float and to_float:

        def float_to_float(x: Array) -> Array:
            x = rounding(x) if rounding else x
            x = x.astype(result)
            if "ftz" in modes:
                x = flush(x)
            return np.fmin(np.fmax(x, result(0)), result(1)) if "sat" in modes else x

        return float_to_float
    if to_float:
        directed = modes & {"rz", "rm", "rp"}

        def integer_to_float(x: Array) -> Array:
            y = x.astype(result)
            if directed and result is np.float32:
                exact = x.astype(np.float64)
                away = {"rz": np.abs(y) > np.abs(exact), "rm": y > exact, "rp": y < exact}[
                    next(iter(directed))
                ]
                towards = {"rz": 0.0, "rm": -np.inf, "rp": np.inf}[next(iter(directed))]
                y = np.where(away, np.nextafter(y, np.float32(towards)), y)
            return y

        return integer_to_float
    if "sat" in modes:
        info = np.iinfo(result)
        return lambda x: np.clip(x.astype(np.int64), info.min, info.max).astype(result)
    return lambda x: x.astype(result)
