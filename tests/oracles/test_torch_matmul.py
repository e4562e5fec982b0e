"""`matmul` beside PyTorch's linear, with float32, float16 and bfloat16 weights."""

from __future__ import annotations

import numpy as np
import pytest

from cases_matmul import HEADS, MATMUL, MatmulCase, answer
from lanner import ops
from reference import FLOATS, dequantize, random_rows

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle

COMPARABLE = [c for c in MATMUL if c.fmt in FLOATS and c.values == "normal" and c.k and c.n]


def weight_of(case: MatmulCase) -> object:
    """(n, k) in PyTorch's own type of the format, from the same bytes, as float32."""
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[case.fmt]
    return torch.from_numpy(case.stored).view(dtype).float()


@pytest.mark.parametrize("case", COMPARABLE, ids=str)
def test_agrees_with_linear(case: MatmulCase) -> None:
    bias = None if case.bias_array is None else torch.from_numpy(case.bias_array)
    wanted = torch.nn.functional.linear(torch.from_numpy(case.x), weight_of(case), bias).numpy()
    got = ops.matmul(case.x, case.w, bias=case.bias_array)
    assert (np.abs(got - wanted) <= 2 * answer(case).bound).all()


def test_leading_axes_are_those_of_matmul() -> None:
    case = MatmulCase(24, 70, 33, bias=True)
    x = case.x.reshape(2, 3, 4, 70)
    wanted = torch.from_numpy(x) @ torch.from_numpy(case.w) + torch.from_numpy(case.bias_array)
    np.testing.assert_allclose(ops.matmul(x, case.w, bias=case.bias_array), wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["smollm2"])
def test_a_real_head_of_8_bits(name: str) -> None:
    """Against the dequantized weights: what is left is the rounding of x to 16 bits."""
    n, k, fmt = HEADS[name]
    stored = random_rows(fmt, n, k, np.random.default_rng(0))
    w = torch.from_numpy(dequantize(fmt, stored))
    x = MatmulCase(3, k, 1).x
    wanted = torch.nn.functional.linear(torch.from_numpy(x), w).numpy()
    step = np.abs(x).max() / 32767
    bound = step / 2 * w.abs().sum(dim=1).numpy() + 1e-5 * np.abs(wanted).max()
    assert (np.abs(ops.matmul(x, ops.pack(stored, fmt)) - wanted) <= bound).all()
