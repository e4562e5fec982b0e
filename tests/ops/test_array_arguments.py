"""What all operations on arrays have in common: which arrays they take, and which outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lanner import ops

Operation = Callable[..., np.ndarray]
WEIGHT = np.linspace(-1, 1, 32 * 32, dtype=np.float32).reshape(32, 32)

OPERATIONS: dict[str, Operation] = {
    "silu": ops.silu,
    "gelu": ops.gelu,
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
    "rms_norm": ops.rms_norm,
    "layer_norm": ops.layer_norm,
    "rope": partial(ops.rope, positions=3),
}
"""From x to a result of x's shape, in place too."""

READING: dict[str, Operation] = {
    **OPERATIONS,
    "logsumexp": ops.logsumexp,
    "topk": lambda x: ops.topk(x, 3)[1],
    "swiglu": lambda x: ops.swiglu(x, x),
    "geglu": lambda x: ops.geglu(x, x),
    "matmul": partial(ops.matmul, w=WEIGHT),
    "quantize": partial(ops.quantize, format="q4_0"),
    "pack": lambda x: ops.pack(x).unpack(),
    "sdpa": lambda x: ops.sdpa(x, x, x),
}
"""From float32 x (n, 32)."""


class Other(np.ndarray):
    """As libraries derive them."""


def numbers() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((6, 32)).astype(np.float32)


@pytest.mark.parametrize("name", READING)
def test_subclasses_are_arrays_and_masked_ones_are_not(name: str, tmp_path: Path) -> None:
    x = numbers()
    wanted = READING[name](x)
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=x.shape)
    mapped[...] = x
    for given in (mapped, x.view(Other)):
        got = READING[name](given)
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, wanted)
    with pytest.raises(TypeError, match="is a MaskedArray, whose mask would be lost, wanted an array"):
        READING[name](np.ma.masked_array(x, x > 0))


@pytest.mark.parametrize("name", READING)
def test_other_types_are_refused_by_name(name: str) -> None:
    x = numbers()
    with pytest.raises(TypeError, match=rf"{name}: \w+ is float32 of the other byte order, wanted float32"):
        READING[name](x.astype(x.dtype.newbyteorder()))
    for given, called in ((x.astype(np.float64), "float64"), (x.astype(np.complex64), "complex64")):
        with pytest.raises(TypeError, match=rf"{name}: \w+ is {called}, wanted float32"):
            READING[name](given)
    with pytest.raises(TypeError, match=rf"{name}: \w+ is a list, wanted an array of float32"):
        READING[name](x.tolist())


@pytest.mark.parametrize("name", OPERATIONS)
def test_out_may_lie_between_the_elements_of_x(name: str) -> None:
    """Columns of one buffer share no element, though the one lies between the other's; rows likewise."""
    run, x = OPERATIONS[name], numbers()
    wanted = run(x)
    buffer = np.zeros((6, 96), np.float32)
    buffer[:, :32] = x
    for out in (buffer[:, 32:64], buffer[:, 64:], buffer[:, ::-1][:, :32]):
        run(buffer[:, :32], out=out)
        np.testing.assert_array_equal(out, wanted)
    woven = np.zeros((6, 64), np.float32)
    woven[:, ::2] = x
    run(woven[:, ::2], out=woven[:, 1::2])
    np.testing.assert_array_equal(woven[:, 1::2], wanted)
    np.testing.assert_array_equal(woven[:, ::2], x)


@pytest.mark.parametrize("name", OPERATIONS)
def test_out_may_be_x_by_another_name(name: str) -> None:
    run, x = OPERATIONS[name], numbers()
    for same in (lambda a: a, lambda a: a[:], lambda a: a.reshape(6, 32), lambda a: a[::-1][::-1]):
        memory = x.copy()
        run(memory, out=same(memory))
        np.testing.assert_array_equal(memory, run(x))
    row = x[0].copy()
    run(row[None], out=np.lib.stride_tricks.as_strided(row, (1, 32), (999, 4)))
    np.testing.assert_array_equal(row, run(x)[0])


@pytest.mark.parametrize("name", OPERATIONS)
def test_out_may_not_be_a_part_of_x(name: str) -> None:
    run, memory = OPERATIONS[name], np.zeros((7, 40), np.float32)
    x = memory[:6, :32]
    for out in (
        memory[:6, 1:33],
        memory[1:, :32],
        memory[:6, 31::-1],
        memory.reshape(-1)[:192].reshape(6, 32),
    ):
        with pytest.raises(ValueError, match=f"{name}: out overlaps x without being it"):
            run(x, out=out)
    assert not memory.any()


@pytest.mark.parametrize("name", OPERATIONS)
def test_out_is_refused_by_name(name: str) -> None:
    run, x = OPERATIONS[name], numbers()
    fixed = np.zeros_like(x)
    fixed.flags.writeable = False
    for out, error, message in (
        (fixed, ValueError, "out is read-only, wanted an array to write to"),
        (x[:5], ValueError, r"out has shape \(5, 32\), wanted \(6, 32\)"),
        (x.astype(np.float16), TypeError, "out is float16, wanted an array of float32"),
        (x.astype(">f4"), TypeError, "out is float32 of the other byte order, wanted an array of float32"),
        (x.tolist(), TypeError, "out is list, wanted an array of float32"),
        (np.ma.masked_array(x), TypeError, "out is a MaskedArray"),
    ):
        with pytest.raises(error, match=f"{name}: {message}"):
            run(x, out=out)


X = numbers()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.rms_norm(X[0], X[1], out=X[1]),
            "rms_norm: out overlaps weight, which is read while out",
        ),
        (lambda: ops.layer_norm(X[0], None, X[1], out=X[1]), "layer_norm: out overlaps bias, which is read"),
        (lambda: ops.swiglu(X[:3], X[3:], out=X[1:4]), "swiglu: out overlaps gate without being it"),
        (lambda: ops.quantize(X, "f32", out=X.view(np.uint8)), "quantize: out overlaps x, which is read"),
        (lambda: ops.dequantize(X.view("u1"), "f32", out=X), "dequantize: out overlaps data, which is read"),
        (lambda: ops.sdpa(X, X, X, mask=X[:, :6], out=X), "sdpa: out overlaps k, which is read while out"),
    ],
)
def test_out_may_not_be_what_is_read_later(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_numbers_beyond_float64_are_out_of_range(value: int) -> None:
    with pytest.raises(ValueError, match=r"rms_norm: eps is -?inf, wanted a finite number"):
        ops.rms_norm(X, eps=value)


def test_arrays_without_axes() -> None:
    """Elementwise operations take them, the others say so."""
    x = np.array(1.5, np.float32)
    for y in (ops.silu(x), ops.gelu(x), ops.swiglu(x, x), ops.geglu(x, x)):
        assert (y.shape, y.dtype) == ((), np.float32)
    out = np.zeros((), np.float32)
    assert ops.silu(x, out) is out
    assert out == ops.silu(x)
    for name in ("softmax", "log_softmax", "logsumexp", "rms_norm", "layer_norm"):
        with pytest.raises(ValueError, match=f"{name}: x has no axes, wanted at least 1"):
            getattr(ops, name)(x)
    with pytest.raises(ValueError, match=r"matmul: x has no axes, wanted \(..., K\)"):
        ops.matmul(x, WEIGHT)
    assert ops.logsumexp(X[0]).shape == ()
