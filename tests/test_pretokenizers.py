"""Each pre-tokenizer cuts text as the published definition does in the package `tokenizers`."""

from __future__ import annotations

import random
from typing import Any

import pytest
import regex

import vocabulary as v
from lanner._core import UnsupportedModelError
from lanner.pretokenizers import PRE_TOKENIZERS, PreTokenizer, pre_tokenizer

# As the tokenizer.json of the models has them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")


def published(name: str) -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    p = tokenizers.pre_tokenizers

    def splits(*patterns: str) -> Any:
        return p.Sequence([p.Split(tokenizers.Regex(pattern), "isolated") for pattern in patterns])

    gpt2 = p.ByteLevel(add_prefix_space=False)
    return {
        "gpt-2": lambda: gpt2,
        "smollm": lambda: p.Sequence([p.Digits(individual_digits=True), gpt2]),
        "command-r": lambda: p.Sequence([p.Digits(individual_digits=True), gpt2]),
        "llama-bpe": lambda: splits(LLAMA3),
        "qwen2": lambda: splits(QWEN2),
        "qwen35": lambda: splits(QWEN35),
        "tekken": lambda: splits(TEKKEN),
        "gpt-4o": lambda: splits(GPT4O),
        "deepseek-v3": lambda: splits(*DEEPSEEK3),
        "deepseek-coder": lambda: splits(*DEEPSEEK_CODER),
    }[name]()


NAMES = [
    "gpt-2",
    "smollm",
    "command-r",
    "llama-bpe",
    "qwen2",
    "qwen35",
    "tekken",
    "gpt-4o",
    "deepseek-v3",
    "deepseek-coder",
]


@pytest.mark.parametrize("name", NAMES)
def test_pieces_equal_tokenizers(name: str) -> None:
    oracle, ours = published(name), PreTokenizer(PRE_TOKENIZERS[name].patterns)
    rng = random.Random(name)
    for _ in range(600):
        text = v.random_text(rng)
        wanted = [text[begin:end] for _, (begin, end) in oracle.pre_tokenize_str(text)]
        assert ours.split(text) == wanted, repr(text)


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))
def test_ascii_is_cut_as_all_text_is(name: str) -> None:
    """Texts without other characters take `re` and sets of ASCII in the place of `regex` and its classes."""
    patterns = PRE_TOKENIZERS[name].patterns
    ours, rng = PreTokenizer(patterns), random.Random(name)
    several = [regex.compile(f"({pattern})") for pattern in patterns]
    characters = "".join(map(chr, range(128))) + "abcABC  \n\r 123'sdtmlvre'SDTMLVRE" * 3
    for _ in range(600):
        text = "".join(rng.choice(characters) for _ in range(rng.randrange(80)))
        wanted = [text]
        for stage in several:
            wanted = [part for piece in wanted for part in stage.split(piece) if part]
        assert ours.split(text) == wanted, repr(text)


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))
def test_no_character_is_lost(name: str) -> None:
    ours = PreTokenizer(pre_tokenizer(name).patterns)
    every = "".join(map(chr, v.assigned()))
    assert "".join(ours.split(every)) == every
    assert all("".join(ours.split(c)) == c for c in every[:0x3000])
    assert ours.split("") == []


@pytest.mark.parametrize(("name", "pieces"), [("qwen2", ["caf\u00e9"]), ("smollm", ["cafe", "\u0301"])])
def test_normalization(name: str, pieces: list[str]) -> None:
    assert pre_tokenizer(name).split("cafe\u0301") == pieces


ALIKE = {
    "gpt-2": ("phi-2", "olmo", "mpt"),
    "smollm": ("starcoder", "refact", "codeshell", "command-r"),
    "llama-bpe": ("llama3", "dbrx", "smaug-bpe", "chatglm-bpe"),
    "qwen2": ("deepseek-r1-qwen", "stablelm2"),
}


@pytest.mark.parametrize("name", ALIKE)
def test_models_that_cut_text_alike(name: str) -> None:
    """OLMo 2 and Phi 4 are "dbrx", Granite is "refact", StarCoder 2 "starcoder", Pythia "olmo"."""
    assert {pre_tokenizer(alike).patterns for alike in ALIKE[name]} == {pre_tokenizer(name).patterns}


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.ggml\.pre is 'zorblax', known are .*smollm"):
        pre_tokenizer("zorblax")
