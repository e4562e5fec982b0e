"""lanner.ops.matmul and pack on arrays against float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner import _core
from lanner.ops import _matmul as ops

U = 2.0**-24
FLOATS = {"f32": np.float32, "f16": np.float16}
SHAPES = [(1, 1, 1), (1, 7, 15), (2, 16, 16), (3, 33, 17), (5, 64, 31), (13, 100, 97), (40, 300, 130)]
SHAPES += [(129, 257, 64), (200, 31, 211)]  # beyond a block of tokens
QUANTIZED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bf16(x: np.ndarray) -> np.ndarray:
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def as_float64(w: np.ndarray) -> np.ndarray:
    if w.dtype == np.uint16:
        return (w.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return w.astype(np.float64)


def check_close(given: np.ndarray, x: np.ndarray, w: np.ndarray) -> None:
    """Within the bound of the docstring: a chain of K fused multiply-adds."""
    x, w = x.astype(np.float64), as_float64(w)
    k = x.shape[-1]
    assert (np.abs(given - x @ w) <= k * U * (np.abs(x) @ np.abs(w)) + 1e-30).all()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_array_weight(shape: tuple[int, int, int], dtype: str) -> None:
    m, k, n = shape
    x, w = random(m, k), random(k, n, seed=1)
    w = bf16(w) if dtype == "bf16" else w.astype(FLOATS[dtype])
    check_close(ops.matmul(x, w), x, w)


@pytest.mark.parametrize("n", range(1, 34))
def test_every_number_of_columns(n: int) -> None:
    x, w, bias = random(4, 48), random(48, n, seed=1), random(n, seed=2)
    y = ops.matmul(x, w)
    check_close(y, x, w)
    np.testing.assert_array_equal(ops.matmul(x, w, bias=bias), bias + y)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_packed_and_array_agree_bitwise(dtype: str) -> None:
    x, w = random(37, 70), random(90, 70, seed=1)
    w = bf16(w) if dtype == "bf16" else w.astype(FLOATS[dtype])
    packed = ops.pack(w, "f32")
    assert (packed.shape, packed.formats) == ((90, 70), [dtype])
    np.testing.assert_array_equal(packed.unpack(), as_float64(w))
    np.testing.assert_array_equal(ops.matmul(x, packed), ops.matmul(x, w.T))


@pytest.mark.parametrize("format", QUANTIZED)
def test_quantized_weight(format: str) -> None:
    x, w = random(9, 96), random(50, 96, seed=1)
    packed = ops.pack(w, format)
    limit = 32767 if format == "q8_0" else 127
    blocks = x.astype(np.float64).reshape(9, 3, 32)
    scale = (np.abs(x).reshape(9, 3, 32).max(-1, keepdims=True) / np.float32(limit)).astype(np.float64)
    rounded = (np.rint(blocks / scale) * scale).reshape(9, 96)
    wanted, size = rounded @ packed.unpack().T.astype(np.float64), np.abs(rounded) @ np.abs(packed.unpack().T)
    # A value on the border between two codes may fall the other way in float32: one code of one block.
    border = (scale[:, :, 0] @ np.abs(packed.unpack()).reshape(50, 3, 32).max(-1).T).astype(np.float64)
    error = np.abs(ops.matmul(x, packed) - wanted)
    assert (error <= 40 * U * size + border).all()
    assert np.median(error / (size + 1e-30)) <= 40 * U


@pytest.mark.parametrize("format", ["f32", *QUANTIZED])
def test_a_row_does_not_depend_on_the_others(format: str) -> None:
    x, packed = random(40, 160), ops.pack(random(70, 160, seed=1), format)
    threads = _core.array.get_threads()
    try:
        _core.array.set_threads(1)
        whole = ops.matmul(x, packed)
        for n_threads in (1, 2, 4):
            _core.array.set_threads(n_threads)
            for n in range(1, 41):
                np.testing.assert_array_equal(ops.matmul(x[:n], packed), whole[:n])
                np.testing.assert_array_equal(ops.matmul(x[-n:], packed), whole[-n:])
    finally:
        _core.array.set_threads(threads)


def test_shapes_and_strides() -> None:
    w = random(24, 10, seed=1)
    x = random(2, 3, 24)
    check_close(ops.matmul(x, w), x, w)
    check_close(ops.matmul(x[0, 0], w), x[0, 0], w)
    big = random(6, 48)
    np.testing.assert_array_equal(ops.matmul(big[::2, ::2], w), ops.matmul(big[::2, ::2].copy(), w))
    out = np.full((2, 3, 20), 7, np.float32)
    assert ops.matmul(x, w, out=out[:, :, ::2]).base is out
    np.testing.assert_array_equal(out[:, :, ::2], ops.matmul(x, w))
    assert (out[:, :, 1::2] == 7).all()
    assert ops.matmul(np.empty((0, 24), np.float32), w).shape == (0, 10)
    nothing = ops.matmul(np.empty((3, 0), np.float32), np.empty((0, 4), np.float32))
    np.testing.assert_array_equal(nothing, np.zeros((3, 4)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(0, 70), st.integers(0, 40), st.integers(0, 3))
def test_any_shape(m: int, k: int, n: int, offset: int) -> None:
    x = random(m * k + offset)[offset:].reshape(m, k)  # any alignment of four bytes
    w = random(k * n + offset, seed=1)[offset:].reshape(k, n)
    check_close(ops.matmul(x, w), x, w)


def test_special_values() -> None:
    x, w = random(3, 64), random(64, 20, seed=1)
    x[1, 5] = np.nan
    y = ops.matmul(x, w)
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()
    x[1, 5] = np.inf
    assert np.isinf(ops.matmul(x, w)[1]).all()
    assert not np.isfinite(ops.matmul(x, ops.pack(np.ascontiguousarray(w.T), "q4_0"))[1]).any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, w: ops.matmul(x.astype(np.float64), w), TypeError, "matmul: x is float64, wanted float32"),
        (lambda x, w: ops.matmul([1.0], w), TypeError, "matmul: x is a list, wanted an array"),
        (lambda x, w: ops.matmul(x, w.T), ValueError, "matmul: x has 8 columns, w has 5 rows"),
        (lambda x, w: ops.matmul(x, w[0]), ValueError, "matmul: w has 1 axes, wanted"),
        (lambda x, w: ops.matmul(x, w, bias=w[:, 0]), ValueError, "matmul: bias has shape .8,., wanted .5,."),
        (lambda x, w: ops.matmul(x, w, out=x), ValueError, "matmul: out has shape .3, 8., wanted .3, 5."),
        (lambda x, w: ops.matmul(x[:, :5], w[:5], out=x[:, :5]), ValueError, "matmul: out overlaps an input"),
        (lambda x, w: ops.pack(w, "q4_0"), ValueError, "a weight of q4_0 has 5 input|multiple of 32"),
        (lambda x, w: ops.pack(w, "q9"), ValueError, "pack: format is 'q9', wanted"),
        (lambda x, w: ops.pack(w * np.nan), ValueError, "infinite or NaN"),
        (lambda x, w: ops.pack(w[0]), ValueError, r"pack: w has shape \(5,\), wanted \(N, K\)"),
    ],
)  # fmt: skip
def test_refuses(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(random(3, 8), random(8, 5))
