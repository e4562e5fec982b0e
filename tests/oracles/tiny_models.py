"""Tiny random models of every architecture: what transformers calls them, and what GGUF does."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

VOCAB = 211
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0,
}  # fmt: skip
MULTI_HEAD = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
ODD = SIZES | {
    "hidden_size": 100,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "intermediate_size": 53,
}
"""No width is a multiple of 16, heads have 20 columns."""

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
GLOBAL_AND_LOCAL = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def longrope(head_dim: int, original: int = 64) -> dict[str, Any]:
    factors = np.linspace(1.0, 3.0, head_dim // 2)
    return {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors.tolist(),
        "long_factor": (4 * factors).tolist(), "original_max_position_embeddings": original,
    }  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """One configuration. `gguf` is the architecture in GGUF, "" where it is not written as one."""

    kind: str  # of transformers' classes: <kind>Config, <kind>ForCausalLM
    config: dict[str, Any]
    gguf: str = ""
    keys: dict[str, Any] = field(
        default_factory=dict
    )  # further GGUF keys, or others than those of `gguf_keys`
    classes: tuple[str, str] | None = None
    context: int | None = None  # that it is loaded with

    def make(self) -> Any:
        """The model of transformers, float32, with weights that all matter."""
        config_name, model_name = self.classes or (f"{self.kind}Config", f"{self.kind}ForCausalLM")
        torch.manual_seed(0)
        config = getattr(transformers, config_name)(**self.config, attn_implementation="eager")
        model = getattr(transformers, model_name)(config).float().eval()
        randomize(model)
        return model


def randomize(model: Any) -> None:
    """Untrained norms are all ones, biases zeros, logits nearly flat: make all of them matter."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim == 1 else weight.shape[-1] ** -0.5))
            if weight.ndim == 1 and name.endswith("weight"):
                weight.add_(1.0)


MODELS = {
    "llama": Tiny("Llama", SIZES, "llama"),
    "llama odd": Tiny("Llama", ODD | {"tie_word_embeddings": True}, "llama"),
    "llama 3": Tiny("Llama", SIZES | {"rope_parameters": LLAMA3}, "llama"),
    "llama linear": Tiny("Llama", SIZES | {"rope_parameters": LINEAR}, "llama",
                         {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}),
    "llama yarn": Tiny("Llama", SIZES | {"rope_parameters": YARN, "max_position_embeddings": 128}, "llama", {
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32}),
    "llama biases": Tiny(
        "Llama", ODD | {"attention_bias": True, "num_key_value_heads": 5}, "llama"),
    "mistral": Tiny("Mistral", SIZES | {"sliding_window": 33}),
    "mistral no window": Tiny("Mistral", SIZES | {"sliding_window": None}),
    "smollm3": Tiny("SmolLM3", SIZES | {"num_hidden_layers": 5}, "smollm3"),
    "qwen2": Tiny("Qwen2", SIZES, "qwen2"),
    "qwen2 tied odd": Tiny("Qwen2", ODD | {"tie_word_embeddings": True}, "qwen2"),
    "qwen2 windows": Tiny("Qwen2", SIZES | {
        "use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1}),
    "qwen3": Tiny("Qwen3", SIZES | {"head_dim": 24}, "qwen3"),
    "gemma2": Tiny("Gemma2", SIZES | {
        "head_dim": 24, "sliding_window": 37, "query_pre_attn_scalar": 20, "final_logit_softcapping": 5.0,
        "attn_logit_softcapping": 3.0}),
    "gemma2 file": Tiny("Gemma2", SIZES | {
        "head_dim": 24, "sliding_window": 37, "query_pre_attn_scalar": 24, "final_logit_softcapping": 5.0,
        "attn_logit_softcapping": 3.0}, "gemma2"),
    "gemma2 no caps": Tiny("Gemma2", SIZES | {
        "head_dim": 24, "sliding_window": 37, "final_logit_softcapping": None,
        "attn_logit_softcapping": None}),
    "gemma3": Tiny("Gemma3", SIZES | {
        "num_hidden_layers": 7, "head_dim": 24, "sliding_window": 37, "query_pre_attn_scalar": 24,
        "rope_parameters": GLOBAL_AND_LOCAL}, "gemma3", {
            "rope.freq_base": 1e6, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        classes=("Gemma3TextConfig", "Gemma3ForCausalLM")),
    "phi3": Tiny("Phi3", SIZES | {"sliding_window": 40}, "phi3"),
    "phi3 long": Tiny("Phi3", SIZES | {
        "rope_parameters": longrope(16), "original_max_position_embeddings": 64,
        "max_position_embeddings": 256}, "phi3", {
            "rope.scaling.original_context_length": 64,
            "rope.scaling.attn_factor": (1 + math.log(4) / math.log(64)) ** 0.5}),
    "phi3 short": Tiny("Phi3", SIZES | {
        "rope_parameters": longrope(16, original=200), "original_max_position_embeddings": 200,
        "max_position_embeddings": 256}, "phi3", {
            "rope.scaling.original_context_length": 200,
            "rope.scaling.attn_factor": (1 + math.log(1.28) / math.log(200)) ** 0.5}, context=200),
    "phi4 partial": Tiny("Phi3", SIZES | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}},
        "phi3", {"rope.dimension_count": 12}),
    "gpt2": Tiny("GPT2", {
        "vocab_size": VOCAB, "n_embd": 96, "n_layer": 2, "n_head": 6, "n_positions": 512, "n_inner": 176},
        "gpt2", classes=("GPT2Config", "GPT2LMHeadModel")),
    "gpt2 odd": Tiny("GPT2", {
        "vocab_size": VOCAB, "n_embd": 100, "n_layer": 2, "n_head": 5, "n_positions": 256, "n_inner": 53},
        "gpt2", classes=("GPT2Config", "GPT2LMHeadModel")),
    "pythia": Tiny("GPTNeoX", MULTI_HEAD | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "gptneox", {"rope.dimension_count": 8}),
    "neox in line": Tiny("GPTNeoX", MULTI_HEAD | {"use_parallel_residual": False}, "gptneox"),
    "olmo2": Tiny("Olmo2", SIZES, "olmo2"),
    "granite": Tiny("Granite", SIZES | {
        "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.2,
        "logits_scaling": 8.0}, "granite"),
    "starcoder2": Tiny("Starcoder2", SIZES | {"sliding_window": 45}, "starcoder2"),
    "mixtral": Tiny("Mixtral", SIZES | {"num_local_experts": 5, "num_experts_per_tok": 2}, "llama"),
    "qwen2 moe": Tiny("Qwen2Moe", SIZES | {
        "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 52,
        "shared_expert_intermediate_size": 80}, "qwen2moe"),
    "qwen2 moe normalised": Tiny("Qwen2Moe", SIZES | {
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True,
        "shared_expert_intermediate_size": 80}),
    "qwen3 moe": Tiny("Qwen3Moe", SIZES | {
        "head_dim": 24, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
        "norm_topk_prob": True}, "qwen3moe"),
}  # fmt: skip
"""What is compared."""


# --- the same model as a GGUF file --------------------------------------------------------------------------
def gguf_keys(tiny: Tiny, c: Any) -> dict[str, Any]:
    """Metadata as the converters of llama.cpp write it, without the architecture's prefix."""
    n_heads = c.num_attention_heads
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // n_heads
    names = {
        "rms_norm_eps": "rms_epsilon", "layer_norm_eps": "epsilon", "layer_norm_epsilon": "epsilon",
        "norm_epsilon": "epsilon",
    }  # fmt: skip
    eps = next(name for name in names if hasattr(c, name))
    keys: dict[str, Any] = {
        "block_count": c.num_hidden_layers, "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size, "attention.head_count": n_heads,
        f"attention.layer_norm_{names[eps]}": getattr(c, eps),
        "feed_forward_length": c.n_inner if tiny.kind == "GPT2" else c.intermediate_size,
    }  # fmt: skip
    if tiny.kind != "GPT2":
        keys["attention.head_count_kv"] = getattr(c, "num_key_value_heads", n_heads)
        keys["attention.key_length"] = keys["attention.value_length"] = head_dim
        parameters = c.rope_parameters
        keys["rope.freq_base"] = parameters.get("rope_theta", 0.0)
    if tiny.kind == "GPTNeoX":
        keys["use_parallel_residual"] = c.use_parallel_residual
        keys["rope.dimension_count"] = int(head_dim * parameters.get("partial_rotary_factor", 0.25))
    if getattr(c, "sliding_window", None):
        keys["attention.sliding_window"] = c.sliding_window
    if tiny.kind == "Gemma2":
        keys["attn_logit_softcapping"], keys["final_logit_softcapping"] = (
            c.attn_logit_softcapping,
            c.final_logit_softcapping,
        )
    if tiny.kind == "Granite":
        keys |= {"attention.scale": c.attention_multiplier, "embedding_scale": c.embedding_multiplier,
                 "residual_scale": c.residual_multiplier, "logit_scale": c.logits_scaling}  # fmt: skip
    if hasattr(c, "num_experts_per_tok"):
        keys["expert_count"], keys["expert_used_count"] = (
            c.num_local_experts if tiny.kind != "Qwen2Moe" else c.num_experts,
            c.num_experts_per_tok,
        )
        if tiny.kind != "Mixtral":
            keys["expert_feed_forward_length"] = c.moe_intermediate_size
        if tiny.kind == "Qwen2Moe":
            keys["expert_shared_feed_forward_length"] = c.shared_expert_intermediate_size
    return keys | tiny.keys


def interleaved(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Half-split rotary rows (i, i + head_dim / 2) in the order of a file (2i, 2i + 1)."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def gguf_rows(tiny: Tiny, c: Any, name: str, rows: np.ndarray) -> np.ndarray:
    """A tensor of transformers as the file stores it."""
    n_heads = c.num_attention_heads
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // n_heads
    if tiny.gguf in ("llama", "granite", "smollm3") and ("q_proj" in name or "k_proj" in name):
        return interleaved(rows, head_dim)
    if tiny.kind.startswith("Gemma") and "norm" in name:
        return rows + 1
    if tiny.kind == "GPTNeoX" and "query_key_value" in name:
        return rows.reshape(n_heads, 3, head_dim, -1).swapaxes(0, 1).reshape(rows.shape)
    if tiny.kind == "GPT2" and rows.ndim == 2 and ".h." in name:
        return rows.T
    return rows


def with_experts_stacked(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors "...experts.3.w1.weight" as one of three dimensions, under the name without the number."""
    out: dict[str, np.ndarray] = {}
    stacks: dict[str, dict[int, np.ndarray]] = {}
    for name, rows in state.items():
        head, found, tail = name.partition(".experts.")
        number, _, rest = tail.partition(".")
        if found and number.isdigit():
            stacks.setdefault(f"{head}.experts.{rest}", {})[int(number)] = rows
        else:
            out[name] = rows
    return out | {name: np.stack([parts[i] for i in range(len(parts))]) for name, parts in stacks.items()}


def write_gguf(tiny: Tiny, model: Any, folder: Path, path: Path, dtype: Any = np.float32) -> None:
    """Writes the model, whose folder was saved, with the package gguf. Matrices get `dtype`."""
    import gguf
    from safetensors.numpy import load_file

    c = model.config
    out = gguf.GGUFWriter(str(path), tiny.gguf)
    for key, value in gguf_keys(tiny, c).items():
        add = {bool: out.add_bool, int: out.add_uint32, float: out.add_float32, str: out.add_string}[
            type(value)
        ]
        add(f"{tiny.gguf}.{key}", value)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == tiny.gguf)
    names = gguf.get_tensor_name_map(arch, c.num_hidden_layers)
    for name, rows in with_experts_stacked(load_file(folder / "model.safetensors")).items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known, name
        rows = gguf_rows(tiny, c, name, rows)
        if known.endswith("shexp.weight") and rows.shape[0] == 1:
            rows = rows[0]
        rows = rows.astype(
            np.float32 if rows.ndim == 1 or "position" in known or "gate_inp" in known else dtype
        )
        out.add_tensor(known, np.ascontiguousarray(rows))
    if tiny.config.get("rope_parameters") is LLAMA3:
        out.add_tensor("rope_freqs.weight", llama3_divisors(c))
    parameters = tiny.config.get("rope_parameters") or {}
    for length in ("long", "short"):
        if factors := parameters.get(f"{length}_factor"):
            out.add_tensor(f"rope_factors_{length}.weight", np.array(factors, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def llama3_divisors(c: Any) -> np.ndarray:
    """What Llama 3.1's scaling divides each frequency by, as converters store it."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](c, torch.device("cpu"))
    plain = LLAMA3["rope_theta"] ** (-np.arange(0, c.head_dim, 2) / c.head_dim)
    return (plain / scaled.numpy()).astype(np.float32)
