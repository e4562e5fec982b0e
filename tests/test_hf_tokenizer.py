"""Tokenizers of folders: ids of the same model's GGUF vocabulary, special tokens, templates, bad files."""

from __future__ import annotations

import json
import random
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import folders as f
import spm_vocabulary as sv
import vocabulary as v
from lanner._core import Bpe, GgufFile, ModelFileError, Spm, UnsupportedModelError
from lanner.pretokenizers import pre_tokenizer
from lanner.tokenizer import SpecialIds, Tokenizer
from lanner.tokenizer_files import open_tokenizer
from lanner.tokenizer_gguf import ByteLevel

BYTE_LEVEL = Tokenizer(
    ByteLevel(Bpe(v.TOKENS, v.TOKEN_TYPES, v.MERGE_TEXTS), pre_tokenizer("gpt-2")), SpecialIds()
)
CHAT = [{"role": "user", "content": "hello"}]

pytest.importorskip("tokenizers")


def opened(folder: Path, tokenizer: Any, **files: Any) -> Tokenizer:
    return open_tokenizer(f.write(folder, tokenizer=tokenizer.to_str(), **files))


def streamed(tokenizer: Tokenizer, ids: list[int], *arguments: bool) -> str:
    """Half by one decoder, half by another that goes on while the first gets other ids."""
    first, n = tokenizer.stream(*arguments), len(ids) // 2
    text = "".join(map(first.push, ids[:n]))
    second = first.fork()
    first.push(ids[0] if ids else 0)
    return text + "".join(map(second.push, ids[n:])) + second.flush()


# ---- text to ids and back ------------------------------------------------------------------------


def test_byte_level_equals_gguf(tmp_path: Path) -> None:
    t = opened(tmp_path, f.byte_level())
    rng = random.Random(1)
    for _ in range(400):
        text = v.random_text(rng)
        for parse in (True, False):
            ids = BYTE_LEVEL.encode(text, parse_special=parse)
            assert t.encode(text, parse_special=parse) == ids, repr(text)
            assert t.decode(ids, skip_special=False) == text
        shuffled = rng.choices(range(len(v.TOKENS) - 1), k=30)
        for skip in (True, False):
            assert (
                t.decode(shuffled, skip) == BYTE_LEVEL.decode(shuffled, skip) == streamed(t, shuffled, skip)
            )
    for id in range(len(v.TOKENS) - 1):
        assert t.token_bytes(id) == BYTE_LEVEL.token_bytes(id)


@pytest.mark.parametrize("prefix", [True, False])
def test_byte_fallback_equals_gguf(tmp_path: Path, prefix: bool) -> None:
    t = opened(tmp_path, f.byte_fallback(prefix))
    tokens, scores, types = f.spm_scores()
    gguf = Tokenizer(Spm(tokens, scores, types, unk_id=0, add_space_prefix=prefix), SpecialIds())
    rng = random.Random(2)
    for _ in range(400):
        text = sv.random_text(rng)
        for special in ("  ", "\n", "<think>in", "<think>", "▁"):  # a prefix follows these in llama.cpp alone
            text = text.replace(special, "a" if prefix else special)
        ids = gguf.encode(text, parse_special=False)
        assert t.encode(text, parse_special=False) == ids, repr(text)
        assert t.decode(ids) == gguf.decode(ids)
        shuffled = rng.choices(range(len(tokens)), k=20)
        for arguments in ((True, False), (False, False), (True, True)):
            assert t.decode(shuffled, *arguments) == streamed(t, shuffled, *arguments)
    assert [t.token_bytes(i) for i in range(len(tokens))] == [gguf.token_bytes(i) for i in range(len(tokens))]


def test_word_piece(tmp_path: Path) -> None:
    t = opened(tmp_path, f.word_piece())
    ids = t.encode("Hello unaffable, don't.")
    assert [f.WORDS[i] for i in ids] == [
        "[CLS]", "hello", "un", "##aff", "##able", "[UNK]", "don", "'", "t", ".", "[SEP]",
    ]  # fmt: skip
    assert t.encode("a[SEP]", add_special=False) == [12, 3]
    assert 3 not in t.encode("a[SEP]", add_special=False, parse_special=False)
    assert t.decode(ids) == "hello unaffable don ' t."
    assert streamed(t, ids) == t.decode(ids)
    assert t.decode(ids, skip_special=False).startswith("[CLS] hello")
    assert t.token_bytes(2) == b"[CLS]"
    with pytest.raises(UnsupportedModelError, match=r"token 6 \('##aff'\) is part of a word"):
        t.token_bytes(6)
    assert len(t.encode("a " * 99)) == 101  # the file's truncation and padding are not ours
    assert len(t.encode("a")) == 3


def test_unigram(tmp_path: Path) -> None:
    t = opened(tmp_path, f.unigram(), tokenizer_config={"eos_token": "</s>", "pad_token": "<pad>"})
    ids = t.encode("hello the a")
    assert ids == [4, 5, 13, 1]
    assert t.decode(ids) == "hello the a" == streamed(t, ids)
    assert t.decode(ids, continues=True) == " hello the a" == streamed(t, ids, True, True)
    assert t.token_bytes(5) == b" the"
    assert (t.bos_id, t.eos_id, t.pad_id, t.add_bos, t.add_eos) == (None, 1, 0, False, True)


def test_ids_out_of_range(tmp_path: Path) -> None:
    t = opened(tmp_path, f.byte_level(), config={"vocab_size": 300})
    assert t.vocab_size == 300
    assert t.decode([97, 299, 98]) == "ab"  # a row of the embedding that has no token
    assert t.token_bytes(299) == b""
    for id in (-1, 300, 2**40):
        with pytest.raises(ValueError, match=f"token id {id} is out of range, vocab_size is 300"):
            t.decode([97, id])
    with pytest.raises(TypeError):
        t.decode([1.5])  # type: ignore[list-item]
    assert t.decode(np.array([97], np.int32)) == "a"


def test_lone_surrogate_is_refused(tmp_path: Path) -> None:
    t = opened(tmp_path, f.byte_level())
    for add_special in (True, False):
        with pytest.raises(ValueError, match=r"lone surrogate, '\\ud800'"):
            t.encode("a\ud800b", add_special)


def test_many_threads_encode_alike(tmp_path: Path) -> None:
    t = opened(tmp_path, f.byte_fallback())
    wanted, results = [t.encode("hello <s> the", True, False)] * 50, []
    threads = [
        threading.Thread(
            target=lambda: results.append([t.encode("hello <s> the", True, False) for _ in range(50)])
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [wanted] * 4


# ---- special tokens ------------------------------------------------------------------------------


def test_bos_and_eos_are_those_of_the_post_processor(tmp_path: Path) -> None:
    names = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "add_bos_token": True}
    bos, eos = v.ID["<|im_start|>"], v.ID["<|im_end|>"]
    plain = opened(tmp_path, f.byte_level(), tokenizer_config=names)
    assert plain.encode("a") == [97]
    assert (plain.bos_id, plain.eos_id, plain.add_bos, plain.add_eos) == (bos, eos, False, False)
    t = opened(tmp_path, f.with_bos(f.byte_level(), "<|im_start|>"), tokenizer_config=names)
    assert (t.add_bos, t.add_eos) == (True, False)
    assert t.encode("a") == [bos, 97]
    assert t.encode("<|im_start|>a") == [bos, 97]  # a rendered template brings its own
    assert t.encode("<|im_start|><|im_start|>a") == [bos, bos, 97]
    assert t.encode("a", add_special=False) == [97]
    assert t.encode("") == [bos]
    both = opened(
        tmp_path, f.with_bos(f.byte_level(), "<|im_start|>", eos="<|im_end|>"), tokenizer_config=names
    )
    assert both.encode("a") == [bos, 97, eos]
    assert both.add_eos


def test_special_tokens_of_the_old_file(tmp_path: Path) -> None:
    t = opened(
        tmp_path,
        f.byte_level(),
        tokenizer_config={"eos_token": None},
        special_tokens_map={
            "eos_token": "<|im_end|>",
            "unk_token": {"content": "<unk>"},
            "pad_token": "absent",
        },
    )
    assert (t.eos_id, t.unk_id, t.pad_id) == (v.ID["<|im_end|>"], v.ID["<unk>"], None)


def test_ends_of_a_generation(tmp_path: Path) -> None:
    names = {v.ID["<|im_end|>"], v.ID["<|endoftext|>"]}
    assert opened(tmp_path, f.byte_level()).eos_ids == names
    f.write(tmp_path, config={"eos_token_id": 5})
    assert open_tokenizer(tmp_path).eos_ids == names | {5}
    f.write(tmp_path, generation_config={"eos_token_id": [6, 7]})
    assert open_tokenizer(tmp_path).eos_ids == names | {6, 7}


def test_tokens_that_only_the_configuration_adds(tmp_path: Path) -> None:
    n = f.byte_level().get_vocab_size()
    tokens = {str(n): {"content": "<new>", "special": True}, "97": {"content": "a"}}
    t = opened(tmp_path, f.byte_level(), tokenizer_config={"added_tokens_decoder": tokens})
    assert t.encode("a<new>") == [97, n]
    f.write(tmp_path, tokenizer_config={"added_tokens_decoder": {"999": {"content": "<new>"}}})
    with pytest.raises(ModelFileError, match=f"gives '<new>' the id 999, tokenizer.json {n}"):
        open_tokenizer(tmp_path)


# ---- chat templates ------------------------------------------------------------------------------


def test_chat_templates(tmp_path: Path) -> None:
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    tokenizer = f.with_bos(f.byte_level(), "<|im_start|>")
    t = opened(tmp_path, tokenizer, tokenizer_config=names)
    with pytest.raises(ValueError, match="no chat template"):
        t.apply_chat_template(CHAT)
    f.write(tmp_path, tokenizer_config=names | {"chat_template": f.TEMPLATE})
    t = open_tokenizer(tmp_path)
    assert t.apply_chat_template(CHAT) == "<|im_start|>user: hello<|im_end|>"
    ids = t.encode_chat(CHAT)
    assert ids == t.encode(t.apply_chat_template(CHAT))
    assert ids.count(t.bos_id) == 1
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    f.write(tmp_path, tokenizer_config=names | {"chat_template": templates})
    t = open_tokenizer(tmp_path)
    assert t.apply_chat_template(CHAT) == "plain"
    assert t.apply_chat_template(CHAT, tools=[]) == "tools"
    f.write(tmp_path, chat_template={"chat_template": "old file"})
    assert open_tokenizer(tmp_path).apply_chat_template(CHAT) == "old file"
    (tmp_path / "chat_template.jinja").write_text("own file")
    assert open_tokenizer(tmp_path).apply_chat_template(CHAT) == "own file"


# ---- bad files -----------------------------------------------------------------------------------

BAD = {
    "json": ("tokenizer", b"{", r"tokenizer\.json: "),
    "utf8": ("tokenizer", b"\xff\xfe", r"tokenizer\.json: "),
    "no_model": ("tokenizer", {"version": "1.0"}, r"tokenizer\.json: "),
    "negative": (
        "tokenizer",
        {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
        r"tokenizer\.json: .*-1",
    ),
    "merge": (
        "tokenizer",
        {"added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}},
        r"tokenizer\.json: .*out of vocabulary",
    ),
    "config_json": ("tokenizer_config", b"{,}", r"tokenizer_config\.json: not valid JSON"),
    "config_utf8": ("tokenizer_config", b"\xff", r"tokenizer_config\.json: not UTF-8"),
    "config_deep": ("tokenizer_config", b"[" * 100_000, r"tokenizer_config\.json: not valid JSON"),
    "config_list": ("tokenizer_config", [1], r"tokenizer_config\.json: holds \[1\], an object was wanted"),
    "bos": (
        "tokenizer_config",
        {"bos_token": 3},
        r"tokenizer_config\.json: bos_token is 3, a str was wanted",
    ),
    "bos_content": ("tokenizer_config", {"bos_token": {"content": 3}}, r"bos_token\.content is 3"),
    "eos_map": ("special_tokens_map", {"eos_token": []}, r"special_tokens_map\.json: eos_token is \[\]"),
    "template": ("tokenizer_config", {"chat_template": 3}, r"tokenizer_config\.json: chat_template is 3"),
    "templates": (
        "tokenizer_config",
        {"chat_template": [{"name": 1}]},
        r"chat_template is \[\{'name': 1\}\]",
    ),
    "template_old": ("chat_template", {"chat_template": 3}, r"chat_template\.json: chat_template is 3"),
    "added": ("tokenizer_config", {"added_tokens_decoder": []}, "added_tokens_decoder is"),
    "added_id": (
        "tokenizer_config",
        {"added_tokens_decoder": {"x": {}}},
        r"decoder\.x: a token id was wanted",
    ),
    "added_entry": ("tokenizer_config", {"added_tokens_decoder": {"1": {}}}, r"decoder\.1 is \{\}"),
    "added_flag": (
        "tokenizer_config",
        {"added_tokens_decoder": {"1": {"content": "a", "special": 1}}},
        "special is 1, a bool was wanted",
    ),
    "eos_kind": ("generation_config", {"eos_token_id": "2"}, r"generation_config\.json: eos_token_id is '2'"),
    "eos_list": ("generation_config", {"eos_token_id": [1, -1]}, r"eos_token_id is \[1, -1\], token ids"),
    "vocab_size": ("config", {"vocab_size": "x"}, r"config\.json: vocab_size is 'x'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    name, value, message = BAD[case]
    f.write(tmp_path, tokenizer=f.byte_level().to_str())
    f.write(tmp_path, **{name: value})
    with pytest.raises(ModelFileError, match=message):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_config"])
def test_files_that_are_too_large_are_refused(tmp_path: Path, name: str) -> None:
    f.write(tmp_path, tokenizer=f.byte_level().to_str())
    with open(tmp_path / f"{name}.json", "wb") as out:
        out.truncate(2**29)  # a hole: it takes no room
    with pytest.raises(ModelFileError, match=rf"{name}\.json: has 536870912 bytes, at most"):
        open_tokenizer(tmp_path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f.write(tmp_path / "hf", tokenizer=f.byte_level().to_str())
    for name in ("tokenizers", "sentencepiece"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ImportError, match=r"tokenizers is missing, it comes with: pip install 'lanner\[hf\]'"
    ):
        open_tokenizer(tmp_path / "hf")
    with pytest.raises(ImportError, match=r"sentencepiece is missing.*lanner\[hf\]"):
        open_tokenizer(f.t5_folder(tmp_path / "t5"))


# ---- folders without tokenizer.json --------------------------------------------------------------


def test_t5(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    t = open_tokenizer(f.t5_folder(tmp_path))
    assert t.encode("hello  the é") == [4, 5, 3, 15, 1]
    assert t.decode([4, 5, 1]) == "hello the" == streamed(t, [4, 5, 1])
    assert t.decode([4, 5, 1], skip_special=False) == "hello the</s>"
    first, last = t.encode("<extra_id_0><extra_id_3>", add_special=False)
    assert (first, last, t.vocab_size) == (len(f.PIECES) + 3, len(f.PIECES), len(f.PIECES) + 4)
    assert t.encode("x<unk>", add_special=False) == [3, 2, 2]
    assert (t.bos_id, t.eos_id, t.pad_id, t.unk_id, t.add_eos, t.eos_ids) == (None, 1, 0, 2, True, {1})


def test_marian(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    t = open_tokenizer(f.marian_folder(tmp_path))
    ids = t.encode(">>fra<<hello the")
    assert ids == [f.MARIAN[p] for p in (">>fra<<", "▁hello", "▁the", "</s>")]
    assert t.encode(">>deu<< hello") == [f.MARIAN[p] for p in ("<unk>", "▁hello", "</s>")]
    assert t.decode(ids[1:]) == "hello the" == streamed(t, ids[1:])
    assert t.encode("q", add_special=False) == [f.MARIAN["▁"], f.MARIAN["<unk>"]]
    assert t.encode("a</s>", add_special=False) == [f.MARIAN["▁a"], f.MARIAN["</s>"]]
    assert f.MARIAN["</s>"] not in t.encode("a</s>", add_special=False, parse_special=False)
    assert (t.eos_id, t.unk_id, t.pad_id) == (0, 1, f.MARIAN["<pad>"])
    assert t.eos_ids == {0}
    with pytest.raises(ValueError, match="token id 99 is out of range"):
        t.decode([99])
    with pytest.raises(ValueError, match="lone surrogate"):
        t.encode("\ud800")


BAD_MARIAN = {
    "piece": (
        {"vocab": {"</s>": 0, "<unk>": "1"}},
        ModelFileError,
        r"vocab\.json: '<unk>' is '1', a token id",
    ),
    "same": ({"vocab": {"</s>": 0, "<unk>": 0}}, ModelFileError, r"vocab\.json: two pieces have the same id"),
    "no_unk": ({"vocab": {"</s>": 0}}, ModelFileError, r"vocab\.json: has no '<unk>'"),
    "no_eos": ({"vocab": {"<unk>": 0}}, ModelFileError, "has no '</s>'"),
    "list": ({"vocab": []}, ModelFileError, r"vocab\.json: holds \[\], an object was wanted"),
    "two": (
        {"tokenizer_config": {"separate_vocabs": True}},
        UnsupportedModelError,
        "separate_vocabs is true",
    ),
}


@pytest.mark.parametrize("case", BAD_MARIAN)
def test_bad_marian_folders_are_refused_by_name(tmp_path: Path, case: str) -> None:
    pytest.importorskip("sentencepiece")
    files, error, message = BAD_MARIAN[case]
    with pytest.raises(error, match=message):
        open_tokenizer(f.marian_folder(tmp_path, **files))


def test_bad_models_are_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    f.t5_folder(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"nothing like it")
    with pytest.raises(ModelFileError, match=r"spiece\.model: not a SentencePiece model"):
        open_tokenizer(tmp_path)
    f.t5_folder(tmp_path, tokenizer_config={"extra_ids": -1})
    with pytest.raises(ModelFileError, match="extra_ids is -1"):
        open_tokenizer(tmp_path)


# ---- choice --------------------------------------------------------------------------------------


def test_what_lies_there_is_opened(tmp_path: Path, smollm2_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no tokenizer: tokenizer\.json was wanted"):
        open_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_tokenizer(tmp_path / "absent")
    by_path, by_file = open_tokenizer(smollm2_path), open_tokenizer(GgufFile(str(smollm2_path)))
    assert by_path.encode("hello") == by_file.encode("hello")


def test_minilm() -> None:
    from conftest import model_path

    t = open_tokenizer(model_path("minilm"))
    assert t.encode("Hello world, unaffable!") == [101, 7592, 2088, 1010, 14477, 20961, 3468, 999, 102]
    assert t.vocab_size == 30522
    assert json.loads((model_path("minilm") / "config.json").read_text())["vocab_size"] == 30522
