"""lanner.ops.matmul and pack on arrays against float64."""

from __future__ import annotations

import numpy as np
import pytest
from harness import bits

from cases_matmul import HEADS, MATMUL, MatmulCase, answer, codes
from cases_rows import spread
from lanner import ops
from reference import CODES, FLOATS, FORMATS, dequantize, fit, quantized, random_rows

QUANTIZED = [fmt for fmt in FORMATS if fmt not in FLOATS]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return spread(np.random.default_rng(seed), shape)


def run(case: MatmulCase) -> np.ndarray:
    return ops.matmul(case.x, case.w, bias=case.bias_array)


@pytest.mark.parametrize("case", MATMUL, ids=str)
def test_within_the_printed_bound(case: MatmulCase) -> None:
    answer(case).check(run(case))


def test_the_bound_notices_an_error() -> None:
    for fmt in FORMATS:
        case = MatmulCase(5, fit(fmt, 512), 40, fmt, True)
        wrong = run(case) * np.float32(1 + 2e-4)
        with pytest.raises(AssertionError, match="wrong, first"):
            answer(case).check(wrong)


@pytest.mark.parametrize("name", HEADS)
def test_an_output_head(name: str) -> None:
    """The same rows over and over, so that float64 has to compute them once."""
    n, k, fmt = HEADS[name]
    period = 1024
    stored = random_rows(fmt, period, k, np.random.default_rng(0))
    x = random(2, k)
    y = ops.matmul(x, ops.pack(np.resize(stored, (n, stored.shape[1])), fmt))
    part = ops.matmul(x, ops.pack(stored, fmt))
    np.testing.assert_array_equal(bits(y), bits(np.resize(part.T, (n, 2)).T))
    w = dequantize(fmt, stored)
    np.testing.assert_allclose(part, x @ w.T, atol=1e-3 * np.abs(w).max() * np.sqrt(k))


@pytest.mark.parametrize("fmt", FLOATS)
def test_packed_and_array_agree_bitwise(fmt: str) -> None:
    packed, array = MatmulCase(37, 70, 90, fmt, True), MatmulCase(37, 70, 90, fmt)
    np.testing.assert_array_equal(bits(run(packed)), bits(run(array)))


@pytest.mark.parametrize("fmt", ["f32", "q4_0", "q8_0"])
def test_a_column_does_not_depend_on_the_others(fmt: str) -> None:
    stored, x = random_rows(fmt, 70, 160, np.random.default_rng(0)), random(7, 160)
    whole = ops.matmul(x, ops.pack(stored, fmt))
    for columns in (slice(0, 1), slice(5, 39), slice(69, 70)):
        part = ops.matmul(x, ops.pack(stored[columns], fmt))
        np.testing.assert_array_equal(bits(part), bits(whole[:, columns].copy()))


def test_shapes() -> None:
    w, x = random(24, 10, seed=1), random(2, 3, 24)
    whole = ops.matmul(x, w)
    assert whole.shape == (2, 3, 10)
    np.testing.assert_array_equal(ops.matmul(x[1, 2], w), whole[1, 2])
    assert ops.matmul(x[:0], w).shape == (0, 3, 10)
    assert ops.matmul(x, w[:, :0]).shape == (2, 3, 0)
    bias = random(10, seed=2)
    np.testing.assert_array_equal(ops.matmul(x[..., :0], w[:0]), np.zeros((2, 3, 10)))
    np.testing.assert_array_equal(ops.matmul(x[..., :0], w[:0], bias=bias), np.tile(bias, (2, 3, 1)))


def test_minima_that_cancel_leave_no_more_than_the_bound() -> None:
    """Codes of 8 in q4_0 are zeros, but their sums and those of the minima are rounded on their own."""
    stored = np.full((3, 2, 18), 0x88, np.uint8)
    stored[..., :2] = np.frombuffer(np.float16(0.1).tobytes(), np.uint8)
    stored, x = stored.reshape(3, -1), np.abs(random(5, 64))
    packed = ops.pack(stored, "q4_0")
    assert not packed.unpack().any()
    least = 8 * float(np.float16(0.1))
    bound = 2.0**-24 * (64 / 16 + 6) * 2 * least * np.abs(codes(x, 127)).sum(1)
    assert (np.abs(ops.matmul(x, packed)) <= bound[:, None]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fills_its_row(bad: float) -> None:
    for fmt in FORMATS:
        k = fit(fmt, 64)
        w = ops.pack(random_rows(fmt, 20, k, np.random.default_rng(0)), fmt)
        for at in (0, 31, 40, k - 1):
            for n_rows in (3, 20):
                x = random(n_rows, k)
                clean, x[1, at] = ops.matmul(x, w), bad
                y = ops.matmul(x, w)
                assert not np.isfinite(y[1]).any(), fmt
                np.testing.assert_array_equal(np.delete(y, 1, 0), np.delete(clean, 1, 0))


def test_special_values_follow_ieee_arithmetic() -> None:
    x, w = np.zeros((1, 3), np.float32), np.zeros((3, 6), np.float32)
    inf, big, tiny = np.inf, np.float32(3e38), np.float32(1e-45)
    x[0] = 1, 2, tiny
    w[:, 0], w[:, 1], w[:, 2] = (inf, 1, 0), (inf, -inf, 0), (big, big, 0)
    w[:, 3], w[:, 4], w[:, 5] = (-big, -big, 0), (0, tiny, 0), (0, 0, 1)
    with np.errstate(all="raise"):
        for y in (ops.matmul(x, w), ops.matmul(x, ops.pack(np.ascontiguousarray(w[:, 2:].T)))):
            np.testing.assert_array_equal(y[0, -4:], [inf, -inf, 2 * tiny, tiny])
    np.testing.assert_array_equal(ops.matmul(x, w)[0, :2], [inf, np.nan])


def test_a_block_of_denormal_scale_counts_as_zero() -> None:
    x = np.zeros((2, 64), np.float32)
    x[:, :32], x[:, 32:] = 1, 127 * 1.1e-38  # the scale is below the least normal number
    w = random(5, 64, seed=1)
    for fmt in CODES:
        stored = quantized(fmt, w)
        y, alone = ops.matmul(x, ops.pack(stored, fmt)), x.copy()
        alone[:, 32:] = 0
        np.testing.assert_array_equal(y, ops.matmul(alone, ops.pack(stored, fmt)))


# ---- pack ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", FORMATS)
def test_packed_says_what_it_is(fmt: str) -> None:
    k = fit(fmt, 96)
    stored = random_rows(fmt, 50, k, np.random.default_rng(0))
    packed = ops.pack(stored, fmt)
    assert (packed.shape, packed.format, packed.formats) == ((50, k), fmt, [fmt])
    # 64 rows of the bytes of the file; q6_k keeps the scales of two halves of 32 as they are.
    assert 64 * stored.shape[1] <= packed.nbytes <= 64 * stored.shape[1] * 1.07
    assert repr(packed) == f"Packed(shape=(50, {k}), format='{fmt}', nbytes={packed.nbytes})"
    np.testing.assert_array_equal(bits(packed.unpack()), bits(dequantize(fmt, stored)))


@pytest.mark.parametrize("fmt", FORMATS[:8])
def test_pack_converts_by_the_rules_of_quantize(fmt: str) -> None:
    w = random(17, 96) * np.float32(3)
    half, brain = w.astype(np.float16), (w.view(np.uint32) >> 16).astype(np.uint16)
    exact = (w, half.astype(np.float32), dequantize("bf16", brain.view("u1")))
    for given, values in zip((w, half, brain), exact, strict=True):
        packed = ops.pack(given, fmt)
        assert packed.format == fmt
        np.testing.assert_array_equal(packed.unpack(), dequantize(fmt, quantized(fmt, values)))
    assert [ops.pack(given).format for given in (w, half, brain)] == ["f32", "f16", "bf16"]


X, W = random(3, 8), random(8, 5)
BIG, BAD = np.full((2, 32), 1e9, np.float32), np.full((1, 18), 0x7C, np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.matmul(X.astype(np.float64), W), TypeError, "matmul: x is float64, wanted float32"),
        (lambda: ops.matmul([1.0], W), TypeError, "matmul: x is a list, wanted an array"),
        (lambda: ops.matmul(X, W.T), ValueError, "matmul: x has 8 columns, w has 5 rows"),
        (lambda: ops.matmul(X, W[0]), ValueError, "matmul: w has 1 axes, wanted"),
        (lambda: ops.matmul(X, W, bias=W[:, 0]), ValueError, "matmul: bias has shape .8,., wanted .5,."),
        (lambda: ops.matmul(X, W, out=X), ValueError, "matmul: out has shape .3, 8., wanted .3, 5."),
        (lambda: ops.matmul(X[:, :5], W[:5], out=X[:, :5]), ValueError, "matmul: out overlaps x, which is"),
        (lambda: ops.matmul(X, W, bias=W[0], out=W[:3]), ValueError, "matmul: out overlaps w, which is read"),
        (lambda: ops.pack(W, "q4_0"), ValueError, "pack: w has 5 columns, wanted a multiple of 32 for q4_0"),
        (lambda: ops.pack(W, "q9_0"), ValueError, "pack: format is 'q9_0'; did you mean 'q"),
        (lambda: ops.pack(W, "q6_k"), ValueError, "pack: format 'q6_k' can be read, not made; wanted"),
        (lambda: ops.pack(W * np.nan), ValueError, r"pack: a f32 weight of shape \(8, 5\) .* infinite"),
        (lambda: ops.pack(BIG, "f16"), ValueError, "pack: a f16 weight .* infinite or NaN value"),
        (lambda: ops.pack(BIG, "q4_0"), ValueError, "pack: w holds .* beyond the scales of q4_0"),
        (lambda: ops.pack(W[0]), ValueError, r"pack: w has shape \(5,\), wanted two sizes from 1"),
        (lambda: ops.pack(W[:0]), ValueError, r"pack: w has shape \(0, 5\), wanted two sizes from 1"),
        (lambda: ops.pack(W.view("u1")), TypeError, "pack: format is a NoneType, wanted a str"),
        (lambda: ops.pack(W.view("u1"), "q4_0"), ValueError, "pack: w has rows of 20 bytes, wanted a mult"),
        (lambda: ops.pack(BAD, "q4_0"), ValueError, "pack: a q4_0 weight .* infinite or NaN scale"),
    ],
)  # fmt: skip
def test_refuses(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
