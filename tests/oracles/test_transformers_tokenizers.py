"""Tokenizers of folders against transformers' own: ids, text, chats."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import folders as f
import spm_vocabulary as sv
import vocabulary as v
from conftest import model_path
from lanner.tokenizer_files import open_tokenizer

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

BOS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": f.TEMPLATE}
FOLDERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "byte level": (f.byte_level, BOS),
    "byte level, bos": (lambda: f.with_bos(f.byte_level(), "<|im_start|>"), BOS),
    "byte fallback": (
        lambda: f.with_bos(f.byte_fallback(), "<s>"),
        {"bos_token": "<s>", "eos_token": "</s>"},
    ),
    "byte fallback, no prefix": (lambda: f.byte_fallback(False), {"bos_token": "<s>", "eos_token": "</s>"}),
    "word piece": (f.word_piece, {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}),
    "unigram": (f.unigram, {"eos_token": "</s>", "pad_token": "<pad>"}),
}


def texts(n: int) -> list[str]:
    rng = random.Random(1)
    return (
        [v.random_text(rng) for _ in range(n)]
        + [sv.random_text(rng) for _ in range(n)]
        + ["", " ", "hello the"]
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(tmp_path: Path, name: str) -> None:
    make, config = FOLDERS[name]
    f.write(
        tmp_path,
        tokenizer=make().to_str(),
        tokenizer_config=config | {"tokenizer_class": "PreTrainedTokenizerFast"},
    )
    ours, oracle = open_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    oracle.backend_tokenizer.no_truncation()  # what only training and batches of a fixed shape want
    oracle.backend_tokenizer.no_padding()
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (
        oracle.bos_token_id,
        oracle.eos_token_id,
        oracle.pad_token_id,
    )
    for text in texts(300):
        ids = oracle.encode(text, truncation=False, padding=False)
        if ours.add_bos and ids[:2] == [ours.bos_id] * 2:
            del ids[0]  # a text that begins with bos gets no second one here
        assert ours.encode(text) == ids, repr(text)
        bare = oracle.encode(text, add_special_tokens=False, truncation=False, padding=False)
        assert ours.encode(text, add_special=False) == bare
        for skip in (True, False):
            wanted = oracle.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip) == wanted, repr(text)
    if "chat_template" in config:
        chat = [{"role": "user", "content": "hello"}]
        wanted = oracle.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        assert ours.apply_chat_template(chat) == wanted
        assert ours.encode_chat(chat) == oracle.encode(wanted, add_special_tokens=False)


def test_minilm() -> None:
    path = model_path("minilm")
    ours, oracle = open_tokenizer(path), transformers.AutoTokenizer.from_pretrained(path)
    for text in texts(300):
        ids = oracle.encode(text, truncation=False, padding=False)
        assert ours.encode(text) == ids, repr(text)
        wanted = oracle.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids) == wanted


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marian(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    f.marian_folder(tmp_path)
    ours, oracle = open_tokenizer(tmp_path), transformers.MarianTokenizer.from_pretrained(tmp_path)
    for text in (*texts(200), ">>fra<< hello", ">>deu<<hello", "the </s> a<pad>"):
        ids = oracle.encode(text)
        assert ours.encode(text) == ids, repr(text)
        assert ours.decode(ids).strip() == oracle.decode(ids, skip_special_tokens=True).strip()


def test_t5(tmp_path: Path) -> None:
    """transformers builds its own tokenizer from the SentencePiece model."""
    pytest.importorskip("sentencepiece")
    f.t5_folder(tmp_path, tokenizer_config={"extra_ids": 4, "tokenizer_class": "T5Tokenizer"})
    ours, oracle = open_tokenizer(tmp_path), transformers.T5Tokenizer.from_pretrained(tmp_path, extra_ids=4)
    rng = random.Random(2)
    for _ in range(500):
        text = "".join(
            rng.choice(("hello", " ", "the", "a", "é", "t", "q", "<extra_id_0>", "</s>")) for _ in range(12)
        )
        ids = oracle.encode(text)
        assert ours.encode(text) == ids, repr(text)
        assert ours.decode(ids).strip() == oracle.decode(ids, skip_special_tokens=True).strip()
