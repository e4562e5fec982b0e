"""`rope` and its frequencies against transformers."""

from __future__ import annotations

import numpy as np
import pytest

from cases import RowsCase
from cases_rows import rows
from lanner import ops

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

SCALINGS: dict[str, tuple[dict, dict]] = {
    "default": ({}, {}),
    "linear": ({}, {}),
    "yarn": ({"original_length": 4096}, {"original_max_position_embeddings": 4096}),
    "llama3": (
        {"original_length": 8192},
        {"original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
}
"""Options of rope_frequencies, and the parameters by which transformers knows them."""


def config_of(scaling: str, head_dim: int = 128):
    parameters = {"rope_type": scaling, "rope_theta": 500000.0, **SCALINGS[scaling][1]}
    if scaling != "default":
        parameters["factor"] = 8.0
    return transformers.LlamaConfig(
        hidden_size=8 * head_dim,
        num_attention_heads=8,
        max_position_embeddings=32768,
        rope_parameters=parameters,
    )


def frequencies_of(scaling: str, head_dim: int) -> np.ndarray:
    if scaling == "default":
        return ops.rope_frequencies(head_dim, 500000.0)
    return ops.rope_frequencies(head_dim, 500000.0, scaling=scaling, factor=8.0, **SCALINGS[scaling][0])


@pytest.mark.parametrize("scaling", ["linear", "yarn", "llama3"])
def test_frequencies_are_those_of_transformers(scaling: str) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    wanted, magnitude = ROPE_INIT_FUNCTIONS[scaling](config_of(scaling), torch.device("cpu"))
    np.testing.assert_allclose(frequencies_of(scaling, 128), wanted.numpy(), rtol=2e-6)
    assert magnitude == pytest.approx(0.1 * np.log(8) + 1 if scaling == "yarn" else 1.0)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_rotation_is_that_of_llama(scaling: str, head_dim: int) -> None:
    """Its float32 angles are off by 2^-24 of the position, which limits the comparison."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    x = rows(RowsCase(2 * 4 * 9, head_dim)).reshape(2, 4, 9, head_dim)
    positions = np.arange(9) + 1000
    t = torch.from_numpy(x)
    cos, sin = LlamaRotaryEmbedding(config_of(scaling, head_dim))(t, torch.from_numpy(positions)[None])
    wanted, _ = apply_rotary_pos_emb(t, t, cos, sin)
    magnitude = 0.1 * np.log(8) + 1 if scaling == "yarn" else 1.0
    got = ops.rope(x, positions, inv_freq=frequencies_of(scaling, head_dim), magnitude=magnitude)
    np.testing.assert_allclose(got, wanted.numpy(), atol=1008 * 2.0**-22 * np.abs(x).max())


@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_interleaved_pairs_are_those_of_gptj(head_dim: int) -> None:
    """transformers' other pairing: columns 2i and 2i + 1, and only the first of them turn."""
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb

    turning = head_dim // 2
    x = rows(RowsCase(2 * 9 * 4, head_dim)).reshape(2, 9, 4, head_dim)
    positions = np.arange(9) + 100
    angles = torch.from_numpy(positions[:, None] * ops.rope_frequencies(turning))[None]
    t = torch.from_numpy(x)
    turned = apply_rotary_pos_emb(t[..., :turning], angles.sin().float(), angles.cos().float())
    got = ops.rope(x, positions[:, None], pairing="interleaved", dims=turning)
    np.testing.assert_allclose(got[..., :turning], turned.numpy(), atol=2e-6)
    np.testing.assert_array_equal(got[..., turning:], x[..., turning:])
