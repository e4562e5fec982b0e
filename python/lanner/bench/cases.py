"""The one list of benchmark cases of `lanner.ops`: what is computed, on which shapes, and what limits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from lanner.ops._quantization import FORMATS

Limit = Literal["read", "copy", "fma"]
"""What a perfect kernel waits for: bytes read, bytes read and written, float32 multiply-adds."""

UNTIMED = frozenset({"get_threads", "set_threads", "rope_frequencies"})
"""Names of `lanner.ops` that do no work worth timing: settings, and a table of a few dozen numbers."""

ITEM_BYTES = {"float32": 4, "float16": 2, "uint8": 1, "int64": 8, "f32": 4, "f16": 2, "bf16": 2}


@dataclass(frozen=True)
class Case:
    """One call of an operation.

    Attributes:
        op: its name in `lanner.ops`; `Packed` stands for `Packed.unpack`.
        title: what distinguishes it from the other cases of the operation.
        family: cases that a picture shows in one colour.
        shapes: of every array that is read or written, by argument name.
        dtypes: NumPy's names; for weights and blocks the name of their format.
        n_flops: additions, multiplications, comparisons and exponentials, each counted as one.
        limit: what the rate is held against.
        options: other arguments of the call.
        goals: the least share of the limit ("limit") and the least ratios to "numpy" and "torch" that
            count as good.
    """

    op: str
    title: str
    family: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    n_flops: float
    limit: Limit
    options: Mapping[str, Any] = field(default_factory=dict)
    goals: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique in `CASES`."""
        return f"{self.op} {self.title}"

    @property
    def n_bytes(self) -> int:
        """Every array once, as if caches were empty: packed weights in the bytes of their files."""
        return sum(array_bytes(self.shapes[name], dtype) for name, dtype in self.dtypes.items())

    def __str__(self) -> str:
        return self.name


def array_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of an array of a NumPy dtype, or of rows of a GGUF format."""
    if dtype in ITEM_BYTES:
        return prod(shape) * ITEM_BYTES[dtype]
    block, n_bytes = FORMATS[dtype]
    return prod(shape) // block * n_bytes


def times(*sizes: int) -> str:
    """Sizes as a title has them: 4x2048."""
    return "x".join(map(str, sizes))


def matmul(
    m: int, n: int, k: int, fmt: str = "f32", *, packed: bool = True, goals: Mapping[str, float] | None = None
) -> Case:
    """x (m, k) with a weight of n outputs; an array weight is (k, n), a packed one (n, k)."""
    reads_weight = m < 8  # below, a weight in memory takes longer to read than to multiply
    family = "matmul, one row" if m == 1 else "matmul, float" if fmt in ITEM_BYTES else "matmul, quantized"
    return Case(
        op="matmul",
        title=f"{times(m, n, k)} {fmt}{' packed' * (packed and fmt in ITEM_BYTES)}",
        family=family,
        shapes={"x": (m, k), "w": (n, k) if packed else (k, n), "out": (m, n)},
        dtypes={"x": "float32", "w": fmt, "out": "float32"},
        n_flops=2.0 * m * n * k,
        limit="read" if reads_weight else "fma",
        options={"packed": packed},
        goals=goals or {},
    )


def sdpa(
    heads: int,
    kv_heads: int,
    q_len: int,
    kv_len: int,
    head_dim: int,
    *,
    dtype: str = "float32",
    window: int | None = None,
    goals: Mapping[str, float] | None = None,
) -> Case:
    """Causal, one batch entry. A single query is limited by reading K and V."""
    decode = q_len == 1
    first = kv_len - q_len  # keys before the first query
    pairs = sum(min(first + i + 1, window or kv_len) for i in range(q_len))
    title = f"{'decode' if decode else 'prefill'} {times(q_len, kv_len)} {heads}over{kv_heads} d{head_dim}"
    keys = (1, kv_heads, kv_len, head_dim)
    shapes = {"q": (1, heads, q_len, head_dim), "k": keys, "v": keys, "out": (1, heads, q_len, head_dim)}
    return Case(
        op="sdpa",
        title=title + f" w{window}" * (window is not None) + f" {dtype}" * (dtype != "float32"),
        family="attention, one query" if decode else "attention, prompt",
        shapes=shapes,
        dtypes=dict.fromkeys(shapes, dtype),
        n_flops=4.0 * pairs * heads * head_dim,
        limit="read" if decode else "fma",
        options={"causal": True, "window": window},
        goals=goals or {},
    )


ROW_FLOPS = {"softmax": 5, "log_softmax": 5, "logsumexp": 4, "rms_norm": 4, "layer_norm": 7, "topk": 1}
"""Per element. softmax: maximum, difference, exponential, sum, product. rms_norm: square, sum, 2 products."""


def rows(op: str, *shape: int, k: int = 0, goals: Mapping[str, float] | None = None) -> Case:
    """An operation along the last axis; `k` is that of topk."""
    shapes: dict[str, tuple[int, ...]] = {"x": shape}
    dtypes = {"x": "float32"}
    if op in ("softmax", "log_softmax", "rms_norm", "layer_norm"):
        shapes["out"], dtypes["out"] = shape, "float32"
    for name in {"rms_norm": ("weight",), "layer_norm": ("weight", "bias")}.get(op, ()):
        shapes[name], dtypes[name] = shape[-1:], "float32"
    return Case(
        op=op,
        title=times(*shape) + f" k{k}" * (op == "topk"),
        family="norms" if op.endswith("norm") else "top-k" if op == "topk" else "softmax",
        shapes=shapes,
        dtypes=dtypes,
        n_flops=float(ROW_FLOPS[op] * prod(shape)),
        limit="copy" if "out" in shapes else "read",
        options={"k": k} if op == "topk" else {},
        goals=goals or {},
    )


ACTIVATION_FLOPS = {"silu": 4, "swiglu": 5, "gelu": 8, "geglu": 9}
"""Per element: sign, exponential, sum, quotient; the tanh form of gelu has a cubic in front of them."""


def activation(op: str, *shape: int, approximate: str | None = None) -> Case:
    """Element by element; swiglu and geglu read a second array."""
    names = ("gate", "up", "out") if op.endswith("glu") else ("x", "out")
    return Case(
        op=op,
        title=times(*shape) + f" {approximate}" * (approximate == "tanh"),
        family="activations",
        shapes=dict.fromkeys(names, shape),
        dtypes=dict.fromkeys(names, "float32"),
        n_flops=float(ACTIVATION_FLOPS[op] * prod(shape)),
        limit="copy",
        options={} if approximate is None else {"approximate": approximate},
    )


def rope(heads: int, length: int, head_dim: int) -> Case:
    """All pairs of (1, heads, length, head_dim) turned by their own position."""
    shape = (1, heads, length, head_dim)
    return Case(
        op="rope",
        title=times(heads, length, head_dim),
        family="rope",
        shapes={"x": shape, "out": shape, "positions": (length,)},
        dtypes={"x": "float32", "out": "float32", "positions": "int64"},
        n_flops=3.0 * prod(shape),
        limit="copy",
    )


def blocks(op: str, n: int, k: int, fmt: str) -> Case:
    """Between float32 (n, k) and the blocks of a format; `Packed` is `Packed.unpack`."""
    written = {"dequantize": "out", "Packed": "out"}.get(op, "")
    values = written or ("w" if op == "pack" else "x")
    return Case(
        op=op,
        title=f"{times(n, k)} {fmt}",
        family="quantization",
        shapes={values: (n, k), "blocks": (n, k)},
        dtypes={values: "float32", "blocks": fmt},
        n_flops=2.0 * n * k,
        limit="copy",
        options={"format": fmt},
    )


WIDE = 4096  # K of the weights that are read once from memory

# Rows of such a weight: at least 128 MB in each format.
STREAMED = {
    "f32": 8192, "f16": 16384, "bf16": 16384, "q8_0": 32768, "q6_k": 40960, "q5_0": 49152, "q5_1": 49152,
    "q5_k": 49152, "q4_0": 65536, "q4_1": 65536, "q4_k": 65536,
}  # fmt: skip

QUANTIZED_GOALS = {
    "q4_0": 1.4, "q4_1": 1.4, "q4_k": 1.4, "q5_0": 1.2, "q5_1": 1.2, "q5_k": 1.2, "q6_k": 1.2, "q8_0": 1.1,
}  # fmt: skip

_SQUARE = {"limit": 0.85, "numpy": 1.0, "torch": 1.0}
_STREAM = {"limit": 0.85, "torch": 1.0}

MATMUL = [
    *(matmul(n, n, n, packed=False, goals=_SQUARE) for n in (256, 512, 1024, 2048)),
    *(matmul(m, 2048, 2048, goals={"torch": 2.0}) for m in (4, 8, 16, 32)),
    *(matmul(m, 2048, 2048, fmt, packed=packed, goals={"torch": 2.0})
      for fmt in ("f16", "bf16") for packed in (True, False) for m in (4, 16, 256)),
    *(matmul(256, 2048, 2048, fmt, goals={"limit": share}) for fmt, share in QUANTIZED_GOALS.items()),
    *(matmul(1, n, WIDE, fmt, goals=_STREAM) for fmt, n in STREAMED.items()),
    # The catalogue's models: gate and up of SmolLM2, of Gemma 3 and Qwen2.5, a head that gives the logits.
    *(matmul(m, 3072, 576, "q4_1") for m in (1, 4, 64, 512)),
    *(matmul(m, 4096, 640, "q5_0") for m in (1, 64, 512)),
    *(matmul(m, 896, 4864, "q4_k") for m in (1, 64, 512)),
    matmul(1, 49152, 576, "q8_0"),
]  # fmt: skip

SDPA = [
    *(sdpa(8, 8, n, n, dim, goals={"torch": 1.5} | ({"limit": 0.7} if n >= 512 else {}))
      for dim in (64, 128) for n in (128, 512, 2048)),
    *(sdpa(32, 8, 1, 4096, dim, goals={"torch": 3.0}) for dim in (64, 128)),
    sdpa(32, 8, 1, 4096, 128, dtype="float16"),
    sdpa(8, 8, 512, 512, 64, dtype="float16"),
    # The catalogue's models, a prompt and a token behind it.
    *(sdpa(heads, kv_heads, q_len, 512, dim)
      for heads, kv_heads, dim in ((9, 3, 64), (4, 1, 256), (14, 2, 64)) for q_len in (512, 1)),
    sdpa(4, 1, 2048, 2048, 256, window=512),
]  # fmt: skip

_SOFTMAX = {"torch": 1.5}

ROWS = [
    rows("softmax", 4096, 4096, goals=_SOFTMAX | {"limit": 0.8}),
    rows("softmax", 1, 262144, goals=_SOFTMAX),
    rows("softmax", 64, 49152, goals=_SOFTMAX | {"limit": 0.8}),
    *(rows(op, *shape) for op in ("log_softmax", "logsumexp") for shape in ((1, 151936), (64, 49152))),
    *(rows("rms_norm", *shape) for shape in ((1, 576), (512, 576), (512, 640), (512, 896), (4096, 4096))),
    *(rows("layer_norm", *shape) for shape in ((512, 384), (4096, 4096))),
    *(rows("topk", *shape, k=k) for *shape, k in ((1, 49152, 40), (1, 151936, 40), (64, 49152, 40))),
]  # fmt: skip

ELEMENTS = [
    *(activation("swiglu", *shape) for shape in ((1, 1536), (512, 1536), (512, 4864), (4096, 4096))),
    *(activation("geglu", 512, 2048, approximate=how) for how in ("tanh", "none")),
    *(activation("gelu", 512, 1536, approximate=how) for how in ("tanh", "none")),
    activation("gelu", 4096, 4096, approximate="none"),
    *(activation("silu", *shape) for shape in ((512, 4864), (4096, 4096))),
    *(rope(*shape) for shape in ((9, 1, 64), (9, 512, 64), (4, 512, 256), (14, 512, 64), (32, 4096, 128))),
]

BLOCKS = [
    *(blocks("quantize", 896, 4864, fmt) for fmt in ("q4_0", "q5_1", "q8_0", "bf16")),
    *(blocks("dequantize", 896, 4864, fmt) for fmt in ("q4_0", "q8_0", "q4_k", "q6_k", "iq4_xs", "mxfp4")),
    *(blocks("pack", 4096, 4096, fmt) for fmt in ("f32", "q4_0", "q8_0")),
    blocks("Packed", 896, 4864, "q4_0"),
]

CASES: tuple[Case, ...] = (*MATMUL, *SDPA, *ROWS, *ELEMENTS, *BLOCKS)


def selected(filters: tuple[str, ...] = ()) -> list[Case]:
    """Cases whose name holds one of `filters`, whatever the size of letters; ValueError where none does."""
    chosen = [case for case in CASES if not filters or any(f.lower() in case.name.lower() for f in filters)]
    if not chosen:
        names = ", ".join(dict.fromkeys(case.op for case in CASES))
        raise ValueError(f"no case has {' or '.join(map(repr, filters))} in its name; operations: {names}")
    return chosen
