"""`sdpa` against PyTorch's, which aligns a causal mask at the top left: an explicit mask says where."""

from __future__ import annotations

import numpy as np
import pytest

from cases_attention import SDPA, SdpaCase, answer
from lanner import ops

torch = pytest.importorskip("torch")
attend = torch.nn.functional.scaled_dot_product_attention
pytestmark = pytest.mark.oracle

# A soft cap is none of PyTorch's, and its rows without a valid key are its own.
COMPARABLE = [c for c in SDPA if c.softcap is None and c.visible.any(axis=1).all()]


def bias_of(case: SdpaCase) -> np.ndarray:
    """What is added to the scores, 0 or -inf by position and mask, in four axes."""
    bias = np.where(case.visible, 0, -np.inf).astype(np.float32)[None, None]
    mask = case.mask_array
    if mask is not None:
        bias = bias + (np.where(mask, 0, -np.inf).astype(np.float32) if mask.dtype == np.bool_ else mask)
    return np.broadcast_to(bias, (*bias.shape[:-1], case.kv_len)).copy()


@pytest.mark.parametrize("case", COMPARABLE, ids=str)
def test_agrees_with_pytorch(case: SdpaCase) -> None:
    q, k, v = (torch.from_numpy(x) for x in case.arrays)
    bias, exact = bias_of(case), answer(case)
    wanted = attend(q, k, v, torch.from_numpy(bias).to(q.dtype), scale=case.scale, enable_gqa=True).numpy()
    out, weights = ops.sdpa(*case.arrays, **case.options, return_weights=True)
    some = np.isfinite(np.broadcast_to(bias, exact.weights.shape)).any(axis=-1)
    # In float16, PyTorch rounds weights and sums of its own on the way.
    bound = 2 * exact.printed + (2.0**-9 * np.abs(v.numpy()).max() if case.dtype == "float16" else 0)
    assert (np.abs(out - wanted)[some] <= np.broadcast_to(bound, out.shape)[some]).all()
    scores = q.float() @ k.float().repeat_interleave(case.heads // case.kv_heads, 1).swapaxes(2, 3)
    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    by_hand = torch.softmax(scores * scale + torch.from_numpy(bias), -1).numpy()
    assert (np.abs(weights - by_hand)[some] <= 2 * exact.printed_weights[some]).all()


@pytest.mark.parametrize("case", [c for c in SDPA if c.softcap and not c.window], ids=str)
def test_soft_caps_by_hand(case: SdpaCase) -> None:
    q, k, v = (torch.from_numpy(x).float() for x in case.arrays)
    k, v = (x.repeat_interleave(case.heads // case.kv_heads, 1) for x in (k, v))
    scores = q @ k.swapaxes(2, 3) * case.head_dim**-0.5
    weights = torch.softmax(
        case.softcap * torch.tanh(scores / case.softcap) + torch.from_numpy(bias_of(case)), -1
    )
    wanted = (torch.nan_to_num(weights) @ v).numpy()  # a row without a valid key is zeros
    assert (np.abs(ops.sdpa(*case.arrays, **case.options) - wanted) <= 2 * answer(case).printed).all()


@pytest.mark.parametrize("n", [1, 17, 128, 300])
def test_its_own_causal_mask_is_ours_where_lengths_agree(n: int) -> None:
    case = SdpaCase(4, 2, n, n, 64, causal=True, batch=2)
    wanted = attend(*(torch.from_numpy(x) for x in case.arrays), is_causal=True, enable_gqa=True).numpy()
    assert (np.abs(ops.sdpa(*case.arrays, causal=True) - wanted) <= 2 * answer(case).printed).all()
