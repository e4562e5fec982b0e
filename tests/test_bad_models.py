"""Files that are well-formed GGUF and yet no model: each is refused by name and crashes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_writer import Encoded, gguf_bytes
from tiny_llama import LAYERS, MODELS, VOCAB, contents

Contents = tuple[dict[str, Any], dict[str, Any]]
FILE, UNSUPPORTED = "ModelFileError", "UnsupportedModelError"


def set_key(key: str, value: Any) -> Callable[[Contents], None]:
    return lambda c: c[0].__setitem__(key, value)


def drop_key(key: str) -> Callable[[Contents], None]:
    return lambda c: c[0].pop(key)


def set_tensor(name: str, value: Any) -> Callable[[Contents], None]:
    return lambda c: c[1].__setitem__(name, value)


def drop_tensor(name: str) -> Callable[[Contents], None]:
    return lambda c: c[1].pop(name)


def with_scale(name: str, scale: float) -> Callable[[Contents], None]:
    """The scale of one block in the middle of a quantized tensor."""

    def change(c: Contents) -> None:
        old = c[1][name]
        data = bytearray(old.data)
        block = {2: 18, 3: 20, 6: 22, 7: 24, 8: 34}[old.type]
        at = len(data) // block // 2 * block
        data[at : at + 2] = np.float16(scale).tobytes()
        c[1][name] = Encoded(old.type, old.shape, bytes(data))

    return change


def with_nan(name: str) -> Callable[[Contents], None]:
    def change(c: Contents) -> None:
        values = np.array(c[1][name])
        values[3] = np.nan
        c[1][name] = values

    return change


NORM, DOWN, Q = "blk.1.ffn_norm.weight", "blk.0.ffn_down.weight", "blk.1.attn_q.weight"
BAD: dict[str, tuple[Callable[[Contents], None], str, str]] = {
    "architecture": (set_key("general.architecture", "mamba9"), UNSUPPORTED, "architecture 'mamba9'"),
    "no architecture": (drop_key("general.architecture"), FILE, "general.architecture is missing"),
    "architecture is a number": (set_key("general.architecture", 7), FILE, "general.architecture is a int"),
    "no head count": (drop_key("llama.attention.head_count"), FILE, "llama.attention.head_count' is missing"),
    "no epsilon": (drop_key("llama.attention.layer_norm_rms_epsilon"), FILE, "rms_epsilon' is missing"),
    "layers are a text": (
        set_key("llama.block_count", "two"),
        FILE,
        "llama.block_count is a str, wanted a int",
    ),
    "no layers": (set_key("llama.block_count", 0), FILE, "llama.block_count is 0"),
    "billions of layers": (set_key("llama.block_count", 2**31 - 1), FILE, "wanted 1 to 4096"),
    "thousands of layers": (set_key("llama.block_count", 4096), FILE, f"'blk.{LAYERS}.attn_norm"),
    "one layer too few": (
        set_key("llama.block_count", LAYERS - 1),
        UNSUPPORTED,
        "does not use, such as 'blk.1.",
    ),
    "heads do not divide": (
        set_key("llama.attention.head_count_kv", 4),
        FILE,
        "6 heads do not divide into 4 KV heads",
    ),
    "head_dim of 2^30": (
        set_key("llama.attention.key_length", 2**30),
        UNSUPPORTED,
        "heads of 1073741824 columns, at most 512 fit",
    ),
    "rope scaling": (
        set_key("llama.rope.scaling.type", "dynamic"),
        UNSUPPORTED,
        "scaling.type is 'dynamic', not none, linear, yarn or longrope",
    ),
    "rope factor": (
        set_key("llama.rope.scaling.factor", 0.0),
        FILE,
        "scaling.factor is 0.0, wanted a finite number above 0",
    ),
    "a key that nothing reads": (
        set_key("llama.logit_scale", 2.0),
        UNSUPPORTED,
        "llama.logit_scale is not known",
    ),
    "not causal": (set_key("llama.attention.causal", False), UNSUPPORTED, "causal is False, only True"),
    "experts by layer": (set_key("llama.expert_count", [0, 0]), FILE, "expert_count is a ndarray"),
    "epsilon NaN": (set_key("llama.attention.layer_norm_rms_epsilon", float("nan")), FILE, "epsilon is nan"),
    "negative rope base": (set_key("llama.rope.freq_base", -5.0), FILE, "freq_base is -5.0, wanted a finite"),
    "infinite rope base": (set_key("llama.rope.freq_base", float("inf")), FILE, "freq_base is inf"),
    "context of 2^31": (set_key("llama.context_length", 2**31 - 1), FILE, "wanted 1 to 16777216"),
    "experts": (set_key("llama.expert_count", 8), FILE, "expert_used_count' is missing"),
    "stated vocabulary": (set_key("llama.vocab_size", VOCAB - 1), FILE, f"vocabulary of {VOCAB - 1}"),
    "token list": (set_key("tokenizer.ggml.tokens", ["a"] * (VOCAB + 1)), FILE, f"{VOCAB + 1} tokens"),
    "no embedding": (drop_tensor("token_embd.weight"), FILE, "'token_embd.weight' is missing"),
    "no tensor of a layer": (drop_tensor(DOWN), FILE, f"{DOWN!r} is missing"),
    "shape": (
        set_tensor(DOWN, np.ones((96, 64), np.float32)),
        FILE,
        "has shape (96, 64), the configuration wants",
    ),
    "a tensor too many": (set_tensor("blk.0.bias", np.ones(3, np.float32)), UNSUPPORTED, "'blk.0.bias'"),
    "norm of a block type": (
        set_tensor(NORM, Encoded(8, (96,), bytes(102))),
        UNSUPPORTED,
        f"{NORM!r} is q8_0",
    ),
    "NaN in a half norm": (set_tensor(NORM, np.full(96, np.nan, np.float16)), FILE, "infinite or NaN value"),
    "NaN in a norm": (with_nan(NORM), FILE, f"{NORM!r} holds an infinite or NaN"),
    "infinite scale": (with_scale(DOWN, np.inf), FILE, f"{DOWN!r}: pack: a q5_1"),
    "NaN scale": (with_scale(Q, np.nan), FILE, "infinite or NaN scale"),
    "NaN in the embedding": (with_scale("token_embd.weight", np.nan), FILE, "'token_embd.weight'"),
}

CHILD = """
import json, sys
from lanner.checkpoint import open_checkpoint
from lanner.decoder import Decoder
for path in sys.argv[1:]:
    try:
        Decoder(open_checkpoint(path), n_threads=2)
        print(json.dumps(["opened", ""]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What one child process says of a good file and of all bad ones; it must end by itself."""
    folder = tmp_path_factory.mktemp("bad")
    changes = {"good": lambda c: None} | {name: change for name, (change, _, _) in BAD.items()}
    paths = []
    for i, change in enumerate(changes.values()):
        metadata, tensors, _ = contents(MODELS["heads_of_16"])
        change((metadata, tensors))
        paths.append(folder / f"{i}.gguf")
        paths[-1].write_bytes(gguf_bytes(metadata, tensors))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    return dict(zip(changes, map(json.loads, child.stdout.splitlines()), strict=True))


def test_the_file_that_is_made_bad_is_good(outcomes: dict[str, list[str]]) -> None:
    assert outcomes["good"] == ["opened", ""]


@pytest.mark.parametrize("name", BAD)
def test_refused_by_name(outcomes: dict[str, list[str]], name: str) -> None:
    _, kind, message = BAD[name]
    assert outcomes[name][0] == kind, outcomes[name]
    assert message in outcomes[name][1]


def test_a_real_file_cut_anywhere(smollm2_path: Path, tmp_path: Path) -> None:
    """Truncation at every 64th of the file, through the public call."""
    n_bytes, cut = smollm2_path.stat().st_size, tmp_path / "cut.gguf"
    code = f"""
import os, shutil
import lanner
shutil.copyfile({str(smollm2_path)!r}, {str(cut)!r})
for part in range(63, -1, -1):
    os.truncate({str(cut)!r}, {n_bytes} * part // 64)
    try:
        lanner.load({str(cut)!r})
        print("opened", part)
    except lanner.ModelFileError as error:
        assert "cut.gguf" in str(error)
print("done")
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout) == (0, "done\n"), child.stderr
