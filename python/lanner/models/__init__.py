"""Architectures: which file of this folder assembles the models that call themselves by a name."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from lanner import _core

if TYPE_CHECKING:
    from lanner.config import Settings

GGUF = {
    "llama": "llama",
    "smollm3": "llama",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "olmo2": "olmo2",
    "granite": "granite",
    "starcoder2": "starcoder2",
    "qwen2moe": "moe",
    "qwen3moe": "moe",
}
"""By `general.architecture`."""

HF = {
    "llama": "llama",
    "mistral": "llama",
    "smollm3": "llama",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "olmo2": "olmo2",
    "granite": "granite",
    "starcoder2": "starcoder2",
    "mixtral": "moe",
    "qwen2_moe": "moe",
    "qwen3_moe": "moe",
}
"""By `model_type` of a Hugging Face folder."""

ENCODERS = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
}
"""By `model_type` of a Hugging Face folder: models that read whole texts and continue none."""

SEQ2SEQ = {
    "t5": "t5",
    "mt5": "t5",
    "umt5": "t5",
    "marian": "marian",
}
"""By `model_type` of a Hugging Face folder: an encoder, and a decoder that attends to what it read."""


def find(s: Settings) -> ModuleType:
    """The module of an architecture; UnsupportedModelError naming it where there is none."""
    known = GGUF if s.is_gguf else HF | ENCODERS | SEQ2SEQ
    if s.architecture not in known:
        raise _core.UnsupportedModelError(
            f"{s.source}: architecture {s.architecture!r:.80} is not supported, only {', '.join(known)}"
        )
    name = known[s.architecture]
    if s.is_gguf and name == "llama" and s.default("expert_count", 0):
        name = "moe"  # Mixtral calls itself llama
    return importlib.import_module(f"lanner.models.{name}")


def is_encoder(s: Settings) -> bool:
    """Whether the module of an architecture is that of an encoder."""
    return not s.is_gguf and s.architecture in ENCODERS


def is_seq2seq(s: Settings) -> bool:
    """Whether the module of an architecture is that of an encoder-decoder."""
    return not s.is_gguf and s.architecture in SEQ2SEQ


def hf_names(module: ModuleType, s: Settings) -> dict[str, str]:
    """What a folder calls the tensors of an architecture."""
    names: dict[str, str] = module.names(s) if hasattr(module, "names") else module.HF_NAMES
    return names
