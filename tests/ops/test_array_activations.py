from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from harness import bits

from cases import RowsCase
from cases_rows import ELEMENTWISE, rows
from lanner import ops

Activation = Callable[..., np.ndarray]


def gelu_tanh(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    return ops.gelu(x, "tanh", out)


def geglu_tanh(gate: np.ndarray, up: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    return ops.geglu(gate, up, approximate="tanh", out=out)


SINGLE: dict[str, Activation] = {"silu": ops.silu, "gelu": ops.gelu, "gelu_tanh": gelu_tanh}
GATED: dict[str, Activation] = {"silu": ops.swiglu, "gelu": ops.geglu, "gelu_tanh": geglu_tanh}


@pytest.mark.parametrize("name", SINGLE)
def test_the_whole_line(name: str) -> None:
    rng = np.random.default_rng(0)
    tiny = 10.0 ** rng.uniform(-44, 2, 20000) * rng.choice([-1, 1], 20000)
    x = np.concatenate([np.linspace(-15, 15, 60001), np.linspace(-120, 120, 20001), tiny]).astype(np.float32)
    ELEMENTWISE[name](x).check(SINGLE[name](x))


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("n", [*range(33), 257, 1536, 2048, 4864, 16383, 16384, 50001])
def test_lengths_and_gates(name: str, n: int) -> None:
    gate, up = rows(RowsCase(2, n), 3.0)
    alone = SINGLE[name](gate)
    ELEMENTWISE[name](gate).check(alone)
    np.testing.assert_array_equal(bits(GATED[name](gate, up)), bits(alone * up))
    np.testing.assert_array_equal(bits(alone[n // 2 :]), bits(SINGLE[name](gate[n // 2 :])))
    for out in (gate, up):
        wanted = GATED[name](gate, up)
        GATED[name](gate.copy() if out is up else gate, up.copy() if out is gate else up, out=out)
        np.testing.assert_array_equal(bits(out), bits(wanted))
        gate, up = rows(RowsCase(2, n), 3.0)


@pytest.mark.parametrize("name", SINGLE)
def test_special_values(name: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 0.0, -0.0, 1e-45, -1e-45], np.float32)
    with np.errstate(all="raise"):
        y = SINGLE[name](x)
    wanted = np.array([np.nan, np.inf, 0, 3.4e38, 0, 0, 0, 0, 0], np.float32)
    np.testing.assert_allclose(y, wanted, atol=2e-45)
    assert np.isnan(SINGLE[name](np.array([0x7FC00001, 0xFFFFFFFF], np.uint32).view(np.float32))).all()


@pytest.mark.parametrize("name", SINGLE)
def test_threads_do_not_matter(name: str) -> None:
    x, before = rows(RowsCase(3, 100003)), ops.get_threads()
    try:
        answers = []
        for n in (1, 2, 3, 4):
            ops.set_threads(n)
            answers.append(bits(SINGLE[name](x)))
    finally:
        ops.set_threads(before)
    assert all((a == answers[0]).all() for a in answers)


X = np.ones((2, 96), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.silu(X.astype(np.float64)), TypeError, "silu: x is float64, wanted float32"),
        (lambda: ops.silu(1.0), TypeError, "silu: x is a float, wanted an array of float32"),
        (lambda: ops.gelu(X, "fast"), ValueError, "gelu: approximate is 'fast', wanted 'none' or 'tanh'"),
        (lambda: ops.swiglu(X, X[0]), ValueError, r"swiglu: up has shape \(96,\), gate has \(2, 96\)"),
        (lambda: ops.swiglu(X, None), TypeError, "swiglu: up is a NoneType, wanted an array of float32"),
        (lambda: ops.geglu(X, X, "exact"), ValueError, "geglu: approximate is 'exact'"),
        (lambda: ops.silu(X[:, 1:], out=X[:, :-1]), ValueError, "silu: out overlaps x without being it"),
        (lambda: ops.silu(X, out=X[0]), ValueError, r"silu: out has shape \(96,\), wanted \(2, 96\)"),
    ],
)
def test_refuses(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
