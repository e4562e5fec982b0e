"""Hugging Face's config.json under the keys of GGUF, and which of its names change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lanner import _core

HfKeys = Mapping[str, "str | tuple[str, ...] | None"]

HF_KEYS: dict[str, str | tuple[str, ...] | None] = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "attention.sliding_window": "sliding_window",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
}
"""By canonical key, the name of most architectures. Keys that are not here have the same name in both."""

HARMLESS_HF = frozenset({
    # Who made the file, with what, and which class of which library opens it: its tensors say what it is.
    "model_type", "architectures", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash",
    "auto_map", "custom_pipelines", "tokenizer_class", "processor_class", "task_specific_params",
    "finetuning_task", "adapters", "unsloth_version", "unsloth_fixed", "transformers.js_config",
    # The type of the stored values; every tensor states its own.
    "dtype", "torch_dtype", "use_bfloat16",
    # How another library runs the model, in memory and in time, and what else it hands out.
    "use_cache", "cache_implementation", "pretraining_tp", "output_attentions", "output_hidden_states",
    "output_router_logits", "return_dict", "use_return_dict", "torchscript", "chunk_size_feed_forward",
    "attn_implementation", "_attn_implementation", "_attn_implementation_autoset",
    "_experts_implementation", "experts_implementation", "gradient_checkpointing", "use_flash_attn",
    "keys_to_ignore_at_inference", "tf_legacy_loss", "base_model_tp_plan", "base_model_pp_plan",
    # Training alone: initial values, dropout, losses.
    "initializer_range", "initializer_factor", "init_std", "attention_dropout", "hidden_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob", "dropout", "dropout_rate", "activation_dropout", "classifier_dropout",
    "classifier_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop", "residual_dropout",
    "embedding_dropout", "summary_first_dropout", "encoder_layerdrop", "decoder_layerdrop", "layerdrop",
    "router_aux_loss_coef", "router_z_loss_coef", "router_jitter_noise",
    # Ids of special tokens and labels: the tokenizer and the caller know them, the layers do not.
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "unk_token_id", "id2label", "label2id", "num_labels", "_num_labels", "problem_type", "prefix",
    # GPT-2's second head, whose tensors a causal model has not.
    "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
    # Defaults of sampling and search, which a caller states with each request.
    "do_sample", "temperature", "top_k", "top_p", "typical_p", "min_p", "num_beams", "num_beam_groups",
    "diversity_penalty", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "num_return_sequences", "early_stopping", "max_length", "min_length",
    "max_new_tokens", "remove_invalid_values", "exponential_decay_length_penalty", "return_dict_in_generate",
    "output_scores", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
    "forced_eos_token_id", "generation_config",
})  # fmt: skip
"""Names that change nothing in what the layers compute."""

HARMLESS_AT: dict[str, tuple[object, ...]] = {
    "is_encoder_decoder": (False,),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "decoder_start_token_id": (),
    "rope_interleaved": (False,),  # pairs of a folder are half-split
    "use_mrope": (False,),
    "is_llama_config": (True,),
    "quantization_config": (),
}
"""Names that every config.json may have, and the values at which they change nothing, null apart."""


class HfValues:
    """The object of a config.json; null means that there is none."""

    is_gguf = False

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._keys = dict(HF_KEYS)
        self._defaults: dict[str, object] = {}
        self._ignored = HARMLESS_HF

    def use(self, keys: HfKeys, defaults: Mapping[str, object], ignored: frozenset[str]) -> None:
        """What an architecture adds to the common table."""
        self._keys.update(keys)
        self._defaults.update(defaults)
        self._ignored |= ignored

    def name(self, key: str) -> str:
        """The name that the file uses, the first of several where it has none."""
        names = self._names(key)
        return next((name for name in names if self._at(name) is not None), names[0] if names else key)

    def find(self, key: str) -> Any:
        """The value of a canonical key; ModelFileError where two of its names differ."""
        found = {name: value for name in self._names(key) if (value := self._at(name)) is not None}
        first = next(iter(found), "")
        value = found.pop(first, None)
        for name, other in found.items():
            if other != value:
                raise _core.ModelFileError(f"config.json: {first} is {value!r:.80}, {name} is {other!r:.80}")
        return value

    def default(self, key: str) -> Any:
        """What the architecture's config class means by a missing key; null means what it says."""
        is_null = any(name in self._config for name in self._names(key))
        return None if is_null else self._defaults.get(key)

    def unread(self, read: set[str]) -> Iterator[str]:
        """Names that are neither read nor known to be harmless; of an object read in part, the rest."""
        names = {name for key in read for name in self._names(key)}
        for name, value in self._config.items():
            if name not in self._ignored and value not in HARMLESS_AT.get(name, ()):
                yield from _left(name, value, names)

    def _names(self, key: str) -> tuple[str, ...]:
        names = self._keys.get(key, key)
        return () if names is None else names if isinstance(names, tuple) else (names,)

    def _at(self, name: str) -> Any:
        value: Any = self._config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def _left(name: str, value: Any, names: set[str]) -> Iterator[str]:
    if value is None or name in names:
        return
    if isinstance(value, dict) and any(other.startswith(f"{name}.") for other in names):
        for inner, each in value.items():
            yield from _left(f"{name}.{inner}", each, names)
    else:
        yield name
