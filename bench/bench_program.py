"""Operations at shapes of real models, beside the limits of the machine: pytest bench --benchmark-only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lanner import _core
from lanner.sampling import SamplingParams
from reference import FORMATS
from rings import Limits, activations, filled_cache, matmul_input, n_copies, one_sequence, packed, ring

Measure = Callable[..., None]

TOKENS = (1, 4, 33, 512)
"""Decode, a few sequences, a short prompt, a full step."""

FORMATS_OF_32 = [name for name in FORMATS if name != "iq4_xs" and not name.endswith("_k")]
"""Formats whose blocks divide these shapes; those of 256 values do not occur in them."""

SHAPES = {"smollm2.gate_up": (3072, 576), "smollm2.down": (576, 1536)}
"""(N, K) of the matmuls that take most of the time of SmolLM2."""

OTHER_SHAPES = {"gemma3.gate_up": (4096, 640, "q5_0"), "smollm2.head": (49152, 576, "q8_0")}
"""(N, K) in the format that a real file stores them in."""

HEADS = {"smollm2": (9, 3, 64), "gemma3": (4, 1, 256), "qwen2.5": (14, 2, 64)}
"""(n_heads, n_kv_heads, head_dim)."""

SAMPLING = {
    "greedy": {},
    "temperature": {"temperature": 1.0},
    "top_k": {"temperature": 1.0, "top_k": 40},
    "top_p": {"temperature": 1.0, "top_p": 0.95},
    "min_p": {"temperature": 1.0, "min_p": 0.05},
    "typical_p": {"temperature": 1.0, "typical_p": 0.95},
    "all": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "typical_p": 0.95},
}
"""The settings that people use."""

SPREADS = {"flat": 1.0, "peaked": 4.0}
"""Standard deviation of logits: thousands of tokens share the probability, or a handful."""

SPANS = {"prefill": (512, 512), "prefill_late": (4096, 512), "decode": (512, 1), "decode_late": (4096, 1)}
"""(cached positions, of which the last are queries)."""


def run_linear(measure: Measure, limits: Limits, shape: tuple[int, int], fmt: str, n_tokens: int) -> None:
    n, k = shape
    weights = packed(fmt, n, k, 1, limits.n_threads)
    # From 33 tokens on, arithmetic is the limit, not memory: one copy is enough.
    weights += packed(fmt, n, k, n_copies(weights[0].nbytes) - 1 if n_tokens < 33 else 0, limits.n_threads)
    values = matmul_input(weights[0], activations(n_tokens, k)) | {"out": np.zeros((n_tokens, n), np.float32)}
    calls = [{"weight": weight} for weight in weights]
    measure(
        ring("linear", one_sequence(n_tokens, n_tokens), limits.n_threads, values, calls),
        n_bytes=sum(weight.nbytes for weight in weights) if n_tokens < 33 else 0,
        n_macs=n * k * n_tokens * len(weights),
    )


@pytest.mark.parametrize("n_tokens", TOKENS)
@pytest.mark.parametrize("fmt", FORMATS_OF_32)
@pytest.mark.parametrize("name", SHAPES)
def test_linear(measure: Measure, limits: Limits, name: str, fmt: str, n_tokens: int) -> None:
    run_linear(measure, limits, SHAPES[name], fmt, n_tokens)


@pytest.mark.parametrize("n_tokens", [1, 64])
@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_linear_of_files(measure: Measure, limits: Limits, name: str, n_tokens: int) -> None:
    n, k, fmt = OTHER_SHAPES[name]
    run_linear(measure, limits, (n, k), fmt, n_tokens)


@pytest.mark.parametrize("n_tokens", TOKENS)
@pytest.mark.parametrize("cols", [576, 640, 896])
def test_rms_norm(measure: Measure, limits: Limits, cols: int, n_tokens: int) -> None:
    values = {"x": activations(n_tokens, cols), "out": np.zeros((n_tokens, cols), np.float32)}
    calls = [{"weight": np.ones(cols, np.float32), "eps": 1e-5}] * 64
    run = ring("rms_norm", one_sequence(n_tokens, n_tokens), limits.n_threads, values, calls)
    measure(run, n_macs=2 * cols * n_tokens * len(calls))


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("model", HEADS)
def test_attention(measure: Measure, limits: Limits, model: str, span: str) -> None:
    (n_heads, n_kv_heads, head_dim), (n_positions, n_tokens) = HEADS[model], SPANS[span]
    layer_bytes = 2 * n_positions * n_kv_heads * head_dim * 2  # keys and values, f16
    n_layers = n_copies(layer_bytes) if n_tokens == 1 else 1
    cols = n_heads * head_dim
    values = {"q": activations(n_tokens, cols), "out": np.zeros((n_tokens, cols), np.float32)}
    cache = filled_cache(n_layers, n_positions, n_kv_heads, head_dim)
    same = {"cache": cache, "n_heads": n_heads, "scale": head_dim**-0.5}
    n_pairs = n_tokens * (n_positions - (n_tokens - 1) / 2)
    measure(
        ring(
            "attention",
            one_sequence(n_tokens, n_positions),
            limits.n_threads,
            values,
            [{**same, "layer": layer} for layer in range(n_layers)],
        ),
        n_bytes=layer_bytes * n_layers if n_tokens == 1 else 0,
        n_macs=2 * n_pairs * cols * n_layers,
    )


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("settings", SAMPLING)
def test_sample(measure: Measure, settings: str, spread: str) -> None:
    """One row of the largest vocabulary, by one thread as in a step."""
    row = _core.LogitsRow(262144)
    logits = np.random.default_rng(1).standard_normal((1, 262144)).astype(np.float32) * SPREADS[spread]
    if spread == "peaked":
        logits[0, 7] = logits.max() + 4
    row.copy(logits, 0)
    how = SamplingParams(**SAMPLING[settings]).row
    measure(lambda: row.sample(how, 0.5), n_bytes=0)
