"""Every operation, in every format, as a function of the rows of one array: to test one arithmetic on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from cases_rows import spread
from lanner import ops
from reference import FLOATS, FORMATS, fit, random_rows

N_ROWS = 40

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Rowwise:
    """run(x) has a row for every row of x (N_ROWS, n)."""

    run: Run
    x: np.ndarray


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return spread(np.random.default_rng(seed), shape) * np.float32(3)


def _topk(x: np.ndarray) -> np.ndarray:
    values, ids = ops.topk(x, 9)
    return np.concatenate([values, ids.astype(np.float32)], axis=1)


def _rows(cols: int) -> dict[str, Rowwise]:
    weight, bias = floats(2, cols, seed=1)
    runs: dict[str, Run] = {
        "softmax": ops.softmax,
        "log_softmax": ops.log_softmax,
        "logsumexp": ops.logsumexp,
        "rms_norm": lambda x: ops.rms_norm(x, weight),
        "layer_norm": lambda x: ops.layer_norm(x, weight, bias),
        "silu": ops.silu,
        "gelu": ops.gelu,
        "gelu-tanh": partial(ops.gelu, approximate="tanh"),
        "swiglu": lambda x: ops.swiglu(x, np.broadcast_to(bias, x.shape)),
        "geglu": lambda x: ops.geglu(x, np.broadcast_to(bias, x.shape)),
        "topk": _topk,
        "rope-half": partial(ops.rope, positions=12345, dims=cols // 2 * 2),
        "rope-interleaved": partial(ops.rope, positions=12345, pairing="interleaved", dims=cols // 2 * 2),
    }
    return {f"{name}-{cols}": Rowwise(run, floats(N_ROWS, cols)) for name, run in runs.items()}


def _weights() -> dict[str, Rowwise]:
    """N * K above 2^16, from where on threads share even a single row; both beyond a tile, N padded."""
    made, n = {}, 150
    for fmt in FORMATS:
        k = fit(fmt, 512)
        stored = random_rows(fmt, n, k, np.random.default_rng(2))
        packed = ops.pack(stored, fmt)
        x, bias = floats(N_ROWS, k), floats(n, seed=3)
        made[f"matmul-{fmt}-packed"] = Rowwise(partial(ops.matmul, w=packed, bias=bias), x)
        if fmt in FLOATS:
            stored = stored.view({"f32": np.float32, "f16": np.float16, "bf16": np.uint16}[fmt])
            made[f"matmul-{fmt}"] = Rowwise(partial(ops.matmul, w=np.ascontiguousarray(stored.T)), x)
        blocks = random_rows(fmt, N_ROWS, fit(fmt, 2000), np.random.default_rng(4))
        made[f"dequantize-{fmt}"] = Rowwise(partial(ops.dequantize, format=fmt), blocks)
        if fmt in FORMATS[:8]:
            made[f"quantize-{fmt}"] = Rowwise(partial(ops.quantize, format=fmt), floats(N_ROWS, 2016))
    return made


def _attention() -> dict[str, Rowwise]:
    """Four heads over two; 530 keys are three chunks, which threads share where there are few queries."""
    made = {}
    heads, dim, length = 4, 20, 530

    def attend(x: np.ndarray, k: np.ndarray, v: np.ndarray, **options: object) -> np.ndarray:
        q = x.reshape(len(x), heads, dim).swapaxes(0, 1)
        out, weights = ops.sdpa(q, k, v, **options, return_weights=True)  # type: ignore[call-overload]
        plain = ops.sdpa(q, k, v, **options)  # type: ignore[call-overload]
        parts = (out, plain, weights.astype(x.dtype))
        return np.concatenate([part.swapaxes(0, 1).reshape(len(x), -1) for part in parts], axis=1)

    may = np.random.default_rng(5).random(length) < 0.5
    options: dict[str, dict[str, object]] = {
        "": {}, "-bool": {"mask": may}, "-cap": {"softcap": 5.0},
        "-add": {"mask": np.where(may, floats(length, seed=6), -np.inf).astype(np.float32)},
    }  # fmt: skip
    for dtype in (np.float32, np.float16):
        k, v = (floats(2, length, dim, seed=seed).astype(dtype) for seed in (7, 8))
        x = floats(N_ROWS, heads * dim).astype(dtype)
        for name, given in options.items():
            made[f"sdpa-{np.dtype(dtype).name}{name}"] = Rowwise(partial(attend, k=k, v=v, **given), x)
    return made


ROWWISE = _rows(17) | _rows(576) | _rows(2100) | _weights() | _attention()
