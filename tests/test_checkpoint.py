"""The same weights through GGUF, split GGUF and Hugging Face folders give the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lanner.checkpoint import Checkpoint, open_checkpoint
from lanner.decoder import Decoder
from stepping import step_logits
from tiny_folder import folder_contents, write_folder
from tiny_llama import IDS, MODELS, Tiny, make

N_IDS = 70
FLOATS = MODELS["heads_of_20"]  # f16, bf16 and f32 side by side, an own head
NAMES = ("token_embd", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
HALVES = Tiny(16, 160, dict.fromkeys(NAMES, "f16"))


def logits(checkpoint: Checkpoint, **options: object) -> np.ndarray:
    return step_logits(Decoder(checkpoint, **options), IDS[:N_IDS], 64)


def gguf_of(tiny: Tiny, path: Path) -> Checkpoint:
    return open_checkpoint(make(tiny, path).path)


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("tiny", [FLOATS, HALVES], ids=["mixed", "f16"])
def test_gguf_and_folder_give_the_same_bits(tiny: Tiny, n_shards: int, tmp_path: Path) -> None:
    """Interleaved rotary rows there, half-split ones here."""
    folder = open_checkpoint(write_folder(tmp_path / "hf", *folder_contents(tiny), n_shards))
    gguf = gguf_of(tiny, tmp_path / "t.gguf")
    assert (folder.kind, gguf.kind, folder.architecture) == ("hf", "gguf", gguf.architecture)
    ours, theirs = Decoder(folder, n_threads=2), Decoder(gguf, n_threads=1)
    assert np.array_equal(step_logits(ours, IDS[:N_IDS], 64), step_logits(theirs, IDS[:N_IDS], 64))
    assert (ours.n_params, ours.formats) == (theirs.n_params, theirs.formats)
    # GGUF stores epsilon in float32, as the kernels take it.
    assert replace(ours.config, norm_eps=float(np.float32(ours.config.norm_eps))) == theirs.config
