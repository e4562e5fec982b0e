"""Times of the CUDA kernels on a GPU, beside PyTorch's where that is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

MODELS = {"Llama-3.2-1B": (2048, 32, 8, 64, 8192, 128256), "Llama-3-8B": (4096, 32, 8, 128, 14336, 128256)}
"""d, heads, KV heads, head_dim, d_ff, vocabulary."""

UNIT_BYTES = {"bf16": (2048, 0), "int8": (1024, 64), "int4": (512, 128)}
"""Of 16 rows by 64 columns: codes, scales (csrc/cuda/weights.h)."""

SEQUENCES = ((1, 1024), (1, 16384), (32, 1024))
"""Sequences that decode, and the keys of each."""

PROMPT = 4096
"""Tokens of a prompt."""

REPEATS = 50
COLD_BYTES = 512 << 20
"""Matrices are taken in turn until they are more than any cache has."""


class Time(NamedTuple):
    """A kernel on a shape: milliseconds, PyTorch's, and the bytes and FLOPs that must be."""

    kernel: str
    shape: str
    ms: float
    torch_ms: float | None
    n_bytes: float
    n_flops: float

    def row(self) -> str:
        """A line of the table."""
        other = "" if self.torch_ms is None else f"{self.torch_ms:.4f}"
        speeds = f"{self.n_bytes / self.ms / 1e6:.0f} | {self.n_flops / self.ms / 1e9:.1f}"
        return f"| {self.kernel} | {self.shape} | {self.ms:.4f} | {other} | {speeds} |"


def tables(library: Any) -> str:
    """All times as a Markdown table."""
    head = "| kernel | shape | ms | PyTorch ms | GB/s | TFLOP/s |\n|---|---|---|---|---|---|"
    return "\n".join([head, *(time.row() for time in times(library))])


def times(library: Any) -> Iterator[Time]:
    """Of the matmuls and the attention of two models."""
    for model, (d, heads, kv_heads, head_dim, d_ff, vocab) in MODELS.items():
        qkv = (heads + 2 * kv_heads) * head_dim
        matrices = {"qkv": (qkv, d), "gate_up": (2 * d_ff, d), "down": (d, d_ff), "head": (vocab, d)}
        for name, (n, k) in matrices.items():
            for type in UNIT_BYTES:
                for n_rows in (1, 8, 32):
                    yield linear(library, f"{model} {name}", type, n, k, n_rows)
            if name != "head":
                yield linear(library, f"{model} {name}", "bf16", n, k, PROMPT)
        for n_seqs, n_keys in SEQUENCES:
            yield attention(library, model, heads, kv_heads, head_dim, n_seqs, n_keys, 1)
        yield attention(library, model, heads, kv_heads, head_dim, 1, PROMPT, PROMPT)


def linear(library: Any, name: str, type: str, n: int, k: int, n_rows: int) -> Time:
    """x (rows, k) with a weight (n, k), written in bfloat16."""
    n_units = -(-n // 16) * (k // 64)
    code_bytes, scale_bytes = (n_units * size for size in UNIT_BYTES[type])
    n_copies = max(1, min(16, COLD_BYTES // code_bytes)) if n_rows <= 32 else 1
    counts = numbers(library, [n_rows, 1, n_rows])
    x, out = (library.DeviceArray(2 * n_rows * cols) for cols in (k, n))
    weights = [
        (getattr(library.WeightType, type), n, k, library.DeviceArray(code_bytes),
         library.DeviceArray(scale_bytes) if scale_bytes else None)
        for _ in range(n_copies)
    ]  # fmt: skip
    bounds = {"n_tokens": n_rows}
    args = {"x": x, "out": out, "end": 0, "qkv": {}, "rows": ("tokens", counts)}
    if n_workspace := library.linear_workspace(getattr(library.WeightType, type), n, k):
        args |= {"workspace": library.DeviceArray(n_workspace), "workspace_bytes": n_workspace}
    each = [library.timed.linear(bounds, REPEATS // n_copies + 1, weight=w, **args) for w in weights]
    n_bytes = code_bytes + scale_bytes + 2 * n_rows * (n + k)
    other = torch_ms(lambda torch: _torch_linear(torch, n, k, n_rows)) if type == "bf16" else None
    return Time(
        f"linear {type}",
        f"{name} {n}x{k}, {n_rows} rows",
        sum(each) / n_copies,
        other,
        n_bytes,
        2.0 * n_rows * n * k,
    )


def attention(
    library: Any,
    model: str,
    heads: int,
    kv_heads: int,
    head_dim: int,
    n_seqs: int,
    n_keys: int,
    n_queries: int,
) -> Time:
    """Of the last queries of sequences of n_keys positions: decode for one query each."""
    n_pages = -(-n_keys // 32)
    page_bytes = 2 * kv_heads * 32 * head_dim * 2
    n_tokens = n_seqs * n_queries
    q, out = (library.DeviceArray(2 * n_tokens * heads * head_dim) for _ in range(2))
    args: dict[str, Any] = {
        "q": q, "out": out, "page_bytes": page_bytes,
        "cache": library.DeviceArray(n_seqs * n_pages * page_bytes),
        "q_stride": heads * head_dim, "n_heads": heads, "n_kv_heads": kv_heads, "head_dim": head_dim,
        "scale": head_dim**-0.5, "softcap": 0.0, "window": 0, "causal": True,
        "counts": numbers(library, [n_tokens, n_seqs, n_seqs]),
        "seq_starts": numbers(library, np.arange(n_seqs + 1) * n_queries),
        "kv_lens": numbers(library, [n_keys] * n_seqs),
        "block_tables": numbers(library, np.arange(n_seqs * n_pages)), "max_pages": n_pages,
    }  # fmt: skip
    bounds = {"n_tokens": n_tokens, "n_seqs": n_seqs, "n_outputs": n_seqs, "n_keys": n_keys}
    op = "attention_decode" if n_queries == 1 else "attention_prefill"
    if n_queries == 1:
        n_bytes, n_counters = library.attention_workspace(bounds, **args)
        args |= {"workspace": library.DeviceArray(max(n_bytes, 1)), "workspace_bytes": n_bytes}
        args |= {"counters": library.DeviceArray(max(4 * n_counters, 4)), "n_counters": n_counters}
    ms = getattr(library.timed, op)(bounds, REPEATS, **args)
    seen = n_keys if n_queries == 1 else n_keys / 2
    shape = f"{model} {n_seqs} x {n_keys} keys, {n_queries} queries"
    other = torch_ms(
        lambda torch: _torch_attention(torch, heads, kv_heads, head_dim, n_seqs, n_keys, n_queries)
    )
    return Time(op, shape, ms, other, n_seqs * n_pages * page_bytes, 4.0 * n_tokens * heads * head_dim * seen)


def numbers(library: Any, values: Any) -> Any:
    """Int32 in device memory."""
    array = np.asarray(values, np.int32)
    made = library.DeviceArray(array.nbytes)
    made.upload(array)
    return made


# --- PyTorch ------------------------------------------------------------------------------------------------
def torch_ms(make: Callable[[Any], Callable[[], Any]]) -> float | None:
    """Milliseconds of a call by events; None without PyTorch for this GPU."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    run = make(torch)
    for _ in range(3):
        run()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(REPEATS):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / REPEATS


def _torch_linear(torch: Any, n: int, k: int, n_rows: int) -> Callable[[], Any]:
    n_copies = max(1, min(16, COLD_BYTES // (2 * n * k)))
    x = torch.zeros(n_rows, k, dtype=torch.bfloat16, device="cuda")
    weights = [torch.zeros(n, k, dtype=torch.bfloat16, device="cuda") for _ in range(n_copies)]
    turn = iter(range(1 << 30))
    return lambda: torch.nn.functional.linear(x, weights[next(turn) % n_copies])


def _torch_attention(
    torch: Any, heads: int, kv_heads: int, head_dim: int, n_seqs: int, n_keys: int, n_queries: int
) -> Callable[[], Any]:
    def zeros(n: int, length: int) -> Any:
        return torch.zeros(n_seqs, n, length, head_dim, dtype=torch.bfloat16, device="cuda")

    q, k, v = zeros(heads, n_queries), zeros(kv_heads, n_keys), zeros(kv_heads, n_keys)
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(q, k, v, is_causal=n_queries > 1, enable_gqa=True)
