"""Random calls of every operation of `lanner.ops`, each with what it must give: what the fuzz draws from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

import cases_attention
import cases_matmul
import cases_rows
from cases_attention import SdpaCase
from cases_matmul import MatmulCase
from cases_rows import VALUES, spread
from lanner import ops
from reference import FLOATS, FORMATS, block_of, dequantize, fit, quantized, random_rows

Draw = Callable[[st.SearchStrategy[Any]], Any]
Results = tuple[np.ndarray, ...]

WIDTHS = st.one_of(st.integers(0, 33), st.sampled_from([61, 127, 257, 576, 640, 896, 1000, 1536, 4099]))
SEEDS = st.integers(0, 2**31)


@dataclass
class Call:
    """`arrays` may have any layout, `options` are the other arguments.

    check: compares the results with an oracle. outs: how many of the results `out` takes. may_be: the inputs
    that out may be.
    """

    op: str
    arrays: dict[str, np.ndarray]
    check: Callable[[Results], None]
    options: Mapping[str, Any] = field(default_factory=dict)
    outs: int = 1
    may_be: tuple[str, ...] = ()

    def run(self, arrays: Mapping[str, np.ndarray] | None = None, out: Any = None) -> Results:
        given = {} if out is None else {"out": out}
        result = getattr(ops, self.op)(**(self.arrays if arrays is None else arrays), **self.options, **given)
        if isinstance(result, ops.Packed):
            result = result.unpack()
        return result if isinstance(result, tuple) else (result,)

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name}={x.dtype}{x.shape}" for name, x in self.arrays.items())
        return f"{self.op}({arrays}, {dict(self.options)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Without the values of the arrays."""
        printer.text(repr(self))


def values(draw: Draw, shape: tuple[int, ...], kinds: tuple[str, ...] = VALUES) -> np.ndarray:
    """float32; now and then constant along some axes, so that strides of 0 can hold it."""
    rng, constant = np.random.default_rng(draw(SEEDS)), draw(st.booleans()) and draw(st.booleans())
    drawn = [1 if constant and n and rng.random() < 0.5 else n for n in shape]
    return np.broadcast_to(spread(rng, tuple(drawn), draw(st.sampled_from(kinds))), shape).copy()


def shapes(draw: Draw, last: st.SearchStrategy[int] = WIDTHS) -> tuple[int, ...]:
    return (*draw(st.lists(st.integers(0, 4), max_size=3)), draw(last))


def one(oracle: cases_rows.Oracle) -> Callable[[Results], None]:
    return lambda got: oracle.check(got[0])


# ---- rows ----------------------------------------------------------------------------------------


@st.composite
def along_an_axis(draw: Draw, op: str) -> Call:
    x = values(draw, shapes(draw))
    at = draw(st.integers(0, x.ndim - 1))
    x = np.ascontiguousarray(np.moveaxis(x, -1, at))
    axis = at - draw(st.sampled_from([0, x.ndim]))
    last = np.moveaxis(x, at, -1)
    if op == "topk":
        k = draw(st.one_of(st.integers(0, last.shape[-1]), st.just(min(7, last.shape[-1]))))
        ids = np.moveaxis(cases_rows.topk_ids(last, k), -1, at)
        wanted = np.take_along_axis(x, ids, at)

        def check(got: Results) -> None:
            np.testing.assert_array_equal(got[1], ids)
            np.testing.assert_array_equal(got[0].view(np.uint32), wanted.view(np.uint32))

        return Call(op, {"x": x}, check, {"k": k, "axis": axis}, outs=2)
    options: dict[str, Any] = {"axis": axis}
    if op == "logsumexp" and draw(st.booleans()):
        options["keepdims"] = True
    if x.size == 0:
        shape = list(x.shape)
        if op == "logsumexp":
            shape[at : at + 1] = [1] * options.get("keepdims", False)
        empty = cases_rows.Oracle(np.full(shape, -np.inf), np.zeros(shape))
        return Call(op, {"x": x}, one(empty), options, may_be=() if op == "logsumexp" else ("x",))
    oracle = cases_rows.ROWWISE[op](last)

    def check_moved(got: Results) -> None:
        result = got[0].squeeze(at) if options.get("keepdims") else got[0]
        oracle.check(result if op == "logsumexp" else np.moveaxis(result, at, -1))

    return Call(op, {"x": x}, check_moved, options, may_be=() if op == "logsumexp" else ("x",))


@st.composite
def norm(draw: Draw, op: str) -> Call:
    x, eps = values(draw, shapes(draw)), draw(st.sampled_from([1e-6, 1e-5, 1.0, 1e-12, 0.0]))
    arrays = {"x": x}
    for name in ("weight", "bias")[: 1 + (op == "layer_norm")]:
        if draw(st.booleans()):
            arrays[name] = values(draw, x.shape[-1:], ("normal", "wide", "tiny", "zeros"))
    oracle = getattr(cases_rows, op)(**arrays, eps=eps) if x.size else cases_rows.Oracle(x, x)
    return Call(op, arrays, one(oracle), {"eps": eps}, may_be=("x",))


@st.composite
def activation(draw: Draw, op: str) -> Call:
    shape = shapes(draw) if draw(st.booleans()) else tuple(draw(st.lists(st.integers(0, 7), max_size=4)))
    form = draw(st.sampled_from(["none", "tanh"])) if op in ("gelu", "geglu") else None
    x = values(draw, shape)
    oracle = {None: cases_rows.silu, "none": cases_rows.gelu, "tanh": cases_rows.gelu_tanh}[form](x)
    options = {} if form is None else {"approximate": form}
    if op in ("silu", "gelu"):
        return Call(op, {"x": x}, one(oracle), options, may_be=("x",))
    up = values(draw, shape)
    oracle = cases_rows.times(oracle, up, 1.5e-36 if op == "swiglu" else 1e-36)
    return Call(op, {"gate": x, "up": up}, one(oracle), options, may_be=("gate", "up"))


@st.composite
def rope(draw: Draw) -> Call:
    x = values(draw, shapes(draw, st.sampled_from([0, 1, 2, 7, 8, 16, 34, 41, 64, 80, 128, 256])))
    lead, n = x.shape[:-1], x.shape[-1]
    given = [draw(st.sampled_from([size, 1])) for size in lead][draw(st.integers(0, len(lead))) :]
    rng = np.random.default_rng(draw(SEEDS))
    positions = rng.integers(-50, draw(st.sampled_from([9, 5000, 200_000])), given)
    dims = draw(st.sampled_from(sorted({n // 2 * 2, n // 4 * 2, 0})))
    arrays = {"x": x, "positions": positions}
    options: dict[str, Any] = {"pairing": draw(st.sampled_from(["half", "interleaved"])), "dims": dims}
    frequencies = np.float64(10000.0) ** (-np.arange(0, dims, 2) / max(dims, 1))
    if draw(st.booleans()):
        arrays["inv_freq"] = frequencies = rng.standard_normal(dims // 2)
        options["magnitude"] = draw(st.sampled_from([1.0, 1.3, 0.5]))
    angles = np.broadcast_to(positions, lead)[..., None] * frequencies
    oracle = cases_rows.rope(x, angles, options["pairing"], options.get("magnitude", 1.0))
    return Call("rope", arrays, one(oracle), options, may_be=("x",))


# ---- weights -------------------------------------------------------------------------------------


@st.composite
def matmul(draw: Draw) -> Call:
    fmt = draw(st.sampled_from(FORMATS))
    packed = fmt not in FLOATS or draw(st.booleans())
    low = int(packed)
    k = draw(st.one_of(st.integers(low, 70), st.sampled_from([127, 257, 576, 640])))
    case = MatmulCase(
        draw(st.one_of(st.integers(0, 40), st.sampled_from([129, 200]))),
        fit(fmt, k), draw(st.integers(low, 70)), fmt, packed, draw(st.booleans()),
        draw(st.sampled_from(["normal", "wide", "large", "tiny", "zeros", "extreme"])), draw(SEEDS),
    )  # fmt: skip
    lead = draw(st.sampled_from([(case.rows,), (1, case.rows), (case.rows, 1, 1)]))
    if case.rows == 1 and draw(st.booleans()):
        lead = ()
    w = case.w
    arrays = {"x": case.x.reshape(*lead, case.k)}
    arrays |= {} if packed else {"w": w}
    arrays |= {"bias": case.bias_array} if case.bias else {}
    oracle = cases_matmul.answer(case)

    def check(got: Results) -> None:
        assert got[0].shape == (*lead, case.n)
        oracle.check(got[0].reshape(case.rows, case.n))

    return Call("matmul", arrays, check, {"w": w} if packed else {})


def exactly(wanted: np.ndarray) -> Callable[[Results], None]:
    def check(got: Results) -> None:
        assert (got[0].shape, got[0].dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_array_equal(got[0].view(np.uint8), wanted.view(np.uint8))

    return check


def flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return int(np.prod(shape[:-1], dtype=int)), shape[-1]


def stored_rows(draw: Draw, fmt: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of some shape of values, and the values."""
    n, k = flat(shape)
    rows = random_rows(fmt, n, k, np.random.default_rng(draw(SEEDS)), extreme=draw(st.booleans()))
    return rows.reshape(*shape[:-1], rows.shape[1]), dequantize(fmt, rows).reshape(shape)


@st.composite
def dequantized(draw: Draw) -> Call:
    fmt = draw(st.sampled_from(FORMATS))
    shape = shapes(draw, st.integers(0, 5).map(lambda n: n * block_of(fmt)[0]))
    data, wanted = stored_rows(draw, fmt, shape)
    options: dict[str, Any] = {"format": fmt}
    if draw(st.booleans()):
        data, options["shape"] = data.reshape(-1), shape
    return Call("dequantize", {"data": data}, exactly(wanted), options)


CODED = ("normal", "wide", "tiny", "ties")
"""Values that have scales; zeros of both signs in one block may give a minimum of either sign."""


@st.composite
def quantize(draw: Draw) -> Call:
    fmt = draw(st.sampled_from(FORMATS[:8]))
    shape = shapes(draw, st.integers(0, 9).map(lambda n: n * block_of(fmt)[0]))
    x = values(draw, shape, VALUES if fmt in FLOATS else CODED)
    return Call("quantize", {"x": x}, exactly(quantized(fmt, x)), {"format": fmt})


@st.composite
def pack(draw: Draw) -> Call:
    fmt, n, blocks = draw(st.sampled_from(FORMATS)), draw(st.integers(1, 40)), draw(st.integers(1, 5))
    k = blocks * block_of(fmt)[0]
    if fmt in FORMATS[:8] and draw(st.booleans()):
        x = values(draw, (n, k), CODED)
        return Call("pack", {"w": x}, exactly(dequantize(fmt, quantized(fmt, x))), {"format": fmt}, outs=0)
    data, wanted = stored_rows(draw, fmt, (n, k))
    return Call("pack", {"w": data}, exactly(wanted), {"format": fmt}, outs=0)


# ---- attention -----------------------------------------------------------------------------------


@st.composite
def sdpa(draw: Draw) -> Call:
    kv_heads, causal = draw(st.integers(1, 3)), draw(st.booleans())
    head_dim = draw(st.one_of(st.integers(1, 40), st.sampled_from([64, 127, 128, 512])))
    axes = draw(st.sampled_from(["", "k", "qk", "bqk", "hq", "bhqk", "b"]))
    case = SdpaCase(
        kv_heads * draw(st.integers(1, 4)), kv_heads, draw(st.integers(0, 40)),
        draw(st.one_of(st.integers(0, 130), st.sampled_from([255, 256, 257, 300]))), head_dim,
        draw(st.sampled_from([0, 1, 17, 40])), draw(st.integers(0, 2)),
        draw(st.sampled_from(["float32", "float16"])), causal,
        draw(st.one_of(st.none(), st.integers(1, 150))) if causal else None,
        draw(st.sampled_from([None, None, 0.5, 20.0])), draw(st.sampled_from([None, None, -0.7, 0.0, 1.0])),
        axes and f"{draw(st.sampled_from(['bool', 'add']))}-{axes}",
        draw(st.sampled_from([1.0, 30.0, 1e-20])), draw(SEEDS),
    )  # fmt: skip
    wanted = cases_attention.answer(case)
    q, k, v = (x.copy() for x in case.arrays)
    groups = (case.batch, kv_heads, case.heads // kv_heads, case.q_len, case.kv_len)
    hidden = ~wanted.seen.reshape(groups).any(axis=(2, 3))
    k[hidden], v[hidden] = draw(st.sampled_from([0, np.nan, np.inf])), draw(st.sampled_from([0, np.nan]))
    arrays = {"q": q, "k": k, "v": v} | ({} if case.mask_array is None else {"mask": case.mask_array})
    options = {name: x for name, x in case.options.items() if name != "mask" and x is not None}
    if draw(st.booleans()):
        options["return_weights"] = True

    def check(got: Results) -> None:
        assert (np.abs(got[0] - wanted.out) <= wanted.bound).all()
        for weights in got[1:]:
            assert (np.abs(weights - wanted.weights) <= wanted.weight_bound).all()
            assert not weights[wanted.weights == 0].any()

    return Call("sdpa", arrays, check, options, may_be=("q",) if v.shape[-1] == head_dim else ())


CALLS: dict[str, st.SearchStrategy[Call]] = {
    **{op: along_an_axis(op) for op in ("softmax", "log_softmax", "logsumexp", "topk")},
    **{op: norm(op) for op in ("rms_norm", "layer_norm")},
    **{op: activation(op) for op in ("silu", "gelu", "swiglu", "geglu")},
    "rope": rope(),
    "matmul": matmul(),
    "dequantize": dequantized(),
    "quantize": quantize(),
    "pack": pack(),
    "sdpa": sdpa(),
}
"""By name in `lanner.ops`."""
