from __future__ import annotations

import numpy as np
import pytest
from harness import assert_rows_alone, input_rows, inputs_of, make_weight, matmul, poisoned, rows_step, tokens

from cases import GATE_UP, LinearCase
from cases_rows import ACTIVATIONS
from lanner import _core
from reference import FORMATS, U, fit, silu
from test_linear import products


@pytest.mark.parametrize("case", GATE_UP, ids=str)
def test_close_to_float64(case: LinearCase) -> None:
    # silu has a slope of at most 1.1, so an error g of the gate becomes 1.1 g |up|; the exponential is good
    # to 2 ulp; sum, quotient and product round once each. Far below, silu is x / exp(88), nearly 0.
    weight, x, m = make_weight(case), input_rows(case), case.n // 2
    (gate, up), (gate_bound, up_bound) = (np.split(a, 2, axis=1) for a in products(weight, x))
    with np.errstate(over="ignore"):
        wanted = silu(gate) * up
        bound = 1.1 * gate_bound * (np.abs(up) + up_bound) + (np.abs(silu(gate)) + 1e-36) * up_bound
    bound += 8 * U * np.abs(wanted) + 1e-36 * (1 + np.abs(up))
    out = matmul("gate_up", weight.packed, x, poisoned(case.rows, m))
    assert (np.abs(out - wanted) <= bound).all()


@pytest.mark.parametrize("rows", [1, 7, 150])
@pytest.mark.parametrize("fmt", ["f32", "q4_1"])
@pytest.mark.parametrize("function", ACTIVATIONS)
def test_functions_of_the_gate(function: str, fmt: str, rows: int) -> None:
    # No function has a slope beyond 1.13 (gelu at sqrt 2).
    case = LinearCase(((fmt, 53), (fmt, 53)), 96, rows)
    weight, x = make_weight(case), input_rows(case)
    (gate, up), (gate_bound, up_bound) = (np.split(a, 2, axis=1) for a in products(weight, x))
    with np.errstate(over="ignore"):
        f = ACTIVATIONS[function](gate)
    wanted = f.wanted * up
    bound = (1.13 * gate_bound + f.bound) * (np.abs(up) + up_bound) + np.abs(f.wanted) * up_bound
    out = matmul("gate_up", weight.packed, x, poisoned(rows, 53), function=function)
    assert (np.abs(out - wanted) <= bound * (1 + 2 * U) + U * np.abs(wanted) + 2.0**-149).all()


def test_far_ends_of_silu() -> None:
    # One input feature: gate = x, up = 1.
    rows = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    packed = _core.Packed([(rows[i : i + 1].view(np.uint8).ravel(), "f32", 1, 2, 0) for i in (0, 1)])
    gate = np.array([0, -0.0, 1, -1, 20, -20, 87, -87, -88, -89, -200, -1e30, 1e30, 3e38, np.inf], np.float32)
    x = np.stack([gate, np.ones_like(gate)], axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = silu(gate.astype(np.float64))
    out = matmul("gate_up", packed, x, poisoned(len(x), 1))[:, 0]
    # Below -87, where exp(-x) nears the end of float32, the result is 0: off by 87 exp(-87) = 1.4e-36.
    wanted[gate < -87] = 0
    finite = np.isfinite(gate)
    assert (np.abs(out - wanted)[finite] <= (16 * U * np.abs(wanted) + 1e-44)[finite]).all()
    # 0 * inf in the second row of the weight's dot: not a number, never a wrong number.
    assert np.isnan(out[-1]) or np.isinf(out[-1])


@pytest.mark.parametrize("fmt", FORMATS)
def test_rows_do_not_see_each_other(fmt: str) -> None:
    case = LinearCase(((fmt, 20), (fmt, 20)), fit(fmt, 96), 40)
    packed = make_weight(case).packed
    assert_rows_alone(lambda x: matmul("gate_up", packed, x, poisoned(len(x), 20)), input_rows(case))


@pytest.mark.parametrize("unit_rows", [16, 32, 48, 96, 128])
def test_units_change_no_bit(unit_rows: int) -> None:
    case = LinearCase((("q4_1", 96), ("q8_0", 96)), 96, 5)
    packed, x = make_weight(case).packed, input_rows(case)
    wanted = matmul("gate_up", packed, x, poisoned(5, 96))
    np.testing.assert_array_equal(matmul("gate_up", packed, x, poisoned(5, 96), unit_rows=unit_rows), wanted)


@pytest.mark.parametrize("rows", [(20, 12), (33,), (8, 24, 24, 8)], ids=str)
def test_halves_whose_panels_do_not_meet_are_refused(rows: tuple[int, ...]) -> None:
    """Row i of gate and of up must lie in panels of the same place: (8, 24) against (24, 8) does not."""
    packed = make_weight(LinearCase(tuple(("f32", n) for n in rows), 64, 2)).packed
    x = tokens(np.ones((2, 64), np.float32))
    out = tokens(poisoned(2, sum(rows) // 2))
    with pytest.raises(ValueError, match=r"gate_up: the weight has .* wanted two halves"):
        _core.ops.gate_up(rows_step(2), weight=packed, x=x, out=out)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"int8": None}, ValueError, "gate_up: a weight of q4_0 reads int8, which was not given"),
        ({"int8": tokens(poisoned(2, 40, "uint8"))}, ValueError, "gate_up: int8 has 40 columns, wanted 88"),
        ({"out": tokens(poisoned(2, 64))}, ValueError, "gate_up: out has 64 columns, wanted 32"),
        ({"unit_rows": 8}, ValueError, "gate_up: unit_rows is 8, wanted a positive multiple of 16"),
        ({"weight": None}, TypeError, "gate_up: weight is missing"),
        (
            {"function": "swish"},
            ValueError,
            "gate_up: function is 'swish', wanted one of silu, gelu, gelu_tanh",
        ),
        ({"add": True}, TypeError, r"gate_up: unexpected argument among .*add"),
    ],
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    packed = make_weight(LinearCase((("q4_0", 32), ("q4_0", 32)), 64, 2)).packed
    good = {
        "weight": packed,
        **inputs_of(packed, np.ones((2, 64), np.float32)),
        "out": tokens(poisoned(2, 32)),
    }
    with pytest.raises(error, match=message):
        _core.ops.gate_up(rows_step(2), **(good | change))
