"""`sdpa` against PyTorch's, which aligns a causal mask at the top left: an explicit mask says where."""

from __future__ import annotations

import numpy as np
import pytest

from cases_attention import SDPA, SdpaCase, answer
from lanner.ops._attention import sdpa

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle

# A soft cap is none of PyTorch's, and its rows without a valid key are its own.
COMPARABLE = [c for c in SDPA if c.softcap is None and c.dtype == "float32" and c.visible.any(axis=1).all()]


@pytest.mark.parametrize("case", COMPARABLE, ids=str)
def test_agrees_with_pytorch(case: SdpaCase) -> None:
    q, k, v = (torch.from_numpy(x) for x in case.arrays)
    bias = np.where(case.visible, 0, -np.inf).astype(np.float32)[None, None]
    mask = case.mask_array
    if mask is not None:
        bias = bias + (np.where(mask, 0, -np.inf).astype(np.float32) if mask.dtype == np.bool_ else mask)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.from_numpy(np.broadcast_to(bias, (*bias.shape[:-1], case.kv_len)).copy()),
        scale=case.scale, enable_gqa=True,
    ).numpy()  # fmt: skip
    out = sdpa(*case.arrays, **case.options)
    some = np.isfinite(np.broadcast_to(bias, answer(case).weights.shape)).any(axis=-1)
    bound = 2 * answer(case).printed
    assert (np.abs(out - wanted)[some] <= np.broadcast_to(bound, out.shape)[some]).all()
