"""Tiny random Llama models against transformers in float32, through files that the gguf package wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from stepping import run_step, step_logits

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle
# float32 sums of a few hundred terms, through two layers; random signs keep them far below this.
MAX_RELATIVE_ERROR = 1e-4
N_CACHED_STEPS = 20

SHAPES = {
    "grouped": {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16},
    "odd head": {"hidden_size": 160, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 20},
    "wide head": {"hidden_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64},
    "one to one": {"hidden_size": 100, "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 20},
}


def random_llama(sizes: dict[str, int], tied: bool):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=211, intermediate_size=176, num_hidden_layers=2, max_position_embeddings=512,
        rope_theta=5000.0, rms_norm_eps=1e-6, tie_word_embeddings=tied, attn_implementation="eager", **sizes,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():  # untrained norms are all ones and untrained logits nearly flat: make both matter
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim == 1 else weight.shape[-1] ** -0.5))
            if "norm" in name:
                weight.add_(1.0)
    return model


def interleaved(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Half-split rotary rows (i, i + head_dim / 2) in the file's order (2i, 2i + 1)."""
    return rows.reshape(-1, 2, head_dim // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(model, path: Path, dtype: type) -> None:
    import gguf

    c = model.config
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_block_count(c.num_hidden_layers)
    out.add_context_length(c.max_position_embeddings)
    out.add_embedding_length(c.hidden_size)
    out.add_feed_forward_length(c.intermediate_size)
    out.add_head_count(c.num_attention_heads)
    out.add_head_count_kv(c.num_key_value_heads)
    out.add_key_length(c.head_dim)
    out.add_value_length(c.head_dim)
    out.add_rope_freq_base(5000.0)
    out.add_layer_norm_rms_eps(c.rms_norm_eps)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        rows = weight.numpy()
        if "q_proj" in name or "k_proj" in name:
            rows = interleaved(rows, c.head_dim)
        rows = rows.astype(np.float32 if rows.ndim == 1 else dtype)
        out.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(rows))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def transformers_logits(model, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def relative_error(given: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_of_prefill_and_cached_steps(shape: str, tied: bool, tmp_path: Path) -> None:
    model = random_llama(SHAPES[shape], tied)
    write_gguf(model, tmp_path / "tiny.gguf", np.float32)
    decoder = Decoder(open_checkpoint(tmp_path / "tiny.gguf"), n_threads=2, kv_dtype="f32")
    ids = np.random.default_rng(1).integers(0, 211, 90).tolist()

    assert (
        relative_error(step_logits(decoder, ids, 64), transformers_logits(model, ids)) <= MAX_RELATIVE_ERROR
    )
    for _ in range(N_CACHED_STEPS):
        ids.append(int(transformers_logits(model, ids)[-1].argmax()))
        assert run_step(decoder, ids[-1:], len(ids) - 1, [0])
        wanted = transformers_logits(model, ids)[-1]
        assert relative_error(decoder.logits(1)[0], wanted) <= MAX_RELATIVE_ERROR
        assert decoder.sampled(1)[0] == wanted.argmax()


def test_float16_weights_and_cache(tmp_path: Path) -> None:
    model = random_llama(SHAPES["grouped"], tied=True)
    with torch.no_grad():  # the same rounded weights on both sides
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(weight.half().float())
    write_gguf(model, tmp_path / "tiny.gguf", np.float16)
    ids = np.random.default_rng(2).integers(0, 211, 70).tolist()
    wanted = transformers_logits(model, ids)
    file = open_checkpoint(tmp_path / "tiny.gguf")
    exact = step_logits(Decoder(file, kv_dtype="f32"), ids, 64)
    assert relative_error(exact, wanted) <= MAX_RELATIVE_ERROR
    # Keys and values rounded to 11 bits: 2^-11 each, through two layers.
    rounded = step_logits(Decoder(file, kv_dtype="f16"), ids, 64)
    assert relative_error(rounded, wanted) <= 4 * 2**-11
