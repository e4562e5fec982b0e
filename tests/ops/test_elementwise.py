"""add, scale, add_positions and add_gated: sums of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import assert_rows_alone, bits, outputs, poisoned, rows_step, tokens

from cases import ROW_CASES, RowsCase
from lanner import _core
from reference import U, sigmoid

Array = np.ndarray


def values(case: RowsCase, n: int) -> list[Array]:
    rng = np.random.default_rng(case.seed)
    shape = (n, case.rows, case.cols)
    return list((rng.standard_normal(shape) * 10 ** rng.uniform(-3, 3, shape)).astype(np.float32))


def run(op: str, x: Array, **arguments: Any) -> Array:
    out = poisoned(*x.shape)
    given = {name: tokens(a) if name in ("y", "gate") else a for name, a in arguments.items()}
    getattr(_core.ops, op)(rows_step(len(x)), x=tokens(x), out=tokens(out), **given)
    return out


@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_a_plain_sum_is_numpys(case: RowsCase) -> None:
    """One rounding each: there is one right answer."""
    x, y = values(case, 2)
    np.testing.assert_array_equal(run("add", x, y=y), x + y)
    np.testing.assert_array_equal(run("add", x, y=y, factor=-1.0), x - y)
    np.testing.assert_array_equal(run("scale", x, factor=0.3), np.float32(0.3) * x)
    table = values(RowsCase(case.rows + 2, case.cols), 1)[0]
    np.testing.assert_array_equal(run("add_positions", x, table=table), x + table[: case.rows])
    np.testing.assert_array_equal(run("add_positions", x, table=table, offset=2), x + table[2:])


@pytest.mark.parametrize("factor", [0.22, -3.7, 0.0])
@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_add_is_close_to_float64(case: RowsCase, factor: float) -> None:
    # A product and a sum, of which a fused multiply-add rounds only the second.
    x, y = values(case, 2)
    product = float(np.float32(factor)) * y.astype(np.float64)
    bound = U * (np.abs(product) + np.abs(x + product)) * (1 + 2 * U) + 2.0**-149
    assert (np.abs(run("add", x, y=y, factor=factor) - (x + product)) <= bound).all()


@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_add_gated_is_close_to_float64(case: RowsCase) -> None:
    # The sigmoid is good to 7 U (tests/cases_rows.py) and 0 below -87; then a product and a sum.
    x, y = values(case, 2)
    gate = np.linspace(-100, 30, case.rows, dtype=np.float32)[:, None]
    product = sigmoid(gate.astype(np.float64)) * y
    bound = (8 * U * np.abs(product) + U * np.abs(x + product)) * (1 + 9 * U) + 1.7e-38 * (1 + np.abs(y))
    assert (np.abs(run("add_gated", x, y=y, gate=gate) - (x + product)) <= bound).all()


def test_ends_of_the_gate() -> None:
    x, y = np.ones((4, 3), np.float32), np.full((4, 3), 2, np.float32)
    gate = np.array([[np.inf], [-np.inf], [np.nan], [0]], np.float32)
    got = run("add_gated", x, y=y, gate=gate)
    np.testing.assert_array_equal(got, np.broadcast_to(np.array([[3], [1], [np.nan], [2]]), (4, 3)))


@pytest.mark.parametrize("cols", [1, 15, 16, 33, 576])
def test_rows_do_not_see_each_other(cols: int) -> None:
    # One array holds x, y and the gate, so that rows are taken from all alike.
    parts = np.concatenate([*values(RowsCase(40, cols), 2), values(RowsCase(40, 1), 1)[0]], axis=1)

    def split(rows: Array) -> tuple[Array, Array, Array]:
        x, y, gate = np.split(rows, [cols, 2 * cols], axis=1)
        return x.copy(), y.copy(), gate.copy()

    def add_gated(rows: Array) -> Array:
        x, y, gate = split(rows)
        return run("add_gated", x, y=y, gate=gate)

    def add(rows: Array) -> Array:
        x, y, _ = split(rows)
        return np.concatenate([run("add", x, y=y, factor=0.3), run("scale", x, factor=0.3)], axis=1)

    assert_rows_alone(add_gated, parts)
    assert_rows_alone(add, parts)


def test_positions_are_those_of_the_step() -> None:
    x, table = values(RowsCase(5, 37), 1)[0], values(RowsCase(100, 37), 1)[0]
    step, out = rows_step(5), poisoned(5, 37)
    step.positions[:] = (7, 0, 97, 7, 50)
    _core.ops.add_positions(step, x=tokens(x), table=table, offset=2, out=tokens(out))
    np.testing.assert_array_equal(out, x + table[step.positions + 2])


def test_rows_of_outputs() -> None:
    x, y = values(RowsCase(3, 20), 2)
    out = poisoned(3, 20)
    _core.ops.add(rows_step(1, [0, 0, 0]), x=outputs(x), y=outputs(y), out=outputs(out))
    np.testing.assert_array_equal(bits(out), bits(x + y))


TABLE = np.ones((9, 32), np.float32)


@pytest.mark.parametrize(
    ("op", "change", "error", "message"),
    [
        ("add", {"y": tokens(poisoned(2, 31))}, ValueError, "add: y has 31 columns, wanted 32"),
        ("add", {"out": tokens(poisoned(2, 31))}, ValueError, "add: out has 31 columns, wanted 32"),
        ("add", {"factor": float("inf")}, ValueError, "add: factor is inf, wanted a finite number"),
        ("add", {"y": None}, TypeError, "add: y is missing"),
        ("scale", {"factor": float("nan")}, ValueError, "scale: factor is -?nan, wanted a finite number"),
        ("scale", {"factor": None}, TypeError, "scale: factor is missing"),
        ("scale", {"out": tokens(poisoned(2, 33))}, ValueError, "scale: out has 33 columns, wanted 32"),
        ("add_positions", {"offset": -1}, ValueError, "add_positions: offset is -1, table has 9 rows"),
        ("add_positions", {"offset": 9}, ValueError, "add_positions: offset is 9, table has 9 rows"),
        ("add_positions", {"offset": 8}, ValueError, "position 1 of token 1 is outside the table of 1"),
        ("add_positions", {"table": TABLE[:, :31].copy()}, ValueError, "table has 31 columns, x has 32"),
        ("add_positions", {"table": TABLE[:, :31]}, ValueError, "table must be a contiguous matrix of"),
        ("add_positions", {"table": TABLE[::2]}, ValueError, "table must be a contiguous matrix of float32"),
        ("add_positions", {"table": TABLE.T}, ValueError, "table must be a contiguous matrix of float32"),
        ("add_positions", {"table": TABLE.astype(np.float16)}, ValueError, "must be a contiguous matrix"),
        ("add_positions", {"table": TABLE.ravel()}, ValueError, "must be a contiguous matrix of float32"),
        ("add_positions", {"table": TABLE[:0]}, ValueError, "add_positions: offset is 0, table has 0 rows"),
        ("add_positions", {"table": 3}, ValueError, "add_positions: table is a int, wanted a matrix"),
        ("add_gated", {"gate": tokens(poisoned(2, 2))}, ValueError, "gate has 2 columns, wanted 1"),
        ("add_gated", {"y": tokens(poisoned(2, 2))}, ValueError, "add_gated: y has 2 columns, wanted 32"),
        ("add_gated", {"gate": None}, TypeError, "add_gated: gate is missing"),
        ("add_gated", {"factor": 1.0}, TypeError, r"add_gated: unexpected argument among .*factor"),
    ],
)  # fmt: skip
def test_refuses(op: str, change: dict[str, object], error: type[Exception], message: str) -> None:
    x = tokens(np.ones((2, 32), np.float32))
    good = {"x": x, "out": tokens(poisoned(2, 32))} | {
        "add": {"y": x}, "scale": {"factor": 2.0}, "add_positions": {"table": TABLE},
        "add_gated": {"y": x, "gate": tokens(poisoned(2, 1))},
    }[op]  # fmt: skip
    with pytest.raises(error, match=message):
        getattr(_core.ops, op)(rows_step(2), **(good | change))
