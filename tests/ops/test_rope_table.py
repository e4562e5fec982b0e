from __future__ import annotations

import numpy as np
import pytest
from harness import poisoned, rows_step, tokens

import reference
from cases import HEAD_DIMS
from lanner import _core


def rope_table(positions: np.ndarray, inv_freq: np.ndarray, **options: float) -> np.ndarray:
    step = rows_step(len(positions))
    step.positions[: len(positions)] = positions
    out = poisoned(len(positions), 2 * len(inv_freq))
    _core.ops.rope_table(step, inv_freq=inv_freq, out=tokens(out), **options)
    return out


@pytest.mark.parametrize("theta", [10000.0, 1e6])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_close_to_float64(head_dim: int, theta: float) -> None:
    # Computed in float64 and rounded once; the float64 error of a few 1e-16 is nothing beside that, except
    # next to a zero of the cosine, hence the absolute term.
    inv_freq = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    positions = np.array([0, 1, 2, 3, 100, 4095, 131071, 10**7], np.int32)
    wanted = reference.rope_table(positions, inv_freq)
    assert (
        np.abs(rope_table(positions, inv_freq) - wanted) <= reference.U * np.abs(wanted) * (1 + 1e-6) + 1e-15
    ).all()


@pytest.mark.parametrize("factor", [1.0, 0.1 * np.log(32) + 1, 1.19, 3e-39])
def test_factor_multiplies_before_the_rounding(factor: float) -> None:
    inv_freq = 10000.0 ** (-np.arange(0, 20, 2) / 20)
    positions = np.array([0, 1, 2, 100, 4095], np.int32)
    wanted = reference.rope_table(positions, inv_freq, factor)
    got = rope_table(positions, inv_freq, factor=factor)
    bound = reference.U * np.abs(wanted) * (1 + 1e-6) + 1e-15 * factor + 2.0**-149
    assert (np.abs(got - wanted) <= bound).all()
    if factor == 1:
        np.testing.assert_array_equal(got, rope_table(positions, inv_freq))


def test_rows_do_not_see_each_other() -> None:
    inv_freq = 10000.0 ** (-np.arange(0, 20, 2) / 20)
    positions = np.random.default_rng(0).integers(0, 9999, 40)
    whole = rope_table(positions, inv_freq)
    for n in range(1, 41):
        np.testing.assert_array_equal(rope_table(positions[-n:], inv_freq), whole[-n:])


def test_refuses() -> None:
    step, inv_freq = rows_step(2), np.ones(8)
    with pytest.raises(ValueError, match="rope_table: out has 8 columns, wanted 16"):
        _core.ops.rope_table(step, inv_freq=inv_freq, out=tokens(poisoned(2, 8)))
    with pytest.raises(ValueError, match="rope_table: inv_freq must be a contiguous array of float64"):
        _core.ops.rope_table(step, inv_freq=inv_freq.astype(np.float32), out=tokens(poisoned(2, 16)))
    for factor in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"rope_table: factor is .*, wanted a positive number"):
            _core.ops.rope_table(step, inv_freq=inv_freq, out=tokens(poisoned(2, 16)), factor=factor)
    with pytest.raises(TypeError, match="rope_table: inv_freq is missing"):
        _core.ops.rope_table(step, out=tokens(poisoned(2, 16)))
    with pytest.raises(TypeError, match=r"rope_table: unexpected argument among .*theta"):
        _core.ops.rope_table(step, inv_freq=inv_freq, out=tokens(poisoned(2, 16)), theta=1.0)
