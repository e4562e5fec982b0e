"""What several architectures read alike: names in Hugging Face folders, bounds, sizes, windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner.config import MAX_CONTEXT

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanner._builder_rows import Function
    from lanner.config import Settings
    from lanner.weights import Weights

_LAYER = "model.layers.{}."

HF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{}.attn_norm": f"{_LAYER}input_layernorm",
    "blk.{}.attn_q": f"{_LAYER}self_attn.q_proj",
    "blk.{}.attn_k": f"{_LAYER}self_attn.k_proj",
    "blk.{}.attn_v": f"{_LAYER}self_attn.v_proj",
    "blk.{}.attn_output": f"{_LAYER}self_attn.o_proj",
    "blk.{}.attn_q_norm": f"{_LAYER}self_attn.q_norm",
    "blk.{}.attn_k_norm": f"{_LAYER}self_attn.k_norm",
    "blk.{}.ffn_norm": f"{_LAYER}post_attention_layernorm",
    "blk.{}.ffn_gate": f"{_LAYER}mlp.gate_proj",
    "blk.{}.ffn_up": f"{_LAYER}mlp.up_proj",
    "blk.{}.ffn_down": f"{_LAYER}mlp.down_proj",
}
"""The names of Llama, which most architectures kept."""

FUNCTIONS: dict[str, Function] = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "relu": "relu", "silu": "silu", "swish": "silu",
}  # fmt: skip
"""Names in config.json, and those of `Builder.activate`."""

MAX_LAYERS = 4096
"""More than any model has; a bound for what a file may claim."""

MAX_GROUP_HEADS = 48
"""Query heads that may share a KV head: the rows of a strip (csrc/ops/attention.h)."""

MAX_HEAD_DIM = 512
"""Columns of a head that the kernels have room for (csrc/ops/kv_cache.h)."""

HF_PREFIX = "model."
"""What a folder that was saved without its head leaves out of its names."""

HF_IGNORED = ("*.rotary_emb.inv_freq",)
"""Tensors that follow from the configuration; old versions stored them."""


def sizes(
    s: Settings,
    w: Weights,
    *,
    eps_key: str = "attention.layer_norm_rms_epsilon",
    mlp_ratio: int | None = None,
) -> dict[str, Any]:
    """The fields of a DecoderConfig that every decoder states alike.

    mlp_ratio: width of the MLP over hidden_size where it is not stated.
    """
    hidden_size = s.positive("embedding_length")
    n_heads = s.positive("attention.head_count")
    n_kv_heads = s.positive("attention.head_count_kv", n_heads)
    head_dim = s.positive("attention.key_length", hidden_size // n_heads or 1)
    if head_dim > MAX_HEAD_DIM:
        raise _core.UnsupportedModelError(
            f"{s.source}: heads of {head_dim} columns, at most {MAX_HEAD_DIM} fit"
        )
    if n_heads > MAX_GROUP_HEADS * n_kv_heads:
        raise _core.UnsupportedModelError(
            f"{s.source}: {n_heads} heads over {n_kv_heads} KV heads, at most {MAX_GROUP_HEADS} each fit"
        )
    if n_heads % n_kv_heads:
        raise _core.ModelFileError(f"{s.source}: {n_heads} heads do not divide into {n_kv_heads} KV heads")
    s.must_equal("attention.value_length", head_dim)
    s.must_equal("attention.causal", True)
    n_layers = s.positive("block_count", most=MAX_LAYERS)
    return {
        "architecture": s.architecture,
        "vocab_size": s.vocab_size(w.n_rows("token_embd.weight")),
        "hidden_size": hidden_size,
        "intermediate_size": s.positive("feed_forward_length", mlp_ratio and mlp_ratio * hidden_size),
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "head_dim": head_dim,
        "context_length": s.positive("context_length", most=MAX_CONTEXT),
        "norm_eps": s.real(eps_key),
        "windows": (0,) * n_layers,
    }


def window(s: Settings) -> int:
    """How many positions a layer with a window sees, 0 where there is none."""
    found = s.default("attention.sliding_window", 0)
    if found < 0:
        raise _core.ModelFileError(f"{s.source}: a window of {found} positions, wanted at least 0")
    return found


def function(s: Settings, key: str, otherwise: str) -> Function:
    """What the MLP applies, `otherwise` where a folder does not say; a GGUF file never does."""
    name = s.default(key, otherwise)
    if name not in FUNCTIONS:
        raise _core.UnsupportedModelError(
            f"{s.source}: {s.name(key)} is {name!r:.80}, only {', '.join(FUNCTIONS)} are supported"
        )
    return FUNCTIONS[name]


def is_tied(s: Settings, w: Weights, otherwise: bool) -> bool:
    """Whether the head is the embedding: a GGUF file shows it, a folder says so (`otherwise` where not)."""
    if s.is_gguf:
        return not w.has("output.weight")
    return s.default("tie_word_embeddings", otherwise)


def layer_windows(
    s: Settings, n_layers: int, window: int, is_local: Callable[[int], bool]
) -> tuple[int, ...]:
    """The window of every layer, 0 where it sees all: by `layer_types` of a folder, else by `is_local`."""
    types = None if s.is_gguf else s.raw("layer_types")
    if types is None:
        types = ["sliding_attention" if is_local(i) else "full_attention" for i in range(n_layers)]
    known = ("sliding_attention", "full_attention")
    if not isinstance(types, list) or len(types) != n_layers:
        raise _core.ModelFileError(f"{s.source}: layer_types is no list of {n_layers} names")
    for kind in types:
        if kind not in known:
            raise _core.UnsupportedModelError(
                f"{s.source}: layer_types has {kind!r:.80}, only {' and '.join(known)} are supported"
            )
    return tuple(window if kind == "sliding_attention" else 0 for kind in types)
