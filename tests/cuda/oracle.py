"""A llama, qwen or gemma in float64 on the weights of the GPU, and with values rounded where it stores them.

How far the second is from the first says how far any program may be that keeps its values in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lanner.cuda import pack
from lanner.cuda.decoder import CudaDecoder
from lanner.cuda.symbols import Order
from lanner.cuda.weights import DeviceWeight

Array = np.ndarray
Round = Callable[[Array], Array]


def to_bf16(x: Array) -> Array:
    return pack.from_bf16(pack.to_bf16(x.astype(np.float32))).astype(np.float64)


def exactly(x: Array) -> Array:
    return x


FUNCTIONS: dict[str, Round] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
}


class Oracle:
    """The model of a decoder; what it holds comes out of the decoder's own list."""

    def __init__(self, decoder: CudaDecoder) -> None:
        self.config = decoder.config
        by_name: dict[str, Any] = {i.name: i for i in decoder.program.instructions}
        self.of = {name: i.args for name, i in by_name.items()}
        tables = [i.args for i in decoder.program.instructions if i.op == "rope_table"]
        self.inv_freqs = {id(args["out"].place): np.asarray(args["inv_freq"]) for args in tables}
        self._matrices: dict[int, Array] = {}

    def matrix(self, weight: DeviceWeight) -> Array:
        if id(weight) not in self._matrices:
            pieces = [pack.unpack(piece) for piece in weight.packed(Order())]
            self._matrices[id(weight)] = np.concatenate(pieces)
        return self._matrices[id(weight)]

    def logits(self, ids: Sequence[int], rounded: bool = False) -> Array:
        """(len(ids), vocab_size)."""
        r = to_bf16 if rounded else exactly
        x = r(self.matrix(self.of["embed"]["weight"])[list(ids)])
        if "embed.scale" in self.of:
            x = r(x * self.of["embed.scale"]["factor"])
        for i in range(self.config.n_layers):
            x = self._mlp(i, self._attention(i, x, r), r)
        return self._linear(r(self._norm(x, "norm")), "head", exactly, r)

    def _attention(self, i: int, x: Array, r: Round) -> Array:
        c, n = self.config, len(x)
        qkv = self._linear(r(self._norm(x, f"L{i:02d}.attn.norm")), f"L{i:02d}.attn.qkv", exactly, r)
        heads = qkv.reshape(n, -1, c.head_dim)
        q, k, v = np.split(heads, [c.n_heads, c.n_heads + c.n_kv_heads], axis=1)
        name = f"L{i:02d}.attn.head_norm"
        if name in self.of:
            q, k = (
                self._rms(r(a), self.of[name][f"{part}_weight"], self.of[name]["eps"])
                for a, part in ((q, "q"), (k, "k"))
            )
        inv_freq = self.inv_freqs[id(self.of[f"L{i:02d}.attn.rope"]["table"].place)]
        q, k, v = (r(a) for a in (rotated(q, inv_freq), rotated(k, inv_freq), v))
        group = c.n_heads // c.n_kv_heads
        k, v = k.repeat(group, axis=1), v.repeat(group, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) * c.scale
        seen = np.tri(n, dtype=bool) & ~np.tri(n, k=-(c.windows[i] or n), dtype=bool)
        scores += np.where(seen, 0, -np.inf)
        p = np.exp(scores - scores.max(axis=2, keepdims=True))
        mixed = np.einsum("hij,jhd->ihd", r(p), v) / p.sum(axis=2).T[:, :, None]
        h = self._linear(r(mixed.reshape(n, -1)), f"L{i:02d}.attn.o", exactly, r)
        return self._added(x, h, f"L{i:02d}.attn.post_norm", r)

    def _mlp(self, i: int, x: Array, r: Round) -> Array:
        h = self._linear(r(self._norm(x, f"L{i:02d}.ffn.norm")), f"L{i:02d}.ffn.gate_up", exactly, r)
        gate, up = np.split(h, 2, axis=1)
        function = FUNCTIONS[self.of[f"L{i:02d}.ffn.gate_up"]["function"]]
        h = self._linear(r(function(gate) * up), f"L{i:02d}.ffn.down", exactly, r)
        return self._added(x, h, f"L{i:02d}.ffn.post_norm", r)

    def _added(self, x: Array, h: Array, norm: str, r: Round) -> Array:
        """x + h, or x + norm(h) in models that have such a norm."""
        return r(x + r(self._norm(r(h), norm))) if norm in self.of else r(x + h)

    def _linear(self, x: Array, name: str, end: Round, r: Round) -> Array:
        args = self.of[name]
        y = x @ r(self.matrix(args["weight"])).T
        return end(y if args.get("bias") is None else y + np.asarray(args["bias"], np.float64))

    def _norm(self, x: Array, name: str) -> Array:
        return self._rms(x, self.of[name]["weight"], self.of[name]["eps"])

    @staticmethod
    def _rms(x: Array, weight: Any, eps: float) -> Array:
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * np.asarray(weight, np.float64)


def rotated(x: Array, inv_freq: Array) -> Array:
    """Heads (n, h, d) of positions 0, 1, ..., in half-split pairs."""
    angles = np.arange(len(x))[:, None, None] * inv_freq
    a, b = np.split(x, 2, axis=2)
    return np.concatenate(
        [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=2
    )


def size(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
