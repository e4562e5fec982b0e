"""Row operations beside PyTorch's: what its users expect of shapes, ties, special values and formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import cases_rows as cases
from cases import RowsCase
from cases_rows import ROW_CASES, ROWWISE, Oracle, rows
from lanner import ops

torch = pytest.importorskip("torch")
functional = torch.nn.functional
pytestmark = pytest.mark.oracle


def close(got: np.ndarray, wanted: object, rtol: float = 2e-5, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(got, wanted.numpy(), rtol=rtol, atol=atol)


def within(got: np.ndarray, wanted: object, oracle: Oracle) -> None:
    """PyTorch computes in float32 too, and promises no less than twice our bound and a few roundings."""
    bound = 3 * oracle.bound + 2.0**-20 * np.abs(oracle.wanted) + 1e-6
    assert (np.abs(got - wanted.numpy()) <= bound).all()


def batch(n: int = 896) -> tuple[np.ndarray, object]:
    x = rows(RowsCase(12, n), 3.0).reshape(3, 4, n)
    return x, torch.from_numpy(x)


OPERATIONS: dict[str, Callable[[object], object]] = {
    "softmax": lambda t: torch.softmax(t, -1),
    "log_softmax": lambda t: torch.log_softmax(t, -1),
    "logsumexp": lambda t: torch.logsumexp(t, -1),
    "rms_norm": lambda t: functional.rms_norm(t, (t.shape[-1],), None, 1e-6),
    "layer_norm": lambda t: functional.layer_norm(t, (t.shape[-1],)),
    "silu": functional.silu,
    "gelu": functional.gelu,
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("case", ROW_CASES[::2], ids=str)
def test_lengths(name: str, case: RowsCase) -> None:
    x = rows(case, 3.0)
    oracle = (ROWWISE | cases.ELEMENTWISE)[name](x)
    within(getattr(ops, name)(x), OPERATIONS[name](torch.from_numpy(x)), oracle)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_along_every_axis(axis: int) -> None:
    x, t = batch()
    close(ops.softmax(x, axis), torch.softmax(t, axis))
    close(ops.log_softmax(x, axis), torch.log_softmax(t, axis))
    close(ops.logsumexp(x, axis), torch.logsumexp(t, axis))
    close(ops.logsumexp(x, axis, keepdims=True), torch.logsumexp(t, axis, keepdim=True))


def test_special_values_of_softmax() -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[0, -inf], [-inf, -inf], [inf, 0], [nan, 0], [3e38, -3e38], [nan, inf]], np.float32)
    close(ops.softmax(x), torch.softmax(torch.from_numpy(x), -1))
    close(ops.log_softmax(x), torch.log_softmax(torch.from_numpy(x), -1))
    close(ops.logsumexp(x), torch.logsumexp(torch.from_numpy(x), -1))


@pytest.mark.parametrize("n", [1, 17, 576, 896, 4097])
def test_norms(n: int) -> None:
    x, t = batch(n)
    weight, bias = rows(RowsCase(2, n))
    w, b = torch.from_numpy(weight), torch.from_numpy(bias)
    for eps in (1e-5, 1e-6, 0.1):
        wanted = functional.rms_norm(t, (n,), w, eps)
        within(ops.rms_norm(x, weight, eps=eps), wanted, cases.rms_norm(x, weight, eps))
        wanted = functional.layer_norm(t, (n,), w, b, eps)
        within(ops.layer_norm(x, weight, bias, eps=eps), wanted, cases.layer_norm(x, weight, bias, eps))


def test_activations() -> None:
    x, t = batch()
    up = x[::-1].copy()
    u = torch.from_numpy(up)
    close(ops.gelu(x, "tanh"), functional.gelu(t, approximate="tanh"))
    close(ops.swiglu(x, up), functional.silu(t) * u)
    # Its gelu is off by 1e-7 where 1 + erf cancels; up is as large as 12.
    close(ops.geglu(x, up), functional.gelu(t) * u, atol=1e-5)
    close(ops.geglu(x, up, "tanh"), functional.gelu(t, approximate="tanh") * u, atol=1e-5)


def test_special_values_of_activations() -> None:
    inf = np.inf
    x = np.array([0.0, -0.0, inf, np.nan, 1e-45, 3e38, -3e38, 88, -88, 20, -20], np.float32)
    t = torch.from_numpy(x)
    close(ops.silu(x), functional.silu(t))
    close(ops.gelu(x), functional.gelu(t))
    close(ops.gelu(x, "tanh"), functional.gelu(t, approximate="tanh"))
    # The limits at -inf are 0; PyTorch multiplies -inf with 0 there.
    low = np.array([-inf], np.float32)
    assert not any(op(low).any() for op in (ops.silu, ops.gelu))


@pytest.mark.parametrize("k", [1, 3, 40, 896])
def test_topk(k: int) -> None:
    x, t = batch()
    x[0, 0, 5] = np.nan
    for axis in (0, 1, 2):
        n = min(k, x.shape[axis])
        values, ids = ops.topk(x, n, axis)
        wanted = torch.topk(t, n, axis)
        close(values, wanted.values, 0, 0)
        np.testing.assert_array_equal(ids, wanted.indices.numpy())
