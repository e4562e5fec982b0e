"""SentencePiece vocabularies: ids of the package `sentencepiece` and of reference data, bad files, time."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gguf_writer as w
import spm_vocabulary as sv
import vocabulary as v
from conftest import GOLDEN, model_path
from lanner._core import GgufFile, ModelFileError, Spm, UnsupportedModelError
from lanner.tokenizer import SpecialIds, Tokenizer

TINY = Spm(sv.TOKENS, sv.SCORES, sv.TYPES, unk_id=0)
PLAIN = Spm(sv.TOKENS, sv.SCORES, sv.TYPES, unk_id=0, add_space_prefix=False)
SPACE = "▁".encode()

Open = Callable[..., Tokenizer]


@pytest.fixture
def tiny(tmp_path: Path) -> Open:
    """Opens a file of the small vocabulary with some keys changed; None removes one."""

    def open_tokenizer(changes: dict[str, Any] | None = None) -> Tokenizer:
        metadata = {key: value for key, value in (sv.METADATA | (changes or {})).items() if value is not None}
        path = tmp_path / "tiny.gguf"
        path.write_bytes(w.gguf_bytes(metadata, {}))
        return Tokenizer.from_gguf(GgufFile(str(path)))

    return open_tokenizer


@pytest.fixture(scope="module")
def gemma_file() -> GgufFile:
    return GgufFile(str(model_path("gemma3-270m")))


@pytest.fixture(scope="module")
def gemma(gemma_file: GgufFile) -> Tokenizer:
    return Tokenizer.from_gguf(gemma_file)


def reference(tokens: list[str], scores: list[float], types: list[int], **options: bool) -> Any:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = sv.model_bytes(tokens, scores, types, **options)
    return sentencepiece.SentencePieceProcessor(model_proto=model)


# ---- ids -----------------------------------------------------------------------------------------


def test_ids_equal_the_reference_data(gemma: Tokenizer) -> None:
    golden = np.load(GOLDEN / "gemma-3-270m-q4_k_m.npz")
    for i, prompt in enumerate(json.loads((GOLDEN / "prompts.json").read_text())):
        assert gemma.encode(prompt) == golden[f"p{i}_ids"].tolist()
        assert gemma.decode(golden[f"p{i}_ids"]) == prompt


def test_ids_equal_sentencepiece_on_a_real_vocabulary(gemma: Tokenizer, gemma_file: GgufFile) -> None:
    tokens = gemma_file.get("tokenizer.ggml.tokens")
    types = gemma_file.get("tokenizer.ggml.token_type").tolist()
    types[tokens.index("<unk>")] = v.UNKNOWN  # control in the file; SentencePiece insists on one
    scores = gemma_file.get("tokenizer.ggml.scores").tolist()
    oracle = reference(tokens, scores, types, add_dummy_prefix=False)
    rng = random.Random(1)
    texts = [v.random_text(rng) for _ in range(1500)]
    texts += ["".join(rng.choices(tokens, k=rng.randrange(1, 30))) for _ in range(500)]
    texts += ["".join(rng.choices("▁ \nab\t<", k=rng.randrange(1, 80))) for _ in range(500)]
    for text in texts:
        ids = gemma.encode(text, False, parse_special=False)
        assert ids == oracle.encode(text), repr(text)
        assert gemma.decode(ids, skip_special=False) == text.replace("▁", " ")


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("remove", [True, False])
def test_ids_equal_sentencepiece_on_a_small_vocabulary(prefix: bool, remove: bool) -> None:
    """Special tokens in a text are left out: a space follows them here and in llama.cpp, not there."""
    kept = [i for i, kind in enumerate(sv.TYPES) if kind not in (v.USER_DEFINED, v.UNUSED)]
    parts = [sv.TOKENS[i] for i in kept], [sv.SCORES[i] for i in kept], [sv.TYPES[i] for i in kept]
    oracle = reference(*parts, add_dummy_prefix=prefix, remove_extra_whitespaces=remove)
    ours = Spm(*parts, unk_id=0, add_space_prefix=prefix, remove_extra_whitespaces=remove)
    rng = random.Random(2)
    for _ in range(1500):
        text = sv.random_text(rng)
        if remove:  # there U+2581 is a space as well
            text = text.replace("▁", " ")
        assert ours.encode(text, False) == oracle.encode(text), repr(text)


def test_user_defined_tokens_equal_sentencepiece() -> None:
    kept = [i for i, kind in enumerate(sv.TYPES) if kind != v.UNUSED and sv.TOKENS[i] != "▁▁"]  # as "  "
    parts = [sv.TOKENS[i] for i in kept], [sv.SCORES[i] for i in kept], [sv.TYPES[i] for i in kept]
    oracle = reference(*parts, add_dummy_prefix=False)
    ours = Spm(*parts, unk_id=0, add_space_prefix=False)
    rng = random.Random(3)
    for _ in range(1500):
        text = sv.random_text(rng)
        assert ours.encode(text, False) == oracle.encode(text), repr(text)


@pytest.mark.parametrize("seed", range(40))
def test_random_vocabularies_equal_sentencepiece(seed: int) -> None:
    """Tokens and scores at random, many scores equal; with and without bytes to fall back to."""
    rng = random.Random(seed)
    words = sorted({"".join(rng.choices("ab▁é", k=rng.randrange(1, 7))) for _ in range(60)})
    tokens = ["<unk>", "<s>", "</s>", *words]
    types = [v.UNKNOWN, v.CONTROL, v.CONTROL, *[v.NORMAL] * len(words)]
    if seed % 2:
        tokens += [f"<0x{b:02X}>" for b in range(256)]
        types += [v.BYTE] * 256
    scores = [rng.choice((0.0, -1.5, 2.0, -1e30, rng.random())) for _ in tokens]
    oracle = reference(tokens, scores, types, add_dummy_prefix=True)
    ours = Spm(tokens, scores, types, unk_id=0)
    for _ in range(60):
        text = "".join(rng.choices("ababab é▁x日", k=rng.randrange(1, 60)))
        assert ours.encode(text, True) == oracle.encode(text), repr(text)


@given(st.text(alphabet="abhelotrin ▁é日", max_size=60))
def test_merges_as_the_definition_says(text: str) -> None:
    normal = {t: s for t, s, kind in zip(sv.TOKENS, sv.SCORES, sv.TYPES, strict=True) if kind == v.NORMAL}
    spm = Spm(list(normal), list(normal.values()), [], unk_id=0, add_space_prefix=False)
    ids = {token: i for i, token in enumerate(normal)}
    wanted = [ids.get(symbol, -1) for symbol in sv.merge_one_by_one(text.replace(" ", "▁"), normal)]
    assert spm.encode(text, True) == wanted


# ---- spaces --------------------------------------------------------------------------------------


def test_a_space_goes_before_a_text_and_after_special_tokens() -> None:
    the, bos, a, think = sv.ID["▁the"], sv.ID["<s>"], sv.ID["▁a"], sv.ID["<think>"]
    assert TINY.encode("the", True) == [the]
    assert TINY.encode(" the", True) == [sv.ID["▁"], the]
    assert TINY.encode("the<s>a<think>a", True) == [the, bos, a, think, a]
    assert PLAIN.encode("the<s>a", True) == [sv.ID["t"], sv.ID["he"], bos, sv.ID["a"]]
    assert TINY.encode("", True) == PLAIN.encode("", True) == []
    assert TINY.encode("<s>", True) == [bos]


def test_the_first_space_goes_when_a_text_is_decoded(tiny: Open) -> None:
    t = tiny()
    hello, a, bos = sv.ID["▁hello"], sv.ID["▁a"], sv.ID["<s>"]
    assert t.decode([hello, a]) == "hello a"
    assert t.decode([hello, a], continues=True) == " hello a"
    assert t.decode([bos, hello, a]) == "hello a"
    assert t.decode([bos, hello], skip_special=False) == "<s> hello"
    assert t.decode([sv.ID["▁▁"], a]) == "  a"
    assert t.decode([sv.ID["  "], hello]) == "   hello"  # a user-defined token stands for itself
    assert tiny({"tokenizer.ggml.add_space_prefix": False}).decode([hello, a]) == " hello a"


@given(st.text(alphabet=st.characters(exclude_characters="▁", exclude_categories=["Cs"])))
def test_text_survives(text: str) -> None:
    for spm in (TINY, PLAIN):
        tokenizer = Tokenizer(spm, SpecialIds())
        ids = tokenizer.encode(text, False, parse_special=False)
        rest = text if spm is PLAIN else _spaced(spm, text)
        assert tokenizer.decode(ids, skip_special=False) == rest


def _spaced(spm: Spm, text: str) -> str:
    """`text` with the space that follows each user-defined token."""
    out, ids, special = "", [], False
    for id in (*spm.encode(text, False), None):
        if id is not None and spm.token_type(id) != v.USER_DEFINED:
            ids.append(id)
            continue
        if ids:
            out += spm.decode(ids, False, not special and not out).decode()
        if id is not None:
            out, special = out + spm.token_bytes(id).decode(), True
        ids = []
    return out


def test_bytes_of_tokens() -> None:
    assert TINY.vocab_size == len(sv.TOKENS)
    assert TINY.token_bytes(sv.ID["▁hello"]) == b" hello"
    assert TINY.token_bytes(sv.ID["<0x0A>"]) == b"\n"
    assert TINY.token_bytes(sv.ID["<s>"]) == b"<s>"
    assert TINY.find("▁▁") == sv.ID["▁▁"]
    assert TINY.find("nothing like it") is None
    for id in (-1, len(sv.TOKENS), 2**31):
        with pytest.raises(
            ValueError, match=rf"token id {id} is out of range, vocab_size is {len(sv.TOKENS)}"
        ):
            TINY.token_bytes(id)
    with pytest.raises(ValueError, match="out of range"):
        TINY.decode([2**70], True)


# ---- special tokens ------------------------------------------------------------------------------


def test_special_tokens_of_phi3_take_the_whitespace_after_them(tiny: Open) -> None:
    im, bos, the = sv.ID["<|im|>"], sv.ID["<s>"], sv.ID["▁the"]
    t = tiny({"general.architecture": "phi3"})
    assert t.encode("<|im|> \n\t the<|im|>\n", add_special=False) == [im, the, im]
    assert t.encode("<s>\n", add_special=False) == [bos, sv.ID["\n"]]
    assert t.encode("<|im|>\u3000", add_special=False) == TINY.encode("<|im|>\u3000", True)
    assert tiny().encode("<|im|>\n", add_special=False) == [im, sv.ID["\n"]]


def test_no_text_spells_a_control_byte_or_unused_token() -> None:
    ids = PLAIN.encode("<s><0x41>[PAD]<unk>", False)
    assert {PLAIN.token_type(id) for id in ids} <= {v.NORMAL, v.BYTE}
    assert PLAIN.decode(ids, True) == b"<s><0x41>[PAD]<unk>"
    assert PLAIN.encode("<unk><s>[PAD]", True)[:2] == [sv.ID["<unk>"], sv.ID["<s>"]]


def test_zeros_of_either_sign_are_equal_scores() -> None:
    spm = Spm(["a", "b", "ab", "bb"], [0.0, 0.0, -0.0, 0.0], [], add_space_prefix=False)
    assert spm.encode("abb", True) == [2, 1]


def test_unknown_characters() -> None:
    tokens, types = ["<unk>", "a", "<0xC3>"], [v.UNKNOWN, v.NORMAL, v.BYTE]
    spm = Spm(tokens, [0.0] * 3, types, unk_id=0, add_space_prefix=False)
    assert spm.encode("aéxa", True) == [1, 0, 1]  # one for a run
    with pytest.raises(ValueError, match="'x' has no token in this vocabulary"):
        Spm(["a"], [0.0], [], add_space_prefix=False).encode("ax", True)


def test_byte_tokens_are_known_by_their_names_in_a_file_without_types() -> None:
    spm = Spm(["a", "<0x78>"], [0.0, 0.0], [], add_space_prefix=False)
    assert spm.encode("ax", True) == [0, 1]
    assert spm.decode([1], True) == b"x"


def test_defaults_of_a_file(tiny: Open) -> None:
    t = tiny()
    assert (t.bos_id, t.eos_id, t.unk_id, t.pad_id, t.add_bos, t.add_eos) == (1, 2, 0, None, True, False)
    assert t.encode("the") == [1, sv.ID["▁the"]]
    assert t.encode("<s>the") == [1, sv.ID["▁the"]]
    assert t.eos_ids == {2}
    other = tiny({"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.eos_token_id": sv.ID["<|im|>"]})
    assert other.encode("the") == [sv.ID["▁the"]]
    assert other.eos_ids == {sv.ID["</s>"], sv.ID["<|im|>"]}


def test_gemma(gemma: Tokenizer) -> None:
    assert gemma.encode("a<end_of_turn>\n\n\nb")[1:] == [gemma.encode("a")[1], 106, 109, gemma.encode("b")[1]]
    assert gemma.eos_ids >= {1, 106}
    assert gemma.vocab_size == 262144
    stream, text = gemma.stream(), "naïve 深度学习 👨\u200d👩\u200d👧 नमस्ते  \n\n" * 3
    assert "".join(map(stream.push, gemma.encode(text))) + stream.flush() == text


@given(st.lists(st.integers(0, len(sv.TOKENS) - 1), max_size=30), st.booleans(), st.booleans())
def test_stream_equals_decode_for_every_prefix(ids: list[int], skip_special: bool, continues: bool) -> None:
    tokenizer = Tokenizer(TINY, SpecialIds())
    for n in range(len(ids) + 1):
        stream = tokenizer.stream(skip_special, continues)
        text = "".join(map(stream.push, ids[:n])) + stream.flush()
        assert text == tokenizer.decode(ids[:n], skip_special, continues)


# ---- bad files -----------------------------------------------------------------------------------

_SAME = [*sv.TOKENS[:-1], "hello"]
REFUSED = {
    "no_scores": ({"tokenizer.ggml.scores": None}, ModelFileError, "tokenizer.ggml.scores"),
    "few_scores": (
        {"tokenizer.ggml.scores": np.zeros(3, np.float32)},
        ModelFileError,
        "scores has 3 elements",
    ),
    "scores_kind": (
        {"tokenizer.ggml.scores": np.zeros(3, np.int32)},
        ModelFileError,
        "tokenizer.ggml.scores",
    ),
    "nan": (
        {"tokenizer.ggml.scores": np.full(len(sv.TOKENS), np.nan, np.float32)},
        ModelFileError,
        r"scores\[0\] is not a number",
    ),
    "few_types": (
        {"tokenizer.ggml.token_type": np.ones(3, np.int32)},
        ModelFileError,
        "token_type has 3 elements",
    ),
    "type_9": (
        {"tokenizer.ggml.token_type": np.full(len(sv.TOKENS), 9, np.int32)},
        ModelFileError,
        r"token_type\[0\] is 9, 1 to 6 were wanted",
    ),
    "byte_token": (
        {"tokenizer.ggml.token_type": np.full(len(sv.TOKENS), v.BYTE, np.int32)},
        ModelFileError,
        "tokens.*a byte token was wanted",
    ),
    "same_text": ({"tokenizer.ggml.tokens": _SAME}, ModelFileError, "has the same text as token"),
    "unk_range": ({"tokenizer.ggml.unknown_token_id": 9999}, ModelFileError, "unknown_token_id is 9999"),
    "prefix_kind": ({"tokenizer.ggml.add_space_prefix": 1}, ModelFileError, "is 1, a bool was wanted"),
    "charsmap": (
        {"tokenizer.ggml.precompiled_charsmap": np.zeros(4, np.uint8)},
        UnsupportedModelError,
        "tokenizer.ggml.precompiled_charsmap is there",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_files_are_refused_by_name(tiny: Open, case: str) -> None:
    changes, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        tiny(changes)


@pytest.mark.parametrize("seed", range(5))
def test_damaged_files_are_refused_or_read(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "m.gguf"
    for data in w.mutants(w.gguf_bytes(sv.METADATA, {}), 60, seed):
        path.write_bytes(data)
        try:
            spm = Spm(GgufFile(str(path)), unk_id=0)
        except (ModelFileError, UnsupportedModelError):
            continue
        ids = spm.encode("the hello <s>\U0001f600", True)
        assert all(0 <= id < spm.vocab_size for id in ids)
        spm.decode(range(spm.vocab_size), False)


# ---- time and threads ----------------------------------------------------------------------------


def test_a_large_vocabulary_opens_at_once(gemma_file: GgufFile) -> None:
    """262144 tokens in 150 ms of one core, too little for an object of Python each: it takes 13 to 30."""
    times = []
    for _ in range(5):
        start = time.thread_time()
        Tokenizer.from_gguf(gemma_file)
        times.append(time.thread_time() - start)
    assert min(times) < 0.15


@pytest.mark.parametrize(
    "text", ["a" * 2**20, " " * 2**20, "ab" * 2**19, "é" * 2**19, "<|im|" * 2**17, "\n" * 2**20]
)
def test_hostile_megabyte(text: str) -> None:
    start = time.perf_counter()
    assert PLAIN.decode(PLAIN.encode(text, True), False).decode() == text
    assert time.perf_counter() - start < 10  # quadratic would take minutes


def test_tokens_outlive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(w.gguf_bytes(sv.METADATA, {}))
    spm = Spm(GgufFile(str(path)), unk_id=0)
    path.unlink()
    assert spm.encode("hello the<s>", True) == TINY.encode("hello the<s>", True)


def test_many_threads_encode_alike() -> None:
    rng = random.Random(4)
    texts = [sv.random_text(rng) for _ in range(500)]
    wanted, results = [TINY.encode(text, True) for text in texts], []
    threads = [
        threading.Thread(target=lambda: results.append([TINY.encode(text, True) for text in texts]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [wanted] * 4
