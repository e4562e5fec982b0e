"""Small random encoder-decoders as Hugging Face folders, and what they compute, in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tiny_folder import write_folder

N_BUCKETS, MAX_DISTANCE = 12, 20
FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class TinySeq2Seq:
    """One model; no width is a multiple of 16. `kind` is "t5", gated or not, or "marian"."""

    kind: str
    vocab: int = 61
    hidden: int = 36
    n_heads: int = 3
    head_dim: int = 12
    ffn: int = 21
    n_encoder_layers: int = 2
    n_decoder_layers: int = 2
    gated: bool = False
    n_positions: int = 64
    changes: Mapping[str, Any] = field(default_factory=dict)  # of config.json
    generation: Mapping[str, Any] = field(default_factory=dict)  # generation_config.json

    @property
    def start_id(self) -> int:
        return 0 if self.kind == "t5" else self.vocab - 1

    @property
    def end_id(self) -> int:
        return 1 if self.kind == "t5" else 0

    def config(self) -> dict[str, Any]:
        common = {
            "model_type": self.kind, "vocab_size": self.vocab, "d_model": self.hidden,
            "is_encoder_decoder": True, "decoder_start_token_id": self.start_id, "eos_token_id": self.end_id,
            "torch_dtype": "float32", "dropout_rate": 0.1, "use_cache": True,
        }  # fmt: skip
        if self.kind == "t5":
            own = {
                "d_kv": self.head_dim, "d_ff": self.ffn, "num_heads": self.n_heads,
                "num_layers": self.n_encoder_layers, "num_decoder_layers": self.n_decoder_layers,
                "relative_attention_num_buckets": N_BUCKETS, "relative_attention_max_distance": MAX_DISTANCE,
                "feed_forward_proj": "gated-gelu" if self.gated else "relu", "n_positions": self.n_positions,
                "layer_norm_epsilon": 1e-6, "pad_token_id": 0, "tie_word_embeddings": True,
            }  # fmt: skip
        else:
            own = {
                "encoder_layers": self.n_encoder_layers, "decoder_layers": self.n_decoder_layers,
                "encoder_attention_heads": self.n_heads, "decoder_attention_heads": self.n_heads,
                "encoder_ffn_dim": self.ffn, "decoder_ffn_dim": self.ffn, "activation_function": "swish",
                "scale_embedding": True, "max_position_embeddings": self.n_positions,
                "pad_token_id": self.start_id, "forced_eos_token_id": self.end_id,
                "bad_words_ids": [[self.start_id]], "num_beams": 6,
                "static_position_embeddings": True, "normalize_before": False,
            }  # fmt: skip
        return {**common, **own, **self.changes}

    def tensors(self) -> Arrays:
        rng = np.random.default_rng(5)
        shapes = self._t5_shapes() if self.kind == "t5" else self._marian_shapes()
        out = {}
        for name, shape in shapes.items():
            is_norm = "norm.weight" in name
            spread = (
                1.0
                if "attention_bias" in name
                else 0.3
                if len(shape) == 1 or shape[0] == 1
                else shape[-1] ** -0.5
            )
            out[name] = (rng.standard_normal(shape) * spread + is_norm).astype(np.float32)
        return out

    def _t5_shapes(self) -> dict[str, tuple[int, ...]]:
        hidden, inner = self.hidden, self.n_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"shared.weight": (self.vocab, hidden)}
        for side, n in (("encoder", self.n_encoder_layers), ("decoder", self.n_decoder_layers)):
            kinds = ["SelfAttention"] + ["EncDecAttention"] * (side == "decoder")
            table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            shapes[table] = (N_BUCKETS, self.n_heads)
            for i in range(n):
                at = f"{side}.block.{i}.layer"
                for j, kind in enumerate(kinds):
                    shapes |= {f"{at}.{j}.{kind}.{x}.weight": (inner, hidden) for x in "qkv"}
                    shapes[f"{at}.{j}.{kind}.o.weight"] = (hidden, inner)
                    shapes[f"{at}.{j}.layer_norm.weight"] = (hidden,)
                j = len(kinds)
                shapes |= {f"{at}.{j}.DenseReluDense.{x}.weight": (self.ffn, hidden) for x in self._ups}
                shapes[f"{at}.{j}.DenseReluDense.wo.weight"] = (hidden, self.ffn)
                shapes[f"{at}.{j}.layer_norm.weight"] = (hidden,)
            shapes[f"{side}.final_layer_norm.weight"] = (hidden,)
        return shapes

    @property
    def _ups(self) -> tuple[str, ...]:
        return ("wi_0", "wi_1") if self.gated else ("wi",)

    def _marian_shapes(self) -> dict[str, tuple[int, ...]]:
        hidden = self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "model.shared.weight": (self.vocab, hidden), "final_logits_bias": (1, self.vocab)}  # fmt: skip
        for side, n in (("encoder", self.n_encoder_layers), ("decoder", self.n_decoder_layers)):
            kinds = ["self_attn"] + ["encoder_attn"] * (side == "decoder")
            for i in range(n):
                at = f"model.{side}.layers.{i}"
                matrices = {
                    f"{kind}.{x}_proj": (hidden, hidden) for kind in kinds for x in ("q", "k", "v", "out")
                }
                matrices |= {"fc1": (self.ffn, hidden), "fc2": (hidden, self.ffn)}
                norms = [*(f"{kind}_layer_norm" for kind in kinds), "final_layer_norm"]
                for name, shape in matrices.items():
                    shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
                for name in norms:
                    shapes |= {f"{at}.{name}.weight": (hidden,), f"{at}.{name}.bias": (hidden,)}
        return shapes

    def write(self, folder: Path, tensors: Arrays | None = None) -> Path:
        stored = {name: ("F32", x.shape, x.tobytes()) for name, x in (tensors or self.tensors()).items()}
        write_folder(folder, self.config(), stored)
        if self.generation:
            (folder / "generation_config.json").write_text(json.dumps(self.generation))
        return folder


# --- what they compute --------------------------------------------------------------------------------------
def bucket(distance: int, both_sides: bool) -> int:
    """Of key position minus query position, by the borders of the buckets."""
    n, first = N_BUCKETS, 0
    if both_sides:
        n //= 2
        first = n if distance > 0 else 0
    distance = abs(distance) if both_sides else max(-distance, 0)
    n_exact = n // 2
    if distance < n_exact:
        return first + distance
    borders = [n_exact * (MAX_DISTANCE / n_exact) ** (k / (n - n_exact)) for k in range(n - n_exact)]
    return first + n_exact + sum(distance >= border for border in borders[1:])


class Reference:
    """The model in float64, every target computed anew from its start."""

    def __init__(self, tiny: TinySeq2Seq) -> None:
        self.tiny = tiny
        self.w = {name: x.astype(np.float64) for name, x in tiny.tensors().items()}

    def logits(self, source: Sequence[int], target: Sequence[int]) -> np.ndarray:
        """(len(target), vocab)."""
        t5 = self.tiny.kind == "t5"
        hidden = self._t5("encoder", source, None) if t5 else self._marian("encoder", source, None)
        x = self._t5("decoder", target, hidden) if t5 else self._marian("decoder", target, hidden)
        if t5:
            return x * self.tiny.hidden**-0.5 @ self.w["shared.weight"].T
        return x @ self.w["model.shared.weight"].T + self.w["final_logits_bias"]

    def greedy(self, source: Sequence[int], n: int, forbidden: Sequence[int] = ()) -> list[int]:
        ids = [self.tiny.start_id]
        while len(ids) <= n and (len(ids) == 1 or ids[-1] != self.tiny.end_id):
            last = self.logits(source, ids)[-1]
            last[list(forbidden)] = -np.inf
            ids.append(int(last.argmax()))
        return ids[1:]

    def _t5(self, side: str, ids: Sequence[int], sources: np.ndarray | None) -> np.ndarray:
        w, n = self.w, len(ids)
        table = w[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        bias = np.array(
            [[table[bucket(j - i, sources is None)] for j in range(n)] for i in range(n)]
        ).transpose(2, 0, 1)
        if sources is not None:
            bias = bias + causal(n)

        def norm(x: np.ndarray, name: str) -> np.ndarray:
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]

        x = w["shared.weight"][list(ids)]
        for i in range(self.tiny.n_encoder_layers if sources is None else self.tiny.n_decoder_layers):
            at = f"{side}.block.{i}.layer"
            h = norm(x, f"{at}.0.layer_norm")
            x = x + self._attention(h, h, [f"{at}.0.SelfAttention.{name}" for name in "qkvo"], 1.0, bias)
            j = 1
            if sources is not None:
                names = [f"{at}.1.EncDecAttention.{name}" for name in "qkvo"]
                x = x + self._attention(norm(x, f"{at}.1.layer_norm"), sources, names, 1.0, 0.0)
                j = 2
            h = norm(x, f"{at}.{j}.layer_norm")
            ups = [h @ w[f"{at}.{j}.DenseReluDense.{name}.weight"].T for name in self.tiny._ups]
            h = FUNCTIONS["gelu_new"](ups[0]) * ups[1] if self.tiny.gated else FUNCTIONS["relu"](ups[0])
            x = x + h @ w[f"{at}.{j}.DenseReluDense.wo.weight"].T
        return norm(x, f"{side}.final_layer_norm")

    def _marian(self, side: str, ids: Sequence[int], sources: np.ndarray | None) -> np.ndarray:
        w, hidden, n = self.w, self.tiny.hidden, len(ids)
        mask = 0.0 if sources is None else causal(n)

        def norm(x: np.ndarray, name: str) -> np.ndarray:
            x = x - x.mean(-1, keepdims=True)
            x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
            return x * w[f"{name}.weight"] + w[f"{name}.bias"]

        def linear(x: np.ndarray, name: str) -> np.ndarray:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        angles = np.arange(n)[:, None] * 10000.0 ** (-np.arange(0, hidden, 2) / hidden)
        x = w["model.shared.weight"][list(ids)] * hidden**0.5 + np.concatenate(
            [np.sin(angles), np.cos(angles)], axis=1
        )
        for i in range(self.tiny.n_encoder_layers if sources is None else self.tiny.n_decoder_layers):
            at = f"model.{side}.layers.{i}"
            for kind, keys in (("self_attn", x), ("encoder_attn", sources)):
                if keys is not None:
                    names = [f"{at}.{kind}.{name}_proj" for name in ("q", "k", "v", "out")]
                    scale = self.tiny.head_dim**-0.5
                    bias = mask if kind == "self_attn" else 0.0
                    attended = self._attention(x, x if kind == "self_attn" else keys, names, scale, bias)
                    x = norm(x + attended, f"{at}.{kind}_layer_norm")
            h = FUNCTIONS["swish"](linear(x, f"{at}.fc1"))
            x = norm(x + linear(h, f"{at}.fc2"), f"{at}.final_layer_norm")
        return x

    def _attention(
        self, x: np.ndarray, keys: np.ndarray, names: list[str], scale: float, bias: np.ndarray | float
    ) -> np.ndarray:
        def linear(x: np.ndarray, name: str) -> np.ndarray:
            return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)

        q, k, v = (
            linear(rows, name).reshape(len(rows), self.tiny.n_heads, self.tiny.head_dim).swapaxes(0, 1)
            for rows, name in zip((x, keys, keys), names, strict=False)
        )
        scores = q @ k.swapaxes(1, 2) * scale + bias
        p = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (p / p.sum(-1, keepdims=True)) @ v
        return linear(mixed.swapaxes(0, 1).reshape(len(x), -1), names[3])


def causal(n: int) -> np.ndarray:
    """0 where a query sees a key, -inf elsewhere."""
    return np.where(np.tri(n, dtype=bool), 0.0, -np.inf)
