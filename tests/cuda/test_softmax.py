from __future__ import annotations

import numpy as np
import pytest

from reference import U
from values import U_BF16, as_bf16, call, put, room, rows

TYPES = {"float32": 0, "bf16": 1}
# A row in a warp (up to 1024 columns), in a block's shared memory (32 KB), in global memory; a few columns on
# either side of each border, and counts that are no multiple of 16 bytes.
COLS = (1, 8, 31, 256, 260, 1000, 1024, 1025, 1032, 2047, 4096, 8192, 8200, 8201)


def softmax(cuda, x, kinds=("float32", "float32"), *, n_rows=None, logarithm=False, parts=False):
    n = len(x)
    bound = n_rows or n
    given = np.zeros((bound, x.shape[1]), np.float32)
    given[:n] = x
    out = room(cuda, *given.shape, kind=kinds[1])
    scratch = room(cuda, bound, 64, 2, kind="float32") if parts else None
    call(cuda, "softmax", bound, x=put(cuda, given, kinds[0]), out=out, parts=scratch, x_type=TYPES[kinds[0]],
         out_type=TYPES[kinds[1]], cols=x.shape[1], logarithm=logarithm, rows=rows(cuda, n))  # fmt: skip
    assert out.is_untouched(n)
    return out.numpy()[:n]


def check(got, x, kind="float32", logarithm=False):
    """Errors of x - max and of its product with log2(e) are relative: 3 |x - max| U of the exponential.

    The exponential adds 2^-22, the sum at most one rounding for each 16 bytes of a thread and 10 more, the
    quotient 2. The sum has the errors of its terms, weighted by p. Numbers below 2^-126 may be 0.
    """
    x = x.astype(np.float64)
    y = x - x.max(axis=-1, keepdims=True)
    with np.errstate(under="ignore"):
        p = np.exp(y)
        total = p.sum(axis=-1, keepdims=True)
        p /= total
        shift = (p * -y).sum(axis=-1, keepdims=True)
    relative = (4 * np.abs(np.maximum(y, -104)) + 4 * shift + x.shape[-1] / 32 + 60) * U
    if logarithm:
        wanted = y - np.log(total)
        bound = relative.max(axis=-1, keepdims=True) * 0 + (4 * shift + x.shape[-1] / 32 + 60) * U
        bound = bound + (np.abs(y) + np.abs(wanted) + 8 * np.log(total)) * U
    else:
        wanted, bound = p, relative * p + 2.0**-126
    if kind == "bf16":
        bound = bound * (1 + U_BF16) + U_BF16 * np.abs(wanted)
    np.testing.assert_array_less(np.abs(got - wanted), bound + 1e-45)


@pytest.mark.parametrize("cols", COLS)
def test_close_to_float64(cuda, everywhere, cols):
    rng = np.random.default_rng(cols)
    x = (rng.standard_normal((5, cols)) * np.array([[0.1], [1], [5], [30], [1]])).astype(np.float32)
    check(everywhere(lambda: softmax(cuda, x, n_rows=7)), x)


@pytest.mark.parametrize("kinds", [("float32", "bf16"), ("bf16", "float32"), ("bf16", "bf16")], ids="-".join)
@pytest.mark.parametrize("cols", [7, 96, 1024, 3000, 3001, 16392])
def test_types(cuda, everywhere, cols, kinds):
    x = np.random.default_rng(cols).standard_normal((3, cols)).astype(np.float32) * 3
    x = as_bf16(x) if kinds[0] == "bf16" else x
    check(everywhere(lambda: softmax(cuda, x, kinds)), x, kinds[1])


@pytest.mark.parametrize("cols", [8, 1000, 5000, 9001])
def test_logarithm(cuda, everywhere, cols):
    x = np.random.default_rng(cols).standard_normal((3, cols)).astype(np.float32) * 10
    check(everywhere(lambda: softmax(cuda, x, logarithm=True)), x, logarithm=True)


@pytest.mark.parametrize("cols", [12000, 33001, 50000])
def test_rows_in_parts(cuda, everywhere, cols):
    """Few long rows are shared by blocks; 4 multiprocessors are to have 8 of them."""
    x = np.random.default_rng(cols).standard_normal((2, cols)).astype(np.float32) * 4
    check(everywhere(lambda: softmax(cuda, x, parts=True)), x)


@pytest.mark.parametrize("n_rows", [1, 4, 5, 9])
def test_rows_do_not_see_each_other(cuda, everywhere, n_rows):
    x = np.random.default_rng(0).standard_normal((9, 300)).astype(np.float32)
    x[3, 7] = np.nan
    whole = softmax(cuda, x)
    np.testing.assert_array_equal(everywhere(lambda: softmax(cuda, x[:n_rows])), whole[:n_rows])
    assert np.isnan(whole[3]).all()
    assert np.isfinite(np.delete(whole, 3, axis=0)).all()


INF, NAN, BIG = np.inf, np.nan, np.float32(3.4e38)


@pytest.mark.parametrize("cols", [2, 40, 5000, 9000, 20000])
@pytest.mark.parametrize(
    ("last", "others", "wanted"),
    [
        (0.0, -INF, (1.0, 0.0)),
        (-INF, -INF, (NAN, NAN)),
        (INF, 0.0, (NAN, NAN)),
        (NAN, 0.0, (NAN, NAN)),
        (NAN, -INF, (NAN, NAN)),
        (BIG, -BIG, (1.0, 0.0)),
        (0.0, -200.0, (1.0, 0.0)),
    ],
)
def test_special_values(cuda, cols, last, others, wanted):
    x = np.full((1, cols), others, np.float32)
    x[0, -1] = last
    for parts in (False, True):
        y = softmax(cuda, x, parts=parts)[0]
        assert y[-1] == wanted[0] or (np.isnan(y[-1]) and np.isnan(wanted[0]))
        np.testing.assert_array_equal(y[:-1], np.float32(wanted[1]))
        log_y = softmax(cuda, x, parts=parts, logarithm=True)[0]
        if np.isnan(wanted[1]):
            assert np.isnan(log_y).all()
        else:
            assert log_y[-1] == 0
            assert (log_y[:-1] < -80).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cols": 0}, "softmax: cols is 0, wanted a positive multiple of 1"),
        ({"x": None}, "softmax: x is missing"),
        ({"out_type": 2}, r"softmax: a type is 2, wanted 0 \(float32\) or 1 \(bf16\)"),
    ],
)
def test_refuses(fibers, change, message):
    cuda = fibers
    good = {"x": put(cuda, np.zeros((1, 8)), "float32").array, "out": room(cuda, 1, 8, kind="float32").array,
            "x_type": 0, "out_type": 0, "cols": 8, "rows": rows(cuda, 1)}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        cuda.ops.softmax({"n_tokens": 1}, **(good | change))
