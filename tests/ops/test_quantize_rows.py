from __future__ import annotations

import numpy as np
import pytest
from harness import assert_rows_alone, bits, poisoned, quantize_rows, rows_step, tokens

from cases import BLOCK_CASES, RowsCase
from lanner import _core
from reference import U

LIMITS = {"int8": 127, "int16": 32767}


def fields(form: str, row_bytes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes (T, blocks, 32), scales (T, blocks), and scale * sum(codes) for int8 (ops/quantize_rows.h).

    The sums of 16 codes that follow are checked here: they are exact.
    """
    n, size = len(row_bytes), int(form[3:]) // 8
    codes = np.ascontiguousarray(row_bytes[:, : size * k]).view(form).reshape(n, -1, 32).astype(np.int64)
    floats = np.ascontiguousarray(row_bytes[:, size * k :]).view(np.float32)
    blocks = k // 32
    if form == "int8" and np.isfinite(floats[:, :blocks]).all():
        halves = np.ascontiguousarray(floats[:, 2 * blocks :]).view(np.int16).reshape(n, blocks, 2)
        np.testing.assert_array_equal(halves, codes.reshape(n, blocks, 2, 16).sum(axis=3))
    return codes, floats[:, :blocks], floats[:, blocks : 2 * blocks] if form == "int8" else None


def inputs(case: RowsCase) -> np.ndarray:
    rng = np.random.default_rng(case.seed)
    x = rng.standard_normal((case.rows, case.cols)) * 10 ** rng.uniform(-3, 3, case.cols)
    x[:, :32] *= rng.random((case.rows, 1)) < 0.5  # some blocks of zeros
    return x.astype(np.float32)


@pytest.mark.parametrize("form", LIMITS)
@pytest.mark.parametrize("case", BLOCK_CASES, ids=str)
def test_codes_scales_and_sums(case: RowsCase, form: str) -> None:
    x, limit = inputs(case), LIMITS[form]
    codes, scales, sums = fields(form, quantize_rows(x, form)[form], case.cols)
    blocks = x.astype(np.float64).reshape(case.rows, -1, 32)
    largest = np.abs(blocks).max(axis=2)
    # One division: correctly rounded.
    np.testing.assert_array_equal(scales, (largest / limit).astype(np.float32))
    # The code before rounding is two roundings off, at most limit of them: a tie may go either way.
    exact = np.where(largest > 0, limit / np.where(largest > 0, largest, 1), 0)[..., None] * blocks
    assert (np.abs(codes - exact) <= 0.5 + 2.1 * U * limit).all()
    assert (np.abs(codes).max(axis=2) == np.where(largest > 0, limit, 0)).all()
    if sums is not None:
        np.testing.assert_array_equal(sums, scales * codes.sum(axis=2).astype(np.float32))


@pytest.mark.parametrize("case", BLOCK_CASES, ids=str)
def test_by_columns_gives_the_same_codes(case: RowsCase) -> None:
    x = inputs(case)
    wanted = quantize_rows(x, "int8", "int16")
    for forms in (("int8",), ("int16",), ("int8", "int16")):
        out = {form: poisoned(*wanted[form].shape, "uint8") for form in forms}
        step = rows_step(case.rows)
        _core.ops.quantize_cols(step, x=tokens(x), **{form: tokens(a) for form, a in out.items()})
        for form in forms:
            np.testing.assert_array_equal(out[form], wanted[form])


@pytest.mark.parametrize("op", ["quantize_rows", "quantize_cols"])
def test_parts_of_a_row_are_rows_of_codes(op: str) -> None:
    x = inputs(RowsCase(15, 96))
    wanted = quantize_rows(x, "int8", "int16")
    out = {form: poisoned(5, 3 * a.shape[1], "uint8") for form, a in wanted.items()}
    parts = {form: tokens(a) for form, a in out.items()}
    getattr(_core.ops, op)(rows_step(5), x=tokens(x.reshape(5, -1)), parts=3, **parts)
    for form, a in out.items():
        np.testing.assert_array_equal(a.reshape(15, -1), wanted[form])


@pytest.mark.parametrize("form", LIMITS)
def test_rows_do_not_see_each_other(form: str) -> None:
    assert_rows_alone(lambda x: quantize_rows(x, form)[form], inputs(RowsCase(40, 96)))


@pytest.mark.parametrize("form", LIMITS)
def test_ties_go_to_even(form: str) -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :6] = np.array([LIMITS[form], 0.5, 1.5, 2.5, -0.5, -1.5])
    codes, _, _ = fields(form, quantize_rows(x, form)[form], 32)
    assert codes[0, 0, :6].tolist() == [LIMITS[form], 0, 2, 2, 0, -2]


@pytest.mark.parametrize("form", LIMITS)
@pytest.mark.parametrize("exponent", [-149, -140, -127, -126, -120, -100, 100, 127])
def test_ends_of_the_range(form: str, exponent: int) -> None:
    # Where the scale would be subnormal, a block may count as zero; a code never has the wrong sign.
    x = (np.linspace(-1, 1, 32) * 2.0**exponent).astype(np.float32)[None]
    x[0, 5] = 0.0
    codes, scales, _ = fields(form, quantize_rows(x, form)[form], 32)
    assert (codes * np.sign(x).reshape(codes.shape) >= 0).all()
    error = np.abs(codes * scales[..., None].astype(np.float64) - x.reshape(codes.shape))
    step = np.abs(x).max() / LIMITS[form]
    assert (error <= step * (0.5 + 3 * U * LIMITS[form]) + LIMITS[form] * 2.0**-126).all()


@pytest.mark.parametrize("form", LIMITS)
@pytest.mark.parametrize("at", [0, 7, 8, 15, 16, 24, 31])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_become_finite(form: str, at: int, value: float) -> None:
    x = np.ones((1, 64), np.float32)
    x[0, at] = value
    _, scales, _ = fields(form, quantize_rows(x, form)[form], 64)
    assert not np.isfinite(scales[0, 0])
    assert np.isfinite(scales[0, 1])


@pytest.mark.parametrize("op", ["quantize_rows", "quantize_cols"])
def test_refuses(op: str) -> None:
    run, x = getattr(_core.ops, op), tokens(np.ones((2, 64), np.float32))
    int8, int16 = tokens(poisoned(2, 88, "uint8")), tokens(poisoned(2, 136, "uint8"))
    with pytest.raises(ValueError, match=f"{op}: wants int8 or int16 codes, neither was given"):
        run(rows_step(2), x=x)
    with pytest.raises(ValueError, match=f"{op}: x has 33 columns, wanted a multiple of 32"):
        run(rows_step(2), x=tokens(np.ones((2, 33), np.float32)), int8=int8)
    with pytest.raises(ValueError, match=f"{op}: parts is 0, wanted a positive number"):
        run(rows_step(2), x=x, int8=int8, parts=0)
    with pytest.raises(ValueError, match=f"{op}: x has 64 columns, wanted a multiple of 96"):
        run(rows_step(2), x=x, int8=int8, parts=3)
    with pytest.raises(ValueError, match=f"{op}: int8 has 136 columns, wanted 88"):
        run(rows_step(2), x=x, int8=int16)
    with pytest.raises(ValueError, match=f"{op}: int16 has 88 columns, wanted 136"):
        run(rows_step(2), x=x, int16=int8)
    with pytest.raises(ValueError, match=f"{op}: int8 has 2 rows, the step has 3"):
        run(rows_step(3), x=tokens(np.ones((3, 64), np.float32)), int8=int8)
    with pytest.raises(ValueError, match=f"{op}: int8 is 2-dimensional float32, wanted"):
        run(rows_step(2), x=x, int8=tokens(poisoned(2, 88)))
    with pytest.raises(TypeError, match=f"{op}: x is missing"):
        run(rows_step(2), int8=int8)
    with pytest.raises(TypeError, match=rf"{op}: unexpected argument among .*int4"):
        run(rows_step(2), x=x, int8=int8, int4=int8)


def test_poison_is_overwritten_whole() -> None:
    x = inputs(RowsCase(3, 96))
    first = quantize_rows(x, "int8", "int16")
    out = {form: np.zeros_like(a) for form, a in first.items()}
    _core.ops.quantize_rows(rows_step(3), x=tokens(x), **{form: tokens(a) for form, a in out.items()})
    for form, a in out.items():
        np.testing.assert_array_equal(bits(a), bits(first[form]))
