"""Operations on rows as tests call them: with fewer rows than the host knows of."""

from __future__ import annotations

import numpy as np

from values import U_BF16, call, put, room, rows


def near(got, wanted, relative, absolute=0.0):
    """`relative` is the error before the result is rounded to bf16."""
    bound = (relative * (1 + U_BF16) + U_BF16) * np.abs(wanted) + absolute + 1e-40
    np.testing.assert_array_less(np.abs(got - wanted), bound)


def padded(x, n_rows):
    return np.concatenate([x, np.zeros((n_rows - len(x), *x.shape[1:]), x.dtype)])


def run(cuda, op, shape, n_rows=None, *, kind="bf16", **args):
    """out of an operation; the host knows of more rows than there are."""
    bound = n_rows or shape[0] + 3
    given = {
        name: put(cuda, padded(x, bound) if per_row else x, of) if of and x is not None else x
        for name, (x, of, per_row) in args.items()
    }
    out = room(cuda, bound, shape[1], kind=kind)
    call(cuda, op, bound, out=out, rows=rows(cuda, shape[0]), **given)
    assert out.is_untouched(shape[0])
    return out.numpy()[: shape[0]]


def plain(x):
    return x, "", False
