"""lanner.ops with device="cuda", against float64 on inputs that bfloat16 holds."""

from __future__ import annotations

import numpy as np
import pytest

from lanner import ops
from lanner.cuda import pack

RNG = np.random.default_rng(2)
BF16 = 2.0**-8  # rounding a result to bfloat16, and the few roundings of float32 before


pytestmark = pytest.mark.usefixtures("gpu")


def normal(*shape: int) -> np.ndarray:
    """Numbers that bfloat16 holds."""
    return pack.from_bf16(pack.to_bf16(RNG.standard_normal(shape).astype(np.float32)))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def test_softmax_along_any_axis() -> None:
    x = normal(3, 40, 5)
    exact = np.exp(x.astype(np.float64))
    for axis in (1, -1):
        got = ops.softmax(x, axis, device="cuda")
        np.testing.assert_allclose(got, exact / exact.sum(axis=axis, keepdims=True), rtol=2e-5)


def test_rms_norm() -> None:
    x, w = normal(2, 3, 64), normal(64)
    wide = x.astype(np.float64)
    exact = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(ops.rms_norm(x, eps=1e-5, device="cuda"), exact, rtol=BF16)
    out = np.empty_like(x)
    assert ops.rms_norm(x, w, eps=1e-5, out=out, device="cuda") is out
    np.testing.assert_allclose(out, exact * w, rtol=BF16)


def test_silu_and_swiglu() -> None:
    gate, up = normal(7, 5), normal(7, 5)
    np.testing.assert_allclose(ops.silu(gate, device="cuda"), silu(gate.astype(np.float64)), rtol=BF16)
    exact = silu(gate.astype(np.float64)) * up
    np.testing.assert_allclose(ops.swiglu(gate, up, device="cuda"), exact, rtol=BF16)


@pytest.mark.parametrize("n_rows", [1, 7, 40])
def test_matmul_of_arrays(n_rows: int) -> None:
    x, w, bias = normal(n_rows, 72), normal(72, 30), normal(30)
    exact = x.astype(np.float64) @ w + bias
    got = ops.matmul(x, w, bias=bias, device="cuda")
    np.testing.assert_allclose(got, exact, atol=1e-4)


@pytest.mark.parametrize("format", ["q4_0", "q4_1", "q8_0", "bf16"])
def test_matmul_of_packed_weights(format: str) -> None:
    x, w = normal(2, 3, 128), ops.pack(normal(20, 128), format)
    values = w.unpack().astype(np.float64)
    off = np.abs(x.astype(np.float64)) @ np.abs(values).T * 2.0**-9 + 1e-4
    got = ops.matmul(x, w, device="cuda")
    assert (np.abs(got - x.astype(np.float64) @ values.T) <= off).all()


@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (True, 20)])
def test_sdpa(causal: bool, window: int | None) -> None:
    q, k, v = normal(2, 4, 9, 64), normal(2, 2, 45, 64), normal(2, 2, 45, 64)
    got = ops.sdpa(q, k, v, causal=causal, window=window, device="cuda")
    wanted = ops.sdpa(q, k, v, causal=causal, window=window)
    np.testing.assert_allclose(got, wanted, atol=4 * BF16)


def test_what_a_gpu_does_not_do_is_refused() -> None:
    x = normal(1, 1, 4, 64)
    with pytest.raises(ValueError, match="softmax: device is 'tpu', wanted 'cpu' or 'cuda'"):
        ops.softmax(x, device="tpu")
    with pytest.raises(ValueError, match="sdpa: mask and return_weights have no kernel"):
        ops.sdpa(x, x, x, mask=np.ones((4, 4), bool), device="cuda")
    with pytest.raises(ValueError, match="sdpa: 4 queries and 2 keys"):
        ops.sdpa(x, x[:, :, :2], x[:, :, :2], device="cuda")
