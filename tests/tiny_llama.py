"""Small llamas of random numbers: a GGUF file, and the same model in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gguf_writer import Encoded, gguf_bytes
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from reference import Llama, Tensor, dequantize, half_split

CONTEXT, HIDDEN, VOCAB, LAYERS, HEADS, KV_HEADS, EPS, THETA = 640, 96, 131, 2, 6, 2, 1e-5, 10000.0
IDS = np.random.default_rng(11).integers(0, VOCAB, CONTEXT).tolist()
"""Token ids to feed."""


@dataclass(frozen=True)
class Tiny:
    """Sizes and formats of one small llama; tensors that `formats` does not name are f32."""

    head_dim: int
    ffn: int
    formats: dict[str, str] = field(default_factory=dict)
    tied: bool = True
    vocab: int = VOCAB

    def shapes(self) -> dict[str, tuple[int, int]]:
        q, kv = HEADS * self.head_dim, KV_HEADS * self.head_dim
        layer = {
            "attn_q": (q, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN), "attn_output": (HIDDEN, q),
            "ffn_gate": (self.ffn, HIDDEN), "ffn_up": (self.ffn, HIDDEN), "ffn_down": (HIDDEN, self.ffn),
        }  # fmt: skip
        names = {f"blk.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()}
        return names | dict.fromkeys(("token_embd", "output")[: 2 - self.tied], (self.vocab, HIDDEN))

    def format_of(self, name: str) -> str:
        return self.formats.get(name.split(".")[-1], "f32")


MODELS = {
    # Heads are whole panels: rotation follows the matmul in the same thread. Every quantized format.
    "heads_of_16": Tiny(16, 160, {
        "token_embd": "q8_0", "attn_q": "q4_1", "attn_k": "q4_0", "attn_v": "q8_0", "attn_output": "q5_0",
        "ffn_gate": "q4_1", "ffn_up": "q8_0", "ffn_down": "q5_1"}),
    # Heads and the MLP are no multiples of 16; matmuls with 120 and 53 inputs.
    "heads_of_20": Tiny(20, 53, {
        "token_embd": "f16", "attn_q": "f16", "attn_k": "bf16", "attn_output": "bf16", "ffn_gate": "f16",
        "ffn_up": "bf16", "output": "f16"}, tied=False),
    "mixed_20": Tiny(20, 96, {
        "attn_q": "q4_0", "attn_k": "f16", "attn_v": "q5_1", "ffn_gate": "q5_0", "ffn_up": "q4_1",
        "ffn_down": "q8_0", "output": "q4_0"}, tied=False),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A file and the same model in float64."""

    path: Path
    reference: Llama

    def decoder(self, **options: object) -> Decoder:
        return Decoder(open_checkpoint(self.path), **options)


def contents(tiny: Tiny) -> tuple[dict[str, object], dict[str, np.ndarray | Encoded], Llama]:
    """Metadata and tensors of a file (gguf_writer), and the same model in float64."""
    from gguf import GGMLQuantizationType, quants

    rng = np.random.default_rng(5)
    tensors: dict[str, np.ndarray | Encoded] = {}
    weights: dict[str, Tensor | np.ndarray] = {}
    for name, shape in tiny.shapes().items():
        fmt = tiny.format_of(name)
        values = (rng.standard_normal(shape) * 1.5 / shape[1] ** 0.5).astype(np.float32)
        kind = GGMLQuantizationType[fmt.upper()]
        rows = quants.quantize(values, kind).view(np.uint8).reshape(shape[0], -1)
        tensors[f"{name}.weight"] = Encoded(int(kind), shape, rows.tobytes())
        exact = dequantize(fmt, rows).astype(np.float64)
        rotary = name.endswith(("attn_q", "attn_k"))
        weights[name] = Tensor(fmt, half_split(exact, tiny.head_dim) if rotary else exact)
    for name in (*(f"blk.{i}.{n}_norm" for i in range(LAYERS) for n in ("attn", "ffn")), "output_norm"):
        weights[name] = tensors[f"{name}.weight"] = rng.uniform(0.5, 1.5, HIDDEN).astype(np.float32)
    metadata: dict[str, object] = {
        "general.architecture": "llama", "llama.embedding_length": HIDDEN, "llama.block_count": LAYERS,
        "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.key_length": tiny.head_dim, "llama.feed_forward_length": tiny.ffn,
        "llama.context_length": CONTEXT, "llama.attention.layer_norm_rms_epsilon": EPS,
    }  # fmt: skip
    eps = float(np.float32(EPS))
    return metadata, tensors, Llama(weights, LAYERS, HEADS, KV_HEADS, tiny.head_dim, THETA, eps)


def make(tiny: Tiny, path: Path) -> Made:
    """Writes the file of a small llama."""
    metadata, tensors, reference = contents(tiny)
    path.write_bytes(gguf_bytes(metadata, tensors))
    return Made(path, reference)
