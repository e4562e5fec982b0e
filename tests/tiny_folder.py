"""Hugging Face folders for tests: bytes of safetensors files, and the llamas of tiny_llama as folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gguf_writer import Encoded
from reference import half_split
from tiny_llama import CONTEXT, EPS, HEADS, HIDDEN, KV_HEADS, LAYERS, Tiny, contents

Stored = tuple[str, tuple[int, ...], bytes]
"""dtype, shape, bytes."""

_DTYPES = {0: ("F32", "<u4"), 1: ("F16", "<u2"), 30: ("BF16", "<u2")}
_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
}  # fmt: skip


def header_of(tensors: Mapping[str, Stored], order: list[str] | None = None) -> dict[str, Any]:
    """The header of a file whose data lies in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in order or tensors:
        dtype, shape, data = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    return header


def assemble(header: Any, data: bytes, n_header: int | None = None) -> bytes:
    """A file from a header (bytes are taken as they are); its length is the true one unless given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return (len(text) if n_header is None else n_header).to_bytes(8, "little") + text + data


def safetensors_bytes(tensors: Mapping[str, Stored]) -> bytes:
    """A well-formed file."""
    return assemble(header_of(tensors), b"".join(data for _, _, data in tensors.values()))


def folder_name(name: str) -> str:
    """What a folder calls a tensor of a GGUF llama."""
    stem, suffix = name.rsplit(".", 1)
    if not stem.startswith("blk."):
        return f"{_NAMES[stem]}.{suffix}"
    _, layer, stem = stem.split(".")
    return f"model.layers.{layer}.{_NAMES[stem]}.{suffix}"


def folder_contents(tiny: Tiny, norms: str = "F32") -> tuple[dict[str, Any], dict[str, Stored]]:
    """config.json and tensors of a small llama with float formats; `norms` is the dtype of its norms."""
    _, tensors, _ = contents(tiny)
    stored: dict[str, Stored] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Encoded):
            dtype, bits = _DTYPES[tensor.type]
            rows = np.frombuffer(tensor.data, bits).reshape(tensor.shape)
            if name.endswith(("attn_q.weight", "attn_k.weight")):
                rows = half_split(rows, tiny.head_dim)
            stored[folder_name(name)] = (dtype, tensor.shape, rows.tobytes())
        else:
            data = tensor.astype(np.float16 if norms == "F16" else np.float32).tobytes()
            stored[folder_name(name)] = (norms, tensor.shape, data)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": tiny.ffn, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": tiny.head_dim, "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPS, "rope_theta": 10000.0, "rope_scaling": None, "vocab_size": tiny.vocab,
        "tie_word_embeddings": tiny.tied, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "attention_dropout": 0.0, "initializer_range": 0.02, "pretraining_tp": 1, "torch_dtype": "float16",
        "transformers_version": "4.50.0", "use_cache": True, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return config, stored


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Stored], n_shards: int = 1
) -> Path:
    """Writes a folder; with several shards, tensors in turn and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if n_shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        return folder
    weight_map = {}
    for i in range(n_shards):
        shard = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        part = dict(list(tensors.items())[i::n_shards])
        (folder / shard).write_bytes(safetensors_bytes(part))
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
