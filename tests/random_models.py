"""Small models of random numbers, of every architecture that GGUF has a name for here.

Nobody lists their tensors: an architecture's own `load` is asked, by a stand-in for Weights that writes down
what it is asked for. What the numbers mean is for tests/oracles to judge; here they must be the same twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gguf_writer import Encoded, gguf_bytes
from lanner import models
from lanner.checkpoint import open_checkpoint
from lanner.config import Settings
from lanner.decoder import Decoder
from lanner.weights import Source

VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, WIDTH, CONTEXT = 131, 96, 2, 6, 2, 16, 160, 320


@dataclass(frozen=True)
class Random:
    """An architecture, its keys beyond those that all have, and its optional tensors."""

    architecture: str
    keys: dict[str, Any] = field(default_factory=dict)
    optional: tuple[str, ...] = ("output.weight",)
    rms: bool = True
    hidden: int = HIDDEN

    def metadata(self) -> dict[str, Any]:
        norm = "rms_" if self.rms else ""
        keys = {
            "embedding_length": self.hidden, "block_count": LAYERS, "attention.head_count": HEADS,
            "attention.head_count_kv": KV_HEADS, "feed_forward_length": WIDTH, "context_length": CONTEXT,
            f"attention.layer_norm_{norm}epsilon": 1e-5,
        } | self.keys  # fmt: skip
        prefixed = {f"{self.architecture}.{key}": value for key, value in keys.items() if value is not None}
        return {"general.architecture": self.architecture} | prefixed


_MHA = {"attention.head_count_kv": None}
_EXPERTS = {"expert_count": 6, "expert_used_count": 2, "expert_feed_forward_length": 64}
_QKV_BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias")
_ALL_BIASES = ("attn_qkv.bias", "attn_output.bias", "ffn_up.bias", "ffn_down.bias", "attn_norm.bias",
               "ffn_norm.bias", "output_norm.bias")  # fmt: skip

MODELS = {
    "llama": Random("llama"),
    "smollm3": Random("smollm3", {"block_count": 5}, ()),
    "qwen2": Random("qwen2", optional=("output.weight", *_QKV_BIASES)),
    "qwen3": Random("qwen3", {"attention.key_length": 24, "attention.value_length": 24}),
    "gemma2": Random("gemma2", {"attention.sliding_window": 70, "attn_logit_softcapping": 4.0,
                                "final_logit_softcapping": 6.0}, ()),
    "gemma3": Random("gemma3", {"attention.sliding_window": 70, "block_count": 7, "rope.freq_base": 1e6}, ()),
    "phi3": Random("phi3", {"rope.dimension_count": 12, "attention.sliding_window": 100}),
    "gpt2": Random("gpt2", _MHA, ("output.weight", *_ALL_BIASES), rms=False),
    "gptneox": Random("gptneox", _MHA | {"rope.dimension_count": 4, "use_parallel_residual": True},
                      ("output.weight", *_ALL_BIASES), rms=False),
    "olmo2": Random("olmo2"),
    "granite": Random("granite", {"attention.scale": 0.2, "embedding_scale": 12.0, "residual_scale": 0.22,
                                  "logit_scale": 8.0}, ()),
    "starcoder2": Random("starcoder2", optional=(*_QKV_BIASES, *_ALL_BIASES), rms=False),
    "mixtral": Random("llama", {"expert_count": 5, "expert_used_count": 2}),
    "qwen2moe": Random("qwen2moe", _EXPERTS | {"expert_shared_feed_forward_length": 96},
                       ("output.weight", *_QKV_BIASES)),
    "qwen3moe": Random("qwen3moe", _EXPERTS),
}  # fmt: skip


class _Values:
    """Metadata as Settings reads it."""

    is_gguf = True

    def __init__(self, prefix: str, metadata: dict[str, Any]) -> None:
        self._values = {key.removeprefix(prefix): value for key, value in metadata.items()}

    def name(self, key: str) -> str:
        return key

    def find(self, key: str) -> Any:
        return self._values.get(key)

    def default(self, key: str) -> None:
        return None

    def unread(self, read: set[str]) -> Iterator[str]:
        return iter(())


class _Recorder:
    """Weights that has every tensor it is asked for, optional ones where they are listed."""

    is_gguf = True

    def __init__(self, model: Random) -> None:
        self._optional = model.optional
        self._hidden = model.hidden
        self.shapes: dict[str, tuple[int, ...]] = {}

    def has(self, name: str) -> bool:
        return name in self._optional or name.split(".", 2)[-1] in self._optional

    def shape(self, name: str) -> tuple[int, ...]:
        assert name == "token_embd.weight"
        return (VOCAB, self._hidden)

    def n_rows(self, name: str) -> int:
        return self.shape(name)[0]

    def skip(self, *names: str) -> None:
        pass

    def packed(self, *sources: Source, keep: bool = False) -> None:
        for source in sources:
            experts = () if source.index is None else (source.index + 1,)
            self.shapes[source.name] = (*experts, *source.shape)

    def head(self, source: Source, embedding: None, is_tied: bool) -> None:
        if not is_tied:
            self.packed(source)

    def vector(self, source: Source) -> list[float]:
        self.shapes[source.name] = source.shape
        return [0.0] * source.shape[0]

    def table(self, source: Source) -> None:
        self.shapes[source.name] = source.shape


def shapes(model: Random) -> dict[str, tuple[int, ...]]:
    """The tensors that the architecture wants, by their names in GGUF."""
    settings = Settings("a test", model.architecture, _Values(f"{model.architecture}.", model.metadata()))
    recorder = _Recorder(model)
    module = models.find(settings)
    module.load(module.config(settings, recorder), recorder)
    return recorder.shapes


def tensors(model: Random, formats: dict[str, str]) -> dict[str, np.ndarray | Encoded]:
    """Random numbers: matrices in the format that `formats` has for their name, or float32."""
    from gguf import GGMLQuantizationType, quants

    rng = np.random.default_rng(5)
    out: dict[str, np.ndarray | Encoded] = {}
    for name, shape in shapes(model).items():
        if len(shape) == 1:
            out[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32) - name.endswith("bias")
            continue
        values = (rng.standard_normal(shape) * 1.5 / shape[-1] ** 0.5).astype(np.float32)
        fmt = formats.get(name.split(".")[-2], formats.get("*", "f32"))
        if fmt == "f32" or shape[-1] % 32 or "position" in name or "gate_inp" in name:
            out[name] = values
        else:
            kind = GGMLQuantizationType[fmt.upper()]
            out[name] = Encoded(int(kind), shape, quants.quantize(values, kind).tobytes())
    return out


def write(model: Random, path: Path, formats: dict[str, str] | None = None) -> Path:
    """Writes the file of a model."""
    path.write_bytes(gguf_bytes(model.metadata(), tensors(model, formats or {})))
    return path


def decoder(path: Path, **options: Any) -> Decoder:
    """The decoder of a file."""
    return Decoder(open_checkpoint(path), **options)
