"""Small llamas, qwens and gemmas of random numbers whose sizes suit the kernels of GPUs, as GGUF files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gguf_writer import Encoded, gguf_bytes

CONTEXT, HIDDEN, VOCAB, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 512, 128, 160, 2, 4, 2, 64, 192


def write(
    path: Path,
    formats: Mapping[str, str] | None = None,
    architecture: str = "llama",
    tied: bool = True,
    hidden: int = HIDDEN,
    ffn: int = FFN,
    n_layers: int = LAYERS,
    head_dim: int = HEAD_DIM,
    vocab: int = VOCAB,
    settings: Mapping[str, object] | None = None,
) -> Path:
    """A file; `formats` has those of tensors by the last part of their name, f16 is that of all others.

    `settings` are further ones of the architecture.
    """
    from gguf import GGMLQuantizationType, quants

    rng = np.random.default_rng(7)
    q, kv = HEADS * head_dim, KV_HEADS * head_dim
    layer = {
        "attn_q": (q, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden), "attn_output": (hidden, q),
        "ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn),
    }  # fmt: skip
    shapes = {f"blk.{i}.{name}": shape for i in range(n_layers) for name, shape in layer.items()}
    shapes |= dict.fromkeys(("token_embd", "output")[: 2 - tied], (vocab, hidden))
    tensors: dict[str, np.ndarray | Encoded] = {}
    for name, shape in shapes.items():
        fmt = (formats or {}).get(name.split(".")[-1], (formats or {}).get("*", "f16"))
        values = (rng.standard_normal(shape) * 1.5 / shape[1] ** 0.5).astype(np.float32)
        if fmt == "q4_k":
            rows = q4_k_rows(rng, shape)
        else:
            kind = GGMLQuantizationType[fmt.upper()]
            rows = quants.quantize(values, kind).view(np.uint8).reshape(shape[0], -1)
        tensors[f"{name}.weight"] = Encoded(int(GGMLQuantizationType[fmt.upper()]), shape, rows.tobytes())
    kinds = ("attn", "ffn", "post_attention", "post_ffw")[: 4 if architecture == "gemma3" else 2]
    norms = [f"blk.{i}.{n}_norm" for i in range(n_layers) for n in kinds]
    sizes = dict.fromkeys((*norms, "output_norm"), hidden)
    if architecture in ("qwen3", "gemma3"):
        sizes |= {f"blk.{i}.attn_{part}_norm": head_dim for i in range(n_layers) for part in "qk"}
    for name, size in sizes.items():
        tensors[f"{name}.weight"] = rng.uniform(0.5, 1.5, size).astype(np.float32)
    if architecture == "qwen2":
        for i in range(n_layers):
            for part, size in (("q", q), ("k", kv), ("v", kv)):
                tensors[f"blk.{i}.attn_{part}.bias"] = rng.standard_normal(size).astype(np.float32)
    a = architecture
    metadata: dict[str, object] = {
        "general.architecture": a, f"{a}.embedding_length": hidden, f"{a}.block_count": n_layers,
        f"{a}.attention.head_count": HEADS, f"{a}.attention.head_count_kv": KV_HEADS,
        f"{a}.attention.key_length": head_dim, f"{a}.feed_forward_length": ffn,
        f"{a}.context_length": CONTEXT, f"{a}.attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    metadata |= {f"{a}.{name}": value for name, value in (settings or {}).items()}
    path.write_bytes(gguf_bytes(metadata, tensors))
    return path


def q4_k_rows(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Blocks of random codes: the package gguf reads the format and does not write it."""
    n_blocks = shape[0] * shape[1] // 256
    rows = rng.integers(0, 256, (n_blocks, 144), dtype=np.uint8)
    # w = d * scale * code - d_min * minimum, about as large as the others are.
    numbers = np.array([1.5 / shape[1] ** 0.5 / 32 / 4, 1.5 / shape[1] ** 0.5 / 32 * 1.9], np.float16)
    rows[:, :4] = numbers.view(np.uint8)
    return rows.reshape(shape[0], -1)
