"""Tokenizer: ids of the reference data and of the package `tokenizers`, special tokens, streaming."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gguf_writer as w
import vocabulary as v
from lanner._core import Bpe, GgufFile, ModelFileError, UnsupportedModelError
from lanner.pretokenizers import pre_tokenizer
from lanner.tokenizer import SpecialIds, Tokenizer
from lanner.tokenizer_gguf import ByteLevel

GOLDEN = Path(__file__).parent / "golden"
TINY = Tokenizer(ByteLevel(Bpe(v.TOKENS, v.TOKEN_TYPES, v.MERGE_TEXTS), pre_tokenizer("gpt-2")), SpecialIds())

Open = Callable[..., Tokenizer]


@pytest.fixture
def tiny(tmp_path: Path) -> Open:
    """Opens a file of the small vocabulary with some keys changed; None removes one."""

    def open_tokenizer(changes: dict[str, Any] | None = None) -> Tokenizer:
        metadata = {key: value for key, value in (v.METADATA | (changes or {})).items() if value is not None}
        path = tmp_path / "tiny.gguf"
        path.write_bytes(w.gguf_bytes(metadata, {}))
        return Tokenizer.from_gguf(GgufFile(str(path)))

    return open_tokenizer


@pytest.fixture(scope="module")
def real(smollm2_path: Path) -> Tokenizer:
    return Tokenizer.from_gguf(GgufFile(str(smollm2_path)))


def reference(tokens: list[str], types: list[int], merges: list[str], pre: Any) -> Any:
    """The same vocabulary in the package `tokenizers`."""
    tokenizers = pytest.importorskip("tokenizers")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    model = tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, pairs)
    out = tokenizers.Tokenizer(model)
    out.pre_tokenizer, out.decoder = pre, tokenizers.decoders.ByteLevel()
    for token, kind in zip(tokens, types, strict=True):
        added = tokenizers.AddedToken(token, normalized=False, special=kind != v.USER_DEFINED)
        if kind in (v.UNKNOWN, v.CONTROL):
            out.add_special_tokens([added])
        elif kind == v.USER_DEFINED:
            out.add_tokens([added])
    return out


def byte_level(*stages: Any) -> Any:
    pre_tokenizers = pytest.importorskip("tokenizers").pre_tokenizers
    return pre_tokenizers.Sequence([*stages, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def test_ids_equal_the_reference_data(real: Tokenizer) -> None:
    prompts = json.loads((GOLDEN / "prompts.json").read_text())
    golden = np.load(GOLDEN / "smollm2-135m-q4_1.npz")
    for i, prompt in enumerate(prompts):
        assert real.encode(prompt) == golden[f"p{i}_ids"].tolist()
        assert real.decode(golden[f"p{i}_ids"], skip_special=False) == prompt


def test_ids_equal_tokenizers_on_a_real_vocabulary(real: Tokenizer, smollm2_path: Path) -> None:
    digits = pytest.importorskip("tokenizers").pre_tokenizers.Digits(individual_digits=True)
    gguf = GgufFile(str(smollm2_path))
    parts = [gguf.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges")]
    oracle = reference(parts[0], parts[1].tolist(), parts[2], byte_level(digits))
    rng = random.Random(1)
    for _ in range(1500):
        text = v.random_text(rng)
        ids = real.encode(text)
        assert ids == oracle.encode(text).ids, repr(text)
        assert real.decode(ids, skip_special=False) == text


def test_ids_equal_tokenizers_on_a_small_vocabulary() -> None:
    oracle = reference(v.TOKENS, v.TOKEN_TYPES, v.MERGE_TEXTS, byte_level())
    rng = random.Random(2)
    for _ in range(1000):
        text = v.random_text(rng)
        assert TINY.encode(text) == oracle.encode(text).ids, repr(text)


@given(st.text())
def test_text_survives(text: str) -> None:
    assert TINY.decode(TINY.encode(text, False), skip_special=False) == text
    assert TINY.decode(TINY.encode(text, False, parse_special=False)) == text


# ---- special tokens ------------------------------------------------------------------------------


def test_control_tokens_are_parsed_on_request(tiny: Open) -> None:
    t = tiny()
    end, think = v.ID["<|im_end|>"], v.ID["<think>"]
    assert t.encode("a<|im_end|><think>") == [97, end, think]
    plain = t.encode("a<|im_end|><think>", parse_special=False)
    assert end not in plain
    assert plain[-1] == think
    assert t.decode(plain) == "a<|im_end|><think>"


def test_decode_leaves_out_what_is_not_text(tiny: Open) -> None:
    t = tiny()
    ids = [97, v.ID["<|im_end|>"], v.ID["<unk>"], v.ID["<think>"], v.ID["[PAD1]"], 98]
    assert t.decode(ids) == "a<think>b"
    assert t.decode(ids, skip_special=False) == "a<|im_end|><unk><think>[PAD1]b"
    assert t.decode(np.array(ids, np.int32)) == "a<think>b"
    with pytest.raises(TypeError):
        t.decode([1.5])  # type: ignore[list-item]


def test_bos_and_eos(tiny: Open) -> None:
    bos, eos = v.ID["<|im_start|>"], v.ID["<|im_end|>"]
    assert tiny().encode("a") == [97]
    assert tiny().encode("") == []
    t = tiny({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True})
    assert t.encode("a") == [bos, 97, eos]
    assert t.encode("a", add_special=False) == [97]
    assert t.encode("<|im_start|>a") == [bos, 97, eos]  # a rendered template brings its own
    assert t.encode("") == [bos, eos]
    assert (t.bos_id, t.eos_id, t.unk_id, t.add_bos) == (bos, eos, v.ID["<unk>"], True)
    assert tiny({"tokenizer.ggml.pre": "llama-bpe"}).add_bos
    assert not tiny({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": False}).add_bos


def test_end_of_generation_ids(tiny: Open) -> None:
    ends = {v.ID["<|im_end|>"], v.ID["<|endoftext|>"]}
    assert tiny().eos_ids == ends
    assert tiny({"tokenizer.ggml.eot_token_id": 5}).eos_ids == ends | {5}
    assert tiny({"tokenizer.ggml.eos_token_id": None}).eos_ids == ends
    old = tiny({"tokenizer.ggml.token_type": None})  # names that mean one thing count without a type
    assert old.eos_ids == ends
    assert old.encode("<|im_end|>") == [v.ID["<|im_end|>"]]


def test_space_prefix(tiny: Open) -> None:
    t = tiny({"tokenizer.ggml.add_space_prefix": True})
    assert t.encode("the<|im_end|>the the") == [
        *t.encode(" the"),
        v.ID["<|im_end|>"],
        *t.encode(" the the"),
    ]


REFUSED = {
    "model": (
        {"tokenizer.ggml.model": "rwkv"},
        UnsupportedModelError,
        "model is 'rwkv', 'gpt2' or 'llama' was wanted",
    ),
    "pre": (
        {"tokenizer.ggml.pre": "zorblax"},
        UnsupportedModelError,
        "tokenizer.ggml.pre is 'zorblax', known",
    ),
    "no_pre": ({"tokenizer.ggml.pre": None}, ModelFileError, "tokenizer.ggml.pre is missing"),
    "no_merges": ({"tokenizer.ggml.merges": None}, ModelFileError, "tokenizer.ggml.merges"),
    "no_tokens": ({"tokenizer.ggml.tokens": None}, ModelFileError, "tokenizer.ggml.tokens"),
    "tokens_kind": ({"tokenizer.ggml.tokens": list(range(300))}, ModelFileError, "tokenizer.ggml.tokens"),
    "pre_kind": ({"tokenizer.ggml.pre": 3}, ModelFileError, "tokenizer.ggml.pre is 3, a str was wanted"),
    "flag_kind": ({"tokenizer.ggml.add_bos_token": 1}, ModelFileError, "is 1, a bool was wanted"),
    "eos_range": (
        {"tokenizer.ggml.eos_token_id": 9999},
        ModelFileError,
        "eos_token_id is 9999, vocab_size is 285",
    ),
    "no_bos": (
        {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None},
        ModelFileError,
        "tokenizer.ggml.bos_token_id",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_files_are_refused_by_name(tiny: Open, case: str) -> None:
    changes, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        tiny(changes)


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lone surrogate, '\\ud800'"):
        TINY.encode("a\ud800b")
    with pytest.raises(ValueError, match="lone surrogate"):
        TINY.encode("<think>\udfff")


# ---- streaming -----------------------------------------------------------------------------------

_TOKEN_IDS = (
    st.integers(0, len(v.TOKENS) - 1) | st.integers(0x80, 0xFF) | st.sampled_from([0xE2, 0x82, 0xF0, 0x9F])
)


@given(st.lists(_TOKEN_IDS, max_size=40), st.booleans())
def test_stream_equals_decode_for_every_prefix(ids: list[int], skip_special: bool) -> None:
    stream, text = TINY.stream(skip_special), ""
    for n, id in enumerate(ids, start=1):
        text += stream.push(id)
        rest = TINY.stream(skip_special)
        prefix = "".join(rest.push(i) for i in ids[:n])
        assert prefix == text
        assert prefix + rest.flush() == TINY.decode(ids[:n], skip_special)
        assert text + stream.fork().flush() == TINY.decode(ids[:n], skip_special)
    assert text + stream.flush() == TINY.decode(ids, skip_special)
    assert stream.flush() == ""


def test_stream_holds_a_character_back_until_it_is_whole() -> None:
    stream = TINY.stream()
    assert [stream.push(b) for b in "€a".encode()] == ["", "", "€", "a"]
    assert [stream.push(b) for b in b"\xe2\x82a"] == ["", "", "\ufffda"]
    assert stream.push(v.ID["<|im_end|>"]) == ""


def test_stream_of_a_real_vocabulary(real: Tokenizer) -> None:
    text = "naïve 深度学习 👨\u200d👩\u200d👧 नमस्ते" * 3
    stream = real.stream()
    assert "".join(stream.push(id) for id in real.encode(text)) + stream.flush() == text


# ---- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a" * 2**20, " " * 2**20 + "x", "\n " * 2**19, "1" * 2**20, "'" * 2**20])
@pytest.mark.parametrize("pre", ["smollm", "llama-bpe", "qwen2", "tekken", "deepseek-v3"])
def test_hostile_megabyte(pre: str, text: str) -> None:
    t = Tokenizer(ByteLevel(Bpe(v.TOKENS, v.TOKEN_TYPES, v.MERGE_TEXTS), pre_tokenizer(pre)), SpecialIds())
    start = time.perf_counter()
    assert t.decode(t.encode(text)) == text
    assert time.perf_counter() - start < 10  # quadratic would take minutes


def test_libraries_are_imported_where_they_are_used() -> None:
    code = "import sys, lanner.tokenizer; sys.exit(any(m in sys.modules for m in ('regex', 'jinja2')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
