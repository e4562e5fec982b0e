"""Operations that make each element of those of others, against float64."""

from __future__ import annotations

import numpy as np
import pytest

import reference
from reference import U
from rowwise_calls import near, plain, run
from values import U_BF16, as_bf16, put, rows, to_bf16


@pytest.mark.parametrize("cols", [8, 104, 4096])
def test_add(cuda, everywhere, cols):
    rng = np.random.default_rng(cols)
    a, b = as_bf16(rng.standard_normal((2, 5, cols)).astype(np.float32))
    given = {"a": (a, "bf16", True), "b": (b, "bf16", True), "cols": plain(cols)}
    got = everywhere(lambda: run(cuda, "add", a.shape, **given))
    np.testing.assert_array_equal(got, as_bf16(a + b))
    wanted = a + 0.22 * b.astype(np.float64)
    near(run(cuda, "add", a.shape, **given, factor=plain(0.22)), wanted, 0, 4 * U * (np.abs(a) + np.abs(b)))


@pytest.mark.parametrize("cols", [8, 104, 4096])
def test_add_positions(cuda, everywhere, cols):
    rng = np.random.default_rng(cols)
    x = as_bf16(rng.standard_normal((5, cols)).astype(np.float32))
    table = rng.standard_normal((12, cols)).astype(np.float32)
    positions = np.array([0, 9, 3, 3, 1], np.int32)
    got = everywhere(
        lambda: run(
            cuda,
            "add_positions",
            x.shape,
            x=(x, "bf16", True),
            table=(table, "float32", False),
            positions=(positions, "int32", True),
            cols=plain(cols),
            offset=plain(2),
        )
    )
    np.testing.assert_array_equal(got, as_bf16(x + table[positions + 2]))


TYPES = [("float32", 0), ("bf16", 1)]


@pytest.mark.parametrize(("kind", "number"), TYPES)
def test_scale_and_softcap(cuda, everywhere, kind, number):
    x = np.random.default_rng(0).standard_normal((5, 264)).astype(np.float32) * np.float32(20)
    x[0, :6] = (0, 1e-6, -1e-3, np.inf, -np.inf, 3e38)
    x = as_bf16(x) if kind == "bf16" else x
    given = {"x": (x, kind, True), "type": plain(number), "cols": plain(264), "kind": kind}
    rounding = U_BF16 if kind == "bf16" else 0
    scaled = everywhere(lambda: run(cuda, "scale", x.shape, **given, factor=plain(0.3)))
    wanted = np.float64(np.float32(0.3)) * x
    np.testing.assert_allclose(scaled, wanted, rtol=(U + rounding) * 1.01, atol=0)
    capped = everywhere(lambda: run(cuda, "softcap", x.shape, **given, cap=plain(30.0)))
    wanted = reference.softcap(x.astype(np.float64), 30)
    # Beyond a quarter of the cap 1 - 2 / (exp + 1) is made of numbers up to 2 and more than 0.24 itself.
    assert (np.abs(capped - wanted) <= (32 * U + rounding) * 1.01 * np.abs(wanted)).all()


def gelu_tanh(x):
    """1 + tanh(u) without cancellation far below 0."""
    return x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = reference.ACTIVATIONS | {"gelu_tanh": gelu_tanh}
NAMES = ("silu", "gelu", "gelu_tanh", "relu", "tanh", "sigmoid")
EDGES = (0, -0.0, 1e-30, -1e-30, 5, -5, 20, -20, 88, -88, 1e4, -1e4, 3e38, -3e38, np.inf, -np.inf)


@pytest.mark.parametrize("name", NAMES)
def test_activate(cuda, everywhere, name):
    """bf16 has every tenth of a unit of what the functions are accurate to."""
    x = np.concatenate([np.random.default_rng(1).standard_normal(496) * 4, EDGES]).astype(np.float32)
    x = as_bf16(x.reshape(2, 256))
    got = everywhere(
        lambda: run(
            cuda,
            "activate",
            x.shape,
            x=(x, "bf16", True),
            cols=plain(256),
            block=plain(0),
            function=plain(NAMES.index(name)),
        )
    )
    with np.errstate(all="ignore"):
        wanted = ACTIVATIONS[name](x.astype(np.float64))
    wanted = np.where(np.isneginf(x) & np.isnan(wanted), 0, wanted)
    infinite = np.isposinf(wanted) | (wanted > 3.38e38)
    assert (got[infinite] >= 3.3e38).all()
    # -1e4 and below: zero, as the exponential is; the tail of gelu is relative to x^2 / 2 roundings.
    near(got[~infinite], wanted[~infinite], (np.minimum(np.abs(x), 100)[~infinite] ** 2 + 64) * U, 2e-36)


def test_activate_keeps_nan(cuda):
    x = np.full((1, 8), np.nan, np.float32)
    for i in range(len(NAMES)):
        got = run(
            cuda, "activate", (1, 8), x=(x, "bf16", True), cols=plain(8), block=plain(0), function=plain(i)
        )
        assert np.isnan(got).all()


@pytest.mark.parametrize(("cols", "block"), [(8, 8), (64, 8), (64, 64), (2064, 16), (2064, 2064)])
@pytest.mark.parametrize("name", ["silu", "gelu_tanh"])
def test_gated(cuda, everywhere, cols, block, name):
    x = as_bf16(
        np.random.default_rng(cols).standard_normal((3, cols // block, 2, block)).astype(np.float32) * 3
    )
    got = everywhere(
        lambda: run(
            cuda,
            "activate",
            (3, cols),
            x=(x.reshape(3, -1), "bf16", True),
            cols=plain(cols),
            block=plain(block),
            function=plain(NAMES.index(name)),
        )
    )
    gate, up = (x[:, :, i].astype(np.float64).reshape(3, cols) for i in (0, 1))
    near(got, ACTIVATIONS[name](gate) * up, (gate**2 + 64) * U, 2e-36 * np.abs(up))


@pytest.mark.parametrize(
    ("op", "change", "message"),
    [
        ("add", {"cols": 12}, "add: cols is 12, wanted a positive multiple of 8"),
        ("scale", {"cols": 6, "type": 0, "factor": 1.0}, "scale: cols is 6, wanted a positive multiple of 4"),
        ("scale", {"type": 1, "factor": np.inf}, "scale: factor is inf, wanted a finite number"),
        ("softcap", {"type": 0, "cap": 0.0}, "softcap: cap is 0, wanted a positive number"),
        ("activate", {"function": 6}, "activate: function is 6, wanted 0 to 5"),
        (
            "activate",
            {"function": 0, "block": 24},
            "block is 24, wanted 0 or a multiple of 8 that divides 16",
        ),
        ("rms_norm", {"eps": -1.0}, "rms_norm: eps is -1, wanted a number that is not negative"),
        ("rms_norm", {"cols": 16392}, "rms_norm: cols is 16392, wanted at most 16384"),
        ("rms_norm", {"x": None}, "rms_norm: x is missing"),
        ("layer_norm", {"eps": 1e-5}, "layer_norm: weight is missing"),
        ("gather_rows", {}, "gather_rows: output_rows is missing"),
    ],
)
def test_refuses(fibers, op, change, message):
    value = put(fibers, np.zeros((2, 16)), "bf16").array
    good = {"cols": 16, "rows": rows(fibers, 2), "out": value}
    good |= {"a": value, "b": value} if op == "add" else {"x": value}
    with pytest.raises(ValueError, match=message):
        getattr(fibers.ops, op)({"n_tokens": 2}, **(good | change))


def test_bf16_of_the_tests_is_that_of_numpy_halves():
    x = np.array([1.0, 1.00390625, 1.01171875, -2.5e-40, np.inf], np.float32)
    np.testing.assert_array_equal(to_bf16(x) & 0xFFFF, [0x3F80, 0x3F80, 0x3F82, 0x8003, 0x7F80])
