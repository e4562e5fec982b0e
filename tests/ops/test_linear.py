from __future__ import annotations

import numpy as np
import pytest
from harness import (
    Weight,
    assert_rows_alone,
    input_rows,
    inputs_of,
    is_float,
    make_weight,
    matmul,
    poisoned,
    quantize_rows,
    rows_step,
    tokens,
)

from cases import LINEAR, LinearCase
from lanner import _core
from reference import FORMATS, HALVES, U, block_of, dequantize, fit, gamma, read_parts


def product(fmt: str, rows: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x @ w.T in float64 for one segment, and the bound on the error of its float32 sum.

    Float formats: K fused multiply-adds, two roundings each where they are not fused, in one chain:
    gamma(K + 1) * |x| @ |w|.T.

    Quantized formats: the oracle has the same codes, so integers are exact. A block of 32 adds two terms,
    scale * dot and minimum * (scale_x * sum). Each carries the rounding of its scales, of the dot as float32
    (up to 32 * 128 * 32767 > 2^24) and of its product, then passes the 2 K/32 additions of the chain:
    gamma(2 K/32 + 4) * the sum of the magnitudes of the terms. Where minima are subtracted, the oracle's own
    values are rounded once more than the kernel's: U * |x| @ |w|.T.
    """
    if is_float(fmt):
        w = dequantize(fmt, rows).astype(np.float64)
        return x @ w.T, gamma(x.shape[1] + 1) * (np.abs(x).astype(np.float64) @ np.abs(w).T)
    w, n_blocks = read_parts(fmt, rows), x.shape[1] // 32
    form, size = ("int16", 2) if fmt in ("q8_0", "iq4_nl", "iq4_xs") else ("int8", 1)
    codes = quantize_rows(x, form)[form]
    c = (
        np.ascontiguousarray(codes[:, : size * x.shape[1]])
        .view(form)
        .reshape(len(x), n_blocks, 32)
        .astype(float)
    )
    s = np.ascontiguousarray(codes[:, size * x.shape[1] :]).view(np.float32)[:, :n_blocks].astype(float)
    c *= s[..., None]

    def block_sums(weights: np.ndarray) -> np.ndarray:
        return np.einsum("nbk,tbk->tnb", weights.reshape(len(rows), n_blocks, 32), c, optimize=True)

    dots, shifts = block_sums(w.above), block_sums(w.minimum)
    bound = gamma(2 * n_blocks + 4) * (np.abs(dots) + np.abs(shifts)).sum(axis=2)
    bound += U * np.abs(c).reshape(len(x), -1) @ np.abs(w.above + w.minimum).T
    return (dots + shifts).sum(axis=2), bound


def products(weight: Weight, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parts = [product(fmt, rows, x) for fmt, rows in weight.sources]
    return np.concatenate([p for p, _ in parts], axis=1), np.concatenate([b for _, b in parts], axis=1)


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_close_to_float64(case: LinearCase) -> None:
    weight, x = make_weight(case), input_rows(case)
    wanted, bound = products(weight, x)
    out, bias = poisoned(case.rows, case.n), None
    if case.bias:
        bias = np.random.default_rng(case.seed + 2).standard_normal(case.n).astype(np.float32)
        wanted += bias
        bound += U * (np.abs(wanted) + bound)
    if case.add:
        out[:] = np.random.default_rng(case.seed).standard_normal(out.shape)
        wanted += out
        bound += U * (np.abs(wanted) + bound)
    matmul("linear", weight.packed, x, out, add=case.add, bias=bias)
    # The smallest float for products of subnormal scales.
    assert (np.abs(out - wanted) <= bound + case.k * 1e-38).all()


@pytest.mark.parametrize("k", [32, 544, 576])
@pytest.mark.parametrize("fmt", FORMATS)
def test_rows_do_not_see_each_other(fmt: str, k: int) -> None:
    case = LinearCase(((fmt, 20),), fit(fmt, k), 40)
    packed = make_weight(case).packed
    assert_rows_alone(lambda x: matmul("linear", packed, x, poisoned(len(x), 20)), input_rows(case))


@pytest.mark.parametrize("fmt", FORMATS)
def test_rows_beyond_a_block_of_tokens_are_the_same_bits(fmt: str) -> None:
    case = LinearCase(((fmt, 17),), fit(fmt, 96), 300)
    packed, x = make_weight(case).packed, input_rows(case)
    whole = matmul("linear", packed, x, poisoned(300, 17))
    for rows in (slice(0, 129), slice(127, 260), slice(255, 257), slice(299, 300)):
        part = x[rows].copy()
        np.testing.assert_array_equal(matmul("linear", packed, part, poisoned(len(part), 17)), whole[rows])


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_output_does_not_depend_on_the_rows_of_the_weight(fmt: str) -> None:
    case = LinearCase(((fmt, 53),), fit(fmt, 96), 7)
    weight, x = make_weight(case), input_rows(case)
    whole = matmul("linear", weight.packed, x, poisoned(7, 53))
    rows = weight.sources[0][1][9:23].copy()
    part = _core.Packed([(rows.ravel(), fmt, 14, case.k, 0)])
    np.testing.assert_array_equal(matmul("linear", part, x, poisoned(7, 14)), whole[:, 9:23])


def test_a_fused_weight_is_its_parts_side_by_side() -> None:
    case = LinearCase((("q4_0", 40), ("f16", 20), ("q8_0", 20)), 96, 5)
    weight, x = make_weight(case), input_rows(case)
    parts = [_core.Packed([(r.ravel(), fmt, len(r), 96, 0)]) for fmt, r in weight.sources]
    wanted = np.concatenate([matmul("linear", p, x, poisoned(5, p.shape[0])) for p in parts], axis=1)
    np.testing.assert_array_equal(matmul("linear", weight.packed, x, poisoned(5, 80)), wanted)


@pytest.mark.parametrize("unit_rows", [16, 32, 48, 96, 160])
def test_units_change_no_bit(unit_rows: int) -> None:
    case = LinearCase((("q4_1", 96), ("q8_0", 37)), 96, 5)
    segments = case.segments if 96 % unit_rows == 0 else (("q4_1", 133),)
    case = LinearCase(segments, 96, 5)
    packed, x = make_weight(case).packed, input_rows(case)
    wanted = matmul("linear", packed, x, poisoned(5, 133))
    np.testing.assert_array_equal(matmul("linear", packed, x, poisoned(5, 133), unit_rows=unit_rows), wanted)


@pytest.mark.parametrize("rows", [1, 5, 150])
@pytest.mark.parametrize("fmt", ["f32", "q4_0"])
def test_a_bias_is_added_to_the_sum_before_the_old_value(fmt: str, rows: int) -> None:
    case = LinearCase(((fmt, 40), (fmt, 13)), 96, rows)
    packed, x = make_weight(case).packed, input_rows(case)
    rng = np.random.default_rng(4)
    bias, old = (rng.standard_normal(shape).astype(np.float32) for shape in (53, (rows, 53)))
    sums = matmul("linear", packed, x, poisoned(rows, 53))
    out = matmul("linear", packed, x, poisoned(rows, 53), bias=bias)
    np.testing.assert_array_equal(out, sums + bias)
    np.testing.assert_array_equal(
        matmul("linear", packed, x, old.copy(), bias=bias, add=True), old + (sums + bias)
    )


@pytest.mark.parametrize("fmt", FORMATS)
def test_largest_codes_do_not_saturate(fmt: str) -> None:
    # Every product has the sign and the size that fill the int16 and int32 sums of a block.
    k = fit(fmt, 64)
    for byte in (0x00, 0x7F, 0x80, 0xFF):
        rows = np.full(
            (16, k // block_of(fmt)[0], block_of(fmt)[1]), 0x3C if is_float(fmt) else byte, np.uint8
        )
        for at in HALVES.get(fmt, ()):
            rows[..., at : at + 2] = np.frombuffer(np.float16(1).tobytes(), np.uint8)
        if fmt == "mxfp4":
            rows[..., 0] = 127
        rows = rows.reshape(16, -1)
        packed = _core.Packed([(rows.ravel(), fmt, 16, k, 0)])
        for x in (np.ones((9, k), np.float32), -np.ones((9, k), np.float32)):
            x[:, 4:8] *= -1  # where the sums of one lane and of all lanes differ in sign
            for sign in (x, np.abs(x), -np.abs(x)):
                wanted, bound = product(fmt, rows, sign)
                for n in (1, 9):
                    out = matmul("linear", packed, sign[:n].copy(), poisoned(n, 16))
                    assert (np.abs(out - wanted[:n]) <= bound[:n]).all()


def test_no_rows() -> None:
    packed = make_weight(LinearCase((("q4_0", 5),), 32, 1)).packed
    out = poisoned(1, 5)
    codes = tokens(poisoned(0, 44, "uint8"))
    _core.ops.linear(rows_step(0), weight=packed, int8=codes, out=tokens(out))
    np.testing.assert_array_equal(out.view(np.uint8), poisoned(1, 5).view(np.uint8))


def packed_of(fmt: str, *segment_rows: int) -> _core.Packed:
    return make_weight(LinearCase(tuple((fmt, n) for n in segment_rows), 64, 2)).packed


@pytest.mark.parametrize(
    ("fmt", "change", "error", "message"),
    [
        ("f32", {"x": None}, ValueError, "linear: a weight of f32 reads x, which was not given"),
        ("q5_1", {"int8": None}, ValueError, "linear: a weight of q5_1 reads int8, which was not given"),
        ("q8_0", {"int16": None}, ValueError, "linear: a weight of q8_0 reads int16, which was not given"),
        ("bf16", {"x": tokens(poisoned(2, 63))}, ValueError, "linear: x has 63 columns, wanted 64"),
        ("q4_0", {"int8": tokens(poisoned(2, 79, "uint8"))}, ValueError, "int8 has 79 columns, wanted 88"),
        ("q8_0", {"int16": tokens(poisoned(2, 80, "uint8"))}, ValueError, "int16 has 80 columns, wanted 136"),
        ("q4_0", {"out": tokens(poisoned(2, 63))}, ValueError, "linear: out has 63 columns, wanted 64"),
        ("q4_0", {"out": tokens(poisoned(1, 64))}, ValueError, "linear: out has 1 rows, the step has 2"),
        ("q4_0", {"unit_rows": 0}, ValueError, "linear: unit_rows is 0, wanted a positive multiple of 16"),
        ("q4_0", {"unit_rows": 24}, ValueError, "linear: unit_rows is 24, wanted a positive multiple of 16"),
        ("q4_0", {"unit_rows": 64}, ValueError, "linear: a segment of 40 rows does not divide into units"),
        ("q4_0", {"add": "yes"}, TypeError, "linear: add is a str"),
        ("q4_0", {"weight": None}, TypeError, "linear: weight is missing"),
        ("q4_0", {"out": None}, TypeError, "linear: out is missing"),
        ("q4_0", {"shift": 0}, TypeError, r"linear: unexpected argument among .*shift"),
        ("q4_0", {"bias": 0}, ValueError, "linear: bias is a int, wanted a vector"),
        ("q4_0", {"bias": np.ones(63, np.float32)}, ValueError, "linear: bias has 63 elements, wanted 64"),
        ("q4_0", {"bias": np.ones(64)}, ValueError, "linear: bias must be a contiguous array of float32"),
    ],
)  # fmt: skip
def test_refuses(fmt: str, change: dict[str, object], error: type[Exception], message: str) -> None:
    packed = packed_of(fmt, 40, 24)
    x = np.ones((2, 64), np.float32)
    good = {"weight": packed, **inputs_of(packed, x), "out": tokens(poisoned(2, 64))}
    with pytest.raises(error, match=message):
        _core.ops.linear(rows_step(2), **(good | change))
