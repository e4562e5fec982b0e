"""Folders as transformers saves them, against its logits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
from stepping import run_step, step_logits

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from test_transformers_llama import (  # noqa: E402
    MAX_RELATIVE_ERROR,
    N_CACHED_STEPS,
    SHAPES,
    random_llama,
    relative_error,
    transformers_logits,
)

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_of_prefill_and_cached_steps(shape: str, tied: bool, tmp_path: Path) -> None:
    model = random_llama(SHAPES[shape], tied)
    model.save_pretrained(tmp_path)
    decoder = Decoder(open_checkpoint(tmp_path), n_threads=2, kv_dtype="f32")
    ids = np.random.default_rng(1).integers(0, 211, 90).tolist()
    wanted = transformers_logits(model, ids)
    assert relative_error(step_logits(decoder, ids, 64), wanted) <= MAX_RELATIVE_ERROR
    for _ in range(N_CACHED_STEPS):
        ids.append(int(wanted[-1].argmax()))
        assert run_step(decoder, ids[-1:], len(ids) - 1, [0])
        wanted = transformers_logits(model, ids)
        assert relative_error(decoder.logits(1)[0], wanted[-1]) <= MAX_RELATIVE_ERROR
        assert decoder.sampled(1)[0] == wanted[-1].argmax()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_shards_in_half_precision(dtype: str, tmp_path: Path) -> None:
    """The values are rounded once, by transformers, and then the same on both sides."""
    model = random_llama(SHAPES["grouped"], tied=False).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    decoder = Decoder(open_checkpoint(tmp_path), kv_dtype="f32")
    assert set(decoder.formats) == {{"float16": "f16", "bfloat16": "bf16"}[dtype]}
    ids = np.random.default_rng(2).integers(0, 211, 70).tolist()
    # Opened anew: `to` has rounded the frequencies of the rotary embedding as well.
    opened = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    wanted = transformers_logits(opened.eval(), ids)
    assert relative_error(step_logits(decoder, ids, 64), wanted) <= MAX_RELATIVE_ERROR


def test_a_model_without_its_head_is_refused(tmp_path: Path) -> None:
    from lanner._core import ModelFileError

    random_llama(SHAPES["grouped"], tied=False).model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaModel"]
    with pytest.raises(ModelFileError, match=r"lm_head\.weight' is missing"):
        Decoder(open_checkpoint(tmp_path))
