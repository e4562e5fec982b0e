"""experts_gate_up and experts_down: gate_up and linear of the experts that each token chose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from harness import (
    assert_rows_alone,
    bits,
    fewer,
    input_rows,
    inputs_of,
    make_weight,
    matmul,
    poisoned,
    rows_step,
    tokens,
)

from cases import LinearCase
from lanner import _core
from reference import FLOATS, FORMATS, fit, gamma, random_rows


@dataclass(frozen=True)
class ExpertsCase:
    """E experts of m rows of a format each over k inputs, of which every one of `rows` tokens has `used`."""

    fmt: str
    n_experts: int
    used: int
    m: int
    k: int
    rows: int

    def __str__(self) -> str:
        return f"{self.fmt}-{self.used}of{self.n_experts}-{self.m}x{self.k}-t{self.rows}"

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.n_experts * 101 + self.m * 7 + self.rows)

    @property
    def ids(self) -> np.ndarray:
        """(rows, used) ascending; low ids are more popular, as some experts of real models are."""
        n, rng = self.n_experts, self.rng
        p = np.linspace(3, 1, n) / np.linspace(3, 1, n).sum()
        chosen = [np.sort(rng.choice(n, self.used, replace=False, p=p)) for _ in range(self.rows)]
        return np.array(chosen, np.int32).reshape(self.rows, self.used)

    @property
    def weights(self) -> np.ndarray:
        return self.rng.random((self.rows, self.used)).astype(np.float32)

    def parts(self, n_segments: int) -> list[list[tuple[np.ndarray, str, int, int, int]]]:
        """Sources of every expert."""
        rng = self.rng
        stored = [[random_rows(self.fmt, self.m, self.k, rng) for _ in range(n_segments)]
                  for _ in range(self.n_experts)]  # fmt: skip
        return [[(rows.ravel(), self.fmt, self.m, self.k, 0) for rows in expert] for expert in stored]

    def x(self, parts: int = 1) -> np.ndarray:
        return input_rows(LinearCase((), self.k, self.rows * parts))


CASES = [
    *(ExpertsCase(fmt, 5, 2, 32, fit(fmt, 96), rows) for fmt in FORMATS for rows in (1, 3, 40)),
    *(ExpertsCase(fmt, 6, 3, 53, fit(fmt, 96), 9) for fmt in FORMATS),
    *(ExpertsCase(fmt, 4, 2, 20, 37, rows) for fmt in FLOATS for rows in (1, 2, 7, 33)),
    # More rows of an expert than a block has, all experts in use, one expert, one choice.
    ExpertsCase("q4_0", 2, 1, 48, 96, 400),
    ExpertsCase("f16", 3, 3, 17, 61, 200),
    ExpertsCase("q8_0", 1, 1, 40, 64, 7),
    ExpertsCase("q5_1", 64, 8, 64, 96, 20),
]
ROOMY = [
    ExpertsCase("f32", 3, 1, 3, 8192, 300),  # rows of which fewer than a block fit side by side
    ExpertsCase("f32", 300, 256, 1, 2, 300),  # more choices than are sorted at a time
]


def gate_up(
    case: ExpertsCase, packed: _core.Packed, x: np.ndarray, ids: np.ndarray, **options: object
) -> np.ndarray:
    out = poisoned(len(x), case.used * case.m)
    _core.ops.experts_gate_up(
        rows_step(len(x)), weight=packed, **inputs_of(packed, x), ids=tokens(ids), out=tokens(out),
        n_experts=case.n_experts, **options,
    )  # fmt: skip
    return out


def down(case: ExpertsCase, packed: _core.Packed, x: np.ndarray, ids: np.ndarray, weights: np.ndarray,
         out: np.ndarray, **options: object) -> np.ndarray:  # fmt: skip
    """x has a row for every choice."""
    inputs = {
        name: tokens(buffer.array.reshape(len(ids), ids.shape[1] * buffer.array.shape[1]))
        for name, buffer in inputs_of(packed, x).items()
    }
    _core.ops.experts_down(
        rows_step(len(ids)), weight=packed, **inputs, ids=tokens(ids), weights=tokens(weights),
        out=tokens(out), n_experts=case.n_experts, **options,
    )  # fmt: skip
    return out


def packed_of(experts: list[list[tuple[np.ndarray, str, int, int, int]]]) -> _core.Packed:
    return _core.Packed([source for expert in experts for source in expert])


def chosen_gate_up(case: ExpertsCase, x: np.ndarray, function: str = "silu") -> np.ndarray:
    """By gate_up, expert by expert."""
    ids, wanted = case.ids, np.zeros((len(x), case.used, case.m), np.float32)
    for e, expert in enumerate(case.parts(2)):
        rows, slots = np.nonzero(ids == e)
        if len(rows):
            own = x[rows].copy()
            made = matmul("gate_up", _core.Packed(expert), own, poisoned(len(own), case.m), function=function)
            wanted[rows, slots] = made
    return wanted.reshape(len(x), -1)


def chosen_sums(case: ExpertsCase, x: np.ndarray) -> np.ndarray:
    """(rows, used, m) by linear, expert by expert, of x (rows * used, k)."""
    ids, wanted = case.ids.ravel(), np.zeros((len(x), case.m), np.float32)
    for e, expert in enumerate(case.parts(1)):
        at = np.nonzero(ids == e)[0]
        if len(at):
            wanted[at] = matmul("linear", _core.Packed(expert), x[at].copy(), poisoned(len(at), case.m))
    return wanted.reshape(case.rows, case.used, case.m)


@pytest.mark.parametrize("case", CASES + ROOMY, ids=str)
def test_gate_up_gives_the_bits_of_each_expert(case: ExpertsCase) -> None:
    packed, x = packed_of(case.parts(2)), case.x()
    np.testing.assert_array_equal(gate_up(case, packed, x, case.ids), chosen_gate_up(case, x))


@pytest.mark.parametrize("function", ["gelu", "relu"])
def test_functions_of_the_gate(function: str) -> None:
    case = CASES[0]
    x, packed = case.x(), packed_of(case.parts(2))
    got = gate_up(case, packed, x, case.ids, function=function)
    np.testing.assert_array_equal(got, chosen_gate_up(case, x, function))


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("case", CASES + ROOMY, ids=str)
def test_down_adds_the_experts_up(case: ExpertsCase, add: bool) -> None:
    # The sums are those of linear to the bit; a product and an addition each, from the first on.
    packed, x, weights = packed_of(case.parts(1)), case.x(case.used), case.weights
    terms = weights[..., None].astype(np.float64) * chosen_sums(case, x)
    out = np.random.default_rng(1).standard_normal((case.rows, case.m)).astype(np.float32)
    start = out.astype(np.float64) if add else np.zeros(out.shape)
    got = down(case, packed, x, case.ids, weights, out if add else poisoned(*out.shape), add=add)
    bound = gamma(2 * case.used) * (np.abs(start) + np.abs(terms).sum(axis=1)) + 2.0**-149 * case.used
    assert (np.abs(got - start - terms.sum(axis=1)) <= bound).all()


@pytest.mark.parametrize("fmt", ["f32", "q4_1"])
def test_one_expert_of_weight_one_is_linear(fmt: str) -> None:
    case = ExpertsCase(fmt, 4, 1, 53, 96, 30)
    got = down(
        case, packed_of(case.parts(1)), case.x(), case.ids, np.ones((30, 1), np.float32), poisoned(30, 53)
    )
    np.testing.assert_array_equal(got, chosen_sums(case, case.x())[:, 0])


@pytest.mark.parametrize("fmt", ["f32", "q4_1"])
def test_experts_are_added_in_ascending_id(fmt: str) -> None:
    """Step by step, as if every expert were a layer of its own that adds to the result."""
    case = ExpertsCase(fmt, 6, 3, 40, 96, 20)
    packed, x, ids, weights = packed_of(case.parts(1)), case.x(3), case.ids, case.weights
    whole = down(case, packed, x, ids, weights, poisoned(20, 40))
    out = np.zeros((20, 40), np.float32)
    for slot in range(3):
        one = x.reshape(20, 3, -1)[:, slot].copy()
        given = (ids[:, slot : slot + 1].copy(), weights[:, slot : slot + 1].copy())
        down(case, packed, one, *given, out, add=True)
    np.testing.assert_array_equal(whole, out)


@pytest.mark.parametrize("fmt", FORMATS)
def test_rows_do_not_see_each_other(fmt: str) -> None:
    case = ExpertsCase(fmt, 4, 2, 20, fit(fmt, 96), fewer(40))
    two, one, x = packed_of(case.parts(2)), packed_of(case.parts(1)), case.x()
    columns = np.concatenate(
        [case.ids.view(np.float32), case.weights, x, case.x(2).reshape(len(x), -1)], axis=1
    )

    def run(rows: np.ndarray) -> np.ndarray:
        ids, weights, x, h = (part.copy() for part in np.split(rows, [2, 4, 4 + case.k], axis=1))
        ids = ids.view(np.int32)
        made = gate_up(case, two, x, ids)
        h = h.reshape(-1, case.k)
        return np.concatenate([made, down(case, one, h, ids, weights, poisoned(len(x), 20))], axis=1)

    assert_rows_alone(run, columns)


@pytest.mark.parametrize("unit_rows", [16, 32, 48, 128])
def test_units_change_no_bit(unit_rows: int) -> None:
    case = ExpertsCase("q4_0", 4, 2, 96, 96, 9)
    two, one, x = packed_of(case.parts(2)), packed_of(case.parts(1)), case.x()
    wanted = gate_up(case, two, x, case.ids)
    np.testing.assert_array_equal(gate_up(case, two, x, case.ids, unit_rows=unit_rows), wanted)
    given = (case.x(2), case.ids, case.weights)
    wanted = down(case, one, *given, poisoned(9, 96))
    np.testing.assert_array_equal(down(case, one, *given, poisoned(9, 96), unit_rows=unit_rows), wanted)


def test_one_segment_of_all_experts_gives_the_same_bits() -> None:
    case = ExpertsCase("q8_0", 4, 2, 48, 96, 9)
    experts = case.parts(1)
    rows = np.concatenate([expert[0][0] for expert in experts])
    whole = _core.Packed([(rows, "q8_0", 4 * 48, 96, 0)])
    given = (case.x(2), case.ids, case.weights)
    wanted = down(case, packed_of(experts), *given, poisoned(9, 48))
    np.testing.assert_array_equal(down(case, whole, *given, poisoned(9, 48)), wanted)


def test_experts_may_differ_in_format() -> None:
    """Gate and up of expert e from formats of all three kinds of input."""
    formats = (("q4_0", "q8_0"), ("f16", "q4_1"), ("q5_0", "q5_0"))
    case, rng = ExpertsCase("f32", 3, 2, 40, 96, 50), np.random.default_rng(2)
    experts = [[(random_rows(f, 40, 96, rng).ravel(), f, 40, 96, 0) for f in pair] for pair in formats]
    got = gate_up(case, packed_of(experts), case.x(), case.ids).reshape(50, 2, 40)
    for e, expert in enumerate(experts):
        rows, slots = np.nonzero(case.ids == e)
        own = case.x()[rows].copy()
        wanted = matmul("gate_up", _core.Packed(expert), own, poisoned(len(own), 40))
        np.testing.assert_array_equal(got[rows, slots], wanted)


def test_no_rows() -> None:
    case = ExpertsCase("f32", 4, 2, 20, 37, 0)
    assert gate_up(case, packed_of(case.parts(2)), case.x(), case.ids).shape == (0, 40)
    given = (case.x(2), case.ids, case.weights)
    assert down(case, packed_of(case.parts(1)), *given, poisoned(0, 20)).shape == (0, 20)


def test_what_is_not_a_number_stays_with_its_token() -> None:
    case = ExpertsCase("f32", 3, 2, 20, 37, 4)
    x, weights = case.x(2), case.weights
    weights[2, 1] = np.nan
    got = down(case, packed_of(case.parts(1)), x, case.ids, weights, poisoned(4, 20))
    assert np.isnan(got[2]).all()
    assert np.isfinite(got[[0, 1, 3]]).all()


GOOD_IDS = np.array([[0, 2], [1, 2]], np.int32)


@pytest.mark.parametrize("op", ["experts_gate_up", "experts_down"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_experts": 0}, ValueError, "n_experts is 0, wanted 1 to 1024"),
        ({"n_experts": 1025}, ValueError, "n_experts is 1025, wanted 1 to 1024"),
        ({"n_experts": 5}, ValueError, "the weight has .* wanted equal ones for 5 experts"),
        ({"n_experts": None}, TypeError, "n_experts is missing"),
        ({"ids": tokens(poisoned(2, 4, "int32"))}, ValueError, "(ids has 4|int8 has 176) columns"),
        ({"ids": tokens(np.array([[0, 2], [1, 3]], np.int32))}, ValueError, "row 1 of ids has 3 in column 1"),
        ({"ids": tokens(np.array([[-1, 2]] * 2, np.int32))}, ValueError, "row 0 of ids has -1 in column 0"),
        ({"ids": tokens(np.array([[0, 2], [2, 2]], np.int32))}, ValueError, "row 1 of ids has 2 in column 1"),
        ({"ids": tokens(np.array([[2, 0], [1, 2]], np.int32))}, ValueError, "row 0 of ids has 0 in column 1"),
        ({"int8": None}, ValueError, "a weight of q4_0 reads int8, which was not given"),
        ({"int8": tokens(poisoned(2, 40, "uint8"))}, ValueError, "int8 has 40 columns, wanted"),
        ({"out": tokens(poisoned(2, 31))}, ValueError, "out has 31 columns, wanted"),
        ({"unit_rows": 24}, ValueError, "unit_rows is 24, wanted a positive multiple of 16"),
        ({"uses": 3}, TypeError, r"unexpected argument among .*uses"),
    ],
)  # fmt: skip
def test_refuses(op: str, change: dict[str, object], error: type[Exception], message: str) -> None:
    case = ExpertsCase("q4_0", 3, 2, 32, 64, 2)
    is_down = op == "experts_down"
    packed = packed_of(case.parts(1 if is_down else 2))
    codes = inputs_of(packed, case.x(2 if is_down else 1))["int8"].array.reshape(2, -1)
    good = {"weight": packed, "int8": tokens(codes), "ids": tokens(GOOD_IDS), "n_experts": 3,
            "out": tokens(poisoned(2, 32 if is_down else 64))}  # fmt: skip
    good |= {"weights": tokens(case.weights)} if is_down else {}
    with pytest.raises(error, match=rf"{op}: {message}"):
        getattr(_core.ops, op)(rows_step(2), **(good | change))


def test_refuses_weights_of_other_columns() -> None:
    case = ExpertsCase("f32", 3, 2, 32, 64, 2)
    with pytest.raises(ValueError, match="experts_down: weights has 3 columns, wanted 2"):
        down(case, packed_of(case.parts(1)), case.x(2), GOOD_IDS, poisoned(2, 3), poisoned(2, 32))


@pytest.mark.parametrize("rows", [(20, 12, 12, 20), (16, 16, 32), (33, 33, 33), (8, 24, 24, 8)], ids=str)
def test_experts_whose_panels_are_unlike_are_refused(rows: tuple[int, ...]) -> None:
    packed = make_weight(LinearCase(tuple(("f32", n) for n in rows), 64, 2)).packed
    x, ids = tokens(np.ones((2, 64), np.float32)), tokens(np.zeros((2, 1), np.int32))
    with pytest.raises(
        ValueError, match=r"experts_gate_up: the weight has .* wanted (equal ones|two halves)"
    ):
        _core.ops.experts_gate_up(
            rows_step(2), weight=packed, x=x, ids=ids, out=tokens(poisoned(2, sum(rows) // 4)), n_experts=2
        )


def test_outside_of_what_was_chosen_nothing_is_written() -> None:
    case = ExpertsCase("f32", 4, 2, 20, 37, 3)
    packed = packed_of(case.parts(1))
    out = poisoned(5, 20)
    x, ids, weights = case.x(2), case.ids, case.weights
    inputs = {"x": tokens(x.reshape(3, -1)), "ids": tokens(ids), "weights": tokens(weights)}
    _core.ops.experts_down(rows_step(3), weight=packed, **inputs, out=tokens(out), n_experts=4)
    np.testing.assert_array_equal(bits(out[3:]), bits(poisoned(2, 20)))
