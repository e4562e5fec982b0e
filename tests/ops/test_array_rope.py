from __future__ import annotations

import numpy as np
import pytest
from harness import assert_rows_alone, bits

import cases_rows as cases
from cases import RowsCase
from cases_rows import rows
from lanner import ops

PAIRINGS = ("half", "interleaved")


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("head_dim", [*range(2, 34, 2), 64, 80, 128, 256])
def test_head_dims(pairing: str, head_dim: int) -> None:
    x = rows(RowsCase(2 * 3 * 9, head_dim)).reshape(2, 3, 9, head_dim)
    positions = np.array([0, 1, 2, 3, 100, 4095, 131071, -5, 7])
    for theta in (10000.0, 500000.0):
        angles = positions[:, None] * theta ** (-np.arange(0, head_dim, 2) / head_dim)
        got = ops.rope(x, positions, theta=theta, pairing=pairing)
        cases.rope(x, angles, pairing).check(got)
        np.testing.assert_array_equal(got[:, :, 0], x[:, :, 0])


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("dims", [0, 2, 16, 20, 40])
def test_part_of_the_columns(pairing: str, dims: int) -> None:
    x, positions = rows(RowsCase(6, 41)), np.arange(6) * 3
    x[2, dims:] = np.nan
    got = ops.rope(x, positions, pairing=pairing, dims=dims)
    np.testing.assert_array_equal(bits(got[:, dims:]), bits(x[:, dims:]))
    if dims:
        angles = positions[:, None] * 10000.0 ** (-np.arange(0, dims, 2) / dims)
        cases.rope(x[:, :dims], angles, pairing).check(got[:, :dims])


def test_frequencies_and_magnitude_are_the_callers() -> None:
    x, inv_freq = rows(RowsCase(5, 12)), np.array([1.0, 0.25, 0.0, -0.5])
    angles = np.arange(5)[:, None] * inv_freq
    got = ops.rope(x, np.arange(5), inv_freq=inv_freq, magnitude=1.25)
    cases.rope(x[:, :8], angles, "half", 1.25).check(got[:, :8])
    np.testing.assert_array_equal(got[:, 8:], x[:, 8:])


def test_a_special_value_stays_in_its_pair() -> None:
    x = rows(RowsCase(1, 16))
    for value in (np.nan, np.inf):
        x[0, 3] = value
        for pairing, partner in (("half", 11), ("interleaved", 2)):
            finite = np.isfinite(ops.rope(x, [5], pairing=pairing)[0])
            assert sorted(np.flatnonzero(~finite)) == sorted([3, partner])


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_rows_threads_and_in_place(pairing: str) -> None:
    x = rows(RowsCase(40, 80))
    assert_rows_alone(lambda part: ops.rope(part, 12345, pairing=pairing), x)
    big, before = rows(RowsCase(3000, 64)), ops.get_threads()
    positions = np.arange(3000)
    try:
        ops.set_threads(1)
        wanted = ops.rope(big, positions, pairing=pairing)
        for n in (2, 3, 4):
            ops.set_threads(n)
            np.testing.assert_array_equal(bits(ops.rope(big, positions, pairing=pairing)), bits(wanted))
    finally:
        ops.set_threads(before)
    assert ops.rope(big, positions, pairing=pairing, out=big) is big
    np.testing.assert_array_equal(bits(big), bits(wanted))


# ---- frequencies ---------------------------------------------------------------------------------


def test_plain_linear_and_ntk_frequencies() -> None:
    plain = ops.rope_frequencies(64, 500000.0)
    np.testing.assert_allclose(plain, [500000.0 ** (-2 * i / 64) for i in range(32)], rtol=1e-15)
    np.testing.assert_array_equal(ops.rope_frequencies(64, 500000.0, scaling="linear", factor=4), plain / 4)
    ntk = ops.rope_frequencies(64, 500000.0, scaling="ntk", factor=4)
    assert ntk[0] == 1
    assert ntk[-1] == pytest.approx(plain[-1] / 4, rel=1e-14)


@pytest.mark.parametrize("scaling", ["yarn", "llama3"])
def test_blends_keep_fast_pairs_and_stretch_slow_ones(scaling: str) -> None:
    options = {"factor": 8.0, "original_length": 8192}
    plain = ops.rope_frequencies(128, 500000.0)
    ratio = plain / ops.rope_frequencies(128, 500000.0, scaling=scaling, **options)
    turns = 8192 * plain / (2 * np.pi)
    fast, slow = (40, 0.9) if scaling == "yarn" else (4.0, 1.0)
    np.testing.assert_allclose(ratio[turns > fast], 1, rtol=1e-15)
    np.testing.assert_allclose(ratio[turns < slow * 0.8], 8, rtol=1e-14)
    assert (np.diff(ratio) >= -1e-12).all()
    assert ((ratio > 1.01) & (ratio < 7.99)).sum() > 3


X = np.ones((2, 96), np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X.astype(np.float64)}, TypeError, "rope: x is float64, wanted float32"),
        ({"x": np.array(1, np.float32)}, ValueError, "rope: x has no axes"),
        ({"positions": [0.5, 1]}, TypeError, "rope: positions are float64, wanted integers"),
        (
            {"positions": [1, 2, 3]},
            ValueError,
            r"rope: positions have shape \(3,\), wanted one that broadcasts",
        ),
        ({"positions": 2**60}, ValueError, r"rope: a position is beyond 2\^53"),
        ({"dims": 97}, ValueError, "rope: dims is 97, wanted an even number up to the 96 columns"),
        ({"dims": 98}, ValueError, "rope: dims is 98, wanted an even number up to the 96 columns"),
        ({"dims": -2}, ValueError, "rope: dims is -2"),
        ({"inv_freq": np.ones(49)}, ValueError, "rope: dims is 98"),
        ({"inv_freq": np.ones(4), "dims": 10}, ValueError, "rope: inv_freq has 4 elements, wanted 5"),
        ({"inv_freq": [np.inf]}, ValueError, "rope: inv_freq is not a vector of finite numbers"),
        ({"pairing": "neox"}, ValueError, "rope: pairing is 'neox', wanted 'half' or 'interleaved'"),
        ({"magnitude": np.nan}, ValueError, "rope: magnitude is nan"),
        ({"magnitude": "2"}, TypeError, "rope: magnitude is a str, wanted a number"),
        ({"dims": 8.0}, TypeError, "rope: dims is a float, wanted an int"),
        ({"inv_freq": ["1"]}, TypeError, "rope: inv_freq is str32, wanted numbers"),
        ({"theta": 0.0}, ValueError, "rope_frequencies: theta is 0.0"),
        ({"out": X[:1]}, ValueError, "rope: out has shape"),
    ],
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.rope(**({"x": X, "positions": [0, 1]} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": 7}, "dims is 7, wanted a positive even number"),
        ({"dims": 2, "scaling": "ntk"}, "dims is 2, wanted a positive even number above 2 for ntk"),
        ({"scaling": "dynamic"}, "scaling is 'dynamic', wanted 'none', 'linear'"),
        ({"factor": 0.5}, "factor is 0.5, wanted a finite number, at least 1"),
        ({"theta": 1.0, "scaling": "yarn"}, "theta is 1.0, wanted a finite positive number above 1 for yarn"),
        ({"beta_slow": 40, "scaling": "yarn"}, "beta_slow is 40.0, beta_fast 32.0"),
        ({"low_freq_factor": 4.0, "scaling": "llama3"}, "low_freq_factor is 4.0, high_freq_factor 4.0"),
        ({"original_length": 0, "scaling": "llama3"}, "original_length is 0, wanted at least 1"),
    ],
)
def test_frequencies_refuse(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.rope_frequencies(**({"dims": 64} | change))
