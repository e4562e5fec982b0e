"""Configurations as they stand on the hub, of every family: each is read whole, and gives the model it is."""

from __future__ import annotations

from typing import Any

import pytest

from lanner import UnsupportedModelError, models
from lanner.config import Settings
from lanner.hf_config import HfValues

_COMMON = {"attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.02,
           "use_cache": True, "torch_dtype": "bfloat16", "transformers_version": "4.40.0"}  # fmt: skip


def sizes(
    hidden: int, mlp: int, layers: int, heads: int, kv_heads: int | None, vocab: int, length: int
) -> dict[str, Any]:
    grouped = {} if kv_heads is None else {"num_key_value_heads": kv_heads}
    return _COMMON | grouped | {
        "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers,
        "num_attention_heads": heads, "vocab_size": vocab, "max_position_embeddings": length,
    }  # fmt: skip


LLAMA3_ROPE = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
               "original_max_position_embeddings": 8192, "rope_type": "llama3"}  # fmt: skip
GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 1024, "n_head": 16,
    "n_layer": 24, "n_positions": 1024, "n_special": 0, "predict_special_tokens": True, "resid_pdrop": 0.1,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "vocab_size": 50257,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}  # fmt: skip
PYTHIA = {
    "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 12,
    "num_hidden_layers": 12, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
    "torch_dtype": "float16", "transformers_version": "4.24.0", "use_cache": True,
    "use_parallel_residual": True, "vocab_size": 50304,
}  # fmt: skip

# Name, its config.json, and what must come of it.
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Llama 2 7B": (sizes(4096, 11008, 32, 32, 32, 32000, 4096) | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False},
        {"is_tied": False, "n_kv_heads": 32, "head_dim": 128}),
    "Llama 3.2 1B": (sizes(2048, 8192, 16, 32, 8, 128256, 131072) | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "head_dim": 64,
        "hidden_act": "silu", "mlp_bias": False, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": LLAMA3_ROPE, "rope_theta": 500000.0, "tie_word_embeddings": True},
        {"is_tied": True, "norm_eps": 1e-5}),
    "Mistral 7B v0.1": (sizes(4096, 14336, 32, 32, 8, 32000, 32768) | {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu",
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False},
        {"windows": (4096,) * 32}),
    "Mistral 7B v0.3": (sizes(4096, 14336, 32, 32, 8, 32768, 32768) | {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu",
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False},
        {"windows": (0,) * 32}),
    "SmolLM3 3B": (sizes(2048, 11008, 36, 16, 4, 128256, 65536) | {
        "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "attention_bias": False,
        "hidden_act": "silu", "layer_types": ["full_attention"] * 36, "max_window_layers": 28,
        "mlp_bias": False, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9,
        "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 5000000.0,
        "sliding_window": None, "use_sliding_window": False},
        {"is_tied": True, "rotates": (True, True, True, False) * 9}),
    "Qwen2.5 0.5B": (sizes(896, 4864, 24, 14, 2, 151936, 32768) | {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
        "max_window_layers": 24, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
        "tie_word_embeddings": True, "use_mrope": False, "use_sliding_window": False},
        {"is_tied": True, "windows": (0,) * 24, "has_head_norms": False}),
    "Qwen3 0.6B": (sizes(1024, 3072, 28, 16, 8, 151936, 40960) | {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False,
        "head_dim": 128, "hidden_act": "silu", "max_window_layers": 28, "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
        "use_sliding_window": False},
        {"head_dim": 128, "has_head_norms": True}),
    "Gemma 2 9B": (sizes(3584, 14336, 42, 16, 8, 256000, 8192) | {
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": False,
        "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid", "final_logit_softcapping": 30.0,
        "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
        "sliding_window_size": 4096, "pad_token_id": 0},
        {"attn_softcap": 50.0, "logit_softcap": 30.0, "windows": (4096, 0) * 21, "scale": 1 / 16}),
    "Gemma 3 1B": (sizes(1152, 6912, 26, 4, 1, 262144, 32768) | {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "attention_bias": False,
        "attn_logit_softcapping": None, "cache_implementation": "hybrid", "eos_token_id": [1, 106],
        "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6},
        {"attn_softcap": 0.0, "logit_softcap": 0.0,
         "windows": tuple(0 if (i + 1) % 6 == 0 else 512 for i in range(26))}),
    "Phi-3 mini 4k": (sizes(3072, 8192, 32, 32, 32, 32064, 4096) | {
        "_name_or_path": "Phi-3-mini-4k-instruct", "architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "attention_bias": False,
        "embd_pdrop": 0.0, "hidden_act": "silu", "original_max_position_embeddings": 4096,
        "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": None,
        "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": False},
        {"windows": (2047,) * 32, "head_dim": 96}),
    "Phi-4 mini": (sizes(3072, 8192, 32, 24, 8, 200064, 131072) | {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": False,
        "embd_pdrop": 0.0, "full_attn_mod": 1, "hidden_act": "silu", "interpolate_factor": 1,
        "lm_head_bias": False,
        "mlp_bias": False, "original_max_position_embeddings": 4096, "pad_token_id": 199999,
        "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "rope_scaling": {"long_factor": [2.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
        "sliding_window": 262144, "tie_word_embeddings": True},
        {"is_tied": True, "head_dim": 128}),
    "GPT-2 medium": (GPT2, {"intermediate_size": 4096, "function": "gelu_tanh", "is_tied": True}),
    "Pythia 160M": (PYTHIA, {"is_parallel": True, "function": "gelu", "is_tied": False}),
    "GPT-NeoX 20B": (PYTHIA | {
        "attention_probs_dropout_prob": 0, "hidden_act": "gelu_fast", "hidden_dropout_prob": 0,
        "hidden_size": 6144, "num_attention_heads": 64, "intermediate_size": 24576},
        {"function": "gelu_tanh"}),
    "OLMo 2 1B": (sizes(2048, 8192, 16, 16, 16, 100352, 4096) | {
        "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": False,
        "hidden_act": "silu", "pad_token_id": 100277, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 500000, "tie_word_embeddings": False}, {"head_dim": 128}),
    "Granite 3.1 2B": (sizes(2048, 8192, 40, 32, 8, 49155, 131072) | {
        "architectures": ["GraniteForCausalLM"], "model_type": "granite", "attention_bias": False,
        "attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "hidden_act": "silu",
        "logits_scaling": 8.0, "mlp_bias": False, "pad_token_id": 0, "residual_multiplier": 0.22,
        "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 5000000.0, "tie_word_embeddings": True},
        {"scale": 0.015625, "residual_factor": 0.22, "logit_divisor": 8.0}),
    "StarCoder 2 3B": (sizes(3072, 12288, 30, 24, 2, 49152, 16384) | {
        "activation_function": "gelu", "architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2",
        "attention_softmax_in_fp32": True, "embedding_dropout": 0.1, "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_epsilon": 1e-05, "mlp_type": "default", "norm_epsilon": 1e-05, "norm_type": "layer_norm",
        "residual_dropout": 0.1, "rope_theta": 999999.4420358813, "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True, "sliding_window": 4096, "use_bias": True},
        {"has_biases": True, "is_tied": True}),
    "Mixtral 8x7B": (sizes(4096, 14336, 32, 32, 8, 32000, 32768) | {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu",
        "num_experts_per_tok": 2, "num_local_experts": 8, "output_router_logits": False,
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": None,
        "tie_word_embeddings": False}, {"n_experts": 8, "normalise": True, "windows": (0,) * 32}),
    "Qwen1.5 MoE A2.7B": (sizes(2048, 5632, 24, 16, 16, 151936, 8192) | {
        "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "decoder_sparse_step": 1,
        "hidden_act": "silu", "max_window_layers": 21, "moe_intermediate_size": 1408, "norm_topk_prob": False,
        "num_experts": 60, "num_experts_per_tok": 4, "output_router_logits": False, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 5632,
        "sliding_window": 32768, "tie_word_embeddings": False, "use_sliding_window": False},
        {"n_experts": 60, "normalise": False, "intermediate_size": 1408, "shared_size": 5632}),
    "Qwen3 30B A3B": (sizes(2048, 6144, 48, 32, 4, 151936, 40960) | {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False,
        "decoder_sparse_step": 1, "head_dim": 128, "hidden_act": "silu", "max_window_layers": 48,
        "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": True, "num_experts": 128,
        "num_experts_per_tok": 8, "output_router_logits": False, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": None,
        "tie_word_embeddings": False, "use_sliding_window": False},
        {"n_experts": 128, "n_experts_used": 8, "normalise": True, "intermediate_size": 768}),
}  # fmt: skip


class _Weights:
    """Has the embedding alone, which a configuration is compared with."""

    is_gguf = False

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def n_rows(self, name: str) -> int:
        return self._vocab_size

    def has(self, name: str) -> bool:
        return False

    def skip(self, *names: str) -> None:
        pass


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_is_read_whole(name: str) -> None:
    config, wanted = CONFIGS[name]
    settings = Settings("config.json", config["model_type"], HfValues(config))
    found = models.find(settings).config(settings, _Weights(config["vocab_size"]))
    settings.finish()
    given = {key: getattr(found, key) for key in wanted}
    assert given == wanted


@pytest.mark.parametrize("name", CONFIGS)
def test_any_other_key_is_refused(name: str) -> None:
    config = CONFIGS[name][0] | {"attention_sinks": 4}
    settings = Settings("config.json", config["model_type"], HfValues(config))
    models.find(settings).config(settings, _Weights(config["vocab_size"]))
    with pytest.raises(UnsupportedModelError, match="attention_sinks is not known"):
        settings.finish()
