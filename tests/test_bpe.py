"""The merge loop and the reader of vocabularies: right ids, clear refusals, no time lost on hostile input."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gguf_writer as w
import vocabulary as v
from lanner._core import Bpe, GgufFile, ModelFileError, UnsupportedModelError

SINGLE_BYTES = v.TOKENS[:256]


@pytest.fixture(scope="module")
def bpe() -> Bpe:
    return Bpe(v.TOKENS, v.TOKEN_TYPES, v.MERGE_TEXTS)


BPE = Bpe(v.TOKENS, v.TOKEN_TYPES, v.MERGE_TEXTS)


@given(st.text(alphabet="abhelor t12<|>imé😀", max_size=200))
def test_merges_as_the_definition_says(piece: str) -> None:
    ids = BPE.encode([piece])
    assert [BPE.token_bytes(id) for id in ids] == v.merge_one_by_one(piece.encode())
    assert BPE.encode([piece]) == ids  # the second time a piece that is a token is remembered


@pytest.mark.parametrize("n", [1, 2, 47, 48, 49, 50, 200])
def test_short_and_long_pieces_merge_alike(bpe: Bpe, n: int) -> None:
    rng = random.Random(n)
    for _ in range(20):
        piece = "".join(rng.choices("aab", k=n))
        assert [bpe.token_bytes(i) for i in bpe.encode([piece])] == v.merge_one_by_one(piece.encode())


def test_no_merge_crosses_a_piece(bpe: Bpe) -> None:
    assert bpe.encode(["h", "e", "", "he"]) == [v.ID["h"], v.ID["e"], v.ID["he"]]
    assert bpe.encode([]) == []


def test_token_that_no_merge_makes() -> None:
    tokens = [*SINGLE_BYTES, "abc"]
    assert Bpe(tokens, [], []).encode(["abc"]) == [97, 98, 99]
    assert Bpe(tokens, [], [], ignore_merges=True).encode(["abc"]) == [256]
    assert Bpe(tokens, [v.NORMAL] * 256 + [v.CONTROL], [], ignore_merges=True).encode(["abc"]) == [97, 98, 99]


def test_of_equal_merges_the_best_rank_counts() -> None:
    tokens = [*SINGLE_BYTES, "ab", "bc"]
    assert Bpe(tokens, [], ["a b", "b c", "a b"]).encode(["abc"]) == [256, 99]
    assert Bpe(tokens, [], ["b c", "a b", "b c"]).encode(["abc"]) == [97, 257]


def test_byte_without_a_token() -> None:
    tokens = [t for t in SINGLE_BYTES if t != "x"]
    assert Bpe([*tokens, "<unk>"], [], [], unk_id=255).encode(["axb"]) == [97, 255, 98]
    with pytest.raises(ValueError, match="byte 120 has no token"):
        Bpe(tokens, [], []).encode(["axb"])
    assert Bpe([*tokens, "<0x78>"], [v.NORMAL] * 255 + [v.BYTE], []).encode(["axb"]) == [97, 255, 98]


def test_bytes_of_tokens(bpe: Bpe) -> None:
    assert bpe.vocab_size == len(v.TOKENS)
    assert [bpe.token_bytes(i) for i in range(256)] == [bytes([b]) for b in range(256)]
    assert bpe.token_bytes(v.ID["日本"]) == "日本".encode()
    assert bpe.token_bytes(v.ID["Ã©"]) == "é".encode()
    assert bpe.find("<|im_end|>") == v.ID["<|im_end|>"]
    assert bpe.find("    ") == v.ID["    "]
    assert bpe.find("nothing like it") is None
    assert bpe.token_type(v.ID["<think>"]) == v.USER_DEFINED
    tokens = ["日本", "", "a b"]  # no spelling: the text itself, as Hugging Face decodes it
    assert [Bpe(tokens, [], []).token_bytes(i) for i in range(3)] == ["日本".encode(), b"", b"a b"]


def test_special_token_that_is_also_a_spelling() -> None:
    """DeepSeek's vocabularies hold bytes without a normal token as user-defined ones."""
    tokens = [t if b != 0xF5 else "<none>" for b, t in enumerate(SINGLE_BYTES)] + ["õ"]
    bpe = Bpe(tokens, [v.NORMAL] * 256 + [v.USER_DEFINED], [])
    assert bpe.split("aõ", False) == ["a", 256]
    assert bpe.token_bytes(256) == "õ".encode()
    assert bpe.find("õ") == 256


@pytest.mark.parametrize("id", [-1, len(v.TOKENS), 2**31, 2**63, -(2**70)])
def test_id_out_of_range(bpe: Bpe, id: int) -> None:
    message = rf"token id {id} is out of range, vocab_size is {len(v.TOKENS)}"
    with pytest.raises(ValueError, match=message):
        bpe.decode([1, id], True)
    if abs(id) < 2**63:
        with pytest.raises(ValueError, match=message):
            bpe.token_bytes(id)


def test_special_tokens_are_split_leftmost_longest(bpe: Bpe) -> None:
    split = bpe.split("a<think>deeper<|im_end|><think>", True)
    assert split == ["a", v.ID["<think>deep"], "er", v.ID["<|im_end|>"], v.ID["<think>"]]
    assert bpe.split("<<|im_end|>é 日本", False) == ["<<|im_end|>é ", v.ID["日本"]]
    assert bpe.split("      ", True) == [v.ID["    "], "  "]
    assert bpe.split("<unk>", True) == [v.ID["<unk>"]]
    assert bpe.split("[PAD1]<|im_", True) == ["[PAD1]<|im_"]
    assert bpe.split("", True) == []


def test_control_names_override_the_type() -> None:
    types = [v.NORMAL] * len(v.TOKENS)
    assert Bpe(v.TOKENS, types, []).split("a<|im_end|>", True) == ["a<|im_end|>"]
    named = Bpe(v.TOKENS, types, [], control_names=["<|im_end|>", "<|absent|>"])
    assert named.split("a<|im_end|>", True) == ["a", v.ID["<|im_end|>"]]


BROKEN = {
    "first_half": (["zq t"], {}, r"merges\[0\] is 'zq t': the first half is not a token"),
    "second_half": (["t h", "t zq"], {}, r"merges\[0\] is 't h': the result is not a token"),
    "no_space": (["th"], {}, r"merges\[0\] is 'th': two tokens with a space"),
    "empty": ([""], {}, r"merges\[0\] is '': two tokens with a space"),
    "empty_half": (["a "], {}, r"merges\[0\] is 'a ': two tokens with a space"),
    "three_parts": (["a a a"], {}, r"the second half is not a token"),
    "no_spelling": (["日 a"], {}, r"two tokens with a space"),
    "not_utf8": ([b"\xff\xfe a"], {}, r"merges\[0\] is '\\xff\\xfe a'"),
    "duplicate": ([], {"tokens": [*v.TOKENS, "a"]}, r"tokens\[285\] has the same text as token 97"),
    "same_special": (
        [],
        {"tokens": ["a b", "a b"], "token_types": [3, 4]},
        "tokens 0 and 1 have the same text",
    ),
    "types": ([], {"token_types": [1, 1]}, "token_type has 2 elements, tokenizer.ggml.tokens has 285"),
    "type_9": ([], {"tokens": ["a"], "token_types": [9]}, r"token_type\[0\] is 9, 1 to 6 were wanted"),
    "byte_token": ([], {"tokens": ["<0xZZ>"], "token_types": [6]}, "'<0xZZ>', a byte token was wanted"),
    "special_bytes": ([], {"tokens": [b"\xc3("], "token_types": [3]}, "which is not UTF-8"),
    "long_special": ([], {"tokens": ["x" * 1025], "token_types": [3]}, "has 1025 bytes, at most 1024"),
    "no_tokens": ([], {"tokens": []}, "has 0 tokens"),
    "unk": ([], {"unk_id": 285}, "unknown_token_id is 285, vocab_size is 285"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_vocabulary_is_refused(case: str) -> None:
    merges, changes, message = BROKEN[case]
    arguments = {"tokens": v.TOKENS, "token_types": [], "merges": merges} | changes
    with pytest.raises(ModelFileError, match=message):
        Bpe(**arguments)


def colliding_tokens(n: int) -> list[bytes]:
    """Strings of eight bytes that all start at slot 0: the hash of csrc/text/probe_table.h run backwards."""
    mask, k = 2**64 - 1, 0x9E3779B97F4A7C15
    inverse = pow(k, -1, 2**64)
    tokens = []
    for final in range(1, n + 1):
        mixed = final * inverse & mask
        state = (mixed ^ mixed >> 32) * inverse & mask
        rotated = (state >> 31 | state << 33) & mask
        tokens.append(((rotated * inverse & mask) ^ (8 * k & mask)).to_bytes(8, "little"))
    return tokens


def test_tokens_that_collide_cost_no_quadratic_time() -> None:
    few, many = ([v.spell(t) for t in colliding_tokens(n)] for n in (1000, 200_000))
    assert Bpe(few, [], []).find(few[-1]) == 999
    start = time.perf_counter()
    with pytest.raises(ModelFileError, match="chosen to collide"):
        Bpe(many, [], [])
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("seed", range(5))
def test_damaged_files_are_refused_or_read(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "m.gguf"
    for data in w.mutants(w.gguf_bytes(v.METADATA, {}), 60, seed):
        path.write_bytes(data)
        try:
            bpe = Bpe(GgufFile(str(path)), unk_id=0)
        except (ModelFileError, UnsupportedModelError):
            continue
        ids = bpe.encode(["the hello", "\U0001f600"])
        assert all(0 <= id < bpe.vocab_size for id in ids)
        bpe.decode(range(bpe.vocab_size), False)


@pytest.mark.parametrize(
    "piece", ["a" * 2**20, "ab" * 2**19, "é" * 2**19, " " * 2**20, "<|im_start|" * 2**16], ids=lambda p: p[:3]
)
def test_hostile_megabyte(bpe: Bpe, piece: str) -> None:
    start = time.perf_counter()
    assert bpe.split(piece.strip() or "a", True)
    ids = bpe.encode([piece])
    assert bpe.decode(ids, False).decode() == piece
    assert time.perf_counter() - start < 5  # quadratic would take minutes


def test_many_threads_encode_alike(bpe: Bpe) -> None:
    rng = random.Random(3)
    pieces = ["".join(rng.choices("abhelor t", k=rng.randrange(1, 90))) for _ in range(2000)]
    wanted = bpe.encode(pieces)
    fresh, results = Bpe(v.TOKENS, v.TOKEN_TYPES, v.MERGE_TEXTS), []
    threads = [threading.Thread(target=lambda: results.append(fresh.encode(pieces))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [wanted] * 4
