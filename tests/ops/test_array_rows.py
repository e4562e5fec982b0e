from __future__ import annotations

import numpy as np
import pytest
from harness import bits, fewer

import cases_rows as cases
from cases import RowsCase
from cases_rows import ROW_CASES, ROWWISE, VOCABULARIES, rows, topk_ids
from lanner import ops
from layouts import place

NAMES = sorted(ROWWISE)
IN_PLACE = [name for name in NAMES if name != "logsumexp"]


@pytest.fixture(autouse=True)
def _threads():
    n = ops.get_threads()
    yield
    ops.set_threads(n)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_lengths(name: str, case: RowsCase) -> None:
    for scale in (1.0, 30.0):
        x = rows(case, scale)
        ROWWISE[name](x).check(getattr(ops, name)(x))


@pytest.mark.parametrize("name", ["softmax", "rms_norm"])
def test_a_thousand_random_rows(name: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(fewer(1000)):
        n_rows, cols = int(rng.integers(1, 4)), int(rng.choice([rng.integers(1, 70), rng.integers(70, 9000)]))
        x = rng.standard_normal((n_rows, cols)) * 10 ** rng.uniform(-3, 3) + 10 ** rng.uniform(-3, 3)
        x = x.astype(np.float32)
        ROWWISE[name](x).check(getattr(ops, name)(x))
        if name == "rms_norm":
            weight, eps = rng.standard_normal(cols).astype(np.float32), 10 ** rng.uniform(-8, 0)
            cases.rms_norm(x, weight, eps).check(ops.rms_norm(x, weight, eps=eps))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n_rows", "cols"), [(40, 2049), (3, 70001), (1, 300000)])
def test_threads_do_not_matter(name: str, n_rows: int, cols: int) -> None:
    x = rows(RowsCase(n_rows, cols), 3.0)
    ops.set_threads(1)
    wanted = bits(getattr(ops, name)(x))
    for n in (2, 3, 4):
        ops.set_threads(n)
        np.testing.assert_array_equal(bits(getattr(ops, name)(x)), wanted, err_msg=f"{n} threads")


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_what_is_written_past_the_caches_is_the_same(name: str) -> None:
    """Outputs of 32 MB and more take another way, and rows beyond 2^16 elements are computed twice."""
    rng = np.random.default_rng(0)
    for cols, kind in ((65536, "aligned"), (65552, "offset")):
        x = np.tile(rows(RowsCase(1, cols), 3.0), (129, 1))
        out = place(x, kind, rng, 0xA5)
        getattr(ops, name)(x, out=out.array)
        assert (bits(out.array) == bits(getattr(ops, name)(x[:1].copy()))).all()
        assert out.has_kept_its_surroundings()


@pytest.mark.parametrize("n", VOCABULARIES)
def test_logits_of_the_catalogue(n: int) -> None:
    x = rows(RowsCase(2, n), 5.0)
    for name in ("softmax", "log_softmax", "logsumexp"):
        ROWWISE[name](x).check(getattr(ops, name)(x))
    values, ids = ops.topk(x, 40)
    np.testing.assert_array_equal(ids, topk_ids(x, 40))
    np.testing.assert_array_equal(values, np.take_along_axis(x, ids, -1))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 4)])
def test_no_elements(shape: tuple[int, ...]) -> None:
    x = np.empty(shape, np.float32)
    for name in IN_PLACE:
        assert getattr(ops, name)(x).shape == shape
    assert np.isneginf(ops.logsumexp(x)).all()
    assert ops.logsumexp(x).shape == shape[:-1]
    assert ops.topk(x, 0)[0].shape == (*shape[:-1], 0)


INF, NAN, BIG = np.inf, np.nan, 3.4e38


@pytest.mark.parametrize("n", [2, 16, 40, 5000])
@pytest.mark.parametrize(
    ("values", "softmax", "logsumexp"),
    [
        ((0.0, -INF), (None, 0.0), None),
        ((-INF, -INF), (NAN, NAN), -INF),
        ((INF, 0.0), (NAN, NAN), INF),
        ((INF, NAN), (NAN, NAN), NAN),
        ((NAN, 0.0), (NAN, NAN), NAN),
        ((NAN, -INF), (NAN, NAN), NAN),
        ((BIG, -BIG), (None, 0.0), BIG),
        ((0.0, -200.0), (None, 0.0), None),
    ],
)
def test_special_values(n: int, values: tuple[float, float], softmax: tuple, logsumexp: float | None) -> None:
    """The first value stands at the end of the row, the second everywhere else."""
    x = np.full((1, n), values[1], np.float32)
    x[0, -1] = values[0]
    with np.errstate(all="raise"):
        y, log_y, total = ops.softmax(x)[0], ops.log_softmax(x)[0], ops.logsumexp(x)[0]
    np.testing.assert_array_equal(y[:-1], np.float32(softmax[1]))
    np.testing.assert_array_equal(y[-1], np.float32(1.0 if softmax[0] is None else softmax[0]))
    if np.isnan(softmax[1]):
        assert np.isnan(log_y).all()
    else:
        assert log_y[-1] == 0
        assert (log_y[:-1] < -80).all()
    np.testing.assert_array_equal(total, np.float32(0.0 if logsumexp is None else logsumexp))


def test_equal_huge_and_tiny_elements() -> None:
    for value in (BIG, -BIG, 1e-45, 0.0):
        np.testing.assert_array_equal(ops.softmax(np.full((1, 64), value, np.float32)), np.float32(1 / 64))


def test_nan_stays_in_its_row() -> None:
    x = rows(RowsCase(3, 100))
    x[1, 57] = np.nan
    for name in NAMES:
        got = getattr(ops, name)(x)
        assert np.isnan(got[1]).all()
        assert np.isfinite(got[[0, 2]]).all()


# ---- topk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [*range(1, 33), 61, 257, 1000, 5003, 49152])
def test_topk(n: int) -> None:
    rng = np.random.default_rng(n)
    few = rng.integers(-3, 4, (2, n)).astype(np.float32)  # ties everywhere
    falling = np.sort(rng.standard_normal((1, n)).astype(np.float32))[:, ::-1]
    for x in (rng.standard_normal((3, n)).astype(np.float32), few, falling, falling[:, ::-1]):
        for k in sorted({0, 1, min(n, 7), n // 2, n}):
            values, ids = ops.topk(x, k)
            assert ids.dtype == np.int64
            np.testing.assert_array_equal(ids, topk_ids(x, k))
            np.testing.assert_array_equal(values, np.take_along_axis(x, ids, -1))


def test_topk_special_values() -> None:
    x = np.array([0.0, NAN, -0.0, INF, -INF, NAN, 0.0], np.float32)
    values, ids = ops.topk(x, 7)
    assert ids.tolist() == [1, 5, 3, 0, 2, 6, 4]
    np.testing.assert_array_equal(bits(values), bits(x[ids]))
    assert ops.topk(np.full(5000, NAN, np.float32), 3)[1].tolist() == [0, 1, 2]
    assert ops.topk(np.full(5000, -INF, np.float32), 3)[1].tolist() == [0, 1, 2]


def test_topk_along_an_axis() -> None:
    x = rows(RowsCase(30, 11)).reshape(5, 6, 11)
    values, ids = ops.topk(x, 2, axis=1)
    assert values.shape == ids.shape == (5, 2, 11)
    np.testing.assert_array_equal(np.moveaxis(ids, 1, -1), topk_ids(np.moveaxis(x, 1, -1), 2))


# ---- what is refused -----------------------------------------------------------------------------

X, IDS = np.ones((2, 96), np.float32), np.zeros((2, 1), np.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.softmax(X.astype(np.float64)), TypeError, "softmax: x is float64, wanted float32"),
        (lambda: ops.softmax([1.0]), TypeError, "softmax: x is a list, wanted an array of float32"),
        (lambda: ops.softmax(X, axis=2), ValueError, "softmax: axis is 2, x has 2 axes"),
        (lambda: ops.softmax(X, axis=0.0), TypeError, "softmax: axis is a float, wanted an int"),
        (lambda: ops.softmax(np.array(1, np.float32)), ValueError, "softmax: x has no axes"),
        (
            lambda: ops.softmax(X, out=X[:1]),
            ValueError,
            r"softmax: out has shape \(1, 96\), wanted \(2, 96\)",
        ),
        (lambda: ops.log_softmax(X, out=X.astype(np.float16)), TypeError, "log_softmax: out is float16"),
        (lambda: ops.softmax(X[:, :95], out=X[:, 1:]), ValueError, "softmax: out overlaps x without being"),
        (lambda: ops.logsumexp(X, 0, out=X[0]), ValueError, "logsumexp: out overlaps x, which is read while"),
        (lambda: ops.logsumexp(X, out=X[:, :1]), ValueError, r"out has shape \(2, 1\), wanted \(2,\)"),
        (lambda: ops.topk(X, 1, out=X), TypeError, r"topk: out is a ndarray, wanted a tuple \(values, ids\)"),
        (
            lambda: ops.topk(X, 1, out=(X[:, :1], IDS)),
            ValueError,
            r"topk: out\[0\] overlaps x, which is read",
        ),
        (
            lambda: ops.topk(X, 1, out=(IDS, IDS)),
            TypeError,
            r"topk: out\[0\] is int64, wanted an array of flo",
        ),
        (
            lambda: ops.topk(X, 2, out=(X[:, :2].copy(), IDS)),
            ValueError,
            r"out\[1\] has shape \(2, 1\), want",
        ),
        (lambda: ops.logsumexp(X, axis=-3), ValueError, "logsumexp: axis is -3, x has 2 axes"),
        (lambda: ops.topk(X, 97), ValueError, "topk: k is 97, axis 1 of x has 96 elements"),
        (lambda: ops.topk(X, -1), ValueError, "topk: k is -1, axis 1 of x has 96 elements"),
        (lambda: ops.topk(X, 1.0), TypeError, "topk: k is a float, wanted an int"),
    ],
)
def test_refuses(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_oracles_notice_an_error() -> None:
    """Bounds that admit a relative error of 1e-4 would test nothing."""
    x = rows(RowsCase(4, 640))
    for name in NAMES:
        with pytest.raises(AssertionError):
            ROWWISE[name](x).check(getattr(ops, name)(x) * np.float32(1 + 1e-4))
    assert cases.softmax(x).bound.max() < 1e-5
