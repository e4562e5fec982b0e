"""Instructions that take registers and give one register, lane by lane: numbers, bits, comparisons."""

from __future__ import annotations

import numpy as np

from .conversion import bf16_pairs, conversion, flush, to_bf16_bits
from .integers import U32, Array, Function, Rule, integer_rule, same
from .parser import TYPES, PtxError

S32, F32, F64 = np.int32, np.float32, np.float64


def rule(opcode: tuple[str, ...]) -> Rule | None:
    """What computes the opcode, None for one of another kind."""
    base, *rest = opcode
    kind = rest[-1] if rest else ""
    if base == "cvt":
        return conversion(rest)
    if kind not in TYPES:
        return None
    dtype = TYPES[kind]
    if kind in ("f32", "f64"):
        found = _float_rule(base, rest[:-1], dtype)
    elif kind in ("bf16x2", "bf16"):
        found = _bf16_rule(base, rest[:-1], dtype)
    else:
        found = integer_rule(base, rest[:-1], dtype)
    return found or _any_rule(base, rest[:-1], dtype, kind)


# --- any type ---------------------------------------------------------------------------------------------


def _any_rule(base: str, flags: list[str], dtype: type[np.generic], kind: str) -> Rule | None:
    if base == "mov":
        return same(np.copy, 1, dtype)
    if base == "selp":
        return (lambda a, b, p: np.where(p, a, b)), [dtype, dtype, np.bool_], dtype
    if base == "slct":
        return (lambda a, b, c: np.where(c >= 0, a, b)), [dtype, dtype, S32], dtype
    if base == "setp":
        return _comparison(flags, dtype)
    if base == "set":
        function, types, _ = _comparison([f for f in flags if f not in TYPES], dtype)
        ones = next(f for f in flags if f in TYPES)
        yes = F32(1) if ones == "f32" else U32(0xFFFFFFFF)
        return (lambda *a: np.where(function(*a), yes, type(yes)(0))), types, type(yes)
    if kind == "pred" and base in ("and", "or", "xor", "not"):
        return (np.logical_not, [dtype], dtype) if base == "not" else same(COMBINATIONS[base], 2, dtype)
    if base == "testp":
        tests: dict[str, Function] = {"infinite": np.isinf, "finite": np.isfinite, "notanumber": np.isnan}
        return tests[flags[0]], [dtype], np.bool_
    return None


COMPARISONS: dict[str, Function] = {
    "eq": np.equal, "ne": np.not_equal,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
COMBINATIONS: dict[str, Function] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _comparison(flags: list[str], dtype: type[np.generic]) -> Rule:
    flags = [f for f in flags if f != "ftz"]
    name, combine = flags[0], COMBINATIONS[flags[1]] if len(flags) > 1 else None

    def compare(a: Array, b: Array) -> Array:
        if name in ("nan", "num"):
            unordered = np.isnan(a) | np.isnan(b)
            return unordered if name == "nan" else ~unordered
        if name not in COMPARISONS:  # equ, neu, ltu, ...: true of NaN too
            return COMPARISONS[name[:-1]](a, b) | np.isnan(a) | np.isnan(b)
        if name == "ne" and np.issubdtype(dtype, np.floating):
            return (a != b) & ~np.isnan(a) & ~np.isnan(b)
        return COMPARISONS[name](a, b)

    if combine:
        return (lambda a, b, c: combine(compare(a, b), c)), [dtype, dtype, np.bool_], np.bool_
    return compare, [dtype, dtype], np.bool_


# --- floats -----------------------------------------------------------------------------------------------


def _approximate(function: Function) -> Function:
    return lambda x: function(x.astype(F64)).astype(F32)


def _fused(mode: str) -> Function:
    """a * b + c of float32, rounded once but where float64's own rounding falls on a tie."""

    def fma(a: Array, b: Array, c: Array) -> Array:
        exact = np.multiply(a, b, dtype=F64)
        exact += c
        near = exact.astype(F32)
        if mode == "rm":
            return np.where(near > exact, np.nextafter(near, F32(-np.inf)), near)
        if mode == "rp":
            return np.where(near < exact, np.nextafter(near, F32(np.inf)), near)
        if mode == "rz":
            return np.where(np.abs(near) > np.abs(exact), np.nextafter(near, F32(0)), near)
        return near

    return fma


FLOATS: dict[str, tuple[Function, int]] = {
    "add": (np.add, 2), "sub": (np.subtract, 2), "mul": (np.multiply, 2), "div": (np.divide, 2),
    "min": (np.fmin, 2), "max": (np.fmax, 2), "neg": (np.negative, 1), "abs": (np.abs, 1),
    "sqrt": (np.sqrt, 1),
    "copysign": (lambda a, b: np.copysign(b, a), 2),
    "rcp": (_approximate(np.reciprocal), 1), "rsqrt": (_approximate(lambda x: 1 / np.sqrt(x)), 1),
    "ex2": (_approximate(np.exp2), 1), "lg2": (_approximate(np.log2), 1), "tanh": (_approximate(np.tanh), 1),
    "sin": (_approximate(np.sin), 1), "cos": (_approximate(np.cos), 1),
}  # fmt: skip
ROUNDED = ("add", "sub", "mul", "div", "sqrt", "rcp")


def _float_rule(base: str, flags: list[str], dtype: type[np.generic]) -> Rule | None:
    modes = [f for f in flags if f in ("rm", "rp", "rz")]
    if base in ("fma", "mad"):
        n: int = 3
        function = _fused(modes[0] if modes else "rn") if dtype is F32 else lambda a, b, c: a * b + c
    elif base in FLOATS and not (modes and base in ROUNDED):
        function, n = FLOATS[base]
        if "NaN" in flags:
            function = {"min": np.minimum, "max": np.maximum}[base]
    elif modes and base in ("add", "sub", "mul"):
        fma, n = _fused(modes[0]), 2
        function = {"add": lambda a, b: fma(a, F32(1), b), "sub": lambda a, b: fma(a, F32(1), -b),
                    "mul": lambda a, b: fma(a, b, F32(0))}[base]  # fmt: skip
    else:
        return None
    if "ftz" in flags:
        inner = function
        function = lambda *a: flush(inner(*map(flush, a)))  # noqa: E731
    if "sat" in flags:
        whole = function
        function = lambda *a: np.fmin(np.fmax(whole(*a), F32(0)), F32(1))  # noqa: E731
    return same(function, n, dtype)


def _bf16_rule(base: str, flags: list[str], dtype: type[np.generic]) -> Rule | None:
    """Of pairs or of one: computed in float64, rounded once."""
    functions: dict[str, tuple[Function, int]] = {
        "fma": (lambda a, b, c: a * b + c, 3),
        "add": (np.add, 2), "sub": (np.subtract, 2), "mul": (np.multiply, 2),
        "min": (np.fmin, 2), "max": (np.fmax, 2), "neg": (np.negative, 1), "abs": (np.abs, 1),
    }  # fmt: skip
    if base not in functions:
        return None
    function, n = functions[base]

    def of_pairs(*sources: Array) -> Array:
        result = function(*(bf16_pairs(s) for s in sources))
        return to_bf16_bits(result).view(dtype).reshape(np.broadcast_shapes(*(s.shape for s in sources)))

    return same(of_pairs, n, dtype)


def unknown(opcode: tuple[str, ...]) -> PtxError:
    return PtxError(f"opcode {'.'.join(opcode)} is not known")
