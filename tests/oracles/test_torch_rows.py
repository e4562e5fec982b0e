"""Row operations beside PyTorch's: what its users expect of shapes, ties, special values and formulas."""

from __future__ import annotations

import numpy as np
import pytest

from cases import RowsCase
from cases_rows import rows
from lanner import ops

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle


def close(got: np.ndarray, wanted: object, rtol: float = 2e-5, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(got, wanted.numpy(), rtol=rtol, atol=atol)


def batch(n: int = 896) -> tuple[np.ndarray, object]:
    x = rows(RowsCase(12, n), 3.0).reshape(3, 4, n)
    return x, torch.from_numpy(x)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_along_every_axis(axis: int) -> None:
    x, t = batch()
    close(ops.softmax(x, axis), torch.softmax(t, axis))
    close(ops.log_softmax(x, axis), torch.log_softmax(t, axis))
    close(ops.logsumexp(x, axis, keepdims=True), torch.logsumexp(t, axis, keepdim=True))


def test_special_values_of_softmax() -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[0, -inf], [-inf, -inf], [inf, 0], [nan, 0], [3e38, -3e38], [nan, inf]], np.float32)
    close(ops.softmax(x), torch.softmax(torch.from_numpy(x), -1))
    close(ops.log_softmax(x), torch.log_softmax(torch.from_numpy(x), -1))
    close(ops.logsumexp(x), torch.logsumexp(torch.from_numpy(x), -1))


def test_norms() -> None:
    x, t = batch()
    weight, bias = rows(RowsCase(2, 896))
    w, b = torch.from_numpy(weight), torch.from_numpy(bias)
    close(ops.rms_norm(x, weight, eps=1e-5), torch.nn.functional.rms_norm(t, (896,), w, 1e-5))
    close(ops.layer_norm(x, weight, bias), torch.nn.functional.layer_norm(t, (896,), w, b))


def test_activations() -> None:
    x, t = batch()
    functional = torch.nn.functional
    close(ops.silu(x), functional.silu(t))
    close(ops.gelu(x), functional.gelu(t))
    close(ops.gelu(x, "tanh"), functional.gelu(t, approximate="tanh"))
    close(ops.swiglu(x, x), functional.silu(t) * t)


def test_topk() -> None:
    x, t = batch()
    x[0, 0, 5] = np.nan
    for axis in (0, 1, 2):
        values, ids = ops.topk(x, 3, axis)
        wanted = torch.topk(t, 3, axis)
        close(values, wanted.values, 0, 0)
        np.testing.assert_array_equal(ids, wanted.indices.numpy())


@pytest.mark.parametrize(
    ("scaling", "options", "extra"),
    [
        ("linear", {}, {}),
        ("yarn", {"original_length": 4096}, {"original_max_position_embeddings": 4096}),
        (
            "llama3",
            {"original_length": 8192},
            {
                "original_max_position_embeddings": 8192,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
        ),
    ],
)
def test_frequencies_are_those_of_transformers(scaling: str, options: dict, extra: dict) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_type": scaling, "rope_theta": 500000.0, "factor": 8.0, **extra}
    config = transformers.LlamaConfig(
        hidden_size=1024, num_attention_heads=8, max_position_embeddings=32768, rope_parameters=parameters
    )
    wanted, magnitude = ROPE_INIT_FUNCTIONS[scaling](config, torch.device("cpu"))
    got = ops.rope_frequencies(128, 500000.0, scaling=scaling, factor=8.0, **options)
    np.testing.assert_allclose(got, wanted.numpy(), rtol=2e-6)
    assert magnitude == pytest.approx(0.1 * np.log(8) + 1 if scaling == "yarn" else 1.0)


def test_rotation_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    del transformers
    x = rows(RowsCase(2 * 4 * 9, 64)).reshape(2, 4, 9, 64)
    positions = np.arange(9) + 1000
    angles = torch.from_numpy(positions[:, None] * ops.rope_frequencies(64))
    table = torch.cat([angles, angles], -1)[None]
    t = torch.from_numpy(x)
    wanted, _ = apply_rotary_pos_emb(t, t, table.cos().float(), table.sin().float())
    close(ops.rope(x, positions), wanted)
