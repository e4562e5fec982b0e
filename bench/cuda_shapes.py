"""Models that the predictions for GPUs are of: their matrices, bytes and launches."""

from __future__ import annotations

import re
from dataclasses import dataclass

CONTEXT = 1024
MAX_KEYS = 8192
"""Context that a model is loaded with: a graph is recorded for it, and with it the grid of attention."""
KERNELS = {"sample": 3}
"""Of an operation of the list that is more than one."""
OTHER_LAUNCHES = 4 + KERNELS["sample"]
"""Of a step: rotations, embedding, gathering of outputs, head, sampling."""

TYPES = {"bf16": 0, "int8": 1, "int4": 2}
UNIT_BYTES = {"bf16": 2048, "int8": 1024 + 64, "int4": 512 + 128}
"""Of 16 rows by 64 columns, with scales (csrc/cuda/weights.h)."""


@dataclass(frozen=True)
class Shape:
    """Of a model: d, layers, heads, KV heads, head_dim, d_ff, vocabulary, norms of heads."""

    name: str
    d: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    d_ff: int
    vocab: int
    head_norms: bool = False

    @property
    def layer_launches(self) -> int:
        """Head norms stand between the matmul and the rotation, which then is a launch too."""
        return 7 if self.head_norms else 5

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(n, k) of the matrices of a layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "qkv": (q + 2 * kv, self.d), "o": (self.d, q),
            "gate_up": (2 * self.d_ff, self.d), "down": (self.d, self.d_ff),
        }  # fmt: skip

    @property
    def layer_kv_bytes(self) -> int:
        """That one token's attention reads in a layer behind CONTEXT positions."""
        return 2 * self.kv_heads * self.head_dim * 2 * CONTEXT

    @property
    def kv_bytes(self) -> int:
        return self.layers * self.layer_kv_bytes


SHAPES = [
    Shape("Llama-3-8B", 4096, 32, 32, 8, 128, 14336, 128256),
    Shape("Llama-3.2-1B", 2048, 16, 32, 8, 64, 8192, 128256),
    Shape("Qwen3-0.6B", 1024, 28, 16, 8, 128, 3072, 151936, head_norms=True),
]


def matrix_bytes(n: int, k: int, weights: str) -> int:
    return -(-n // 16) * (k // 64) * UNIT_BYTES[weights]


def step_bytes(shape: Shape, weights: str) -> int:
    layer = sum(matrix_bytes(n, k, weights) for n, k in shape.matrices.values())
    return shape.layers * layer + matrix_bytes(shape.vocab, shape.d, weights) + shape.kv_bytes


def title_of(kernel: str) -> str:
    """A kernel as a reader knows it: of linear_skinny its type, its tokens and whether a norm is in it."""
    found = re.match(r"linear_skinny_(?:int_)?kernel<(?:(\d), )?(\d), (\w+)>", kernel)
    if not found:
        return f"`{kernel}`"
    weights = list(TYPES)[int(found[1] or 0)]
    most = (4 if found[1] else 8) * int(found[2])
    least = 1 if found[2] == "1" else most // 2 + 1
    norm = " with a norm" if found[3] == "true" else ""
    return f"the {weights} matmul of {least} to {most} tokens{norm}"
